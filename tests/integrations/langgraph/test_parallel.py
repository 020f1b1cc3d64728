"""Things that happen at once: a limit is exact, a stop reaches them all, and nobody's run is mistaken for another's."""

import asyncio
import functools
import gc
import operator
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import StructuredTool
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Send

from shearpin import Budget, BudgetExceededError, Guard, RunStoppedError, Trace
from shearpin.testing import Reply, Request, endless, hang, reply, tool_call, tool_calls
from shearpin_integrations.langchain.tracking import tracker_of
from shearpin_integrations.langgraph import ShearpinCallbackHandler, ShearpinMiddleware
from tests.integrations.langgraph.conftest import (
    ASK,
    ASYNC_MODES,
    FOUR_MODES,
    TWO_MODES,
    WAYS_IN,
    MakeGuard,
    MakeModel,
    Serve,
    WatchedBudget,
    arun_mode,
    assert_nothing_is_left,
    chat_graph,
    guarded_agent,
    run_mode,
    tool_graph,
    tool_of,
    until,
    wait_until,
)

FIVE = range(5)


def watched_by(pin: Guard, **more: Any) -> dict[str, Any]:
    return {"callbacks": [ShearpinCallbackHandler(pin)], **more}


# --- five model calls at once, and a budget for two


class Answers(TypedDict):
    answers: Annotated[list[Any], operator.add]


NONE_YET: dict[str, Any] = {"answers": []}


def asking(chat: Any) -> RunnableLambda:
    def ask(_: object) -> dict[str, Any]:
        return {"answers": [chat.invoke("Hello?")]}

    async def aask(_: object) -> dict[str, Any]:
        return {"answers": [await chat.ainvoke("Hello?")]}

    return RunnableLambda(ask, aask)


def five_nodes(chat: Any) -> CompiledStateGraph:
    builder = StateGraph(Answers)
    for number in FIVE:
        builder.add_node(f"ask{number}", asking(chat))
        builder.add_edge(START, f"ask{number}")
    return builder.compile()


def five_sends(chat: Any) -> CompiledStateGraph:
    builder = StateGraph(Answers)
    builder.add_node("ask", asking(chat))
    builder.add_conditional_edges(START, lambda state: [Send("ask", state) for _ in FIVE], ["ask"])
    return builder.compile()


def five_subgraphs(chat: Any) -> CompiledStateGraph:
    inner = StateGraph(Answers)
    inner.add_node("ask", asking(chat))
    inner.add_edge(START, "ask")
    builder = StateGraph(Answers)
    for number in FIVE:
        builder.add_node(f"inner{number}", inner.compile())
        builder.add_edge(START, f"inner{number}")
    return builder.compile()


def five_in_a_batch(chat: Any) -> CompiledStateGraph:
    def ask(_: object) -> dict[str, Any]:
        return {"answers": chat.batch(["Hello?"] * 5)}

    async def aask(_: object) -> dict[str, Any]:
        return {"answers": await chat.abatch(["Hello?"] * 5)}

    builder = StateGraph(Answers)
    builder.add_node("ask", RunnableLambda(ask, aask))
    builder.add_edge(START, "ask")
    return builder.compile()


SHAPES = {"nodes": five_nodes, "Send": five_sends, "subgraphs": five_subgraphs, "batch": five_in_a_batch}

TWO_FIT = {
    # A call of the tests below is expected to take 1,000 tokens out and a few in, and does.
    "llm_calls": 2,
    "usd": 0.025,
    "tokens": 2_500,
    "output_tokens": 2_500,
}


