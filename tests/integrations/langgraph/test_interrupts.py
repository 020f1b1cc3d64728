"""A run that waits for a person is paused, not ended; resumed, it is the same run, and nothing is counted twice."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, Interrupt, interrupt

from shearpin import Budget, BudgetExceededError, Guard, LoopBreaker, LoopDetectedError
from shearpin.testing import Script, endless, fake_clock, per_conversation, reply, tool_call, tool_calls
from shearpin_integrations.langchain.pausing import paused_of
from tests.integrations.langchain.conftest import (
    PRICES,
    Provider,
    acall,
    assert_complete,
    assert_nothing_left,
    call,
    counts,
    finished,
    outline,
    provided,
    watched,
)

provider = pytest.fixture(provided)

MODES = ("invoke", "stream", "ainvoke", "astream")
ASK: dict[str, Any] = {"messages": [("user", "Delete it.")]}


def tool_of(name: str, body: Callable[[str], object]) -> BaseTool:
    def work(q: str = "") -> object:
        return body(q)

    async def awork(q: str = "") -> object:
        return body(q)

    return StructuredTool.from_function(work, awork, name=name, description="Works.")


def asking_tool(ran: list[Any], name: str = "delete") -> BaseTool:
    """A tool that asks a person before it does anything."""

    def body(q: str) -> str:
        said = interrupt({"may I": q})
        ran.append((q, said))
        return f"{said}: {q}"

    return tool_of(name, body)


def asking(model: Any) -> RunnableLambda:
    """A node that asks the model once."""

    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    async def aask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return RunnableLambda(ask, aask)


def deleting(*, times: int = 1) -> Script:
    """A model that asks for the tool this often, one after the other."""
    return per_conversation([*[tool_call("delete", {"q": "x"})] * times, reply("Done")])


def agent_of(provider: Provider, script: Script, tools: list[BaseTool], **options: Any) -> Any:
    """An agent that keeps its state, as every agent that is resumed must."""
    return create_agent(provider.model(script), tools, checkpointer=InMemorySaver(), **options)


# --- a tool that asks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_waits_for_a_person_is_paused_and_not_complete(provider: Provider, mode: str) -> None:
    ran: list[Any] = []
    agent, pin = agent_of(provider, deleting(), [asking_tool(ran)]), Guard()

    call(mode, agent, ASK, watched(pin, thread="t1"))

    trace = finished(pin)
    assert (trace.status, trace.stop, ran) == ("paused", None, [])
    assert counts(trace) == (1, 1, 0)
    assert outline(trace, "status") == [
        "agent LangGraph paused",
        "  node model ok",
        "    llm gpt-4o ok",
        "  node tools paused",
        "    tool delete paused",
    ]
    assert [span.error for span in trace.spans if span.error] == []


@pytest.mark.parametrize("mode", MODES)
def test_resumed_it_is_the_same_run_and_its_tool_counts_once(provider: Provider, mode: str) -> None:
    ran: list[Any] = []
    agent, pin = agent_of(provider, deleting(), [asking_tool(ran)]), Guard()
    config = watched(pin, thread="t1")
    call(mode, agent, ASK, config)
    paused = pin.traces[0]

    call(mode, agent, Command(resume="yes"), config)

    trace = finished(pin)
    assert trace is paused
    assert (trace.status, ran) == ("ok", [("x", "yes")])
    assert counts(trace) == (2, 2, 1)
    assert outline(trace, "status") == [
        "agent LangGraph ok",
        "  node model ok",
        "    llm gpt-4o ok",
        "  node tools paused",
        "    tool delete paused",
        "  node tools ok",
        "    tool delete ok",
        "  node model ok",
        "    llm gpt-4o ok",
    ]
    before, after = trace.spans_of("tool")
    assert (before.call_id, before.retry, after.retry) == (after.call_id, 0, 0)
    assert (after.result, after.step) == ("yes: x", 1)
    assert [span.step for span in trace.spans_of("llm")] == [1, 2]
    assert trace.output is not None
    assert trace.usage.total_tokens == sum(provider.server.usage[:2])


def test_resumed_in_one_event_loop_it_is_the_same_run(provider: Provider) -> None:
    ran: list[Any] = []
    agent, pin = agent_of(provider, deleting(), [asking_tool(ran)]), Guard()
    config = watched(pin, thread="t1")

    async def main() -> None:
        await acall("ainvoke", agent, ASK, config)
        await acall("astream", agent, Command(resume="yes"), config)

    asyncio.run(main())

    assert (counts(finished(pin)), ran) == ((2, 2, 1), [("x", "yes")])


def test_resumed_under_another_handler_of_the_guard_it_is_the_same_run(provider: Provider) -> None:
    """As in a server, which makes its handler with each request."""
    agent, pin = agent_of(provider, deleting(), [asking_tool([])]), Guard()

    agent.invoke(ASK, watched(pin, thread="t1"))
    agent.invoke(Command(resume="yes"), watched(pin, thread="t1"))

    assert counts(finished(pin)) == (2, 2, 1)


@pytest.mark.parametrize("mode", MODES)
def test_what_was_spent_before_the_pause_still_counts(provider: Provider, mode: str) -> None:
    script = per_conversation([*[tool_call("look", {"q": "x"})], *[tool_call("delete", {"q": "x"})] * 5])
    ran: list[Any] = []
    tools = [asking_tool(ran), tool_of("look", lambda q: q)]
    agent, pin = agent_of(provider, script, tools), Guard(Budget(llm_calls=3))
    config = watched(pin, thread="t1")

    call(mode, agent, ASK, config)
    assert (provider.server.served, pin.traces[0].status) == (2, "paused")
    call(mode, agent, Command(resume="yes"), config)
    assert (provider.server.served, pin.traces[0].status) == (3, "paused")
    with pytest.raises(BudgetExceededError) as stopped:
        call(mode, agent, Command(resume="yes"), config)

    assert stopped.value.spent == 3
    trace = finished(pin)
    assert (provider.server.served, trace.status, counts(trace)) == (3, "stopped", (3, 3, 3))


@pytest.mark.parametrize("unit", ["llm_calls", "tool_calls", "steps"])
def test_pausing_again_and_again_never_refills_a_budget(provider: Provider, unit: str) -> None:
    ran: list[Any] = []
    agent = agent_of(provider, endless("delete", {"q": "x"}), [asking_tool(ran)])
    pin = Guard(Budget(**{unit: 4}))
    config = watched(pin, thread="t1")
    agent.invoke(ASK, config)

    with pytest.raises(BudgetExceededError):
        for _ in range(20):
            agent.invoke(Command(resume="yes"), config)

    assert (provider.server.served, len(ran)) == (4 + (unit == "tool_calls"), 4)
    trace = finished(pin)
    assert counts(trace) == (provider.server.served, provider.server.served, 4)


def test_money_spent_before_the_pause_still_counts(provider: Provider) -> None:
    costs = tool_call("delete", {"q": "x"}, usage=(0, 1000))  # one cent
    ran: list[Any] = []
    agent = create_agent(
        provider.model(lambda _: costs, max_tokens=1000), [asking_tool(ran)], checkpointer=InMemorySaver()
    )
    pin = Guard(Budget(usd=0.0349), prices=PRICES)
    config = watched(pin, thread="t1")
    agent.invoke(ASK, config)

    with pytest.raises(BudgetExceededError) as stopped:
        for _ in range(20):
            agent.invoke(Command(resume="yes"), config)

    assert provider.server.served == 3
    assert stopped.value.spent == pytest.approx(0.03)
    assert finished(pin).usage.cost_usd == pytest.approx(0.03)


def test_only_the_time_a_run_is_active_counts(provider: Provider) -> None:
    with fake_clock() as clock:
        agent, pin = agent_of(provider, deleting(), [asking_tool([])]), Guard(Budget(seconds=10))
        config = watched(pin, thread="t1")
        agent.invoke(ASK, config)

        clock.advance(3600)
        agent.invoke(Command(resume="yes"), config)

    trace = finished(pin)
    assert trace.status == "ok"
    assert trace.ended_ns - trace.started_ns >= 3600e9  # type: ignore[operator]


@pytest.mark.parametrize("mode", MODES)
def test_two_threads_paused_on_one_handler_do_not_mix(provider: Provider, mode: str) -> None:
    ran: list[Any] = []
    agent, pin = agent_of(provider, deleting(), [asking_tool(ran)]), Guard(Budget(llm_calls=2))
    callbacks = watched(pin)["callbacks"]
    first, second = ({"callbacks": callbacks, "configurable": {"thread_id": f"t{n}"}} for n in (1, 2))
    call(mode, agent, ASK, first)
    call(mode, agent, ASK, second)

    call(mode, agent, Command(resume="second"), second)
    call(mode, agent, Command(resume="first"), first)

    assert [(trace.session_id, trace.status, counts(trace)) for trace in pin.traces] == [
        ("t2", "ok", (2, 2, 1)),
        ("t1", "ok", (2, 2, 1)),
    ]
    assert [span.result for trace in pin.traces for span in trace.spans_of("tool") if span.status == "ok"] == [
        "second: x",
        "first: x",
    ]
    for trace in pin.traces:
        assert_complete(trace)
    assert_nothing_left(pin)


def test_many_threads_paused_and_resumed_at_once_do_not_mix(provider: Provider) -> None:
    agent, pin = agent_of(provider, deleting(), [asking_tool([])]), Guard(Budget(llm_calls=2, tool_calls=1))
    callbacks = watched(pin)["callbacks"]
    configs = [{"callbacks": callbacks, "configurable": {"thread_id": f"t{number}"}} for number in range(8)]

    async def main() -> None:
        await asyncio.gather(*(agent.ainvoke(ASK, config) for config in configs))
        await asyncio.gather(*(agent.ainvoke(Command(resume="yes"), config) for config in reversed(configs)))

    asyncio.run(main())

    assert sorted(str(trace.session_id) for trace in pin.traces) == [f"t{number}" for number in range(8)]
    for trace in pin.traces:
        assert_complete(trace)
        assert (trace.status, counts(trace)) == ("ok", (2, 2, 1))
    assert_nothing_left(pin)


def test_two_guards_on_one_paused_thread_go_on_with_a_run_each(provider: Provider) -> None:
    first, second = Guard(), Guard()
    agent = agent_of(provider, deleting(), [asking_tool([])])
    config = watched(first, thread="t1")
    config["callbacks"] += watched(second)["callbacks"]

    agent.invoke(ASK, config)
    agent.invoke(Command(resume="yes"), config)

    assert counts(finished(first)) == counts(finished(second)) == (2, 2, 1)
    assert first.traces[0].trace_id != second.traces[0].trace_id


@pytest.mark.parametrize("mode", MODES)
def test_a_new_message_instead_of_a_resume_is_a_new_run(provider: Provider, mode: str) -> None:
    agent, pin = agent_of(provider, deleting(), [asking_tool([])]), Guard(Budget(llm_calls=1))
    config = watched(pin, thread="t1")
    call(mode, agent, ASK, config)

    call(mode, agent, {"messages": [("user", "Never mind.")]}, config)

    first, second = pin.traces
    assert first.trace_id != second.trace_id
    assert first.status == "paused"
    assert counts(second)[1] == 1
    assert_nothing_left(pin)


def test_a_resume_after_that_goes_on_with_the_newer_run(provider: Provider) -> None:
    """The older one is given up: what a person then answers belongs to what was asked last."""
    agent, pin = agent_of(provider, endless("delete", {"q": "x"}), [asking_tool([])]), Guard(Budget(llm_calls=2))
    config = watched(pin, thread="t1")
    agent.invoke(ASK, config)
    agent.invoke({"messages": [("user", "No, delete the other.")]}, config)

    agent.invoke(Command(resume="yes"), config)

    first, second = pin.traces
    assert (counts(first)[1], counts(second)[1]) == (1, 2)


def test_a_resume_of_a_thread_nobody_paused_here_is_a_run_of_its_own(provider: Provider) -> None:
    agent, pin = agent_of(provider, deleting(), [asking_tool([])]), Guard()
    config = watched(pin, thread="t1")
    agent.invoke(ASK, {"configurable": {"thread_id": "t1"}})  # as if in another process, which had no guard

    agent.invoke(Command(resume="yes"), config)

    assert counts(finished(pin))[1:] == (1, 1)


# --- a node that asks -------------------------------------------------------------------------------------------------


def approving_graph(ran: list[Any], **options: Any) -> Any:
    def approve(state: MessagesState) -> dict[str, Any]:
        said = interrupt("go on?")
        ran.append(said)
        return {"messages": [("user", said)]}

    async def aapprove(state: MessagesState) -> dict[str, Any]:
        return approve(state)

    builder = StateGraph(MessagesState)
    builder.add_node("approve", RunnableLambda(approve, aapprove))
    builder.add_edge(START, "approve")
    return builder.compile(checkpointer=InMemorySaver(), **options)


@pytest.mark.parametrize("mode", MODES)
def test_a_node_that_was_paused_is_one_step_once_it_ran(mode: str) -> None:
    ran: list[Any] = []
    graph, pin = approving_graph(ran), Guard(Budget(steps=1))
    config = watched(pin, thread="t1")

    call(mode, graph, ASK, config)
    assert (pin.traces[0].status, pin.traces[0].steps) == ("paused", 0)
    call(mode, graph, Command(resume="yes"), config)

    trace = finished(pin)
    assert (trace.status, counts(trace), ran) == ("ok", (1, 0, 0), ["yes"])
    assert [span.status for span in trace.spans_of("node")] == ["paused", "ok"]


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_paused_before_a_node_goes_on_without_an_input(provider: Provider, mode: str) -> None:
    model = provider.model(per_conversation([reply("one"), reply("two")]))
    builder = StateGraph(MessagesState)
    builder.add_node("first", asking(model))
    builder.add_node("second", asking(model))
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    graph = builder.compile(checkpointer=InMemorySaver(), interrupt_before=["second"])
    pin = Guard()
    config = watched(pin, thread="t1")

    call(mode, graph, ASK, config)
    paused = pin.traces[0].status
    call(mode, graph, None, config)

    trace = finished(pin)
    assert (paused, trace.status, counts(trace)) == ("paused", "ok", (2, 2, 0))


@pytest.mark.parametrize("mode", MODES)
def test_a_sub_graph_that_pauses_pauses_the_whole_run(provider: Provider, mode: str) -> None:
    ran: list[Any] = []
    builder = StateGraph(MessagesState)
    inner = create_agent(provider.model(deleting()), [asking_tool(ran)], name="inner")
    builder.add_node("inner", inner)
    builder.add_edge(START, "inner")
    graph, pin = builder.compile(checkpointer=InMemorySaver()), Guard()
    config = watched(pin, thread="t1")

    call(mode, graph, ASK, config)
    assert pin.traces[0].status == "paused"
    assert {span.status for span in pin.traces[0].spans} == {"ok", "paused"}
    call(mode, graph, Command(resume="yes"), config)

    trace = finished(pin)
    assert (trace.status, counts(trace), ran) == ("ok", (2, 2, 1), [("x", "yes")])


@pytest.mark.parametrize("mode", MODES)
def test_two_tools_that_ask_at_once_are_each_counted_once(provider: Provider, mode: str) -> None:
    ran: list[Any] = []
    script = per_conversation([tool_calls([("delete", {"q": "x"}), ("delete", {"q": "y"})]), reply("Done")])
    agent, pin = agent_of(provider, script, [asking_tool(ran)]), Guard(Budget(tool_calls=2))
    config = watched(pin, thread="t1")

    call(mode, agent, ASK, config)
    waiting = agent.get_state(config).interrupts
    call(mode, agent, Command(resume={waiting[0].id: "yes"}), config)
    assert pin.traces[0].status == "paused"
    call(mode, agent, Command(resume={waiting[1].id: "no"}), config)

    trace = finished(pin)
    assert (trace.status, counts(trace)) == ("ok", (2, 2, 2))
    assert sorted(ran) == [("x", "yes"), ("y", "no")]


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_beside_one_that_asks_is_not_run_nor_counted_again(provider: Provider, mode: str) -> None:
    ran: list[Any] = []
    script = per_conversation([tool_calls([("look", {"q": "x"}), ("delete", {"q": "y"})]), reply("Done")])
    tools = [asking_tool(ran), tool_of("look", lambda q: ran.append(q) or q)]
    agent, pin = agent_of(provider, script, tools), Guard(Budget(tool_calls=2))
    config = watched(pin, thread="t1")

    call(mode, agent, ASK, config)
    call(mode, agent, Command(resume="yes"), config)

    trace = finished(pin)
    assert (trace.status, counts(trace), ran) == ("ok", (2, 2, 2), ["x", ("y", "yes")])


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_node_that_runs_again_as_a_whole_counts_what_it_runs_again(provider: Provider, mode: str) -> None:
    """In a `ToolNode` of one's own, all calls share a node: LangGraph runs the finished ones again."""
    ran: list[Any] = []
    tools = [tool_of("look", lambda q: ran.append(q) or q), asking_tool(ran)]
    script = per_conversation([tool_calls([("look", {"q": "x"}), ("delete", {"q": "y"})]), reply("Done")])
    model = provider.model(script).bind_tools(tools)

    builder = StateGraph(MessagesState)
    builder.add_node("ask", asking(model))
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", tools_condition)
    builder.add_edge("tools", "ask")
    graph, pin = builder.compile(checkpointer=InMemorySaver()), Guard()
    config = watched(pin, thread="t1")

    call(mode, graph, ASK, config)
    call(mode, graph, Command(resume="yes"), config)

    trace = finished(pin)
    bodies = len(ran)
    assert (trace.status, counts(trace)) == ("ok", (2, 2, bodies))
    assert [span.status for span in trace.spans_of("tool") if span.name == "look"] == ["ok"] * (bodies - 1)


