"""What every framework promises, for CrewAI: a crew that has a guard, and a block that has one."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest
from crewai import Agent, Crew, Task
from crewai.hooks import HookAborted
from crewai.tools import BaseTool

from shearpin.testing import ScriptedServer
from shearpin_integrations.crewai import attach, attached
from tests.integrations.contract import Agent as Asked
from tests.integrations.contract import Contract, Tool
from tests.integrations.crewai.conftest import llm as a_model

pytestmark = pytest.mark.slow


class Body(BaseTool):
    """A tool of the contract's, as a tool of CrewAI's."""

    name: str
    description: str = "A tool."
    body: Any

    def _run(self, query: str) -> Any:
        return self.body(query)


def make_crew(server: ScriptedServer, tools: Sequence[Tool], model: str) -> Crew:
    """One agent and one task. Nothing is cached: a tool that is called again is to run again."""
    llm = a_model(server, model=model, provider="openai")
    bodies: list[BaseTool] = [Body(name=tool.name, body=tool) for tool in tools]
    agent = Agent(role="reader", goal="Answer.", backstory="Reads.", llm=llm, tools=bodies, cache=False)
    task = Task(description="{question}", expected_output="A sentence.", agent=agent)
    return Crew(agents=[agent], tasks=[task], cache=False)


def start(crew: Crew, mode: str, question: str) -> str:
    inputs = {"question": question}
    if mode == "async":
        return str(asyncio.run(crew.akickoff(inputs=inputs)).raw)
    crew.stream = mode == "stream"
    answer: Any = crew.kickoff(inputs=inputs)
    if mode == "stream":
        for _ in answer:
            pass
        answer = answer.result
    return str(answer.raw)


class TestAttach(Contract):
    passes_through: ClassVar[type[BaseException]] = HookAborted

    def agent(self, server: ScriptedServer, tools: Sequence[Tool], *, model: str = "gpt-4o") -> Asked:
        def ask(mode, question, guard=None, times=1, **identity):
            crew = make_crew(server, tools, model)  # anew, since a guard stays on it
            for _ in range(times if guard else 0):
                attach(crew, guard, **identity)
            return start(crew, mode, question)

        return Asked(ask)


class TestAttached(Contract):
    passes_through: ClassVar[type[BaseException]] = HookAborted

    def agent(self, server: ScriptedServer, tools: Sequence[Tool], *, model: str = "gpt-4o") -> Asked:
        idle: list[Crew] = []

        def ask(mode, question, guard=None, times=1, **identity):
            crew = idle.pop() if idle else make_crew(server, tools, model)  # CrewAI's cannot run twice at once
            try:
                with ExitStack() as blocks:
                    for _ in range(times if guard else 0):
                        blocks.enter_context(attached(guard, **identity))
                    return start(crew, mode, question)
            finally:
                idle.append(crew)

        return Asked(ask)
