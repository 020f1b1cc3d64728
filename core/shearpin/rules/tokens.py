"""How many tokens a text will be, told before it is sent and not too few: pure Python, no vocabulary, no download.

A byte-pair encoder joins what it has often seen together, so a text costs, character by character, what its
neighbours make unlikely: in a word, ``th`` adds next to nothing, ``qx`` a whole token. `token_weights` has a weight
for every pair of neighbours; `token_text` adds them up, takes off what pairs cannot see (that a frequent word is one
token, and so is what stands between two strings of JSON), and adds what they miss where a text repeats itself. The
weights were fitted so that the sum stays above the larger of the counts under OpenAI's o200k_base and cl100k_base,
and close to it, on prose in 450 languages, code, data and random text; ``benchmarks/estimates.py`` measures how close.
Each byte is at worst one token, so no estimate is above the number of UTF-8 bytes.

Two kinds of text can cost more than estimated: made-up ones of a few syllables or signs over and over (one in a
hundred thousand drawn to deceive it, by a tenth), and what is sent to a model whose vocabulary is poorer than both of
OpenAI's. The tables are made when this module is imported, in some milliseconds; the first
estimate takes no longer than any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

from shearpin.rules.token_text import weigh
from shearpin.rules.token_weights import UNIT

REPLY_OVERHEAD = 3
"""Tokens that prime the reply, once a request. This and `MESSAGE_OVERHEAD`: OpenAI's guide to counting tokens."""

MESSAGE_OVERHEAD = 4
"""Tokens around each message (three) and for its role (one)."""

TOOL_OVERHEAD = 4
"""Tokens around a tool's definition, beyond those of its JSON: with few parameters that is less than OpenAI counts."""

CALL_OVERHEAD = 3
"""Tokens around a tool call. Nobody documents them; a call is taken for a message of its own."""

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
_LONGEST_ADDRESS = 512
_SLACK = 3 * UNIT  # a short text has no room to even out
_PART_OVERHEAD = 2
_AS_SENT = (",", ":")  # clients write requests without spaces
_MENTIONED = frozenset(("name", "tool_call_id", "refusal", "reasoning", "reasoning_content", "function_call"))
_UNSENT = frozenset(("role", "tool_calls", "id", "type", "status", "usage"))
"""Of a message, what is counted apart, and what is only told of it."""

Piece: TypeAlias = str | int  # a text, or tokens that are no text


def estimate_text(text: str) -> int:
    """Tokens of `text`: 0 when it is empty, else enough for both of OpenAI's encodings.

    >>> estimate_text("The quick brown fox jumps over the lazy dog."), estimate_text("")
    (17, 0)
    """
    return _sum((text,))


def estimate_message(message: Mapping[str, Any]) -> int:
    """Tokens of one chat message and of what surrounds it: content (text or parts), tool calls, name, reasoning.

    Knows the parts of OpenAI, Anthropic, Google and LangChain; one of another type counts as its JSON. Images, audio
    and files count as the constants of this module.
    """
    try:
        return MESSAGE_OVERHEAD + _sum(_message(message))
    except RecursionError:  # parts in parts in parts
        return MESSAGE_OVERHEAD + _sum((_json(message),))