@pytest.mark.parametrize("mode", MODES)
def test_answers_from_before_the_pause_are_not_counted_again_after_it(provider: Provider, mode: str) -> None:
    """A node that passes the conversation on, as one that trims it does, ran nothing."""
    ran: list[Any] = []
    tools = [tool_of("look", lambda q: ran.append(q) or q)]
    model = provider.model(per_conversation([tool_call("look", {"q": "x"}), reply("Done")])).bind_tools(tools)
    builder = StateGraph(MessagesState)
    builder.add_node("ask", asking(model))
    builder.add_node("tools", ToolNode(tools))
    builder.add_node("approve", lambda state: interrupt("go on?") and {})
    builder.add_node("trim", lambda state: {"messages": state["messages"]})
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", tools_condition)
    builder.add_edge("tools", "approve")
    builder.add_edge("approve", "trim")
    builder.add_edge("trim", "ask")
    graph, pin = builder.compile(checkpointer=InMemorySaver()), Guard()
    config = watched(pin, thread="t1")

    call(mode, graph, ASK, config)
    call(mode, graph, Command(resume="yes"), config)

    assert (counts(finished(pin)), ran) == ((4, 2, 1), ["x"])


# --- LangChain's own approval -----------------------------------------------------------------------------------------


def approved_agent(provider: Provider, script: Script, ran: list[Any], **options: Any) -> Any:
    tools = [tool_of("delete", lambda q: ran.append(q) or f"deleted {q}")]
    return agent_of(
        provider, script, tools, middleware=[HumanInTheLoopMiddleware(interrupt_on={"delete": True})], **options
    )


DECISIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "approve": ({"type": "approve"}, ["x"]),
    "edit": ({"type": "edit", "edited_action": {"name": "delete", "args": {"q": "y"}}}, ["y"]),
    "reject": ({"type": "reject", "message": "no"}, []),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("decision", DECISIONS)
def test_an_approved_tool_is_counted_once_and_a_rejected_one_not_at_all(
    provider: Provider, decision: str, mode: str
) -> None:
    said, expected = DECISIONS[decision]
    ran: list[Any] = []
    agent, pin = approved_agent(provider, deleting(), ran), Guard(Budget(tool_calls=1, llm_calls=2))
    config = watched(pin, thread="t1")

    call(mode, agent, ASK, config)
    assert (pin.traces[0].status, counts(pin.traces[0])) == ("paused", (1, 1, 0))
    call(mode, agent, Command(resume={"decisions": [said]}), config)

    trace = finished(pin)
    assert (trace.status, ran, counts(trace)[:2]) == ("ok", expected, (2, 2))
    tools = trace.spans_of("tool")
    assert [(tool.status, tool.arguments) for tool in tools] == [("ok", {"q": q}) for q in expected]
    assert trace.tool_calls == len(expected)


def test_calls_that_a_person_rejects_use_no_budget_but_are_a_loop(provider: Provider) -> None:
    ran: list[Any] = []
    agent = approved_agent(provider, endless("delete", {"q": "x"}), ran)
    pin = Guard(Budget(tool_calls=1), LoopBreaker())
    config, rejected = watched(pin, thread="t1"), Command(resume={"decisions": [{"type": "reject", "message": "no"}]})

    call("invoke", agent, ASK, config)
    with pytest.raises(LoopDetectedError, match="came 3 times"):
        for _ in range(9):
            call("invoke", agent, rejected, config)

    assert (ran, pin.traces[-1].tool_calls, provider.server.served) == ([], 0, 4)


