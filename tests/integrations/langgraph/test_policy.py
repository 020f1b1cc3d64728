"""A policy inside LangGraph: denied before the tool, told to the model, asked by an interrupt that can be resumed."""

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphBubbleUp
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command

from shearpin import ApprovalRejectedError, Guard, ToolDeniedError, ToolPolicy
from shearpin.adapter import ToldError
from shearpin.runs import trouble
from shearpin.testing import Script, reply, tool_calls
from shearpin_integrations.langgraph import ShearpinCallbackHandler, ShearpinMiddleware

ASK: dict[str, Any] = {"messages": [("user", "Sort my refunds out.")]}
WAYS = ("handler", "middleware", "tool node")
MODES = ("invoke", "ainvoke")


def three_calls(request) -> Any:
    """One look and two refunds in one reply; then the end."""
    calls = [("look", {"q": "orders"}), ("refund", {"amount": 5}), ("refund", {"amount": 7})]
    return tool_calls(calls) if request.turn == 0 else reply("Sorted out.")


class Desk:
    """An agent of two tools under a policy, put there in one of the ways there are."""

    def __init__(self, model, policy: ToolPolicy, way: str, checkpointer: Any = True) -> None:
        self.ran: list[Any] = []
        self.pin = Guard(policy)

        def look(q: str) -> str:
            """Look something up."""
            self.ran.append(q)
            return "three orders"

        def refund(amount: int) -> str:
            """Give money back."""
            self.ran.append(amount)
            return f"{amount} given back"

        saver = InMemorySaver() if checkpointer else None
        handlers = [] if way == "middleware" else [ShearpinCallbackHandler(self.pin)]
        self.config: Any = {"callbacks": handlers, "configurable": {"thread_id": "t"}}
        if way == "tool node":
            self.graph: Any = by_hand(model, [look, refund]).compile(checkpointer=saver)
        else:
            middleware = [ShearpinMiddleware(self.pin)] if way == "middleware" else []
            self.graph = create_agent(model, [look, refund], middleware=middleware, checkpointer=saver)

    def __call__(self, mode: str, question: Any) -> Any:
        if mode == "invoke":
            return self.graph.invoke(question, self.config)
        return asyncio.run(self.graph.ainvoke(question, self.config))

    @property
    def trace(self):
        return self.pin.traces[-1]

    @property
    def verdicts(self) -> list[tuple[str, Any]]:
        return [(decision.verdict, decision.facts.get("tool")) for decision in self.trace.decisions]


