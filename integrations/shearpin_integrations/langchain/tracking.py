"""Which of a guard's runs and spans a LangChain run id stands for.

State hangs on the guard, not on the handler: however many handlers of one guard see an event, it counts once.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables.config import var_child_runnable_config

from shearpin import Guard, RunStoppedError, Span
from shearpin.adapter import Place, Run, register_locator

TOMBSTONES = 10_000
"""Ids of ended actions of stopped runs that are remembered: an orphan starts within moments, or never."""


Role = Literal["run", "span", "call", "inside"]

PAUSED = 1_000
"""Paused threads whose runs are kept in memory to go on; the longest paused are let go first."""


@dataclass(slots=True)
class Root:
    """What belongs to one outermost LangChain call."""

    run: Run
    thread: str | None = None
    paused: bool = False
    resuming: bool = False
    torn: bool | None = None  # did the thread begin with unanswered calls? None: no node has started yet
    children: int = 0
    ids: set[UUID] = field(default_factory=set[UUID])
    started_calls: set[str] = field(default_factory=set[str])


@dataclass(slots=True)
class Entry:
    """A LangChain run that is going on.

    ``place`` is where its children are. ``role`` says whose end this is: of the whole ``run``, of a ``span``, of
    both (``call``: a model or tool called by itself), or of nothing we record (``inside``).
    """

    root: Root
    place: Place
    role: Role
    name: str = ""
    inputs: Any = None


class Tracker:
    """The live LangChain runs of one guard."""

    def __init__(self, guard: Guard) -> None:
        self.guard = weakref.ref(guard)
        self.entries: dict[UUID, Entry] = {}
        self._paused: OrderedDict[str, Run] = OrderedDict()
        self._tombs: OrderedDict[UUID, RunStoppedError] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, run_id: UUID, entry: Entry) -> None:
        """The run `run_id` goes on."""
        entry.root.ids.add(run_id)
        self.entries[run_id] = entry

    def parent(self, run_id: UUID | None) -> Entry | None:
        """The entry of a parent; raises the stop if it belonged to a stopped run that has ended."""
        if run_id is None:
            return None
        entry = self.entries.get(run_id)
        if entry is None and run_id in self._tombs:
            raise self._tombs[run_id].with_traceback(None)
        return entry

    def remove(self, run_id: UUID) -> Entry | None:
        """The run `run_id` ended."""
        entry = self.entries.pop(run_id, None)
        if entry is not None:
            entry.root.ids.discard(run_id)
            if entry.root.run.stopped is not None:
                self._bury(entry.root, [run_id])
        return entry

    def close(self, root: Root) -> None:
        """An outermost call ended: what is left of it are orphans, which may still call."""
        for run_id in root.ids:
            self.entries.pop(run_id, None)
        self._bury(root, list(root.ids))
        root.ids.clear()

    def pause(self, thread: str, run: Run) -> None:
        """The run waits for a person: the next call that resumes this thread goes on with it."""
        with self._lock:
            self._paused[thread] = run
            while len(self._paused) > PAUSED:
                self._paused.popitem(last=False)

    def resume(self, thread: str | None) -> Run | None:
        """The paused run of this thread, which is paused no longer."""
        with self._lock:
            return self._paused.pop(thread, None) if thread is not None else None

    def _bury(self, root: Root, run_ids: list[UUID]) -> None:
        stop = root.run.stopped
        if stop is None:
            return
        with self._lock:
            for run_id in run_ids:
                self._tombs[run_id] = stop
            while len(self._tombs) > TOMBSTONES:
                self._tombs.popitem(last=False)


@dataclass(slots=True)
class Admission:
    """A model call that was admitted before LangChain starts it, because its caller could wait and a callback cannot.

    The first model call that starts in this context takes it over instead of being admitted again.
    """

    run: Run
    span: Span
    taken: bool = False


admission: ContextVar[Admission | None] = ContextVar("shearpin_admission", default=None)


def take_admission(run: Run) -> Span | None:
    """The span admitted for the model call that starts now, if there is one."""
    admitted = admission.get()
    if admitted is None or admitted.taken or admitted.run.tree is not run.tree:
        return None
    admitted.taken = True
    return admitted.span


_trackers: weakref.WeakKeyDictionary[Guard, Tracker] = weakref.WeakKeyDictionary()
_trackers_lock = threading.Lock()


def tracker_of(guard: Guard) -> Tracker:
    """The one tracker of a guard."""
    with _trackers_lock:
        if guard not in _trackers:
            _trackers[guard] = Tracker(guard)
        return _trackers[guard]


def _locate(guard: object) -> Place | None:
    """Where LangChain's own ambient config says the running code is.

    It ties together what callbacks cannot: an alternative of `with_fallbacks` is called with the outer config and
    so looks like a root of its own.
    """
    manager = (var_child_runnable_config.get() or {}).get("callbacks")
    run_id = manager.parent_run_id if isinstance(manager, BaseCallbackManager) else None
    if run_id is None:
        return None
    with _trackers_lock:
        trackers = list(_trackers.values()) if guard is None else [_trackers.get(guard)]  # type: ignore[call-overload]
    entries = [tracker.entries.get(run_id) for tracker in trackers if tracker is not None]
    return next((entry.place for entry in entries if entry is not None), None)


register_locator(_locate)
