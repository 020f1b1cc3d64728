"""How many tokens a text will be, told before it is sent and never too few: pure Python, no vocabulary, no download.

A byte-pair encoder joins what it has often seen together, so a text costs, character by character, what its
neighbours make unlikely: in a word, ``th`` adds next to nothing, ``qx`` a whole token. `token_weights` has a weight
for every pair of neighbours; a text's estimate is their sum. The weights were fitted so that the sum stays above the
larger of the counts under OpenAI's o200k_base and cl100k_base, and close to it, on prose in 450 languages, code, data
and random text; ``benchmarks/estimates.py`` measures how close. Each byte is at worst one token, so no estimate is
above the number of UTF-8 bytes.

Two kinds of text can cost more than estimated: a few rare syllables repeated over and over, which tell nothing to
their neighbours, and what is sent to a model whose vocabulary is poorer than both of OpenAI's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from shearpin.rules.token_weights import UNIT, tables

REPLY_OVERHEAD = 3
"""Tokens that prime the reply, once a request. This and `MESSAGE_OVERHEAD`: OpenAI's guide to counting tokens."""

MESSAGE_OVERHEAD = 4
"""Tokens around each message (three) and for its role (one)."""

TOOL_OVERHEAD = 8
"""Tokens around a tool's definition or a tool call, beyond those of its JSON."""

IMAGE_TOKENS = 1600
"""An image of any size: at most 1445 for gpt-4o (85, and 170 for each of 8 tiles), about 1600 for Claude."""

LOW_DETAIL_IMAGE_TOKENS = 85
"""An image sent with ``detail: low``, as OpenAI's guide to images has it."""

AUDIO_TOKENS = 600
"""Audio of unknown length is taken for a minute, at OpenAI's ten tokens a second."""

FILE_TOKENS = 4000
"""A file of unknown size is taken for a few pages; Anthropic counts 1500 to 3000 tokens for a page of a PDF."""

_BYTES_PER_AUDIO_TOKEN = 400  # speech at 32 kbit/s, the poorest that is usual, is 4000 bytes a second
_BYTES_PER_FILE_TOKEN = 16
_SLACK = 3 * UNIT  # a short text has no room to even out
_PART_OVERHEAD = 2


def estimate_text(text: str) -> int:
    """Tokens of `text`: 0 when it is empty, else enough for both of OpenAI's encodings.

    >>> estimate_text("The quick brown fox jumps over the lazy dog."), estimate_text("")
    (17, 0)
    """
    classes, weights = tables()
    if text.isascii():
        size, data = len(text), text.encode("ascii")
    else:
        size, data = len(text.encode("utf-8", "surrogatepass")), text.translate(classes).encode("latin-1")
    # Neighbours are read as one 16-bit number: the pairs that begin at even places, then those at odd places.
    pairs = memoryview(b"\n" + data)
    even, odd = pairs[: (size_of := len(pairs)) & ~1], pairs[1 : size_of - 1 + (size_of & 1)]
    total = sum(map(weights.__getitem__, even.cast("H"))) + sum(map(weights.__getitem__, odd.cast("H")))
    return min(size, -(-(total + _SLACK) // UNIT))


def estimate_message(message: Mapping[str, Any]) -> int:
    """Tokens of one chat message and of what surrounds it: content (text or parts), tool calls, name, reasoning.

    Knows the parts of OpenAI, Anthropic and LangChain; one of another type counts as its JSON. Images, audio and
    files count as the constants of this module.
    """
    total = MESSAGE_OVERHEAD + _content(message.get("content"))
    for call in message.get("tool_calls") or ():
        total += TOOL_OVERHEAD + _call(call)
    for key in ("name", "tool_call_id", "refusal", "reasoning", "reasoning_content", "function_call"):
        if message.get(key):
            total += 1 + _text(message[key])
    return total


def estimate_tools(tools: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of tool definitions, in OpenAI's shape (``{"type": "function", "function": {...}}``) or flat."""
    return sum(TOOL_OVERHEAD + _text(tool.get("function") or tool) for tool in tools)


# --- the pieces of a message ------------------------------------------------------------------------------------------


def _text(value: object) -> int:
    """A string as it stands, anything else as its JSON."""
    return estimate_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _mapping(value: object) -> Mapping[str, Any] | None:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None


def _call(call: object) -> int:
    """A tool call, its name and arguments beside its id or nested in ``function``."""
    fields = _mapping(call)
    if fields is None:
        return _text(call)
    return sum(_call(value) if key == "function" else _text(value) for key, value in fields.items() if value)


def _content(content: object) -> int:
    if content is None:
        return 0
    if isinstance(content, Iterable) and not isinstance(content, str | bytes | Mapping):
        return sum(_PART_OVERHEAD + _part(part) for part in cast("Iterable[object]", content))
    return _part(content)


def _part(part: object) -> int:
    fields = _mapping(part)
    if fields is None:
        return _text(part)
    kind = str(fields.get("type", ""))
    if kind == "tool_result":
        return TOOL_OVERHEAD + _text(fields.get("tool_use_id", "")) + _content(fields.get("content"))
    if "image" in kind:
        return _image(fields)
    if "audio" in kind:
        return -(-_payload(fields) // _BYTES_PER_AUDIO_TOKEN) or AUDIO_TOKENS
    if any(word in kind for word in ("file", "document", "video")):
        return max(FILE_TOKENS, _payload(fields) // _BYTES_PER_FILE_TOKEN)
    return _written(fields)


def _written(fields: Mapping[str, Any]) -> int:
    """A part that is text under one of the names providers have for it, or whatever else can be written as JSON."""
    for key in ("text", "refusal", "thinking", "reasoning"):
        if isinstance(fields.get(key), str):
            return _text(fields[key])
    return TOOL_OVERHEAD + _text(fields)


def _image(fields: Mapping[str, Any]) -> int:
    detail = (_mapping(fields.get("image_url")) or fields).get("detail")
    return LOW_DETAIL_IMAGE_TOKENS if detail == "low" else IMAGE_TOKENS


def _payload(fields: Mapping[str, Any]) -> int:
    """Bytes a part carries as base64: its longest string, here or one level down; 0 for a mere name or address."""
    strings = [inner for value in fields.values() for inner in ((_mapping(value) or {"": value}).values())]
    longest = max((len(string) for string in strings if isinstance(string, str)), default=0)
    return longest * 3 // 4 if longest > _LONGEST_ADDRESS else 0


_LONGEST_ADDRESS = 512
