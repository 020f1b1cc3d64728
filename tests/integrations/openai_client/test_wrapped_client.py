"""`pin.wrap(OpenAI())`: the real client, sync and async, against a scripted server that counts what it was asked."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from shearpin import (
    Budget,
    BudgetExceededError,
    EnforcementGapWarning,
    Guard,
    LoopBreaker,
    LoopDetectedError,
    RunStoppedError,
    Trace,
    Usage,
)
from shearpin.testing import Reply, Request, ScriptedServer, Tokens, error, hang, reply, tool_calls
from shearpin.trace import LLMSpan

USED = Tokens(1000, 500, cached=900, reasoning=400)
CALLS = [("search", {"q": "pins"}), ("clock", {})]
SEARCH: Any = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
HELLO: Any = [{"role": "user", "content": "Hello?"}]
PRICES = {"gpt-4o": {"input": 1.0, "output": 1.0}}


class Verdict(BaseModel):
    guilty: bool


def script(request: Request) -> Reply:
    said = str(request.messages)
    if "tools" in said:
        return tool_calls(CALLS, "Looking.", usage=USED, reasoning="Let me see.", model="gpt-4o-2024-08-06")
    if "verdict" in said:
        return reply('{"guilty":true}', usage=USED)
    return reply("one two three", usage=USED)


class Bench:
    """A server, clients of it under a guard, and what the guard saw."""

    def __init__(self, served: Any, *rules: Any, max_retries: int = 0) -> None:
        self.server = ScriptedServer(served)
        self.pin = Guard(*rules, prices=PRICES)
        options: Any = {"base_url": self.server.base_url, "api_key": "any", "max_retries": max_retries}
        self.plain, self.aplain = openai.OpenAI(**options), openai.AsyncOpenAI(**options)
        self.client, self.aclient = self.pin.wrap(self.plain), self.pin.wrap(self.aplain)

    def close(self) -> None:
        self.plain.close()
        self.server.close()

    @property
    def trace(self) -> Trace:
        return self.pin.traces[-1]

    @property
    def calls(self) -> list[LLMSpan]:
        return self.trace.spans_of("llm")

    def ask(self, **options: Any) -> Any:
        return self.client.chat.completions.create(model="gpt-4o", messages=HELLO, **options)


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    opened: list[Bench] = []

    def make(served: Any = script, *rules: Any, **options: Any) -> Bench:
        opened.append(Bench(served, *rules, **options))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


# --- every way to ask


def asked(text: str) -> Any:
    return [{"role": "user", "content": text}]


def with_usage(**options: Any) -> Any:
    return {"model": "gpt-4o", "stream": True, "stream_options": {"include_usage": True}} | options


def create(client: Any, text: str) -> None:
    client.chat.completions.create(model="gpt-4o", messages=asked(text))


def parse(client: Any, text: str) -> None:
    client.chat.completions.parse(model="gpt-4o", messages=asked(text))


def stream(client: Any, text: str) -> None:
    list(client.chat.completions.create(messages=asked(text), **with_usage()))


def stream_in_a_block(client: Any, text: str) -> None:
    with client.chat.completions.create(messages=asked(text), **with_usage()) as chunks:
        for _ in chunks:
            pass


def stream_helper(client: Any, text: str) -> None:
    options: Any = with_usage(messages=asked(text))
    del options["stream"]
    with client.chat.completions.stream(**options) as events:
        events.get_final_completion()


def raw(client: Any, text: str) -> None:
    got = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=asked(text))
    assert got.parse().id == got.parse().id
    assert got.headers["x-request-id"]


def raw_of_the_client(client: Any, text: str) -> None:
    client.with_raw_response.chat.completions.create(model="gpt-4o", messages=asked(text)).parse()


def raw_stream(client: Any, text: str) -> None:
    list(client.chat.completions.with_raw_response.create(messages=asked(text), **with_usage()).parse())


def streaming_response(client: Any, text: str) -> None:
    with client.chat.completions.with_streaming_response.create(model="gpt-4o", messages=asked(text)) as got:
        got.parse()
        got.parse()


def streaming_response_of_a_stream(client: Any, text: str) -> None:
    with client.chat.completions.with_streaming_response.create(messages=asked(text), **with_usage()) as got:
        assert "data: [DONE]" in list(got.iter_lines())


def with_options(client: Any, text: str) -> None:
    client.with_options(timeout=5).copy(max_retries=0).chat.completions.create(model="gpt-4o", messages=asked(text))


def posted(client: Any, text: str) -> None:
    client.post("/chat/completions", body={"model": "gpt-4o", "messages": asked(text)}, cast_to=object)


def respond(client: Any, text: str) -> None:
    client.responses.create(model="gpt-4o", input=text)


def respond_parsed(client: Any, text: str) -> None:
    client.responses.parse(model="gpt-4o", input=text)


def respond_raw(client: Any, text: str) -> None:
    client.responses.with_raw_response.create(model="gpt-4o", input=asked(text)).parse()


def respond_stream(client: Any, text: str) -> None:
    list(client.responses.create(model="gpt-4o", input=text, stream=True))


def respond_stream_helper(client: Any, text: str) -> None:
    with client.responses.stream(model="gpt-4o", input=text) as events:
        events.get_final_response()


CHATS = [create, parse, stream, stream_in_a_block, stream_helper, raw, raw_of_the_client, raw_stream]
CHATS += [streaming_response, streaming_response_of_a_stream, with_options, posted]
RESPONSES = [respond, respond_parsed, respond_raw, respond_stream, respond_stream_helper]
WAYS = CHATS + RESPONSES
STREAMS = [way for way in WAYS if "stream" in way.__name__ and way is not streaming_response]
EVERYDAY = (create, stream, respond, respond_stream_helper)


def seldom(ways: list[Any]) -> list[Any]:
    """All these ways: those that are not asked for every day are slow tests."""
    return [way if way in EVERYDAY else pytest.param(way, marks=pytest.mark.slow) for way in ways]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_ask_is_one_call_that_is_recorded_whole(bench: Any, way: Any) -> None:
    b = bench()
    with b.pin.run("ask"):
        way(b.client, "tools")

    (call,) = b.calls
    assert b.server.served == b.trace.llm_calls == b.trace.steps == 1
    assert (call.status, call.name, call.request_model, call.response_model, call.provider) == (
        ("ok", "gpt-4o", "gpt-4o", "gpt-4o-2024-08-06", "openai")
    )
    assert call.messages == asked("tools")
    assert (call.reply, call.reasoning) == ("Looking.", "Let me see.")
    assert [(made["name"], made["arguments"]) for made in call.tool_calls] == CALLS
    assert call.finish_reason == ("completed" if way in RESPONSES else "tool_calls")
    assert (call.response_id or "")[:5] in ("chatc", "resp_")
    assert call.usage == Usage(1000, 500, 900, reasoning_tokens=400, cost_usd=pytest.approx(0.0015))
    assert call.usage_estimated is False
    assert (call.time_to_first_token_ns is not None) == (way in STREAMS)


@pytest.mark.parametrize("way", seldom(WAYS))
def test_a_refused_call_is_not_sent(bench: Any, way: Any) -> None:
    b = bench(script, Budget(llm_calls=1))
    with pytest.raises(BudgetExceededError) as stopped, b.pin.run("ask"):
        way(b.client, "tools")
        way(b.client, "tools")

    assert stopped.value.unit == "llm_calls"
    assert (b.server.count(), len(b.calls), b.trace.status) == (1, 1, "stopped")


@pytest.mark.parametrize("way", seldom(WAYS))
def test_a_call_that_failed_is_given_back(bench: Any, way: Any) -> None:
    b = bench([error(500), reply("at last", usage=USED)])
    with b.pin.run("ask") as run:
        with pytest.raises(openai.InternalServerError):
            way(b.client, "tools")
        way(b.client, "tools")
        assert run.usage.total_tokens == 1500

    assert [call.status for call in b.calls] == ["error", "ok"]
    assert b.calls[0].error.type == "InternalServerError"


@pytest.mark.parametrize("way", [create, stream, respond, respond_stream_helper])
def test_the_retries_of_one_call_are_one_call(bench: Any, way: Any) -> None:
    b = bench([error(429, retry_after=0.01), error(500, retry_after=0.01), reply("x", usage=USED)], max_retries=2)
    with b.pin.run("ask"):
        way(b.client, "Hi")

    assert (b.server.count(), b.trace.llm_calls, b.calls[0].status) == (3, 1, "ok")


# --- what was asked


def test_what_was_asked_is_recorded(bench: Any) -> None:
    b = bench()
    options: Any = {"temperature": 0.5, "max_completion_tokens": 77, "seed": 3, "tools": [SEARCH]}
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q":1}'}}
    said: Any = [
        {"role": "system", "content": "Be short."},
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
    ]
    with b.pin.run("ask"):
        b.client.chat.completions.create(model="gpt-4o", messages=said, extra_body={"max_tokens": 9}, **options)

    (span,) = b.calls
    assert (span.temperature, span.max_tokens, span.seed, span.tools) == (0.5, 77, 3, [SEARCH])
    assert span.messages == [
        *said[:2],
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "name": "search", "arguments": {"q": 1}}]},
        {"role": "tool", "content": "found", "tool_call_id": "c1"},
    ]


def test_what_was_asked_of_a_response_is_recorded_in_the_same_shape(bench: Any) -> None:
    b = bench()
    calls: Any = [
        {"type": "function_call", "call_id": name, "name": "search", "arguments": '{"q":1}'} for name in ("c1", "c2")
    ]
    outputs: Any = [{"type": "function_call_output", "call_id": name, "output": "found"} for name in ("c1", "c2")]
    with b.pin.run("ask"):
        b.client.responses.create(
            model="gpt-4o", instructions="Be short.", input=[*HELLO, *calls, *outputs], max_output_tokens=77
        )

    (span,) = b.calls
    made = [{"id": name, "name": "search", "arguments": {"q": 1}} for name in ("c1", "c2")]
    assert span.max_tokens == 77
    assert span.messages == [
        {"role": "system", "content": "Be short."},
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": made},
        {"role": "tool", "content": "found", "tool_call_id": "c1"},
        {"role": "tool", "content": "found", "tool_call_id": "c2"},
    ]


def test_embeddings_are_counted(bench: Any) -> None:
    b = bench()
    with b.pin.run("ask"):
        b.client.embeddings.create(model="e", input=["pin", "bolt"])
        b.client.embeddings.create(model="e", input=[1, 2, 3])

    first, second = b.trace.spans_of("embedding")
    assert (first.name, first.messages, first.usage.input_tokens) == ("e", ["pin", "bolt"], 2)
    assert (second.messages, second.usage.input_tokens, first.usage_estimated) == ([[1, 2, 3]], 3, False)


def test_azure_is_said_to_be_azure(bench: Any) -> None:
    b = bench()
    azure = b.pin.wrap(
        openai.AzureOpenAI(base_url=b.server.base_url, api_key="any", api_version="2024-10-21", max_retries=0)
    )
    with b.pin.run("ask"):
        azure.with_options(timeout=3).responses.create(model="gpt-4o", input="Hi")
    azure.close()

    assert isinstance(azure, openai.AzureOpenAI)
    assert (b.calls[0].provider, b.calls[0].reply) == ("azure", "one two three")


# --- streams that do not end


def test_a_stream_whose_usage_nobody_asked_for_is_charged_at_the_estimate(bench: Any) -> None:
    b = bench()
    with b.pin.run("ask"):
        list(b.ask(stream=True, max_tokens=77))

    assert (b.calls[0].reply, b.calls[0].usage_estimated, b.calls[0].usage.output_tokens) == ("one two three", True, 77)


@pytest.mark.parametrize("leave", ["close", "break", "block", "raise"])
def test_a_stream_that_is_left_early_is_charged_what_came(bench: Any, leave: str) -> None:
    b = bench([reply("word " * 50, chunk_delay=0.01)])
    with b.pin.run("ask"):
        if leave == "close":
            chunks = b.ask(stream=True)
            first(chunks)
            chunks.close()
        elif leave == "break":
            first(b.ask(stream=True))
            gc.collect()
        elif leave == "block":
            with b.ask(stream=True) as chunks:
                first(chunks)
        else:
            with pytest.raises(LookupError), b.client.responses.stream(model="gpt-4o", input="Hi") as events:
                for event in events:
                    if event.type == "response.output_text.delta":
                        raise LookupError
        assert not b.pin.active[0].tree.journal.open.keys() - {b.pin.active[0].span.span_id}

    (call,) = b.calls
    assert (call.status, call.error, call.was_cut, call.usage_estimated) == ("cancelled", None, True, True)
    assert call.reply.startswith("word ")
    assert 0 < call.usage.output_tokens < 20


def first(chunks: Any) -> None:
    for chunk in chunks:
        if chunk.choices[0].delta.content:
            return


def test_a_stream_that_nobody_reads_is_charged_at_the_estimate_once_it_is_gone(bench: Any) -> None:
    b = bench()
    with b.pin.run("ask") as run:
        b.ask(stream=True, max_tokens=7)
        gc.collect()
        assert run.usage.output_tokens == 7

    assert b.calls[0].status == "cancelled"


@pytest.mark.parametrize("way", seldom(STREAMS))
def test_a_stream_that_breaks_is_charged_what_came(bench: Any, way: Any) -> None:
    b = bench([reply("word " * 20, cut_after=9)])
    with b.pin.run("ask"), pytest.raises(Exception, match=r"closed|incomplete|Connection"):
        way(b.client, "Hi")

    (call,) = b.calls
    assert (call.status, call.was_cut, call.reply.startswith("word ")) == ("error", True, True)
    assert 0 < call.usage.output_tokens < 20


@pytest.mark.parametrize("way", seldom(STREAMS))
def test_a_stream_that_breaks_before_anything_came_is_given_back(bench: Any, way: Any) -> None:
    b = bench([reply("word " * 20, cut_after=1)])
    with b.pin.run("ask"), pytest.raises(Exception, match=r"closed|incomplete|Connection"):
        way(b.client, "Hi")

    assert (b.calls[0].status, b.trace.usage.total_tokens) == ("error", 0)


def test_a_stream_whose_usage_comes_after_the_caller_left_was_whole(bench: Any) -> None:
    b = bench()
    with b.pin.run("ask"):
        for chunk in b.ask(stream=True):
            if chunk.choices[0].finish_reason:
                break
        gc.collect()

    assert (b.calls[0].status, b.calls[0].reply, b.calls[0].finish_reason) == ("ok", "one two three", "stop")


def test_a_stopped_run_pulls_nothing_more_out_of_a_stream(bench: Any) -> None:
    b = bench([reply("word " * 50, chunk_delay=0.01)])
    with pytest.raises(RunStoppedError, match="enough"), b.pin.run("ask") as run:
        for chunk in b.ask(stream=True):
            if chunk.choices[0].delta.content:
                run.stop("enough")

    assert (b.calls[0].status, b.calls[0].was_cut) == ("stopped", True)
    assert b.server.wait_idle()
    assert b.server.disconnects == 1


def test_streams_in_parallel_do_not_mix(bench: Any) -> None:
    b = bench(lambda request: reply(f"{request.messages[-1]['content']} " * 3, usage=(1, 1)))

    def ask(name: str) -> None:
        with b.pin.run(name):
            list(b.client.chat.completions.create(messages=asked(name), **with_usage()))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, [f"run{number}" for number in range(24)]))

    assert all(trace.spans_of("llm")[0].reply == f"{trace.name} " * 3 for trace in b.pin.traces)
    assert len(b.pin.traces) == b.server.served == 24


# --- answers that were paid for and not used


def test_an_answer_that_was_too_long_to_be_parsed_is_paid(bench: Any) -> None:
    b = bench([reply('{"gui', finish_reason="length", usage=USED)])
    with b.pin.run("ask"), pytest.raises(openai.LengthFinishReasonError):
        b.client.chat.completions.parse(model="gpt-4o", messages=HELLO, response_format=Verdict)

    (call,) = b.calls
    assert (call.status, call.reply, call.finish_reason, call.usage.input_tokens) == ("error", '{"gui', "length", 1000)


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_an_answer_that_does_not_fit_its_schema_is_paid(bench: Any, api: str) -> None:
    b = bench([reply("guilty", usage=USED)])
    with b.pin.run("ask"), pytest.raises(ValueError, match="Verdict"):
        if api == "chat":
            b.client.chat.completions.parse(model="gpt-4o", messages=HELLO, response_format=Verdict)
        else:
            b.client.responses.parse(model="gpt-4o", input="Hi", text_format=Verdict)

    assert (b.calls[0].status, b.calls[0].reply, b.trace.usage.total_tokens) == ("error", "guilty", 1500)


def test_an_answer_that_fits_its_schema_is_handed_on(bench: Any) -> None:
    b = bench()
    with b.pin.run("ask"):
        chat = b.client.chat.completions.parse(model="gpt-4o", messages=asked("verdict"), response_format=Verdict)
        response = b.client.responses.parse(model="gpt-4o", input="verdict", text_format=Verdict)

    assert chat.choices[0].message.parsed == response.output_parsed == Verdict(guilty=True)


def test_a_provider_that_does_not_answer_in_time_is_given_back(bench: Any) -> None:
    b = bench([hang()])
    with b.pin.run("ask"), pytest.raises(openai.APITimeoutError):
        b.ask(timeout=0.1)

    assert (b.calls[0].status, b.trace.usage.total_tokens) == ("error", 0)


# --- where the calls belong


def test_outside_of_any_run_calls_add_up_in_the_ambient_one(bench: Any) -> None:
    b = bench(script, Budget(llm_calls=2))
    b.ask()
    b.ask()
    with pytest.raises(BudgetExceededError):
        b.ask()
    with pytest.raises(BudgetExceededError):
        b.pin.close()

    assert (b.server.count(), b.trace.llm_calls, b.trace.name) == (2, 2, "ambient")


def test_a_loop_of_the_same_question_and_answer_is_broken(bench: Any) -> None:
    b = bench(lambda _: reply("one two three", usage=USED), LoopBreaker())
    with pytest.raises(LoopDetectedError), b.pin.run("ask"):
        for _ in range(100):
            b.ask()

    assert b.server.served < 10


def test_calls_and_tools_are_one_step(bench: Any) -> None:
    b = bench()

    @b.pin.tool
    def search(q: str) -> str:
        return q

    with b.pin.run("ask"):
        for _ in range(2):
            chat = b.client.chat.completions.create(model="gpt-4o", messages=asked("tools"))
            call = chat.choices[0].message.tool_calls[0]
            with b.pin.active[0].tool(call.function.name, {"q": "pins"}, call_id=call.id):
                search("pins")

    assert (b.trace.steps, b.trace.llm_calls) == (2, 2)


def test_the_original_stays_unguarded_and_nothing_is_lost(bench: Any) -> None:
    b = bench(script, Budget(llm_calls=1))
    assert type(b.client) is openai.OpenAI
    assert isinstance(b.aclient, openai.AsyncOpenAI)
    assert b.client is not b.plain
    assert vars(b.plain).keys() & {"request", "copy", "with_options"} == set()
    kept = ("api_key", "base_url", "timeout", "max_retries", "organization", "default_query")
    assert [getattr(b.client, name) for name in kept] == [getattr(b.plain, name) for name in kept]
    with b.pin.run("ask"):
        b.ask()
        for _ in range(2):
            b.plain.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert "gpt-4o" in [model.id for model in b.client.models.list()]
    assert (b.server.served, b.trace.llm_calls) == (3, 1)


def test_a_client_whose_parts_were_used_before_is_wrapped_whole(bench: Any) -> None:
    b = bench()
    b.plain.chat.completions.create(model="gpt-4o", messages=HELLO)
    respond(b.plain, "Hi")
    raw_of_the_client(b.plain, "Hi")
    client = b.pin.wrap(b.plain)
    with b.pin.run("ask"):
        for way in (create, respond, raw_of_the_client):
            way(client, "Hi")

    assert b.trace.llm_calls == 3


def test_wrapped_twice_a_client_counts_once_for_each_guard(bench: Any) -> None:
    b = bench()
    other = Guard()
    client = other.wrap(b.pin.wrap(b.client)).with_options(timeout=3)
    with b.pin.run("ask"), other.run("ask"):
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
        list(client.chat.completions.create(messages=HELLO, **with_usage()))

    assert b.server.served == 2
    for pin in (b.pin, other):
        calls = pin.traces[-1].spans_of("llm")
        assert [(call.reply, call.usage.output_tokens) for call in calls] == [("one two three", 500)] * 2


def test_a_call_in_a_block_of_its_own_is_not_counted_twice(bench: Any) -> None:
    b = bench()

    @b.pin.llm(model="gpt-4o")
    def ask(prompt: str) -> Any:
        return b.client.chat.completions.create(model="gpt-4o", messages=asked(prompt))

    with b.pin.run("ask") as run:
        ask("Hi")
        with run.llm(model="gpt-4o", messages="Hi") as call:
            call.response = b.ask()
        b.ask()

    assert (b.server.served, b.trace.llm_calls, b.trace.usage.input_tokens) == (3, 3, 3000)


def test_anything_but_a_client_is_refused() -> None:
    wrap: Any = Guard().wrap
    for wrong in (None, openai, openai.OpenAI, "gpt-4o", SimpleNamespace(chat=1, request=2)):
        with pytest.raises(TypeError, match=r"pin.wrap takes a client of the openai package: pin.wrap\(OpenAI\(\)\)"):
            wrap(wrong)


# --- what it does not see


def test_what_costs_money_unseen_is_said_once_and_noted_in_every_trace(bench: Any) -> None:
    b = bench()
    for _ in range(2):
        with b.pin.run("draw"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                with pytest.raises(openai.NotFoundError):
                    b.client.images.generate(prompt="a pin")
        (gap,) = b.trace.gaps
        assert "/images/generations costs money" in gap
        assert [str(warning.message) for warning in caught] == [gap][: len(b.pin.traces) == 1]
        assert all(warning.category is EnforcementGapWarning for warning in caught)


@pytest.mark.parametrize(
    ("use", "named"),
    [
        (lambda client: client.audio.speech.create(model="m", voice="v", input="x"), "/audio/speech"),
        (lambda client: client.batches.create(completion_window="24h", endpoint="e", input_file_id="f"), "/batches"),
        (lambda client: client.realtime.client_secrets.create(), "/realtime/client_secrets"),
    ],
)
def test_what_is_not_counted_is_named(bench: Any, use: Any, named: str) -> None:
    b = bench()
    with b.pin.run("use"), pytest.warns(EnforcementGapWarning, match=named), pytest.raises(openai.NotFoundError):
        use(b.client)


def test_a_socket_of_its_own_is_named(bench: Any) -> None:
    b = bench()
    with b.pin.run("talk"), pytest.warns(EnforcementGapWarning, match=r"realtime\.connect"):
        b.client.realtime.connect(model="gpt-realtime")


def test_other_requests_pass(bench: Any) -> None:
    b = bench()
    with b.pin.run("use"):
        with pytest.raises(openai.NotFoundError):
            b.client.moderations.create(input="x")
        with pytest.raises(openai.NotFoundError):
            b.client.chat.completions.retrieve("id")

    assert (b.trace.gaps, len(b.trace.spans)) == ([], 1)


@pytest.mark.parametrize("streamed", [True, False])
def test_the_old_completions_are_counted_where_a_server_still_has_them(bench: Any, streamed: bool) -> None:
    b = bench()
    with b.pin.run("ask"), pytest.raises(openai.NotFoundError):
        b.client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Say", stream=streamed, max_tokens=5)

    (call,) = b.calls
    assert (call.messages, call.max_tokens, call.status) == ([{"role": "user", "content": "Say"}], 5, "error")


# --- async


async def acreate(client: Any) -> None:
    await client.chat.completions.create(model="gpt-4o", messages=asked("tools"))


async def astream(client: Any) -> None:
    async for _ in await client.chat.completions.create(messages=asked("tools"), **with_usage()):
        pass


async def araw(client: Any) -> None:
    (await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=asked("tools"))).parse()


async def araw_stream(client: Any) -> None:
    got = await client.chat.completions.with_raw_response.create(messages=asked("tools"), **with_usage())
    async for _ in got.parse():
        pass


async def astreaming_response(client: Any) -> None:
    async with client.responses.with_streaming_response.create(model="gpt-4o", input="tools") as got:
        await got.parse()


async def astream_helper(client: Any) -> None:
    async with client.responses.stream(model="gpt-4o", input="tools") as events:
        await events.get_final_response()


AWAYS = [acreate, astream, araw, araw_stream, astreaming_response, astream_helper]


@pytest.mark.parametrize("way", AWAYS)
async def test_the_async_client_is_recorded_alike(bench: Any, way: Any) -> None:
    b = bench()
    async with b.pin.run("ask"), b.aclient:
        await way(b.aclient)

    (call,) = b.calls
    assert (b.server.served, call.status, call.reply, call.reasoning) == (1, "ok", "Looking.", "Let me see.")
    assert [made["name"] for made in call.tool_calls] == ["search", "clock"]
    assert (call.usage.input_tokens, call.usage.output_tokens) == (1000, 500)


@pytest.mark.parametrize("way", AWAYS)
async def test_a_refused_async_call_is_not_sent(bench: Any, way: Any) -> None:
    b = bench(script, Budget(llm_calls=1))
    with pytest.raises(BudgetExceededError):
        async with b.pin.run("ask"), b.aclient:
            await way(b.aclient)
            await way(b.aclient)

    assert b.server.count() == 1


async def test_an_async_call_waits_for_those_in_flight(bench: Any) -> None:
    served = lambda _: reply("x", usage=(1, 1), delay=0.02)  # noqa: E731
    b = bench(served, Budget(tokens=3000, expected_output_tokens=512))

    async with b.pin.run("ask"), b.aclient:
        await asyncio.gather(
            *(b.aclient.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=1000) for _ in range(8))
        )

    assert (b.server.served, b.server.peak_in_flight, b.trace.status) == (8, 2, "ok")


async def test_an_async_call_that_is_cancelled_is_charged_at_the_estimate(bench: Any) -> None:
    b = bench([hang()])
    async with b.pin.run("ask"), b.aclient:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await b.aclient.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=7)

    assert (b.calls[0].status, b.calls[0].usage.output_tokens) == ("cancelled", 7)


async def test_an_async_stream_that_is_left_early_is_charged_what_came(bench: Any) -> None:
    b = bench([reply("word " * 50, chunk_delay=0.01)])
    async with b.pin.run("ask"), b.aclient.responses.stream(model="gpt-4o", input="Hi") as events:
        async for event in events:
            if event.type == "response.output_text.delta":
                break
    await b.aclient.close()

    (call,) = b.calls
    assert (call.status, call.was_cut, call.reply.startswith("word ")) == ("cancelled", True, True)


# --- exactness


def test_twenty_parallel_calls_with_money_for_three_are_three(bench: Any) -> None:
    b = bench(lambda _: reply("x", usage=USED), Budget(llm_calls=3))
    together = threading.Barrier(20)
    stops: list[BaseException] = []

    def ask(run: Any) -> None:
        together.wait()
        try:
            with run.step("ask"):
                b.ask()
        except RunStoppedError as stop:
            stops.append(stop)

    with pytest.raises(BudgetExceededError), b.pin.run("ask") as run, ThreadPoolExecutor(20) as pool:
        list(pool.map(ask, [run] * 20))

    assert (b.server.count(), len(stops), len(set(map(id, stops)))) == (3, 17, 1)
