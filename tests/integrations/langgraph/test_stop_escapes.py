"""Whatever catches exceptions, retries or answers in place of a failed call: the stop gets out, nothing runs twice."""

import inspect
from collections.abc import Callable
from typing import Any

import openai
import pytest
from langchain.agents import create_agent, middleware
from langchain.agents.middleware import wrap_model_call, wrap_tool_call
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.errors import GraphRecursionError
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import RetryPolicy

import shearpin
from shearpin import Budget, BudgetExceededError, Guard, RunStoppedError
from shearpin.testing import endless, error, reply
from shearpin_integrations.langgraph import ShearpinCallbackHandler, ShearpinMiddleware
from tests.integrations.langgraph.conftest import (
    ASK,
    FOUR_MODES,
    MODES,
    TWO_MODES,
    MakeGuard,
    MakeModel,
    Serve,
    asking,
    chat_graph,
    guarded_agent,
    run_mode,
    tool_graph,
    tool_of,
)

BATCH_MODES = ("batch", "abatch")

needs_error_handler = pytest.mark.skipif(
    "error_handler" not in inspect.signature(StateGraph.add_node).parameters,
    reason="this LangGraph has no error handlers of nodes",
)


def watched_by(pin: Guard, **more: Any) -> dict[str, Any]:
    return {"callbacks": [ShearpinCallbackHandler(pin)], **more}


# --- LangGraph's ToolNode


def pass_on(request: Any, execute: Callable[[Any], Any]) -> Any:
    return execute(request)


async def apass_on(request: Any, execute: Callable[[Any], Any]) -> Any:
    return await execute(request)


