"""Middleware for `create_agent`: the same rules, and what a callback cannot do.

A callback on an event loop cannot wait; ``awrap_model_call`` can. And it mends a conversation in which an earlier
stop left tool calls unanswered, which every provider rejects.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest

from shearpin import Guard
from shearpin_integrations.langchain.answering import note_answers
from shearpin_integrations.langchain.mending import mended
from shearpin_integrations.langchain.roots import count_on
from shearpin_integrations.langchain.tracking import guard_for
from shearpin_integrations.langgraph.lineage import Cover, covered, watch_lineage


class ShearpinMiddleware(AgentMiddleware[Any, Any]):
    """Enforce a guard's rules on the model and tool calls of one agent, sub-agents in its tools included.

    It counts nothing twice where the guard's handler sees the same call. Put it first: it is then the outermost.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self.guard = guard_for("ShearpinMiddleware({})", guard)
        watch_lineage()

    @property
    def name(self) -> str:
        """LangChain takes no two middlewares of one name; each guard has its own."""
        return f"{type(self).__name__}-{id(self.guard):x}"

    def wrap_model_call(self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]) -> Any:
        with covered(self.guard, agent=True) as cover:
            _resume(cover, request.state)
            return _said(cover, handler(_mend(request)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[Any]]
    ) -> Any:
        with covered(self.guard, agent=True) as cover:
            _resume(cover, request.state)
            return _said(cover, await handler(_mend(request)))

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        with covered(self.guard, request.runtime.config, agent=True) as cover:
            _resume(cover, request.state)
            return _answered(cover, handler(request))

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        with covered(self.guard, request.runtime.config, agent=True) as cover:
            _resume(cover, request.state)
            return _answered(cover, await handler(request))


def _said(cover: Cover | None, response: Any) -> Any:
    """A model's response; beside it may be what the agent answers a structured one with, which calls no tool."""
    if cover is not None:
        plain = getattr(response, "model_response", response)
        note_answers(cover.entry, getattr(plain, "result", None), made=False)
    return response


def _answered(cover: Cover | None, answer: Any) -> Any:
    """The answer to a tool call, which may have come without the tool."""
    if cover is not None:
        note_answers(cover.entry, answer)
    return answer


def _resume(cover: Cover | None, state: Any) -> None:
    """Note how far the agent has come; of one that was paused in another process, tools run before the model does."""
    if cover is not None:
        count_on(cover.entry.root, state)
        if cover.new:
            cover.entry.root.run.reached(state)


def _mend(request: ModelRequest[Any]) -> ModelRequest[Any]:
    messages = mended(request.messages)
    return request if messages is None else request.override(messages=messages)
