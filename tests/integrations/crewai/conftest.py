"""What these tests share: a scripted provider, CrewAI's own client of it, crews over it, and ways to start them."""

import os
import tempfile

# Before CrewAI is imported: it would write into the home folder.
_HOME = tempfile.mkdtemp(prefix="shearpin-crewai-")
os.environ |= {"CREWAI_STORAGE_DIR": _HOME, "XDG_DATA_HOME": _HOME}

import asyncio  # noqa: E402
import json  # noqa: E402
import shutil  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402

with warnings.catch_warnings(), pytest.MonkeyPatch.context() as at_home:
    at_home.setenv("HOME", _HOME)  # it looks where that is, some of it once and for all
    warnings.simplefilter("ignore")  # it warns of its own packages when it is imported, and so do its dependencies
    import crewai  # noqa: F401

from crewai import LLM, Agent, Crew, Task  # noqa: E402
from crewai.events.event_context import get_current_parent_id  # noqa: E402
from crewai.tools import BaseTool  # noqa: E402

from shearpin import Guard  # noqa: E402
from shearpin.testing import Reply, Script, ScriptedServer, reply  # noqa: E402
from shearpin_integrations.crewai.models import calls_of  # noqa: E402
from shearpin_integrations.crewai.scope import frame_of, watching  # noqa: E402

Serve = Callable[..., ScriptedServer]
MakeGuard = Callable[..., Guard]


_THEIR_WARNINGS = (
    "ignore:deprecated$:DeprecationWarning",
    "ignore:function callbacks cannot be serialized:UserWarning",
    "ignore:.* is deprecated and will be removed in a future release:DeprecationWarning",
)
"""CrewAI's own: it asks its agents for fields that it has deprecated."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "integrations/crewai" in item.nodeid:
            for text in _THEIR_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(text))


def pytest_sessionfinish() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def _away_from_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """CrewAI keeps keys in the home folder; not for longer than a test, since other tests need theirs."""
    monkeypatch.setenv("HOME", _HOME)


def first(values: Sequence[Any]) -> list[Any]:
    """Parameters of which the first is for every day: CrewAI takes its time."""
    return [values[0], *(pytest.param(value, marks=pytest.mark.slow) for value in values[1:])]


# --- the provider and its client


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers: `serve(script)`; they are closed with the test."""
    servers: list[ScriptedServer] = []

    def start(script: Script | Sequence[Reply], **options: Any) -> ScriptedServer:
        servers.append(ScriptedServer(script, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def llm(server: ScriptedServer, **options: Any) -> Any:
    """CrewAI's own model class over OpenAI's own client. No connection outlives its request, nor its event loop."""
    once = {"Connection": "close"}
    given = {"model": "openai/gpt-4o-mini", "max_retries": 0, "timeout": 10, "default_headers": once, **options}
    return LLM(base_url=server.base_url, api_key="any", **given)


# --- guards


@pytest.fixture
def guarded() -> Iterator[MakeGuard]:
    """Make guards: `guarded(Budget(...))`. At the end of the test nothing may be left of what they watched."""
    made: list[Guard] = []
    outside = get_current_parent_id()

    def make(*rules: Any, **options: Any) -> Guard:
        made.append(Guard(*rules, **options))
        return made[-1]

    yield make
    for pin in made:
        assert pin.active == []
        assert len(calls_of(pin)) == 0
        assert frame_of(pin) is None
        assert [span.name for trace in pin.traces for span in trace.spans if span.end_ns is None] == []
    assert watching() == ()
    assert get_current_parent_id() == outside


# --- crews


class Search(BaseTool):
    """Notes what it was asked each time its body runs."""

    name: str = "search"
    description: str = "Searches."
    ran: list[str] = []  # noqa: RUF012 - pydantic copies defaults
    body: Any = None

    def _run(self, q: str = "") -> Any:
        self.ran.append(q)
        return self.body(q) if self.body else f"found {q}"


def an_agent(model: Any, *tools: BaseTool, role: str = "researcher", **options: Any) -> Agent:
    return Agent(role=role, goal="Find out.", backstory="Curious.", llm=model, tools=list(tools), **options)


def a_task(agent: Any, text: str = "Find out about pins.", **options: Any) -> Task:
    return Task(description=text, expected_output="A sentence.", agent=agent, **options)


def a_crew(model: Any, *tools: BaseTool, crew: dict[str, Any] | None = None, **options: Any) -> Crew:
    """One agent with one task."""
    agent = an_agent(model, *tools, **options)
    return Crew(agents=[agent], tasks=[a_task(agent)], **(crew or {}))


# --- ways to call

SYNC_MODES = ("kickoff", "kickoff_for_each")
ASYNC_MODES = ("kickoff_async", "akickoff", "kickoff_for_each_async", "akickoff_for_each")
MODES = SYNC_MODES + ASYNC_MODES


def run_mode(crew: Crew, mode: str = "kickoff", **inputs: Any) -> Any:
    """The answer of one kickoff, in whatever way."""
    given = {"inputs": [inputs] if "for_each" in mode else inputs}
    answer = getattr(crew, mode)(**given)
    answer = asyncio.run(answer) if mode in ASYNC_MODES else answer
    return answer[0] if "for_each" in mode else answer


# --- models that think aloud: CrewAI reads their tool calls out of the text


def thinking(server: ScriptedServer) -> Any:
    """A model that CrewAI gives no tools."""
    return llm(server, model="openai/o1-preview")


def react_call(name: str, **arguments: Any) -> Reply:
    return reply(f"Thought: I look.\nAction: {name}\nAction Input: {json.dumps(arguments)}")


def react_answer(text: str) -> Reply:
    return reply(f"Thought: I now know the final answer\nFinal Answer: {text}")


def wait_until(happened: Callable[[], object]) -> None:
    for _ in range(5_000):
        if happened():
            return
        time.sleep(0.002)
    pytest.fail("it did not happen")
