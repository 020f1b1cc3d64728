"""Who watches the running code, and where in each trace it is.

Both are context variables of our own: CrewAI copies the context into every thread and task it starts. Its own stack of
events is no help: a model call that fails is told twice there, which takes one scope too many off the stack.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any

from shearpin import Guard, RunStoppedError
from shearpin.adapter import Place, Run, place_of, register_locator


@dataclass(frozen=True, slots=True)
class Attachment:
    """A guard, and what it calls the runs of what it is attached to."""

    guard: Guard
    service: str | None = None
    identity: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(slots=True)
class Frame:
    """Something of CrewAI's that goes on: an open span, and what its end has to be told.

    ``key`` says which start an end belongs to. ``asked`` are the tool calls that models asked for in it.
    """

    place: Place
    key: tuple[str, object]
    outer: Frame | None
    owns_run: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    error: BaseException | None = None

    @property
    def run(self) -> Run:
        found: Run = self.place.run
        return found


_watching: ContextVar[tuple[Attachment, ...]] = ContextVar("shearpin_crewai_watching", default=())
_frames: ContextVar[Mapping[int, Frame]] = ContextVar("shearpin_crewai_frames", default={})  # noqa: B039 - never changed
_installed: list[Attachment] = []


def watching() -> tuple[Attachment, ...]:
    """The guards that the running code is under."""
    return without_twins((*_watching.get(), *_installed))


def without_twins(attachments: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
    """Each guard once: the first that names it."""
    return tuple({id(each.guard): each for each in reversed(attachments)}.values())[::-1]


@contextmanager
def entering(attachments: tuple[Attachment, ...]) -> Generator[None]:
    """A block under these guards, too; what goes on in it ends with it."""
    watchers, frames = _watching.set(without_twins((*attachments, *_watching.get()))), _frames.set(_frames.get())
    try:
        yield
    finally:
        _close_left(frames.old_value)
        for variable, token in ((_watching, watchers), (_frames, frames)):
            with suppress(ValueError):  # a generator finalised in another context: that one holds nothing of ours
                variable.reset(token)  # type: ignore[arg-type]


def _close_left(before: Any) -> None:
    """Runs of what was started by itself, and broken off without a word."""
    known: Mapping[int, Frame] = {} if before is Token.MISSING else before
    for number, frame in _frames.get().items():
        inner: Frame | None = frame
        while inner is not None and inner is not known.get(number):
            if inner.owns_run and inner.place.span.end_ns is None:
                with suppress(RunStoppedError):  # whatever broke it off is on its way
                    inner.run.close(status="cancelled")
            inner = inner.outer


def install(attachment: Attachment) -> None:
    """Watch the whole process, for its life."""
    _installed.append(attachment)


def frame_of(guard: object) -> Frame | None:
    """The innermost open frame of a guard, here."""
    frame = _frames.get().get(id(guard))
    while frame is not None and frame.place.span.end_ns is not None:
        frame = frame.outer
    return frame


def place_here(guard: Guard) -> Place | None:
    """Where the running code is in a guard's runs; raises the stop to an orphan of a stopped run that has ended."""
    place = place_of(guard)
    if place is None and (left := _frames.get().get(id(guard))) is not None:
        left.run.check()
    return place


def push(guard: Guard, place: Place, key: tuple[str, object], *, owns_run: bool = False) -> Frame:
    """From here on, the running code is inside of `place`."""
    frame = Frame(place, key, frame_of(guard), owns_run)
    _frames.set({**_frames.get(), id(guard): frame})
    return frame


def inside(guard: Guard, key: tuple[str, object]) -> list[Frame]:
    """The frames inside of the one with this key, innermost first; none if it has none."""
    frames: list[Frame] = []
    frame = _frames.get().get(id(guard))
    while frame is not None and frame.key != key:
        frames.append(frame)
        frame = frame.outer
    return [] if frame is None else frames


def pop(guard: Guard, key: tuple[str, object]) -> Frame | None:
    """The frame with this key, which the running code leaves with all inside of it; None if there is none."""
    frame = _frames.get().get(id(guard))
    while frame is not None and frame.key != key:
        frame = frame.outer
    if frame is not None:
        left = dict(_frames.get())
        if frame.outer is None:
            del left[id(guard)]
        else:
            left[id(guard)] = frame.outer
        _frames.set(left)
    return frame


def _locate(guard: object) -> Place | None:
    if guard is not None:
        frame = frame_of(guard)
        return None if frame is None else frame.place
    frames = [frame_of(attachment.guard) for attachment in watching()]
    return max((frame.place for frame in frames if frame is not None), key=lambda place: place.order, default=None)


register_locator(_locate)
