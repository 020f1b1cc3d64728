"""The scripted server's Responses API as the real clients see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shearpin.testing import (
    ScriptedServer,
    Tokens,
    ToolCall,
    endless,
    error,
    hang,
    per_conversation,
    reply,
    tool_call,
    tool_calls,
)
from shearpin.testing.items import Memory

pytest.importorskip("openai")  # the core is also tested where no provider's client is installed

import openai
from pydantic import BaseModel

RESPONSES = "/v1/responses"
SEARCH: Any = {"type": "function", "name": "search", "parameters": {"type": "object"}, "strict": False}
Serve = Callable[..., tuple[ScriptedServer, openai.OpenAI]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server with a script, and a client of it."""
    opened: list[Any] = []

    def start(script: Any, max_retries: int = 0, **options: Any) -> Any:
        server = ScriptedServer(script, **options)
        client = openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=max_retries)
        opened.extend((server, client))
        return server, client

    yield start
    for closable in reversed(opened):
        closable.close()


def ask(client: openai.OpenAI, given: Any = "Hello?", **options: Any) -> Any:
    create: Any = client.responses.create
    return create(model="gpt-4o", input=given, **options)


def answers(response: Any, text: str = "found") -> list[Any]:
    """What a client sends back for the calls of a response."""
    calls = [item for item in response.output if item.type == "function_call"]
    return [{"type": "function_call_output", "call_id": call.call_id, "output": text} for call in calls]


# --- plain answers


def test_a_text_reply_reaches_the_client(serve: Serve) -> None:
    server, client = serve([reply("Hello!", usage=Tokens(1000, 500, cached=900, reasoning=400))])
    answer = ask(client)
    assert (answer.output_text, answer.status, answer.model, answer.id[:5]) == (
        ("Hello!", "completed", "gpt-4o", "resp_")
    )
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (1000, 500, 1500)
    assert answer.usage.input_tokens_details.cached_tokens == 900
    assert answer.usage.output_tokens_details.reasoning_tokens == 400
    assert (server.served, server.count(RESPONSES), server.usage) == (1, 1, Tokens(1000, 500, 900, 400))


def test_tool_calls_text_and_reasoning_come_in_the_order_of_openais_models(serve: Serve) -> None:
    calls = [ToolCall("search", {"q": "é"}), ToolCall("clock", id="call_1")]
    _, client = serve([tool_calls(calls, "Well.", reasoning="Let me see.")])
    thought, said, search, clock = ask(client, tools=[SEARCH]).output
    assert (thought.type, thought.summary[0].text) == ("reasoning", "Let me see.")
    assert (said.role, said.content[0].text) == ("assistant", "Well.")
    assert (search.type, search.name, search.arguments) == ("function_call", "search", '{"q":"é"}')
    assert clock.call_id == "call_1" != search.call_id != search.id


def test_a_search_of_the_provider_comes_before_its_answer(serve: Serve) -> None:
    _, client = serve([reply("Found.", searches=["pins"])])
    search, said = ask(client, tools=[{"type": "web_search"}]).output
    assert (search.type, search.status, search.action.query) == ("web_search_call", "completed", "pins")
    assert said.type == "message"