def test_approving_again_and_again_never_refills_a_budget(provider: Provider) -> None:
    ran: list[Any] = []
    agent = approved_agent(provider, endless("delete", {"q": "x"}), ran)
    pin = Guard(Budget(llm_calls=3))
    config = watched(pin, thread="t1")
    agent.invoke(ASK, config)

    with pytest.raises(BudgetExceededError):
        for _ in range(20):
            agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config)

    assert (provider.server.served, len(ran)) == (3, 3)
    assert counts(finished(pin)) == (3, 3, 3)


# --- what a paused run is ---------------------------------------------------------------------------------------------


def test_a_paused_run_is_not_live_and_its_resumption_is(provider: Provider) -> None:
    seen: list[int] = []

    def body(q: str) -> str:
        interrupt("?")
        seen.append(len(pin.active))
        return "done"

    agent, pin = agent_of(provider, deleting(), [tool_of("delete", body)]), Guard()
    config = watched(pin, thread="t1")

    agent.invoke(ASK, config)
    assert pin.active == []
    agent.invoke(Command(resume="yes"), config)

    assert (seen, pin.active) == ([1], [])


def test_exporters_hear_of_the_pause_and_of_the_end(provider: Provider) -> None:
    heard: list[tuple[str, str]] = []

    class Notes:
        def span_started(self, trace: Any, span: Any) -> None: ...
        def span_ended(self, trace: Any, span: Any) -> None: ...
        def run_ended(self, trace: Any) -> None:
            heard.append((trace.trace_id, trace.status))

        def close(self) -> None: ...

    pin = Guard(exporters=[Notes()])
    agent = agent_of(provider, deleting(), [asking_tool([])])
    config = watched(pin, thread="t1")

    agent.invoke(ASK, config)
    agent.invoke(Command(resume="yes"), config)

    trace = finished(pin)
    assert heard == [(trace.trace_id, "paused"), (trace.trace_id, "ok")]


