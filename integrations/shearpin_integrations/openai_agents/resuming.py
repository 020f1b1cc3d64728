"""How a run that waits for approvals goes on, in this process or in another one.

What it has come to goes along in the SDK's own state: in ``TraceState.extra``, which holds what the SDK does not know
and keeps it through `RunState.to_string`. The results and states that have it keep it as ``_trace_state``, an
internal; there is no public place that reaches another process and neither the provider nor the user's context.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from agents import RunState
from agents.tool_context import ToolContext
from agents.tracing.traces import TraceState

from shearpin import Guard
from shearpin.adapter import Place, Run, is_dict, is_list, parse_arguments
from shearpin_integrations.openai_agents.reading import part
from shearpin_integrations.openai_agents.watching import Watched

_STATE, _KEY = "_trace_state", "shearpin"
_KEPT_AS = "_openai_agents_paused"
PAUSED = 1_000
"""Paused runs kept in memory to go on; the longest paused are let go first."""


def note(result: Any, runs: Iterable[Run]) -> None:
    """Write on a result that waits for approvals what its runs have come to, one note a guard."""
    state: TraceState | None = getattr(result, _STATE, None)
    if state is None:
        state = TraceState()  # tracing is off
        setattr(result, _STATE, state)
    state.extra[_KEY] = [run.carry() for run in runs]


def keep(run: Run, guard: Guard) -> None:
    """`run` waits: a call that goes on with it in this process goes on with this very trace."""
    paused: OrderedDict[str, Run] = vars(guard).setdefault(_KEPT_AS, OrderedDict())
    paused[run.trace.trace_id] = run
    while len(paused) > PAUSED:
        paused.popitem(last=False)


def is_state(given: object) -> TypeGuard[RunState[Any]]:
    """Does a call go on with a run, rather than begin one?"""
    return isinstance(given, RunState)


def _noted_in(state: RunState[Any]) -> list[Any]:
    extra: Any = getattr(getattr(state, _STATE, None), "extra", None)
    notes: Any = extra.get(_KEY) if is_dict(extra) else None
    return notes if is_list(notes) else []


def open_again(run: Run, guard: Guard, state: RunState[Any], which: int) -> None:
    """Open `run` as the one that `state` is of, as far as it is known here; the guard's note is number `which`."""
    notes = _noted_in(state)
    paused: Mapping[str, Run] = vars(guard).get(_KEPT_AS, {})
    kept = [note["trace_id"] for note in notes if is_dict(note) and note.get("trace_id") in paused]
    if kept:
        run.resume(vars(guard)[_KEPT_AS].pop(kept[0]))
        return
    run.open()
    run.begun_elsewhere()
    if notes:
        run.continue_from(notes[min(which, len(notes) - 1)], _calls_made(state))


def tool_around(state: object, around: Watched) -> Place | None:
    """The tool that goes on with `state`, the state of its own run; its context is an internal of that."""
    context: Any = getattr(state, "_context", None) if is_state(state) else None
    if not isinstance(context, ToolContext):
        return None
    fields = {"input": parse_arguments(context.tool_arguments), "call_id": context.tool_call_id}
    return around.tool_goes_on(context.tool_call_id, context.tool_name, fields)


def _calls_made(state: Any) -> list[dict[str, Any]]:
    """The tool calls that were answered before the pause: ``name``, ``input`` and ``output``, in order."""
    asked: dict[Any, Any] = {}
    made: list[dict[str, Any]] = []
    for item in getattr(state, "_session_items", ()):
        raw = item.raw_item
        if item.type == "tool_call_item":
            asked[part(raw, "call_id")] = raw
        elif item.type == "tool_call_output_item" and (call := asked.pop(part(raw, "call_id"), None)) is not None:
            arguments = parse_arguments(part(call, "arguments"))
            made.append({"name": part(call, "name"), "input": arguments, "output": item.output})
    return made
