"""Which objects are under which guards. Nothing is written on the objects themselves: CrewAI copies and saves them."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from shearpin_integrations.crewai.scope import Attachment, without_twins

_lock = threading.RLock()  # an object may be collected anywhere
_attached: dict[int, tuple[weakref.ref[Any], tuple[Attachment, ...]]] = {}
_owed: dict[int, tuple[weakref.ref[Any], tuple[Attachment, ...]]] = {}
"""Streams that were prepared under a guard and have not started; they may do so far away from it."""


def add(target: Any, attachment: Attachment) -> None:
    """For the life of `target`."""
    _put(_attached, target, without_twins((*attached_to(target), attachment)))


def attached_to(target: Any) -> tuple[Attachment, ...]:
    """What `target` itself is under."""
    return _get(_attached, target)


def follow(target: Any, copied: Any) -> Any:
    """A copy is under what its original is under."""
    if attachments := attached_to(target):
        _put(_attached, copied, attachments)
    return copied


def owe(target: Any, attachments: tuple[Attachment, ...]) -> None:
    """The next start of `target` is under these."""
    _put(_owed, target, attachments)


def owed(target: Any) -> tuple[Attachment, ...]:
    """What this start of `target` is under because its stream was prepared so."""
    found = _get(_owed, target)
    _owed.pop(id(target), None)
    return found


_Table = dict[int, tuple["weakref.ref[Any]", tuple[Attachment, ...]]]


def _put(table: _Table, target: Any, attachments: tuple[Attachment, ...]) -> None:
    number = id(target)

    def forget(gone: weakref.ref[Any]) -> None:
        with _lock:
            if number in table and table[number][0] is gone:
                del table[number]

    with _lock:
        table[number] = (weakref.ref(target, forget), attachments)


def _get(table: _Table, target: Any) -> tuple[Attachment, ...]:
    with _lock:
        found = table.get(id(target))
    return found[1] if found is not None and found[0]() is target else ()