def test_a_run_stopped_while_a_sibling_asks_is_stopped_and_not_paused(provider: Provider) -> None:
    ran: list[Any] = []
    script = per_conversation([tool_calls([("delete", {"q": "x"}), ("look", {"q": "y"}), ("look", {"q": "z"})])])
    tools = [asking_tool(ran), tool_of("look", lambda q: ran.append(q) or q)]
    agent, pin = agent_of(provider, script, tools), Guard(Budget(tool_calls=1))
    config = watched(pin, thread="t1")

    with pytest.raises(BudgetExceededError):
        agent.invoke(ASK, config)

    assert finished(pin).status == "stopped"
    assert len(ran) <= 1


@pytest.mark.parametrize("mode", MODES)
def test_a_stopped_run_is_no_paused_one_and_a_resume_after_it_starts_afresh(provider: Provider, mode: str) -> None:
    """The limit was raised, say: what was stopped is over, and the thread goes on in a run of its own."""
    ran: list[Any] = []
    agent = agent_of(provider, deleting(), [tool_of("delete", lambda q: ran.append(q) or q)])
    first, second = Guard(Budget(llm_calls=1)), Guard(Budget(llm_calls=1))
    with pytest.raises(BudgetExceededError):
        call(mode, agent, ASK, watched(first, thread="t1"))

    call(mode, agent, None, watched(second, thread="t1"))

    assert (ran, counts(finished(first)), finished(second).llm_calls) == (["x"], (1, 1, 1), 1)
    assert finished(second).status == "ok"


