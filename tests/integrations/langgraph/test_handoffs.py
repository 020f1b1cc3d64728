"""Agents that hand over to each other: LangGraph does it by raising, and that is no failure."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, InjectedToolCallId, tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState
from langgraph.types import Command, Send

from shearpin import Budget, BudgetExceededError, Guard, RunStoppedError, Trace
from shearpin.testing import Reply, Request, Script, reply, tool_call
from tests.integrations.langchain.conftest import (
    Provider,
    call,
    counts,
    finished,
    outline,
    parent_of,
    provided,
    watched,
)

provider = pytest.fixture(provided)

MODES = ("invoke", "stream", "ainvoke", "astream")
ASK: dict[str, Any] = {"messages": [("user", "My invoice is wrong.")]}

Go = Callable[[str, dict[str, Any]], Any]
"""Where a hand-off goes, as its tool says it: from the taker's name and the state so far."""


def transfer_to(taker: str, go: Go = lambda taker, _: taker) -> BaseTool:
    """The hand-off tool of LangGraph's own guide."""

    @tool(f"transfer_to_{taker}", description=f"Hands over to {taker}.")
    def transfer(
        reason: str,
        state: Annotated[dict[str, Any], InjectedState],
        tool_call_id: Annotated[str, InjectedToolCallId],
    ) -> Command[Any]:
        done = ToolMessage(f"Transferred to {taker}.", tool_call_id=tool_call_id, name=f"transfer_to_{taker}")
        messages = [*state["messages"], done]
        return Command(goto=go(taker, {"messages": messages}), update={"messages": messages}, graph=Command.PARENT)

    return transfer


def names(request: Request) -> list[str]:
    return [offered["function"]["name"] for offered in request.tools]


def team(provider: Provider, script: Script, go: Go = lambda taker, _: taker) -> Any:
    """Support, which may hand over to billing, which may hand back."""
    server = provider.serve(script)
    builder = StateGraph(MessagesState)
    for agent, taker in (("support", "billing"), ("billing", "support")):
        tools = [transfer_to(taker, go)]
        builder.add_node(agent, create_agent(provider.model(server), tools, name=agent))
    builder.add_edge(START, "support")
    builder.add_edge("billing", END)
    return builder.compile(name="desk")


def handoffs(trace: Trace) -> list[str]:
    return [span.name for span in trace.spans_of("handoff")]


def support_hands_over(request: Request) -> Reply:
    given = [message for message in request.messages if message["role"] == "tool"]
    return reply("Paid") if given else tool_call("transfer_to_billing", {"reason": "money"})


@pytest.mark.parametrize("mode", MODES)
def test_a_hand_over_is_a_span_and_no_failure(provider: Provider, mode: str) -> None:
    pin = Guard()

    call(mode, team(provider, support_hands_over), ASK, watched(pin))

    trace = finished(pin)
    assert outline(trace, "status") == [
        "agent desk ok",
        "  node support ok",
        "    agent support ok",
        "      node model ok",
        "        llm gpt-4o ok",
        "      node tools ok",
        "        tool transfer_to_billing ok",
        "      handoff support -> billing ok",
        "  node billing ok",
        "    agent billing ok",
        "      node model ok",
        "        llm gpt-4o ok",
    ]
    assert [span.error for span in trace.spans if span.error] == []
    assert (trace.status, counts(trace)) == ("ok", (2, 2, 1))


@pytest.mark.parametrize("mode", MODES)
def test_a_hand_over_says_from_whom_and_to_whom(provider: Provider, mode: str) -> None:
    pin = Guard()

    call(mode, team(provider, support_hands_over), ASK, watched(pin))

    trace = finished(pin)
    (span,) = trace.spans_of("handoff")
    assert (span.name, span.agent, span.status) == ("support -> billing", "support", "ok")
    assert (span.input["from"], span.input["to"]) == ("support", "billing")
    assert span.end_ns is not None
    assert parent_of(trace, span).name == "support"
    assert span.step == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "go",
    [Send, lambda taker, state: [Send(taker, state)], lambda taker, _: [taker]],
    ids=["a send", "a list of sends", "a list of names"],
)
def test_however_a_hand_over_is_written_its_span_names_the_taker(provider: Provider, go: Go, mode: str) -> None:
    pin = Guard()

    call(mode, team(provider, support_hands_over, go), ASK, watched(pin))

    trace = finished(pin)
    assert handoffs(trace) == ["support -> billing"]
    assert trace.spans_of("handoff")[0].input["to"] == "billing"
    assert (trace.status, counts(trace)) == ("ok", (2, 2, 1))


