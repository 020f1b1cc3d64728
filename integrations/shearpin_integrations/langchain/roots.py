"""Outermost calls: whom they belong to, how they begin or go on, how they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shearpin import Guard
from shearpin.adapter import is_list
from shearpin_integrations.langchain.carrying import carried_in
from shearpin_integrations.langchain.graphs import answers_pause, know_langgraph, with_own_thread
from shearpin_integrations.langchain.reading import calls_made, messages_in
from shearpin_integrations.langchain.tracking import Root, Tracker, tracker_of

_IDENTITY = ("user_id", "tenant", "team", "organization", "task_type", "version", "env")
_FRAMEWORK = ("ls_", "lc_", "langgraph_", "session_id", "thread_id", "checkpoint", "service")


def open_root(guard: Guard, name: str, inputs: Any, metadata: Mapping[str, Any], tags: Sequence[str] | None) -> Root:
    """Begin the run of an outermost call, or go on with the one it resumes; may raise the stop of a run around it."""
    know_langgraph()
    metadata = with_own_thread(metadata)
    label = str(metadata.get("lc_agent_name") or metadata.get("service") or name)
    run = guard.run(label, tags=tags or (), input=inputs, **identity_of(metadata))
    thread = metadata.get("thread_id")
    root = Root(run, None if thread is None else str(thread))
    root.resuming = answers_pause(inputs)
    goes_on = root.resuming or inputs is None
    paused = tracker_of(guard).resume(root.thread) if goes_on else None
    if paused is not None:
        run.resume(paused.run)
        root.started_calls, root.resuming = paused.started_calls, False
        return root
    run.open()
    if root.resuming:
        run.begun_elsewhere()
    return root


def count_on(root: Root, state: object) -> None:
    """Count on from what another process noted in the state's messages, if this run goes on with one paused there."""
    if not root.resuming or not is_list(messages := messages_in(state)):
        return
    carried = carried_in(messages, root.run)
    with root.run.tree.lock:  # nodes of one superstep start at once
        first, root.resuming = root.resuming, root.resuming and carried is None
    if first and carried is not None:
        root.run.continue_from(carried, calls_made(messages))


def close_root(tracker: Tracker, root: Root, outputs: Any) -> None:
    """End the run of an outermost call that answered, or keep it for the call that resumes it; may raise its stop."""
    root.run.returned(outputs)
    if root.paused and root.thread and root.run.stopped is None:
        tracker.pause(root.thread, root)
    root.run.close(status="paused" if root.paused else None)


def identity_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Who a call belongs to, from its config's metadata; the rest of it is the user's own."""
    session = metadata.get("session_id") or metadata.get("thread_id")
    given = {key: metadata.get(key) for key in _IDENTITY}
    own = {key: value for key, value in metadata.items() if key not in given and not key.startswith(_FRAMEWORK)}
    return {"session_id": None if session is None else str(session), "metadata": own, **given}
