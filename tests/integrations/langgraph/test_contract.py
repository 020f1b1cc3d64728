"""What every framework promises, for LangGraph: by its handler, and by middleware."""

import asyncio
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import openai
import pytest
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from langgraph.errors import GraphBubbleUp

from shearpin.testing import ScriptedServer
from shearpin_integrations.langgraph import ShearpinCallbackHandler, ShearpinMiddleware
from tests.integrations.contract import Agent, Contract, Tool


@functools.cache
def clients() -> tuple[openai.OpenAI, openai.AsyncOpenAI]:
    """One pair for all: making them is what takes long. No connection outlives its request, nor its event loop."""
    options: Any = {"api_key": "any", "base_url": "http://127.0.0.1:9", "max_retries": 0}
    options["default_headers"] = {"Connection": "close"}
    return openai.OpenAI(**options), openai.AsyncOpenAI(**options)


def chat(server: ScriptedServer, model: str = "gpt-4o") -> ChatOpenAI:
    client, async_client = (each.with_options(base_url=server.base_url) for each in clients())
    return ChatOpenAI(
        model=model,
        api_key="any",
        stream_usage=True,
        client=client.chat.completions,
        root_client=client,
        async_client=async_client.chat.completions,
        root_async_client=async_client,
    )


def tool_of(tool: Tool) -> StructuredTool:
    def body(query: str) -> Any:
        return tool(query)

    async def abody(query: str) -> Any:
        return tool(query)

    return StructuredTool.from_function(body, abody, name=tool.name, description="A tool.")


def call(runnable: Any, mode: str, question: Any, config: Any) -> Any:
    if mode == "sync":
        return runnable.invoke(question, config)
    if mode == "async":
        return asyncio.run(runnable.ainvoke(question, config))
    return list(runnable.stream(question, config, stream_mode="values"))[-1]


class TestHandler(Contract):
    passes_through: ClassVar[type[BaseException]] = GraphBubbleUp

    def agent(self, server: ScriptedServer, tools: Sequence[Tool], *, model: str = "gpt-4o") -> Agent:
        graph = create_agent(chat(server, model), [tool_of(tool) for tool in tools])

        def ask(mode, question, guard=None, times=1, **identity):
            handlers = [ShearpinCallbackHandler(guard) for _ in range(times)] if guard else []
            config: Any = {"callbacks": handlers, "metadata": identity}
            state = call(graph, mode, {"messages": [("user", question)]}, config)
            return state["messages"][-1].content

        return Agent(ask)


@pytest.mark.slow
class TestMiddleware(Contract):
    passes_through: ClassVar[type[BaseException]] = GraphBubbleUp

    def agent(self, server: ScriptedServer, tools: Sequence[Tool], *, model: str = "gpt-4o") -> Agent:
        def ask(mode, question, guard=None, times=1, **identity):
            handlers = [ShearpinCallbackHandler(guard)] if guard and times > 1 else []
            middleware = [ShearpinMiddleware(guard)] if guard else []
            graph = create_agent(chat(server, model), [tool_of(tool) for tool in tools], middleware=middleware)
            config: Any = {"callbacks": handlers, "metadata": identity}
            state = call(graph, mode, {"messages": [("user", question)]}, config)
            return state["messages"][-1].content

        return Agent(ask)
