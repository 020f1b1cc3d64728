"""What servers other than the scripted one do: the real client over a transport that answers with given bytes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from shearpin import Guard
from shearpin.trace import LLMSpan

HELLO: Any = [{"role": "user", "content": "Hello?"}]
USED = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chunk(**fields: Any) -> dict[str, Any]:
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"} | fields


def said(text: str, finish: str | None = None) -> dict[str, Any]:
    return chunk(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


def events(*bodies: Any, end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(b"data: " + json.dumps(body).encode() + b"\r\n\r\n" for body in bodies) + end


class Pieces(httpx.SyncByteStream):
    """A body that comes in pieces of seven bytes, so that no event comes whole."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), 7):
            yield self._body[start : start + 7]


def ask(use: Callable[[openai.OpenAI], object], body: bytes, **headers: str) -> LLMSpan:
    """The span of the one call that `use` makes of a server that answers with `body`."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=headers, stream=Pieces(body))

    pin = Guard()
    transport = httpx.MockTransport(answer)
    options: Any = {"http_client": httpx.Client(transport=transport)}
    with openai.OpenAI(api_key="any", max_retries=0, **options) as plain, pin.run("ask"):
        use(pin.wrap(plain))
    (call,) = pin.traces[-1].spans_of("llm")
    return call


def stream(client: openai.OpenAI) -> None:
    list(client.chat.completions.create(model="m", messages=HELLO, stream=True))


def asked(use: Callable[[openai.OpenAI], object], body: bytes) -> LLMSpan:
    return ask(use, body, **{"content-type": "text/event-stream"})


def test_events_that_come_in_pieces_are_heard_whole() -> None:
    call = asked(stream, events(said("é"), said("one"), said("", "stop"), chunk(choices=[], usage=USED)))

    assert (call.status, call.reply, call.finish_reason, call.response_id) == ("ok", "éone", "stop", "c1")
    assert (call.usage.total_tokens, call.usage_estimated) == (5, False)


def test_a_stream_that_ends_without_its_mark_has_ended() -> None:
    call = asked(stream, events(said("one"), end=b""))

    assert (call.status, call.reply) == ("ok", "one")


def test_an_error_in_the_middle_of_a_stream_is_the_calls_error_and_what_came_is_paid() -> None:
    def use(client: openai.OpenAI) -> None:
        with pytest.raises(openai.APIError, match="overloaded"):
            stream(client)

    call = asked(use, events(said("one"), {"error": {"message": "overloaded"}}))
    before = asked(use, events({"error": {"message": "overloaded"}}))

    assert (call.status, call.error.message, call.reply, call.was_cut) == ("error", "overloaded", "one", True)
    assert 0 < call.usage.output_tokens < 10
    assert (before.status, before.usage) == ("error", None)


def test_a_stream_that_is_no_json_hurts_only_the_client() -> None:
    def use(client: openai.OpenAI) -> None:
        with pytest.raises(json.JSONDecodeError):
            stream(client)

    assert asked(use, events(said("one"), end=b"data: {broken\n\n")).reply == "one"
    assert asked(use, b"data: {broken\n\n").status == "cancelled"


def test_the_first_of_several_answers_is_told() -> None:
    other = chunk(choices=[{"index": 1, "delta": {"content": "two"}, "finish_reason": None}])

    assert asked(stream, events(said("one"), other, said("", "stop"))).reply == "one"


def test_a_failed_response_is_an_answer() -> None:
    response = {"id": "r1", "object": "response", "status": "failed", "model": "m", "output": [], "usage": None}
    failed = {"type": "response.failed", "response": response}

    call = asked(lambda client: list(client.responses.create(model="m", input="Hi", stream=True)), events(failed))

    assert (call.status, call.finish_reason, call.usage_estimated) == ("ok", "failed", True)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_old_completions_are_read(streamed: bool) -> None:
    def use(client: openai.OpenAI) -> None:
        made: Any = client.completions.create(model="m", prompt=["Say", "it"], stream=streamed)
        list(made)

    choice = {"index": 0, "text": "one", "finish_reason": "stop", "logprobs": None}
    whole = chunk(object="text_completion", choices=[choice], usage=USED)
    call = asked(use, events(whole)) if streamed else ask(use, json.dumps(whole).encode())

    assert (call.status, call.reply, call.finish_reason, call.usage.total_tokens) == ("ok", "one", "stop", 5)
    assert [message["content"] for message in call.messages] == ["Say", "it"]


def test_a_compressed_body_is_read_on_its_way() -> None:
    def use(client: openai.OpenAI) -> None:
        with client.chat.completions.with_streaming_response.create(model="m", messages=HELLO) as got:
            assert json.loads(got.read())["id"] == "c1"

    body = chunk(choices=[{"index": 0, "message": {"content": "one"}, "finish_reason": "stop"}], usage=USED)
    call = ask(use, gzip.compress(json.dumps(body).encode()), **{"content-encoding": "gzip"})

    assert (call.status, call.reply, call.usage.total_tokens) == ("ok", "one", 5)


def test_a_body_that_nobody_reads_is_charged_at_the_estimate() -> None:
    def use(client: openai.OpenAI) -> None:
        with client.chat.completions.with_streaming_response.create(model="m", messages=HELLO, max_tokens=7):
            pass

    call = ask(use, b"{}")

    assert (call.status, call.usage.output_tokens, call.usage_estimated) == ("cancelled", 7, True)


def test_a_compacted_conversation_is_counted() -> None:
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    body = {"id": "r1", "object": "response.compaction", "created_at": 1, "output": [], "usage": usage}

    call = ask(lambda client: client.responses.compact(model="m", input="Hi"), json.dumps(body).encode())

    assert (call.status, call.request_model, call.usage.total_tokens) == ("ok", "m", 5)
