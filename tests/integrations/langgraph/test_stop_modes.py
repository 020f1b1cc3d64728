"""A stop reaches the caller before the body runs, in whatever way LangChain or LangGraph is called."""

import asyncio
import functools
import gc
import pickle
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import LLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langgraph.errors import GraphBubbleUp
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph

import shearpin
from shearpin import Budget, BudgetExceededError, EnforcementGapWarning, Guard, RunStoppedError
from shearpin.testing import endless, per_conversation, reply, tool_call
from shearpin_integrations.langgraph import ShearpinCallbackHandler, ShearpinMiddleware
from tests.integrations.langgraph.conftest import (
    ASK,
    ASYNC_MODES,
    MODES,
    RUNNABLE_MODES,
    MakeGuard,
    MakeModel,
    Serve,
    arun_mode,
    asking,
    chat_graph,
    run_mode,
    tool_graph,
    tool_of,
    until,
)


def watched_by(pin: Guard, **more: Any) -> dict[str, Any]:
    return {"callbacks": [ShearpinCallbackHandler(pin)], **more}


class Listener(BaseCallbackHandler):
    """A handler of somebody else's, inline as LangGraph's own are."""

    run_inline = True

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_chain_start(self, *_: Any, **__: Any) -> None:
        self.heard.append("chain")

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.heard.append("model")

    def on_llm_start(self, *_: Any, **__: Any) -> None:
        self.heard.append("model")


# --- every way to call


@pytest.mark.parametrize("mode", MODES)
def test_a_spent_budget_lets_no_request_of_a_graph_out(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("never")])

    with pytest.raises(BudgetExceededError):
        run_mode(chat_graph(model(server)), ASK, watched_by(guarded(Budget(llm_calls=0))), mode)

    assert server.count() == 0


@pytest.mark.parametrize("mode", RUNNABLE_MODES)
def test_a_spent_budget_lets_no_request_of_a_chain_out(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("never")])
    chain = ChatPromptTemplate([("user", "{q}")]) | model(server) | (lambda answer: answer.content)

    with pytest.raises(BudgetExceededError):
        run_mode(chain, {"q": "Hello?"}, watched_by(guarded(Budget(llm_calls=0))), mode)

    assert server.count() == 0


@pytest.mark.parametrize("mode", RUNNABLE_MODES)
def test_a_spent_budget_lets_no_request_of_a_bare_model_out(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("never")])

    with pytest.raises(BudgetExceededError):
        run_mode(model(server), "Hello?", watched_by(guarded(Budget(llm_calls=0))), mode)

    assert server.count() == 0


@pytest.mark.parametrize("mode", RUNNABLE_MODES)
def test_a_spent_budget_lets_no_bare_tool_run(mode: str, guarded: MakeGuard) -> None:
    ran: list[str] = []

    with pytest.raises(BudgetExceededError):
        run_mode(tool_of(ran), {"q": "pins"}, watched_by(guarded(Budget(tool_calls=0))), mode)

    assert ran == []


