"""Hearing of CrewAI's calls: its hooks, and its event stream.

How a stop gets out: every stop is a ``HookAborted``, the one exception that CrewAI hands to its caller. It is raised
where a call starts, and again wherever the next thing starts, since a coworker's stop becomes a text for its manager.

Hooks are scoped (``crewai.hooks.dispatch.scoped_hooks``): an agent keeps the global ones it found when it first ran.
A hook knows neither what a call used nor which call it is, and is not called for some (planning, converters, memory
over a custom model). Events know; but handlers of the event bus run late, in threads, and what they raise is lost. So
this listens where CrewAI's own streams do, ``crewai.events.stream_context``: in order, on the caller's thread, and
what is raised gets out. That module is no documented interface; the tests fail when it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, Literal

from crewai.events.stream_context import add_stream_sink, reset_stream_sinks
from crewai.hooks import HookAborted, InterceptionPoint
from crewai.hooks.dispatch import get_scoped_hooks, scoped_hooks

from shearpin import RunStoppedError
from shearpin.adapter import ToldError, raise_if_meant, register_pass_through
from shearpin_integrations.crewai import custom_models, models, parts, tools
from shearpin_integrations.crewai.scope import Attachment, watching


class _Reason:
    """What `HookAborted` sets when it is made, and a stop may not have been made with."""

    def __get__(self, stop: BaseException, _: type[BaseException]) -> str:
        return str(stop)


class Aborted(HookAborted):
    """What CrewAI hands to its caller untouched. It asks for these of everything that it takes for an abort."""

    source: Any = "shearpin"
    reason: Any = _Reason()  # not a property: a stop that has a reason of its own keeps it


register_pass_through(Aborted)

_hearing: ContextVar[bool] = ContextVar("shearpin_crewai_hearing", default=False)

_Handler = Callable[[Attachment, Any, Any], None]

_STARTS: Mapping[str, _Handler] = {**parts.STARTS, "tool_usage_started": tools.used}

_ENDS: Mapping[str, _Handler] = {
    **parts.ENDS,
    "llm_call_completed": models.end,
    "llm_call_failed": models.fail,
    "llm_stream_chunk": models.streamed,
    "tool_usage_error": tools.failed,
    "tool_usage_finished": tools.finished,
}


def listen(stack: ExitStack) -> None:
    """Hear of the calls in this context until `stack` is left; heard of already, nothing changes.

    CrewAI puts scoped hooks inside of others in their place: so those of the user's go in again beside ours.
    """
    if _before_model not in get_scoped_hooks(InterceptionPoint.PRE_MODEL_CALL):
        merged = {point: [*get_scoped_hooks(point), *_HOOKS.get(point, ())] for point in InterceptionPoint}
        stack.enter_context(scoped_hooks(merged))
    if not _hearing.get():
        stack.callback(reset_stream_sinks, add_stream_sink(_hear))
        stack.callback(_hearing.reset, _hearing.set(True))


# --- events -------------------------------------------------------------------------------------------------------


def _hear(source: Any, event: Any) -> None:
    kind: str = event.type
    if kind == "llm_call_started":
        _let_model_in(source, event)
    elif (start := _STARTS.get(kind)) is not None:
        for by in watching():
            _harmless(start, by, source, event)
    elif (end := _ENDS.get(kind)) is not None:
        for by in watching():
            _harmless(end, by, source, event)


def _harmless(handle: _Handler, by: Attachment, source: Any, event: Any) -> None:
    """A bug of ours costs a record, never the agent."""
    try:
        handle(by, source, event)
    except Exception as error:  # noqa: BLE001 - sorted out by the next line
        raise_if_meant(error, handle.__name__)


def _let_model_in(source: Any, event: Any) -> None:
    if custom_models.adopted(source, event):
        return
    admitted: list[Attachment] = []
    for by in watching():
        try:
            _gate(models.start, models.start_unread, by, source, event)
        except RunStoppedError:
            for other in admitted:
                models.withdraw(other.guard, event.call_id)
            raise
        admitted.append(by)


def _gate(start: _Handler, unread: _Handler, by: Attachment, source: Any, event: Any) -> None:
    """A gate stays one: what could not be read is let in, or not, all the same."""
    try:
        start(by, source, event)
    except Exception as error:  # noqa: BLE001 - sorted out by the next line
        raise_if_meant(error, start.__name__)
        unread(by, source, event)


# --- hooks --------------------------------------------------------------------------------------------------------


def _before_model(ctx: Any) -> None:
    custom_models.watch(ctx.llm)


def _before_tool(ctx: Any) -> Literal[False] | None:
    """False is CrewAI's word for a call that is not made."""
    admitted: list[Attachment] = []
    for by in watching():
        try:
            _gate(tools.before, tools.before_unread, by, None, ctx)
        except (RunStoppedError, ToldError) as refusal:
            for other in admitted:
                tools.withdraw(other, ctx)
            if not isinstance(refusal, ToldError):
                raise
            tools.deny(ctx, refusal)
            return False
        admitted.append(by)
    return None


def _after_tool(ctx: Any) -> str | None:
    """Whatever text is returned takes the place of the tool's result."""
    stop: RunStoppedError | None = None
    for by in watching():
        try:
            tools.after(by, ctx)
        except RunStoppedError as error:
            stop = stop or error
        except Exception as error:  # noqa: BLE001 - sorted out by the next line
            raise_if_meant(error, "hook after a tool")
    if stop is not None:
        raise stop
    return tools.denial(ctx)


_HOOKS: Mapping[InterceptionPoint, tuple[Callable[[Any], object], ...]] = {
    InterceptionPoint.PRE_MODEL_CALL: (_before_model,),
    InterceptionPoint.PRE_TOOL_CALL: (_before_tool,),
    InterceptionPoint.POST_TOOL_CALL: (_after_tool,),
}
