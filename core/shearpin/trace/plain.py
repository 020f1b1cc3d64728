"""Any Python value as plain data: what a trace holds is JSON, a copy, and never executes anything when read."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

Plain = Any
"""None, bool, int, float, str, or lists and string-keyed dicts of these (mypy has no useful recursive alias here)."""


def is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    """A plain dict; subclasses are foreign objects."""
    return type(value) is dict


def is_list(value: object) -> TypeGuard[list[Any]]:
    """A plain list; subclasses are foreign objects."""
    return type(value) is list


_ATOMS = frozenset((str, bool, type(None)))
_DEPTH = 64
_REPR = 2_000
_HUGE = 10**4_300
"""Integers from here on are told in hexadecimal: Python neither writes nor reads a decimal that long."""

_converters: dict[type, Callable[[Any], Plain]] = {}


def register_plain(kind: type, convert: Callable[[Any], Plain]) -> None:
    """Say how objects of a framework's class are recorded; what `convert` returns is kept as it is: a plain copy."""
    _converters[kind] = convert


def plain(value: object) -> Plain:
    """A copy of `value` that is JSON: containers are copied, foreign objects described, cycles cut."""
    return _copy(value, ())


def _copy(value: Any, path: tuple[int, ...]) -> Plain:  # noqa: ANN401, PLR0911 - anything at all; one return a shape
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is int:
        return value if -_HUGE < value < _HUGE else hex(value)
    if kind is float:
        return value if math.isfinite(value) else repr(value)
    if len(path) >= _DEPTH or id(value) in path:
        return "<cycle>" if id(value) in path else "<too deep>"
    inside = (*path, id(value))
    if kind is dict:  # its items as a list: another thread may write to it meanwhile
        return _mapping(list(value.items()), inside)
    if kind is list or kind is tuple:
        return [item if type(item) in _ATOMS else _copy(item, inside) for item in value]
    try:
        return _foreign(value, kind, inside)
    except Exception as error:  # noqa: BLE001 - a hostile or broken object must not break the agent
        return f"<{kind.__name__}: {type(error).__name__} while it was recorded>"


def _mapping(items: Iterable[tuple[Any, Any]], inside: tuple[int, ...]) -> dict[str, Plain]:
    copied: dict[str, Plain] = {}
    for key, item in items:
        name = key if type(key) is str and key not in copied else _name(key, copied)
        copied[name] = item if type(item) in _ATOMS else _copy(item, inside)
    return copied


def _name(key: object, taken: Mapping[str, Plain]) -> str:
    """JSON has names only: 1 becomes "1", and where there is a "1" already, "1 (int)"."""
    kind = type(key).__name__
    try:
        name = str(key)
    except Exception:  # noqa: BLE001 - its own code, or an integer of thousands of digits
        name = f"<{kind}>"
    while name in taken:
        name = f"{name} ({kind})"
    return name


def _foreign(value: Any, kind: type, inside: tuple[int, ...]) -> Plain:  # noqa: ANN401, PLR0911 - one return a shape
    """Objects of a registered class as that says; records become dicts, the rest their repr."""
    for base in kind.__mro__:
        if base in _converters:
            return _converters[base](value)
    if isinstance(value, Mapping):
        return _mapping(value.items(), inside)
    if isinstance(value, list | tuple | set | frozenset):
        return [_copy(item, inside) for item in value]
    if isinstance(value, bytes | bytearray):
        return "base64:" + base64.b64encode(value).decode("ascii")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _mapping([(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)], inside)
    if hasattr(value, "model_dump") and not isinstance(value, type):  # pydantic, without importing it
        return _copy(value.model_dump(), inside)
    if isinstance(value, str):  # enums among these
        return str(value)
    if isinstance(value, int | float):
        return _copy(int(value) if isinstance(value, int) else float(value), inside)
    return repr(value)[:_REPR]
