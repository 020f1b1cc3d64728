"""Flows that wait for a person's feedback: the run that goes on is the one that paused, in this process or another.

In this one the guard keeps it, by the flow's id. For another, its counts go into the metadata of the pending feedback,
which CrewAI saves with the flow.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from typing import Any

from crewai import Flow

from shearpin import Guard
from shearpin.adapter import Run
from shearpin_integrations.crewai.scope import place_here

PAUSED = 1_000
"""Paused flows whose runs are kept in memory to go on; the longest paused are let go first."""

_CARRIED = "shearpin"
_KEPT_AS = "_crewai_paused"
_lock = threading.Lock()


def is_pause(answer: Any) -> bool:
    """Is this what a flow answers that waits?"""
    return type(answer).__name__ == "HumanFeedbackPending"


def keep(guard: Guard, answer: Any, run: Run) -> None:
    """The run of a flow is about to end as paused."""
    if not run.outermost or run.stopped is not None:
        return
    with _lock:
        paused: OrderedDict[str, Run] = vars(guard).setdefault(_KEPT_AS, OrderedDict[str, Run]())
        paused[str(answer.context.flow_id)] = run
        while len(paused) > PAUSED:
            paused.popitem(last=False)


def open_or_go_on(guard: Guard, target: Any, run: Run) -> None:
    """Begin a run, or go on with the paused one that `target` resumes."""
    place_here(guard)
    pending = target.pending_feedback if isinstance(target, Flow) else None
    if pending is None:
        run.open()
        return
    with _lock:
        paused = vars(guard).get(_KEPT_AS, {}).pop(str(pending.flow_id), None)
    if paused is not None:
        run.resume(paused)
        return
    run.open()
    if run.outermost and (carried := (pending.metadata or {}).get(_CARRIED)) is not None:
        run.begun_elsewhere()
        run.continue_from(carried)


def carry(run: Run) -> None:
    """A method of a flow pauses: CrewAI is about to save what it waits for."""
    context = getattr(sys.exc_info()[1], "context", None)
    if context is not None:
        context.metadata = {**(context.metadata or {}), _CARRIED: run.carry()}
