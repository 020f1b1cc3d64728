"""What these tests share: a scripted provider, real clients of it, agents over it, and every way to call them."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode, tools_condition

import shearpin
from shearpin import Budget, Guard
from shearpin.rules.budget import BudgetWatch
from shearpin.rules.protocol import Rule, Scene
from shearpin.testing import Reply, Script, ScriptedServer
from shearpin_integrations.langchain.tracking import tracker_of
from shearpin_integrations.langgraph import ShearpinMiddleware, guarded_node, hook_nodes

Serve = Callable[..., ScriptedServer]
MakeModel = Callable[..., ChatOpenAI]
MakeGuard = Callable[..., Guard]

# --- the provider and its clients


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
def clients() -> Iterator[tuple[openai.OpenAI, openai.AsyncOpenAI]]:
    """One pair for all tests: what costs time is the making. No connection outlives its request, nor its event loop."""
    options: dict[str, Any] = {
        "api_key": "any",
        "base_url": "http://127.0.0.1:9",
        "max_retries": 0,
        "timeout": 10,
        "default_headers": {"Connection": "close"},
    }
    client, async_client = openai.OpenAI(**options), openai.AsyncOpenAI(**options)
    yield client, async_client
    client.close()
    asyncio.run(async_client.close())


@pytest.fixture
def model(clients: tuple[openai.OpenAI, openai.AsyncOpenAI]) -> MakeModel:
    """`model(server)`: LangChain's own model class over OpenAI's own client; usage is reported in streams too."""

    def make(server: ScriptedServer, **options: Any) -> ChatOpenAI:
        client, async_client = (each.with_options(base_url=server.base_url) for each in clients)
        given = {"model": "gpt-4o", "api_key": "any", "stream_usage": True, **options}
        return ChatOpenAI(
            client=client.chat.completions,
            root_client=client,
            async_client=async_client.chat.completions,
            root_async_client=async_client,
            **given,
        )

    return make


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
    assert tracker_of(pin).entries == {}
    assert [span.name for trace in pin.traces for span in trace.spans if span.end_ns is None] == []


class WatchedBudget(Budget):
    """A budget that can be asked afterwards what its runs still hold."""

    watches: list[BudgetWatch] = []  # noqa: RUF012 - of all runs of all tests, told apart by their rule

    def watch(self, scene: Scene) -> BudgetWatch:
        watch = super().watch(scene)
        self.watches.append(watch)
        return watch

    @property
    def held(self) -> int:
        """How many reservations are not given back."""
        return sum(len(watch.held) for watch in self.watches if watch.rule is self)


@pytest.fixture(autouse=True)
def _forget_watches() -> Iterator[None]:
    yield
    WatchedBudget.watches.clear()


# --- agents

ASK: dict[str, Any] = {"messages": [("user", "Hello?")]}


def tool_of(ran: list[Any], name: str = "search", body: Callable[[str], object] | None = None) -> BaseTool:
    """A tool that notes in `ran` what it was asked each time its body runs, sync or async."""

    def search(q: str = "") -> object:
        ran.append(q)
        return body(q) if body else f"found {q}"

    async def asearch(q: str = "") -> object:
        return search(q)

    return StructuredTool.from_function(search, asearch, name=name, description="Searches.")


def asking(chat: Any, key: str = "messages") -> RunnableLambda:
    """A graph node that asks `chat`, in its sync and its async form."""

    def ask(state: Any) -> dict[str, Any]:
        return {key: [chat.invoke(state["messages"])]}

    async def aask(state: Any) -> dict[str, Any]:
        return {key: [await chat.ainvoke(state["messages"])]}

    return RunnableLambda(ask, aask)


def chat_graph(chat: Any, **options: Any) -> CompiledStateGraph:
    """A graph of one node, which asks the model once."""
    builder = StateGraph(MessagesState)
    builder.add_node("ask", asking(chat), **options)
    builder.add_edge(START, "ask")
    return builder.compile()


def circle(
    chat: ChatOpenAI,
    tools: Sequence[BaseTool],
    around: Callable[[Any], Any] = lambda node: node,
    **options: Any,
) -> StateGraph:
    """The agent people build by hand: a model node and the prebuilt `ToolNode`, with something `around` each."""
    builder = StateGraph(MessagesState)
    builder.add_node("ask", around(asking(chat.bind_tools(tools))))
    builder.add_node("tools", around(ToolNode(tools, **options)))
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", tools_condition)
    builder.add_edge("tools", "ask")
    return builder


def tool_graph(chat: ChatOpenAI, tools: Sequence[BaseTool], **options: Any) -> CompiledStateGraph:
    return circle(chat, tools, **options).compile()


WAYS_IN = ("guarded nodes", "hooked nodes", "middleware", "attached")
"""The ways to put an agent under a guard that need no handler in the config."""


def guarded_agent(way: str, chat: ChatOpenAI, tools: Sequence[BaseTool], pin: Guard, **options: Any) -> Any:
    """An agent that `pin` watches; `options` are those of its `ToolNode`."""
    if way == "middleware":
        return create_agent(chat, tools, middleware=[ShearpinMiddleware(pin)])
    if way == "guarded nodes":
        return circle(chat, tools, lambda node: guarded_node(node, pin), **options).compile()
    if way == "hooked nodes":
        return hook_nodes(circle(chat, tools, **options), pin).compile()
    return shearpin.attach(tool_graph(chat, tools, **options), pin)


# --- ways to call

SYNC_MODES = ("invoke", "stream", "batch", "stream_messages")
ASYNC_MODES = ("ainvoke", "astream", "abatch", "astream_messages", "astream_events")
MODES = SYNC_MODES + ASYNC_MODES
"""`..._messages` is a graph's ``stream_mode="messages"``; it and the events make the model stream."""

RUNNABLE_MODES = tuple(mode for mode in MODES if not mode.endswith("_messages"))
"""What a LangChain runnable that is no graph has, too."""

FOUR_MODES = ("invoke", "ainvoke", "stream", "astream")

TWO_MODES = ("invoke", "astream")
"""Where other things vary: one that is sync and one that is not, one that streams and one that does not."""


def run_mode(runnable: Any, given: Any, config: Any, mode: str) -> Any:
    """The answer, or the list of what a stream yielded. Async modes get an event loop of their own."""
    if mode in ASYNC_MODES:
        return asyncio.run(arun_mode(runnable, given, config, mode))
    if mode == "batch":
        return runnable.batch([given], config)[0]
    if mode == "stream_messages":
        return list(runnable.stream(given, config, stream_mode="messages"))
    return list(runnable.stream(given, config)) if mode == "stream" else runnable.invoke(given, config)


async def arun_mode(runnable: Any, given: Any, config: Any, mode: str) -> Any:
    """The async half of `run_mode`, for the event loop there is."""
    if mode == "ainvoke":
        return await runnable.ainvoke(given, config)
    if mode == "abatch":
        return (await runnable.abatch([given], config))[0]
    if mode == "astream_events":
        return [event async for event in runnable.astream_events(given, config, version="v2")]
    options = {"stream_mode": "messages"} if mode == "astream_messages" else {}
    return [piece async for piece in runnable.astream(given, config, **options)]


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
