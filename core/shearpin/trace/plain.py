"""Any Python value as plain data: what a trace holds is JSON, a copy, and never executes anything when read."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MappingView, Sequence
from enum import Enum
from types import SimpleNamespace, UnionType
from typing import Any, TypeGuard, TypeVar, cast, overload

from shearpin.trace.objects import UNREAD, tell

T = TypeVar("T")

Plain = Any
"""None, bool, int, float, str, or lists and string-keyed dicts of these (mypy has no useful recursive alias here)."""


def is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    """A plain dict; subclasses are foreign objects."""
    return type(value) is dict


def is_list(value: object) -> TypeGuard[list[Any]]:
    """A plain list; subclasses are foreign objects."""
    return type(value) is list


def is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    """A plain tuple; subclasses are foreign objects."""
    return type(value) is tuple


@overload
def made_as(value: object, kind: type[T]) -> TypeGuard[T]: ...
@overload
def made_as(value: object, kind: UnionType) -> bool: ...
def made_as(value: object, kind: type | UnionType) -> bool:
    """`isinstance` by what a value was made as: what it says itself, its ``__class__``, may be anybody's code."""
    return issubclass(type(value), kind)


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


_ATOMS = frozenset((str, bool, type(None)))
_DEPTH = 64
_HUGE = 10**4_300
"""Integers from here on are told in hexadecimal: Python neither writes nor reads a decimal that long."""

_converters: dict[type, Callable[[Any], Plain]] = {}


def register_plain(kind: type, convert: Callable[[Any], Plain]) -> None:
    """Say how objects of a framework's class are recorded; what `convert` returns is kept as it is: a plain copy."""
    _converters[kind] = convert


def plain(value: object) -> Plain:
    """A copy of `value` that is JSON: containers are copied, foreign objects described, cycles cut."""
    return _copy(value, ())


def named(mapping: dict[Any, Any]) -> list[tuple[str, Any]]:
    """The items of a dict under names, as JSON has them: 1 becomes "1", and beside a "1", "1 (int)".

    They are taken at once: another thread may write to the dict meanwhile.
    """
    items = list(mapping.items())
    if all(map(_is_name, items)):
        return items
    taken = dict[str, Any]()
    for key, item in items:
        taken[key if _is_name((key,)) and key not in taken else _new_name(key, taken)] = item
    return list(taken.items())


def _is_name(item: Sequence[Any]) -> bool:
    return type(item[0]) is str


def _new_name(key: object, taken: Mapping[str, Plain]) -> str:
    kind = type(key).__name__
    try:
        name = _exact(str(key))
    except Exception:  # noqa: BLE001 - its own code, or an integer of thousands of digits
        name = f"<{kind}>"
    while name in taken:
        name = f"{name} ({kind})"
    return name


def _copy(value: object, path: tuple[int, ...]) -> Plain:  # noqa: PLR0911 - one return a shape
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is int:
        return value if -_HUGE < cast("int", value) < _HUGE else hex(cast("int", value))
    if kind is float:
        return value if math.isfinite(cast("float", value)) else repr(value)
    if len(path) >= _DEPTH or id(value) in path:
        return "<cycle>" if id(value) in path else _too_deep(value)
    inside = (*path, id(value))
    if is_dict(value):
        return {name: item if type(item) in _ATOMS else _copy(item, inside) for name, item in named(value)}
    if is_list(value) or is_tuple(value):
        return [item if type(item) in _ATOMS else _copy(item, inside) for item in value]
    try:
        return _foreign(value, kind, inside)
    except Exception as error:  # noqa: BLE001 - a hostile or broken object must not break the agent
        return f"<{kind.__name__}: {type(error).__name__} while it was recorded, {UNREAD}"


def _too_deep(value: object) -> str:
    """What tells it apart from others, in place of all that it holds."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - nested even deeper, or somebody's own code
        return f"<too deep, {UNREAD}"
    if " at 0x" in text:
        return f"<too deep, {UNREAD}"
    return f"<too deep, {hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}>"


def _foreign(value: Any, kind: type, inside: tuple[int, ...]) -> Plain:  # noqa: ANN401, PLR0911 - one return a shape
    """Objects of a registered class as that says; records become dicts, the rest what `objects` tells of them."""
    for base in kind.__mro__:
        if base in _converters:
            return _converters[base](value)
    if _is_mapping(value):
        return _copy(dict(value), inside)
    if isinstance(value, list | tuple | set | frozenset | deque | MappingView):
        return [_copy(item, inside) for item in cast("Iterable[Any]", value)]
    if isinstance(value, bytes | bytearray):
        return "base64:" + base64.b64encode(value).decode("ascii")
    if (fields := _fields(value, kind)) is not None:
        return _copy(fields, inside)
    if isinstance(value, str):  # enums among these
        return _exact(value)
    if isinstance(value, int | float):
        return _copy(int(value) if isinstance(value, int) else float(value), inside)
    return _exact(repr(value)) if isinstance(value, Enum) else tell(value, kind, lambda item: _copy(item, inside))


def _fields(value: Any, kind: type) -> dict[str, Any] | None:  # noqa: ANN401
    """What a record holds, by name."""
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(kind, "model_dump"):  # pydantic, without importing it
        return cast("dict[str, Any]", value.model_dump())
    return vars(value) if isinstance(value, SimpleNamespace) else None


_exact = str.__str__
"""The text of a string, without the class that somebody derived from it."""
