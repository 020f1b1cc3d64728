"""A run that waits for an approval is one run, whoever goes on with it, and wherever."""

import asyncio
import json
from typing import Any

import pytest
from agents import RunState, function_tool
from agents.run import RunConfig

from shearpin import Budget, BudgetExceededError, LoopBreaker, LoopDetectedError
from shearpin.testing import Reply, Request, reply, tool_call, tool_calls
from tests.integrations.openai_agents.conftest import (
    MakeAgent,
    MakeGuard,
    Serve,
    arun,
    counts,
    finished,
    tool_of,
)

MODES = ("run", "run_streamed")


def careful_tool(ran: list[str], name: str = "delete") -> Any:
    """A tool that a person has to approve of."""

    @function_tool(name_override=name, needs_approval=True)
    async def delete(q: str = "") -> str:
        ran.append(q)
        return f"deleted {q}"

    return delete


def approved(result: Any) -> RunState[Any]:
    state = result.to_state()
    for item in result.interruptions:
        state.approve(item)
    return state


def one_deletion(request: Request) -> Reply:
    return reply("Done") if request.turn else tool_call("delete", {"q": "x"})


@pytest.mark.parametrize("way", ["hooks", "installed"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_paused_run_goes_on_as_the_same_run(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str, way: str
) -> None:
    ran: list[str] = []
    server, pin = serve(one_deletion), guarded()
    asked = agent(server, careful_tool(ran))
    paused = await arun(asked, pin, mode, way)
    assert ran == []
    assert (finished(pin).status, counts(finished(pin))) == ("paused", (1, 1, 0))
    trace = finished(pin)
    result = await arun(asked, pin, mode, way, approved(paused))
    assert result.final_output == "Done"
    assert ran == ["x"]
    assert finished(pin) is trace
    assert (trace.status, counts(trace), trace.output) == ("ok", (2, 2, 1), "Done")
    assert trace.usage.total_tokens >= sum(server.usage[:2])
    assert [span.step for span in trace.spans_of("tool")] == [1]


@pytest.mark.parametrize("mode", MODES)
async def test_what_was_spent_before_the_pause_still_counts(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    ran: list[str] = []
    server, pin = serve(lambda request: tool_call("delete", {"q": str(request.turn)})), guarded(Budget(llm_calls=2))
    asked = agent(server, careful_tool(ran))
    paused = await arun(asked, pin, mode)
    paused = await arun(asked, pin, mode, given=approved(paused))
    with pytest.raises(BudgetExceededError):
        await arun(asked, pin, mode, given=approved(paused))
    assert (server.served, ran) == (2, ["0", "1"])
    assert len(pin.traces) == 1


async def test_a_serialized_state_goes_on_as_the_same_run_in_this_process(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    server, pin = serve(one_deletion), guarded(Budget(llm_calls=2))
    asked = agent(server, careful_tool([]))
    kept = (await arun(asked, pin)).to_state().to_string()
    state = await RunState.from_string(asked, kept)
    for item in state.get_interruptions():
        state.approve(item)
    await arun(asked, pin, given=state)
    assert counts(finished(pin)) == (2, 2, 1)


@pytest.mark.parametrize("tracing_disabled", [False, True])
async def test_another_process_counts_on(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, tracing_disabled: bool
) -> None:
    ran: list[str] = []
    server = serve(lambda request: tool_call("delete", {"q": str(request.turn)}))
    asked = agent(server, careful_tool(ran))
    here, there = guarded(Budget(llm_calls=2, tool_calls=5)), guarded(Budget(llm_calls=2, tool_calls=5))
    config = RunConfig(tracing_disabled=tracing_disabled)
    kept = (await arun(asked, here, run_config=config)).to_state().to_string()
    for _ in range(2):
        state = await RunState.from_string(asked, kept)
        for item in state.get_interruptions():
            state.approve(item)
        # Another guard stands for another process: nothing else is shared.
        try:
            kept = (await arun(asked, there, given=state, run_config=config)).to_state().to_string()
        except BudgetExceededError:
            break
    assert (server.served, ran) == (2, ["0", "1"])
    trace = there.traces[-1]
    assert trace.spans[0].attributes["continues"] == finished(here).trace_id
    assert counts(trace) == (2, 2, 2)
    assert trace.status == "stopped"


async def test_a_loop_that_goes_through_pauses_is_one_loop(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    ran: list[str] = []
    server = serve(lambda request: tool_call("delete", {"q": "same"}))
    asked = agent(server, careful_tool(ran))
    state: Any = "Hello?"
    with pytest.raises(LoopDetectedError):
        for _ in range(10):
            pin = guarded(LoopBreaker(threshold=3))  # each in a process of its own
            result = await arun(asked, pin, given=state)
            state = await RunState.from_string(asked, result.to_state().to_string())
            for item in state.get_interruptions():
                state.approve(item)
    assert ran == ["same"] * 3


async def test_the_note_is_nobody_elses(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    """It must survive in the place that resuming.py writes to, and reach neither the model nor the user's context."""
    server, pin = serve(one_deletion), guarded()
    asked = agent(server, careful_tool([]))
    result = await arun(asked, pin, context={"mine": 1})
    kept = json.loads(result.to_state().to_string())
    (note,) = kept["trace"]["shearpin"]
    assert note["llm_calls"] == 1
    assert kept["context"]["context"] == {"mine": 1}
    await arun(asked, pin, given=approved(result))
    assert "shearpin" not in json.dumps([request.body for request in server.requests])


async def test_a_rejected_call_is_none(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    ran: list[str] = []
    server, pin = serve(one_deletion), guarded()
    asked = agent(server, careful_tool(ran))
    paused = await arun(asked, pin)
    state = paused.to_state()
    state.reject(paused.interruptions[0])
    await arun(asked, pin, given=state)
    assert ran == []
    assert counts(finished(pin)) == (2, 2, 0)


async def test_a_call_that_is_refused_after_approval_can_be_approved_again_from_what_was_kept(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server = serve(one_deletion)
    asked = agent(server, careful_tool(ran))
    strict, lenient = guarded(Budget(tool_calls=0)), guarded()
    kept = (await arun(asked, strict)).to_state().to_string()
    for pin, outcome in ((strict, "stopped"), (lenient, "ok")):
        state = await RunState.from_string(asked, kept)
        state.approve(state.get_interruptions()[0])
        try:
            await arun(asked, pin, given=state)
        except BudgetExceededError:
            assert ran == []
        assert pin.traces[-1].status == outcome
    assert ran == ["x"]


async def test_calls_beside_the_one_that_waits_have_run(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    ran: list[str] = []
    searched: list[str] = []

    def script(request: Request) -> Reply:
        return reply("Done") if request.turn else tool_calls([("search", {"q": "a"}), ("delete", {"q": "b"})])

    server, pin = serve(script), guarded()
    asked = agent(server, tool_of(searched), careful_tool(ran))
    paused = await arun(asked, pin)
    assert (searched, ran, counts(finished(pin))) == (["a"], [], (1, 1, 1))
    await arun(asked, pin, given=approved(paused))
    assert (searched, ran, counts(finished(pin))) == (["a"], ["b"], (2, 2, 2))


async def test_a_tool_agent_that_pauses_counts_once(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    ran: list[str] = []
    inner = serve(one_deletion)
    outer = serve(lambda request: reply("All done") if request.turn else tool_call("help", {"input": "x"}))
    helper = agent(inner, careful_tool(ran), name="helper")
    boss = agent(outer, helper.as_tool("help", "Helps."), name="boss")
    pin = guarded(Budget(llm_calls=10))
    paused = await arun(boss, pin)
    assert (finished(pin).status, ran) == ("paused", [])
    result = await arun(boss, pin, given=approved(paused))
    assert (result.final_output, ran) == ("All done", ["x"])
    trace = finished(pin)
    assert (inner.served, outer.served) == (2, 2)
    assert counts(trace) == (4, 4, 2)
    tools = {span.span_id: span.name for span in trace.spans_of("tool") if span.status == "ok"}
    assert sorted(tools.values()) == ["delete", "help"]
    assert [tools.get(span.parent_id or "") for span in trace.spans_of("agent")] == [None, None, "help"]


async def test_a_tool_agent_that_pauses_is_refused_when_it_goes_on(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    inner = serve(one_deletion)
    outer = serve(lambda request: tool_call("help", {"input": "x"}))
    boss = agent(outer, agent(inner, careful_tool(ran), name="helper").as_tool("help", "Helps."), name="boss")
    here, there = guarded(), guarded(Budget(tool_calls=0))
    kept = (await arun(boss, here)).to_state().to_string()
    state = await RunState.from_string(boss, kept)
    state.approve(state.get_interruptions()[0])
    with pytest.raises(BudgetExceededError):
        await arun(boss, there, given=state)
    assert (ran, inner.served, outer.served) == ([], 1, 1)


async def test_a_paused_run_that_nobody_resumes_is_paused(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve(one_deletion), guarded()
    await arun(agent(server, careful_tool([])), pin)
    assert finished(pin).status == "paused"
    assert pin.active == []


@pytest.mark.parametrize("workflow", [None, "desk"])
async def test_a_tool_that_waited_is_its_agents(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, workflow: str | None
) -> None:
    server = serve([tool_call("transfer_to_billing"), tool_call("delete", {"q": "x"}), reply("Done")])
    taker = agent(server, careful_tool([]), name="billing")
    asked, pin = agent(server, name="support", handoffs=[taker]), guarded()
    config = RunConfig(workflow_name=workflow) if workflow else None
    paused = await arun(asked, pin, run_config=config)
    await arun(asked, pin, given=approved(paused), run_config=config)
    trace = finished(pin)
    assert [(span.name, span.agent) for span in trace.spans_of("tool")] == [("delete", "billing")]
    before = [workflow, "support"] if workflow else ["support"]
    assert [span.name for span in trace.spans_of("agent")] == [*before, "billing", "billing"]
    assert [span.status for span in trace.spans_of("agent")][-2:] == ["paused", "ok"]
    assert counts(trace) == (3, 3, 1)


@pytest.mark.parametrize("mode", MODES)
async def test_a_refusal_beside_a_tool_agent_that_pauses_is_no_deadlock(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    searched: list[str] = []
    helper = agent(serve(one_deletion), careful_tool([]), name="helper").as_tool("help", "Helps.")
    batch = [("help", {"input": "x"}), ("search", {"q": "a"}), ("search", {"q": "b"})]
    outer, pin = serve([tool_calls(batch)]), guarded(Budget(tool_calls=2))
    async with asyncio.timeout(5):
        with pytest.raises(BudgetExceededError):
            await arun(agent(outer, helper, tool_of(searched), name="boss"), pin, mode)
    assert searched == ["a"]
    assert finished(pin).status == "stopped"
