"""Runs that wait for a person, in the memory of the process that they ran in: resumed here, they go on as they are."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from shearpin.adapter import is_dict
from shearpin_integrations.langchain.carrying import amounts_to
from shearpin_integrations.langchain.tracking import Root

PAUSED = 1_000
"""Paused threads whose runs are kept to go on; the longest paused are let go first."""


@dataclass(slots=True)
class _Waiting:
    root: Root
    saver: weakref.ref[Any] | None

    def waits_in(self, saver: Any) -> bool:
        return saver is not None and self.saver is not None and self.saver() is saver

    def left(self, counts: object, saver: Any) -> bool:
        """Did this run leave these counts? One that left the same has missed nothing either."""
        if is_dict(counts) and counts.get("trace_id") == self.root.run.trace.trace_id:
            return True
        return self.waits_in(saver) and (counts is None or amounts_to(self.root.run, counts))


class Paused:
    """The paused runs of one guard. Several may have the same thread id, in checkpointers of their own."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str | None, list[_Waiting]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def threads(self) -> list[str | None]:
        """Of which there are any."""
        return list(self._waiting)

    def add(self, root: Root) -> None:
        """The run is paused."""
        saver = None
        with contextlib.suppress(TypeError):  # a class need not allow it
            saver = weakref.ref(root.saver)
        with self._lock:
            self._waiting.setdefault(root.thread, []).append(_Waiting(root, saver))
            self._waiting.move_to_end(root.thread)
            while len(self._waiting) > PAUSED:
                self._waiting.popitem(last=False)

    def take(self, root: Root, counts: object) -> Root | None:
        """The run that `root` goes on with, if that is one of these and has not gone on elsewhere.

        `counts` are those that the run was paused with, where they can be known.
        """
        with self._lock:
            waiting = self._waiting.pop(root.thread, [])
            taken = [each for each in waiting if each.left(counts, root.saver)]
            if counts is None and not taken and not root.reachable:
                taken = waiting
            self._leave(root, [each for each in waiting if each not in taken[-1:]])
        return taken[-1].root if taken else None

    def forget(self, root: Root) -> None:
        """What waits where `root` begins is not gone on with."""
        with self._lock:
            self._leave(root, self._waiting.pop(root.thread, []))

    def _leave(self, root: Root, waiting: list[_Waiting]) -> None:
        left = [each for each in waiting if not each.waits_in(root.saver)]
        if left:
            self._waiting[root.thread] = left[-_ALIKE:]


_ALIKE = 10
"""Paused runs of one thread id that are kept."""


def paused_of(guard: object) -> Paused:
    """The paused runs of a guard, kept by it."""
    paused: Paused = vars(guard).setdefault("_langchain_paused", Paused())
    return paused
