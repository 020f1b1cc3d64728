"""What a paused run has come to is kept with the checkpoint it waits at, whatever its graph and its state are like."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from shearpin import Budget, BudgetExceededError, EnforcementGapWarning, Guard, LoopBreaker, Trace
from shearpin.testing import Reply, Request, endless, reply, tool_call, tool_calls
from shearpin_integrations.langgraph import ShearpinCallbackHandler, ShearpinMiddleware, guarded_node, hook_nodes
from tests.integrations.langgraph.conftest import (
    ASK,
    FOUR_MODES,
    TWO_MODES,
    MakeModel,
    Serve,
    circle,
    run_mode,
    tool_of,
)

ANSWER = Command(resume="yes")


@tool
def approve(q: str = "") -> str:
    """Ask a person."""
    return interrupt(q)


def watched(pin: Guard) -> dict[str, Any]:
    return {"callbacks": [ShearpinCallbackHandler(pin)], "configurable": {"thread_id": "t"}}


def in_a_circle(state: type, **nodes: Callable[[Any], Any]) -> StateGraph:
    builder = StateGraph(state)
    names = list(nodes)
    for name, node in nodes.items():
        builder.add_node(name, node)
    for giver, taker in zip([START, *names], [*names, names[0]], strict=True):
        builder.add_edge(giver, taker)
    return builder


def review(_: Any) -> dict[str, Any]:
    interrupt("ok?")
    return {}


class Draft(TypedDict, total=False):
    text: str


class Model(BaseModel):
    messages: Annotated[list[Any], add_messages] = []


class History(TypedDict):
    history: Annotated[list[Any], add_messages]


# --- every graph: how it is built, what it is given first, what it is resumed with

Graph = Callable[[Any, Any], Any]


def text_only(chat: Any, saver: Any) -> Any:
    return in_a_circle(Draft, draft=lambda _: {"text": chat.invoke("write").content}, review=review).compile(saver)


def model_state(chat: Any, saver: Any) -> Any:
    builder = in_a_circle(Model, draft=lambda state: {"messages": [chat.invoke(state.messages)]}, review=review)
    return builder.compile(saver)


def other_key(chat: Any, saver: Any) -> Any:
    builder = in_a_circle(History, draft=lambda state: {"history": [chat.invoke(state["history"])]}, review=review)
    return builder.compile(saver)


def functional(chat: Any, saver: Any) -> Any:
    @task
    def draft(i: int) -> str:
        return str(chat.invoke(f"draft {i}").content)

    @entrypoint(checkpointer=saver)
    def flow(_: Any) -> None:
        for i in range(20):
            draft(i).result()
            interrupt(f"draft {i}?")

    return flow


def sub_agent(chat: Any, saver: Any) -> Any:
    inner = create_agent(chat, [tool_of([])])

    @tool
    def research(q: str) -> str:
        """Find out."""
        return inner.invoke({"messages": [("user", q)]})["messages"][-1].text

    return create_agent(chat, [research, approve], checkpointer=saver)


def before_tools(chat: Any, saver: Any) -> Any:
    return create_agent(chat, [tool_of([])], checkpointer=saver, interrupt_before=["tools"])


def after_tools(chat: Any, saver: Any) -> Any:
    return create_agent(chat, [tool_of([])], checkpointer=saver, interrupt_after=["tools"])


GRAPHS: dict[Graph, tuple[Any, Any]] = {
    text_only: ({"text": ""}, ANSWER),
    model_state: (ASK, ANSWER),
    other_key: ({"history": [("user", "Hello?")]}, ANSWER),
    functional: (1, ANSWER),
    sub_agent: (ASK, ANSWER),
    before_tools: (ASK, None),
    after_tools: (ASK, None),
}


def script(request: Request) -> Reply:
    names = [each["function"]["name"] for each in request.tools]
    if "approve" in names:
        return tool_calls([("research", {"q": f"r{request.turn}"}), ("approve", {"q": f"a{request.turn}"})])
    if "search" in names and request.messages[0]["content"].startswith("r"):
        return tool_call("search", {"q": "x"}) if request.turn < 2 else reply("found")
    return tool_call("search", {"q": f"{request.turn}"}) if "search" in names else reply("a draft")


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("build", GRAPHS, ids=lambda build: build.__name__)
def test_what_was_spent_before_a_pause_counts_in_every_other_process(
    serve: Serve, model: MakeModel, build: Graph, mode: str
) -> None:
    if build is functional and mode != "invoke":
        pytest.skip("its body is synchronous")
    server, saver = serve(script), InMemorySaver()
    first, then = GRAPHS[build]

    traces: list[Trace] = []
    with pytest.raises(BudgetExceededError):
        for asked in [first, *[then] * 9]:
            pin = Guard(Budget(llm_calls=5))
            run_mode(build(model(server), saver), asked, watched(pin), mode)
            traces.append(pin.traces[-1])

    assert server.served == 5
    assert {trace.status for trace in traces} == {"paused"}
    assert [trace.llm_calls for trace in traces] == sorted(trace.llm_calls for trace in traces)


def test_tools_that_ran_after_the_last_reply_count_too(serve: Serve, model: MakeModel) -> None:
    def three_and_a_question(request: Request) -> Reply:
        asked = [("search", {"q": f"{request.turn}{i}"}) for i in range(3)]
        return tool_calls([*asked, ("approve", {"q": str(request.turn)})])

    ran, saver, chat = list[Any](), InMemorySaver(), model(serve(three_and_a_question))

    with pytest.raises(BudgetExceededError):
        for asked in [ASK, *[ANSWER] * 9]:
            agent = create_agent(chat, [tool_of(ran), approve], checkpointer=saver)
            agent.invoke(asked, watched(Guard(Budget(tool_calls=6))))

    assert len(ran) in (5, 6)  # one of the six calls may be the question's


def test_workers_that_serve_a_thread_in_turn_never_go_on_from_stale_memory(serve: Serve, model: MakeModel) -> None:
    server, saver = serve(endless("approve", {"q": "go on?"})), InMemorySaver()
    workers = [Guard(Budget(llm_calls=4)) for _ in range(3)]

    with pytest.raises(BudgetExceededError):
        for turn, asked in enumerate([ASK, *[ANSWER] * 20]):
            agent = create_agent(model(server), [approve], checkpointer=saver)
            agent.invoke(asked, watched(workers[turn % 3]))

    assert server.served == 4


def test_a_new_run_on_the_thread_pays_nothing_for_the_last_one(serve: Serve, model: MakeModel) -> None:
    server, saver = serve([reply("done")], repeat_last=True), InMemorySaver()
    chat = model(server)

    def work(state: MessagesState) -> dict[str, Any]:
        return {"messages": [chat.invoke(state["messages"]) for _ in range(3)]}

    builder = StateGraph(MessagesState)
    builder.add_sequence([("gate", review), ("work", work)])
    builder.add_edge(START, "gate")
    for asked in (ASK, ANSWER, {"messages": [("user", "And now?")]}, ANSWER):
        pin = Guard(Budget(llm_calls=4))
        builder.compile(saver).invoke(asked, watched(pin))
        assert pin.traces[-1].llm_calls == (3 if asked is ANSWER else 0)


def test_two_graphs_may_pause_on_the_same_thread_id(serve: Serve, model: MakeModel) -> None:
    chat, pin = model(serve([reply("done")], repeat_last=True)), Guard(Budget(llm_calls=3))

    def graph_that_asks(times: int) -> Any:
        def work(_: Any) -> dict[str, Any]:
            return {"messages": [chat.invoke("Hello?") for _ in range(times)]}

        builder = StateGraph(MessagesState)
        builder.add_sequence([("work", work), ("gate", review), ("more", work)])
        builder.add_edge(START, "work")
        return builder.compile(InMemorySaver())

    dear, cheap = graph_that_asks(2), graph_that_asks(0)
    for graph in (dear, cheap):
        graph.invoke(ASK, watched(pin))
    with pytest.raises(BudgetExceededError):
        dear.invoke(ANSWER, watched(pin))
    cheap.invoke(ANSWER, watched(pin))

    assert [(trace.llm_calls, trace.status) for trace in pin.traces] == [(3, "stopped"), (0, "ok")]


@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("pause", ["interrupt_before", "interrupt_after"])
@pytest.mark.parametrize("way", ["handler", "guarded", "hooked", "middleware"])
def test_breakpoints_refill_no_budget_however_the_guard_is_put_on(
    serve: Serve, model: MakeModel, *, way: str, pause: str, mode: str
) -> None:
    server, pin, saver = serve(endless("search", {"q": "x"})), Guard(Budget(llm_calls=3)), InMemorySaver()
    options: dict[str, Any] = {"checkpointer": saver, pause: ["tools"]}
    if way in ("handler", "middleware"):
        own = [ShearpinMiddleware(pin)] if way == "middleware" else []
        graph: Any = create_agent(model(server), [tool_of([])], middleware=own, **options)
    else:
        builder = circle(model(server), [tool_of([])], lambda n: guarded_node(n, pin) if way == "guarded" else n)
        graph = (hook_nodes(builder, pin) if way == "hooked" else builder).compile(**options)
    config = watched(pin) if way == "handler" else {"configurable": {"thread_id": "t"}}

    run_mode(graph, ASK, config, mode)
    assert pin.traces[-1].status == "paused"
    with pytest.raises(BudgetExceededError):
        for _ in range(9):
            run_mode(graph, None, config, mode)

    assert (server.served, len(pin.traces)) == (3, 1)


# --- where the checkpointer is out of reach, or fails


class Awaited(BaseCheckpointSaver[str]):
    """A checkpointer for an event loop only, as those of databases are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = InMemorySaver()

    def get_next_version(self, current: Any, channel: Any) -> Any:
        return self.inner.get_next_version(current, channel)

    def get_tuple(self, config: Any) -> Any:
        raise AssertionError("called on its event loop")

    put = put_writes = get_tuple  # type: ignore[assignment]

    async def aget_tuple(self, config: Any) -> Any:
        return await self.inner.aget_tuple(config)

    async def aput(self, *args: Any) -> Any:
        return await self.inner.aput(*args)

    async def aput_writes(self, *args: Any) -> None:
        await self.inner.aput_writes(*args)