WRAPPED = {"wrap_tool_call": pass_on, "awrap_tool_call": apass_on}


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("wrapped", [{}, WRAPPED], ids=["plain", "wrapped"])
@pytest.mark.parametrize(
    "handling",
    [
        {},
        {"handle_tool_errors": True},
        {"handle_tool_errors": False},
        {"handle_tool_errors": "Try again."},
        {"handle_tool_errors": (Exception,)},
        {"handle_tool_errors": RuntimeError},
        {"handle_tool_errors": lambda problem: f"Failed: {type(problem).__name__}"},
    ],
    ids=["default", "True", "False", "str", "tuple", "class", "function"],
)
def test_a_stop_passes_through_every_tool_error_handler(  # noqa: PLR0917
    handling: Any, wrapped: Any, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server = serve(endless("search", {"q": "pins"}))
    graph = tool_graph(model(server), [tool_of(ran)], **handling, **wrapped)

    with pytest.raises(BudgetExceededError):
        run_mode(graph, ASK, watched_by(guarded(Budget(tool_calls=2))), mode)

    assert (server.served, ran) == (3, ["pins", "pins"])


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_a_stop_inside_a_tool_is_no_answer_of_the_tool(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    """The tool's body asks a model; a catch-all that handles the tool's errors sits in between."""
    ran: list[str] = []
    server, helper = serve(endless("search", {"q": "pins"})), serve([reply("never")])
    chat = model(helper)
    tool = tool_of(ran, body=lambda q: chat.invoke(q).content)
    graph = tool_graph(model(server), [tool], handle_tool_errors=True)

    with pytest.raises(BudgetExceededError):
        run_mode(graph, ASK, watched_by(guarded(Budget(llm_calls=1))), mode)

    assert (server.served, helper.count(), ran) == (1, 0, ["pins"])


# --- LangChain's middleware


@wrap_tool_call
def answer_tool_errors(request: Any, handler: Callable[[Any], Any]) -> Any:
    try:
        return handler(request)
    except Exception as problem:  # noqa: BLE001 - as people write it
        return ToolMessage(f"Failed: {problem}", tool_call_id=request.tool_call["id"])


@wrap_tool_call
async def aanswer_tool_errors(request: Any, handler: Callable[[Any], Any]) -> Any:
    try:
        return await handler(request)
    except Exception as problem:  # noqa: BLE001
        return ToolMessage(f"Failed: {problem}", tool_call_id=request.tool_call["id"])


@wrap_model_call
def answer_model_errors(request: Any, handler: Callable[[Any], Any]) -> Any:
    try:
        return handler(request)
    except Exception as problem:  # noqa: BLE001
        return AIMessage(f"Sorry: {problem}")


@wrap_model_call
async def aanswer_model_errors(request: Any, handler: Callable[[Any], Any]) -> Any:
    try:
        return await handler(request)
    except Exception as problem:  # noqa: BLE001
        return AIMessage(f"Sorry: {problem}")


AT_ONCE: dict[str, Any] = {"initial_delay": 0.0, "backoff_factor": 0.0, "jitter": False}


def swallower(name: str, chat: Any, *, is_async: bool) -> Any:
    """Middleware that retries or answers failed calls; skips the test where LangChain has none of that name."""
    if name == "own answers to tool errors":
        return aanswer_tool_errors if is_async else answer_tool_errors
    if name == "own answers to model errors":
        return aanswer_model_errors if is_async else answer_model_errors
    kind = getattr(middleware, name, None) or pytest.skip(f"this LangChain has no {name}")
    if name == "ModelFallbackMiddleware":
        return kind(chat, chat)
    if name == "ToolErrorMiddleware":
        return kind(lambda problem, _: f"Failed: {problem}")
    return kind(max_retries=3, retry_on=(Exception,), **AT_ONCE)


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("placed", ["ours first", "ours last", "handler alone", "handler and middleware"])
@pytest.mark.parametrize(
    "name",
    [
        "ModelRetryMiddleware",
        "ToolRetryMiddleware",
        "ToolErrorMiddleware",
        "ModelFallbackMiddleware",
        "own answers to tool errors",
        "own answers to model errors",
    ],
)
@pytest.mark.parametrize(("budget", "served", "tools"), [(Budget(llm_calls=2), 2, 2), (Budget(tool_calls=2), 3, 2)])
def test_no_middleware_retries_or_answers_a_stop(  # noqa: PLR0917
    budget: Budget,
    served: int,
    tools: int,
    name: str,
    placed: str,
    mode: str,
    serve: Serve,
    model: MakeModel,
    guarded: MakeGuard,
) -> None:
    ran: list[str] = []
    server, pin = serve(endless("search", {"q": "pins"})), guarded(budget)
    theirs = swallower(name, model(server), is_async=mode.startswith("a"))
    ours = ShearpinMiddleware(pin)
    stack = {
        "ours first": [ours, theirs],
        "ours last": [theirs, ours],
        "handler alone": [theirs],
        "handler and middleware": [theirs, ours],
    }[placed]
    agent = create_agent(model(server), [tool_of(ran)], middleware=stack)

    with pytest.raises(BudgetExceededError):
        run_mode(agent, ASK, watched_by(pin) if placed.startswith("handler") else {}, mode)

    assert (server.served, len(ran)) == (served, tools)
    assert [trace.status for trace in pin.traces] == ["stopped"]


# --- LangGraph's retries and error handlers of nodes

RETRY_POLICIES: dict[str, dict[str, Any]] = {
    "default": {},
    "Exception": {"retry_on": Exception},
    "RuntimeError": {"retry_on": (RuntimeError,)},
    "everything": {"retry_on": lambda _: True},
}


def retrying(name: str) -> RetryPolicy:
    return RetryPolicy(initial_interval=0.0, backoff_factor=0.0, jitter=False, max_attempts=4, **RETRY_POLICIES[name])


@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("retry_on", RETRY_POLICIES)
def test_no_retry_policy_tries_a_stopped_node_again(
    retry_on: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, entered = serve([reply("Hello!")], repeat_last=True), []
    chat = model(server)

    def twice(state: MessagesState) -> dict[str, Any]:
        entered.append(1)
        chat.invoke(state["messages"])
        return {"messages": [chat.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("twice", twice, retry_policy=retrying(retry_on))
    builder.add_edge(START, "twice")

    with pytest.raises(BudgetExceededError):
        run_mode(builder.compile(), ASK, watched_by(guarded(Budget(llm_calls=1))), mode)

    assert server.served == 1
    assert len(entered) <= (4 if retry_on == "everything" else 1)


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("retry_on", RETRY_POLICIES)
def test_no_retry_policy_tries_a_stopped_task_again(
    retry_on: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("Hello!")], repeat_last=True)
    chat = model(server)

    @task(retry_policy=retrying(retry_on))
    def ask(number: int) -> str:
        return str(chat.invoke(f"Hello {number}?").content)

    @entrypoint()
    def talk(_: object) -> list[str]:
        return [ask(number).result() for number in range(5)]

    @entrypoint()
    async def atalk(_: object) -> list[str]:
        return [await ask(number) for number in range(5)]

    with pytest.raises(BudgetExceededError):
        run_mode(atalk if mode.startswith("a") else talk, "go", watched_by(guarded(Budget(llm_calls=2))), mode)

    assert server.served == 2


@needs_error_handler
@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("declared", ["on the node", "as the default"])
def test_no_error_handler_of_a_node_answers_a_stop(
    declared: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, handled = serve([reply("never")]), []

    def handle(_: MessagesState) -> dict[str, Any]:
        handled.append(1)
        return {"messages": [AIMessage("canned")]}

    builder: Any = StateGraph(MessagesState)
    on_node = {"error_handler": handle} if declared == "on the node" else {}
    if not on_node:
        builder.set_node_defaults(error_handler=handle)
    builder.add_node("ask", asking(model(server)), **on_node)
    builder.add_edge(START, "ask")

    with pytest.raises(BudgetExceededError):
        run_mode(builder.compile(), ASK, watched_by(guarded(Budget(llm_calls=0))), mode)

    assert (server.count(), handled) == (0, [])


# --- LangChain's retries and fallbacks


def canned(_: object) -> AIMessage:
    return AIMessage("canned")


FALLBACKS: dict[str, Callable[[Any], Runnable[Any, Any]]] = {
    "retry": lambda chat: chat.with_retry(stop_after_attempt=3, wait_exponential_jitter=False),
    "fallback model": lambda chat: chat.with_fallbacks([chat, chat]),
    "canned fallback": lambda chat: chat.with_fallbacks([RunnableLambda(canned)]),
    "retry, then fallback": lambda chat: chat.with_retry(
        stop_after_attempt=2, wait_exponential_jitter=False
    ).with_fallbacks([RunnableLambda(canned)]),
    "fallback in fallback": lambda chat: chat.with_fallbacks([chat]).with_fallbacks([RunnableLambda(canned)]),
    "caught by a lambda": lambda chat: RunnableLambda(
        lambda question, config: _or_canned(lambda: chat.invoke(question, config))
    ),
}


def _or_canned(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception:  # noqa: BLE001 - as people write it
        return AIMessage("canned")


@pytest.mark.parametrize("mode", [*FOUR_MODES, *BATCH_MODES])
@pytest.mark.parametrize("around", FALLBACKS)
def test_a_retry_or_fallback_at_the_root_does_not_hide_a_stop(
    around: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("never")])

    with pytest.raises(BudgetExceededError):
        run_mode(FALLBACKS[around](model(server)), "Hello?", watched_by(guarded(Budget(llm_calls=0))), mode)

    assert server.count() == 0


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("around", FALLBACKS)
def test_a_retry_or_fallback_in_a_chain_does_not_hide_a_stop(
    around: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("never")])
    prompt = ChatPromptTemplate([("user", "{q}")])
    chain = prompt | FALLBACKS[around](model(server)) | (lambda answer: answer.content)

    with pytest.raises(BudgetExceededError):
        run_mode(chain, {"q": "Hello?"}, watched_by(guarded(Budget(llm_calls=0))), mode)

    assert server.count() == 0


@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("around", FALLBACKS)
def test_a_retry_or_fallback_in_a_node_does_not_hide_a_stop(
    around: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("never")])
    graph = chat_graph(FALLBACKS[around](model(server)))

    with pytest.raises(BudgetExceededError):
        run_mode(graph, ASK, watched_by(guarded(Budget(llm_calls=0))), mode)

    assert server.count() == 0


@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("around", FALLBACKS)
def test_a_retry_or_fallback_around_a_whole_graph_does_not_hide_a_stop(
    around: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("never")])
    graph = FALLBACKS[around](chat_graph(model(server)))

    with pytest.raises(BudgetExceededError):
        run_mode(graph, ASK, watched_by(guarded(Budget(llm_calls=0))), mode)

    assert server.count() == 0


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("around", ["fallback model", "canned fallback"])
def test_an_attached_guard_is_not_hidden_by_a_fallback_either(
    around: str, mode: str, serve: Serve, model: MakeModel
) -> None:
    server = serve([reply("never")])
    graph = shearpin.attach(chat_graph(FALLBACKS[around](model(server))), Budget(llm_calls=0))

    with pytest.raises(BudgetExceededError):
        run_mode(graph, ASK, None, mode)

    assert server.count() == 0


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_a_fallback_for_a_failed_provider_is_let_be(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    broken, working, pin = serve([error(500)]), serve([reply("Hello!")]), guarded(Budget(llm_calls=2))
    chat = model(broken).with_fallbacks([model(working)])

    run_mode(chat_graph(chat), ASK, watched_by(pin), mode)

    assert (broken.count(), working.served) == (1, 1)
    assert (pin.traces[-1].status, pin.traces[-1].llm_calls) == ("ok", 2)


# --- users' own catch-alls


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", ["last", "not last"])
def test_a_catch_all_in_a_node_does_not_hide_a_stop(
    place: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, entered = serve([reply("never")]), []
    chat = model(server)

    def careful(state: MessagesState) -> dict[str, Any]:
        return {"messages": [_or_canned(lambda: chat.invoke(state["messages"]))]}

    def after(_: MessagesState) -> dict[str, Any]:
        entered.append(1)
        return {}

    builder = StateGraph(MessagesState)
    builder.add_sequence([careful] if place == "last" else [careful, after])
    builder.add_edge(START, "careful")

    with pytest.raises(BudgetExceededError):
        run_mode(builder.compile(), ASK, watched_by(guarded(Budget(llm_calls=0))), mode)

    assert (server.count(), entered) == (0, [])


@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("way", ["guarded nodes", "hooked nodes", "middleware"])
def test_a_catch_all_around_a_guarded_agent_does_not_hide_its_stop(
    way: str, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    """No handler is passed in: the guard knows of the outer graph only through the agent in its node."""
    server, pin = serve(endless("search")), guarded(Budget(tool_calls=1))
    agent = guarded_agent(way, model(server), [tool_of([])], pin)

    def careful(state: MessagesState) -> dict[str, Any]:
        return {"messages": [_or_canned(lambda: agent.invoke(state)["messages"][-1])]}

    async def acareful(state: MessagesState) -> dict[str, Any]:
        try:
            return {"messages": (await agent.ainvoke(state))["messages"][-1]}
        except Exception:  # noqa: BLE001 - as people write it
            return {"messages": [AIMessage("canned")]}

    builder = StateGraph(MessagesState)
    builder.add_node("careful", RunnableLambda(careful, acareful))
    builder.add_edge(START, "careful")

    with pytest.raises(BudgetExceededError):
        run_mode(builder.compile(), ASK, {}, mode)

    assert (server.served, len(pin.traces)) == (2, 1)


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_a_node_that_catches_and_asks_again_is_told_the_same_each_time(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, caught = serve([reply("never")]), []
    chat = model(server)

    def stubborn(state: MessagesState) -> dict[str, Any]:
        for _ in range(5):
            try:
                chat.invoke(state["messages"])
            except Exception as stop:  # noqa: BLE001 - as people write it
                caught.append(stop)
        return {"messages": [AIMessage("canned")]}

    builder = StateGraph(MessagesState)
    builder.add_node(stubborn)
    builder.add_edge(START, "stubborn")

    with pytest.raises(BudgetExceededError) as stopped:
        run_mode(builder.compile(), ASK, watched_by(guarded(Budget(llm_calls=0))), mode)

    assert len(caught) == 5
    assert {id(stop) for stop in caught} == {id(stopped.value)}
    assert server.count() == 0


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_a_tool_that_catches_the_stop_of_its_sub_agent_does_not_hide_it(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, helper = serve(endless("search")), serve([reply("never")])
    inner = chat_graph(model(helper))
    tool = tool_of([], body=lambda _: str(_or_canned(lambda: inner.invoke(ASK))))

    with pytest.raises(BudgetExceededError):
        run_mode(tool_graph(model(server), [tool]), ASK, watched_by(guarded(Budget(llm_calls=1))), mode)

    assert (server.served, helper.count()) == (1, 0)


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_an_error_that_hides_the_stop_is_replaced_by_it(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    chat = model(serve([reply("never")]))

    def wrap(state: MessagesState) -> dict[str, Any]:
        try:
            return {"messages": [chat.invoke(state["messages"])]}
        except Exception as problem:
            raise ValueError("the model failed") from problem

    builder = StateGraph(MessagesState)
    builder.add_node(wrap)
    builder.add_edge(START, "wrap")

    with pytest.raises(BudgetExceededError):
        run_mode(builder.compile(), ASK, watched_by(guarded(Budget(llm_calls=0))), mode)


# --- everybody else's exceptions are theirs

BROKEN = ValueError("the tool is broken")


def broken(_: str) -> object:
    raise BROKEN


@pytest.mark.parametrize("mode", MODES)
def test_the_exception_of_a_tool_passes_unchanged(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    pin = guarded(Budget(tool_calls=5))
    graph = tool_graph(model(serve(endless("search"))), [tool_of([], body=broken)])

    with pytest.raises(ValueError, match="the tool is broken") as raised:
        run_mode(graph, ASK, watched_by(pin), mode)

    assert raised.value is BROKEN
    assert (pin.traces[-1].status, pin.traces[-1].spans_of("tool")[0].status) == ("error", "error")


@pytest.mark.parametrize("mode", MODES)
def test_the_error_of_a_provider_passes_unchanged_and_costs_nothing(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    pin = guarded(Budget(usd=1))

    with pytest.raises(openai.RateLimitError):
        run_mode(chat_graph(model(serve([error(429)]))), ASK, watched_by(pin), mode)

    assert (pin.traces[-1].status, pin.traces[-1].usage.cost_usd) == ("error", 0.0)


@pytest.mark.parametrize("mode", MODES)
def test_the_recursion_limit_of_langgraph_passes_unchanged(
    mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    pin = guarded(Budget(tool_calls=50))
    graph = tool_graph(model(serve(endless("search"))), [tool_of([])])

    with pytest.raises(GraphRecursionError) as raised:
        run_mode(graph, ASK, watched_by(pin, recursion_limit=4), mode)

    assert not isinstance(raised.value, RunStoppedError)
    assert pin.traces[-1].status == "error"


@pytest.mark.parametrize("mode", ["invoke", "stream", "batch", "stream_messages"])
@pytest.mark.parametrize("stopped_before", [False, True])
def test_a_keyboard_interrupt_is_not_replaced(
    stopped_before: bool, mode: str, serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    pin = guarded(Budget(tool_calls=5))

    def interrupted(_: str) -> object:
        if stopped_before:
            pin.active[0].stop("by hand")
        raise KeyboardInterrupt

    graph = tool_graph(model(serve(endless("search"))), [tool_of([], body=interrupted)], handle_tool_errors=True)

    with pytest.raises(KeyboardInterrupt):
        run_mode(graph, ASK, watched_by(pin), mode)

    assert pin.traces[-1].status == ("stopped" if stopped_before else "cancelled")
