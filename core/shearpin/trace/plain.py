"""Any Python value as plain data: what a trace holds is JSON, a copy, and never executes anything when read."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from functools import singledispatch
from typing import Any, NamedTuple, TypeGuard, cast

Plain = Any
"""None, bool, int, float, str, or lists and string-keyed dicts of these (mypy has no useful recursive alias here)."""


def is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    """A plain dict; subclasses are foreign objects."""
    return type(value) is dict


def is_list(value: object) -> TypeGuard[list[Any]]:
    """A plain list; subclasses are foreign objects."""
    return type(value) is list


_ATOMS = frozenset((str, int, bool, type(None)))
_DEPTH = 64
_REPR = 2_000


def plain(value: object) -> Plain:
    """A copy of `value` that is JSON: containers are copied, foreign objects described, cycles cut."""
    return _copy(value, ())


def register_plain(kind: type, convert: Callable[[Any], Plain]) -> None:
    """Say how objects of a framework's class are recorded; what `convert` returns is kept as it is: a plain copy."""

    def converted(value: Any) -> object:  # noqa: ANN401 - of the class that is registered
        return _Plain(convert(value))

    _describe.register(kind)(converted)


class _Plain(NamedTuple):
    """Data that needs no more copying."""

    data: Plain


def _copy(value: object, path: tuple[int, ...]) -> Plain:  # noqa: PLR0911 - one return a shape
    kind = type(value)
    if kind in _ATOMS:
        return value
    if isinstance(value, float) and kind is float:
        return value if math.isfinite(value) else repr(value)
    if len(path) >= _DEPTH or id(value) in path:
        return "<cycle>" if id(value) in path else "<too deep>"
    inside = (*path, id(value))
    if kind is dict or isinstance(value, Mapping):
        return {
            key if type(key) is str else str(key): item if type(item) in _ATOMS else _copy(item, inside)
            for key, item in cast("Mapping[Any, Any]", value).items()
        }
    if kind is list or isinstance(value, list | tuple | set | frozenset):
        return [item if type(item) in _ATOMS else _copy(item, inside) for item in cast("Iterable[Any]", value)]
    try:
        described = _describe(value)
    except Exception as error:  # noqa: BLE001 - a hostile or broken object must not break the agent
        return f"<{kind.__name__}: {type(error).__name__} while it was recorded>"
    if type(described) is _Plain:
        return described.data
    return described if type(described) in _ATOMS else _copy(described, inside)


@singledispatch
def _describe(value: Any) -> object:  # noqa: ANN401 - anything at all
    """Objects nobody registered: records become dicts, the rest their repr."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "model_dump") and not isinstance(value, type):  # pydantic, without importing it
        return value.model_dump()
    if isinstance(value, str | int | float):  # subclasses, enums among them
        return str(value) if isinstance(value, str) else int(value) if isinstance(value, int) else float(value)
    return repr(value)[:_REPR]


@_describe.register
def _(value: bytes) -> object:
    return "base64:" + base64.b64encode(value).decode("ascii")