def test_a_pause_that_nothing_keeps_is_not_complete_either(provider: Provider) -> None:
    agent, pin = create_agent(provider.model(deleting()), [asking_tool([])]), Guard()

    with suppress(RuntimeError):  # some versions of LangGraph refuse, others return
        agent.invoke(ASK, watched(pin))

    trace = finished(pin)
    assert (trace.status in {"paused", "error"}, counts(trace)) == (True, (1, 1, 0))


def test_a_guard_is_not_kept_by_the_runs_it_has_paused(provider: Provider) -> None:
    agent, pin = agent_of(provider, deleting(), [asking_tool([])]), Guard()
    agent.invoke(ASK, watched(pin, thread="t1"))
    gone = weakref.ref(pin)

    del pin
    gc.collect()

    assert gone() is None


def test_nothing_of_a_thread_is_kept_once_its_run_has_ended(provider: Provider) -> None:
    agent, pin = agent_of(provider, deleting(), [asking_tool([])]), Guard()
    config = watched(pin, thread="t1")
    agent.invoke(ASK, config)
    assert paused_of(pin).threads == ["t1"]

    agent.invoke(Command(resume="yes"), config)

    assert paused_of(pin).threads == []
    assert [m for m in agent.get_state(config).values["messages"] if isinstance(m, (AIMessage, ToolMessage))]
    assert agent.get_state(config).interrupts == ()


def test_what_was_asked_of_the_person_reaches_the_caller_untouched(provider: Provider) -> None:
    agent, pin = agent_of(provider, deleting(), [asking_tool([])]), Guard()

    got = agent.invoke(ASK, watched(pin, thread="t1"))

    (asked,) = got["__interrupt__"]
    assert isinstance(asked, Interrupt)
    assert asked.value == {"may I": "x"}