@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unit", TWO_FIT)
def test_of_five_parallel_model_calls_exactly_the_two_that_fit_go_out(  # noqa: PLR0917
    unit: str, shape: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("Hello!", usage=(5, 1_000), delay=0.01)], repeat_last=True)
    budget = WatchedBudget(**{unit: TWO_FIT[unit]})  # type: ignore[arg-type]
    pin = guarded(budget)

    with pytest.raises(BudgetExceededError):
        run_mode(SHAPES[shape](model(server, max_tokens=1_000)), NONE_YET, watched_by(pin), mode)

    assert server.wait_idle(5)
    if shape == "batch" and mode in ASYNC_MODES:  # LangChain's `abatch` leaves the others to their fate, maybe unsent
        assert server.count() <= 2
    else:
        assert server.count() == 2
    assert (pin.traces[-1].llm_calls, len(pin.traces), budget.held) == (2, 1, 0)


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_five_parallel_model_calls_that_fit_all_go_out(
    shape: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("Hello!", usage=(1_000, 100), delay=0.01)], repeat_last=True)
    budget = WatchedBudget(llm_calls=5, usd=0.02, tokens=5_500)
    pin = guarded(budget)

    run_mode(SHAPES[shape](model(server, max_tokens=100)), NONE_YET, watched_by(pin), mode)

    assert (server.served, pin.traces[-1].status, budget.held) == (5, "ok", 0)
    assert pin.traces[-1].usage.cost_usd == pytest.approx(5 * 0.0035)


