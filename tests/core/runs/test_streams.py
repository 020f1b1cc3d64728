"""A streamed answer is read as a whole one is: what it said, what it asked for, what it used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from shearpin import Budget, Guard
from shearpin.testing import ScriptedServer, Tokens, reply, tool_calls
from shearpin.trace import LLMSpan, Usage

openai = pytest.importorskip("openai")  # the core is also tested where no provider's client is installed

USED = Tokens(50_000, 2_000, cached=40_000, reasoning=500)
PROMPT = [{"role": "user", "content": "Hi"}]
CALLS = [("search", {"q": "pins"}), ("clock", {})]
ASKED = [("search", {"q": "pins"}), ("clock", {})]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    answer = tool_calls(CALLS, "Looking it up.", reasoning="Let me see.", usage=USED, model="gpt-4o-2024-08-06")
    with ScriptedServer([answer], repeat_last=True) as server:
        yield server


class Client:
    """What a program streams with."""

    def __init__(self, server: ScriptedServer) -> None:
        self.chat = openai.OpenAI(base_url=server.base_url, api_key="any")
        self.later = openai.AsyncOpenAI(base_url=server.base_url, api_key="any")

    def chunks(self) -> Any:
        return self.chat.chat.completions.create(
            model="gpt-4o", messages=PROMPT, stream=True, stream_options={"include_usage": True}
        )

    def events(self) -> Any:
        return self.chat.responses.create(model="gpt-4o", input="Hi", stream=True)

    async def achunks(self) -> Any:
        return await self.later.chat.completions.create(
            model="gpt-4o", messages=PROMPT, stream=True, stream_options={"include_usage": True}
        )


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    client = Client(server)
    with client.chat:
        yield client


def span_of(pin: Guard) -> LLMSpan:
    [span] = pin.traces[-1].spans_of("llm")
    return span


def assert_read(span: LLMSpan, *, reasoning: bool = True) -> None:
    assert span.reply == "Looking it up."
    assert [(call["name"], call["arguments"]) for call in span.tool_calls] == ASKED
    assert all(call["id"] for call in span.tool_calls)
    assert span.response_model == "gpt-4o-2024-08-06"
    assert span.response_id
    assert span.finish_reason in ("tool_calls", "completed")
    assert span.usage is not None
    assert (span.usage.input_tokens, span.usage.output_tokens) == (50_000, 2_000)
    assert (span.usage.cached_input_tokens, span.usage.reasoning_tokens) == (40_000, 500)
    assert not span.usage_estimated
    assert not reasoning or span.reasoning == "Let me see."


STREAMS = ["chunks", "events"]


@pytest.mark.parametrize("kind", STREAMS)
def test_a_decorated_generator_of_chunks_is_read(client: Client, kind: str) -> None:
    pin = Guard()

    @pin.llm(model="gpt-4o")
    def ask() -> Iterator[Any]:
        yield from getattr(client, kind)()

    with pin.run():
        assert list(ask())

    assert_read(span_of(pin))
    assert span_of(pin).time_to_first_token_ns


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_a_decorated_function_returns_is_read_as_it_is_used_up(client: Client, kind: str) -> None:
    pin = Guard(Budget(usd=1))

    @pin.llm(model="gpt-4o")
    def ask() -> Any:
        return getattr(client, kind)()

    with pin.run() as run:
        stream = ask()
        assert run.remaining["usd"] < 1  # it goes on
        assert stream.response.status_code == 200  # the provider's own
        assert [type(each) for each in stream]
        assert next(stream, None) is None
        assert run.trace.spans_of("llm")[0].status == "ok"

    assert_read(span_of(pin))
    assert span_of(pin).time_to_first_token_ns


@pytest.mark.parametrize("kind", STREAMS)
def test_a_list_of_chunks_is_read(client: Client, kind: str) -> None:
    pin = Guard()

    with pin.run() as run, run.llm(model="gpt-4o", messages=PROMPT) as call:
        call.response = list(getattr(client, kind)())

    assert_read(span_of(pin))


def test_chunks_as_data_are_read(client: Client) -> None:
    pin = Guard()

    with pin.run() as run, run.llm(model="gpt-4o", messages=PROMPT) as call:
        call.response = [chunk.model_dump() for chunk in client.chunks()]

    assert_read(span_of(pin))


async def test_an_async_stream_is_read(client: Client) -> None:
    pin = Guard()

    @pin.llm(model="gpt-4o")
    async def ask() -> Any:
        return await client.achunks()

    async with pin.run():
        assert [chunk async for chunk in await ask()]

    assert_read(span_of(pin))
    await client.later.close()


async def test_an_async_generator_of_chunks_is_read(client: Client) -> None:
    pin = Guard()

    @pin.llm(model="gpt-4o")
    async def ask() -> AsyncIterator[Any]:
        async for chunk in await client.achunks():
            yield chunk

    async with pin.run():
        assert [chunk async for chunk in ask()]

    assert_read(span_of(pin))
    await client.later.close()


def test_a_stream_that_is_closed_is_charged_what_came(client: Client) -> None:
    pin = Guard(Budget(tokens=10**6))

    @pin.llm(model="gpt-4o")
    def ask(messages: Any) -> Any:
        return client.chunks()

    with pin.run() as run:
        with ask(PROMPT) as stream:
            for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
        span = run.trace.spans_of("llm")[0]
        assert (span.status, span.usage_estimated) == ("cancelled", True)
        assert run.usage.total_tokens < 30

    assert span_of(pin).reply


def test_a_stream_that_is_closed_after_its_last_chunk_has_ended_before(client: Client) -> None:
    pin = Guard(Budget(usd=1))

    @pin.llm(model="gpt-4o")
    def ask(messages: Any) -> Any:
        return client.chunks()

    with pin.run() as run:
        with ask(PROMPT) as stream:
            list(stream)
        stream.close()

    span = span_of(pin)
    assert_read(span)
    assert span.usage is not None
    assert (span.status, span.usage.cost_usd) == ("ok", run.usage.cost_usd)
    assert span.usage.cost_usd


def test_a_stream_that_nobody_uses_is_charged_as_reserved(client: Client) -> None:
    pin = Guard(Budget(tokens=10**6))

    @pin.llm(model="gpt-4o")
    def ask(messages: Any, max_tokens: int) -> Any:
        return client.chunks()

    with pin.run():
        ask(PROMPT, max_tokens=100).response.close()

    assert span_of(pin).usage == Usage(9, 100, cost_usd=span_of(pin).usage.cost_usd)  # type: ignore[union-attr]


def test_a_stream_that_breaks_off_raises_its_own_error_and_is_charged_what_came() -> None:
    pin = Guard()

    @pin.llm(model="gpt-4o")
    def ask() -> Any:
        return (1 / 0 if number == 3 else "word" for number in range(9))

    with pin.run(), pytest.raises(ZeroDivisionError):
        list(ask())

    assert (span_of(pin).status, span_of(pin).reply, span_of(pin).was_cut) == ("error", "word" * 3, True)


def test_a_generator_behind_a_plain_function_ends_with_its_last_text() -> None:
    pin = Guard()

    @pin.llm(model="gpt-4o")
    def ask() -> Iterator[str]:
        return (text for text in ["a", "b"])

    with pin.run():
        assert list(ask()) == ["a", "b"]

    assert span_of(pin).reply == "ab"


# --- other providers


def start(usage: Any) -> dict[str, Any]:
    message = {"id": "msg_1", "model": "claude-x", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


def delta(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def block(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": fields}


ANTHROPIC = [
    start({"input_tokens": 20, "cache_read_input_tokens": 5, "output_tokens": 1}),
    block(0, type="thinking", thinking=""),
    delta(0, type="thinking_delta", thinking="Hm."),
    block(1, type="text", text=""),
    delta(1, type="text_delta", text="Hel"),
    delta(1, type="text_delta", text="lo"),
    block(2, type="tool_use", id="t1", name="search", input={}),
    delta(2, type="input_json_delta", partial_json='{"q": '),
    delta(2, type="input_json_delta", partial_json='"x"}'),
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 30}},
    {"type": "message_stop"},
]


def recorded(chunks: list[Any], error: Exception | None = None) -> LLMSpan:
    pin = Guard()
    try:
        with pin.run() as run, run.llm(model="claude-x", messages="hi") as call:
            call.response = chunks
            if error is not None:
                raise error
    except ValueError:
        pass
    return span_of(pin)


def as_objects(value: Any) -> Any:
    return SimpleNamespace(**{k: as_objects(v) for k, v in value.items()}) if isinstance(value, dict) else value


@pytest.mark.parametrize("form", [lambda value: value, as_objects])
def test_the_events_of_anthropic_are_read(form: Callable[[Any], Any]) -> None:
    span = recorded([form(event) for event in ANTHROPIC])

    assert (span.reply, span.reasoning, span.finish_reason) == ("Hello", "Hm.", "tool_use")
    assert span.tool_calls == [{"id": "t1", "name": "search", "arguments": {"q": "x"}}]
    assert (span.response_id, span.response_model) == ("msg_1", "claude-x")
    assert span.usage == Usage(25, 30, cached_input_tokens=5)


def test_a_stream_of_anthropic_that_was_cut_is_charged_what_came_and_not_what_was_told_first() -> None:
    text = "Here it is, in many words. " * 20
    span = recorded([ANTHROPIC[0], delta(0, type="text_delta", text=text)], ValueError("cut"))

    assert span.usage is not None
    assert span.usage.input_tokens == 25
    assert 100 < span.usage.output_tokens < 400


def test_the_chunks_of_langchain_are_read() -> None:
    messages = pytest.importorskip("langchain_core.messages")
    chunks = [
        messages.AIMessageChunk("Hel", id="run-1"),
        messages.AIMessageChunk("lo", id="run-1"),
        messages.AIMessageChunk("", usage_metadata={"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}),
    ]
    span = recorded(chunks)

    assert (span.reply, span.usage) == ("Hello", Usage(7, 3))


class Strange:
    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


@pytest.mark.parametrize("chunk", [Strange, 7, {"choices": 7}, {"type": 3}, {"choices": [None]}, b"x", None])
def test_chunks_that_cannot_be_read_say_nothing(chunk: Any) -> None:
    span = recorded(["Hel", chunk() if chunk is Strange else chunk, "lo"])

    assert span.reply == "Hello"
    assert span.usage_estimated


def test_a_stream_that_failed_after_chunks_nobody_can_read_is_charged() -> None:
    span = recorded([object()], ValueError("cut"))

    assert span.usage is not None
    assert span.usage.output_tokens == 512


def test_a_whole_answer_in_a_list_is_read() -> None:
    answer = {"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}

    assert recorded([answer]).usage == Usage(1, 2)


def test_a_stream_without_usage_is_charged_as_reserved() -> None:
    with ScriptedServer([reply("Hello", usage=None)]) as server:
        client = Client(server)
        with client.chat:
            span = recorded(list(client.chunks()))

    assert span.usage is not None
    assert (span.reply, span.usage.output_tokens, span.usage_estimated) == ("Hello", 512, True)
