"""Which run the code that is running now belongs to.

Shearpin's own blocks leave their place in a context variable. A framework keeps its own (LangChain: the ambient
config); an adapter registers a locator that reads it, so that nothing has to be set, and forgotten, in the
framework's context. Where both know a place, the one that started later is the inner one.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self

from shearpin.trace.spans import Span

_order = itertools.count()


@dataclass(frozen=True, slots=True)
class Place:
    """An open span and the run it is in."""

    run: Any
    span: Span
    outer: Place | None = None
    order: int = field(default_factory=_order.__next__)


Locator = Callable[[object], "Place | None"]
_locators: list[Locator] = []
_place: ContextVar[Place | None] = ContextVar("shearpin_place", default=None)


def register_locator(locate: Locator) -> None:
    """Let a framework say where its running code is: `locate(guard)` gives the place, or None."""
    if locate not in _locators:
        _locators.append(locate)


def place_of(guard: object | None) -> Place | None:
    """The innermost open place of `guard` here; of any guard for None."""
    found = [_own_place(guard), *(locate(guard) for locate in _locators)]
    return max((place for place in found if place is not None), key=lambda place: place.order, default=None)


def _own_place(guard: object | None) -> Place | None:
    place = _open_place()
    while place is not None:
        if (guard is None or place.run.guard is guard) and place.span.end_ns is None:
            return place
        place = place.outer
    return None


def left_place_of(guard: object) -> Place | None:
    """The innermost place of `guard` that this context was started in, though it has ended: its code is an orphan."""
    place = _place.get()
    while place is not None and place.run.guard is not guard:
        place = place.outer
    return place


def _open_place() -> Place | None:
    """The innermost place here that is still open: a block that was interrupted while it was left may have stayed."""
    place = _place.get()
    while place is not None and place.span.end_ns is not None:
        place = place.outer
    return place


class Here:
    """While active, this context's code runs inside a span. Not re-entrant; one per block."""

    __slots__ = ("_place", "_token")

    def __init__(self, run: object, span: Span) -> None:
        self._place = Place(run, span, _open_place())
        self._token: Any = None

    def __enter__(self) -> Self:
        self._token = _place.set(self._place)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            _place.reset(self._token)
        except ValueError:  # a generator finalised in another context: that one holds nothing of ours
            return


class _Announced:
    """A model call that a framework has told us of and is about to make."""

    __slots__ = ("_claimed", "_run", "_span_id")

    def __init__(self, run: object, span_id: str) -> None:
        # Weakly: what is left in a context may outlive the run by far.
        self._run, self._span_id, self._claimed = weakref.ref(run), span_id, False

    @property
    def waits(self) -> bool:
        """Is the request of this call still to come? Once something came out of it, it has been made."""
        run: Any = self._run()
        span = None if run is None or self._claimed else run.tree.journal.open.get(self._span_id)
        return span is not None and span.time_to_first_token_ns is None

    def claim(self, guard: object) -> bool:
        run: Any = self._run()
        if run is None or run.guard is not guard or not self.waits:
            return False
        self._claimed = True
        return True


_announced: ContextVar[tuple[_Announced, ...]] = ContextVar("shearpin_announced", default=())


def announce(run: object, span: Span) -> None:
    """The code that runs on here is a framework's and makes the model call `span`, which is counted.

    A wrapped client that then sends one request for it does not count that again. No place: between the pieces of a
    stream, this context is the consumer's.
    """
    waiting = (call for call in _announced.get() if call.waits)
    _announced.set((*waiting, _Announced(run, span.span_id)))


def claim(guard: object) -> bool:
    """Is the request that is to be sent here that of an announced call? Every such call has one."""
    return any(call.claim(guard) for call in reversed(_announced.get()))