@pytest.mark.parametrize("mode", MODES)
def test_a_command_that_only_tells_the_parent_something_hands_nothing_over(provider: Provider, mode: str) -> None:
    def script(request: Request) -> Reply:
        return tool_call("transfer_to_billing", {"reason": "news"})

    pin = Guard()

    call(mode, team(provider, script, lambda *_: ()), ASK, watched(pin))

    trace = finished(pin)
    assert handoffs(trace) == []
    assert (trace.status, trace.llm_calls, trace.tool_calls) == ("ok", 1, 1)


@pytest.mark.parametrize("mode", MODES)
def test_what_a_hand_over_tool_was_given_is_what_the_model_asked_for(provider: Provider, mode: str) -> None:
    """Not the state and the ids that the framework adds: they never repeat."""
    pin = Guard()

    call(mode, team(provider, support_hands_over), ASK, watched(pin))

    (span,) = finished(pin).spans_of("tool")
    assert span.arguments == {"reason": "money"}
    assert span.call_id is not None


def ping_pong(request: Request) -> Reply:
    (name,) = names(request)
    return tool_call(name, {"reason": f"turn {request.turn}"})


@pytest.mark.parametrize("mode", MODES)
def test_two_agents_that_hand_over_for_ever_are_stopped_by_their_budget(provider: Provider, mode: str) -> None:
    pin = Guard(Budget(llm_calls=5))

    with pytest.raises(BudgetExceededError):
        call(mode, team(provider, ping_pong), ASK, watched(pin))

    trace = finished(pin)
    assert handoffs(trace) == ["support -> billing", "billing -> support"] * 2 + ["support -> billing"]
    assert (provider.server.served, trace.status, counts(trace)) == (5, "stopped", (5, 5, 5))
    assert [span.agent for span in trace.spans_of("llm")] == ["support", "billing", "support", "billing", "support"]
    assert {span.status for span in trace.spans_of("tool")} == {"ok"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_each_turn_of_a_ping_pong_is_one_step(provider: Provider, steps: int, mode: str) -> None:
    pin = Guard(Budget(steps=steps))

    with pytest.raises(BudgetExceededError):
        call(mode, team(provider, ping_pong), ASK, watched(pin))

    trace = finished(pin)
    assert (provider.server.served, counts(trace)) == (steps, (steps, steps, steps))
    assert len(handoffs(trace)) == steps


@pytest.mark.parametrize("mode", MODES)
def test_a_stopped_run_hands_nothing_over(provider: Provider, mode: str) -> None:
    def stop_first(taker: str, _: Any) -> str:
        pin.active[0].stop("enough")
        return taker

    pin = Guard()

    with pytest.raises(RunStoppedError, match="enough"):
        call(mode, team(provider, support_hands_over, stop_first), ASK, watched(pin))

    trace = finished(pin)
    assert (handoffs(trace), trace.status, provider.server.served) == ([], "stopped", 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_command_within_the_graph_is_no_hand_over_but_a_jump(mode: str) -> None:
    def first(_: Any) -> Command[Any]:
        return Command(goto="second", update={"messages": [("assistant", "1")]})

    async def afirst(state: Any) -> Command[Any]:
        return first(state)

    builder = StateGraph(MessagesState)
    builder.add_node("first", afirst if mode.startswith("a") else first, destinations=("second",))
    builder.add_node("second", lambda _: {})
    builder.add_edge(START, "first")
    pin = Guard()

    call(mode, builder.compile(), ASK, watched(pin))

    trace = finished(pin)
    assert outline(trace, "status") == ["agent LangGraph ok", "  node first ok", "  node second ok"]
    assert handoffs(trace) == []
    assert trace.spans_of("node")[0].output["goto"] == "second"


@pytest.mark.parametrize("mode", MODES)
def test_a_failure_in_the_agent_that_took_over_is_that_agents(provider: Provider, mode: str) -> None:
    def script(request: Request) -> Reply:
        given = [message for message in request.messages if message["role"] == "tool"]
        if given:
            raise ValueError("the server has an error in its script")
        return support_hands_over(request)

    pin = Guard()

    with pytest.raises(Exception, match="script"):
        call(mode, team(provider, script), ASK, watched(pin))

    trace = finished(pin)
    agents = {span.name: span.status for span in trace.spans_of("agent")}
    assert agents == {"desk": "error", "support": "ok", "billing": "error"}
