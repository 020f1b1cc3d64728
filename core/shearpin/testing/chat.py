"""OpenAI's chat completions: replies as the bytes a client reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from shearpin.testing.answer import Answer
from shearpin.testing.request import Request
from shearpin.testing.script import Completion, Tokens, ToolCall
from shearpin.testing.wire import Ids, answered, as_json, cut, tokens_of
from shearpin.trace import source

_FINGERPRINT = "fp_7e0aa31b9c"


def completion(reply: Completion, request: Request, ids: Ids) -> Answer:
    """The reply as the request wants it: one body, or a stream of events."""
    draft = _Draft(reply, request, ids)
    pieces = list(draft.events()) if request.stream else [draft.whole()]
    return answered(reply, request, pieces, draft.tokens)


class _Draft:
    """One completion while it is written down."""

    def __init__(self, reply: Completion, request: Request, ids: Ids) -> None:
        self.reply = reply
        self.tokens = tokens_of(reply, request)
        self.reports_usage = self.tokens is not None and _wants_usage(request)
        self.calls = [_call(call, ids) for call in reply.tool_calls]
        self.body: dict[str, Any] = {
            "id": ids.new("chatcmpl-"),
            "object": "chat.completion.chunk" if request.stream else "chat.completion",
            "created": source.wall_ns() // 1_000_000_000,
            "model": reply.model or request.model,
            "service_tier": "default",
            "system_fingerprint": _FINGERPRINT,
        }

    def whole(self) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": self.reply.text, "refusal": None}
        if self.reply.reasoning is not None:
            message["reasoning_content"] = self.reply.reasoning
        if self.calls:
            message["tool_calls"] = self.calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(self.reply)}
        usage = {} if self.tokens is None else {"usage": _usage(self.tokens)}
        return as_json(self.body | {"choices": [choice]} | usage)

    def events(self) -> Iterator[bytes]:
        """Server-sent events; usage comes last, without choices, and only to those who asked for it."""
        for delta in self._deltas():
            yield self._event([_streamed_choice(delta, None)])
        yield self._event([_streamed_choice({}, _finish(self.reply))])
        if self.reports_usage and self.tokens is not None:
            yield self._event([], _usage(self.tokens))
        yield b"data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        body = self.body | {"choices": choices}
        return b"data: " + as_json(body | {"usage": usage} if self.reports_usage else body) + b"\n\n"

    def _deltas(self) -> Iterator[dict[str, Any]]:
        text, chunks = self.reply.text, self.reply.chunks
        yield {"role": "assistant", "content": None if text is None else "", "refusal": None}
        for piece in cut(self.reply.reasoning or "", None):
            yield {"reasoning_content": piece}
        for piece in cut(text or "", chunks):
            yield {"content": piece}
        for index, call in enumerate(self.calls):
            arguments = call["function"]["arguments"]
            start = call | {"function": call["function"] | {"arguments": ""}}
            yield {"tool_calls": [{"index": index} | start]}
            for piece in cut(arguments, chunks if isinstance(chunks, int) else None):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _streamed_choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _call(call: ToolCall, ids: Ids) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_json}
    return {"id": call.id or ids.new("call_"), "type": "function", "function": function}


def _finish(reply: Completion) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def _wants_usage(request: Request) -> bool:
    options = request.body.get("stream_options")
    return isinstance(options, dict) and bool(cast("dict[str, Any]", options).get("include_usage"))


def _usage(tokens: Tokens) -> dict[str, Any]:
    cached = {"cached_tokens": tokens.cached}
    if tokens.cache_write:  # absent from most models' answers, so a client must not count on it
        cached["cache_write_tokens"] = tokens.cache_write
    return {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": cached | {"audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
