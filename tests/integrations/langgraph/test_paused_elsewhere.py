"""A run that is paused in one process goes on in another: what it spent and did before still counts."""

from __future__ import annotations

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from shearpin import Budget, BudgetExceededError, Guard, Trace
from shearpin.testing import ScriptedServer, endless
from shearpin_integrations.langgraph import ShearpinCallbackHandler


@tool
def ask(question: str) -> str:
    """Ask a person."""
    return interrupt(question)


def visit(server: ScriptedServer, saver: InMemorySaver, asked: object) -> Trace:
    """One process's share of the thread: a new guard and a new graph know nothing but the checkpoint."""
    pin = Guard(Budget(llm_calls=3, usd=1))
    model = ChatOpenAI(model="gpt-4o", base_url=server.base_url, api_key="none", max_retries=0)
    agent = create_agent(model, [ask], checkpointer=saver)
    config = {"callbacks": [ShearpinCallbackHandler(pin)], "configurable": {"thread_id": "t"}}
    agent.invoke(asked, config)
    return pin.traces[-1]


def test_a_thread_resumed_in_another_process_never_gets_its_budget_again() -> None:
    saver = InMemorySaver()
    with ScriptedServer(endless("ask", {"question": "go on?"}, usage=(1000, 500))) as server:
        first = visit(server, saver, {"messages": [("user", "hi")]})
        second = visit(server, saver, Command(resume="yes"))
        third = visit(server, saver, Command(resume="yes"))
        with pytest.raises(BudgetExceededError) as stopped:
            visit(server, saver, Command(resume="yes"))
        assert server.served == 3
    counts = [(trace.status, trace.steps, trace.llm_calls, trace.tool_calls) for trace in (first, second, third)]
    assert counts == [("paused", 1, 1, 0), ("paused", 2, 2, 1), ("paused", 3, 3, 2)]
    assert stopped.value.spent == 3
    assert third.usage.cost_usd == pytest.approx(3 * 0.0075)
    assert second.spans[0].attributes["continues"] == first.trace_id


def test_a_new_message_on_a_paused_thread_is_a_new_run() -> None:
    saver = InMemorySaver()
    with ScriptedServer(endless("ask", {"question": "go on?"})) as server:
        visit(server, saver, {"messages": [("user", "hi")]})
        fresh = visit(server, saver, {"messages": [("user", "something else")]})
    assert fresh.llm_calls == 1


def test_a_forged_count_in_the_checkpoint_changes_nothing() -> None:
    pin = Guard(Budget(llm_calls=1))
    with pin.run() as run:
        for forged in ({}, {"llm_calls": -5}, "text", None, {**run.carry(), "usd": 1}, {**run.carry(), "steps": -1}):
            run.continue_from(forged)
        assert run.trace.llm_calls == 0
