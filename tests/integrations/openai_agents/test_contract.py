"""What every framework promises, for the OpenAI Agents SDK: by its hooks, over both interfaces, and installed."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, ClassVar

import openai
import pytest
from agents import Agent as SDKAgent
from agents import (
    AgentsException,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    RunHooks,
    Runner,
    function_tool,
)

from shearpin import Guard
from shearpin.testing import ScriptedServer
from shearpin_integrations.openai_agents import ShearpinRunHooks, installed
from tests.integrations.contract import Agent, Contract, Tool
from tests.integrations.openai_agents.conftest import consume, own_loop


def tool_of(tool: Tool) -> Any:
    @function_tool(name_override=tool.name, description_override="A tool.", failure_error_function=None)
    def body(query: str) -> Any:
        return tool(query)

    return body


def call(mode: str, agent: SDKAgent[Any], question: str, **options: Any) -> str:
    if mode == "sync":
        with own_loop():
            return Runner.run_sync(agent, question, **options).final_output

    async def ask() -> Any:
        if mode == "stream":
            return await consume(Runner.run_streamed(agent, question, **options))
        return await Runner.run(agent, question, **options)

    return asyncio.run(ask()).final_output


class Hooks(Contract):
    passes_through: ClassVar[type[BaseException]] = AgentsException

    @pytest.fixture(autouse=True)
    def _one_client(self, client: openai.AsyncOpenAI) -> None:
        self.client = client

    def model(self, name: str, client: openai.AsyncOpenAI) -> Model:
        return OpenAIChatCompletionsModel(name, client)

    def hooks(self, guard: Guard, times: int) -> RunHooks[Any] | None:
        hooks: RunHooks[Any] | None = None
        for _ in range(times):
            hooks = ShearpinRunHooks(guard, wrap=hooks)
        return hooks

    def under(self, guard: Guard) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def agent(self, server: ScriptedServer, tools: Sequence[Tool], *, model: str = "gpt-4o") -> Agent:
        chat = self.model(model, self.client.with_options(base_url=server.base_url))
        # A streamed chat completion says what it used only if it is asked to.
        settings = ModelSettings(include_usage=True)
        made = SDKAgent(name="assistant", model=chat, model_settings=settings, tools=[tool_of(tool) for tool in tools])

        def ask(mode: str, question: str, guard: Guard | None = None, times: int = 1, **identity: Any) -> str:
            config = RunConfig(trace_metadata=identity or None)
            if guard is None:
                return call(mode, made, question, run_config=config)
            with self.under(guard):
                return call(mode, made, question, run_config=config, hooks=self.hooks(guard, times))

        return Agent(ask)


class TestChatCompletions(Hooks):
    """`ShearpinRunHooks`, over chat completions."""


@pytest.mark.slow
class TestResponses(Hooks):
    """`ShearpinRunHooks`, over the Responses API."""

    def model(self, name: str, client: openai.AsyncOpenAI) -> Model:
        return OpenAIResponsesModel(name, client)


@pytest.mark.slow
class TestInstalled(Hooks):
    """`installed`, and hooks inside of it where it is reached twice."""

    def hooks(self, guard: Guard, times: int) -> RunHooks[Any] | None:
        return super().hooks(guard, times - 1)

    def under(self, guard: Guard) -> contextlib.AbstractContextManager[None]:
        return installed(guard)
