"""Denials that the model is told of: the text is the tool's answer, and the tool does not run.

A hook cannot answer in a tool's place: whatever it raises ends the run. But the SDK looks up a tool's function, its
``on_invoke_tool``, after its hooks. So a denial puts one in its place that answers the denied call, hands every other
one on, and is gone once it has answered.

For tools without such a function - computers, shells, patches - a denial that the model was to be told of stops the
run; hosted tools ran before anybody could deny them.
"""

from __future__ import annotations

import threading
from typing import Any

from agents import CustomTool, FunctionTool, Tool

from shearpin_integrations.openai_agents.places import Slot, here

_lock = threading.Lock()


def answer_with(text: str, tool: Tool, slot: Slot) -> bool:
    """Let `tool` answer the call of `slot` with `text`; tells whether it will."""
    if not isinstance(tool, FunctionTool | CustomTool) or not slot.is_tools_own:
        return False
    stand_in_for(tool)
    slot.told = text
    return True


def stand_in_for(tool: FunctionTool | CustomTool) -> StandIn:
    """Put a function in the place of the tool's own, until it `leave`s; or the same one once more."""
    with _lock:
        found: Any = tool.on_invoke_tool
        stand_in: StandIn = found if isinstance(found, StandIn) else StandIn(tool)
        tool.on_invoke_tool = stand_in
        stand_in.needed += 1
        return stand_in


class StandIn:
    """In the place of a tool's ``on_invoke_tool``, for as long as somebody needs it."""

    def __init__(self, tool: Any) -> None:
        self._tool, self._own = tool, tool.on_invoke_tool
        self.needed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_own"], name)  # what the SDK marks such functions with

    async def __call__(self, context: Any, given: Any) -> Any:
        slot = here.get()
        if slot is not None and slot.told is not None:
            self.leave()
            return slot.told
        answer = self._own(context, given)
        return await answer if hasattr(answer, "__await__") else answer

    def leave(self) -> None:
        """One who needed it does so no longer."""
        with _lock:
            self.needed -= 1
            if not self.needed and self._tool.on_invoke_tool is self:
                self._tool.on_invoke_tool = self._own
