"""OpenAI's embeddings, and the list of models."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from typing import cast

from shearpin.testing.answer import Answer
from shearpin.testing.request import Request
from shearpin.testing.script import Tokens
from shearpin.testing.wire import as_json

MODELS = ("gpt-4o", "gpt-4o-mini", "text-embedding-3-small")


def models(_: Request) -> Answer:
    kind = {"object": "model", "created": 1_700_000_000, "owned_by": "scripted"}
    return Answer(200, [as_json({"object": "list", "data": [{"id": name} | kind for name in MODELS]})])


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
    return Answer(200, [as_json(body)], tokens=Tokens(input=used))


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
