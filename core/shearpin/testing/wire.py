"""What the bodies of all endpoints are made with: ids, errors, pieces of text, JSON."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from itertools import count, pairwise

from shearpin.testing.answer import Answer
from shearpin.testing.request import Request
from shearpin.testing.script import NO_TOKENS, Completion, Failure, Tokens

_PIECE = re.compile(r"\w+\W*|\W+")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


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
    return Answer(failed.status, [as_json(body)], headers, delay=failed.delay)


def answered(reply: Completion, request: Request, pieces: list[bytes], used: Tokens | None) -> Answer:
    """The body or the events of a reply as the answer that its modifiers want."""
    answer = Answer(200, pieces, stream=request.stream, delay=reply.delay, pause=reply.chunk_delay)
    answer.tokens = used or NO_TOKENS
    answer.broken = reply.cut_after is not None
    if request.stream:
        answer.pieces = answer.pieces[: reply.cut_after]
    return answer


def cut(text: str, chunks: int | Sequence[str] | None) -> list[str]:
    if chunks is None:
        return _PIECE.findall(text)
    if isinstance(chunks, int):
        bounds = [len(text) * piece // chunks for piece in range(chunks + 1)]
        return [text[start:end] for start, end in pairwise(bounds) if start < end]
    return list(chunks)


def tokens_of(reply: Completion, request: Request) -> Tokens | None:
    if reply.usage is None or isinstance(reply.usage, tuple):
        return None if reply.usage is None else Tokens(*reply.usage)
    asked = len(as_json([request.messages, request.tools]))
    said = len(reply.text or "") + sum(len(call.name) + len(call.arguments_json) for call in reply.tool_calls)
    return Tokens(max(1, asked // 4), max(1, said // 4))


def as_json(value: object) -> bytes:
    return _encode(value).encode()
