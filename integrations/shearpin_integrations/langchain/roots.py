"""Outermost calls: whom they belong to, how they begin or go on, how they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from shearpin import Guard
from shearpin_integrations.langchain.carrying import amounts_to, carried_in
from shearpin_integrations.langchain.graphs import answers_pause, goes_on, know_langgraph, with_own_thread
from shearpin_integrations.langchain.keeping import Keeper, keeper_here
from shearpin_integrations.langchain.pausing import paused_of
from shearpin_integrations.langchain.reading import calls_made, conversations
from shearpin_integrations.langchain.tracking import Root, Tracker

_IDENTITY = ("user_id", "tenant", "team", "organization", "task_type", "version", "env")
_FRAMEWORK = ("ls_", "lc_", "langgraph_", "session_id", "thread_id", "checkpoint", "service")

LOST_HERE = (
    "{}: paused on an event loop, where its checkpointer cannot be used from a callback: a process that has not seen "
    "this run goes on from what the replies in its messages tell, and knows nothing of what came after the last one"
)
LOST_THERE = (
    "{}: goes on, on an event loop, with a run of another process of which its messages tell nothing, so what was "
    "spent there does not count here"
)


def open_root(
    guard: Guard,
    name: str,
    inputs: Any,
    metadata: Mapping[str, Any],
    tags: Sequence[str] | None,
    keeper: Keeper | None = None,
) -> Root:
    """Begin the run of an outermost call, or go on with the one it resumes; may raise the stop of a run around it."""
    know_langgraph()
    metadata = with_own_thread(metadata)
    label = str(metadata.get("lc_agent_name") or metadata.get("service") or name)
    run = guard.run(label, tags=tags or (), input=inputs, **identity_of(metadata))
    thread = metadata.get("thread_id")
    root = Root(run, None if thread is None else str(thread), keeper)
    root.answers = answers_pause(inputs)
    if not goes_on(inputs):
        paused_of(guard).forget(root)
        run.open()
        return root
    kept = keeper.kept(guard) if keeper is not None else None
    paused = paused_of(guard).take(root, kept and kept[0])
    if paused is not None:
        run.resume(paused.run)
        root.started_calls = paused.started_calls
        root.resuming = not root.reachable  # another process may have gone on since
    else:
        run.open()
        run.begun_elsewhere()
        if kept is not None:
            _continue(root, *kept)
        else:
            root.resuming = root.answers or not root.reachable
    return root


def meet_graph(root: Root) -> None:
    """A graph is called in this outermost call; the first one that keeps its thread may be one that goes on."""
    if root.keeper is None and (keeper := keeper_here()) is not None:
        root.keeper = keeper
        if root.resuming and (kept := keeper.kept(guard_of(root))) is not None:
            root.resuming = False
            _continue(root, *kept)


def count_on(root: Root, state: object) -> None:
    """Count on from what another process noted in the state's messages, if this run goes on with one paused there."""
    for messages in conversations(state).values() if root.resuming else ():
        carried = carried_in(messages)
        with root.run.tree.lock:  # nodes of one superstep start at once
            first, root.resuming = root.resuming, root.resuming and carried is None
        if first and carried is not None:
            _continue(root, carried, {"messages": messages})


def _continue(root: Root, counts: Any, state: Mapping[str, Any]) -> None:
    made = [call for messages in conversations(state).values() for call in calls_made(messages)]
    root.run.continue_from(counts, made)


def close_root(tracker: Tracker, root: Root, outputs: Any) -> None:
    """End the run of an outermost call that answered, or keep it for the call that resumes it; may raise its stop."""
    run, keeper = root.run, root.keeper
    run.returned(outputs)
    gaps: list[str] = []
    if root.resuming and root.answers and keeper is not None and not keeper.reachable:
        gaps.append(LOST_THERE.format(run.name))
    if run.stopped is None:
        root.paused = root.paused or (keeper is not None and keeper.waits())
        if root.paused and root.thread is not None and not _pause(root, outputs):
            gaps.append(LOST_HERE.format(run.name))
    root.keeper = None  # a paused run is kept, its graph need not be
    for gap in gaps:
        run.gap(gap)
    run.close(status="paused" if root.paused else None)
    for gap in gaps:  # last: a user may have made warnings errors
        tracker.warn(gap)


def _pause(root: Root, outputs: Any) -> bool:
    """Keep a paused run for whoever resumes it; could all of it be kept?"""
    run, keeper = root.run, root.keeper
    paused_of(run.guard).add(root)
    if keeper is None or keeper.reachable:
        if keeper is not None:
            keeper.keep(guard_of(root), run.carry())
        return True
    return any(amounts_to(run, carried_in(messages)) for messages in conversations(outputs).values())


def guard_of(root: Root) -> Guard:
    """Whose run this is."""
    return cast("Guard", root.run.guard)


def identity_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Who a call belongs to, from its config's metadata; the rest of it is the user's own."""
    session = metadata.get("session_id") or metadata.get("thread_id")
    given = {key: metadata.get(key) for key in _IDENTITY}
    own = {key: value for key, value in metadata.items() if key not in given and not key.startswith(_FRAMEWORK)}
    return {"session_id": None if session is None else str(session), "metadata": own, **given}
