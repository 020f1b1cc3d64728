"""Where the running code is: in which call of the runner, and in which of its tools.

The SDK calls each hook in a task of its own, so that a context variable set *in* a hook is seen by nobody. But the call
that makes a hook's coroutine is made in the task that runs the tool afterwards: what is set there, before anything is
awaited, is seen in the tool's body, in its thread, and in every run that it starts; and so with a model's client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from shearpin.adapter import Place, register_locator

if TYPE_CHECKING:
    from shearpin import Guard
    from shearpin_integrations.openai_agents.calls import Call


class Slot:
    """A call of the runner, or a model call or a tool in it: that has the places of its spans, once let in."""

    __slots__ = ("call", "outer", "places", "task", "told")

    def __init__(self, call: Call, outer: Slot | None, task: asyncio.Task[Any] | None = None) -> None:
        self.call, self.outer, self.task = call, outer, task
        self.places: dict[Guard, Place] = {}
        self.told: str | None = None
        """What the model is told in the place of the tool's answer."""

    @property
    def is_tools_own(self) -> bool:
        """Asked in a hook: is the task known that the tool runs in? Not if hooks of the user's own call ours."""
        return self.task is not None and self.task is not asyncio.current_task()


here: ContextVar[Slot | None] = ContextVar("shearpin_openai_agents", default=None)


def enter(call: Call) -> Slot:
    """The slot of a model call that is about to be made in this task, or of a tool that is about to run in it."""
    slot = Slot(call, call.slot, asyncio.current_task())
    here.set(slot)
    return slot


def slots() -> Iterator[Slot]:
    """The slots around the running code, the innermost first."""
    slot = here.get()
    while slot is not None:
        yield slot
        slot = slot.outer


def _locate(guard: object) -> Place | None:
    for slot in slots():
        found = [*slot.places.values(), *slot.call.places()]
        places = [place for place in found if place.span.end_ns is None and guard in (None, place.run.guard)]
        if places:
            return max(places, key=lambda place: place.order)
    return None


register_locator(_locate)
