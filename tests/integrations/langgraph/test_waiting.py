"""Async nodes and async middleware wait for calls in flight that may leave enough; a callback alone cannot."""

import asyncio
import operator
import threading
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Send

from shearpin import Budget, BudgetExceededError, Guard
from shearpin.testing import Request, reply
from shearpin_integrations.langgraph import ShearpinCallbackHandler, ShearpinMiddleware, guarded_node, hook_nodes
from tests.integrations.langgraph.conftest import ASK, MakeGuard, MakeModel, Serve, WatchedBudget, until

ONE_AT_A_TIME = 1000
"""Tokens: a call is estimated at over half of these, and uses fifty."""


class Fan(TypedDict):
    said: Annotated[list[str], operator.add]


def fan(chat: Any, around: Callable[[Any], Any], width: int = 5) -> StateGraph:
    """Nodes side by side, each of which asks the model once."""

    async def ask(state: Any) -> dict[str, list[str]]:
        return {"said": [(await chat.ainvoke("hello")).text]}

    builder = StateGraph(Fan)
    builder.add_node("ask", around(ask))
    builder.add_conditional_edges(START, lambda _: [Send("ask", {"said": []})] * width, ["ask"])
    return builder


def guarded_fan(chat: Any, pin: Guard, way: str) -> CompiledStateGraph:
    if way == "hooked nodes":
        return hook_nodes(fan(chat, lambda node: node), pin).compile()
    if way == "middleware":

        def agent(_: Any) -> Any:
            made = create_agent(chat, [], middleware=[ShearpinMiddleware(pin)])

            async def ask(state: Any) -> dict[str, list[str]]:
                return {"said": [(await made.ainvoke(ASK))["messages"][-1].text]}

            return ask

        return fan(chat, agent).compile()
    return fan(chat, lambda node: guarded_node(node, pin)).compile()


@pytest.mark.parametrize("watched", [False, True], ids=["alone", "with the handler"])
@pytest.mark.parametrize("way", ["guarded nodes", "hooked nodes", "middleware"])
async def test_every_call_that_the_budget_has_room_for_is_made(
    serve: Serve, model: MakeModel, guarded: MakeGuard, way: str, watched: bool
) -> None:
    server = serve([reply("hi", usage=(10, 40), delay=0.02)], repeat_last=True)
    budget = WatchedBudget(tokens=ONE_AT_A_TIME)
    pin = guarded(budget)
    config: Any = {"callbacks": [ShearpinCallbackHandler(pin)]} if watched else {}

    answer = await guarded_fan(model(server), pin, way).ainvoke({"said": []}, config)

    (trace,) = pin.traces
    assert (answer["said"], server.served, server.peak_in_flight) == (["hi"] * 5, 5, 1)
    assert (trace.status, trace.llm_calls, trace.usage.total_tokens, budget.held) == ("ok", 5, 250, 0)


async def test_a_stream_waits_too(serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    server = serve([reply("hi", usage=(10, 40), delay=0.02)], repeat_last=True)
    pin = guarded(Budget(tokens=ONE_AT_A_TIME))
    graph = guarded_fan(model(server), pin, "hooked nodes")

    pieces = [piece async for piece in graph.astream({"said": []}, stream_mode="messages")]

    assert "".join(piece.text for piece, _ in pieces) == "hi" * 5
    assert (server.served, server.peak_in_flight) == (5, 1)


async def test_what_waiting_cannot_lift_is_refused_all_the_same(
    serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("hi", usage=(10, 400), delay=0.02)], repeat_last=True)
    pin = guarded(Budget(tokens=ONE_AT_A_TIME))

    with pytest.raises(BudgetExceededError) as stopped:
        await guarded_fan(model(server), pin, "guarded nodes").ainvoke({"said": []})

    assert (server.served, stopped.value.in_flight, stopped.value.spent) == (2, False, 820)


