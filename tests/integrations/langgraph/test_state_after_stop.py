"""What a stop leaves: the accounts are right, nothing is held, nothing is counted twice, and work can go on."""

import contextlib
import functools
import gc
import operator
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph

from shearpin import Budget, BudgetExceededError, Guard, RunStoppedError
from shearpin.testing import Reply, Request, endless, per_conversation, reply, tool_call, tool_calls
from shearpin_integrations.langgraph import (
    ShearpinCallbackHandler,
    ShearpinMiddleware,
    guarded_node,
    hook_nodes,
)
from tests.integrations.langgraph.conftest import (
    ASK,
    ASYNC_MODES,
    FOUR_MODES,
    MODES,
    RUNNABLE_MODES,
    WAYS_IN,
    MakeGuard,
    MakeModel,
    Serve,
    WatchedBudget,
    asking,
    assert_nothing_is_left,
    chat_graph,
    circle,
    guarded_agent,
    run_mode,
    tool_graph,
    tool_of,
    until,
)


def watched_by(*pins: Guard, **more: Any) -> dict[str, Any]:
    return {"callbacks": [ShearpinCallbackHandler(pin) for pin in pins], **more}


# --- the error and what it carries


@pytest.mark.parametrize("mode", MODES)
def test_the_stop_carries_its_trace_and_the_last_state(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    pin = guarded(Budget(tool_calls=1))
    graph = tool_graph(model(serve(endless("search", {"q": "pins"}))), [tool_of([])])

    with pytest.raises(BudgetExceededError) as stopped:
        run_mode(graph, ASK, watched_by(pin), mode)

    stop = stopped.value
    assert stop.trace is pin.traces[-1]
    assert (stop.trace.status, stop.trace.stop.error, stop.trace.stop.rule) == ("stopped", stop, "Budget")  # type: ignore[union-attr]
    assert stop.trace.stop.span_id == stop.trace.decisions[-1].span_id  # type: ignore[union-attr]
    assert (stop.trace.llm_calls, stop.trace.tool_calls) == (2, 1)
    assert [message.type for message in stop.partial["messages"]] == ["human", "ai", "tool", "ai"]
    assert (stop.unit, stop.limit, stop.spent) == ("tool_calls", 1, 1)  # type: ignore[attr-defined]


def test_the_guard_tells_of_the_stop_of_its_last_run_as_long_as_it_is_the_last(
    serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    pin = guarded(Budget(llm_calls=1))
    chat = model(serve([reply("Hello!")], repeat_last=True))
    once, twice = chat_graph(chat), StateGraph(MessagesState)
    twice.add_sequence([("first", asking(chat)), ("second", asking(chat))])
    twice.add_edge(START, "first")

    pin.raise_if_stopped()
    with pytest.raises(BudgetExceededError) as stopped:
        twice.compile().invoke(ASK, watched_by(pin))
    with pytest.raises(BudgetExceededError) as told:
        pin.raise_if_stopped()
    once.invoke(ASK, watched_by(pin))
    pin.raise_if_stopped()

    assert told.value is stopped.value


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_a_handler_goes_on_to_serve_after_a_stop(mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    """Each outermost call is a run of its own, counted from zero."""
    pin = guarded(Budget(tool_calls=1))
    server = serve(crowd)
    graph, config = tool_graph(model(server), [tool_of([])]), watched_by(pin)
    stops: list[RunStoppedError] = []

    for asked in ("run away", "be good", "run away", "be good"):
        try:
            run_mode(graph, {"messages": [("user", asked)]}, config, mode)
        except RunStoppedError as stop:
            stops.append(stop)

    assert [trace.status for trace in pin.traces] == ["stopped", "ok", "stopped", "ok"]
    assert [trace.llm_calls for trace in pin.traces] == [2, 2, 2, 2]
    assert len({id(stop) for stop in stops}) == 2


def crowd(request: Request) -> Reply:
    runs_away = request.messages[0]["content"] == "run away"
    return tool_call("search") if runs_away or request.turn == 0 else reply("done")


# --- starts that are never ended


class Saboteur(BaseCallbackHandler):
    """A handler of somebody else's that fails, after ours has let the call through."""

    raise_error = True
    run_inline = True

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("the log server is gone")


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_the_prompt_before_the_refused_one_holds_nothing(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    """`generate` starts all its prompts before it sends any: the first one then has neither an end nor an error."""
    server, budget = serve([reply("never")]), WatchedBudget(llm_calls=1, usd=1)
    pin, chat = guarded(budget), model(server)

    async def aask(_: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        await chat.agenerate([[HumanMessage("one")], [HumanMessage("two")]], callbacks=config["callbacks"])
        return {}

    def ask(_: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        chat.generate([[HumanMessage("one")], [HumanMessage("two")]], callbacks=config["callbacks"])
        return {}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", aask if mode in ASYNC_MODES else ask)
    builder.add_edge(START, "ask")

    with pytest.raises(BudgetExceededError):
        run_mode(builder.compile(), ASK, watched_by(pin), mode)

    assert (server.count(), budget.held) == (0, 0)
    assert_nothing_is_left(pin)


@pytest.mark.parametrize(
    ("what", "mode"), [*(("graph", mode) for mode in MODES), *(("model", mode) for mode in RUNNABLE_MODES)]
)
def test_a_call_that_another_handler_broke_off_holds_nothing(
    what: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, budget = serve([reply("never")]), WatchedBudget(usd=1)
    pin, chat = guarded(budget), model(server)
    config = {"callbacks": [ShearpinCallbackHandler(pin), Saboteur()]}

    with pytest.raises(ConnectionError, match="log server"):
        run_mode(chat_graph(chat) if what == "graph" else chat, ASK if what == "graph" else "Hello?", config, mode)
    gc.collect()  # LangChain says nothing of a model that was called by itself: it is only gone

    assert (server.count(), budget.held) == (0, 0)
    assert_nothing_is_left(pin)


# --- what calls cost


@pytest.fixture
def llm_cache() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@pytest.mark.usefixtures("llm_cache")
@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "batch", "abatch", "stream", "astream"])
def test_an_answer_from_the_global_cache_costs_nothing(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    check_cached(serve([reply("Hello!", usage=(1_000, 100))]), model, guarded, mode)


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "batch", "abatch", "stream", "astream"])
def test_an_answer_from_a_models_own_cache_costs_nothing(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    check_cached(serve([reply("Hello!", usage=(1_000, 100))]), model, guarded, mode, cache=InMemoryCache())


def check_cached(server: Any, model: MakeModel, guarded: MakeGuard, mode: str, **options: Any) -> None:
    """Three times the same question in one run, of which the first is paid for."""
    pin, chat = guarded(Budget(usd=0.02)), model(server, **options)

    def ask(state: MessagesState) -> dict[str, Any]:
        for _ in range(3):
            chat.invoke("Hello?")
        return {}

    async def aask(state: MessagesState) -> dict[str, Any]:
        for _ in range(3):
            await chat.ainvoke("Hello?")
        return {}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", aask if mode in ASYNC_MODES else ask)
    builder.add_edge(START, "ask")
    run_mode(builder.compile(), ASK, watched_by(pin), mode)

    trace = pin.traces[-1]
    assert (server.served, trace.llm_calls) == (1, 3)
    assert [span.usage.cost_usd for span in trace.spans_of("llm")] == pytest.approx([0.0035, 0, 0])  # type: ignore[union-attr]
    assert trace.usage.cost_usd == pytest.approx(0.0035)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("told", [None, (0, 0)], ids=["no usage", "usage of zero"])
def test_a_call_that_tells_no_usage_is_charged_what_was_reserved(
    told: Any, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, budget = serve([reply("Hello!", usage=told)], repeat_last=True), WatchedBudget(output_tokens=250)
    pin, chat = guarded(budget), model(server, max_tokens=100)
    builder = StateGraph(MessagesState)
    builder.add_sequence([(name, asking(chat)) for name in ("first", "second", "third")])
    builder.add_edge(START, "first")

    with pytest.raises(BudgetExceededError) as stopped:
        run_mode(builder.compile(), ASK, watched_by(pin), mode)

    assert (stopped.value.spent, stopped.value.estimate) == (200, 100)
    assert (server.served, budget.held, pin.traces[-1].usage.output_tokens) == (2, 0, 200)


def test_what_a_budget_expects_of_a_call_is_what_it_is_charged_when_no_usage_is_told(
    serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("Hello!", usage=None)], repeat_last=True)
    pin, chat = guarded(Budget(output_tokens=250, expected_output_tokens=100)), model(server)
    builder = StateGraph(MessagesState)
    builder.add_sequence([(name, asking(chat)) for name in ("first", "second", "third")])
    builder.add_edge(START, "first")

    with pytest.raises(BudgetExceededError) as stopped:
        builder.compile().invoke(ASK, watched_by(pin))

    assert (stopped.value.spent, stopped.value.estimate, server.served) == (200, 100, 2)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("what", ["model", "graph"])
async def test_a_stream_that_its_consumer_closed_is_charged_what_came(
    what: str, is_async: bool, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("word " * 100, chunk_delay=0.003, usage=(1_000, 100))])
    budget = WatchedBudget(usd=1)
    pin, chat = guarded(budget), model(server)
    streamed: Any = chat_graph(chat) if what == "graph" else chat
    given = ASK if what == "graph" else "Hello?"
    options: dict[str, Any] = {"stream_mode": "messages"} if what == "graph" else {}

    if is_async:
        pieces = streamed.astream(given, watched_by(pin), **options)
        while "word" not in str(await anext(pieces)):
            pass
        await pieces.aclose()
        gc.collect()  # older clients close their connection no sooner
        await until(lambda: not server.in_flight)
    else:
        stream = streamed.stream(given, watched_by(pin), **options)
        while "word" not in str(next(stream)):
            pass
        stream.close()

    assert server.wait_idle(5)
    assert_nothing_is_left(pin)
    usage = pin.traces[-1].usage
    assert budget.held == 0
    assert usage.input_tokens > 0
    assert 0 < usage.output_tokens <= 512
    assert usage.cost_usd


@pytest.mark.parametrize("mode", ["stream_messages", "astream_messages", "astream_events"])
def test_a_stream_that_breaks_off_is_charged_what_came(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, budget = serve([reply("word " * 200, cut_after=100, chunk_delay=0.001)]), WatchedBudget(usd=1)
    pin = guarded(budget)

    with pytest.raises(Exception, match=r"closed|incomplete|[Cc]onnection"):
        run_mode(chat_graph(model(server)), ASK, watched_by(pin), mode)

    usage = pin.traces[-1].usage
    assert (pin.traces[-1].status, budget.held) == ("error", 0)
    assert usage.input_tokens > 0
    assert 50 < usage.output_tokens < 400


# --- one call is one call, however often it is seen

TWICE = {"llm_calls": 2, "tool_calls": 1}


def with_nodes_guarded_twice(chat: Any, tools: list[Any], pin: Guard) -> CompiledStateGraph:
    return circle(chat, tools, lambda node: guarded_node(guarded_node(node, pin), pin)).compile()


def with_a_guarded_agent(chat: Any, tools: list[Any], pin: Guard) -> CompiledStateGraph:
    builder = StateGraph(MessagesState)
    builder.add_node("agent", guarded_node(guarded_agent("middleware", chat, tools, pin), pin))
    builder.add_edge(START, "agent")
    return builder.compile()


ALL_WAYS_IN: dict[str, Callable[[Any, Any, Guard], Any]] = {
    "plain": lambda chat, tools, _: tool_graph(chat, tools),
    **{way: functools.partial(guarded_agent, way) for way in WAYS_IN},
    "nodes guarded twice": with_nodes_guarded_twice,
    "middleware in a guarded node": with_a_guarded_agent,
}

HANDLERS: dict[str, Callable[[Guard], list[ShearpinCallbackHandler]]] = {
    "no handler": lambda _: [],
    "a handler": lambda pin: [ShearpinCallbackHandler(pin)],
    "the same handler twice": lambda pin: [ShearpinCallbackHandler(pin)] * 2,
    "two handlers": lambda pin: [ShearpinCallbackHandler(pin), ShearpinCallbackHandler(pin)],
}


WATCHED = [
    (way, handlers) for way in ALL_WAYS_IN for handlers in HANDLERS if (way, handlers) != ("plain", "no handler")
]


@pytest.mark.parametrize("mode", ["invoke", "astream_events"])
@pytest.mark.parametrize(("way", "handlers"), [*WATCHED, *((way, "and one in the model") for way in ALL_WAYS_IN)])
def test_a_guard_that_is_reached_in_several_ways_counts_once(  # noqa: PLR0917
    way: str, handlers: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server, pin = serve(per_conversation([tool_call("search"), reply("done")])), guarded(Budget(**TWICE))  # type: ignore[arg-type]
    chat = model(server)
    if handlers == "and one in the model":
        chat, handlers = model(server, callbacks=[ShearpinCallbackHandler(pin)]), "a handler"

    run_mode(ALL_WAYS_IN[way](chat, [tool_of(ran)], pin), ASK, {"callbacks": HANDLERS[handlers](pin)}, mode)

    assert (server.served, len(ran)) == (2, 1)
    assert [(trace.status, trace.llm_calls, trace.tool_calls) for trace in pin.traces] == [("ok", 2, 1)]
    assert len(pin.traces[0].spans_of("llm")) == 2
    assert len(pin.traces[0].spans_of("tool")) == 1


@pytest.mark.parametrize("mode", ["ainvoke", "stream_messages"])
@pytest.mark.parametrize(("way", "handlers"), WATCHED)
def test_a_guard_that_is_reached_in_several_ways_stops_at_its_limit(  # noqa: PLR0917
    way: str, handlers: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server, pin = serve(endless("search")), guarded(Budget(tool_calls=2))
    agent = ALL_WAYS_IN[way](model(server), [tool_of(ran)], pin)

    with pytest.raises(BudgetExceededError):
        run_mode(agent, ASK, {"callbacks": HANDLERS[handlers](pin)}, mode)

    assert (server.served, len(ran)) == (3, 2)
    assert [(trace.status, trace.llm_calls, trace.tool_calls) for trace in pin.traces] == [("stopped", 3, 2)]


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_two_guards_count_separately_and_the_tighter_one_stops(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server, loose, tight = serve(endless("search")), guarded(Budget(tool_calls=5)), guarded(Budget(llm_calls=2))

    with pytest.raises(BudgetExceededError) as stopped:
        run_mode(tool_graph(model(server), [tool_of(ran)]), ASK, watched_by(loose, tight), mode)

    assert stopped.value.unit == "llm_calls"
    assert (server.served, len(ran), tight.traces[-1].status) == (2, 2, "stopped")
    assert (tight.traces[-1].tool_calls, loose.traces[-1].tool_calls) == (2, 2)
    assert loose.traces[-1].stop is None
    assert loose.traces[-1].usage.total_tokens == sum(server.usage[:2])  # nothing for the call that was refused


@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("first", ["the tight one", "the loose one"])
@pytest.mark.parametrize("what", ["chain", "graph", "guarded nodes"])
def test_a_stop_that_was_caught_leaves_no_run_of_another_guard_open(  # noqa: PLR0917
    what: str, first: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    """LangChain tells nobody else of the end at which the stop is raised once more."""
    chat, tight, loose = model(serve([reply("Hello!")], repeat_last=True)), guarded(Budget(llm_calls=1)), guarded()

    def careful(state: MessagesState) -> dict[str, Any]:
        with contextlib.suppress(Exception):
            chat.invoke(state["messages"])
            chat.invoke(state["messages"])
        return {}

    async def acareful(state: MessagesState) -> dict[str, Any]:
        with contextlib.suppress(Exception):
            await chat.ainvoke(state["messages"])
            await chat.ainvoke(state["messages"])
        return {}

    pins = [tight, loose] if first == "the tight one" else [loose, tight]
    node: Any = RunnableLambda(careful, acareful)
    if what == "guarded nodes":
        node = guarded_node(guarded_node(node, pins[1]), pins[0])
    builder = StateGraph(MessagesState)
    builder.add_node("careful", node)
    builder.add_edge(START, "careful")

    with pytest.raises(BudgetExceededError):
        run_mode(
            node if what == "chain" else builder.compile(),
            {"messages": ["Hello?"]},
            {} if what == "guarded nodes" else watched_by(*pins),
            mode,
        )
    gc.collect()

    assert_nothing_is_left(loose)
    assert_nothing_is_left(tight)
    assert (tight.traces[-1].status, len(loose.traces)) == ("stopped", 1)


@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("what", ["model", "tool"])
def test_a_refused_call_by_itself_leaves_no_run_of_another_guard_open(
    what: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server, loose, tight = serve([reply("never")]), guarded(), guarded(Budget(llm_calls=0, tool_calls=0))
    called: Any = model(server) if what == "model" else tool_of(ran)

    with pytest.raises(BudgetExceededError):
        run_mode(called, "pins" if what == "model" else {"q": "pins"}, watched_by(loose, tight), mode)
    gc.collect()

    assert_nothing_is_left(loose)
    assert (server.count(), ran) == (0, [])


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream_messages", "astream_events"])
@pytest.mark.parametrize("way", ["plain", *WAYS_IN])
def test_an_agent_called_in_a_tool_is_counted_and_stopped(
    way: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    """The outer agent asks once for a tool, in which an agent of its own never comes to an end."""
    ran: list[str] = []
    outer, inner = serve([tool_call("delegate"), reply("done")]), serve(endless("search"))
    pin = guarded(Budget(llm_calls=4))
    helper = tool_graph(model(inner), [tool_of(ran)])
    delegate = tool_of([], "delegate", lambda _: str(helper.invoke(ASK)))
    config = watched_by(pin) if way == "plain" else {}

    with pytest.raises(BudgetExceededError):
        run_mode(ALL_WAYS_IN[way](model(outer), [delegate], pin), ASK, config, mode)

    assert (outer.served, inner.served, len(ran)) == (1, 3, 3)
    assert (len(pin.traces), pin.traces[0].llm_calls, pin.traces[0].tool_calls) == (1, 4, 4)


# --- going on


def remembering(way: str, chat: Any, tools: list[Any], pin: Guard, saver: InMemorySaver) -> Any:
    if way == "middleware":
        return create_agent(chat, tools, middleware=[ShearpinMiddleware(pin)], checkpointer=saver)
    if way == "create_agent":
        return create_agent(chat, tools, checkpointer=saver)
    builder = circle(chat, tools, lambda node: guarded_node(node, pin) if way == "guarded nodes" else node)
    return (hook_nodes(builder, pin) if way == "hooked nodes" else builder).compile(checkpointer=saver)


MENDING_WAYS = ["handler", "create_agent", "middleware", "guarded nodes", "hooked nodes"]


def on_thread(pin: Guard, way: str) -> dict[str, Any]:
    callbacks = [ShearpinCallbackHandler(pin)] if way in ("handler", "create_agent") else []
    return {"callbacks": callbacks, "configurable": {"thread_id": "t1"}}


@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("way", MENDING_WAYS)
def test_a_new_message_on_the_thread_of_a_stopped_run_is_answered(
    way: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    """The stop left tool calls without answers in the checkpoint; a provider refuses such a conversation."""

    def script(request: Request) -> Reply:
        asked = [message["content"] for message in request.messages if message["role"] == "user"]
        return reply("Here I am.") if asked[-1] == "Still there?" else tool_calls([("search", {}), ("search", {})])

    ran: list[str] = []
    server, pin = serve(script), guarded(Budget(tool_calls=2))
    agent = remembering(way, model(server), [tool_of(ran)], pin, InMemorySaver())

    with pytest.raises(BudgetExceededError):
        run_mode(agent, ASK, on_thread(pin, way), mode)
    run_mode(agent, {"messages": [("user", "Still there?")]}, on_thread(pin, way), mode)

    assert (server.count(status=400), server.served, len(ran)) == (0, 3, 2)
    assert agent.get_state(on_thread(pin, way)).values["messages"][-1].content == "Here I am."
    answered = {m["tool_call_id"] for m in server.requests[-1].messages if m["role"] == "tool"}
    asked_for = {c["id"] for m in server.requests[-1].messages for c in m.get("tool_calls") or ()}
    assert answered == asked_for


@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("way", MENDING_WAYS)
def test_with_a_higher_limit_a_stopped_run_goes_on_where_it_was(
    way: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server = serve(per_conversation([tool_call("search", {"q": f"{n}"}) for n in range(3)] + [reply("done")]))
    tight, wide, saver = guarded(Budget(tool_calls=1)), guarded(Budget(tool_calls=10)), InMemorySaver()

    with pytest.raises(BudgetExceededError):
        run_mode(remembering(way, model(server), [tool_of(ran)], tight, saver), ASK, on_thread(tight, way), mode)
    assert (server.served, ran) == (2, ["0"])
    agent = remembering(way, model(server), [tool_of(ran)], wide, saver)
    run_mode(agent, None, on_thread(wide, way), mode)

    assert (server.served, ran, server.count(status=400)) == (4, ["0", "1", "2"], 0)
    assert agent.get_state(on_thread(wide, way)).values["messages"][-1].content == "done"
    assert (wide.traces[-1].llm_calls, wide.traces[-1].tool_calls) == (2, 2)


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_a_model_call_that_was_refused_is_made_when_the_run_goes_on(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server = serve(per_conversation([tool_call("search"), reply("done")]))
    tight, wide, saver = guarded(Budget(llm_calls=1)), guarded(Budget(llm_calls=10)), InMemorySaver()
    agent = remembering("handler", model(server), [tool_of(ran)], tight, saver)

    with pytest.raises(BudgetExceededError):
        run_mode(agent, ASK, on_thread(tight, "handler"), mode)
    run_mode(agent, None, on_thread(wide, "handler"), mode)

    assert (server.served, len(ran)) == (2, 1)
    assert agent.get_state(on_thread(wide, "handler")).values["messages"][-1].content == "done"


class Counts(TypedDict):
    done: Annotated[list[str], operator.add]


def test_what_finished_beside_the_stop_is_not_lost(serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    """Of three parallel nodes one is refused; when the run goes on, only that one runs again."""
    server, saver = serve([reply("Hello!")], repeat_last=True), InMemorySaver()
    tight, wide, entered = guarded(Budget(llm_calls=0)), guarded(Budget(llm_calls=1)), []
    chat = model(server)

    def working(name: str) -> Callable[[Counts], dict[str, Any]]:
        def work(_: Counts) -> dict[str, Any]:
            entered.append(name)
            return {"done": [name if name != "ask" else str(chat.invoke("Hello?").content)]}

        return work

    builder = StateGraph(Counts)
    for name in ("left", "ask", "right"):
        builder.add_node(name, working(name))
        builder.add_edge(START, name)
    graph = builder.compile(checkpointer=saver)

    with pytest.raises(BudgetExceededError):
        graph.invoke({"done": []}, on_thread(tight, "handler"))
    result = graph.invoke(None, on_thread(wide, "handler"))

    assert sorted(result["done"]) == ["Hello!", "left", "right"]
    assert (entered.count("left"), entered.count("ask"), entered.count("right")) == (1, 2, 1)
    assert server.served == 1


def test_a_stopped_conversation_is_stored_as_it_was(serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    """What was mended for the provider is not written into the user's checkpoint before the model has answered."""
    pin, saver = guarded(Budget(tool_calls=0)), InMemorySaver()
    agent = remembering("handler", model(serve(endless("search"))), [tool_of([])], pin, saver)

    with pytest.raises(BudgetExceededError):
        agent.invoke(ASK, on_thread(pin, "handler"))

    state = agent.get_state(on_thread(pin, "handler"))
    assert [type(message) for message in state.values["messages"]] == [HumanMessage, AIMessage]
    assert state.next == ("tools",)
