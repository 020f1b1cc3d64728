"""What every framework promises, for LangChain without a graph: a loop over a model with tools."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda

from shearpin.adapter import ToldError
from shearpin.testing import ScriptedServer
from shearpin_integrations.langchain import ShearpinCallbackHandler
from tests.integrations.contract import Agent, Contract, Tool
from tests.integrations.langgraph.test_contract import chat, tool_of

Caller = Callable[[Any, Any, Any], Coroutine[Any, Any, Any]]


@pytest.mark.slow
class TestLangChain(Contract):
    def agent(self, server: ScriptedServer, tools: Sequence[Tool], *, model: str = "gpt-4o") -> Agent:
        by_name = {tool.name: tool_of(tool) for tool in tools}
        bound: Any = chat(server, model).bind_tools(list(by_name.values())) if tools else chat(server, model)

        async def loop(question: str, config: Any, model: Caller, tool: Caller) -> str:
            messages: list[Any] = [HumanMessage(question)]
            while True:
                messages.append(answer := await model(bound, messages, config))
                if not answer.tool_calls:
                    return answer.content
                messages += [await told_or(tool, by_name[asked["name"]], asked, config) for asked in answer.tool_calls]

        runnable = RunnableLambda(
            lambda question, config: finished(loop(question, config, at_once, at_once)),
            lambda question, config: loop(question, config, awaited, awaited),
        )

        def ask(mode, question, guard=None, times=1, **identity):
            handlers = [ShearpinCallbackHandler(guard) for _ in range(times)] if guard else []
            config: Any = {"callbacks": handlers, "metadata": identity}
            if mode == "sync":
                return runnable.invoke(question, config)
            if mode == "async":
                return asyncio.run(runnable.ainvoke(question, config))
            return "".join(runnable.stream(question, config))

        return Agent(ask)


async def at_once(runnable: Any, value: Any, config: Any) -> Any:
    return runnable.invoke(value, config)


async def awaited(runnable: Any, value: Any, config: Any) -> Any:
    return await runnable.ainvoke(value, config)


async def told_or(call: Caller, tool: Any, asked: Any, config: Any) -> Any:
    try:
        return await call(tool, {**asked, "type": "tool_call"}, config)
    except ToldError as told:
        return ToolMessage(told.text, tool_call_id=asked["id"])


def finished(coroutine: Coroutine[Any, Any, str]) -> str:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")