async def test_nobody_waits_longer_than_the_budget_says(serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    server = serve([reply("hi", usage=(10, 40), delay=1)], repeat_last=True)
    pin = guarded(Budget(tokens=ONE_AT_A_TIME, wait_seconds=0.05))

    with pytest.raises(BudgetExceededError) as stopped:
        await guarded_fan(model(server), pin, "guarded nodes").ainvoke({"said": []})

    assert (server.served, stopped.value.in_flight) == (1, True)
    await until(lambda: not server.in_flight)


async def test_several_prompts_of_one_call_do_not_wait_for_each_other(
    serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server = serve([reply("hi", usage=(10, 40))], repeat_last=True)
    chat, pin = model(server), guarded(Budget(tokens=ONE_AT_A_TIME))

    async def ask(state: Any, config: RunnableConfig) -> dict[str, list[str]]:
        await chat.agenerate([[HumanMessage("one")], [HumanMessage("two")]], callbacks=config["callbacks"])
        return {"said": []}

    builder = StateGraph(Fan)
    builder.add_node("ask", guarded_node(ask, pin))
    builder.add_edge(START, "ask")
    with pytest.raises(BudgetExceededError) as stopped:
        await asyncio.wait_for(builder.compile().ainvoke({"said": []}), 5)
    assert (server.served, stopped.value.in_flight) == (0, True)


async def test_a_sync_call_in_an_async_node_is_counted_once(serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    server = serve([reply("hi", usage=(10, 40))], repeat_last=True)
    chat, pin = model(server), guarded(Budget(llm_calls=2))

    async def ask(state: Any) -> dict[str, list[str]]:
        return {"said": [str(chat.invoke("hello").text) for _ in range(3)]}

    builder = StateGraph(Fan)
    builder.add_node("ask", guarded_node(ask, pin))
    builder.add_edge(START, "ask")
    with pytest.raises(BudgetExceededError):
        await builder.compile().ainvoke({"said": []})
    assert (server.served, pin.traces[-1].llm_calls) == (2, 2)


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
def test_a_sync_node_waits_on_its_thread_in_every_mode(
    serve: Serve, model: MakeModel, guarded: MakeGuard, mode: str
) -> None:
    server = serve([reply("hi", usage=(10, 40), delay=0.02)], repeat_last=True)
    chat, pin = model(server), guarded(Budget(tokens=ONE_AT_A_TIME))

    def sync(_: Any) -> Any:
        return guarded_node(lambda state: {"said": [str(chat.invoke("hello").text)]}, pin)

    graph = fan(chat, sync).compile()
    answer = graph.invoke({"said": []}) if mode == "invoke" else asyncio.run(graph.ainvoke({"said": []}))
    assert (answer["said"], server.served, server.peak_in_flight) == (["hi"] * 5, 5, 1)


async def test_a_text_model_waits_too(guarded: MakeGuard) -> None:
    pin = guarded(Budget(tokens=1200, unknown_price="allow"))
    text_model = FakeListLLM(responses=["hi"], sleep=0.01)

    class Answer:
        @staticmethod
        async def ainvoke(question: str) -> Any:
            return type("Text", (), {"text": await text_model.ainvoke(question)})

    graph = guarded_fan(Answer, pin, "guarded nodes")
    with pytest.raises(BudgetExceededError) as stopped:  # its usage is not told: each is charged at its estimate
        await graph.ainvoke({"said": []})
    assert (pin.traces[-1].llm_calls, stopped.value.in_flight) == (2, False)


async def test_a_call_cancelled_while_it_waits_leaves_nothing(
    serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    release = threading.Event()

    def script(_: Request) -> Any:
        release.wait(5)
        return reply("hi", usage=(10, 40))

    server = serve(script)
    outer_budget, inner_budget = WatchedBudget(tokens=100_000), WatchedBudget(tokens=ONE_AT_A_TIME)
    outer, inner = guarded(outer_budget), guarded(inner_budget)
    chat = model(server)
    waited: list[str] = []

    async def ask(state: Any) -> dict[str, list[str]]:
        first = asyncio.create_task(chat.ainvoke("hello"))
        await until(lambda: server.in_flight)
        second = asyncio.create_task(chat.ainvoke("hello"))
        await until(lambda: outer_budget.held == 2)
        await asyncio.sleep(0.02)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        waited.append(f"{outer_budget.held} {inner_budget.held}")
        release.set()
        return {"said": [str((await first).text)]}

    builder = StateGraph(Fan)
    builder.add_node("ask", guarded_node(guarded_node(ask, inner), outer))
    builder.add_edge(START, "ask")
    await builder.compile().ainvoke({"said": []})

    assert (waited, server.served) == (["1 1"], 1)
    for pin in (outer, inner):
        assert (pin.traces[-1].llm_calls, pin.traces[-1].usage.total_tokens) == (1, 50)


class Broken(BaseCallbackHandler):
    """A handler of the user's that raises before the first model call."""

    raise_error = True
    run_inline = True

    def __init__(self) -> None:
        self.raised = False

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        if not self.raised:
            self.raised = True
            raise ConnectionError("no tracing today")


@pytest.mark.parametrize("watched", [False, True], ids=["alone", "after the handler"])
async def test_a_call_that_another_handler_refuses_holds_nothing_at_the_end(
    serve: Serve, model: MakeModel, guarded: MakeGuard, watched: bool
) -> None:
    server = serve([reply("hi", usage=(10, 40))], repeat_last=True)
    budget = WatchedBudget(tokens=2 * ONE_AT_A_TIME)
    pin, chat = guarded(budget), model(server)

    async def ask(state: Any) -> dict[str, list[str]]:
        with pytest.raises(ConnectionError):
            await chat.ainvoke("hello")
        return {"said": [str((await chat.ainvoke("hello")).text)]}

    builder = StateGraph(Fan)
    builder.add_node("ask", guarded_node(ask, pin))
    builder.add_edge(START, "ask")
    handlers = [ShearpinCallbackHandler(pin), Broken()] if watched else [Broken()]
    await builder.compile().ainvoke({"said": []}, {"callbacks": handlers})

    assert (server.served, budget.held) == (1, 0)
    assert pin.traces[-1].llm_calls == (2 if watched else 1)
