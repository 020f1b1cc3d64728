"""OpenAI's response bodies: replies as the bytes a client reads."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import struct
from collections.abc import Iterator, Sequence
from itertools import count, pairwise
from typing import Any, cast

from shearpin.testing.answer import Answer
from shearpin.testing.script import NO_TOKENS, Completion, Failure, Request, Tokens, ToolCall
from shearpin.trace import source

MODELS = ("gpt-4o", "gpt-4o-mini", "text-embedding-3-small")

_PIECE = re.compile(r"\w+\W*|\W+")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_FINGERPRINT = "fp_7e0aa31b9c"


class Ids:
    """New ids for one server: unlike those of any other server, unless both were given the same seed."""

    def __init__(self, seed: str) -> None:
        self._prefix = hashlib.sha256(seed.encode()).hexdigest()[:16]
        self._numbers = count(1)

    def new(self, kind: str) -> str:
        return f"{kind}{self._prefix}{next(self._numbers):08d}"


def failure(failed: Failure) -> Answer:
    body = {"error": {"message": failed.message, "type": failed.type, "param": failed.param, "code": failed.code}}
    headers: dict[str, str] = {}
    if failed.retry_after is not None:
        # Retry-After counts whole seconds; OpenAI's clients prefer the finer header beside it.
        headers["retry-after"] = str(math.ceil(failed.retry_after))
        headers["retry-after-ms"] = f"{failed.retry_after * 1000:g}"
    return Answer(failed.status, [_json(body)], headers, delay=failed.delay)


def completion(reply: Completion, request: Request, ids: Ids) -> Answer:
    """The reply as the request wants it: one body, or a stream of events."""
    draft = _Draft(reply, request, ids)
    pieces = list(draft.events()) if request.stream else [draft.whole()]
    answer = Answer(200, pieces, stream=request.stream, delay=reply.delay, pause=reply.chunk_delay)
    answer.tokens = draft.tokens or NO_TOKENS
    answer.broken = reply.cut_after is not None
    if request.stream:
        answer.pieces = answer.pieces[: reply.cut_after]
    return answer


class _Draft:
    """One completion while it is written down."""

    def __init__(self, reply: Completion, request: Request, ids: Ids) -> None:
        self.reply = reply
        self.tokens = _tokens(reply, request)
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
        if self.calls:
            message["tool_calls"] = self.calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(self.reply)}
        usage = {} if self.tokens is None else {"usage": _usage(self.tokens)}
        return _json(self.body | {"choices": [choice]} | usage)

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
        return b"data: " + _json(body | {"usage": usage} if self.reports_usage else body) + b"\n\n"

    def _deltas(self) -> Iterator[dict[str, Any]]:
        text, chunks = self.reply.text, self.reply.chunks
        yield {"role": "assistant", "content": None if text is None else "", "refusal": None}
        for piece in _cut(text or "", chunks):
            yield {"content": piece}
        for index, call in enumerate(self.calls):
            arguments = call["function"]["arguments"]
            start = call | {"function": call["function"] | {"arguments": ""}}
            yield {"tool_calls": [{"index": index} | start]}
            for piece in _cut(arguments, chunks if isinstance(chunks, int) else None):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _streamed_choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _call(call: ToolCall, ids: Ids) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_json}
    return {"id": call.id or ids.new("call_"), "type": "function", "function": function}


def _cut(text: str, chunks: int | Sequence[str] | None) -> list[str]:
    if chunks is None:
        return _PIECE.findall(text)
    if isinstance(chunks, int):
        bounds = [len(text) * piece // chunks for piece in range(chunks + 1)]
        return [text[start:end] for start, end in pairwise(bounds) if start < end]
    return list(chunks)


def _finish(reply: Completion) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def _wants_usage(request: Request) -> bool:
    options = request.body.get("stream_options")
    return isinstance(options, dict) and bool(cast("dict[str, Any]", options).get("include_usage"))


def _tokens(reply: Completion, request: Request) -> Tokens | None:
    if reply.usage is None or isinstance(reply.usage, tuple):
        return None if reply.usage is None else Tokens(*reply.usage)
    asked = len(_json([request.messages, request.tools]))
    said = len(reply.text or "") + sum(len(call.name) + len(call.arguments_json) for call in reply.tool_calls)
    return Tokens(max(1, asked // 4), max(1, said // 4))


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


def models(_: Request) -> Answer:
    kind = {"object": "model", "created": 1_700_000_000, "owned_by": "scripted"}
    return Answer(200, [_json({"object": "list", "data": [{"id": name} | kind for name in MODELS]})])


def embeddings(request: Request) -> Answer:
    """The same vector for the same input, always: of length 1, and 8 numbers if no `dimensions` are given."""
    inputs = _inputs(request.body.get("input"))
    size, packed = int(request.body.get("dimensions") or 8), request.body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _pack(vector) if packed else vector}
        for index, vector in enumerate(_vector(item, size) for item in inputs)
    ]
    used = sum(map(_length, inputs))
    usage = {"prompt_tokens": used, "total_tokens": used}
    body = {"object": "list", "data": data, "model": request.model, "usage": usage}
    return Answer(200, [_json(body)], tokens=Tokens(input=used))


def _inputs(given: object) -> list[object]:
    """One text, texts, one list of token numbers, or several: always as a list of inputs."""
    several = cast("list[object]", given) if isinstance(given, list) else []
    return [given] if all(isinstance(item, int) for item in several) else several


def _length(item: object) -> int:
    return len(cast("list[int]", item)) if isinstance(item, list) else max(1, len(str(item)) // 4)


def _vector(item: object, size: int) -> list[float]:
    raw = hashlib.shake_128(json.dumps(item).encode()).digest(2 * size)
    numbers = [value / 32768 for value in struct.unpack(f"<{size}h", raw)]
    length = math.hypot(*numbers) or 1.0
    return [number / length for number in numbers]


def _pack(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _json(value: object) -> bytes:
    return _encode(value).encode()
