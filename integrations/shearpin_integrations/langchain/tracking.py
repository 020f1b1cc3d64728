"""Which of a guard's runs and spans a LangChain run id stands for.

State hangs on the guard, not on the handler: however many handlers of one guard see an event, it counts once.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables.config import var_child_runnable_config

from shearpin import EnforcementGapWarning, Guard, RunStoppedError
from shearpin.adapter import Place, Run, register_locator
from shearpin_integrations.langchain.keeping import Keeper

TOMBSTONES = 10_000
"""Ids of ended actions of stopped runs that are remembered: an orphan starts within moments, or never."""


Role = Literal["run", "span", "call", "inside"]


@dataclass(slots=True)
class Root:
    """What belongs to one outermost LangChain call."""

    run: Run
    thread: str | None = None
    keeper: Keeper | None = None
    paused: bool = False
    answers: bool = False
    """Does it resume what a person was asked?"""
    resuming: bool = False
    """Does it go on with a run of another process that is still to be found?"""
    torn: bool | None = None  # did the thread begin with unanswered calls? None: no node has started yet
    ids: set[UUID] = field(default_factory=set[UUID])
    started_calls: set[str] = field(default_factory=set[str])
    tomb: Tomb | None = None
    alive: weakref.ref[UUID] | None = None

    @property
    def saver(self) -> Any:
        """What its thread is kept in."""
        return self.keeper.saver if self.keeper is not None else None

    @property
    def reachable(self) -> bool:
        """Can we look into that?"""
        return self.keeper is not None and self.keeper.reachable


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
    pieces: list[str] = field(default_factory=list[str])
    answers_itself: bool = False
    """Is it a node of an agent loop, whose answers to tool calls are no tools' answers?"""
    calls: Sequence[Mapping[str, Any]] = ()
    """What a node of tools is about to run."""
    answers: dict[str | None, Any] | None = None
    """What a person said about these calls, by id; None before anybody was asked."""


class Tomb:
    """The stop of a run that has ended, for its orphans: the object itself as long as anybody else keeps it.

    It carries its whole trace, and there may be thousands of these.
    """

    __slots__ = ("_facts", "_stop")

    def __init__(self, stop: RunStoppedError) -> None:
        self._stop, self._facts = weakref.ref(stop), copy.copy(stop)

    @property
    def stop(self) -> RunStoppedError:
        """What an orphan is told: a copy without the trace once the original is gone."""
        return self._stop() or self._facts


@dataclass(frozen=True, slots=True)
class Pause:
    """What paused a node, for its orphans: tools beside the one that asks may start after the node has ended."""

    stop: BaseException


class Tracker:
    """The live LangChain runs of one guard."""

    def __init__(self, guard: Guard) -> None:
        self.guard = weakref.ref(guard)
        self.entries: dict[UUID, Entry] = {}
        self._tombs: OrderedDict[UUID, Tomb | Pause] = OrderedDict()
        self._warned: set[str] = set()
        self._lock = threading.RLock()  # an abandoned call may be found out by the garbage collector, anywhere

    def begin(self, run_id: UUID, entry: Entry) -> None:
        """The outermost call `run_id` begins.

        LangChain may break it off without a word: when a handler after ours raises, or the caller cancels while
        the handlers are told. Its run id, which LangChain holds as long as the call goes on, tells that it is gone.
        """
        root = entry.root
        root.alive = weakref.ref(run_id, lambda _: self._abandon(root))
        self.add(UUID(int=run_id.int), entry)  # an equal one: ours must not keep theirs alive

    def _abandon(self, root: Root) -> None:
        self.close(root)
        with contextlib.suppress(RunStoppedError):  # there is nobody to raise to
            root.run.close(status="cancelled")

    def add(self, run_id: UUID, entry: Entry) -> None:
        """The run `run_id` goes on."""
        entry.root.ids.add(run_id)
        self.entries[run_id] = entry

    def parent(self, run_id: UUID | None) -> Entry | None:
        """The entry of a parent; raises what ended it if it belonged to a stopped run or an interrupted node."""
        if run_id is None:
            return None
        entry = self.entries.get(run_id)
        if entry is None and (tomb := self._tombs.get(run_id)) is not None:
            raise tomb.stop.with_traceback(None)
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
        root.alive = None
        left = list(root.ids)  # orphans in other threads may add to it
        for run_id in left:
            self.entries.pop(run_id, None)
        self._bury(root, left)
        root.ids.clear()

    def warn(self, gap: str) -> None:
        """Say once what the guard cannot do; Python's own memory of that is cleared by any `catch_warnings`."""
        if gap not in self._warned:
            warnings.warn(gap, EnforcementGapWarning, stacklevel=2)
            self._warned.add(gap)

    def _bury(self, root: Root, run_ids: list[UUID]) -> None:
        stop = root.run.stopped
        if stop is None:
            return
        root.tomb = root.tomb or Tomb(stop)
        self._remember(run_ids, root.tomb)

    def paused(self, run_id: UUID, interrupt: BaseException) -> None:
        """The node `run_id` was interrupted: what still starts in it is, too."""
        self._remember([run_id], Pause(interrupt))

    def _remember(self, run_ids: list[UUID], tomb: Tomb | Pause) -> None:
        with self._lock:
            for run_id in run_ids:
                self._tombs[run_id] = tomb
            while len(self._tombs) > TOMBSTONES:
                self._tombs.popitem(last=False)


_trackers: weakref.WeakSet[Tracker] = weakref.WeakSet()
_trackers_lock = threading.Lock()


def guard_for(usage: str, given: object) -> Guard:
    """The guard that a user gave where `usage` has its braces, or a TypeError that says what belongs there."""
    if isinstance(given, Guard):
        return given
    taker = usage.partition("(")[0]
    raise TypeError(f"{taker} takes a guard: {usage.format('Guard(Budget(usd=0.50))')}, not {given!r}")


def tracker_of(guard: Guard) -> Tracker:
    """The one tracker of a guard, kept by it: a table of ours would keep alive every guard with a paused run."""
    with _trackers_lock:
        tracker: Tracker | None = vars(guard).get(_KEPT_AS)
        if tracker is None:
            tracker = vars(guard)[_KEPT_AS] = Tracker(guard)
            _trackers.add(tracker)
        return tracker


_KEPT_AS = "_langchain_tracker"


def end_elsewhere(run_id: UUID, told: Tracker, stop: BaseException) -> None:
    """A handler raised `stop` when `run_id` was to start or had ended: the other guards are told nothing by LangChain.

    Those whose handlers came before have let a call in that is not made; those after do not hear of the end.
    """
    with _trackers_lock:
        others = [tracker for tracker in _trackers if tracker is not told]
    for tracker in others:
        entry = tracker.remove(run_id)
        if entry is None:
            continue
        if entry.role in ("span", "call"):
            entry.root.run.withdraw(entry.place.span)
        if entry.role in ("run", "call"):
            tracker.close(entry.root)
            with contextlib.suppress(RunStoppedError):  # the first stop is the one that gets out
                entry.root.run.close(stop)


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
        trackers = list(_trackers) if guard is None else [vars(guard).get(_KEPT_AS)]
    entries = [tracker.entries.get(run_id) for tracker in trackers if tracker is not None]
    return next((entry.place for entry in entries if entry is not None), None)


register_locator(_locate)