@pytest.mark.parametrize("mode", MODES)
def test_a_refused_tool_never_runs_its_body(mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    ran: list[str] = []
    server = serve(endless("search", {"q": "pins"}))
    graph = tool_graph(model(server), [tool_of(ran)])

    with pytest.raises(BudgetExceededError):
        run_mode(graph, ASK, watched_by(guarded(Budget(tool_calls=2))), mode)

    assert (server.served, ran) == (3, ["pins", "pins"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("by", ["handler", "middleware"])
def test_an_agent_is_stopped_before_the_call_too_many(
    by: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server, pin = serve(endless("search", {"q": "pins"})), guarded(Budget(llm_calls=2))
    middleware = [ShearpinMiddleware(pin)] if by == "middleware" else []
    agent = create_agent(model(server), [tool_of(ran)], middleware=middleware)

    with pytest.raises(BudgetExceededError):
        run_mode(agent, ASK, watched_by(pin) if by == "handler" else {}, mode)

    assert (server.served, ran) == (2, ["pins", "pins"])
    assert (pin.traces[-1].llm_calls, pin.traces[-1].tool_calls, len(pin.traces)) == (2, 2, 1)


@pytest.mark.parametrize(
    ("budget", "served"),
    [
        (Budget(steps=2), 2),
        (Budget(tokens=2_110), 2),
        (Budget(input_tokens=2_005), 2),
        (Budget(output_tokens=110), 2),
        (Budget(usd=0.0061), 2),
        (Budget(seconds=0), 0),
    ],
    ids=["steps", "tokens", "input", "output", "usd", "seconds"],
)
@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream_messages", "astream_messages"])
def test_every_unit_stops_before_the_call_too_many(  # noqa: PLR0917
    budget: Budget, served: int, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    """Each call takes 1,000 tokens in, of which less is expected, and 50 out: $0.003."""
    server = serve(endless("search", {"q": "pins"}, usage=(1_000, 50)))
    pin = guarded(budget)

    with pytest.raises(BudgetExceededError) as stopped:
        run_mode(tool_graph(model(server, max_tokens=50), [tool_of([])]), ASK, watched_by(pin), mode)

    assert [stopped.value.unit] == list(budget.limits)
    assert server.served == served


@pytest.mark.parametrize("mode", MODES)
def test_a_model_without_a_price_is_refused_before_its_first_call(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("never")])
    graph = chat_graph(model(server, model="nobody-has-a-price-for-me"))

    with pytest.raises(BudgetExceededError, match="price") as stopped:
        run_mode(graph, ASK, watched_by(guarded(Budget(usd=100))), mode)

    assert (stopped.value.estimate, server.count()) == (None, 0)


@pytest.mark.parametrize("mode", ["batch", "abatch"])
def test_each_input_of_a_batch_is_a_run_of_its_own(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, pin = serve([reply("Hello!")], repeat_last=True), guarded(Budget(llm_calls=1))
    graph, config = chat_graph(model(server)), watched_by(pin)

    answers = graph.batch([ASK] * 3, config) if mode == "batch" else asyncio.run(graph.abatch([ASK] * 3, config))

    assert [answer["messages"][-1].content for answer in answers] == ["Hello!"] * 3
    assert (server.served, [trace.status for trace in pin.traces]) == (3, ["ok"] * 3)


@pytest.mark.parametrize("mode", ["batch", "abatch"])
def test_a_batch_that_is_asked_for_exceptions_returns_the_stops(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, config = serve([reply("never")]), watched_by(guarded(Budget(llm_calls=0)))
    graph, asked = chat_graph(model(server)), {"return_exceptions": True}

    stops = (
        graph.batch([ASK] * 3, config, **asked)
        if mode == "batch"
        else asyncio.run(graph.abatch([ASK] * 3, config, **asked))
    )

    assert [type(stop) for stop in stops] == [type(stops[0])] * 3
    assert isinstance(stops[0], BudgetExceededError)
    assert (len({id(stop) for stop in stops}), server.count()) == (3, 0)


# --- what the stop and the handler are


def test_the_handler_is_one_that_langchain_cannot_ignore() -> None:
    assert not issubclass(ShearpinCallbackHandler, AsyncCallbackHandler)
    assert ShearpinCallbackHandler.raise_error
    assert ShearpinCallbackHandler.run_inline


def test_a_stop_is_an_exception_that_every_layer_takes_for_one(
    serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    with pytest.raises(BudgetExceededError) as stopped:
        chat_graph(model(serve([]))).invoke(ASK, watched_by(guarded(Budget(llm_calls=0))))

    stop = stopped.value
    assert isinstance(stop, RunStoppedError)
    assert isinstance(stop, GraphBubbleUp)
    assert isinstance(stop, RuntimeError)
    assert not isinstance(stop, NotImplementedError)
    assert stop  # `if error:` is how some layers ask whether there is one


def test_a_stop_crosses_processes_with_its_facts(serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    with pytest.raises(BudgetExceededError) as stopped:
        chat_graph(model(serve([]))).invoke(ASK, watched_by(guarded(Budget(llm_calls=0))))

    copy = pickle.loads(pickle.dumps(stopped.value))

    assert type(copy) is BudgetExceededError
    assert (str(copy), copy.as_dict()) == (str(stopped.value), stopped.value.as_dict())
    assert (copy.trace, copy.partial) == (None, None)


# --- after the stop nothing starts, of whatever kind


class Shelf(BaseRetriever):
    looked: list[str]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Any]:
        self.looked.append(query)
        return []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["model", "tool", "retriever", "chain"])
def test_nothing_starts_in_a_run_that_an_operator_stopped(
    kind: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server, pin = serve([reply("never")]), guarded()
    shelf = Shelf(looked=ran)
    started: dict[str, Any] = {
        "model": model(server),
        "tool": tool_of(ran),
        "retriever": shelf,
        "chain": ChatPromptTemplate([("user", "{q}")]) | (lambda _: ran.append("chain")),
    }

    def halt(_: MessagesState) -> dict[str, Any]:
        pin.active[0].stop("by hand")
        return {}

    def go_on(_: MessagesState) -> dict[str, Any]:
        started[kind].invoke({"q": "pins"} if kind in ("tool", "chain") else "pins")
        return {}

    for nodes in ([halt, go_on], [lambda state: halt(state) or go_on(state)]):  # in the next node, or in the same
        builder = StateGraph(MessagesState)
        builder.add_sequence([(f"node{number}", node) for number, node in enumerate(nodes)])
        builder.add_edge(START, "node0")
        with pytest.raises(RunStoppedError, match="by hand"):
            run_mode(builder.compile(), ASK, watched_by(pin), mode)

    assert (ran, server.count()) == ([], 0)


# --- streams


STREAMS = [
    *((what, mode) for what in ("model", "chain") for mode in ("stream", "astream", "astream_events")),
    *(("graph", mode) for mode in ("stream_messages", "astream_messages", "astream_events")),
]


@pytest.mark.parametrize(("what", "mode"), STREAMS)
def test_a_stream_is_cut_when_its_run_is_stopped(
    what: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("word " * 200, chunk_delay=0.01)])
    pin = guarded()
    chat = model(server)
    runnable: Any = {"model": chat, "chain": chat | StrOutputParser(), "graph": chat_graph(chat)}[what]
    pieces: list[Any] = []

    def take(piece: Any) -> None:
        pieces.append(piece)
        if pin.active and "word" in str(piece):
            pin.active[0].stop("enough")

    given, config = ASK if what == "graph" else "Hello?", watched_by(pin)
    options: dict[str, Any] = {"stream_mode": "messages"} if mode.endswith("_messages") else {}

    async def consume() -> None:
        stream = runnable.astream
        if mode == "astream_events":
            stream = functools.partial(runnable.astream_events, version="v2")
        with pytest.raises(RunStoppedError, match="enough"):
            async for piece in stream(given, config, **options):
                take(piece)
        gc.collect()  # older clients close their connection no sooner
        await until(lambda: not server.in_flight)

    if mode in ASYNC_MODES:
        asyncio.run(consume())
    else:
        with pytest.raises(RunStoppedError, match="enough"):
            for piece in runnable.stream(given, config, **options):
                take(piece)

    assert server.wait_idle(5)
    assert (server.disconnects, pin.traces[-1].status) == (1, "stopped")
    assert len(pieces) < 50
    cut = pin.traces[-1].spans_of("llm")[0]
    assert cut.usage is not None
    assert 0 < cut.usage.output_tokens < 100


# --- attach


@pytest.mark.parametrize("mode", MODES)
def test_an_attached_guard_holds_though_the_call_brings_callbacks_of_its_own(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server, listener = serve(endless("search", {"q": "pins"})), Listener()
    graph = shearpin.attach(tool_graph(model(server), [tool_of(ran)]), guarded(Budget(tool_calls=2)))

    with pytest.raises(BudgetExceededError):
        run_mode(graph, ASK, {"callbacks": [listener]}, mode)

    assert (server.served, ran, listener.heard.count("model")) == (3, ["pins"] * 2, 3)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "astream_events"])  # which brings its own
def test_a_guard_bound_with_config_holds_where_the_call_brings_no_callbacks(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("never")])
    graph = chat_graph(model(server)).with_config(watched_by(guarded(Budget(llm_calls=0))))

    with pytest.raises(BudgetExceededError):
        run_mode(graph, ASK, None, mode)

    assert server.count() == 0


@pytest.mark.parametrize("mode", RUNNABLE_MODES)
@pytest.mark.parametrize("what", ["model", "chain", "tool"])
def test_what_is_no_graph_can_be_attached_to_as_well(what: str, mode: str, serve: Serve, model: MakeModel) -> None:
    ran: list[str] = []
    server = serve([reply("never")])
    runnable = {
        "model": model(server),
        "chain": ChatPromptTemplate([("user", "{q}")]) | model(server),
        "tool": tool_of(ran),
    }[what]

    with pytest.raises(BudgetExceededError):
        run_mode(
            shearpin.attach(runnable, Budget(llm_calls=0, tool_calls=0)),
            "pins" if what == "model" else {"q": "pins"},
            None,
            mode,
        )

    assert (server.count(), ran) == (0, [])


def test_attach_takes_rules_and_says_who_the_run_belongs_to(serve: Serve, model: MakeModel) -> None:
    graph = shearpin.attach(
        chat_graph(model(serve([]))), Budget(llm_calls=0), service="support", user_id="ada", env="prod"
    )

    with pytest.raises(BudgetExceededError) as stopped:
        graph.invoke(ASK)

    trace = stopped.value.trace
    assert trace is not None
    assert (trace.name, trace.user_id, trace.env) == ("support", "ada", "prod")


@pytest.mark.parametrize("mode", MODES)
def test_attaching_twice_or_with_the_handler_as_well_counts_once(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server = serve(per_conversation([tool_call("search"), reply("done")]))
    pin = guarded(Budget(llm_calls=2, tool_calls=1))
    graph = tool_graph(model(server), [tool_of(ran)])

    run_mode(shearpin.attach(shearpin.attach(graph, pin), pin), ASK, watched_by(pin), mode)

    assert (len(pin.traces), pin.traces[0].status) == (1, "ok")
    assert (pin.traces[0].llm_calls, pin.traces[0].tool_calls, server.served, len(ran)) == (2, 1, 2, 1)


# --- graphs in graphs, and the functional API


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_that_is_a_node_counts_on_in_the_same_run(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, pin = serve([reply("Hello!")], repeat_last=True), guarded(Budget(llm_calls=2))
    graph = chat_graph(model(server))
    for _ in range(3):  # asks the model itself, then has the next one ask
        builder = StateGraph(MessagesState)
        builder.add_node("ask", asking(model(server)))
        builder.add_node("inner", graph)
        builder.add_edge(START, "ask")
        builder.add_edge("ask", "inner")
        graph = builder.compile()

    with pytest.raises(BudgetExceededError):
        run_mode(graph, ASK, watched_by(pin), mode)

    assert (server.served, len(pin.traces), pin.traces[0].llm_calls) == (2, 1, 2)


FUNCTIONAL_MODES = [mode for mode in MODES if "batch" not in mode]


def workflow(chat: Any, times: int, *, is_async: bool) -> Any:
    """A functional-API workflow that asks the model in tasks, one after the other."""

    @task
    def ask(number: int) -> str:
        return str(chat.invoke(f"Hello {number}?").content)

    @task
    async def aask(number: int) -> str:
        return str((await chat.ainvoke(f"Hello {number}?")).content)

    @entrypoint()
    def talk(_: object) -> list[str]:
        return [ask(number).result() for number in range(times)]

    @entrypoint()
    async def atalk(_: object) -> list[str]:
        return [await aask(number) for number in range(times)]

    return atalk if is_async else talk


@pytest.mark.parametrize("mode", FUNCTIONAL_MODES)
def test_tasks_of_the_functional_api_are_counted_and_stopped(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, pin = serve([reply("Hello!")], repeat_last=True), guarded(Budget(llm_calls=2))
    talk = workflow(model(server), 5, is_async=mode in ASYNC_MODES)

    with pytest.raises(BudgetExceededError):
        run_mode(talk, "go", watched_by(pin), mode)

    assert (server.served, len(pin.traces), pin.traces[0].llm_calls) == (2, 1, 2)


@pytest.mark.parametrize("mode", FUNCTIONAL_MODES)
def test_a_functional_workflow_within_its_budget_is_let_be(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, pin = serve([reply("Hello!")], repeat_last=True), guarded(Budget(llm_calls=2))
    talk = workflow(model(server), 2, is_async=mode in ASYNC_MODES)

    run_mode(talk, "go", watched_by(pin), mode)

    assert (server.served, pin.traces[-1].status) == (2, "ok")


# --- what LangChain would leave out


class Parrot(LLM):
    """A model of the older, prompt-in text-out kind."""

    said: list[str]

    @property
    def _llm_type(self) -> str:
        return "parrot"

    def _call(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> str:
        self.said.append(prompt)
        return prompt


@pytest.mark.parametrize("mode", RUNNABLE_MODES)
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_foreign_inline_handler_does_not_hide_a_legacy_model(first: str, mode: str, guarded: MakeGuard) -> None:
    """LangChain's async `on_llm_start` skips handlers that are not inline as soon as one is."""
    said: list[str] = []
    handlers = [ShearpinCallbackHandler(guarded(Budget(llm_calls=0))), Listener()]
    config = {"callbacks": handlers if first == "ours" else handlers[::-1]}

    with pytest.raises(BudgetExceededError):
        run_mode(Parrot(said=said), "pins", config, mode)

    assert said == []


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "batch", "abatch"])
def test_handlers_that_calls_below_do_not_inherit_are_warned_about(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, pin = serve([reply("Hello!")]), guarded(Budget(llm_calls=0))
    config = {"callbacks": CallbackManager([ShearpinCallbackHandler(pin)])}

    with pytest.warns(EnforcementGapWarning, match="nothing was enforced"):
        run_mode(chat_graph(model(server)), ASK, config, mode)

    assert (server.served, len(pin.traces[-1].gaps)) == (1, 1)


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
def test_that_warning_made_an_error_leaves_nothing_open(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    pin = guarded(Budget(llm_calls=0))
    config = {"callbacks": CallbackManager([ShearpinCallbackHandler(pin)])}

    with pytest.raises(EnforcementGapWarning):  # these tests run with warnings as errors
        run_mode(chat_graph(model(serve([reply("Hello!")]))), ASK, config, mode)

    assert pin.active == []


@pytest.mark.parametrize("mode", MODES)
def test_handlers_that_calls_below_inherit_enforce(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("never")])
    handler = ShearpinCallbackHandler(guarded(Budget(llm_calls=0)))
    config = {"callbacks": CallbackManager([handler], inheritable_handlers=[handler])}

    with pytest.raises(BudgetExceededError):
        run_mode(chat_graph(model(server)), ASK, config, mode)

    assert server.count() == 0


async def test_one_event_loop_serves_every_mode_one_after_the_other(
    serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("never")])
    graph, config = chat_graph(model(server)), watched_by(guarded(Budget(llm_calls=0)))

    for mode in ASYNC_MODES:
        with pytest.raises(BudgetExceededError):
            await arun_mode(graph, ASK, config, mode)

    assert server.count() == 0
