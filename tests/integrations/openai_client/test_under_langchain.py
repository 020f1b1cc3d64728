"""A wrapped client under ChatOpenAI and in the nodes of a graph: what the handler has counted is not counted again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from shearpin import Budget, BudgetExceededError, Guard
from shearpin.testing import ScriptedServer, Tokens, per_conversation, reply, tool_call

langchain_openai = pytest.importorskip("langchain_openai")
langgraph = pytest.importorskip("langgraph.graph")

ShearpinCallbackHandler = pytest.importorskip("shearpin_integrations.langgraph").ShearpinCallbackHandler

USED = Tokens(1000, 500)
HELLO: Any = [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(lambda _: reply("one two three", usage=USED)) as server:
        yield server


@pytest.fixture
def pin() -> Guard:
    return Guard()


@pytest.fixture
def client(server: ScriptedServer, pin: Guard) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        yield pin.wrap(client)


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def model(request: Any, server: ScriptedServer, pin: Guard, client: openai.OpenAI) -> Any:
    aclient = pin.wrap(openai.AsyncOpenAI(base_url=server.base_url, api_key="any", max_retries=0))
    return langchain_openai.ChatOpenAI(
        model="gpt-4o",
        api_key="any",
        client=client.chat.completions,
        root_client=client,
        async_client=aclient.chat.completions,
        root_async_client=aclient,
        use_responses_api=request.param,
        stream_usage=True,
    )


def invoke(model: Any, config: Any) -> None:
    model.invoke("Hi", config)


def stream(model: Any, config: Any) -> None:
    list(model.stream("Hi", config))


def batch(model: Any, config: Any) -> None:
    model.batch(["Hi"], config)


def ainvoke(model: Any, config: Any) -> None:
    async def ask() -> None:
        async with model.root_async_client:
            await model.ainvoke("Hi", config)

    asyncio.run(ask())


def astream(model: Any, config: Any) -> None:
    async def read() -> None:
        async with model.root_async_client:
            async for _ in model.astream("Hi", config):
                pass

    asyncio.run(read())


WAYS = [invoke, stream, batch, ainvoke, astream]


@pytest.mark.parametrize("way", WAYS)
def test_a_model_with_a_wrapped_client_counts_once(pin: Guard, server: ScriptedServer, model: Any, way: Any) -> None:
    way(model, {"callbacks": [ShearpinCallbackHandler(pin)]})

    (trace,) = pin.traces
    (call,) = trace.spans_of("llm")
    assert server.served == trace.llm_calls == 1
    assert (call.reply, call.usage.total_tokens, trace.usage.total_tokens) == ("one two three", 1500, 1500)


@pytest.mark.parametrize("way", WAYS)
def test_without_a_handler_the_wrapped_client_counts(pin: Guard, server: ScriptedServer, model: Any, way: Any) -> None:
    with pin.run("ask"):
        way(model, {})

    assert server.served == pin.traces[-1].llm_calls == 1
    assert pin.traces[-1].usage.total_tokens == 1500


def graph_of(node: Any) -> Any:
    builder = langgraph.StateGraph(dict)
    builder.add_node("ask", node)
    builder.add_edge("__start__", "ask")
    return builder.compile()


def test_a_node_may_use_both(pin: Guard, server: ScriptedServer, client: openai.OpenAI, model: Any) -> None:
    def ask(state: Any) -> Any:
        model.invoke("Hi")
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
        client.responses.create(model="gpt-4o", input="Hi")
        return state

    graph_of(ask).invoke({}, {"callbacks": [ShearpinCallbackHandler(pin)]})

    (trace,) = pin.traces
    (node,) = trace.spans_of("node")
    calls = trace.spans_of("llm")
    assert server.served == trace.llm_calls == trace.steps == 3
    assert [call.parent_id for call in calls] == [node.span_id] * 3
    assert trace.usage.total_tokens == 4500


def test_between_the_pieces_of_a_models_stream_the_clients_calls_count(
    pin: Guard, server: ScriptedServer, client: openai.OpenAI, model: Any
) -> None:
    asked = 0

    def ask(state: Any) -> Any:
        nonlocal asked
        for _ in model.stream("Hi"):
            client.chat.completions.create(model="gpt-4o", messages=HELLO)
            asked += 1
        return state

    graph_of(ask).invoke({}, {"callbacks": [ShearpinCallbackHandler(pin)]})

    assert asked > 2
    assert server.served == pin.traces[-1].llm_calls == asked + 1


def test_a_budget_stops_a_node_that_uses_the_client(server: ScriptedServer) -> None:
    pin = Guard(Budget(llm_calls=3))
    with openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as plain:
        client = pin.wrap(plain)

        def ask(state: Any) -> Any:
            while True:
                client.chat.completions.create(model="gpt-4o", messages=HELLO)

        with pytest.raises(BudgetExceededError):
            graph_of(ask).invoke({}, {"callbacks": [ShearpinCallbackHandler(pin)]})

    assert server.count() == 3


def test_an_agent_whose_model_has_a_wrapped_client_takes_the_same_steps(pin: Guard) -> None:
    create_agent = pytest.importorskip("langchain.agents").create_agent

    def search(q: str) -> str:
        """Search."""
        return q

    script = per_conversation([tool_call("search", {"q": "a"}), tool_call("search", {"q": "b"}), reply("done")])
    with (
        ScriptedServer(script) as server,
        openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as plain,
    ):
        for client in (plain, pin.wrap(plain)):
            options: Any = {"client": client.chat.completions, "root_client": client, "api_key": "any"}
            agent = create_agent(langchain_openai.ChatOpenAI(model="gpt-4o", **options), [search])
            agent.invoke({"messages": HELLO}, {"callbacks": [ShearpinCallbackHandler(pin)]})
        assert server.served == 6

    assert [(trace.steps, trace.llm_calls, trace.tool_calls) for trace in pin.traces] == [(3, 3, 2)] * 2
