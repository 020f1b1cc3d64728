"""Middleware for `create_agent`: the same rules, and what a callback cannot do.

A callback on an event loop cannot wait; ``awrap_model_call`` can. And it mends a conversation in which an earlier
stop left tool calls unanswered, which every provider rejects.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest
from langchain_core.utils.function_calling import convert_to_openai_tool

from shearpin import Guard
from shearpin_integrations.langchain.mending import mended
from shearpin_integrations.langchain.tracking import Admission, admission
from shearpin_integrations.langgraph.lineage import Cover, covered, watch_lineage


class ShearpinMiddleware(AgentMiddleware[Any, Any]):
    """Enforce a guard's rules on the model and tool calls of one agent, sub-agents in its tools included.

    It counts nothing twice where the guard's handler sees the same call. Put it first: it is then the outermost.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self.guard = guard
        watch_lineage()

    def wrap_model_call(self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]) -> Any:
        with covered(self.guard):
            return handler(_mend(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[Any]]
    ) -> Any:
        with covered(self.guard) as cover:
            request = _mend(request)
            if cover is None:
                return await handler(request)
            async with _admitted(cover, request):
                return await handler(request)

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        with covered(self.guard, request.runtime.config) as cover:
            return _answered(cover, handler(request))

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        with covered(self.guard, request.runtime.config) as cover:
            return _answered(cover, await handler(request))


@contextlib.asynccontextmanager
async def _admitted(cover: Cover, request: ModelRequest[Any]) -> AsyncGenerator[None]:
    """Admit the model call of this block before LangChain starts it: here, calls in flight can be waited for."""
    run = cover.entry.root.run
    asked = _model_call(request)
    span = await run.astart("llm", parent=cover.entry.place.span, **asked)
    admitted = Admission(run, span, asked["request_model"])
    token = admission.set(admitted)
    try:
        yield
    finally:
        admission.reset(token)
        if not admitted.taken:  # another middleware answered in the model's place
            run.withdraw(span)


def _model_call(request: ModelRequest[Any]) -> dict[str, Any]:
    """What the callback will see of this call, as far as the request tells."""
    # What LangChain's callbacks are told of a model; nothing public says it.
    facts: Any = request.model._get_ls_params(**request.model_settings)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    model = str(facts.get("ls_model_name") or request.model.get_name())
    system = [request.system_message] if request.system_message is not None else []
    return {
        "name": model,
        "request_model": model,
        "provider": facts.get("ls_provider"),
        "max_tokens": facts.get("ls_max_tokens"),
        "temperature": facts.get("ls_temperature"),
        "messages": [*system, *request.messages],
        "tools": [convert_to_openai_tool(tool) for tool in request.tools],
    }


def _answered(cover: Cover | None, answer: Any) -> Any:
    """The answer to a tool call, which may have come without the tool."""
    if cover is not None:
        cover.handler.record_unstarted(cover.entry, answer)
    return answer


def _mend(request: ModelRequest[Any]) -> ModelRequest[Any]:
    messages = mended(request.messages)
    return request if messages is None else request.override(messages=messages)
