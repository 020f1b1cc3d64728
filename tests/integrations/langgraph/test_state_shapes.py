"""A graph's state may be a dict, a dataclass or a pydantic model, and its messages may be called anything."""

from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel

from shearpin import Budget, BudgetExceededError
from shearpin.testing import Reply, Request, reply, tool_call
from shearpin_integrations.langgraph import ShearpinCallbackHandler, guarded_node, hook_nodes
from tests.integrations.langgraph.conftest import TWO_MODES, MakeGuard, MakeModel, Serve, run_mode, tool_of


class Model(BaseModel):
    messages: Annotated[list[Any], add_messages] = []


class FrozenModel(BaseModel, frozen=True):
    messages: Annotated[list[Any], add_messages] = []


@dataclass
class Record:
    messages: Annotated[list[Any], add_messages] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FrozenRecord:
    messages: Annotated[list[Any], add_messages] = field(default_factory=list)


class History(TypedDict):
    history: Annotated[list[Any], add_messages]


class HistoryModel(BaseModel):
    history: Annotated[list[Any], add_messages] = []


SHAPES = (Model, FrozenModel, Record, FrozenRecord, History, HistoryModel)
everyday = (Model, Record, History)


def key_of(shape: type) -> str:
    return next(iter(shape.__annotations__))


def messages_of(state: Any, key: str) -> Any:
    return state[key] if isinstance(state, dict) else getattr(state, key)


def agent_of(shape: type, chat: Any, around: Any) -> StateGraph:
    """The agent people build by hand, over a state of this shape."""
    key, tools = key_of(shape), [tool_of([])]
    bound = chat.bind_tools(tools)

    def ask(state: Any) -> Any:
        return {key: [bound.invoke(messages_of(state, key))]}

    async def aask(state: Any) -> Any:
        return {key: [await bound.ainvoke(messages_of(state, key))]}

    def asked_for(state: Any) -> str:
        return "tools" if messages_of(state, key)[-1].tool_calls else END

    builder = StateGraph(shape)
    builder.add_node("ask", around(RunnableLambda(ask, aask)))
    builder.add_node("tools", around(ToolNode(tools, messages_key=key)))
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", asked_for, ["tools", END])
    builder.add_edge("tools", "ask")
    return builder


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("way", ["handler", "hooked", "guarded"])
@pytest.mark.parametrize(
    "shape", [pytest.param(each, marks=[] if each in everyday else pytest.mark.slow) for each in SHAPES]
)
def test_a_conversation_that_a_stop_has_torn_goes_on_whatever_holds_it(
    serve: Serve, model: MakeModel, guarded: MakeGuard, *, shape: type, way: str, mode: str
) -> None:
    def script(request: Request) -> Reply:
        said = request.messages[-1]["content"]
        return reply("Here I am.") if said == "Still there?" else tool_call("search", {"q": str(request.turn)})

    server, pin, key = serve(script), guarded(Budget(tool_calls=2)), key_of(shape)
    builder = agent_of(shape, model(server), lambda node: guarded_node(node, pin) if way == "guarded" else node)
    graph = (hook_nodes(builder, pin) if way == "hooked" else builder).compile(checkpointer=InMemorySaver())
    callbacks = [ShearpinCallbackHandler(pin)] if way == "handler" else []
    config = {"callbacks": callbacks, "configurable": {"thread_id": "t"}}

    with pytest.raises(BudgetExceededError):
        run_mode(graph, {key: [("user", "Hello?")]}, config, mode)
    stored = [message.type for message in graph.get_state(config).values[key]]
    run_mode(graph, {key: [("user", "Still there?")]}, config, mode)

    assert stored == ["human", "ai", "tool", "ai", "tool", "ai"]  # what was stored is the user's
    assert (server.count(status=400), server.served) == (0, 4)
    assert graph.get_state(config).values[key][-1].content == "Here I am."
