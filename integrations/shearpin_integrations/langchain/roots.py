"""Outermost calls: whom they belong to, how they begin or go on, how they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shearpin import Guard
from shearpin_integrations.langchain.graphs import know_langgraph, resumes, with_own_thread
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
    paused = tracker_of(guard).resume(root.thread) if resumes(inputs) else None
    if paused is not None:
        run.resume(paused.run)
        root.started_calls = paused.started_calls
        return root
    run.open()
    root.resuming = getattr(inputs, "resume", None) is not None
    if root.resuming:
        run.begun_elsewhere()
    return root


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
