"""Single nodes and single agents under a guard, and what of a tool call is on record."""

import asyncio
import functools
import operator
import threading
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool, InjectedToolArg, InjectedToolCallId, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import InjectedState, InjectedStore, ToolNode, tools_condition
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, interrupt

from shearpin import Budget, BudgetExceededError, Guard, RunStoppedError
from shearpin.testing import Reply, Request, Script, ToolCall, endless, per_conversation, reply, tool_call, tool_calls
from shearpin_integrations.langgraph import ShearpinMiddleware, guarded_node, hook_nodes
from shearpin_integrations.langgraph.lineage import _lineage
from tests.integrations.langchain.conftest import (
    PRICES,
    Provider,
    acall,
    assert_complete,
    assert_nothing_left,
    call,
    counts,
    finished,
    outline,
    provided,
    watched,
)

provider = pytest.fixture(provided)

MODES = ("invoke", "stream", "ainvoke", "astream")
ASK: dict[str, Any] = {"messages": [("user", "Hello?")]}


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Whatever a test does, nothing of it is remembered when its calls have ended."""
    yield
    assert _lineage._calls == {}  # noqa: SLF001 - it must be empty, which nothing public tells


def tool_of(name: str, body: Callable[[str], object] | None = None) -> BaseTool:
    def work(q: str = "") -> object:
        return body(q) if body else f"{name} {q}"

    async def awork(q: str = "") -> object:
        return work(q)

    return StructuredTool.from_function(work, awork, name=name, description="Works.")


SEARCH = tool_of("search")


def asking(model: Any) -> Callable[[Any], dict[str, Any]]:
    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    return ask


def aasking(model: Any) -> Callable[[Any], Any]:
    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return ask


def circle(node: Any, **options: Any) -> Any:
    """A graph whose only node runs until the model no longer asks for anything."""
    builder = StateGraph(MessagesState)
    builder.add_node("ask", node)
    builder.add_edge(START, "ask")
    builder.add_conditional_edges(
        "ask", lambda state: "ask" if "again" in state["messages"][-1].text else END, ["ask", END]
    )
    return builder.compile(**options)


def repeating(times: int) -> Script:
    """A model that says "again" so many times, and is then done."""
    return per_conversation([*[reply("again")] * times, reply("Done")])


# --- guarded nodes ----------------------------------------------------------------------------------------------------

KINDS = ("a function", "a coroutine function", "a runnable", "a callable object", "a partial", "a method")


def node_of(kind: str, model: Any) -> Any:
    """A node that asks the model once, as people write them."""

    class Asker:
        def __call__(self, state: MessagesState) -> dict[str, Any]:
            return asking(model)(state)

        def ask(self, state: MessagesState) -> dict[str, Any]:
            return asking(model)(state)

    def ask_of(model: Any, state: MessagesState) -> dict[str, Any]:
        return asking(model)(state)

    match kind:
        case "a function":
            return asking(model)
        case "a coroutine function":
            return aasking(model)
        case "a runnable":
            return RunnableLambda(asking(model), aasking(model))
        case "a callable object":
            return Asker()
        case "a partial":
            return functools.partial(ask_of, model)
        case "a method":
            return Asker().ask
    raise ValueError(kind)


def modes_of(kind: str) -> tuple[str, ...]:
    return MODES[2:] if kind == "a coroutine function" else MODES


KINDS_AND_MODES = [(kind, mode) for kind in KINDS for mode in modes_of(kind)]


@pytest.mark.parametrize(("kind", "mode"), KINDS_AND_MODES)
def test_rules_given_to_a_node_stop_it_before_the_call_that_exceeds_them(
    provider: Provider, kind: str, mode: str
) -> None:
    graph = circle(guarded_node(node_of(kind, provider.model(repeating(9))), Budget(llm_calls=2)))

    with pytest.raises(BudgetExceededError) as stopped:
        call(mode, graph, ASK)

    assert provider.server.served == 2
    trace = stopped.value.trace
    assert trace is not None
    assert_complete(trace)
    assert (counts(trace), trace.status) == ((2, 2, 0), "stopped")


@pytest.mark.parametrize(("kind", "mode"), KINDS_AND_MODES)
def test_a_guarded_node_records_its_state_its_update_and_its_calls(provider: Provider, kind: str, mode: str) -> None:
    pin = Guard()
    graph = circle(guarded_node(node_of(kind, provider.model(repeating(1))), pin), name="ring")

    call(mode, graph, ASK)

    trace = finished(pin)
    assert outline(trace, "step") == [
        "agent ring 0",
        "  node ask 1",
        "    llm gpt-4o 1",
        "  node ask 2",
        "    llm gpt-4o 2",
    ]
    assert (counts(trace), trace.status) == ((2, 2, 0), "ok")
    first, second = trace.spans_of("node")
    assert first.input == {"messages": [{"role": "user", "content": "Hello?"}]}
    assert first.output == {"messages": [{"role": "assistant", "content": "again"}]}
    assert len(second.input["messages"]) == 2


@pytest.mark.parametrize("mode", MODES)
def test_each_invocation_of_the_graph_starts_fresh(provider: Provider, mode: str) -> None:
    node = RunnableLambda(asking(model := provider.model(repeating(1))), aasking(model))
    graph = circle(guarded_node(node, Budget(llm_calls=2)))

    for _ in range(3):
        call(mode, graph, ASK)

    assert provider.server.served == 6


@pytest.mark.parametrize("mode", MODES)
def test_two_guarded_nodes_of_one_guard_share_its_budget(provider: Provider, mode: str) -> None:
    model, pin = provider.model(lambda _: reply("Done")), Guard(Budget(llm_calls=1))
    builder = StateGraph(MessagesState)
    for name in ("first", "second"):
        builder.add_node(name, guarded_node(RunnableLambda(asking(model), aasking(model)), pin))
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")

    with pytest.raises(BudgetExceededError):
        call(mode, builder.compile(), ASK)

    assert (provider.server.served, counts(finished(pin))) == (1, (1, 1, 0))


@pytest.mark.parametrize("mode", MODES)
def test_nodes_with_rules_of_their_own_count_for_themselves(provider: Provider, mode: str) -> None:
    model = provider.model(lambda _: reply("Done"))
    builder = StateGraph(MessagesState)
    for name in ("first", "second"):
        node = RunnableLambda(asking(model), aasking(model))
        builder.add_node(name, guarded_node(node, Budget(llm_calls=1)))
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")

    call(mode, builder.compile(), ASK)

    assert provider.server.served == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_node_without_a_guard_is_left_alone(provider: Provider, mode: str) -> None:
    model, pin = provider.model(lambda _: reply("Done")), Guard(Budget(llm_calls=1))
    builder = StateGraph(MessagesState)
    builder.add_node("free", RunnableLambda(asking(model), aasking(model)))
    builder.add_node("guarded", guarded_node(RunnableLambda(asking(model), aasking(model)), pin))
    builder.add_edge(START, "free")
    builder.add_edge("free", "guarded")

    call(mode, builder.compile(), ASK)

    assert (provider.server.served, finished(pin).llm_calls) == (2, 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_guarded_tool_node_records_the_tools_it_runs(mode: str) -> None:
    pin = Guard()
    builder = StateGraph(MessagesState)
    builder.add_node("tools", guarded_node(ToolNode([SEARCH]), pin))
    builder.add_edge(START, "tools")
    wanted = [{"id": f"c{number}", "name": "search", "args": {"q": f"q{number}"}} for number in range(2)]

    call(mode, builder.compile(), {"messages": [AIMessage("", tool_calls=wanted)]})

    trace = finished(pin)
    assert outline(trace) == ["agent LangGraph", "  node tools", "    tool search", "    tool search"]
    assert sorted(span.arguments["q"] for span in trace.spans_of("tool")) == ["q0", "q1"]
    assert trace.tool_calls == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_guarded_tool_node_lets_no_tool_too_many_run(mode: str) -> None:
    ran: list[str] = []
    tools = ToolNode([tool_of("search", lambda q: ran.append(q) or q)], handle_tool_errors=True)
    builder = StateGraph(MessagesState)
    builder.add_node("tools", guarded_node(tools, Budget(tool_calls=2)))
    builder.add_edge(START, "tools")
    wanted = [{"id": f"c{number}", "name": "search", "args": {"q": f"q{number}"}} for number in range(5)]

    with pytest.raises(BudgetExceededError):
        call(mode, builder.compile(), {"messages": [AIMessage("", tool_calls=wanted)]})

    assert len(ran) == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_as_a_guarded_node_is_watched_inside(provider: Provider, mode: str) -> None:
    script = per_conversation([tool_call("search", {"q": "x"}), reply("Done")])
    inner, pin = create_agent(provider.model(script), [SEARCH], name="inner"), Guard()
    builder = StateGraph(MessagesState)
    builder.add_node("work", guarded_node(inner, pin))
    builder.add_edge(START, "work")

    call(mode, builder.compile(), ASK)

    trace = finished(pin)
    assert outline(trace) == [
        "agent LangGraph",
        "  node work",
        "    agent inner",
        "      node model",
        "        llm gpt-4o",
        "      node tools",
        "        tool search",
        "      node model",
        "        llm gpt-4o",
    ]
    assert counts(trace) == (2, 2, 1)


def test_a_guarded_sub_graph_is_still_found_as_one(provider: Provider) -> None:
    def around(node: Any) -> list[str]:
        builder = StateGraph(MessagesState)
        builder.add_node("work", node)
        builder.add_edge(START, "work")
        return [name for name, _ in builder.compile().get_subgraphs()]

    inner = create_agent(provider.model([]), [SEARCH], name="inner")

    assert around(guarded_node(inner, Guard())) == around(inner) == ["work"]


def test_the_inside_of_a_guarded_sub_graph_is_still_streamed(provider: Provider) -> None:
    inner = create_agent(provider.model([reply("one two", chunks=2)]), [], name="inner")
    builder = StateGraph(MessagesState)
    builder.add_node("work", guarded_node(inner, Guard()))
    builder.add_edge(START, "work")

    parts = list(builder.compile().stream(ASK, stream_mode="messages", subgraphs=True))

    assert "".join(str(message.content) for _, (message, _) in parts) == "one two"
    assert {namespace[0].split(":")[0] for namespace, _ in parts} == {"work"}


class Answer(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    seen: Annotated[list[str], operator.add]


class Notes(TypedDict):
    notes: Annotated[list[Any], operator.add]


@pytest.mark.parametrize("mode", MODES)
def test_a_guarded_node_is_still_given_what_its_signature_asks_for(mode: str) -> None:
    def look(state: Answer, config: RunnableConfig, *, store: BaseStore, runtime: Runtime[Any]) -> dict[str, Any]:
        thread = config["configurable"]["thread_id"]
        return {"seen": [thread, type(store).__name__, type(runtime).__name__]}

    async def alook(
        state: Answer, config: RunnableConfig, *, store: BaseStore, runtime: Runtime[Any]
    ) -> dict[str, Any]:
        return look(state, config, store=store, runtime=runtime)

    pin = Guard()
    builder = StateGraph(Answer)
    builder.add_node("look", guarded_node(alook if mode.startswith("a") else look, pin))
    builder.add_edge(START, "look")
    graph = builder.compile(store=InMemoryStore())

    call(mode, graph, {"messages": []}, {"configurable": {"thread_id": "t1"}})

    trace = finished(pin)
    (node,) = trace.spans_of("node")
    assert node.output == {"seen": ["t1", "InMemoryStore", "Runtime"]}
    assert (node.name, node.thread_id, trace.session_id) == ("look", "t1", "t1")


def test_a_guarded_node_keeps_its_name_and_where_it_may_go() -> None:
    def jump(state: MessagesState) -> Command[Literal["left", "right"]]:
        return Command(goto="left")

    builder = StateGraph(MessagesState)
    builder.add_node(guarded_node(jump, Guard()))
    for name in ("left", "right"):
        builder.add_node(name, lambda _: {})
    builder.add_edge(START, "jump")

    drawn = builder.compile().get_graph()

    assert {(edge.source, edge.target) for edge in drawn.edges if edge.source == "jump"} == {
        ("jump", "left"),
        ("jump", "right"),
    }


@pytest.mark.parametrize("mode", MODES)
def test_a_guarded_node_knows_the_checkpoint_it_started_from(provider: Provider, mode: str) -> None:
    pin = Guard()
    node = RunnableLambda(asking(model := provider.model(repeating(1))), aasking(model))
    graph = circle(guarded_node(node, pin), checkpointer=InMemorySaver())
    config: dict[str, Any] = {"configurable": {"thread_id": "t1"}}

    call(mode, graph, ASK, config)

    history = [s.config["configurable"]["checkpoint_id"] for s in graph.get_state_history(config) if s.next == ("ask",)]
    assert [span.checkpoint_id for span in finished(pin).spans_of("node")] == history[::-1]


@pytest.mark.parametrize("mode", MODES)
def test_a_guarded_node_that_fails_says_why(mode: str) -> None:
    def fail(_: MessagesState) -> dict[str, Any]:
        raise KeyError("lost")

    async def afail(state: MessagesState) -> dict[str, Any]:
        return fail(state)

    pin = Guard()

    with pytest.raises(KeyError):
        call(mode, circle(guarded_node(afail if mode.startswith("a") else fail, pin)), ASK)

    trace = finished(pin)
    assert (trace.status, trace.spans_of("node")[0].status) == ("error", "error")
    assert trace.spans_of("node")[0].error.type == "KeyError"  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", MODES)
def test_guarding_a_node_whose_invocation_the_guard_already_watches_changes_nothing(
    provider: Provider, mode: str
) -> None:
    def seen(wrap: Callable[[Any, Guard], Any]) -> Any:
        pin = Guard(Budget(llm_calls=3))
        node = RunnableLambda(asking(model := provider.model(repeating(2))), aasking(model))
        call(mode, circle(wrap(node, pin)), ASK, watched(pin))
        trace = finished(pin)
        return outline(trace, "step", "status"), counts(trace)

    assert seen(guarded_node) == seen(lambda node, _: node)


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_that_a_node_swallowed_is_raised_when_the_graph_ends(provider: Provider, mode: str) -> None:
    model = provider.model(lambda _: reply("Done"))

    def careless(state: MessagesState) -> dict[str, Any]:
        try:
            return {"messages": [model.invoke(state["messages"])]}
        except Exception as error:  # noqa: BLE001 - as careless code does
            return {"messages": [("assistant", f"oh: {error}")]}

    async def acareless(state: MessagesState) -> dict[str, Any]:
        try:
            return {"messages": [await model.ainvoke(state["messages"])]}
        except Exception as error:  # noqa: BLE001 - as careless code does
            return {"messages": [("assistant", f"oh: {error}")]}

    pin = Guard(Budget(llm_calls=1))
    builder = StateGraph(MessagesState)
    for name in ("first", "second"):
        builder.add_node(name, guarded_node(RunnableLambda(careless, acareless), pin))
    builder.add_node("last", lambda _: {})
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", "last")

    with pytest.raises(BudgetExceededError):
        call(mode, builder.compile(), ASK)

    assert (provider.server.served, finished(pin).status) == (1, "stopped")


def test_concurrent_invocations_of_a_graph_with_guarded_nodes_do_not_mix(provider: Provider) -> None:
    pin = Guard(Budget(llm_calls=2))

    async def main() -> None:
        graph = circle(guarded_node(aasking(provider.model(repeating(1))), pin))
        await asyncio.gather(*(graph.ainvoke(ASK) for _ in range(8)))

    asyncio.run(main())

    assert provider.server.served == 16
    assert [counts(trace) for trace in pin.traces] == [(2, 2, 0)] * 8
    for trace in pin.traces:
        assert_complete(trace)
    assert_nothing_left(pin)


@pytest.mark.parametrize("mode", MODES)
def test_who_a_guarded_invocation_belongs_to_is_read_from_its_config(provider: Provider, mode: str) -> None:
    pin = Guard()
    node = RunnableLambda(asking(model := provider.model(repeating(0))), aasking(model))
    config = {
        "metadata": {"user_id": "u1", "env": "prod", "ticket": 17},
        "configurable": {"thread_id": "t1"},
        "tags": ["beta"],
    }

    call(mode, circle(guarded_node(node, pin)), ASK, config)

    trace = finished(pin)
    assert (trace.user_id, trace.env, trace.session_id, trace.metadata) == ("u1", "prod", "t1", {"ticket": 17})
    assert trace.tags == ("beta",)
    assert trace.input == {"messages": [["user", "Hello?"]]}
    if mode.endswith("invoke"):
        assert [message["content"] for message in trace.output["messages"]] == ["Hello?", "Done"]


# --- every node of a graph --------------------------------------------------------------------------------------------


def react(model: Any, tools: list[BaseTool]) -> Any:
    builder = StateGraph(MessagesState)
    bound = model.bind_tools(tools)
    builder.add_node("agent", RunnableLambda(asking(bound), aasking(bound)))
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", tools_condition)
    builder.add_edge("tools", "agent")
    return builder


@pytest.mark.parametrize("mode", MODES)
def test_hooked_nodes_leave_the_trace_that_a_handler_would_have_left(provider: Provider, mode: str) -> None:
    script = per_conversation([tool_call("search", {"q": "x"}), reply("Done")])
    hooked, handled = Guard(), Guard()

    call(mode, hook_nodes(react(provider.model(script), [SEARCH]), hooked).compile(), ASK)
    call(mode, react(provider.model(script), [SEARCH]).compile(), ASK, watched(handled))

    first, second = finished(hooked), finished(handled)
    assert outline(first, "step", "status") == outline(second, "step", "status")
    assert counts(first) == counts(second) == (2, 2, 1)
    assert [span.output for span in first.spans_of("llm")][1] == [span.output for span in second.spans_of("llm")][1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("limits", "served", "ran"),
    [({"llm_calls": 2}, 2, 2), ({"tool_calls": 2}, 3, 2), ({"steps": 2}, 2, 2)],
    ids=["llm_calls", "tool_calls", "steps"],
)
def test_hooked_nodes_are_stopped_in_every_unit(
    provider: Provider, limits: dict[str, int], served: int, ran: int, mode: str
) -> None:
    made: list[str] = []
    tools = [tool_of("search", lambda q: made.append(q) or q)]
    pin = Guard(Budget(**limits))  # type: ignore[arg-type]
    builder = hook_nodes(react(provider.model(endless("search", {"q": "x"})), tools), pin)

    with pytest.raises(BudgetExceededError):
        call(mode, builder.compile(), ASK)

    assert (provider.server.served, len(made), finished(pin).status) == (served, ran, "stopped")


@pytest.mark.parametrize("mode", MODES)
def test_hooked_nodes_side_by_side_wait_for_those_that_have_not_decided(provider: Provider, mode: str) -> None:
    """Unlike a callback, a node of ours can also wait on an event loop."""
    model, pin = provider.model(lambda _: reply("Done")), Guard(Budget(steps=2))

    def ask(state: Notes) -> dict[str, Any]:
        time.sleep(0.05)  # all of them have started before the first decides
        return {"notes": [model.invoke("Hello?")]}

    async def aask(state: Notes) -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"notes": [await model.ainvoke("Hello?")]}

    builder = StateGraph(Notes)
    for number in range(5):
        builder.add_node(f"n{number}", RunnableLambda(ask, aask))
        builder.add_edge(START, f"n{number}")

    with pytest.raises(BudgetExceededError) as stopped:
        call(mode, hook_nodes(builder, pin).compile(), {"notes": []})

    assert (stopped.value.spent, stopped.value.in_flight) == (2, False)
    assert (provider.server.served, finished(pin).steps) == (2, 2)


def test_hook_nodes_gives_back_the_builder_it_was_given() -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("idle", lambda _: {})

    assert hook_nodes(builder, Guard()) is builder


# --- middleware -------------------------------------------------------------------------------------------------------


def searching(turns: int) -> Script:
    return per_conversation([*[tool_call("search", {"q": "x"})] * turns, reply("Done")])


@pytest.mark.parametrize("mode", MODES)
def test_middleware_alone_counts_the_calls_and_steps_of_its_agent(provider: Provider, mode: str) -> None:
    pin = Guard(prices=PRICES)
    model = provider.model(searching(2), temperature=0.25, max_tokens=77, seed=5)
    agent = create_agent(model, [SEARCH], middleware=[ShearpinMiddleware(pin)], name="bee")

    call(mode, agent, ASK)

    trace = finished(pin)
    assert outline(trace, "agent", "step") == [
        "agent bee bee 0",
        "  llm gpt-4o bee 1",
        "  tool search bee 1",
        "  llm gpt-4o bee 2",
        "  tool search bee 2",
        "  llm gpt-4o bee 3",
    ]
    assert (counts(trace), trace.status) == ((3, 3, 2), "ok")
    assert trace.usage.total_tokens == sum(provider.server.usage[:2])
    first = trace.spans_of("llm")[0]
    assert (first.provider, first.request_model, first.response_model) == ("openai", "gpt-4o", "gpt-4o")
    assert (first.temperature, first.max_tokens, first.seed) == (0.25, 77, 5)
    assert first.messages == [{"role": "user", "content": "Hello?"}]
    assert [offered["function"]["name"] for offered in first.tools] == ["search"]
    assert first.price_source
    assert trace.spans_of("tool")[0].arguments == {"q": "x"}
    assert trace.spans_of("tool")[0].call_id == first.tool_calls[0]["id"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("limits", "served", "ran"),
    [({"llm_calls": 2}, 2, 2), ({"tool_calls": 2}, 3, 2), ({"steps": 2}, 2, 2)],
    ids=["llm_calls", "tool_calls", "steps"],
)
def test_middleware_alone_stops_in_every_unit(
    provider: Provider, limits: dict[str, int], served: int, ran: int, mode: str
) -> None:
    made: list[str] = []
    pin = Guard(Budget(**limits))  # type: ignore[arg-type]
    agent = create_agent(
        provider.model(endless("search", {"q": "x"})),
        [tool_of("search", lambda q: made.append(q) or q)],
        middleware=[ShearpinMiddleware(pin)],
    )

    with pytest.raises(BudgetExceededError):
        call(mode, agent, ASK)

    assert (provider.server.served, len(made), finished(pin).status) == (served, ran, "stopped")


@pytest.mark.parametrize("mode", MODES)
def test_middleware_sees_the_sub_agents_in_its_tools(provider: Provider, mode: str) -> None:
    server = provider.serve(searching(1))
    worker = create_agent(provider.model(server), [SEARCH], name="worker")

    def work(q: str) -> str:
        return str(worker.invoke({"messages": [("user", q)]})["messages"][-1].content)

    async def awork(q: str) -> str:
        return str((await worker.ainvoke({"messages": [("user", q)]}))["messages"][-1].content)

    pin = Guard()
    delegating = StructuredTool.from_function(work, awork, name="search", description="Delegates.")
    boss = create_agent(provider.model(server), [delegating], middleware=[ShearpinMiddleware(pin)], name="boss")

    call(mode, boss, ASK)

    trace = finished(pin)
    assert (server.served, counts(trace)) == (4, (4, 4, 2))
    assert [(span.kind, span.agent) for span in trace.spans if span.kind in ("llm", "tool")] == [
        ("llm", "boss"),
        ("tool", "boss"),
        ("llm", "worker"),
        ("tool", "worker"),
        ("llm", "worker"),
        ("llm", "boss"),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_on_middleware_covers_the_sub_agents_in_its_tools(provider: Provider, mode: str) -> None:
    server = provider.serve(endless("search", {"q": "x"}))
    worker = create_agent(provider.model(server), [SEARCH], name="worker")

    def work(q: str) -> str:
        return str(worker.invoke({"messages": [("user", q)]})["messages"][-1].content)

    async def awork(q: str) -> str:
        return str((await worker.ainvoke({"messages": [("user", q)]}))["messages"][-1].content)

    delegating = StructuredTool.from_function(work, awork, name="search", description="Delegates.")
    middleware = [ShearpinMiddleware(Guard(Budget(llm_calls=4)))]

    with pytest.raises(BudgetExceededError):
        call(mode, create_agent(provider.model(server), [delegating], middleware=middleware), ASK)

    assert server.served == 4


@pytest.mark.parametrize("mode", MODES)
def test_middleware_and_handler_of_one_guard_count_a_call_once(provider: Provider, mode: str) -> None:
    def seen(*middleware: Any) -> Any:
        agent = create_agent(provider.model(searching(2)), [SEARCH], middleware=middleware)
        call(mode, agent, ASK, watched(pin))
        trace = pin.traces[-1]
        assert_complete(trace)
        return outline(trace, "step", "status"), counts(trace)

    pin = Guard(Budget(llm_calls=3, tool_calls=2, steps=3, warn_at=1.0))

    plain = [line for line in seen()[0] if "decision" not in line]
    both = [line for line in seen(ShearpinMiddleware(pin))[0] if "decision" not in line]

    assert both == plain
    assert counts(pin.traces[-1]) == (3, 3, 2)
    assert_nothing_left(pin)


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_that_middleware_in_between_swallowed_is_raised_when_the_agent_ends(
    provider: Provider, mode: str
) -> None:
    class Careless(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            try:
                return handler(request)
            except Exception as error:  # noqa: BLE001 - as careless code does
                return AIMessage(f"oh: {error}")

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            try:
                return await handler(request)
            except Exception as error:  # noqa: BLE001 - as careless code does
                return AIMessage(f"oh: {error}")

    pin = Guard(Budget(llm_calls=1))
    middleware = [Careless(), ShearpinMiddleware(pin)]

    with pytest.raises(BudgetExceededError):
        call(mode, create_agent(provider.model(endless("search", {"q": "x"})), [SEARCH], middleware=middleware), ASK)

    assert (provider.server.served, finished(pin).status) == (1, "stopped")


@pytest.mark.parametrize("mode", MODES)
def test_each_call_of_an_agent_with_middleware_starts_fresh(provider: Provider, mode: str) -> None:
    pin = Guard(Budget(llm_calls=2))
    agent = create_agent(provider.model(searching(1)), [SEARCH], middleware=[ShearpinMiddleware(pin)])

    for _ in range(3):
        call(mode, agent, ASK)

    assert [counts(trace) for trace in pin.traces] == [(2, 2, 1)] * 3
    assert_nothing_left(pin)


@pytest.mark.parametrize("mode", MODES)
def test_a_model_call_that_another_middleware_answered_is_not_counted(provider: Provider, mode: str) -> None:
    class Canned(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return AIMessage("canned")

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return AIMessage("canned")

    pin = Guard(Budget(usd=1.0, llm_calls=1), prices=PRICES)
    agent = create_agent(provider.model([]), [SEARCH], middleware=[ShearpinMiddleware(pin), Canned()])

    call(mode, agent, ASK)

    for trace in pin.traces:
        assert_complete(trace)
        assert (trace.llm_calls, trace.steps, trace.usage.cost_usd, trace.status) == (0, 0, 0.0, "ok")
    assert_nothing_left(pin)


@pytest.mark.parametrize("mode", MODES)
def test_what_a_middleware_further_in_made_of_a_prompt_is_what_is_recorded(provider: Provider, mode: str) -> None:
    class Shorter(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(messages=[HumanMessage("Shorter.")], tools=[]))

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return await handler(request.override(messages=[HumanMessage("Shorter.")], tools=[]))

    pin = Guard()
    middleware = [ShearpinMiddleware(pin), Shorter()]

    call(mode, create_agent(provider.model([reply("Done")]), [SEARCH], middleware=middleware), ASK)

    (span,) = finished(pin).spans_of("llm")
    assert span.messages == [{"role": "user", "content": "Shorter."}]
    assert span.tools == []


@pytest.mark.parametrize("mode", MODES)
def test_a_middleware_that_changes_the_model_reserves_for_what_it_changed_to(provider: Provider, mode: str) -> None:
    class Dearer(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(model=large))

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return await handler(request.override(model=large))

    server = provider.serve([])
    large, pin = provider.model(server, max_tokens=1000), Guard(Budget(usd=0.005), prices=PRICES)
    small = provider.model(server, "gpt-4o-mini", max_tokens=1000)

    with pytest.raises(BudgetExceededError):
        call(mode, create_agent(small, [SEARCH], middleware=[ShearpinMiddleware(pin), Dearer()]), ASK)

    assert server.count() == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_middleware_that_changes_the_model_is_priced_by_what_it_changed_to(provider: Provider, mode: str) -> None:
    class Cheaper(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(model=small))

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return await handler(request.override(model=small))

    server = provider.serve([reply("Done", usage=(1000, 100))])
    small, pin = provider.model(server, "gpt-4o-mini"), Guard(prices=PRICES)
    agent = create_agent(provider.model(server), [SEARCH], middleware=[ShearpinMiddleware(pin), Cheaper()])

    call(mode, agent, ASK)

    trace = finished(pin)
    (span,) = (span for span in trace.spans_of("llm") if span.status == "ok")
    assert (span.name, span.request_model, counts(trace)) == ("gpt-4o-mini", "gpt-4o-mini", (1, 1, 0))
    assert span.usage.cost_usd == pytest.approx((1000 * 0.2 + 100 * 1) / 1e6)  # type: ignore[union-attr]


# --- a pause, with guarded nodes or middleware only -------------------------------------------------------------------


def deleting(ran: list[str]) -> BaseTool:
    def body(q: str) -> str:
        interrupt("may I?")
        ran.append(q)
        return q

    return tool_of("search", body)


def under_middleware(provider: Provider, pin: Guard, tools: list[BaseTool]) -> Any:
    model = provider.model(endless("search", {"q": "x"}))
    return create_agent(model, tools, middleware=[ShearpinMiddleware(pin)], checkpointer=InMemorySaver())


def under_hooks(provider: Provider, pin: Guard, tools: list[BaseTool]) -> Any:
    builder = react(provider.model(endless("search", {"q": "x"})), tools)
    return hook_nodes(builder, pin).compile(checkpointer=InMemorySaver())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("build", [under_middleware, under_hooks], ids=["middleware", "hooked nodes"])
def test_a_pause_without_a_handler_is_one_too(provider: Provider, build: Any, mode: str) -> None:
    ran: list[str] = []
    pin = Guard()

    call(mode, build(provider, pin, [deleting(ran)]), ASK, {"configurable": {"thread_id": "t1"}})

    trace = finished(pin)
    assert (trace.status, counts(trace), ran) == ("paused", (1, 1, 0), [])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("build", [under_middleware, under_hooks], ids=["middleware", "hooked nodes"])
def test_pausing_never_refills_a_budget_without_a_handler_either(provider: Provider, build: Any, mode: str) -> None:
    ran: list[str] = []
    pin = Guard(Budget(llm_calls=3))
    graph, config = build(provider, pin, [deleting(ran)]), {"configurable": {"thread_id": "t1"}}
    call(mode, graph, ASK, config)

    with pytest.raises(BudgetExceededError):
        for _ in range(10):
            call(mode, graph, Command(resume="yes"), config)

    assert (provider.server.served, len(ran)) == (3, 3)
    assert counts(finished(pin)) == (3, 3, 3)


# --- what of a tool call is on record ---------------------------------------------------------------------------------


@tool
def injected_runtime(q: str, runtime: ToolRuntime) -> str:
    """Works."""
    return f"{q} {len(runtime.state['messages'])}"


@tool
def injected_state(
    q: str,
    state: Annotated[dict[str, Any], InjectedState],
    messages: Annotated[list[AnyMessage], InjectedState("messages")],
) -> str:
    """Works."""
    return f"{q} {len(state['messages'])}"


@tool
def injected_id(q: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> str:
    """Works."""
    return f"{q} {bool(tool_call_id)}"


@tool
def injected_config(q: str, config: RunnableConfig) -> str:
    """Works."""
    return f"{q} {config['configurable']['thread_id']}"


@tool
def injected_store(q: str, store: Annotated[Any, InjectedStore()]) -> str:
    """Works."""
    return f"{q} {type(store).__name__}"


class WithDefault(BaseTool):
    """A tool that hides an argument of its own from the model."""

    name: str = "injected_default"
    description: str = "Works."

    def _run(self, q: str, secret: Annotated[str, InjectedToolArg] = "hush") -> str:
        return f"{q} {secret}"


INJECTED = [injected_runtime, injected_state, injected_id, injected_config, injected_store, WithDefault()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("injected", INJECTED, ids=lambda injected: injected.name)
def test_what_a_framework_adds_to_a_tools_arguments_is_not_on_record(
    provider: Provider, injected: BaseTool, mode: str
) -> None:
    """It never repeats, so no loop would ever be seen; and it may hold the whole state."""
    script = per_conversation([tool_calls([ToolCall(injected.name, {"q": "x"}, id="call_1")]), reply("Done")])
    agent = create_agent(provider.model(script), [injected], store=InMemoryStore())
    pin = Guard()

    call(mode, agent, ASK, watched(pin, thread="t1"))

    (span,) = finished(pin).spans_of("tool")
    assert span.arguments == {"q": "x"}
    assert (span.call_id, span.status) == ("call_1", "ok")
    assert span.result.startswith("x ")


@pytest.mark.parametrize("mode", MODES)
def test_arguments_that_look_like_state_but_are_the_models_own_are_kept(provider: Provider, mode: str) -> None:
    @tool
    def save(state: dict[str, Any], messages: list[str]) -> str:
        """Saves."""
        return "saved"

    given = {"state": {"a": 1}, "messages": ["one"]}
    script = per_conversation([tool_call("save", given), reply("Done")])
    pin = Guard()

    call(mode, create_agent(provider.model(script), [save]), ASK, watched(pin))

    (span,) = finished(pin).spans_of("tool")
    assert span.arguments == given


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_the_model_made_up_leaves_a_span_that_says_so(provider: Provider, mode: str) -> None:
    script = per_conversation([tool_calls([ToolCall("nowhere", {"q": "x"}, id="call_1")]), reply("Done")])
    pin = Guard()

    call(mode, create_agent(provider.model(script), [SEARCH]), ASK, watched(pin))

    trace = finished(pin)
    (span,) = trace.spans_of("tool")
    assert (span.name, span.call_id, span.arguments, span.status) == ("nowhere", "call_1", {"q": "x"}, "error")
    assert "nowhere is not a valid tool" in span.result
    assert (counts(trace), span.step) == ((2, 2, 1), 1)
    assert trace.status == "ok"


@pytest.mark.parametrize("mode", MODES)
def test_a_made_up_tool_beside_a_real_one_leaves_its_own_span(provider: Provider, mode: str) -> None:
    script = per_conversation([tool_calls([("nowhere", {"q": "x"}), ("search", {"q": "y"})]), reply("Done")])
    pin = Guard()

    call(mode, react(provider.model(script), [SEARCH]).compile(), ASK, watched(pin))

    trace = finished(pin)
    assert sorted((span.name, span.status) for span in trace.spans_of("tool")) == [
        ("nowhere", "error"),
        ("search", "ok"),
    ]
    assert counts(trace) == (2, 2, 2)


class Answering(AgentMiddleware):
    """Answers for every tool, as a cache or a policy does."""

    def wrap_tool_call(self, request: Any, handler: Any) -> ToolMessage:
        return ToolMessage("from the cache", tool_call_id=request.tool_call["id"], name=request.tool_call["name"])

    async def awrap_tool_call(self, request: Any, handler: Any) -> ToolMessage:
        return self.wrap_tool_call(request, handler)


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_call_that_a_middleware_answered_leaves_a_span_too(provider: Provider, mode: str) -> None:
    ran: list[str] = []
    tools = [tool_of("search", lambda q: ran.append(q) or q)]
    pin = Guard()

    call(mode, create_agent(provider.model(searching(1)), tools, middleware=[Answering()]), ASK, watched(pin))

    trace = finished(pin)
    (span,) = trace.spans_of("tool")
    assert (span.name, span.arguments, span.result, span.status) == ("search", {"q": "x"}, "from the cache", "ok")
    assert (ran, counts(trace), span.step) == ([], (2, 2, 1), 1)


@pytest.mark.parametrize("mode", MODES)
def test_under_middleware_alone_an_answered_tool_call_leaves_a_span_too(provider: Provider, mode: str) -> None:
    pin = Guard()
    middleware = [ShearpinMiddleware(pin), Answering()]

    call(mode, create_agent(provider.model(searching(1)), [SEARCH], middleware=middleware), ASK)

    trace = finished(pin)
    assert [(span.name, span.result) for span in trace.spans_of("tool")] == [("search", "from the cache")]
    assert counts(trace) == (2, 2, 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_that_answers_with_a_command_leaves_its_message_as_the_result(provider: Provider, mode: str) -> None:
    @tool
    def note(q: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        """Notes."""
        return Command(update={"messages": [ToolMessage(f"noted {q}", tool_call_id=tool_call_id)]})

    script = per_conversation([tool_call("note", {"q": "x"}), reply("Done")])
    pin = Guard()

    call(mode, create_agent(provider.model(script), [note]), ASK, watched(pin))

    trace = finished(pin)
    (span,) = trace.spans_of("tool")
    assert (span.status, counts(trace)) == ("ok", (2, 2, 1))
    assert "noted x" in str(span.result)


@pytest.mark.parametrize("mode", MODES)
def test_answers_of_tools_that_did_run_are_not_counted_again(provider: Provider, mode: str) -> None:
    """A node that passes old answers on, as one that trims the conversation does, ran nothing."""
    script = per_conversation([tool_call("search", {"q": "x"}), reply("Done")])
    builder = react(provider.model(script), [SEARCH])
    builder.add_node("trim", lambda state: {"messages": state["messages"]})
    builder.edges.discard(("tools", "agent"))
    builder.add_edge("tools", "trim")
    builder.add_edge("trim", "agent")
    pin = Guard()

    call(mode, builder.compile(), ASK, watched(pin))

    trace = finished(pin)
    assert counts(trace) == (3, 2, 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_model_chosen_inside_a_node_is_priced_by_its_own_name(provider: Provider, mode: str) -> None:
    server = provider.serve(lambda request: reply(request.model, usage=(1000, 100)))
    model, pin = provider.model(server), Guard(prices=PRICES)

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"], model="gpt-4o-mini")]}

    async def aask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.bind(model="gpt-4o-mini").ainvoke(state["messages"])]}

    call(mode, circle(RunnableLambda(ask, aask)), ASK, watched(pin))

    (span,) = finished(pin).spans_of("llm")
    assert (span.request_model, span.reply) == ("gpt-4o-mini", "gpt-4o-mini")
    assert span.usage.cost_usd == pytest.approx((1000 * 0.2 + 100 * 1) / 1e6)  # type: ignore[union-attr]


def test_calls_of_one_event_loop_and_of_threads_share_one_guard(provider: Provider) -> None:
    pin = Guard()
    agent = create_agent(provider.model(searching(1)), [SEARCH], middleware=[ShearpinMiddleware(pin)])

    async def main() -> None:
        await asyncio.gather(acall("ainvoke", agent, ASK), asyncio.to_thread(agent.invoke, ASK))

    asyncio.run(main())

    assert [counts(trace) for trace in pin.traces] == [(2, 2, 1)] * 2
    assert_nothing_left(pin)


def test_a_call_that_was_cancelled_under_middleware_leaves_nothing(provider: Provider) -> None:
    pin, asked = Guard(prices=PRICES), threading.Event()

    def script(_: Request) -> Reply:
        asked.set()
        return reply("never", delay=5)

    async def main() -> None:
        agent = create_agent(provider.model(script), [SEARCH], middleware=[ShearpinMiddleware(pin)])
        task = asyncio.create_task(acall("ainvoke", agent, ASK))
        await asyncio.to_thread(asked.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    trace = finished(pin)
    assert (trace.status, counts(trace)) == ("cancelled", (1, 1, 0))
    assert trace.usage.cost_usd  # what was sent may have been served


def test_a_stop_by_hand_ends_a_run_under_middleware(provider: Provider) -> None:
    def halt(q: str) -> str:
        pin.active[0].stop("enough")
        return q

    pin = Guard()
    middleware = [ShearpinMiddleware(pin)]
    agent = create_agent(provider.model(searching(5)), [tool_of("search", halt)], middleware=middleware)

    with pytest.raises(RunStoppedError, match="enough"):
        agent.invoke(ASK)

    assert (provider.server.served, finished(pin).status) == (1, "stopped")
