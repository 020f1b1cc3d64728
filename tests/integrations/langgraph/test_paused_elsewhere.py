"""A run that is paused goes on when it is resumed, in this process or another: what it spent and did still counts."""

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt

import shearpin
from shearpin import Budget, BudgetExceededError, Guard, LoopBreaker, LoopDetectedError, Trace
from shearpin.testing import endless, reply
from shearpin_integrations.langgraph import ShearpinCallbackHandler, ShearpinMiddleware, guarded_node, hook_nodes
from tests.integrations.langgraph.conftest import (
    ASK,
    FOUR_MODES,
    MakeGuard,
    MakeModel,
    Serve,
    asking,
    circle,
    run_mode,
)

ANSWER = Command(resume="yes")


@tool
def ask(question: str) -> str:
    """Ask a person."""
    return interrupt(question)


def one_node(chat: ChatOpenAI, pin: Guard, saver: InMemorySaver) -> Any:
    """The model's node is under the guard, the tools' node, which pauses, is not."""

    def only_the_model(node: Any) -> Any:
        return node if isinstance(node, ToolNode) else guarded_node(node, pin)

    return circle(chat, [ask], only_the_model).compile(checkpointer=saver)


def every_node(chat: ChatOpenAI, pin: Guard, saver: InMemorySaver) -> Any:
    return circle(chat, [ask], lambda node: guarded_node(node, pin)).compile(checkpointer=saver)


def hooked(chat: ChatOpenAI, pin: Guard, saver: InMemorySaver) -> Any:
    return hook_nodes(circle(chat, [ask]), pin).compile(checkpointer=saver)


def middleware(chat: ChatOpenAI, pin: Guard, saver: InMemorySaver) -> Any:
    return create_agent(chat, [ask], middleware=[ShearpinMiddleware(pin)], checkpointer=saver)


def attached(chat: ChatOpenAI, pin: Guard, saver: InMemorySaver) -> Any:
    return shearpin.attach(circle(chat, [ask]).compile(checkpointer=saver), pin)


def called_back(chat: ChatOpenAI, pin: Guard, saver: InMemorySaver) -> Any:
    graph = circle(chat, [ask]).compile(checkpointer=saver)
    return graph.with_config(callbacks=[ShearpinCallbackHandler(pin)])


WAYS = (one_node, every_node, hooked, middleware, attached, called_back)
Way = Callable[[ChatOpenAI, Guard, InMemorySaver], Any]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param


def visit(way: Way, chat: ChatOpenAI, saver: InMemorySaver, asked: object, mode: str = "invoke") -> Trace:
    """One process's share of the thread: a new guard and a new graph know nothing but the checkpoint."""
    pin = Guard(Budget(llm_calls=3, usd=1))
    run_mode(way(chat, pin, saver), asked, {"configurable": {"thread_id": "t"}}, mode)
    (trace,) = pin.traces
    return trace


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_a_thread_resumed_in_another_process_never_gets_its_budget_again(
    serve: Serve, model: MakeModel, way: Way, mode: str
) -> None:
    server, saver = serve(endless("ask", {"question": "go on?"}, usage=(1000, 500))), InMemorySaver()
    chat = model(server)

    traces = [visit(way, chat, saver, asked, mode) for asked in (ASK, ANSWER, ANSWER)]
    with pytest.raises(BudgetExceededError) as stopped:
        visit(way, chat, saver, ANSWER, mode)

    assert (server.served, stopped.value.spent) == (3, 3)
    assert [(trace.status, trace.steps, trace.llm_calls) for trace in traces] == [
        ("paused", 1, 1),
        ("paused", 2, 2),
        ("paused", 3, 3),
    ]
    assert traces[2].tool_calls == (0 if way is one_node else 2)
    assert traces[2].usage.cost_usd == pytest.approx(3 * 0.0075)
    assert traces[1].spans[0].attributes["continues"] == traces[0].trace_id


@pytest.mark.parametrize("way", [way for way in WAYS if way is not one_node])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_loop_through_pauses_is_one_loop(
    serve: Serve, model: MakeModel, guarded: MakeGuard, way: Way, *, elsewhere: bool
) -> None:
    server, saver = serve(endless("ask", {"question": "go on?"})), InMemorySaver()
    agent, config = way(model(server), guarded(LoopBreaker()), saver), {"configurable": {"thread_id": "t"}}

    for asked in (ASK, ANSWER, ANSWER):
        agent.invoke(asked, config)
        if elsewhere:
            agent = way(model(server), guarded(LoopBreaker()), saver)
    with pytest.raises(LoopDetectedError, match="came 3 times"):
        agent.invoke(ANSWER, config)

    assert server.served == 4


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_a_thread_resumed_here_never_gets_its_budget_again(
    serve: Serve, model: MakeModel, guarded: MakeGuard, way: Way, mode: str
) -> None:
    server, pin = serve(endless("ask", {"question": "go on?"})), guarded(Budget(llm_calls=3))
    agent, config = way(model(server), pin, InMemorySaver()), {"configurable": {"thread_id": "t"}}

    for asked in (ASK, ANSWER, ANSWER):
        run_mode(agent, asked, config, mode)
        assert pin.traces[-1].status == "paused"
    with pytest.raises(BudgetExceededError):
        run_mode(agent, ANSWER, config, mode)

    (trace,) = pin.traces
    assert (server.served, trace.llm_calls, trace.status) == (3, 3, "stopped")