def test_a_thread_waits_for_calls_in_flight_that_may_leave_enough(
    serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    """Each call is expected to need 1,000 tokens and takes 100: one after the other, all five fit."""
    server = serve([reply("Hello!", usage=(90, 10), delay=0.01)], repeat_last=True)
    pin = guarded(Budget(tokens=1_500))

    five_nodes(model(server, max_tokens=1_000)).invoke(NONE_YET, watched_by(pin))

    assert (server.served, server.peak_in_flight, pin.traces[-1].status) == (5, 1, "ok")


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_of_five_parallel_tasks_exactly_the_two_that_fit_ask(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, pin = serve([reply("Hello!", delay=0.01)], repeat_last=True), guarded(Budget(llm_calls=2))
    chat = model(server)

    @task
    def ask(_: int) -> str:
        return str(chat.invoke("Hello?").content)

    @task
    async def aask(_: int) -> str:
        return str((await chat.ainvoke("Hello?")).content)

    @entrypoint()
    def talk(_: object) -> list[str]:
        return [asked.result() for asked in [ask(number) for number in FIVE]]

    @entrypoint()
    async def atalk(_: object) -> list[str]:
        return list(await asyncio.gather(*(aask(number) for number in FIVE)))

    with pytest.raises(BudgetExceededError):
        run_mode(talk if mode in ("invoke", "stream") else atalk, "go", watched_by(pin), mode)

    assert server.wait_idle(5)
    assert (server.count(), pin.traces[-1].llm_calls, len(pin.traces)) == (2, 2, 1)


# --- five tools at once, and a limit of two


class Toolbox:
    """A tool that takes its time, and what was done with it."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []

    def tool(self) -> Any:
        def work(q: str) -> str:
            self.began.append(q)
            threading.Event().wait(0.005)
            return self._end(q)

        async def awork(q: str) -> str:
            self.began.append(q)
            await asyncio.sleep(0.005)
            return self._end(q)

        return working(work, awork)

    def _end(self, q: str) -> str:
        self.ended.append(q)
        return q


def working(work: Callable[..., Any], awork: Callable[..., Any] | None = None) -> StructuredTool:
    return StructuredTool.from_function(work, awork, name="work", description="Works.")


def agent_of(kind: str, chat: Any, tools: list[Any], pin: Guard) -> Any:
    if kind == "by hand":
        return tool_graph(chat, tools)
    return create_agent(chat, tools, middleware=[ShearpinMiddleware(pin)] if kind == "with middleware" else [])


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ["by hand", "create_agent", "with middleware"])
def test_of_five_parallel_tools_two_run_and_none_starts_after_the_stop(
    is_async: bool, kind: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    """Thirty times: what goes wrong here goes wrong now and then."""
    server = serve(lambda _: tool_calls([("work", {"q": f"{number}"}) for number in FIVE]))
    budget = WatchedBudget(tool_calls=2)
    pin = guarded(budget)
    chat, handler = model(server), ShearpinCallbackHandler(pin)

    async def repeat() -> None:
        for _ in range(30):
            box = Toolbox()
            agent = agent_of(kind, chat, [box.tool()], pin)
            with pytest.raises(BudgetExceededError):
                await agent.ainvoke(ASK, {"callbacks": [] if kind == "with middleware" else [handler]})
            await until(lambda box=box: len(box.ended) == len(box.began))  # type: ignore[misc] # orphans
            check(box)

    def check(box: Toolbox) -> None:
        assert len(box.began) == 2
        assert (pin.traces[-1].tool_calls, pin.traces[-1].status) == (2, "stopped")
        assert_nothing_is_left(pin)
        assert budget.held == 0

    if is_async:
        asyncio.run(repeat())
        return
    for _ in range(30):
        box = Toolbox()
        agent = agent_of(kind, chat, [box.tool()], pin)
        with pytest.raises(BudgetExceededError):
            agent.invoke(ASK, {"callbacks": [] if kind == "with middleware" else [handler]})
        assert len(box.ended) == 2
        check(box)


@pytest.mark.parametrize("by", ["handler", *WAYS_IN])
def test_of_forty_sync_tools_under_an_event_loop_two_run(
    by: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    """They wait for one of few threads, most of them until long after the caller has the stop."""
    began: list[str] = []
    server = serve(lambda _: tool_calls([("work", {"q": f"{number}"}) for number in range(40)]))
    pin = guarded(Budget(tool_calls=2))

    def work(q: str) -> str:
        began.append(q)
        threading.Event().wait(0.005)
        return q

    tools, config = [working(work)], watched_by(pin) if by == "handler" else {}
    agent = tool_graph(model(server), tools) if by == "handler" else guarded_agent(by, model(server), tools, pin)

    async def run() -> None:
        with pytest.raises(BudgetExceededError):
            await agent.ainvoke(ASK, config)
        await asyncio.sleep(0.1)  # time for the orphans

    asyncio.run(run())

    assert len(began) == 2
    assert (pin.traces[-1].tool_calls, len(pin.traces)) == (2, 1)


@pytest.mark.parametrize("by", ["handler", "guarded nodes", "hooked nodes", "attached"])
async def test_a_tool_that_was_put_off_does_not_start_after_the_stop(
    by: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    """A rate limit between LangGraph and the tools lets them start one by one, the last after the run has ended."""
    began: list[str] = []
    server = serve(lambda _: tool_calls([("search", {"q": f"{number}"}) for number in FIVE]))
    pin, arrived = guarded(Budget(tool_calls=2)), asyncio.Event()

    async def limit_rate(request: Any, execute: Callable[[Any], Any]) -> Any:
        await asyncio.sleep(0.02 * int(request.tool_call["args"]["q"]))
        try:
            return await execute(request)
        finally:
            if request.tool_call["args"]["q"] == "4":
                arrived.set()

    options = {"wrap_tool_call": lambda request, execute: execute(request), "awrap_tool_call": limit_rate}
    chat, tools = model(server), [tool_of(began)]
    agent = tool_graph(chat, tools, **options) if by == "handler" else guarded_agent(by, chat, tools, pin, **options)

    with pytest.raises(BudgetExceededError):
        await agent.ainvoke(ASK, watched_by(pin) if by == "handler" else {})
    await asyncio.wait_for(arrived.wait(), 5)

    assert began == ["0", "1"]
    assert (pin.traces[-1].tool_calls, len(pin.traces)) == (2, 1)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_tool_that_goes_on_after_the_stop_can_start_nothing(
    is_async: bool, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    """LangGraph hands the stop to an async caller while siblings still run: what they call is refused as well."""
    server, helper = serve(lambda _: tool_calls([("work", {"q": f"{number}"}) for number in FIVE])), serve([])
    pin, chat, refused = guarded(Budget(tool_calls=2)), model(helper), []

    def work(q: str) -> str:
        wait_until(lambda: pin.active[0].stopped)
        with pytest.raises(RunStoppedError) as stopped:
            chat.invoke(q)
        refused.append(stopped.value)
        return q

    async def awork(q: str) -> str:
        await until(lambda: not pin.active)
        with pytest.raises(RunStoppedError) as stopped:
            await chat.ainvoke(q)
        refused.append(stopped.value)
        return q

    async def run() -> None:
        with pytest.raises(BudgetExceededError):
            await graph.ainvoke(ASK, watched_by(pin))
        await until(lambda: len(refused) == 2)

    graph = tool_graph(model(server), [working(work, awork)])
    if is_async:
        asyncio.run(run())
    else:
        with pytest.raises(BudgetExceededError):
            graph.invoke(ASK, watched_by(pin))

    assert (len(refused), helper.count()) == (2, 0)
    assert {id(stop) for stop in refused} == {id(pin.traces[-1].stop.error)}  # type: ignore[union-attr]


# --- many runs of one handler at once

TWENTY = range(20)


def crowd(request: Request) -> Reply:
    """Those who are asked to run away do; the others are done after one tool."""
    asked = str(request.messages[0]["content"])
    if asked.startswith("runaway"):
        return tool_call("search", {"q": asked})
    return tool_call("search", {"q": asked}) if request.turn == 0 else reply(f"done: {asked}")


def question(number: int) -> str:
    return f"{'runaway' if number % 3 == 0 else 'worker'} {number}"


def check_crowd(outcomes: list[Any], pin: Guard, ran: list[str]) -> None:
    for number, outcome in enumerate(outcomes):
        asked = question(number)
        if number % 3:
            assert outcome["messages"][-1].content == f"done: {asked}"
            assert ran.count(asked) == 1
            continue
        assert isinstance(outcome, BudgetExceededError)
        assert isinstance(outcome.trace, Trace)
        assert (outcome.trace.user_id, outcome.key) == (asked, outcome.trace.trace_id)
        assert {span.arguments["q"] for span in outcome.trace.spans_of("tool")} == {asked}
        assert (outcome.trace.llm_calls, outcome.trace.tool_calls, ran.count(asked)) == (4, 3, 3)
    assert len({id(outcome) for outcome in outcomes}) == 20
    assert sorted(trace.user_id or "" for trace in pin.traces) == sorted(question(number) for number in TWENTY)
    assert [trace.llm_calls for trace in pin.traces if trace.status == "ok"] == [2] * 13


@pytest.mark.parametrize("by", ["handler", *WAYS_IN])
@pytest.mark.parametrize("is_async", [False, True], ids=["threads", "asyncio"])
def test_twenty_runs_at_once_under_one_guard_do_not_mix(
    is_async: bool, by: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server, pin = serve(crowd), guarded(Budget(tool_calls=3))
    handlers = [ShearpinCallbackHandler(pin)] if by == "handler" else []
    way_in = tool_graph if handlers else functools.partial(guarded_agent, by)
    agent: Any = way_in(model(server), [tool_of(ran)], *([] if handlers else [pin]))

    def call(number: int) -> tuple[Any, Any]:
        config = {"callbacks": handlers, "metadata": {"user_id": question(number)}}
        return {"messages": [("user", question(number))]}, config

    def one(number: int) -> Any:
        try:
            return agent.invoke(*call(number))
        except RunStoppedError as stop:
            return stop

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(agent.ainvoke(*call(number)) for number in TWENTY), return_exceptions=True)

    if is_async:
        outcomes = asyncio.run(all_at_once())
    else:
        with ThreadPoolExecutor(20) as pool:
            outcomes = list(pool.map(one, TWENTY))

    check_crowd(outcomes, pin, ran)


# --- callers that give up


@pytest.mark.parametrize("stopped_before", [False, True], ids=["live", "stopped"])
@pytest.mark.parametrize("mode", ASYNC_MODES)
def test_a_caller_that_cancels_leaves_nothing_live(
    mode: str, stopped_before: bool, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, budget = serve([hang()]), WatchedBudget(usd=1)
    pin = guarded(budget)
    graph = chat_graph(model(server, max_tokens=100))

    async def cancel() -> None:
        call = asyncio.create_task(arun_mode(graph, ASK, watched_by(pin), mode))
        await until(lambda: server.in_flight)
        assert budget.held == 1
        if stopped_before:
            pin.active[0].stop("by hand")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert_nothing_is_left(pin)

    asyncio.run(cancel())

    trace = pin.traces[-1]
    assert (trace.status, budget.held) == ("stopped" if stopped_before else "cancelled", 0)
    assert trace.usage.output_tokens == 100  # it may have been served: the estimate is charged


async def test_a_caller_that_runs_out_of_patience_leaves_nothing_live(
    serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    began: list[str] = []
    budget = WatchedBudget(tool_calls=10, usd=1)
    pin = guarded(budget)

    async def forever(q: str) -> None:
        began.append(q)
        if len(began) == 5:
            patience.reschedule(asyncio.get_running_loop().time())
        await asyncio.Event().wait()

    server = serve(lambda _: tool_calls([("forever", {"q": f"{number}"}) for number in FIVE]))
    tool = StructuredTool.from_function(coroutine=forever, name="forever", description="Waits.")
    graph = tool_graph(model(server), [tool])

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as patience:
            await graph.ainvoke(ASK, watched_by(pin))

    assert_nothing_is_left(pin)
    assert (pin.traces[-1].status, pin.traces[-1].tool_calls, budget.held) == ("cancelled", 5, 0)
    assert {span.status for span in pin.traces[-1].spans_of("tool")} == {"cancelled"}


@pytest.mark.parametrize("mode", ["stream", "stream_messages", "astream", "astream_messages", "astream_events"])
def test_a_consumer_that_leaves_a_graphs_stream_leaves_nothing_live(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve(endless("search"))
    budget = WatchedBudget(tool_calls=50, usd=1)
    pin = guarded(budget)
    graph = tool_graph(model(server), [tool_of([])])
    options: dict[str, Any] = {"stream_mode": "messages"} if mode.endswith("messages") else {}

    async def leave() -> None:
        stream: Any = (
            graph.astream_events(ASK, watched_by(pin), version="v2")
            if mode == "astream_events"
            else graph.astream(ASK, watched_by(pin), **options)
        )
        await anext(stream)
        await stream.aclose()

    if mode in ASYNC_MODES:
        asyncio.run(leave())
    else:
        stream: Any = graph.stream(ASK, watched_by(pin), **options)
        next(stream)
        stream.close()
    gc.collect()  # LangGraph says nothing of a call that is cancelled while its handlers are told of its start

    assert_nothing_is_left(pin)
    assert (pin.traces[-1].status, budget.held) == ("cancelled", 0)


# --- many runs, one after the other


@pytest.mark.slow
def test_two_thousand_runs_on_one_handler_leave_little_behind(guarded: MakeGuard) -> None:
    ran: list[str] = []
    pin, tool = guarded(Budget(tool_calls=1)), tool_of(ran)
    config = watched_by(pin)

    def work(state: MessagesState) -> dict[str, Any]:
        for message in state["messages"]:
            tool.invoke({"q": str(message.content)})
        return {}

    builder = StateGraph(MessagesState)
    builder.add_node(work)
    builder.add_edge(START, "work")
    graph = builder.compile()
    made: weakref.WeakSet[RunStoppedError] = weakref.WeakSet()

    def repeat(times: int) -> int:
        for _ in range(times):
            graph.invoke({"messages": ["well"]}, config)
            try:
                graph.invoke({"messages": ["well", "too much"]}, config)
            except BudgetExceededError as stop:
                made.add(stop)
        gc.collect()
        return len(gc.get_objects())

    before = repeat(100)
    after = repeat(900)

    assert (len(ran), tracker_of(pin).entries, len(pin.traces)) == (2_000, {}, 100)
    assert after - before < 5_000
    assert sum(stop.trace is not None for stop in made) <= 51
