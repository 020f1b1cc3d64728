"""The tools that one answer of a model asked for, which the SDK runs all at once.

Once one of them is refused, the SDK would cancel the others in the middle and leave those in threads running. So those
that were let in come to their end first, and the stop comes out after the last of them. That is what a budget for two
calls means: two run, the third does not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

from agents import Tool
from agents.tool_context import ToolContext

from shearpin import RunStoppedError
from shearpin.adapter import ToldError
from shearpin_integrations.openai_agents import approvals, denials, reading
from shearpin_integrations.openai_agents.gaps import harmless
from shearpin_integrations.openai_agents.places import Slot
from shearpin_integrations.openai_agents.watching import Watched

Unanswered = Callable[[], list[dict[str, Any]]]


class Batch:
    """The tools of one run whose bodies run now."""

    def __init__(self, unanswered: Unanswered) -> None:
        self._unanswered = unanswered
        self._running: set[object] = set()
        self._told: set[object] = set()
        self._idle: asyncio.Event | None = None

    @property
    def runs(self) -> bool:
        """Does a tool run?"""
        return bool(self._running)

    async def start(self, watched: Sequence[Watched], slot: Slot, context: Any, tool: Tool) -> bool:
        """A tool is about to run; tells whether it will, and not the model be told that it was denied."""
        key, fields = _key(context, tool), self._fields(context, tool)
        answer = approvals.answer_of(context, tool.name)
        let_in: list[Watched] = []
        try:
            for one in watched:
                with _telling(one, tool, slot):
                    slot.places[one.guard] = await one.tool_starts(key, tool.name, fields, answer)
                let_in.append(one)
        except BaseException as error:
            for one in let_in:
                one.withdraw_tool(key)
            if isinstance(error, ToldError):
                self._told.add(key)
                return False
            if isinstance(error, RunStoppedError):
                await self._until_idle()
            raise
        self._follow(key, slot, watched)
        return True

    def _follow(self, key: object, slot: Slot, watched: Sequence[Watched]) -> None:
        """The tool runs until its end is told, or its task is over: a pause inside of it, or its failure, is not told.

        Of a tool whose task is not known nobody waits for the end.
        """
        if slot.task is not None and slot.is_tools_own:
            self._running.add(key)
            slot.task.add_done_callback(lambda task: self._task_over(key, task, watched))

    def _task_over(self, key: object, task: asyncio.Task[Any], watched: Sequence[Watched]) -> None:
        self._gone(key)
        raised = None if task.cancelled() else task.exception()
        error = None if raised is None else reading.raised_by_tool(raised)
        if error is not None and not isinstance(error, RunStoppedError):
            with harmless("record of a tool's failure"):
                for one in watched:
                    one.tool_fails(key, error)

    def _gone(self, key: object) -> None:
        self._running.discard(key)
        if self._idle is not None and not self._running:
            self._idle.set()

    def end(self, watched: Sequence[Watched], context: Any, tool: Tool, result: object) -> bool:
        """A tool answered; tells whether it ran."""
        key = _key(context, tool)
        if key in self._told:
            self._told.discard(key)
            return False
        try:
            for one in watched:
                if key not in one.tools:  # no hook told that it goes on
                    one.tool_goes_on(key, tool.name, self._fields(context, tool))
                one.tool_ends(key, result, failed=reading.tool_failed())
        finally:
            self._gone(key)
        return True

    def _fields(self, context: Any, tool: Tool) -> dict[str, Any]:
        with harmless("reading of a tool call"):
            return reading.tool_call(context, tool, self._unanswered())
        return {}

    async def _until_idle(self) -> None:
        while self._running:
            self._idle = self._idle or asyncio.Event()
            self._idle.clear()
            await self._idle.wait()


@contextlib.contextmanager
def _telling(one: Watched, tool: Tool, slot: Slot) -> Generator[None]:
    """Around a start: a denial that the model is told of is a stop where there is no way to tell it."""
    try:
        yield
    except ToldError as told:
        if not denials.answer_with(told.text, tool, slot):
            raise one.run.halt(told) from None
        raise


def _key(context: Any, tool: Tool) -> object:
    """What a tool call is known by between its hooks: only function tools have a context of their own."""
    return context.tool_call_id if isinstance(context, ToolContext) else tool.name