@pytest.mark.parametrize(("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_was_not_finished_says_why(serve: Serve, reason: str, told: str) -> None:
    _, client = serve([reply("cut", finish_reason=reason)], repeat_last=True)
    answer = ask(client)
    assert (answer.status, answer.incomplete_details.reason, answer.output[0].status) == (
        ("incomplete", told, "incomplete")
    )
    assert list(ask(client, stream=True))[-1].type == "response.incomplete"


def test_what_the_client_set_is_told_back(serve: Serve) -> None:
    _, client = serve([reply("x")])
    options: Any = {"temperature": 0, "max_output_tokens": 99, "parallel_tool_calls": False, "tools": [SEARCH]}
    answer = ask(client, instructions="Be short.", metadata={"a": "b"}, store=False, **options)
    assert (answer.temperature, answer.max_output_tokens, answer.parallel_tool_calls) == (0, 99, False)
    assert (answer.instructions, answer.metadata, answer.tools[0].name) == ("Be short.", {"a": "b"}, "search")


def test_usage_can_be_withheld(serve: Serve) -> None:
    _, client = serve([reply("free?", usage=None)], repeat_last=True)
    assert ask(client).usage is None
    assert list(ask(client, stream=True))[-1].response.usage is None


def test_an_answer_in_a_schema_is_parsed(serve: Serve) -> None:
    class Verdict(BaseModel):
        guilty: bool

    server, client = serve([reply('{"guilty":false}')], repeat_last=True)
    parsed = client.responses.parse(model="gpt-4o", input="Well?", text_format=Verdict)
    assert parsed.output_parsed == Verdict(guilty=False)
    assert server.requests[0].body["text"]["format"]["type"] == "json_schema"
    with client.responses.stream(model="gpt-4o", input="Well?", text_format=Verdict) as events:
        assert events.get_final_response().output_parsed == Verdict(guilty=False)


# --- streams


def test_a_stream_tells_of_every_item_as_it_grows(serve: Serve) -> None:
    script = [tool_calls([("search", {"q": "pins"})], "one two", reasoning="Hm.", searches=["x"], usage=(5, 4))]
    server, client = serve(script)
    events = list(ask(client, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert list(dict.fromkeys(kinds)) == [
        *("created", "in_progress", "output_item.added"),
        *("reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
        *("web_search_call.in_progress", "web_search_call.searching", "web_search_call.completed"),
        *("content_part.added", "output_text.delta", "output_text.done", "content_part.done"),
        *("function_call_arguments.delta", "function_call_arguments.done", "completed"),
    ]
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert (texts, "".join(pieces), len(pieces) > 2) == (["one ", "two"], '{"q":"pins"}', True)
    assert events[0].response.status == "in_progress"
    assert (events[-1].response.usage.total_tokens, events[-1].response.output_text) == (9, "one two")
    assert server.usage == Tokens(5, 4)


def test_the_clients_own_accumulation_agrees_with_the_final_response(serve: Serve) -> None:
    _, client = serve([tool_calls([("search", {"q": "pins"}), ("clock", {})], "one two")])
    with client.responses.stream(model="gpt-4o", input="Hello?", tools=[SEARCH]) as events:
        snapshots = [event.snapshot for event in events if event.type == "response.output_text.delta"]
        final: Any = events.get_final_response()
    assert snapshots == ["one ", "one two"]
    assert [item.arguments for item in final.output[1:]] == ['{"q":"pins"}', "{}"]


async def test_the_async_client_is_served_alike(serve: Serve) -> None:
    server, _ = serve([reply("Hello!"), reply("a b")])
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="any") as client:
        answer = await client.responses.create(model="gpt-4o", input="Hello?")
        async with client.responses.stream(model="gpt-4o", input="Hello?") as events:
            kinds = [event.type async for event in events]
    assert (answer.output_text, kinds.count("response.output_text.delta")) == ("Hello!", 2)


# --- conversations


def test_messages_and_tools_mean_the_same_as_in_a_chat(serve: Serve) -> None:
    server, client = serve([tool_calls([("search", {"q": "a"}), ("search", {"q": "b"})], "Looking."), reply("done")])
    question: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Find it."}]}]
    asked = ask(client, question, instructions="Be short.", tools=[SEARCH])
    ask(client, [*question, *asked.output, *answers(asked)], tools=[SEARCH])
    first, second = server.requests
    assert first.messages == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Find it."}]
    assert first.tools == [
        {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}, "strict": False}}
    ]
    assert (first.turn, second.turn, second.body["input"][0]) == (0, 1, question[0])
    user, assistant, *results = second.messages
    assert (user["role"], assistant["content"]) == ("user", "Looking.")
    assert [call["function"]["arguments"] for call in assistant["tool_calls"]] == ['{"q":"a"}', '{"q":"b"}']
    assert [(result["role"], result["content"]) for result in results] == [("tool", "found")] * 2
    assert [result["tool_call_id"] for result in results] == [call["id"] for call in assistant["tool_calls"]]


def test_a_turn_is_what_the_model_said_in_one_go(serve: Serve) -> None:
    replies = [
        tool_call("search", reasoning="One.", searches=["x"]),
        tool_calls([("a", {}), ("b", {})], "Two."),
        reply("three", reasoning="Three."),
        reply("four"),
    ]
    server, client = serve(per_conversation(replies))
    said: list[Any] = [{"role": "user", "content": "Go."}]
    for _ in range(4):
        answer = ask(client, said)
        said += [*answer.output, *answers(answer)]
    assert answer.output_text == "four"
    assert [request.turn for request in server.requests] == [0, 1, 2, 3]


def test_a_response_goes_on_with_the_previous_one(serve: Serve) -> None:
    server, client = serve(per_conversation([tool_call("search"), reply("done"), reply("again")]))
    asked = ask(client, "Go.", instructions="Be short.")
    done = ask(client, answers(asked), previous_response_id=asked.id)
    again = ask(client, "More.", previous_response_id=done.id)
    assert (done.output_text, again.output_text, again.previous_response_id) == ("done", "again", done.id)
    roles = [message["role"] for message in server.requests[-1].messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]  # instructions are not carried over
    assert server.requests[-1].body["input"] == "More."


def test_a_response_that_was_not_stored_is_not_gone_on_with(serve: Serve) -> None:
    _, client = serve(endless("search"))
    for previous in (ask(client, store=False).id, "resp_unknown"):
        with pytest.raises(openai.BadRequestError, match=f"Previous response with id '{previous}' not found") as caught:
            ask(client, previous_response_id=previous)
        assert caught.value.code == "previous_response_not_found"


def test_old_responses_are_forgotten() -> None:
    memory = Memory(keep=2)
    for name in "abc":
        memory.keep(name, [])
    assert [memory.recall(name) for name in "abc"] == [None, [], []]


# --- trouble


CALL: Any = {"type": "function_call", "call_id": "c1", "name": "search", "arguments": "{}"}
OUTPUT: Any = {"type": "function_call_output", "call_id": "c1", "output": "found"}
THOUGHT: Any = {"type": "reasoning", "id": "rs_1", "summary": []}
USER: Any = {"role": "user", "content": "Hello?"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": [USER, CALL]}, "No tool output found for function call c1"),
    ({"input": [USER, OUTPUT]}, "No tool call found for function call output with call_id c1"),
    ({"input": [USER, OUTPUT, CALL]}, "No tool call found for function call output with call_id c1"),
    ({"input": [THOUGHT, USER]}, "'rs_1' of type 'reasoning' was provided without its required following item"),
    ({"input": [THOUGHT]}, "without its required following item"),
    ({"input": [{"role": "tool", "content": "x"}]}, "Invalid value: 'tool'"),
    ({"input": ["x"]}, r"Invalid type for 'input\[0\]'"),
    ({"input": 7}, "Invalid type for 'input'"),
    ({"input": [{"type": "function_call", "name": "f"}]}, r"Missing required parameter: 'input\[0\].call_id'"),
    ({}, 'One of "input" or "previous_response_id"'),
    ({"input": "x", "model": ""}, "Missing required parameter: 'model'"),
    ({"input": "x", "tools": [{"type": "function", "function": {"name": "f"}}]}, r"parameter: 'tools\[0\].name'"),
    ({"input": "x", "tools": ["f"]}, r"Invalid type for 'tools\[0\]'"),
    ({"messages": [USER]}, "'messages'.*has moved to 'input'"),
    ({"input": "x", "max_tokens": 3}, "'max_tokens'.*has moved to 'max_output_tokens'"),
    ({"input": "x", "conversation": "conv_1"}, "keeps no conversations"),
]


@pytest.mark.parametrize(("body", "complaint"), REFUSED)
def test_what_openai_would_refuse_is_refused(serve: Serve, body: dict[str, Any], complaint: str) -> None:
    server, client = serve([reply("never")])
    with pytest.raises(openai.BadRequestError, match=complaint) as caught:
        client.post("/responses", body={"model": "gpt-4o"} | body, cast_to=object)
    assert caught.value.type == "invalid_request_error"
    assert (server.served, server.count(status=400)) == (0, 1)


def test_an_item_cannot_be_referred_to(serve: Serve) -> None:
    _, client = serve([reply("never")])
    with pytest.raises(openai.NotFoundError, match="Item with id 'msg_1' not found"):
        ask(client, [{"type": "item_reference", "id": "msg_1"}])


def test_answered_calls_of_all_kinds_are_accepted(serve: Serve) -> None:
    server, client = serve([reply("fine")])
    custom: Any = {"type": "custom_tool_call", "call_id": "c2", "name": "shell", "input": "ls"}
    listed: Any = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    given = [USER, THOUGHT, CALL, custom, OUTPUT | {"output": listed}, {"type": "custom_tool_call_output"}]
    given[-1] |= {"call_id": "c2", "output": "b"}
    assert ask(client, given).output_text == "fine"
    assert [message["content"] for message in server.requests[0].messages] == ["Hello?", None, "ab", "b"]
    assert server.requests[0].messages[1]["tool_calls"][1]["function"] == {"name": "shell", "arguments": "ls"}


def test_errors_retries_hangs_and_cuts_are_those_of_a_chat(serve: Serve) -> None:
    server, client = serve(
        [error(429, retry_after=0.01), reply("at last"), error(500), hang(), *[reply("a b", cut_after=4)] * 2]
    )
    assert ask(client.with_options(max_retries=1)).output_text == "at last"
    with pytest.raises(openai.InternalServerError):
        ask(client)
    with pytest.raises(openai.APITimeoutError):
        ask(client, timeout=0.1)
    for streamed in (True, False):
        with pytest.raises(Exception, match=r"closed|incomplete|Connection"):
            list(ask(client, stream=streamed))
    assert server.wait_idle()
    assert [server.count(RESPONSES, status) for status in (200, 429, 500, 0)] == [3, 1, 1, 1]
    assert (server.served, server.disconnects) == (3, 1)


# --- a framework


def test_langchain_binds_tools_streams_and_reads_usage() -> None:
    langchain_openai = pytest.importorskip("langchain_openai")
    usage = Tokens(1000, 500, cached=900, reasoning=400)
    calls = [("search", {"q": "a"}), ("search", {"q": "b"})]
    script = per_conversation([tool_calls(calls, "Well.", usage=usage, reasoning="Hm."), reply("a b", usage=usage)])

    def search(q: str) -> str:
        """Search."""
        return q

    with ScriptedServer(script) as server, openai.OpenAI(base_url=server.base_url, api_key="any") as client:
        options: Any = {"client": client.chat.completions, "root_client": client, "api_key": "any"}
        chat = langchain_openai.ChatOpenAI(model="gpt-4o", use_responses_api=True, **options)
        for asked in (
            chat.bind_tools([search]).invoke("Hello?"),
            sum_of(chat.bind_tools([search]).stream("Hello?")),
        ):
            assert [call["args"] for call in asked.tool_calls] == [{"q": "a"}, {"q": "b"}]
            assert asked.usage_metadata["input_token_details"]["cache_read"] == 900
            results = [{"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in asked.tool_calls]
            said = [{"role": "user", "content": "Hello?"}, asked, *results]
            assert chat.invoke(said).text == sum_of(chat.stream(said)).text == "a b"
        assert [request.tools[0]["function"]["name"] for request in server.requests if request.tools] == ["search"] * 2
        assert (server.served, server.count("/v1/chat/completions")) == (6, 0)


def sum_of(chunks: Iterator[Any]) -> Any:
    whole = next(chunks)
    for chunk in chunks:
        whole += chunk
    return whole
