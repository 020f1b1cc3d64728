"""What these tests share: a scripted provider, agents over its real client, and every way to run them."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import openai
import pytest
from agents import (
    Agent,
    FunctionTool,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_trace_processors,
)

import shearpin
from shearpin import Guard, Trace
from shearpin.rules.protocol import Rule
from shearpin.testing import Reply, Script, ScriptedServer
from shearpin_integrations.openai_agents import ShearpinRunHooks, installed

Serve = Callable[..., ScriptedServer]
MakeAgent = Callable[..., Agent[Any]]
MakeAgentOver = Callable[..., Agent[Any]]
MakeGuard = Callable[..., Guard]

# The SDK's own exporter would look for api.openai.com.
set_trace_processors([])


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


@pytest.fixture(scope="session")
def client() -> openai.AsyncOpenAI:
    """One for all tests: what costs time is the making. No connection outlives its request, nor its event loop."""
    headers = {"Connection": "close"}
    return openai.AsyncOpenAI(
        api_key="any", base_url="http://127.0.0.1:9", max_retries=0, timeout=10, default_headers=headers
    )


@pytest.fixture
def agent(client: openai.AsyncOpenAI) -> MakeAgent:
    """`agent(server)`: an agent whose model is the SDK's own class over OpenAI's own client."""

    def make(server: ScriptedServer, *tools: Any, name: str = "assistant", **options: Any) -> Agent[Any]:
        model = OpenAIChatCompletionsModel("gpt-4o", client.with_options(base_url=server.base_url))
        return Agent(**{"name": name, "model": model, "tools": list(tools), **options})

    return make


@pytest.fixture
def speaking(client: openai.AsyncOpenAI, agent: MakeAgent) -> MakeAgentOver:
    """`speaking(api, server, *tools)`: an agent whose model speaks one of OpenAI's two interfaces."""

    def make(api: str, server: ScriptedServer, *tools: Any, **options: Any) -> Agent[Any]:
        if api == "responses":
            options["model"] = OpenAIResponsesModel("gpt-4o", client.with_options(base_url=server.base_url))
        return agent(server, *tools, **options)

    return make


def tool_of(ran: list[Any], name: str = "search", body: Callable[[str], object] | None = None) -> FunctionTool:
    """A tool that notes in `ran` what it was asked each time its body runs."""

    @function_tool(name_override=name)
    async def search(q: str = "") -> str:
        """Searches."""
        ran.append(q)
        found = body(q) if body else f"found {q}"
        return str(await found if asyncio.iscoroutine(found) else found)

    return search


def sync_tool_of(ran: list[Any], name: str = "search", body: Callable[[str], object] | None = None) -> FunctionTool:
    """The same, as a plain function: the SDK runs it in a thread."""

    @function_tool(name_override=name)
    def search(q: str = "") -> str:
        """Searches."""
        ran.append(q)
        return str(body(q) if body else f"found {q}")

    return search


# --- guards


@pytest.fixture
def guarded() -> Iterator[MakeGuard]:
    """Make guards: `guarded(Budget(...))`. At the end of the test none of them may hold on to anything."""
    made: list[Guard] = []

    def make(*rules: Rule, **options: Any) -> Guard:
        made.append(Guard(*rules, **options))
        return made[-1]

    yield make
    for pin in made:
        assert_nothing_is_left(pin)


def assert_nothing_is_left(pin: Guard) -> None:
    assert pin.active == []
    assert [span.name for trace in pin.traces for span in trace.spans if span.end_ns is None] == []


def finished(pin: Guard) -> Trace:
    """The trace of the only run."""
    assert len(pin.traces) == 1
    return pin.traces[0]


# --- ways to put a run under a guard, and to run

WAYS_IN = ("hooks", "installed", "attached")
MODES = ("run", "run_streamed", "run_sync")


async def consume(result: Any) -> Any:
    async for _ in result.stream_events():
        pass
    return result


def run(
    agent: Agent[Any], pin: Guard, mode: str = "run", way: str = "hooks", given: Any = "Hello?", **options: Any
) -> Any:
    """The result of a run under `pin`, on an event loop of its own."""
    if mode == "run_sync":
        with entered(pin, way), own_loop():
            return Runner.run_sync(*_begun(agent, pin, way, given, options), **options)
    return asyncio.run(arun(agent, pin, mode, way, given, **options))


async def arun(
    agent: Agent[Any], pin: Guard, mode: str = "run", way: str = "hooks", given: Any = "Hello?", **options: Any
) -> Any:
    with entered(pin, way):
        begun = _begun(agent, pin, way, given, options)
        if mode == "run_streamed":
            return await consume(Runner.run_streamed(*begun, **options))
        return await Runner.run(*begun, **options)


@contextlib.contextmanager
def own_loop() -> Iterator[None]:
    """`run_sync` leaves its thread's event loop open, for later runs of the thread; here it is closed."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def entered(pin: Guard, way: str) -> Any:
    return installed(pin) if way == "installed" else contextlib.nullcontext()


def _begun(agent: Agent[Any], pin: Guard, way: str, given: Any, options: dict[str, Any]) -> tuple[Agent[Any], Any]:
    if way == "hooks":
        options["hooks"] = ShearpinRunHooks(pin, wrap=options.pop("wrap", None))
    elif "wrap" in options:
        options["hooks"] = options.pop("wrap")
    return (shearpin.attach(agent, pin) if way == "attached" else agent), given


# --- traces


def counts(trace: Trace) -> tuple[int, int, int]:
    return trace.steps, trace.llm_calls, trace.tool_calls


def outline(trace: Trace) -> list[tuple[str, str]]:
    return [(span.kind, span.name) for span in trace.spans]


def parent_of(trace: Trace, span: Any) -> str | None:
    return next((other.name for other in trace.spans if other.span_id == span.parent_id), None)


# --- waiting for others, for some seconds at most


async def until(happened: Callable[[], object]) -> None:
    for _ in range(5_000):
        if happened():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it did not happen")


def wait_until(happened: Callable[[], object]) -> None:
    for _ in range(5_000):
        if happened():
            return
        time.sleep(0.001)
    pytest.fail("it did not happen")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test of every way into a run is in one of them an everyday test."""
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if params.get("way", "hooks") != "hooks":
            item.add_marker(pytest.mark.slow)


MCP_SERVER = """
try:
    from mcp.server import MCPServer
except ImportError:  # before mcp 2
    from mcp.server.fastmcp import FastMCP as MCPServer
server = MCPServer("notes")
@server.tool()
def note(text: str) -> str:
    open({path!r}, "a").write(text)
    return "noted " + text
server.run("stdio")
"""
"""A program: a server of one tool, which writes what it is told into a file."""
