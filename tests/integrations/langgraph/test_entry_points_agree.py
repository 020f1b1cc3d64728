"""However a guard is put on an agent, it sees, counts and leaves the same."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import LLMToolEmulator, SummarizationMiddleware
from langchain.tools import ToolRuntime
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from shearpin import Budget, BudgetExceededError, Guard, LoopBreaker, LoopDetectedError
from shearpin.testing import Reply, Request, endless, reply, tool_call, tool_calls
from shearpin_integrations.langgraph import ShearpinCallbackHandler, ShearpinMiddleware, guarded_node, hook_nodes
from tests.integrations.langgraph.conftest import (
    ASK,
    FOUR_MODES,
    TWO_MODES,
    MakeGuard,
    MakeModel,
    Serve,
    run_mode,
    tool_of,
)


def agent_under(way: str, chat: Any, pin: Guard, **options: Any) -> Any:
    own = [ShearpinMiddleware(pin)] if way == "middleware" else []
    return create_agent(chat, [tool_of([])], middleware=own, **options)


def watched(way: str, pin: Guard) -> dict[str, Any]:
    handlers = [ShearpinCallbackHandler(pin)] if way == "handler" else []
    return {"callbacks": handlers, "configurable": {"thread_id": "t"}}


both_ways = pytest.mark.parametrize("way", ["handler", "middleware"])


@both_ways
@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("limit", [{"llm_calls": 2}, {"tool_calls": 2}])
def test_a_stop_tells_how_far_the_agent_has_come(
    serve: Serve, model: MakeModel, guarded: MakeGuard, *, way: str, mode: str, limit: dict[str, int]
) -> None:
    pin = guarded(Budget(**limit))
    agent = agent_under(way, model(serve(endless("search"))), pin)

    with pytest.raises(BudgetExceededError) as stopped:
        run_mode(agent, ASK, watched(way, pin), mode)

    come = ["human", "ai", "tool", "ai", "tool", *(["ai"] if "tool_calls" in limit else [])]
    assert [message.type for message in stopped.value.partial["messages"]] == come


@both_ways
@pytest.mark.parametrize("mode", TWO_MODES)
def test_tools_that_go_on_after_a_stop_are_part_of_the_step_that_asked_for_them(
    serve: Serve, model: MakeModel, guarded: MakeGuard, way: str, mode: str
) -> None:
    def script(request: Request) -> Reply:
        return tool_calls([("search", {"q": q}) for q in "abc"]) if request.turn == 0 else reply("done")

    chat, saver = model(serve(script)), InMemorySaver()
    tight, wide = guarded(Budget(tool_calls=1)), guarded(Budget(tool_calls=9, steps=1))

    with pytest.raises(BudgetExceededError):
        run_mode(agent_under(way, chat, tight, checkpointer=saver), ASK, watched(way, tight), mode)
    run_mode(agent_under(way, chat, wide, checkpointer=saver), None, watched(way, wide), mode)

    assert (wide.traces[-1].status, wide.traces[-1].steps) == ("ok", 1)


def test_two_guards_can_both_be_middleware(serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    loose, tight = guarded(Budget(llm_calls=9)), guarded(Budget(tool_calls=1))
    own = [ShearpinMiddleware(loose), ShearpinMiddleware(tight)]
    agent = create_agent(model(serve(endless("search"))), [tool_of([])], middleware=own)

    with pytest.raises(BudgetExceededError):
        agent.invoke(ASK)

    assert [pin.traces[-1].llm_calls for pin in (loose, tight)] == [2, 2]


@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("way", ["guarded", "hooked"])
def test_a_node_that_yields_its_update_is_still_one(
    serve: Serve, model: MakeModel, guarded: MakeGuard, way: str, mode: str
) -> None:
    chat, pin = model(serve([reply("Hello!")])), guarded(Budget(llm_calls=1))

    def node(state: MessagesState) -> Iterator[dict[str, Any]]:
        yield {"messages": [chat.invoke(state["messages"])]}

    async def anode(state: MessagesState) -> AsyncIterator[dict[str, Any]]:
        yield {"messages": [await chat.ainvoke(state["messages"])]}

    body: Any = anode if mode.startswith("a") else node
    builder = StateGraph(MessagesState)
    builder.add_node("node", guarded_node(body, pin) if way == "guarded" else body)
    builder.add_edge(START, "node")
    graph = (hook_nodes(builder, pin) if way == "hooked" else builder).compile()

    assert "Hello!" in str(run_mode(graph, ASK, {}, mode))
    assert (pin.traces[-1].status, pin.traces[-1].llm_calls) == ("ok", 1)


def summarizing(chat: Any) -> Any:
    return SummarizationMiddleware(chat, trigger=("messages", 4), keep=("messages", 2))


@both_ways
@pytest.mark.parametrize("mode", FOUR_MODES)
@pytest.mark.parametrize("other", [summarizing, lambda chat: LLMToolEmulator(model=chat)], ids=["nodes", "around"])
@pytest.mark.parametrize("place", ["first", "last"])
def test_what_other_middlewares_ask_models_counts(
    serve: Serve, model: MakeModel, guarded: MakeGuard, *, way: str, mode: str, other: Any, place: str
) -> None:
    def script(request: Request) -> Reply:
        return tool_call("search", {"q": str(len(request.messages))}) if request.tools else reply("In short.")

    server, pin = serve(script), guarded(Budget(llm_calls=6))
    chat = model(server)
    own: list[Any] = [ShearpinMiddleware(pin)] if way == "middleware" else []
    middleware = [*own, other(chat)] if place == "first" else [other(chat), *own]

    with pytest.raises(BudgetExceededError):
        run_mode(create_agent(chat, [tool_of([])], middleware=middleware), ASK, watched(way, pin), mode)

    trace = pin.traces[-1]
    assert (server.served, trace.llm_calls, trace.gaps) == (6, 6, [])
    assert any(not span.tool_calls for span in trace.spans_of("llm"))


def handing_over(taker: str) -> Any:
    @tool(f"to_{taker}")
    def hand_over(runtime: ToolRuntime) -> Command[Any]:
        """Hand over, with all that was said."""
        told = ToolMessage("Transferred.", tool_call_id=runtime.tool_call_id)
        return Command(goto=taker, graph=Command.PARENT, update={"messages": [*runtime.state["messages"], told]})

    return hand_over


@pytest.mark.parametrize("mode", FOUR_MODES)
def test_agents_that_hand_the_whole_conversation_to_and_fro_go_in_a_loop(
    serve: Serve, model: MakeModel, guarded: MakeGuard, mode: str
) -> None:
    server = serve(lambda request: tool_call(request.tools[0]["function"]["name"]))
    pin, builder = guarded(LoopBreaker()), StateGraph(MessagesState)
    for name, taker in (("one", "other"), ("other", "one")):
        builder.add_node(name, create_agent(model(server), [handing_over(taker)], name=name))
    builder.add_edge(START, "one")

    with pytest.raises(LoopDetectedError):
        run_mode(builder.compile(), ASK, {**watched("handler", pin), "recursion_limit": 60}, mode)

    assert server.served == 7
    assert len(str(pin.traces[-1].spans_of("tool")[-1].result)) < 400
