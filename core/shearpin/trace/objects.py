"""What can be told of an object that is no plain data, without running any code of its own but its repr.

An object that only holds data is told by its attributes. One that holds connections, locks or functions belongs to the
running program; what a file or a generator holds, reading would use up. These are told by their names, and say in a
word that there is more to them: two that look the same need not be the same. Addresses are left out everywhere, since
Python gives them to one object after the other.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MemberDescriptorType, ModuleType
from typing import Any, NamedTuple, cast

HIDDEN = "not recorded>"
"""Ends what is told of an object of the running program: what it is like does not show."""
UNREAD = "not read>"
"""Ends what is told of something that has a content, which is not in the record."""

_REPR = 2_000
_MOST = 500
"""Containers within an object beyond which it is taken for part of the program; so are those that hold themselves."""
_ATOMS = frozenset((str, int, float, bool, bytes, type(None)))
_SLOT = 8
"""Bytes that a slot, the attributes or the weak references take in an object."""
_BRACKETS = re.compile(r"<(?!.*(</|/>$)).*>", re.DOTALL)
"""A repr that does not claim to be complete; markup does."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_ELIDED = re.compile(r"(^|[\s\[({,])\.{2,3}([\s\]),}]|$)")
_SECRET = re.compile(r"(^|_)(api_?key|secret|password|passwd|token|credentials?)$", re.IGNORECASE)
_BODIES = ("_content", "_body", "content", "body")
"""Where answers of a server hold what was read of them."""


class _Traits(NamedTuple):
    """What a class tells of its objects."""

    slots: tuple[tuple[str, Any], ...]
    reads: bool
    """Does reading them use them up?"""
    hides: bool
    """Do they hold more than Python code has set on them?"""


@lru_cache(maxsize=1_000)
def _traits(kind: type) -> _Traits:
    slots = tuple(
        (name, member.__get__)
        for base in reversed(kind.__mro__)
        for name, member in vars(base).items()
        if type(member) is MemberDescriptorType
    )
    seen = object.__basicsize__ + _SLOT * (len(slots) + 2)
    return _Traits(slots, _is_stream(kind), issubclass(kind, ModuleType) or kind.__basicsize__ > seen)


def _is_stream(kind: type) -> bool:
    if any(hasattr(kind, name) for name in ("__next__", "__anext__", "__await__")):
        return True
    return hasattr(kind, "close") and any(hasattr(kind, name) for name in ("read", "readline", "recv", "iter_content"))


def tell(value: object, kind: type, inside: Callable[[object], Any]) -> Any:  # noqa: ANN401 - plain data
    """`value`, of this class, as plain data; `inside` makes plain what it holds."""
    text = str.__str__(repr(value))
    if isinstance(value, type):
        return text
    state = _attributes(value, kind)
    if not _BRACKETS.fullmatch(text):
        return _as_it_says(text, kind, state)
    reads = _traits(kind).reads
    if reads and (status := state.get("status_code", state.get("status"))) is not None:
        return {"status_code": inside(status), "text": _body(text, state)}
    if not reads and state and _is_data(value):
        return inside(state)
    if kind.__module__ == "sqlite3" and isinstance(value, Sequence):  # a row
        return inside(list(cast("Sequence[object]", value)))
    return _shown(text, UNREAD if reads or _holds_content(kind, state) else HIDDEN)


def _class_of(value: object) -> type:
    return type(value)


def _holds_content(kind: type, state: Mapping[str, Any]) -> bool:
    """Is it around a stream, or may its content be had, but not seen?"""
    if state:
        return any(_traits(_class_of(item)).reads for item in state.values())
    return hasattr(kind, "__iter__") or hasattr(kind, "__len__")


def _attributes(value: object, kind: type) -> dict[str, Any]:
    """What Python code has set on an object."""
    state: dict[str, Any] = {}
    for name, get in _traits(kind).slots:
        try:
            state[name] = get(value)
        except AttributeError:  # not set
            continue
    try:
        held: object = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return state
    return state | cast("dict[str, Any]", held) if type(held) is dict else state


def _as_it_says(text: str, kind: type, state: Mapping[str, Any]) -> str:
    """A repr, and whether it leaves out anything that the object holds."""
    bare = _ADDRESS.sub("", text)
    own = kind.__module__.partition(".")[0] not in sys.stdlib_module_names
    if len(bare) > _REPR or _ELIDED.search(bare):
        return f"{bare[:_REPR]} <the rest, {UNREAD}"
    if len(bare) < len(text) or (own and not all(_told(item, text) for item in state.values())):
        return f"{bare} <the rest, {HIDDEN}"
    return bare


def _told(item: object, text: str) -> bool:
    if item is None or isinstance(item, bool):  # flags are seldom told
        return True
    return (item if type(item) is str else repr(item)) in text or repr(item)[1:-1] in text


def _shown(text: str, ends: str) -> str:
    return f"<{_ADDRESS.sub('', text)[1:-1][:_REPR]}, {ends}"


def _body(text: str, state: Mapping[str, Any]) -> str:
    """What was read of a server's answer."""
    for name in _BODIES:
        body = state.get(name)
        if type(body) is str:
            return body
        if type(body) is bytes:
            return body.decode("utf-8", "backslashreplace")
    return _shown(text, UNREAD)


def _is_data(value: object) -> bool:
    """Is there nothing but data in it, however deep, and nothing that is secret?"""
    waiting, left = [value], _MOST
    while waiting and left:
        within = _within(waiting.pop())
        if within is None:
            return False
        more = [item for item in within if type(item) not in _ATOMS]
        if any(item is value for item in more):
            return False
        waiting += more
        left -= 1
    return not waiting


def _within(item: Any) -> Iterable[object] | None:  # noqa: ANN401 - anything at all
    """What an object holds; None if that makes it part of the program."""
    kind = _class_of(item)
    if kind is dict:
        return None if any(type(name) is str and _SECRET.search(name) for name in item) else item.values()
    if kind in (list, tuple, set, frozenset):
        return cast("Iterable[object]", item)
    traits = _traits(kind)
    if isinstance(item, type):
        return ()
    if traits.reads or callable(item):
        return None
    if state := _attributes(item, kind):
        return None if traits.hides else (state,)
    return None if _BRACKETS.fullmatch(repr(item)) else ()
