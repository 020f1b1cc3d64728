"""What a step is: one model decision plus the tool calls it asked for, or a node that does neither.

Each shape is an agent people build, with the number of steps a person counts in it. Its steps are counted alike by
the trace and by a budget, which admits exactly as many and refuses the next before it starts.
"""

import operator
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, Send

from shearpin import Budget, BudgetExceededError, Guard, Trace
from shearpin.runs import trouble
from shearpin.testing import Reply, Request, Script, endless, per_conversation, reply, tool_calls
from tests.integrations.langchain.conftest import (
    Provider,
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


def tool_of(name: str, body: Callable[[str], object] | None = None) -> BaseTool:
    def work(q: str = "") -> object:
        return body(q) if body else f"{name} {q}"

    async def awork(q: str = "") -> object:
        return work(q)

    return StructuredTool.from_function(work, awork, name=name, description="Works.")


SEARCH = tool_of("search")


def both(function: Callable[..., Any], afunction: Callable[..., Any] | None = None) -> RunnableLambda:
    """A node in its sync and its async form."""

    async def acall(state: Any) -> Any:
        return function(state)

    return RunnableLambda(function, afunction or acall)


def asking(model: Any, key: str = "messages") -> RunnableLambda:
    """A node that asks the model once."""

    def ask(state: Any) -> dict[str, Any]:
        return {key: [model.invoke(state["messages"])]}

    async def aask(state: Any) -> dict[str, Any]:
        return {key: [await model.ainvoke(state["messages"])]}

    return both(ask, aask)


def idle(_: Any) -> dict[str, Any]:
    return {}


def turns(*asked: list[tuple[str, dict[str, Any]]]) -> Script:
    """A conversation in which the model asks for these calls, turn by turn, and is then done."""
    return per_conversation([*(tool_calls(calls) for calls in asked), reply("Done")])


X, Y = ("search", {"q": "x"}), ("search", {"q": "y"})


# --- the shapes -------------------------------------------------------------------------------------------------------

Build = Callable[[Provider], Any]
SHAPES: dict[str, tuple[Build, tuple[int, int, int]]] = {}
"""By what they are called: how to build them, and their steps, model calls and tool calls."""


SEEN_LATE: set[str] = set()
"""A node that starts while calls are unanswered may be the one that runs them; that it is not shows when it ends."""


def shape(*expected: int, seen_late: bool = False) -> Callable[[Build], Build]:
    def note(build: Build) -> Build:
        SHAPES[build.__name__.replace("_", " ")] = (build, expected)  # type: ignore[assignment]
        if seen_late:
            SEEN_LATE.add(build.__name__)
        return build

    return note


@shape(1, 1, 0)
def an_agent_that_answers_at_once(provider: Provider) -> Any:
    return create_agent(provider.model(turns()), [SEARCH])


@shape(4, 4, 3)
def an_agent_of_four_turns(provider: Provider) -> Any:
    return create_agent(provider.model(turns([X], [Y], [X])), [SEARCH])


@shape(2, 2, 4)
def an_agent_that_asks_for_four_tools_at_once(provider: Provider) -> Any:
    return create_agent(provider.model(turns([X, Y, X, Y])), [SEARCH])


def react(model: Any, *, first: str = "agent", tools: str = "tools", last: str = END) -> StateGraph[Any]:
    """The agent people build by hand: a model node and the prebuilt `ToolNode`, in a circle."""
    builder = StateGraph(MessagesState)
    builder.add_node("agent", asking(model))
    builder.add_node("tools", ToolNode([SEARCH]))
    builder.add_edge(START, first)
    builder.add_conditional_edges("agent", tools_condition, {"tools": tools, END: last})
    builder.add_edge("tools", "agent")
    return builder


@shape(3, 3, 3)
def a_graph_with_a_tool_node(provider: Provider) -> Any:
    return react(provider.model(turns([X], [X, Y]))).compile()


@shape(4, 3, 3)
def a_planning_node_before_an_agent(provider: Provider) -> Any:
    builder = react(provider.model(turns([X], [X, Y])), first="plan")
    builder.add_node("plan", both(idle))
    builder.add_edge("plan", "agent")
    return builder.compile()


@shape(4, 4, 1)
def a_model_that_plans_before_an_agent_and_one_that_reviews_after_it(provider: Provider) -> Any:
    def script(request: Request) -> Reply:
        return tool_calls([X]) if request.tools and request.turn == 1 else reply("Done")

    model = provider.model(script)
    builder = react(model.bind_tools([SEARCH]), first="plan", last="review")
    builder.add_node("plan", asking(model))
    builder.add_node("review", asking(model))
    builder.add_edge("plan", "agent")
    return builder.compile()


@shape(3, 0, 0)
def three_nodes_that_only_compute(provider: Provider) -> Any:
    builder = StateGraph(MessagesState)
    for name in ("a", "b", "c"):
        builder.add_node(name, both(idle))
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    builder.add_edge("b", "c")
    return builder.compile()


class Notes(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    notes: Annotated[list[Any], operator.add]


@shape(3, 3, 0)
def three_models_side_by_side(provider: Provider) -> Any:
    model = provider.model(turns())
    builder = StateGraph(Notes)
    for name in ("a", "b", "c"):
        builder.add_node(name, asking(model, "notes"))
        builder.add_edge(START, name)
    return builder.compile()


@shape(5, 3, 0)
def a_fan_out_and_a_join(provider: Provider) -> Any:
    model = provider.model(turns())
    builder = StateGraph(Notes)
    builder.add_node("split", both(idle))
    builder.add_node("ask", asking(model, "notes"))
    builder.add_node("join", both(idle))
    builder.add_edge(START, "split")
    builder.add_conditional_edges("split", lambda state: [Send("ask", state) for _ in range(3)], ["ask"])
    builder.add_edge("ask", "join")
    return builder.compile()


@shape(2, 2, 0)
def a_node_that_asks_twice(provider: Provider) -> Any:
    model = provider.model(turns())

    def ask(state: Any) -> dict[str, Any]:
        model.invoke(state["messages"])
        return {"messages": [model.invoke(state["messages"])]}

    async def aask(state: Any) -> dict[str, Any]:
        await model.ainvoke(state["messages"])
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", both(ask, aask))
    builder.add_edge(START, "ask")
    return builder.compile()


@shape(1, 0, 2)
def a_node_that_runs_tools_nobody_asked_for(provider: Provider) -> Any:
    def work(_: Any) -> dict[str, Any]:
        return {"messages": [("assistant", SEARCH.invoke({"q": "x"}) + SEARCH.invoke({"q": "y"}))]}

    async def awork(_: Any) -> dict[str, Any]:
        return {"messages": [("assistant", await SEARCH.ainvoke({"q": "x"}) + await SEARCH.ainvoke({"q": "y"}))]}

    builder = StateGraph(MessagesState)
    builder.add_node("work", both(work, awork))
    builder.add_edge(START, "work")
    return builder.compile()


@shape(2, 2, 2)
def an_agent_in_one_node_that_runs_its_tools_itself(provider: Provider) -> Any:
    model = provider.model(turns([X, Y])).bind_tools([SEARCH])

    def work(state: Any) -> dict[str, Any]:
        asked = model.invoke(state["messages"])
        answers = [SEARCH.invoke({**wanted, "type": "tool_call"}) for wanted in asked.tool_calls]
        return {"messages": [asked, *answers, model.invoke([*state["messages"], asked, *answers])]}

    async def awork(state: Any) -> dict[str, Any]:
        asked = await model.ainvoke(state["messages"])
        answers = [await SEARCH.ainvoke({**wanted, "type": "tool_call"}) for wanted in asked.tool_calls]
        return {"messages": [asked, *answers, await model.ainvoke([*state["messages"], asked, *answers])]}

    builder = StateGraph(MessagesState)
    builder.add_node("work", both(work, awork))
    builder.add_edge(START, "work")
    return builder.compile()


@shape(4, 3, 2)
def an_agent_as_a_node_after_another_node(provider: Provider) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("plan", both(idle))
    builder.add_node("worker", create_agent(provider.model(turns([X], [Y])), [SEARCH], name="worker"))
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "worker")
    return builder.compile()


@shape(2, 0, 0)
def a_graph_of_two_nodes_as_a_node(provider: Provider) -> Any:
    inner = StateGraph(MessagesState)
    inner.add_node("a", both(idle))
    inner.add_node("b", both(idle))
    inner.add_edge(START, "a")
    inner.add_edge("a", "b")
    builder = StateGraph(MessagesState)
    builder.add_node("inner", inner.compile())
    builder.add_edge(START, "inner")
    return builder.compile()


@shape(2, 1, 0)
def a_graph_called_inside_a_node(provider: Provider) -> Any:
    inner = StateGraph(MessagesState)
    inner.add_node("look", both(idle))
    inner.add_node("ask", asking(provider.model(turns())))
    inner.add_edge(START, "look")
    inner.add_edge("look", "ask")
    graph = inner.compile()

    def work(state: Any) -> Any:
        return graph.invoke(state)

    async def awork(state: Any) -> Any:
        return await graph.ainvoke(state)

    builder = StateGraph(MessagesState)
    builder.add_node("work", both(work, awork))
    builder.add_edge(START, "work")
    return builder.compile()


@shape(4, 4, 2)
def a_sub_agent_in_a_tool(provider: Provider) -> Any:
    """Two steps of the boss, and two of the worker, whose whole run is a tool call of the boss."""
    server = provider.serve(
        lambda request: (
            turns([X])(request)
            if request.tools[0]["function"]["name"] == "search"
            else turns([("work", {"q": "x"})])(request)
        )
    )
    worker = create_agent(provider.model(server), [SEARCH], name="worker")

    def work(q: str) -> str:
        return str(worker.invoke({"messages": [("user", q)]})["messages"][-1].content)

    async def awork(q: str) -> str:
        return str((await worker.ainvoke({"messages": [("user", q)]}))["messages"][-1].content)

    working = StructuredTool.from_function(work, awork, name="work", description="Works.")
    return create_agent(provider.model(server), [working], name="boss")


class Hooks(AgentMiddleware):
    """Every hook that becomes a node of the agent's graph."""

    def before_agent(self, state: Any, runtime: Any) -> None: ...
    def before_model(self, state: Any, runtime: Any) -> None: ...
    def after_model(self, state: Any, runtime: Any) -> None: ...
    def after_agent(self, state: Any, runtime: Any) -> None: ...


@shape(3, 3, 2)
def an_agent_with_hooks_around_everything(provider: Provider) -> Any:
    return create_agent(provider.model(turns([X], [Y])), [SEARCH], middleware=[Hooks()])


@shape(2, 2, 1)
def an_agent_that_asks_for_an_unknown_tool(provider: Provider) -> Any:
    return create_agent(provider.model(turns([("nowhere", {"q": "x"})])), [SEARCH])


@shape(3, 2, 1)
def an_agent_whose_node_jumps_by_command(provider: Provider) -> Any:
    model = provider.model(turns([X])).bind_tools([SEARCH])

    def decided(asked: AIMessage) -> Command[Any]:
        return Command(goto="tools" if asked.tool_calls else "last", update={"messages": [asked]})

    def ask(state: Any) -> Command[Any]:
        return decided(model.invoke(state["messages"]))

    async def aask(state: Any) -> Command[Any]:
        return decided(await model.ainvoke(state["messages"]))

    builder = StateGraph(MessagesState)
    builder.add_node("ask", both(ask, aask))
    builder.add_node("tools", ToolNode([SEARCH]))
    builder.add_node("last", both(idle))
    builder.add_edge(START, "ask")
    builder.add_edge("tools", "ask")
    return builder.compile()


@shape(2, 2, 2)
def tools_sent_one_by_one(provider: Provider) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("agent", asking(provider.model(turns([X, Y])).bind_tools([SEARCH])))
    builder.add_node("tools", ToolNode([SEARCH]))

    def route(state: Any) -> Any:
        asked = state["messages"][-1].tool_calls
        return [Send("tools", [wanted]) for wanted in asked] or END

    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", route, ["tools", END])
    builder.add_edge("tools", "agent")
    return builder.compile()


@shape(2, 2, 2)
def a_node_of_ones_own_that_runs_the_tools_asked_for(provider: Provider) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("agent", asking(provider.model(turns([X, Y])).bind_tools([SEARCH])))

    def run(state: Any) -> dict[str, Any]:
        asked = state["messages"][-1].tool_calls
        return {"messages": [SEARCH.invoke({**wanted, "type": "tool_call"}) for wanted in asked]}

    async def arun(state: Any) -> dict[str, Any]:
        asked = state["messages"][-1].tool_calls
        return {"messages": [await SEARCH.ainvoke({**wanted, "type": "tool_call"}) for wanted in asked]}

    builder.add_node("run", both(run, arun))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", tools_condition, {"tools": "run", END: END})
    builder.add_edge("run", "agent")
    return builder.compile()


@shape(3, 2, 1, seen_late=True)
def a_node_between_a_decision_and_its_tools(provider: Provider) -> Any:
    builder = react(provider.model(turns([X])).bind_tools([SEARCH]), tools="review")
    builder.add_node("review", both(idle))
    builder.add_edge("review", "tools")
    return builder.compile()


@shape(3, 2, 1, seen_late=True)
def a_node_beside_the_tools(provider: Provider) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("agent", asking(provider.model(turns([X])).bind_tools([SEARCH])))
    builder.add_node("tools", ToolNode([SEARCH]))
    builder.add_node("log", both(idle))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges(
        "agent", lambda state: ["tools", "log"] if state["messages"][-1].tool_calls else END, ["tools", "log", END]
    )
    builder.add_edge(["tools", "log"], "agent")
    return builder.compile()


@shape(2, 2, 0)
def two_functional_tasks_that_ask(provider: Provider) -> Any:
    model = provider.model(turns())

    @task
    async def ask(question: str) -> str:
        return str((await model.ainvoke(question)).content)

    @entrypoint()
    async def work(given: dict[str, Any]) -> str:
        return (await ask("one?")) + (await ask("two?"))

    return work


@pytest.fixture(params=SHAPES)
def build(request: pytest.FixtureRequest) -> tuple[Build, tuple[int, int, int]]:
    return SHAPES[request.param]


def modes_of(graph: Any) -> tuple[str, ...]:
    return MODES if graph.__class__.__name__ == "CompiledStateGraph" else ("ainvoke", "astream")


@pytest.mark.parametrize("mode", MODES)
def test_each_shape_has_the_steps_and_calls_a_person_counts(provider: Provider, build: Any, mode: str) -> None:
    make, expected = build
    graph, pin = make(provider), Guard()
    if mode not in modes_of(graph):
        pytest.skip("its functions are coroutines")

    call(mode, graph, ASK, watched(pin))

    trace = finished(pin)
    assert counts(trace) == expected, "\n".join(outline(trace, "step"))
    assert_steps_are_numbered(trace)
    assert trace.status == "ok"
    assert trace.llm_calls == provider_served(provider)


def assert_steps_are_numbered(trace: Trace) -> None:
    """Every step is some span's, none is beyond the count, and a tool is in the step of the model that asked for it."""
    numbers = {span.step for span in trace.spans if span.kind in ("llm", "tool", "node", "step")} - {0}
    assert numbers == set(range(1, trace.steps + 1))
    asked = {asked["id"]: span.step for span in trace.spans_of("llm") for asked in span.tool_calls}
    for span in trace.spans_of("tool"):
        if span.call_id in asked:
            assert span.step == asked[span.call_id]
    decided = [span.step for span in trace.spans_of("llm")]
    assert len(decided) == len(set(decided))


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_of_just_these_steps_lets_each_shape_finish(provider: Provider, build: Any, mode: str) -> None:
    make, (steps, *_) = build
    graph, pin = make(provider), Guard(Budget(steps=steps, warn_at=1.0))
    if mode not in modes_of(graph):
        pytest.skip("its functions are coroutines")

    call(mode, graph, ASK, watched(pin))

    trace = finished(pin)
    assert (trace.steps, trace.status) == (steps, "ok")


@pytest.mark.parametrize("mode", MODES)
def test_every_smaller_budget_admits_just_its_steps_and_refuses_the_next_before_it_starts(
    provider: Provider, build: Any, mode: str
) -> None:
    make, (steps, *_) = build
    for limit in range(steps):
        graph, pin = make(provider), Guard(Budget(steps=limit, warn_at=1.0))
        if mode not in modes_of(graph):
            pytest.skip("its functions are coroutines")

        with pytest.raises(BudgetExceededError) as stopped:
            call(mode, graph, ASK, watched(pin))

        trace = finished(pin)
        assert trace.status == "stopped"
        assert (stopped.value.unit, stopped.value.limit) == ("steps", limit)
        used = stopped.value.spent + stopped.value.reserved
        assert used == limit or (make.__name__ in SEEN_LATE and used == limit + 1)
        assert trace.steps == used or stopped.value.in_flight
        assert trace.llm_calls == len(trace.spans_of("llm")) == provider_served(provider)
        (decision,) = [decision for decision in trace.decisions if decision.verdict == "stop"]
        assert decision.facts["unit"] == "steps"


def provider_served(provider: Provider) -> int:
    return provider.server.served if hasattr(provider, "server") else 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limit", [0, 1, 3, 6])
def test_an_agent_without_end_makes_just_the_steps_it_may(provider: Provider, limit: int, mode: str) -> None:
    ran: list[str] = []
    agent = create_agent(provider.model(endless("search", {"q": "x"})), [tool_of("search", ran.append)])
    pin = Guard(Budget(steps=limit))

    with pytest.raises(BudgetExceededError):
        call(mode, agent, ASK, watched(pin))

    assert (provider.server.served, len(ran)) == (limit, limit)
    assert counts(finished(pin)) == (limit, limit, limit)


# --- which step is whose ----------------------------------------------------------------------------------------------


def test_a_step_is_the_model_call_its_nodes_and_its_tools(provider: Provider) -> None:
    agent = create_agent(provider.model(turns([X, Y], [X])), [SEARCH], name="bee", middleware=[Hooks()])
    pin = Guard()

    agent.invoke(ASK, watched(pin))

    trace = finished(pin)
    assert sorted({(span.kind, span.name, span.step) for span in trace.spans}, key=lambda s: (s[2], s[0], s[1])) == [
        ("agent", "bee", 0),
        ("node", "Hooks.before_agent", 0),
        ("node", "Hooks.before_model", 0),
        ("llm", "gpt-4o", 1),
        ("node", "Hooks.after_model", 1),
        ("node", "Hooks.before_model", 1),
        ("node", "model", 1),
        ("node", "tools", 1),
        ("tool", "search", 1),
        ("llm", "gpt-4o", 2),
        ("node", "Hooks.after_model", 2),
        ("node", "Hooks.before_model", 2),
        ("node", "model", 2),
        ("node", "tools", 2),
        ("tool", "search", 2),
        ("llm", "gpt-4o", 3),
        ("node", "Hooks.after_agent", 3),
        ("node", "Hooks.after_model", 3),
        ("node", "model", 3),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_the_steps_of_a_sub_agent_follow_the_one_that_asked_for_it(provider: Provider, mode: str) -> None:
    graph, pin = a_sub_agent_in_a_tool(provider), Guard()

    call(mode, graph, ASK, watched(pin))

    trace = finished(pin)
    assert outline(trace, "agent", "step") == [
        "agent boss boss 0",
        "  node model boss 1",
        "    llm gpt-4o boss 1",
        "  node tools boss 1",
        "    tool work boss 1",
        "      agent worker worker 1",
        "        node model worker 2",
        "          llm gpt-4o worker 2",
        "        node tools worker 2",
        "          tool search worker 2",
        "        node model worker 3",
        "          llm gpt-4o worker 3",
        "  node model boss 4",
        "    llm gpt-4o boss 4",
    ]


# --- one's own runs and blocks inside a node or a tool ----------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_ones_own_calls_inside_a_node_and_a_tool_are_their_children(provider: Provider, mode: str) -> None:
    pin = Guard()

    @pin.tool
    def measure(q: str) -> int:
        return len(q)

    def work(q: str) -> str:
        with pin.run("inner") as run, run.llm(model="gpt-4o", messages=q) as made:
            made.response = "thought"
        return str(measure(q))

    async def awork(q: str) -> str:
        async with pin.run("inner") as run, run.llm(model="gpt-4o", messages=q) as made:
            made.response = "thought"
        return str(measure(q))

    working = StructuredTool.from_function(work, awork, name="work", description="Works.")
    builder = react_with(provider, [working], turns([("work", {"q": "four"})]), measure)

    call(mode, builder.compile(), ASK, watched(pin))

    trace = finished(pin)
    assert outline(trace) == [
        "agent LangGraph",
        "  node first",
        "    tool measure",
        "  node agent",
        "    llm gpt-4o",
        "  node tools",
        "    tool work",
        "      agent inner",
        "        llm gpt-4o",
        "      tool measure",
        "  node agent",
        "    llm gpt-4o",
    ]
    assert counts(trace)[1:] == (3, 3)


def react_with(provider: Provider, tools: list[BaseTool], script: Script, first: Callable[[str], Any]) -> Any:
    builder = StateGraph(MessagesState)

    def begin(state: Any) -> dict[str, Any]:
        first(state["messages"][0].content)
        return {}

    builder.add_node("first", both(begin))
    builder.add_node("agent", asking(provider.model(script).bind_tools(tools)))
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge(START, "first")
    builder.add_edge("first", "agent")
    builder.add_conditional_edges("agent", tools_condition)
    builder.add_edge("tools", "agent")
    return builder


@pytest.mark.parametrize("mode", MODES)
def test_ones_own_model_call_inside_a_node_is_the_nodes_decision(provider: Provider, mode: str) -> None:
    pin = Guard()

    def ask(state: Any) -> dict[str, Any]:
        (run,) = pin.active
        with run.llm(model="gpt-4o", messages="Why?") as made:
            made.response = "Because."
        return {"messages": [("assistant", "Because.")]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", both(ask))
    builder.add_edge(START, "ask")

    call(mode, builder.compile(), ASK, watched(pin))

    trace = finished(pin)
    assert outline(trace, "step") == ["agent LangGraph 0", "  node ask 1", "    llm gpt-4o 1"]
    assert counts(trace) == (1, 1, 0)


def test_parallel_nodes_of_a_sync_graph_keep_their_children_apart(provider: Provider) -> None:
    pin = Guard()

    @pin.tool
    def measure(q: str) -> int:
        return len(q)

    builder = StateGraph(Notes)
    for name in ("a", "b", "c", "d"):

        def work(state: Any, config: RunnableConfig) -> dict[str, Any]:
            return {"notes": [measure(str(config["metadata"]["langgraph_node"]))]}

        builder.add_node(name, work)
        builder.add_edge(START, name)

    builder.compile().invoke(ASK, watched(pin))

    trace = finished(pin)
    nodes = {span.span_id: span.name for span in trace.spans_of("node")}
    assert sorted(nodes.values()) == ["a", "b", "c", "d"]
    assert all(nodes[span.parent_id or ""] == span.arguments["q"] for span in trace.spans_of("tool"))
    assert counts(trace) == (4, 0, 4)


# --- long runs --------------------------------------------------------------------------------------------------------


def long_run(turns: int) -> Trace:
    """An agent of so many turns; its model is one of LangChain's own, without the cost of an HTTP client."""
    asked = [
        AIMessage("", tool_calls=[{"id": f"c{n}", "name": "search", "args": {"q": f"q{n}"}}]) for n in range(turns - 1)
    ]
    model = GenericFakeChatModel(messages=iter([*asked, AIMessage("Done")]))
    pin = Guard()
    react(model).compile().invoke(ASK, {**watched(pin), "recursion_limit": 3 * turns})
    return finished(pin)


@pytest.mark.slow
def test_memory_grows_with_the_turns_of_a_run_and_not_with_their_square() -> None:
    def stored(trace: Trace) -> int:
        return len(trace.pool.bodies) + len(trace.pool.links)

    runs = {turns: long_run(turns) for turns in (50, 100, 500)}

    per_turn = (stored(runs[100]) - stored(runs[50])) / 50
    assert (stored(runs[500]) - stored(runs[100])) / 400 == pytest.approx(per_turn, rel=0.02)
    assert per_turn < 16
    assert [counts(trace) for trace in runs.values()] == [(turns, turns, turns - 1) for turns in runs]


def test_every_prompt_of_a_long_run_can_still_be_read() -> None:
    prompts = [span.messages for span in long_run(200).spans_of("llm")]

    assert [len(prompt) for prompt in prompts] == [1 + 2 * turn for turn in range(200)]
    for before, after in pairwise(prompts):
        assert after[: len(before)] == before
    assert prompts[-1][-2:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c198", "name": "search", "arguments": {"q": "q198"}}],
        },
        {"role": "tool", "content": "search q198", "name": "search", "tool_call_id": "c198"},
    ]


# --- observing and broken exporters, over a whole agent ---------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_observing_an_agent_changes_nothing_but_the_record(provider: Provider, mode: str) -> None:
    def run_with(*guards: Guard) -> Any:
        agent = create_agent(provider.model(turns([X, Y], [X])), [SEARCH], name="bee")
        config = {"callbacks": [h for pin in guards for h in watched(pin)["callbacks"]]}
        got = call(mode, agent, ASK, config)
        return [type(item).__name__ for item in got] if isinstance(got, list) else [m.content for m in got["messages"]]

    pin = Guard(Budget(steps=1, tool_calls=1, warn_at=1.0), mode="observe")

    assert run_with(pin) == run_with()

    trace = finished(pin)
    assert (trace.status, trace.stop, counts(trace)) == ("ok", None, (3, 3, 3))
    (decision,) = [decision for decision in trace.decisions if decision.verdict == "stop"]
    assert decision.facts["observed"] is True


class Broken:
    """An exporter that fails at everything."""

    def span_started(self, trace: Trace, span: Any) -> None:
        raise RuntimeError("broken")

    span_ended = span_started

    def run_ended(self, trace: Trace) -> None:
        raise RuntimeError("broken")

    close = run_ended


@pytest.mark.parametrize("mode", MODES)
def test_a_broken_exporter_changes_nothing_for_an_agent(
    provider: Provider, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "STRICT", False)  # as it is for everyone but our own tests
    ran: list[str] = []
    agent = create_agent(provider.model(turns([X, Y], [X])), [tool_of("search", ran.append)], middleware=[Hooks()])
    pin = Guard(exporters=[Broken()])

    call(mode, agent, ASK, watched(pin))

    trace = finished(pin)
    assert (sorted(ran), trace.status, counts(trace)) == (["x", "x", "y"], "ok", (3, 3, 3))


def test_a_refused_step_is_the_first_thing_of_its_node(provider: Provider) -> None:
    ran: list[str] = []

    def note(_: Any) -> dict[str, Any]:
        ran.append("ran")
        return {}

    builder = StateGraph(MessagesState)
    for name in ("a", "b", "c"):
        builder.add_node(name, both(note))
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    builder.add_edge("b", "c")
    pin = Guard(Budget(steps=2))

    with pytest.raises(BudgetExceededError):
        builder.compile().invoke(ASK, watched(pin))

    trace = finished(pin)
    assert (ran, trace.steps) == (["ran", "ran"], 2)
    assert trace.decisions[-1].input["kind"] == "node"


# --- nodes side by side -----------------------------------------------------------------------------------------------


def side_by_side(node: Any, count: int) -> Any:
    builder = StateGraph(Notes)
    for number in range(count):
        builder.add_node(f"n{number}", node)
        builder.add_edge(START, f"n{number}")
    return builder.compile()


@pytest.mark.parametrize("mode", ["invoke", "stream"])
def test_of_models_side_by_side_just_as_many_run_as_there_are_steps(provider: Provider, mode: str) -> None:
    """In threads, a node that may be one too many waits until those before it have decided."""
    model = provider.model(turns())
    pin = Guard(Budget(steps=2))

    def ask(state: Any) -> dict[str, Any]:
        time.sleep(0.05)  # all of them have started before the first decides
        return {"notes": [model.invoke(state["messages"])]}

    with pytest.raises(BudgetExceededError) as stopped:
        call(mode, side_by_side(ask, 5), ASK, watched(pin))

    assert (provider.server.served, finished(pin).steps) == (2, 2)
    assert (stopped.value.spent, stopped.value.in_flight) == (2, False)


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
def test_on_an_event_loop_a_refusal_says_that_nodes_in_flight_were_in_the_way(provider: Provider, mode: str) -> None:
    """A callback there cannot wait; what it must not say is that the steps were used."""
    pin = Guard(Budget(steps=2))

    with pytest.raises(BudgetExceededError) as stopped:
        call(mode, side_by_side(asking(provider.model(turns()), "notes"), 5), ASK, watched(pin))

    assert stopped.value.spent + stopped.value.reserved == 2
    assert stopped.value.in_flight is (stopped.value.spent < 2)
    assert provider.server.served <= 2
    assert finished(pin).steps <= 2


@pytest.mark.parametrize("mode", MODES)
def test_of_nodes_side_by_side_that_only_compute_none_is_too_many(mode: str) -> None:
    ran: list[int] = []

    def note(_: Any) -> dict[str, Any]:
        ran.append(1)
        return {}

    pin = Guard(Budget(steps=2))

    with pytest.raises(BudgetExceededError):
        call(mode, side_by_side(both(note), 5), ASK, watched(pin))

    assert len(ran) <= 2
    assert finished(pin).steps == len(ran)