def estimate_tools(tools: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of tool definitions, in OpenAI's shape (``{"type": "function", "function": {...}}``) or flat."""
    functions = [(_mapping(tool) or {}).get("function") or tool for tool in _items(tools)]
    return sum(TOOL_OVERHEAD + _sum((_json(function, _AS_SENT),)) for function in functions)


def _sum(pieces: Iterable[Piece]) -> int:
    """The slack is added once, however many pieces: what is short evens out with its neighbours."""
    fixed = bytes_ = units = 0
    for piece in pieces:
        if isinstance(piece, int):
            fixed += piece
        else:
            size, weight = weigh(piece)
            bytes_ += size
            units += weight
    return fixed + min(bytes_, -(-(units + _SLACK) // UNIT))


# --- the pieces of a message ------------------------------------------------------------------------------------------


def _message(message: Mapping[str, Any]) -> Iterator[Piece]:
    said = "parts" if message.get("content") is None else "content"
    yield from _content(message.get(said))
    for call in _items(message.get("tool_calls")):
        yield CALL_OVERHEAD
        yield from _call(call)
    for key, value in message.items():
        if value and key != said and key not in _UNSENT:
            yield 1
            yield _json(value if key in _MENTIONED else {key: value})


def _json(value: object, separators: tuple[str, str] | None = None) -> str:
    """A string as it stands, anything else as its JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, separators=separators, default=str)
    except (TypeError, ValueError, RecursionError):  # keys that are no strings, a list in itself, a thousand levels
        return " ".join(_leaves(value))


def _leaves(value: object) -> Iterator[str]:
    """The text of whatever is in nested containers, each visited once."""
    waiting, seen = [value], set[int]()
    while waiting:
        item = waiting.pop()
        place = id(item)
        if not isinstance(item, Mapping | list | tuple | set):
            yield f'"{item}",'
        elif place not in seen:
            seen.add(place)
            yield "{},"
            waiting += [*cast("Mapping[object, object]", item).values()] if isinstance(item, Mapping) else []
            waiting += cast("Iterable[object]", item)


def _mapping(value: object) -> Mapping[str, Any] | None:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None


def _items(value: object) -> Iterable[object]:
    single = () if value is None else (value,)
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return single
    return cast("Iterable[object]", value)


def _call(call: object) -> Iterator[str]:
    """A tool call, its name and arguments beside its id or nested in ``function``."""
    fields = _mapping(call)
    if fields is None:
        yield _json(call)
        return
    for key, value in fields.items():
        nested = _mapping(value) if key == "function" else None
        yield from map(_json, nested.values() if nested else (value,) if value else ())


def _content(content: object) -> Iterator[Piece]:
    single = isinstance(content, str)
    for part in _items(content):
        if not single:
            yield _PART_OVERHEAD
        yield from _part(part)


def _part(part: object) -> Iterator[Piece]:
    fields = _mapping(part)
    kind = _kind(fields) if fields else ""
    if fields is None:
        yield _json(part)
    elif kind == "tool_result":
        yield from (CALL_OVERHEAD, _json(fields.get("tool_use_id", "")))
        yield from _content(fields.get("content"))
    elif "image" in kind:
        yield _image(fields)
    elif "audio" in kind:
        yield -(-_payload(fields) // _BYTES_PER_AUDIO_TOKEN) or AUDIO_TOKENS
    elif any(word in kind for word in ("file", "document", "video", "application/")):
        yield max(FILE_TOKENS, _payload(fields) // _BYTES_PER_FILE_TOKEN)
    else:
        yield _written(fields)


def _kind(fields: Mapping[str, Any]) -> str:
    """What a part is: of what type, or what its data is, as Google tells it."""
    inner = (_mapping(value) or {} for value in fields.values())
    return str(fields.get("type") or next((data["mime_type"] for data in inner if data.get("mime_type")), ""))


def _written(fields: Mapping[str, Any]) -> str:
    """A part that is text under one of the names providers have for it, or whatever else can be written as JSON."""
    texts = (fields.get(key) for key in ("text", "refusal", "thinking", "reasoning"))
    return next((text for text in texts if isinstance(text, str)), None) or _json(fields)


def _image(fields: Mapping[str, Any]) -> int:
    detail = (_mapping(fields.get("image_url")) or fields).get("detail")
    return LOW_DETAIL_IMAGE_TOKENS if detail == "low" else IMAGE_TOKENS


def _payload(fields: Mapping[str, Any]) -> int:
    """Bytes a part carries as base64: its longest string, here or one level down; 0 for a mere name or address."""
    strings = [inner for value in fields.values() for inner in ((_mapping(value) or {"": value}).values())]
    longest = max((len(string) for string in strings if isinstance(string, str)), default=0)
    return longest * 3 // 4 if longest > _LONGEST_ADDRESS else 0