def test_a_new_message_on_a_paused_thread_is_a_new_run(serve: Serve, model: MakeModel, way: Way) -> None:
    chat, saver = model(serve(endless("ask", {"question": "go on?"}))), InMemorySaver()
    visit(way, chat, saver, ASK)
    assert visit(way, chat, saver, {"messages": [("user", "something else")]}).llm_calls == 1


class Wide(TypedDict):
    messages: Annotated[list[Any], add_messages]


@tool("ask")
def echo(question: str) -> str:
    """Say it again."""
    return question


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_a_pause_of_a_subgraph_that_nobody_raised_is_one_too(
    serve: Serve, model: MakeModel, guarded: MakeGuard, mode: str
) -> None:
    server, pin = serve(endless("ask", {"question": "go on?"})), guarded(Budget(llm_calls=2))
    agent = hook_nodes(circle(model(server), [echo]), pin).compile(interrupt_before=["tools"])
    builder = StateGraph(Wide)
    builder.add_node("agent", agent)
    builder.add_edge(START, "agent")
    graph, config = builder.compile(checkpointer=InMemorySaver()), {"configurable": {"thread_id": "t"}}

    run_mode(graph, ASK, config, mode)
    run_mode(graph, None, config, mode)
    with pytest.raises(BudgetExceededError):
        run_mode(graph, None, config, mode)

    assert (server.served, [trace.status for trace in pin.traces]) == (2, ["stopped"])


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_nodes_that_start_side_by_side_count_on_only_once(serve: Serve, model: MakeModel, mode: str) -> None:
    server, saver = serve(endless("ask", {"question": "go on?"}, usage=(1000, 500))), InMemorySaver()

    def visited(asked: object) -> Trace:
        pin, chat = Guard(), model(server)
        builder = StateGraph(Wide)
        builder.add_node("first", guarded_node(asking(chat), pin))
        builder.add_node("pause", lambda _: {"messages": [("user", interrupt("go on?"))]})
        for name in "abcdefgh":
            builder.add_node(name, guarded_node(asking(chat), pin))
            builder.add_edge("pause", name)
        builder.add_edge(START, "first")
        builder.add_edge("first", "pause")
        run_mode(builder.compile(checkpointer=saver), asked, {"configurable": {"thread_id": "t"}}, mode)
        return pin.traces[-1]

    assert (visited(ASK).llm_calls, visited(ANSWER).llm_calls) == (1, 9)


def send_the_first_two(state: Wide) -> list[Send]:
    return [Send("sent", {"messages": state["messages"][:2]})]


def test_what_was_sent_to_a_node_is_not_taken_for_the_threads_state(serve: Serve, model: MakeModel) -> None:
    chat, saver = model(serve([reply("hi")], repeat_last=True)), InMemorySaver()

    def visited(asked: object) -> Trace:
        pin = Guard()
        builder = StateGraph(Wide)
        for name in ("one", "two", "sent", "last"):
            builder.add_node(name, guarded_node(asking(chat), pin))
        builder.add_node("pause", lambda _: {"messages": [("user", interrupt("go on?"))]})
        for edge in pairwise((START, "one", "two", "pause")):
            builder.add_edge(*edge)
        builder.add_conditional_edges("pause", send_the_first_two, ["sent"])
        builder.add_edge("sent", "last")
        builder.compile(checkpointer=saver).invoke(asked, {"configurable": {"thread_id": "t"}})
        return pin.traces[-1]

    assert (visited(ASK).llm_calls, visited(ANSWER).llm_calls) == (2, 4)


def test_a_forged_count_in_the_checkpoint_changes_nothing() -> None:
    pin = Guard(Budget(llm_calls=1))
    with pin.run() as run:
        for forged in ({}, {"llm_calls": -5}, "text", None, {**run.carry(), "usd": 1}, {**run.carry(), "steps": -1}):
            run.continue_from(forged)
        assert run.trace.llm_calls == 0