class Failing(InMemorySaver):
    """A checkpointer that holds no writes but the graph's own."""

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        if task_id.startswith("shearpin"):
            raise ConnectionError("the database is gone")
        super().put_writes(config, writes, task_id, task_path)


def workers(count: int) -> Iterator[Guard]:
    own = [Guard(Budget(llm_calls=4)) for _ in range(count)]
    while True:
        yield from own


@pytest.mark.parametrize("count", [1, 2, 20])
def test_on_an_event_loop_the_replies_tell_what_was_spent(serve: Serve, model: MakeModel, count: int) -> None:
    server, saver = serve(endless("approve", {"q": "go on?"})), Awaited()
    pins = list[Guard]()

    with pytest.raises(BudgetExceededError):
        for pin, asked in zip(workers(count), [ASK, *[ANSWER] * 19], strict=False):
            pins.append(pin)
            agent = create_agent(model(server), [approve], checkpointer=saver)
            asyncio.run(agent.ainvoke(asked, watched(pin)))

    assert server.served == 4
    assert [trace.gaps for pin in pins for trace in pin.traces if trace.gaps] == []


def test_what_the_replies_cannot_tell_is_a_gap(serve: Serve, model: MakeModel) -> None:
    saver, pin, chat = Awaited(), Guard(Budget(llm_calls=4)), model(serve([reply("a draft")], repeat_last=True))

    async def draft(_: Any) -> dict[str, Any]:
        return {"text": str((await chat.ainvoke("write")).content)}

    graph = in_a_circle(Draft, draft=draft, review=review).compile(saver)
    with pytest.warns(EnforcementGapWarning, match="paused on an event loop"):
        asyncio.run(graph.ainvoke({"text": ""}, watched(pin)))
    elsewhere = Guard(Budget(llm_calls=4))
    with pytest.warns(EnforcementGapWarning):
        asyncio.run(graph.ainvoke(ANSWER, watched(elsewhere)))

    assert (pin.traces[-1].status, len(pin.traces[-1].gaps)) == ("paused", 1)
    assert [gap.split(", ")[0] for gap in elsewhere.traces[-1].gaps] == [
        "LangGraph: goes on",
        "LangGraph: paused on an event loop",
    ]


