"""Model calls: from the start that lets them in to the end that says what they cost."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shearpin import Guard, Usage
from shearpin.adapter import Reply, Run
from shearpin_integrations.crewai.reading import (
    counter_of,
    model_call,
    reply_of,
    unreadable_answer,
    usage_since,
    usage_told,
)
from shearpin_integrations.crewai.scope import Attachment, Frame, frame_of, place_here


@dataclass(slots=True)
class Call:
    """A model call that goes on. ``before`` is what its model's own counter said when it started.

    That counter belongs to the model, which several calls may share: then the difference is nobody's.
    """

    run: Run
    span: Any
    llm: Any
    frame: Frame | None
    before: Any
    alone: bool = False
    shared: bool = False
    pieces: list[str] = field(default_factory=list[str])

    @property
    def counted(self) -> Usage | None:
        """What the model's own counter says this call has used."""
        return None if self.shared else usage_since(self.llm, self.before)


class Calls:
    """The open model calls of one guard, by CrewAI's id."""

    def __init__(self) -> None:
        self._open: dict[str, Call] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._open

    def get(self, call_id: str) -> Call | None:
        return self._open.get(call_id)

    def add(self, call_id: str, call: Call) -> None:
        with self._lock:
            for other in self._open.values():
                if other.llm is call.llm:
                    other.shared = call.shared = True
            self._open[call_id] = call

    def forget(self, run: Run) -> None:
        """A run is over; a call that is cancelled is never told of."""
        with self._lock:
            for call_id, call in list(self._open.items()):
                if call.run.tree is run.tree:
                    del self._open[call_id]

    def pop(self, call_id: str) -> Call | None:
        with self._lock:
            return self._open.pop(call_id, None)


_KEPT_AS = "_crewai_calls"
_making = threading.Lock()


def calls_of(guard: Guard) -> Calls:
    """The open calls of a guard, kept by it."""
    with _making:
        calls: Calls | None = vars(guard).get(_KEPT_AS)
        if calls is None:
            calls = vars(guard)[_KEPT_AS] = Calls()
        return calls


def start(by: Attachment, llm: Any, event: Any) -> None:
    """A model is about to be asked; may raise the stop."""
    admit(by, llm, event.call_id, model_call(llm, event))


def start_unread(by: Attachment, llm: Any, event: Any) -> None:
    """A model is about to be asked something that could not be read: the rules are asked all the same."""
    admit(by, llm, event.call_id, {"request_model": str(event.model)})


def admit(by: Attachment, llm: Any, call_id: str, fields: Mapping[str, Any]) -> None:
    """Let a model call in, or raise the stop. Outside of any run it is one of its own."""
    calls = calls_of(by.guard)
    if call_id in calls:
        return
    name = str(fields["request_model"])
    place = place_here(by.guard)
    if place is not None:
        run, alone = place.run, False
    else:
        run, alone = by.guard.run(by.service or name, input=fields.get("messages"), **by.identity), True
        run.open()
    try:
        span = run.start("llm", name, parent=None if place is None else place.span, **fields)
    except BaseException as stop:
        if alone:
            run.close(stop)
        raise
    calls.add(call_id, Call(run, span, llm, frame_of(by.guard), counter_of(llm), alone))


def withdraw(guard: Guard, call_id: str) -> None:
    """Another guard refused what this one had let in."""
    call = calls_of(guard).pop(call_id)
    if call is not None:
        call.run.withdraw(call.span)
        if call.alone:
            call.run.close(status="cancelled")


def end(by: Attachment, llm: Any, event: Any) -> None:
    """A model answered."""
    call = calls_of(by.guard).get(event.call_id)
    if call is not None:
        finish(by.guard, event.call_id, reply_of(event, usage_told(event.usage) or call.counted))


def finish(guard: Guard, call_id: str, reply: Reply) -> None:
    """A model answered with `reply`; ends the run of a call that was one by itself, which may raise its stop."""
    call = calls_of(guard).pop(call_id)
    if call is None:
        return
    if call.frame is not None:
        call.frame.asked.extend(reply.tool_calls)
    call.run.end(call.span, reply=reply)
    if call.alone:
        call.run.returned(reply.text)
        call.run.close()


def fail(by: Attachment, llm: Any, event: Any) -> None:
    """A model call failed. CrewAI tells some failures twice: the second finds nothing open."""
    break_off(by.guard, event.call_id, sys.exc_info()[1] or Exception(str(event.error)))


def break_off(guard: Guard, call_id: str, error: BaseException) -> None:
    """A model call ended with `error`: what was billed all the same is charged."""
    call = calls_of(guard).pop(call_id)
    if call is None:
        return
    reply = None
    if (used := call.counted) is not None or call.pieces:
        reply = Reply(text="".join(call.pieces) or None, usage=used)
    elif unreadable_answer(error):
        reply = Reply()
    call.run.fail(call.span, error, reply=reply)
    if call.alone:
        call.run.close(error)


def streamed(by: Attachment, llm: Any, event: Any) -> None:
    """A piece of an answer came; a stopped run pulls no more of them."""
    call = calls_of(by.guard).get(event.call_id)
    if call is not None:
        call.run.first_token(call.span)
        call.pieces.append(str(event.chunk or ""))
        call.run.check()


def rename(guard: Guard, known_as: str, call_id: str) -> None:
    """An open call goes by another id from here on."""
    calls = calls_of(guard)
    call = calls.pop(known_as)
    if call is not None:
        calls.add(call_id, call)
