"""The scripted server as the real clients see it."""

from __future__ import annotations

import asyncio
import base64
import doctest
import http.client
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

import shearpin.testing.clock
import shearpin.testing.script
import shearpin.testing.server
from shearpin.testing import (
    Reply,
    Request,
    Script,
    ScriptedServer,
    Tokens,
    ToolCall,
    deterministic_ids,
    endless,
    error,
    fake_clock,
    hang,
    per_conversation,
    reply,
    tool_call,
    tool_calls,
)
from shearpin.trace import source

pytest.importorskip("openai")  # the core is also tested where no provider's client is installed

import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello?"}]
CHAT = "/v1/chat/completions"
Serve = Callable[..., tuple[ScriptedServer, openai.OpenAI]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server with a script, and a client of it."""
    opened: list[Any] = []

    def start(script: Script | Sequence[Reply], max_retries: int = 0, **options: Any) -> Any:
        server = ScriptedServer(script, **options)
        client = openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=max_retries)
        opened.extend((server, client))
        return server, client

    yield start
    for closable in reversed(opened):
        closable.close()


def ask(client: openai.OpenAI, messages: Any = None, **options: Any) -> Any:
    create: Any = client.chat.completions.create
    return create(model="gpt-4o", messages=messages or HELLO, **options)


def stream(client: openai.OpenAI, **options: Any) -> list[ChatCompletionChunk]:
    return list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True, **options))


def streamed_text(chunks: list[ChatCompletionChunk]) -> list[str]:
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    return [text for text in texts if text]


# --- plain answers


def test_a_text_reply_reaches_the_client(serve: Serve) -> None:
    server, client = serve([reply("Hello!", usage=(12, 3))])
    chat = ask(client)
    assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == ("Hello!", "stop")
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens, chat.usage.total_tokens) == (12, 3, 15)
    assert (chat.model, chat.object, chat.id[:9], chat.system_fingerprint[:3]) == (
        ("gpt-4o", "chat.completion", "chatcmpl-", "fp_")
    )
    assert (server.served, server.usage) == (1, (12, 3, 0, 0, 0))


def test_a_reply_may_name_another_model_and_finish_reason(serve: Serve) -> None:
    _, client = serve([reply("cut", model="gpt-4o-2024-08-06", finish_reason="length")])
    chat = ask(client)
    assert (chat.model, chat.choices[0].finish_reason) == ("gpt-4o-2024-08-06", "length")


def test_a_tool_call_reaches_the_client(serve: Serve) -> None:
    _, client = serve([tool_call("search", {"q": "pins"})])
    choice = ask(client).choices[0]
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert (call.type, call.function.name, call.function.arguments) == ("function", "search", '{"q":"pins"}')


def test_parallel_tool_calls_have_ids_of_their_own_and_may_carry_text(serve: Serve) -> None:
    calls = [ToolCall("search", {"q": "é"}), ToolCall("clock", "{broken"), ToolCall("clock", id="call_1")]
    _, client = serve([tool_calls(calls, "Well.")])
    message = ask(client).choices[0].message
    made = message.tool_calls
    assert message.content == "Well."
    assert [call.function.arguments for call in made] == ['{"q":"é"}', "{broken", "{}"]
    assert [call.id[:5] for call in made] == ["call_"] * 3
    assert made[0].id != made[1].id != made[2].id == "call_1"


def test_cached_and_reasoning_tokens_are_seen_by_the_client_and_summed_by_the_server(serve: Serve) -> None:
    usage = Tokens(1000, 500, cached=900, reasoning=400, cache_write=50)
    server, client = serve([reply("deep", usage=usage)], repeat_last=True)
    ask(client)
    seen = ask(client).usage
    assert seen.prompt_tokens_details.cached_tokens == 900
    assert seen.completion_tokens_details.reasoning_tokens == 400
    assert server.usage == Tokens(2000, 1000, 1800, 800, 100)


def test_usage_can_be_withheld(serve: Serve) -> None:
    server, client = serve([reply("free?", usage=None)], repeat_last=True)
    assert ask(client).usage is None
    assert all(chunk.usage is None for chunk in stream(client, stream_options={"include_usage": True}))
    assert server.usage == Tokens()


def test_usage_that_is_not_given_is_estimated_and_the_same_every_time(serve: Serve) -> None:
    _, client = serve([reply("x" * 400)], repeat_last=True)
    first, second = ask(client).usage, ask(client).usage
    longer = ask(client, HELLO * 10).usage
    assert first == second
    assert first.completion_tokens == 100
    assert longer.prompt_tokens > 5 * first.prompt_tokens


def test_every_response_and_call_has_an_id_of_its_own_unless_the_server_has_a_seed(serve: Serve) -> None:
    _, client = serve(endless("search"))
    chats = [ask(client) for _ in range(3)]
    calls = [chat.choices[0].message.tool_calls[0] for chat in chats]
    assert len({made.id for made in chats + calls}) == 6
    assert ask(serve(endless("search"), seed="s")[1]).id == ask(serve(endless("search"), seed="s")[1]).id


# --- streams


def test_a_stream_is_cut_at_words_and_carries_no_usage_unless_asked(serve: Serve) -> None:
    _, client = serve([reply("one two, three", usage=(5, 4))], repeat_last=True)
    chunks = stream(client)
    assert streamed_text(chunks) == ["one ", "two, ", "three"]
    assert (chunks[0].choices[0].delta.role, chunks[-1].choices[0].finish_reason) == ("assistant", "stop")
    assert all(chunk.usage is None for chunk in chunks)
    *_, last = stream(client, stream_options={"include_usage": True})
    assert (last.choices, last.usage and last.usage.total_tokens) == ([], 9)


@pytest.mark.parametrize(
    ("chunks", "pieces"), [(2, ["abc", "def"]), (4, ["a", "bc", "d", "ef"]), (["ab", "cdef"], ["ab", "cdef"])]
)
def test_a_script_says_how_a_stream_is_cut(serve: Serve, chunks: int | list[str], pieces: list[str]) -> None:
    _, client = serve([reply("abcdef", chunks=chunks)])
    assert streamed_text(stream(client)) == pieces


def test_streamed_parallel_tool_calls_come_as_a_head_and_pieces_of_arguments(serve: Serve) -> None:
    _, client = serve([tool_calls([("search", {"q": "pins"}), ("clock", {"zone": "UTC"})])])
    chunks = stream(client, stream_options={"include_usage": True})
    deltas = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or ()]
    heads = [call for call in deltas if call.id]
    assert [call.index for call in heads] == [0, 1]
    assert [call.function and call.function.name for call in heads] == ["search", "clock"]
    assert len(deltas) > len(heads) + 2
    arguments = {0: "", 1: ""}
    for call in deltas:
        arguments[call.index] += (call.function and call.function.arguments) or ""
    assert arguments == {0: '{"q":"pins"}', 1: '{"zone":"UTC"}'}
    assert chunks[-2].choices[0].finish_reason == "tool_calls"


def test_the_events_of_a_stream_can_be_spaced_in_time(serve: Serve) -> None:
    server, client = serve([reply("a b", delay=0.05, chunk_delay=0.05)])
    started = time.perf_counter()
    chunks = client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    assert next(iter(chunks)).choices[0].delta.role == "assistant"
    assert server.in_flight == 1
    assert len(list(chunks)) == 3
    assert time.perf_counter() - started > 0.19


def test_the_async_client_is_served_alike(serve: Serve) -> None:
    server, _ = serve([reply("Hello!"), reply("a b")])

    async def both() -> tuple[str | None, list[ChatCompletionChunk]]:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="any") as client:
            chat = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
            events = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
            return chat.choices[0].message.content, [event async for event in events]

    text, chunks = asyncio.run(both())
    assert (text, streamed_text(chunks)) == ("Hello!", ["a ", "b"])


# --- trouble


def test_the_clients_own_retry_gets_past_a_rate_limit(serve: Serve) -> None:
    server, client = serve([error(429, retry_after=0.01), reply("at last")], max_retries=2)
    assert ask(client).choices[0].message.content == "at last"
    assert (server.count(status=429), server.served, server.count()) == (1, 1, 2)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, openai.AuthenticationError), (429, openai.RateLimitError), (500, openai.InternalServerError)],
)
def test_an_error_is_the_clients_own_exception(serve: Serve, status: int, expected: Any) -> None:
    server, client = serve([error(status, retry_after=2.5)])
    with pytest.raises(expected) as caught:
        ask(client)
    assert caught.value.response.headers["retry-after"] == "3"
    assert (server.count(CHAT, status), server.served, server.usage) == (1, 0, Tokens())


def test_a_hanging_provider_runs_into_the_clients_timeout(serve: Serve) -> None:
    server, client = serve([hang()])
    with pytest.raises(openai.APITimeoutError):
        ask(client, timeout=0.1)
    assert server.wait_idle()
    assert (server.disconnects, server.served, server.count(), server.count(status=0)) == (1, 0, 1, 1)


def test_a_hang_that_ends_drops_the_connection(serve: Serve) -> None:
    server, client = serve([hang(0.01)])
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    assert (server.disconnects, server.count(status=0)) == (0, 1)


def test_a_client_that_leaves_a_stream_is_counted_and_nothing_is_printed(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    server, client = serve([reply("word " * 100, chunk_delay=0.02, usage=(9, 100))])
    with client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True) as chunks:
        next(iter(chunks))
        assert server.in_flight == 1
    assert server.wait_idle()
    assert (server.disconnects, server.served, server.usage) == (1, 1, Tokens(9, 100))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("streamed", [True, False])
def test_an_answer_can_break_off(serve: Serve, streamed: bool) -> None:
    server, client = serve([reply("one two three", cut_after=2)])
    with pytest.raises(Exception, match=r"closed|incomplete|Connection"):
        list(ask(client, stream=streamed))
    assert (server.served, server.disconnects) == (1, 0)


def call_of(name: str) -> Any:
    return {"id": name, "type": "function", "function": {"name": "search", "arguments": "{}"}}


CALLS: Any = {"role": "assistant", "content": None, "tool_calls": [call_of("c1"), call_of("c2")]}


def answer_to(call: str) -> Any:
    return {"role": "tool", "tool_call_id": call, "content": "found"}


REFUSED: list[tuple[list[Any], str]] = [
    ([*HELLO, CALLS, answer_to("c1")], "must be followed by tool messages.*response messages: c2"),
    ([*HELLO, CALLS, *HELLO], "must be followed by tool messages.*response messages: c1, c2"),
    ([*HELLO, answer_to("c1")], "must be a response to a preceding message with 'tool_calls'"),
    ([*HELLO, CALLS, answer_to("c9")], "'tool_call_id' of 'c9' not found in 'tool_calls'"),
    ([{"role": "robot", "content": "hi"}], "Invalid value: 'robot'"),
    ([{"role": "assistant", "tool_calls": []}], r"Invalid 'messages\[0\].tool_calls': empty array"),
]


@pytest.mark.parametrize(("messages", "complaint"), REFUSED)
def test_a_conversation_openai_would_refuse_is_refused(serve: Serve, messages: Any, complaint: str) -> None:
    server, client = serve([reply("never")])
    with pytest.raises(openai.BadRequestError, match=complaint) as caught:
        ask(client, messages)
    assert caught.value.type == "invalid_request_error"
    assert (server.served, server.count(status=400)) == (0, 1)


def test_answered_tool_calls_are_accepted(serve: Serve) -> None:
    _, client = serve([reply("fine")])
    chat = ask(client, [*HELLO, CALLS, answer_to("c2"), answer_to("c1"), *HELLO])
    assert chat.choices[0].message.content == "fine"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "complaint"),
    [
        ("POST", CHAT, b"{nope", 400, "could not parse the JSON body"),
        ("POST", CHAT, b'{"model": "m", "messages": []}', 400, "'messages': empty array"),
        ("POST", CHAT, b'{"messages": []}', 400, "you must provide a model"),
        ("POST", CHAT, b'{"model": "m"}', 400, "Missing required parameter: 'messages'"),
        ("GET", CHAT, None, 405, "Not allowed to GET"),
        ("POST", "/v1/completions", b"{}", 404, "Invalid URL (POST /v1/completions)"),
        ("POST", "/v1/embeddings", b'{"model": "m"}', 400, "input"),
    ],
)
def test_a_bad_request_gets_openais_error_and_the_connection_lives_on(
    method: str, path: str, body: bytes | None, status: int, complaint: str
) -> None:
    with ScriptedServer([]) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for _ in range(2):
            connection.request(method, path, body)
            response = connection.getresponse()
            failed = json.loads(response.read())["error"]
            assert (response.status, failed.keys()) == (status, {"message", "type", "param", "code"})
            assert complaint in failed["message"]
        connection.close()
        assert server.count(path, status) == 2


# --- scripts


def test_a_list_of_replies_that_is_exhausted_says_so(serve: Serve) -> None:
    server, client = serve([reply("only")])
    ask(client)
    with pytest.raises(openai.BadRequestError, match="1 replies and was asked for number 2"):
        ask(client)
    server.reset()
    assert ask(client).choices[0].message.content == "only"


def test_a_function_answers_from_the_request_alone(serve: Serve) -> None:
    def script(request: Request) -> Reply:
        return reply(f"{request.index} {request.model} {request.stream} {request.messages[-1]['content']}")

    server, client = serve(script)
    assert ask(client).choices[0].message.content == "0 gpt-4o False Hello?"
    assert "".join(streamed_text(stream(client))) == "1 gpt-4o True Hello?"
    assert server.requests[-1].headers["authorization"] == "Bearer any"


def test_a_function_that_raises_or_answers_nonsense_is_read_in_the_clients_error(serve: Serve) -> None:
    def broken(_: Request) -> Reply:
        raise AssertionError("expected a tool")

    def nonsense(_: Request) -> Any:
        return "text"

    for script, complaint in ((broken, "AssertionError: expected a tool"), (nonsense, "not 'text'")):
        with pytest.raises(openai.BadRequestError, match=complaint):
            ask(serve(script)[1])


def test_mistakes_in_a_script_are_refused_where_it_is_written() -> None:
    server, text, nonsense = cast("tuple[Any, Any, Any]", (ScriptedServer, reply, ["text"]))
    with pytest.raises(TypeError, match="not 'text'"):
        server(nonsense)
    with pytest.raises(TypeError):
        text("x", usage=(1, 2, 3, 4, 5, 6))
    with pytest.raises(TypeError, match="temperature"):
        text("x", temperature=1)
    for chunks in (["a", "b"], 0):
        with pytest.raises(ValueError, match="chunks"):
            text("abc", chunks=chunks)
    with pytest.raises(ValueError, match="repeat_last"):
        server(endless("search"), repeat_last=True)


def converse(base_url: str) -> list[str]:
    """An agent in miniature: it does what the model asks for until the model speaks."""
    messages: list[Any] = list(HELLO)
    with openai.OpenAI(base_url=base_url, api_key="any") as client:
        while calls := (message := ask(client, messages).choices[0].message).tool_calls:
            messages += [message, *(answer_to(call.id) for call in calls)]
    return [message.content]


def test_parallel_conversations_do_not_mix() -> None:
    script = per_conversation([tool_call("search"), tool_calls([("a", {}), ("b", {})]), reply("done")])
    with ScriptedServer(script) as server, ThreadPoolExecutor(20) as agents:
        answers = list(agents.map(converse, [server.base_url] * 20))
    assert answers == [["done"]] * 20
    assert (server.served, server.count(status=400)) == (60, 0)


# --- counting


def test_counts_are_exact_under_fifty_parallel_clients() -> None:
    together = threading.Barrier(50)

    def script(request: Request) -> Reply:
        if request.index < 50:
            together.wait(5)
        return error(500) if request.index % 10 == 9 else reply("ok", usage=(10, 1))

    def hammer(server: ScriptedServer) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for _ in range(20):
            connection.request("POST", CHAT, json.dumps({"model": "m", "messages": HELLO}))
            connection.getresponse().read()
        connection.close()

    with ScriptedServer(script, keep=7) as server, ThreadPoolExecutor(50) as clients:
        list(clients.map(hammer, [server] * 50))
        assert (server.count(), server.served, server.count(CHAT, 500)) == (1000, 900, 100)
        assert (server.usage, server.peak_in_flight, server.in_flight) == (Tokens(9000, 900), 50, 0)
        assert (len(server.requests), server.disconnects) == (7, 0)
        server.reset()
        assert (server.count(), server.usage, server.peak_in_flight, server.requests) == (0, Tokens(), 0, [])


def test_closing_is_quick_with_clients_that_hang_and_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    server = ScriptedServer([hang()], repeat_last=True)
    waiting = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(10)]
    for connection in waiting:
        connection.request("POST", CHAT, json.dumps({"model": "m", "messages": HELLO}))
    while server.in_flight < 10:
        time.sleep(0.001)
    started = time.perf_counter()
    server.close()
    assert time.perf_counter() - started < 0.2
    server.close()
    assert (server.in_flight, server.disconnects) == (0, 0)
    assert threading.active_count() <= before
    for connection in waiting:
        connection.close()


# --- the other endpoints


def test_embeddings_are_deterministic_in_both_encodings(serve: Serve) -> None:
    server, client = serve([])
    made = client.embeddings.create(model="text-embedding-3-small", input=["pin", "bolt", "pin"])
    as_floats = client.embeddings.create(model="e", input="pin", encoding_format="float").data[0].embedding
    asked: Any = {"model": "e", "input": "pin", "encoding_format": "base64", "dimensions": 3}
    packed: Any = client.embeddings.create(**asked).data[0]
    first, other, again = (item.embedding for item in made.data)
    assert first == again == pytest.approx(as_floats) != other
    assert len(first) == 8
    assert sum(number**2 for number in first) == pytest.approx(1)
    assert len(struct.unpack("<3f", base64.b64decode(packed.embedding))) == 3
    assert (made.usage.prompt_tokens, server.usage.input, server.served) == (3, 5, 0)


def test_models_are_listed(serve: Serve) -> None:
    _, client = serve([])
    assert "gpt-4o" in [model.id for model in client.models.list()]


# --- a framework


def test_langchain_binds_tools_streams_and_reads_usage() -> None:
    langchain_openai = pytest.importorskip("langchain_openai")
    usage = Tokens(1000, 500, cached=900, reasoning=400)
    calls = [("search", {"q": "a"}), ("search", {"q": "b"})]
    script = per_conversation([tool_calls(calls, usage=usage), reply("a b", usage=usage)])

    def search(q: str) -> str:
        """Search."""
        return q

    with ScriptedServer(script) as server, openai.OpenAI(base_url=server.base_url, api_key="any") as client:
        options: Any = {"client": client.chat.completions, "root_client": client, "api_key": "any"}
        chat = langchain_openai.ChatOpenAI(model="gpt-4o", stream_usage=True, **options)
        asked = chat.bind_tools([search]).invoke("Hello?")
        assert [call["args"] for call in asked.tool_calls] == [{"q": "a"}, {"q": "b"}]
        assert asked.usage_metadata["input_token_details"]["cache_read"] == 900
        assert server.requests[0].tools[0]["function"]["name"] == "search"
        whole = sum_of(chat.stream([*HELLO, asked, *(answer_to(call["id"]) for call in asked.tool_calls)]))
        assert whole.content == "a b"
        assert whole.usage_metadata["output_token_details"]["reasoning"] == 400
        streamed = sum_of(chat.bind_tools([search]).stream("Hello?"))
        assert [call["args"] for call in streamed.tool_calls] == [{"q": "a"}, {"q": "b"}]


def sum_of(chunks: Iterator[Any]) -> Any:
    whole = next(chunks)
    for chunk in chunks:
        whole += chunk
    return whole


# --- clock and ids


def test_time_stands_still_until_it_is_advanced_and_is_real_again_afterwards() -> None:
    real = source.mono_ns
    with fake_clock() as clock:
        started, wall = source.mono_ns(), source.wall_ns()
        clock.advance(1.5)
        assert (source.mono_ns() - started, source.wall_ns() - wall) == (1_500_000_000, 1_500_000_000)
        assert clock.now_ns == source.wall_ns() != source.mono_ns()
    assert source.mono_ns is real
    with pytest.raises(ValueError, match="does not go back"), fake_clock() as clock:
        clock.advance(-1)
    assert source.mono_ns is real


def test_the_server_dates_its_answers_by_the_fake_clock(serve: Serve) -> None:
    _, client = serve([reply("now")])
    with fake_clock(start_ns=5_000_000_000):
        assert ask(client).created == 5


def test_ids_are_numbered_and_start_again_in_the_next_block() -> None:
    for _ in range(2):
        with deterministic_ids():
            assert [source.new_trace_id()[-2:] for _ in range(3)] == ["01", "02", "03"]
            assert [f"{source.new_span_base():x}" for _ in range(2)] == ["100000001", "200000001"]
    assert source.new_trace_id() != source.new_trace_id()


@pytest.mark.parametrize("module", [shearpin.testing.server, shearpin.testing.script, shearpin.testing.clock])
def test_the_examples_in_the_documentation_run(module: Any) -> None:
    failed, attempted = doctest.testmod(module)
    assert (failed, attempted > 0) == (0, True)


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda: ScriptedServer(reply("hi")), r"a script is a list of replies such as \[reply\('text'\)\]"),
        (lambda: error("500"), r"error\(status='500'\): must be a status of HTTP"),
        (lambda: error(42), r"error\(status=42\): must be a status of HTTP"),
        (lambda: reply("x", usage=5), r"usage must be Tokens\(...\), \(input, output\) or None, not 5"),
    ],
)
def test_a_mistake_in_a_script_is_shown_where_it_was_written(mistake, says):
    with pytest.raises((TypeError, ValueError), match=says):
        mistake()
