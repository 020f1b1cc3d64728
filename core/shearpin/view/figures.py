"""Numbers and values as people read them: money, time, tokens, calls and their arguments on one line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeGuard

from shearpin.errors import dollars

_LEVELS = 5
_TEXT = 400
_ARGUMENTS = 50
_JSON = 20_000
"""Characters up to which text is tried as JSON: showing a line of it is not worth parsing more."""

_SMALLEST = 1e-6
_MILLION, _COUNTABLE = 10**6, 10**15
_MINUTE = 60
_AS_MILLISECONDS, _AS_SECONDS = 0.9995e-3, 0.9995
"""From here on three digits of the smaller unit would round to a thousand."""


def money(usd: float | None) -> str:
    """Dollars for a column: as `dollars` has them, but no more digits than tell one call from another.

    >>> money(0.0075), money(0.5), money(1234.5678), money(0.0000312), money(1e-9), money(None)
    ('$0.0075', '$0.50', '$1,234.57', '$0.000031', '<$0.000001', 'unpriced')
    """
    if usd is None:
        return "unpriced"
    size = abs(usd)
    if 0 < size < _SMALLEST:
        return f"{'-' if usd < 0 else ''}<$0.000001"
    return dollars(usd, 2 if size >= 1 else 4)


def duration(nanoseconds: int | None) -> str:
    """A span of time with three digits or so.

    >>> duration(98_000_000), duration(4_310_000_000), duration(125_000_000_000), duration(1_460_000)
    ('98 ms', '4.31 s', '2m 05s', '1.5 ms')
    >>> duration(None)  # not over yet
    '…'
    """
    if nanoseconds is None:
        return "…"
    seconds = nanoseconds / 1e9
    if 0 < seconds < _AS_MILLISECONDS:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < _AS_SECONDS:
        return f"{_three_digits(seconds * 1e3, 1)} ms"
    if seconds < _MINUTE:
        return f"{_three_digits(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    hours, minutes_left = divmod(minutes, _MINUTE)
    return f"{hours:,}h {minutes_left:02}m" if hours else f"{minutes}m {rest:02}s"


def _three_digits(number: float, decimals: int) -> str:
    """At most `decimals`, and fewer where there are digits before the point."""
    if number == 0:
        return "0"
    return f"{number:.{max(0, decimals - max(0, math.floor(math.log10(abs(number)))))}f}"


def count(number: int) -> str:
    """A number of tokens: exact below a million.

    >>> count(3412), count(12_345_678)
    ('3,412', '12.35M')
    """
    return whole(number) if number < _MILLION or number > _COUNTABLE else f"{number / _MILLION:,.2f}M"


def plural(number: int, noun: str) -> str:
    """A number and its noun.

    >>> plural(1, "step"), plural(1200, "step")
    ('1 step', '1,200 steps')
    """
    return f"{whole(number)} {noun}{'' if number == 1 else 's'}"


def whole(number: int) -> str:
    """A count; one that nobody can have counted, as a file may claim, only as far as that.

    >>> whole(1200), whole(10**400)
    ('1,200', '>1,000,000,000,000,000')
    """
    if abs(number) <= _COUNTABLE:
        return f"{number:,}"
    return f"{'-' if number < 0 else ''}>{_COUNTABLE:,}"


def call_text(name: object, arguments: object) -> str:
    """A call as Python would write it.

    >>> call_text("search", {"q": "refund policy", "limit": 5})
    'search(q="refund policy", limit=5)'
    """
    if isinstance(arguments, str):
        arguments = _decoded(arguments)
    if is_mapping(arguments):
        pairs = (f"{key}={brief(value)}" for key, value in islice(arguments.items(), _ARGUMENTS))
        return f"{name}({', '.join(pairs)})"
    return f"{name}({'' if arguments is None else brief(arguments)})"


def _decoded(text: str) -> object:
    """Arguments as providers send them are JSON in a string; anything else stays what it is."""
    try:
        return json.loads(text) if text.startswith("{") and len(text) < _JSON else text
    except (ValueError, RecursionError):
        return text


def brief(value: object, limit: int = _TEXT) -> str:
    """The beginning of any value, without walking through all of it."""
    text = ""
    for piece in _pieces(value, 0):
        text += piece
        if len(text) > limit:
            return text[:limit] + "…"
    return text


def gist(value: object) -> str:
    """What a state is about: of a conversation its last message, of anything else its beginning."""
    messages = value.get("messages") if is_mapping(value) else None
    return brief(messages[-1] if _is_list(messages) and messages else value)


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether `value` has keys."""
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether `value` is a list of any sort, also one stored in a pool."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def quoted(text: str) -> str:
    """Text in quotes, unless it is JSON already."""
    text = text[: _TEXT + 1].strip()
    return text if text.startswith(("{", "[")) else f'"{text}"'


def _pieces(value: object, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield quoted(value)
    elif value is None or isinstance(value, bool):
        yield {None: "null", True: "true", False: "false"}[value]
    elif depth > _LEVELS:
        yield "…"
    elif is_mapping(value):
        yield from _mapping(value, depth)
    elif _is_list(value):
        yield from _joined("[", ((item,) for item in value), "]", depth)
    else:
        yield str(value)


def _mapping(value: Mapping[Any, Any], depth: int) -> Iterator[str]:
    role, content = value.get("role", value.get("type")), value.get("content")
    if isinstance(role, str) and isinstance(content, str) and content:  # a chat message
        yield f"{role}: {quoted(content)}"
    else:
        yield from _joined("{", value.items(), "}", depth)


def _joined(opening: str, items: Iterable[tuple[Any, ...]], closing: str, depth: int) -> Iterator[str]:
    yield opening
    for index, (*key, item) in enumerate(items):
        yield ", " if index else ""
        yield f"{key[0]}: " if key else ""
        yield from _pieces(item, depth + 1)
    yield closing