def by_hand(model, tools) -> StateGraph[Any]:
    """One node that runs all tool calls of a reply in parallel."""

    def ask(state: MessagesState) -> Any:
        return {"messages": [model.bind_tools(tools).invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", ask)
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder


@pytest.fixture
def desk(serve, model):
    def make(policy: ToolPolicy, way: str, script: Script = three_calls, **options: Any) -> Desk:
        made = Desk(model(server := serve(script)), policy, way, **options)
        made.server = server
        return made

    return make


def answers(result: Any) -> list[str]:
    return [message.content for message in result["messages"] if message.type == "tool"]


# --- denied


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_a_denied_call_stops_the_run_and_its_tool_never_runs(desk, way, mode):
    agent = desk(ToolPolicy(deny=["refund(amount=7)"]), way)

    with pytest.raises(ToolDeniedError) as stop:
        agent(mode, ASK)

    assert isinstance(stop.value, GraphBubbleUp)
    assert 7 not in agent.ran
    assert agent.server.served == 1
    assert (agent.trace.status, agent.trace.stop.error) == ("stopped", stop.value)
    assert ("deny", "refund") in agent.verdicts


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_a_told_denial_is_the_tools_answer_and_the_agent_goes_on(desk, way, mode):
    agent = desk(ToolPolicy(deny=["refund"], on_deny="tell"), way)

    result = agent(mode, ASK)

    denied = "The call of refund was denied and did not run: denied by the policy. Do not repeat it."
    assert (answers(result), result["messages"][-1].content) == (["three orders", denied, denied], "Sorted out.")
    assert agent.ran == ["orders"]
    trace = agent.trace
    assert (trace.status, trace.steps, trace.llm_calls, trace.tool_calls) == ("ok", 2, 2, 1)
    assert sorted(agent.verdicts) == [("allow", "look"), ("deny", "refund"), ("deny", "refund")]
    assert [message["content"] for message in trace.spans_of("llm")[-1].messages][-2:] == [denied, denied]


def test_a_denial_outside_of_an_agent_reaches_the_caller(desk):
    agent = desk(ToolPolicy(deny=["refund"], on_deny="tell"), "handler")
    tool = agent.graph.nodes["tools"].bound.tools_by_name["refund"]

    with pytest.raises(ToldError) as told:
        tool.invoke({"amount": 3}, agent.config)

    assert isinstance(told.value.__cause__, ToolDeniedError)
    assert agent.ran == []


# --- asked


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_an_approved_call_runs_once_and_so_do_those_beside_it(desk, way, mode):
    agent = desk(ToolPolicy(ask=["refund"]), way)

    paused = agent(mode, ASK)

    assert (agent.trace.status, 5 in agent.ran, 7 in agent.ran) == ("paused", False, False)
    asked = [interrupt.value for interrupt in paused["__interrupt__"]]
    requests = [request for value in asked for request in value.get("requests", [value])]
    assert sorted(request["arguments"]["amount"] for request in requests) == [5, 7]
    assert {request["reason"] for request in requests} == {"ask refund"}
    yes = {"approved": True, "approver": "eve"}
    result = agent(mode, Command(resume={interrupt.id: yes for interrupt in paused["__interrupt__"]}))
    assert answers(result) == ["three orders", "5 given back", "7 given back"]
    assert sorted(map(str, agent.ran)) == ["5", "7", "orders"]
    trace = agent.trace
    assert (trace.status, trace.steps, trace.tool_calls, len(agent.pin.traces)) == ("ok", 2, 3, 1)
    assert sorted(agent.verdicts) == [
        ("allow", "look"),
        ("approved", "refund"),
        ("approved", "refund"),
        ("ask", "refund"),
        ("ask", "refund"),
    ]
    approved = [decision for decision in trace.decisions if decision.verdict == "approved"]
    assert {decision.facts["approver"] for decision in approved} == {"eve"}
    assert {decision.touched for decision in approved} == {
        span.span_id for span in trace.spans_of("tool") if span.name == "refund"
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_a_rejected_call_stops_the_run(desk, way, mode):
    agent = desk(ToolPolicy(ask=["refund"]), way)
    paused = agent(mode, ASK)

    no = {"approved": False, "approver": "eve", "reason": "too much"}
    with pytest.raises(ApprovalRejectedError, match="tool refund was not approved by eve: too much") as stop:
        agent(mode, Command(resume={interrupt.id: no for interrupt in paused["__interrupt__"]}))

    assert (stop.value.approver, stop.value.reason) == ("eve", "too much")
    assert {5, 7}.isdisjoint(agent.ran)


@pytest.mark.parametrize("mode", MODES)
def test_of_several_calls_in_one_node_each_may_get_its_own_answer(desk, mode):
    agent = desk(ToolPolicy(ask=["refund"], on_deny="tell"), "tool node")
    (paused,) = agent(mode, ASK)["__interrupt__"]
    small, large = paused.value["requests"]
    assert agent.ran == []  # what needs no approval does not run twice

    result = agent(mode, Command(resume={small["call_id"]: True, large["call_id"]: (False, "too much")}))

    denied = "The call of refund was denied and did not run: too much. Do not repeat it."
    assert answers(result) == ["three orders", "5 given back", denied]
    assert sorted(map(str, agent.ran)) == ["5", "orders"]


def test_whoever_is_left_out_of_the_answer_is_not_approved(desk):
    agent = desk(ToolPolicy(ask=["refund"], on_deny="tell"), "tool node")
    (paused,) = agent("invoke", ASK)["__interrupt__"]
    small, _ = paused.value["requests"]

    agent("invoke", Command(resume={small["call_id"]: True}))

    assert sorted(map(str, agent.ran)) == ["5", "orders"]


@pytest.mark.parametrize("way", WAYS)
def test_an_approver_is_asked_in_place_of_the_interrupt(desk, way):
    async def approver(request):
        return request.arguments["amount"] < 6

    agent = desk(ToolPolicy(ask=["refund"], approver=approver, on_deny="tell"), way)

    agent("invoke", ASK)
    agent("ainvoke", {"messages": [("user", "Once more.")]})

    assert 5 in agent.ran
    assert 7 not in agent.ran


def test_without_a_checkpointer_nobody_could_resume_and_the_terminal_is_asked(desk, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    agent = desk(ToolPolicy(ask=["refund"]), "handler", checkpointer=None)

    with pytest.raises(ApprovalRejectedError, match="there is no terminal"):
        agent("invoke", ASK)


def test_an_interrupt_gets_out_also_where_our_own_bugs_do_not(desk, monkeypatch):
    monkeypatch.setattr(trouble, "STRICT", False)
    agent = desk(ToolPolicy(ask=["refund(amount=5)"], deny=["refund(amount=7)"], on_deny="tell"), "handler")

    paused = agent("invoke", ASK)
    agent("invoke", Command(resume=True))

    assert len(paused["__interrupt__"]) == 1
    assert sorted(map(str, agent.ran)) == ["5", "orders"]


def test_a_call_that_starts_after_its_node_was_interrupted_is_interrupted_too(desk):
    """On an event loop the calls beside the one that asks may be that late."""
    agent = desk(ToolPolicy(ask=["refund(amount=5)"]), "tool node")
    looked_up = asyncio.Event()

    class Late(ToolNode):
        async def _arun_one(self, call, *args, **kwargs):
            if call["name"] == "look":
                await looked_up.wait()
            return await super()._arun_one(call, *args, **kwargs)

    async def play() -> Any:
        nodes = agent.graph.nodes["tools"].bound
        nodes.__class__ = Late
        await agent.graph.ainvoke(ASK, agent.config)
        looked_up.set()
        await asyncio.sleep(0.05)

    asyncio.run(play())

    assert [trace.status for trace in agent.pin.traces] == ["paused"]
    assert agent.ran == []
