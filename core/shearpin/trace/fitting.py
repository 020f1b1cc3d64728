"""Makes values fit the fields of a record, so that what is written can be read again."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any, get_args

from shearpin.trace.model import TraceStatus
from shearpin.trace.plain import is_dict, plain
from shearpin.trace.spans import KINDS, SpanStatus, Verdict

DIGITS = 14_000
"""Bits of an integer: Python neither writes nor reads more than 4,300 decimal digits."""

Convert = Callable[[Any], Any]
"""What is written of a value; raises any error for one that the field has no room for."""


def fitting(annotation: str) -> tuple[frozenset[type], Convert]:
    """For a field of this type: the types whose values are written as they are, and what is made of all others."""
    kind = annotation.removesuffix(" | None")
    fits, convert = _FITTING[kind]
    return frozenset(fits if kind == annotation else (*fits, NoneType)), convert


def _text(value: object) -> str:
    return str(plain(value))


def _whole(value: Any) -> int:  # noqa: ANN401 - anything at all, as below
    number = int(value)
    if number.bit_length() > DIGITS:
        raise ValueError("more digits than can be written")
    return number


def _texts(values: Any) -> list[str]:  # noqa: ANN401
    return [value if type(value) is str else _text(value) for value in values]


def _mapping(value: object) -> dict[str, Any]:
    copied = plain(value)
    if not is_dict(copied):
        raise TypeError("no mapping")
    return copied


def _mappings(values: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    return [value if is_dict(value) else _mapping(value) for value in values]


def _one_of(words: tuple[str, ...]) -> Convert:
    return lambda value: words[words.index(value)]


def _not(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is no record of ours")


_FITTING: dict[str, tuple[tuple[type, ...], Convert]] = {
    "str": ((str,), _text),
    "int": ((), _whole),
    "float": ((float,), float),
    "bool": ((bool,), bool),
    "tuple[str, ...]": ((), _texts),
    "list[str]": ((), _texts),
    "dict[str, Any]": ((dict,), _mapping),
    "Mapping[str, Any]": ((dict,), _mapping),
    "list[dict[str, Any]]": ((), _mappings),
    "Kind": ((), _one_of(KINDS)),
    "SpanStatus": ((), _one_of(get_args(SpanStatus))),
    "TraceStatus": ((), _one_of(get_args(TraceStatus))),
    "Verdict": ((), _one_of(get_args(Verdict))),
    "Any": ((), plain),
    **dict.fromkeys(("Usage", "SpanError", "Identity"), ((), _not)),
}
