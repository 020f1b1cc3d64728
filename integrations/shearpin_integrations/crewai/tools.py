"""Tool calls: CrewAI's hooks before and after each.

A stop that is raised before a tool only denies that tool: CrewAI makes it the tool's result, asks the model on, and
takes it for the answer where a tool's result is the answer. So the hook after the tool, which runs for denied ones too,
raises it again, and that gets out. A denial that the model is told of goes the same way: the hook after gives its text.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from crewai import BaseLLM
from crewai.tools.tool_failure import detect_tool_failure

from shearpin.adapter import Place, ToldError
from shearpin_integrations.crewai import scope
from shearpin_integrations.crewai.parts import why
from shearpin_integrations.crewai.scope import Attachment, Frame


def before(by: Attachment, source: Any, ctx: Any) -> None:
    """A tool is about to run; may raise the stop."""
    start(by, _key(ctx), str(ctx.tool_name), ctx.tool_input)


def before_unread(by: Attachment, source: Any, ctx: Any) -> None:
    """A tool is about to run that could not be read: the rules are asked all the same."""
    start(by, _key(ctx), str(ctx.tool_name), None)


def start(by: Attachment, key: tuple[str, object], name: str, arguments: Any) -> None:
    """Let a tool call in, or raise the stop. Outside of any run it is one of its own."""
    place = scope.place_here(by.guard)
    if place is None:
        run = by.guard.run(by.service or name, input=arguments, **by.identity)
        run.open()
        place = Place(run, run.span)
        scope.push(by.guard, place, ("alone", key), owns_run=True)
    call_id = _claim(scope.frame_of(by.guard), name, arguments)
    try:
        span = place.run.start("tool", name, parent=place.span, input=arguments, call_id=call_id)
    except BaseException as refusal:
        _close_alone(by, key, None if isinstance(refusal, ToldError) else refusal)
        raise
    scope.push(by.guard, Place(place.run, span), key)


_told: ContextVar[tuple[Any, str] | None] = ContextVar("shearpin_crewai_told", default=None)
"""The input of the call that was denied last here, and what the model is told of that."""


def deny(ctx: Any, told: ToldError) -> None:
    """A call will not run; the hook after it, which is the next to run here, gives the model `told`."""
    _told.set((ctx.tool_input, told.text))


def denial(ctx: Any) -> str | None:
    """What the model is told in place of a tool's result, if its call was denied."""
    told = _told.get()
    if told is None or told[0] is not ctx.tool_input:
        return None
    _told.set(None)
    return told[1]


def after(by: Attachment, ctx: Any) -> None:
    """A tool ran, or was denied; raises the stop of a run that was stopped."""
    key = _key(ctx)
    frame = scope.frame_of(by.guard)
    run = None if frame is None else frame.run
    end(by, key, ctx.tool_result if ctx.raw_tool_result is None else ctx.raw_tool_result)
    _close_alone(by, key)
    if run is not None:
        run.check()


def withdraw(by: Attachment, ctx: Any) -> None:
    """Another guard refused what this one had let in."""
    frame = scope.pop(by.guard, _key(ctx))
    if frame is not None:
        frame.run.withdraw(frame.place.span)
    _close_alone(by, _key(ctx))


def end(by: Attachment, key: tuple[str, object], result: Any) -> None:
    """The tool call with this key is over, well or not."""
    for inner in scope.inside(by.guard, key):
        inner.run.end(inner.place.span, status="cancelled")
    frame = scope.pop(by.guard, key)
    if frame is None:
        return
    span = frame.place.span
    if frame.error is not None:
        frame.run.fail(span, frame.error, output=result)
    else:
        failed = detect_tool_failure(result) is not None
        frame.run.end(span, output=result, status="error" if failed else "ok")


def used(by: Attachment, source: Any, event: Any) -> None:
    """A tool is used, which the hooks have mostly told before: not what a model calls by itself, nor another try."""
    if not isinstance(source, BaseLLM):
        _try_again(by, event)
    elif event.tool_name not in _NO_TOOLS:
        start(by, _function(source, event), str(event.tool_name), event.tool_args)


def finished(by: Attachment, source: Any, event: Any) -> None:
    """A function ended that a model called by itself."""
    if isinstance(source, BaseLLM):
        end(by, _function(source, event), event.output)
        _close_alone(by, _function(source, event))


def _function(llm: Any, event: Any) -> tuple[str, object]:
    return "tool", (id(llm), str(event.tool_name))


_NO_TOOLS = ("create_reasoning_plan",)
"""Functions by which CrewAI has a model fill in a form."""


def _try_again(by: Attachment, event: Any) -> None:
    """CrewAI tries a tool that raised anew, without asking the model or the hooks: a call more; may raise the stop."""
    frame = scope.frame_of(by.guard)
    if frame is None or frame.key[0] != "tool" or (event.run_attempts or 1) == 1:
        return
    span, error = frame.place.span, frame.error
    if error is not None:
        frame.run.fail(span, error)
        frame.error = None
        outer = frame.outer.place.span if frame.outer is not None else None
        try:
            again = frame.run.start("tool", span.name, parent=outer, input=span.input)
        except ToldError as told:  # nothing can be given in place of another try
            raise frame.run.halt(told) from None
        frame.place = Place(frame.run, again)


def failed(by: Attachment, source: Any, event: Any) -> None:
    """A tool raised; CrewAI makes a text of that, which the hook after it is told."""
    frame = scope.frame_of(by.guard)
    if frame is None or frame.key[0] != "tool":
        return
    if not isinstance(source, BaseLLM):
        frame.error = why(event)
    elif frame.key == _function(source, event):  # a denied one has no frame
        frame.error = why(event)
        end(by, frame.key, None)
        _close_alone(by, frame.key, frame.error)


def _close_alone(by: Attachment, key: tuple[str, object], error: BaseException | None = None) -> None:
    frame = scope.pop(by.guard, ("alone", key))
    if frame is not None:
        frame.run.close(error)


def _key(ctx: Any) -> tuple[str, object]:
    return "tool", id(ctx.tool_input)  # both hooks of one call are given the same dict, and no other call has it


def _claim(frame: Frame | None, name: str, arguments: Any) -> str | None:
    """The id of the call a model asked for with these arguments; CrewAI does not tell it."""
    while frame is not None:
        for call in list(frame.asked):
            if call["name"] == name and (call["arguments"] or {}) == arguments:
                return _taken(frame.asked, call)
        frame = frame.outer
    return None


def _taken(asked: list[dict[str, Any]], call: dict[str, Any]) -> str | None:
    try:
        asked.remove(call)
    except ValueError:  # a parallel call with the same arguments was faster
        return None
    call_id: str | None = call["id"]
    return call_id