def test_on_an_event_loop_too_a_new_run_pays_nothing_for_the_last_one(serve: Serve, model: MakeModel) -> None:
    saver, chat = Awaited(), model(serve([reply("done")], repeat_last=True))

    async def work(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await chat.ainvoke(state["messages"]) for _ in range(3)]}

    builder = StateGraph(MessagesState)
    builder.add_sequence([("gate", review), ("work", work)])
    builder.add_edge(START, "gate")
    calls = list[int]()
    for asked in (ASK, ANSWER, {"messages": [("user", "And now?")]}, ANSWER):
        pin = Guard(Budget(llm_calls=4))
        with pytest.warns(EnforcementGapWarning):  # that nothing was spent before the pause, no reply tells
            asyncio.run(builder.compile(saver).ainvoke(asked, watched(pin)))
        calls.append(pin.traces[-1].llm_calls)

    assert calls == [0, 3, 0, 3]


def test_a_checkpointer_that_fails_costs_a_log_line(
    serve: Serve, model: MakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    server, pin = serve(endless("approve", {"q": "go on?"})), Guard(Budget(llm_calls=2))
    agent = create_agent(model(server), [approve], checkpointer=Failing())

    for asked in (ASK, ANSWER):
        agent.invoke(asked, watched(pin))
    with pytest.raises(BudgetExceededError):
        agent.invoke(ANSWER, watched(pin))

    assert (server.served, len(caplog.records)) == (2, 2)


def test_a_graph_sees_nothing_of_what_is_kept(serve: Serve, model: MakeModel) -> None:
    agent = create_agent(model(serve(endless("approve"))), [approve], checkpointer=InMemorySaver())
    config = watched(Guard(LoopBreaker()))
    agent.invoke(ASK, config)

    state = agent.get_state(config)

    assert (state.next, len(state.tasks), len(state.interrupts)) == (("tools",), 1, 1)
    assert list(state.values) == ["messages"]


def test_an_update_by_hand_loses_nothing(serve: Serve, model: MakeModel) -> None:
    server, saver = serve([reply("one")], repeat_last=True), InMemorySaver()
    chat = model(server)
    builder = in_a_circle(MessagesState, ask=lambda state: {"messages": [chat.invoke(state["messages"])]})
    with pytest.raises(BudgetExceededError):
        for turn in range(9):
            graph = builder.compile(saver, interrupt_after=["ask"])
            if turn:
                graph.update_state(watched(Guard()), {"messages": [("user", "more")]}, as_node="ask")
            graph.invoke(None if turn else ASK, watched(Guard(Budget(llm_calls=3))))

    assert server.served == 3
