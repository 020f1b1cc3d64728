"""Which tool calls a policy speaks of: by name, by name and arguments, or by a function of the call.

``"delete_*"`` is every tool of such a name, in the case it is written in. ``"refund(amount=????*, currency=*)"`` is
`refund` with an amount of four characters or more and any currency: arguments compare as text, all that are named must
match, and one that a call does not have matches nothing. What text cannot say a function does:
``lambda call: call.tool == "refund" and call.arguments["amount"] > 100``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, cast

from shearpin.trace.plain import is_dict


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A tool call that is about to be made. ``arguments`` are plain data: usually a dict, by name."""

    tool: str
    arguments: Any
    call_id: str | None = None
    agent: str | None = None


Predicate: TypeAlias = Callable[[ToolRequest], bool]

_SHAPE = re.compile(r"\s*([^()]*[^()\s])\s*(?:\((.*)\))?\s*", re.DOTALL)
_ARGUMENT = re.compile(r"\s*(\w+)\s*=(.*)", re.DOTALL)
_NEXT = re.compile(r",(?=\s*\w+\s*=)")


@dataclass(frozen=True, slots=True)
class ToolPattern:
    """One pattern of a policy; ``text`` is how decisions call it."""

    text: str
    name: str = "*"
    arguments: tuple[tuple[str, str], ...] = ()
    predicate: Predicate | None = None

    def matches(self, request: ToolRequest, *, unreadable: bool) -> bool:
        """Is `request` one of these? `unreadable` is the answer where its arguments are not there by name."""
        if self.predicate is not None:
            return bool(self.predicate(request))
        if not fnmatchcase(request.tool, self.name):
            return False
        if not self.arguments:
            return True
        given = request.arguments
        if not is_dict(given):
            return unreadable
        return all(name in given and fnmatchcase(_text(given[name]), wanted) for name, wanted in self.arguments)


def read_patterns(option: str, given: object) -> tuple[ToolPattern, ...]:
    """The patterns in what a user gave for `option`: one, or a list of them. TypeError and ValueError for others."""
    if isinstance(given, str) or callable(given):
        return (_read(option, given),)
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"ToolPolicy({option}={given!r}): must be a list of patterns such as 'delete_*'")
    return tuple(_read(option, item) for item in cast("Iterable[object]", given))


def _read(option: str, given: object) -> ToolPattern:
    if callable(given):
        return ToolPattern(getattr(given, "__name__", repr(given)), predicate=cast("Predicate", given))
    if not isinstance(given, str):
        raise TypeError(f"ToolPolicy({option}=[{given!r}]): must be a pattern such as 'delete_*', or a function")
    shape = _SHAPE.fullmatch(given)
    if shape is None:
        raise ValueError(f"ToolPolicy({option}=[{given!r}]): must look like 'delete_*' or 'refund(amount=*)'")
    inside = shape[2]
    arguments = [_ARGUMENT.fullmatch(part) for part in _NEXT.split(inside)] if inside and inside.strip() else []
    named = tuple((part[1], part[2].strip()) for part in arguments if part)
    if len(named) < len(arguments):
        raise ValueError(f"ToolPolicy({option}=[{given!r}]): in brackets come arguments, as in 'refund(amount=*)'")
    return ToolPattern(given.strip(), shape[1], named)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
