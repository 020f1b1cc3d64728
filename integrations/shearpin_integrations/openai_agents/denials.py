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
    slot.told = text
    with _lock:
        invoke: Any = tool.on_invoke_tool
        if not isinstance(invoke, _Answering):
            invoke = _Answering(tool)
            tool.on_invoke_tool = invoke
        invoke.awaited += 1
    return True


class _Answering:
    """In the place of a tool's ``on_invoke_tool``, for as long as denied calls are on their way to it."""

    def __init__(self, tool: Any) -> None:
        self._tool, self._own = tool, tool.on_invoke_tool
        self.awaited = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_own"], name)  # what the SDK marks such functions with

    async def __call__(self, context: Any, given: Any) -> Any:
        slot = here.get()
        if slot is None or slot.told is None:
            answer = self._own(context, given)
            return await answer if hasattr(answer, "__await__") else answer
        with _lock:
            self.awaited -= 1
            if not self.awaited and self._tool.on_invoke_tool is self:
                self._tool.on_invoke_tool = self._own
        return slot.told
