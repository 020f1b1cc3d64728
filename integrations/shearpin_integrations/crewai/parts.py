"""What CrewAI does around its calls: flow methods, tasks, agents, guardrails, searches; each a frame and a span."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from crewai import Flow

from shearpin import Guard
from shearpin.adapter import HOOK, Place, place_of
from shearpin_integrations.crewai import pauses, scope
from shearpin_integrations.crewai.reading import role_of, task_input, task_name
from shearpin_integrations.crewai.scope import Attachment

Handler = Callable[[Attachment, Any, Any], None]

_LOOP = {HOOK: True}  # a task or a flow's method is no step: its model calls are


def is_own(source: object) -> bool:
    """Is this flow CrewAI's own? Its agents and its memory are flows inside."""
    kind = type(source)
    return issubclass(kind, Flow) and kind is not Flow and kind.__module__.startswith("crewai.")


def begin(by: Attachment, key: tuple[str, object], kind: str, name: str, **fields: Any) -> None:
    """Something starts here; may raise the stop. Outside of any run it is one of its own."""
    place = scope.place_here(by.guard)
    if place is None:
        run = by.guard.run(by.service or name, input=fields.get("input"), **by.identity)
        run.open()
        scope.push(by.guard, Place(run, run.span), key, owns_run=True)
        return
    span = place.run.start(kind, name, parent=place.span, **fields)
    scope.push(by.guard, Place(place.run, span), key)


def leave(guard: Guard, key: tuple[str, object], error: BaseException | None = None, **fields: Any) -> None:
    """What began with this key ended, and what was left open inside of it too."""
    for inner in scope.inside(guard, key):  # a stop passes an agent without a word
        if error is None:
            inner.run.end(inner.place.span, status="cancelled")
        else:
            inner.run.fail(inner.place.span, error)
    frame = scope.pop(guard, key)
    if frame is None:
        return
    if frame.owns_run:
        frame.run.returned(fields.get("output"))
        frame.run.close(error)
    elif error is None:
        frame.run.end(frame.place.span, **fields)
    else:
        frame.run.fail(frame.place.span, error, **fields)


def why(event: Any) -> BaseException:
    """The error that an event tells of: events are heard where it is handled, and most hold no more than its text."""
    told = getattr(event, "error", None)
    return sys.exc_info()[1] or (told if isinstance(told, BaseException) else Exception(str(told)))


# --- flows --------------------------------------------------------------------------------------------------------


def method_started(by: Attachment, flow: Any, event: Any) -> None:
    if not is_own(flow):
        begin(by, _method(flow, event), "node", str(event.method_name), input=event.state, attributes=_LOOP)


def method_ended(by: Attachment, flow: Any, event: Any) -> None:
    if is_own(flow):
        return
    place = place_of(by.guard)
    if place is not None and not isinstance(place.run.partial, list):
        place.run.reached(event.state)
    leave(by.guard, _method(flow, event), output=event.result)


def method_failed(by: Attachment, flow: Any, event: Any) -> None:
    if not is_own(flow):
        leave(by.guard, _method(flow, event), why(event))


def method_paused(by: Attachment, flow: Any, event: Any) -> None:
    place = place_of(by.guard)
    leave(by.guard, _method(flow, event), status="paused")
    if place is not None:
        pauses.carry(place.run)


def _method(flow: Any, event: Any) -> tuple[str, object]:
    return "method", (id(flow), str(event.method_name))


# --- tasks and agents ---------------------------------------------------------------------------------------------


def task_started(by: Attachment, task: Any, event: Any) -> None:
    given = task_input(task, event.context)
    begin(by, ("task", id(task)), "node", task_name(task), input=given, attributes=_LOOP)


def task_ended(by: Attachment, task: Any, event: Any) -> None:
    place = place_of(by.guard)
    if place is not None:
        with place.run.tree.lock:  # tasks end in threads of their own
            done = place.run.partial
            if done is None or isinstance(done, list):
                place.run.reached([*(done or ()), event.output])
    leave(by.guard, ("task", id(task)), output=event.output)


def task_failed(by: Attachment, task: Any, event: Any) -> None:
    leave(by.guard, ("task", id(task)), why(event))


def agent_started(by: Attachment, agent: Any, event: Any) -> None:
    frame = scope.frame_of(by.guard)
    if frame is None or frame.key != ("entry", id(agent)):  # else its own entry has opened a run for it
        begin(by, ("agent", id(agent)), "agent", role_of(agent), input=event.task_prompt)


def agent_ended(by: Attachment, agent: Any, event: Any) -> None:
    leave(by.guard, ("agent", id(agent)), output=event.output)


def agent_failed(by: Attachment, agent: Any, event: Any) -> None:
    leave(by.guard, ("agent", id(agent)), why(event))


# --- guardrails and searches --------------------------------------------------------------------------------------


def guardrail_started(by: Attachment, source: Any, event: Any) -> None:
    name = getattr(event, "guardrail_name", None) or "guardrail"
    given = {"guardrail": str(event.guardrail), "retry": event.retry_count}
    begin(by, ("guardrail", id(source)), "guardrail", str(name), input=given)


def guardrail_ended(by: Attachment, source: Any, event: Any) -> None:
    verdict = {"success": event.success, "result": event.result, "error": event.error}
    leave(
        by.guard,
        ("guardrail", id(source)),
        output={name: value for name, value in verdict.items() if value is not None},
    )


UNPRICED = (
    "searches of memory and knowledge: CrewAI tells nothing of the embedding calls they make, so those cost nothing"
)


def memory_asked(by: Attachment, memory: Any, event: Any) -> None:
    _search(by, ("memory", id(memory)), "memory", input=event.query)


def memory_told(by: Attachment, memory: Any, event: Any) -> None:
    leave(by.guard, ("memory", id(memory)), output=[_found(match) for match in event.results or ()])


def memory_failed(by: Attachment, memory: Any, event: Any) -> None:
    leave(by.guard, ("memory", id(memory)), why(event))


def knowledge_asked(by: Attachment, source: Any, event: Any) -> None:
    _search(by, ("knowledge", id(source)), "knowledge")


def knowledge_told(by: Attachment, source: Any, event: Any) -> None:
    leave(by.guard, ("knowledge", id(source)), output={"query": event.query, "found": event.retrieved_knowledge})


def knowledge_failed(by: Attachment, source: Any, event: Any) -> None:
    leave(by.guard, ("knowledge", id(source)), why(event))


def _search(by: Attachment, key: tuple[str, object], name: str, **fields: Any) -> None:
    begin(by, key, "retriever", name, **fields)
    frame = scope.frame_of(by.guard)
    if frame is not None:
        frame.run.gap(UNPRICED)


def _found(match: Any) -> Any:
    return getattr(getattr(match, "record", None), "content", match)


STARTS: Mapping[str, Handler] = {
    "method_execution_started": method_started,
    "task_started": task_started,
    "agent_execution_started": agent_started,
    "llm_guardrail_started": guardrail_started,
    "memory_query_started": memory_asked,
    "knowledge_search_query_started": knowledge_asked,
}

ENDS: Mapping[str, Handler] = {
    "method_execution_finished": method_ended,
    "method_execution_failed": method_failed,
    "method_execution_paused": method_paused,
    "task_completed": task_ended,
    "task_failed": task_failed,
    "agent_execution_completed": agent_ended,
    "agent_execution_error": agent_failed,
    "llm_guardrail_completed": guardrail_ended,
    "memory_query_completed": memory_told,
    "memory_query_failed": memory_failed,
    "knowledge_search_query_completed": knowledge_told,
    "knowledge_search_query_failed": knowledge_failed,
}
