"""Approvals in the SDK's own way: the run ends with ``interruptions``, and goes on with what a person said of them.

The SDK asks a tool's ``needs_approval`` after `on_llm_end`, where the calls of an answer are known, and before the
tool's own hook. So what a policy asks about gets a function in that place, which says yes to these calls, hands every
other one on, and is gone when the run pauses or ends. Tools of MCP servers are made anew out of reach of any hook, and
other kinds of tools are not functions: about these the terminal asks.

What was approved begins with its hook. Of what was rejected no hook tells: it is read from the state that goes on.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents import Agent, FunctionTool, RunContextWrapper, Usage
from agents.tool_context import ToolContext

from shearpin.adapter import ToldError, parse_arguments
from shearpin_integrations.openai_agents import denials, resuming
from shearpin_integrations.openai_agents.gaps import harmless
from shearpin_integrations.openai_agents.reading import part
from shearpin_integrations.openai_agents.watching import Watched

ToolAsked = Mapping[str, Any]

_lock = threading.Lock()


class Approvals:
    """The calls of one run that a person is asked about."""

    def __init__(self, given: object) -> None:
        self._tools: list[_Asking] = []
        self._waited: list[ToolAsked] = []
        self._settled: set[Watched] = set()
        if resuming.is_state(given):
            with harmless("reading of what waited for an approval"):
                self._waited = [_call_of(item) for item in given.get_interruptions()]

    async def ask(
        self, watched: Sequence[Watched], context: RunContextWrapper[Any], agent: Agent[Any], asked: Sequence[ToolAsked]
    ) -> None:
        """A model has asked for these calls. May raise the stop of one that was rejected before it was made."""
        tools = {tool.name: tool for tool in agent.tools if isinstance(tool, FunctionTool)}
        calls = [call for call in asked if call["name"] in tools and call["id"]]
        for one in watched:
            with harmless("asking for approvals"):
                for request in one.run.questions(calls, parent=one.place.span):
                    self._pause_at(tools[request.tool], context.usage, request.call_id)
                await self._rejected(one, context, calls)

    def _pause_at(self, tool: FunctionTool, usage: Usage, call_id: str | None) -> None:
        with _lock:
            asking: Any = tool.needs_approval
            if not isinstance(asking, _Asking):
                asking = tool.needs_approval = _Asking(tool)
            asking.calls.append((self, weakref.ref(usage), call_id))
            self._tools.append(asking)

    async def settle(self, watched: Sequence[Watched], context: RunContextWrapper[Any]) -> None:
        """A run goes on: what was rejected meanwhile is. May raise the stop."""
        for one in watched:
            if one not in self._settled:
                self._settled.add(one)
                with harmless("reading of approvals"):
                    await self._rejected(one, context, self._waited)

    async def _rejected(self, one: Watched, context: RunContextWrapper[Any], calls: Sequence[ToolAsked]) -> None:
        for call in calls:
            if context.is_tool_approved(call["name"], call["id"]) is False:
                reason = context.get_rejection_message(call["name"], call["id"]) or "rejected"
                if one.run.questions([call], parent=one.place.span):
                    await _reject(one, call, reason)

    def over(self) -> None:
        """The run pauses or ends."""
        with _lock:
            for asking in self._tools:
                asking.forget(self)
            self._tools.clear()


class _Asking:
    """In the place of a tool's ``needs_approval``, for as long as runs go on that ask about calls of it."""

    def __init__(self, tool: FunctionTool) -> None:
        self._tool, self._own = tool, tool.needs_approval
        # Where a function decides, newer versions let calls wait whose arguments their own tools' functions would get
        # in another form, by a default for one. Where none decided before, none is to wait that nobody asks about.
        self._stand_in = None if callable(self._own) else denials.stand_in_for(tool)
        self.calls: list[tuple[Approvals, weakref.ref[Usage], str | None]] = []
        """Whose calls, of which run - by the object that counts its usage - and their ids."""

    async def __call__(self, context: RunContextWrapper[Any], arguments: dict[str, Any], call_id: str) -> bool:
        if any(usage() is context.usage and known == call_id for _, usage, known in self.calls):
            return True
        own: Any = self._own
        needed = own(context, arguments, call_id) if callable(own) else own
        return bool(await needed if inspect.isawaitable(needed) else needed)

    def forget(self, approvals: Approvals) -> None:
        self.calls = [call for call in self.calls if call[0] is not approvals]
        if not self.calls and self._tool.needs_approval is self:
            self._tool.needs_approval = self._own
            if self._stand_in is not None:
                self._stand_in.leave()


def answer_of(context: object, name: str) -> Callable[[object], bool] | None:
    """What a person said of a tool call that is about to run, for a policy that asks; None if nobody was asked."""
    if isinstance(context, ToolContext) and context.is_tool_approved(name, context.tool_call_id):
        return lambda _: True
    return None


def _call_of(item: Any) -> ToolAsked:
    """A call that waits, as a model's reply has it."""
    raw = item.raw_item
    name = str(part(raw, "name") or item.tool_name)
    return {"id": part(raw, "call_id"), "name": name, "arguments": parse_arguments(part(raw, "arguments"))}


async def _reject(one: Watched, call: ToolAsked, reason: str) -> None:
    """The policy learns that a person said no. It may raise the stop; where it tells the model, the SDK does that."""
    fields = {"input": call["arguments"], "call_id": call["id"]}
    try:
        await one.tool_starts(call["id"], call["name"], fields, lambda _: (False, reason))
    except ToldError:
        return
    one.withdraw_tool(call["id"])
