"""A policy inside the SDK: denied before the tool, told to the model, asked by the SDK's own pause."""

import asyncio
import gc
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    CustomTool,
    LocalShellTool,
    Model,
    ModelResponse,
    RunHooks,
    Runner,
    RunState,
    Tool,
    Usage,
    function_tool,
)
from agents.mcp import MCPServerStdio
from agents.run import AgentRunner, get_default_agent_runner, set_default_agent_runner
from openai.types.responses import ResponseCustomToolCall
from openai.types.responses.response_output_item import LocalShellCall, LocalShellCallAction

from shearpin import ApprovalRejectedError, Budget, EnforcementGapWarning, Guard, ToolDeniedError, ToolPolicy
from shearpin.testing import Reply, Request, ScriptedServer, reply, tool_call, tool_calls
from shearpin_integrations.openai_agents import ShearpinRunHooks
from tests.integrations.openai_agents.conftest import (
    MCP_SERVER,
    MakeAgent,
    MakeGuard,
    Serve,
    arun,
    counts,
    finished,
    tool_of,
)

MODES = ("run", "run_streamed")
WAYS = ("hooks", "installed", "attached")
both_modes = pytest.mark.parametrize("mode", MODES)
all_ways = pytest.mark.parametrize("way", WAYS)

DENIED = "The call of refund was denied and did not run: denied by the policy. Do not repeat it."


def three_calls(request: Request) -> Reply:
    """One look and two refunds in one reply; then the end."""
    calls = [("look", {"q": "orders"}), ("refund", {"q": "five"}), ("refund", {"q": "seven"})]
    return reply("Sorted out.") if request.turn else tool_calls(calls)


class Desk:
    """An agent of two tools."""

    def __init__(self, server: ScriptedServer, agent: MakeAgent) -> None:
        self.ran: list[str] = []
        self.server = server
        self.look, self.refund = tool_of(self.ran, "look"), tool_of(self.ran, "refund")
        self.before = vars(self.look).copy(), vars(self.refund).copy()
        self.agent = agent(server, self.look, self.refund)

    def assert_untouched(self) -> None:
        """Its tools are what they were."""
        assert (vars(self.look), vars(self.refund)) == self.before

    @property
    def answers(self) -> list[str]:
        """What the model was told in the place of its calls, the last time it was asked."""
        messages = self.server.requests[-1].body["messages"]
        return [message["content"] for message in messages if message["role"] == "tool"]


@pytest.fixture
def desk(serve: Serve, agent: MakeAgent) -> Desk:
    return Desk(serve(three_calls), agent)


def verdicts(pin: Guard) -> list[tuple[str, Any]]:
    return sorted((str(decision.verdict), decision.facts.get("tool")) for decision in pin.traces[-1].decisions)


# --- denied


@both_modes
@all_ways
async def test_a_denied_call_stops_the_run_and_its_tool_never_runs(
    desk: Desk, guarded: MakeGuard, mode: str, way: str
) -> None:
    pin = guarded(ToolPolicy(deny=["refund(q=seven)"]))
    with pytest.raises(ToolDeniedError):
        await arun(desk.agent, pin, mode, way)
    assert "seven" not in desk.ran
    assert (desk.server.served, finished(pin).status) == (1, "stopped")


@both_modes
@all_ways
async def test_a_told_denial_is_the_tools_answer_and_the_agent_goes_on(
    desk: Desk, guarded: MakeGuard, mode: str, way: str
) -> None:
    pin = guarded(ToolPolicy(deny=["refund(q=five)"], on_deny="tell"))
    result = await arun(desk.agent, pin, mode, way)
    assert result.final_output == "Sorted out."
    assert desk.answers == ["found orders", DENIED, "found seven"]
    assert sorted(desk.ran) == ["orders", "seven"]
    assert (finished(pin).status, counts(finished(pin))) == ("ok", (2, 2, 2))
    assert verdicts(pin) == [("allow", "look"), ("allow", "refund"), ("deny", "refund")]
    desk.assert_untouched()


async def test_runs_that_share_a_tool_do_not_share_its_denials(desk: Desk, guarded: MakeGuard) -> None:
    strict, free = guarded(ToolPolicy(deny=["refund"], on_deny="tell")), guarded(Budget(tool_calls=30))
    await asyncio.gather(*(arun(desk.agent, pin) for pin in (strict, free) * 5))
    assert [counts(trace)[2] for trace in strict.traces] == [1] * 5
    assert [counts(trace)[2] for trace in free.traces] == [3] * 5
    assert (desk.ran.count("orders"), desk.ran.count("five"), desk.ran.count("seven")) == (10, 5, 5)
    desk.assert_untouched()


async def test_hooks_of_the_users_own_are_not_told_of_a_denied_call(desk: Desk, guarded: MakeGuard) -> None:
    told: list[str] = []

    class Mine(RunHooks[Any]):
        async def on_tool_start(self, context: Any, agent: Agent[Any], tool: Tool) -> None:
            told.append(f"{tool.name} starts")

        async def on_tool_end(self, context: Any, agent: Agent[Any], tool: Tool, result: object) -> None:
            told.append(f"{tool.name} ends")

    await arun(desk.agent, guarded(ToolPolicy(deny=["refund"], on_deny="tell")), wrap=Mine())
    assert told == ["look starts", "look ends"]


async def test_hooks_that_call_ours_stop_the_run_in_place_of_telling_the_model(desk: Desk, guarded: MakeGuard) -> None:
    """Which task the tool will run in is not known to hooks that are called by hooks."""
    pin = guarded(ToolPolicy(deny=["refund"], on_deny="tell"))

    class Mine(RunHooks[Any]):
        ours = ShearpinRunHooks(pin)

        async def on_tool_start(self, context: Any, agent: Agent[Any], tool: Tool) -> None:
            await self.ours.on_tool_start(context, agent, tool)

        async def on_llm_start(self, context: Any, agent: Any, system_prompt: Any, input_items: Any) -> None:
            await self.ours.on_llm_start(context, agent, system_prompt, input_items)

    with pytest.raises(ToolDeniedError):
        await Runner.run(desk.agent, "Hello?", hooks=Mine())
    assert {"five", "seven"}.isdisjoint(desk.ran)
    assert pin.traces[-1].status == "stopped"


class Once(Model):
    """Answers with one call of a kind that the scripted server has no words for, and then with nothing."""

    def __init__(self, *items: Any) -> None:
        self.replies: list[list[Any]] = [list(items), []]

    async def get_response(self, *_: Any, **__: Any) -> ModelResponse:
        usage = Usage(requests=1, input_tokens=5, output_tokens=2, total_tokens=7)
        return ModelResponse(output=self.replies.pop(0), usage=usage, response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


async def test_a_shell_is_stopped_where_the_model_was_to_be_told(guarded: MakeGuard) -> None:
    ran: list[Any] = []

    def shell(request: Any) -> str:
        ran.append(request)
        return "files"

    action = LocalShellCallAction(command=["ls"], env={}, type="exec")
    call = LocalShellCall(id="c1", call_id="c1", action=action, status="completed", type="local_shell_call")
    pin = guarded(ToolPolicy(deny=["local_shell"], on_deny="tell"))
    with pytest.raises(ToolDeniedError) as stop:
        await arun(Agent(name="a", model=Once(call), tools=[LocalShellTool(shell)]), pin)
    assert (ran, finished(pin).stop.error) == ([], stop.value)
    assert verdicts(pin) == [("deny", "local_shell"), ("stop", "local_shell")]


async def test_a_tool_of_free_text_tells_the_model(guarded: MakeGuard) -> None:
    ran: list[str] = []

    async def write(context: Any, text: str) -> str:
        ran.append(text)
        return "written"

    tool = CustomTool(name="write", description="Writes.", on_invoke_tool=write)
    calls = [
        ResponseCustomToolCall(call_id=f"c{number}", input=text, name="write", type="custom_tool_call")
        for number, text in enumerate(("good", "bad"))
    ]
    pin = guarded(ToolPolicy(deny=[lambda request: "bad" in str(request.arguments)], on_deny="tell"))
    result = await arun(Agent(name="a", model=Once(*calls), tools=[tool]), pin)
    outputs = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
    assert (ran, outputs[0]) == (["good"], "written")
    assert "The call of write was denied" in outputs[1]
    assert tool.on_invoke_tool is write
    assert counts(finished(pin))[2] == 1


@pytest.fixture
def nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)


@pytest.mark.slow
@pytest.mark.usefixtures("nobody_there")
@pytest.mark.parametrize("policy", [{"deny": ["note"]}, {"ask": ["note"]}], ids=["deny", "ask"])
async def test_a_tool_of_an_mcp_server_is_denied_and_where_nobody_sits_at_a_terminal_not_approved(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, tmp_path: Path, policy: dict[str, Any]
) -> None:
    noted, script = tmp_path / "notes", tmp_path / "server.py"
    script.write_text(MCP_SERVER.format(path=str(noted)))
    server = serve([tool_call("note", {"text": "x"}), reply("Done")])
    pin = guarded(ToolPolicy(**policy, on_deny="tell"))
    async with MCPServerStdio({"command": sys.executable, "args": [str(script)]}) as notes:
        result = await arun(agent(server, mcp_servers=[notes]), pin)
    assert (result.final_output, result.interruptions, noted.exists()) == ("Done", [], False)
    assert "The call of note was denied and did not run" in str(server.requests[-1].body["messages"])


# --- asked


def decided(result: Any, **answers: bool) -> RunState[Any]:
    """The state to go on with: each call that waits approved or rejected by its argument."""
    state = result if isinstance(result, RunState) else result.to_state()
    for item in state.get_interruptions():
        answer = answers.get(json.loads(item.raw_item.arguments)["q"])
        if answer is not None:
            (state.approve if answer else state.reject)(item)
    return state


@both_modes
@all_ways
async def test_an_approved_call_runs_once_and_so_do_those_beside_it(
    desk: Desk, guarded: MakeGuard, mode: str, way: str
) -> None:
    pin = guarded(ToolPolicy(ask=["refund"]))
    paused = await arun(desk.agent, pin, mode, way)
    assert [item.tool_name for item in paused.interruptions] == ["refund", "refund"]
    assert (desk.ran, finished(pin).status, counts(finished(pin))) == (["orders"], "paused", (1, 1, 1))
    assert verdicts(pin) == [("allow", "look"), ("ask", "refund"), ("ask", "refund")]
    desk.assert_untouched()
    result = await arun(desk.agent, pin, mode, way, decided(paused, five=True, seven=True))
    assert result.final_output == "Sorted out."
    assert sorted(desk.ran) == ["five", "orders", "seven"]
    trace = finished(pin)
    assert (trace.status, counts(trace)) == ("ok", (2, 2, 3))
    assert verdicts(pin) == [("allow", "look"), *[("approved", "refund")] * 2, *[("ask", "refund")] * 2]
    spans = {span.span_id for span in trace.spans_of("tool") if span.name == "refund"}
    assert {decision.touched for decision in trace.decisions if decision.verdict == "approved"} == spans
    desk.assert_untouched()


@both_modes
async def test_an_approved_call_runs_in_another_process(desk: Desk, guarded: MakeGuard, mode: str) -> None:
    here, there = guarded(ToolPolicy(ask=["refund"])), guarded(ToolPolicy(ask=["refund"]), Budget(llm_calls=2))
    kept = (await arun(desk.agent, here, mode)).to_state().to_string()
    state = decided(await RunState.from_string(desk.agent, kept), five=True, seven=True)
    result = await arun(desk.agent, there, mode, given=state)
    assert (result.final_output, sorted(desk.ran)) == ("Sorted out.", ["five", "orders", "seven"])
    assert (there.traces[-1].status, counts(there.traces[-1])) == ("ok", (2, 2, 3))
    assert [verdict for verdict, _ in verdicts(there)].count("approved") == 2


@both_modes
@all_ways
async def test_a_rejected_call_stops_the_run_before_the_model_is_asked_again(
    desk: Desk, guarded: MakeGuard, mode: str, way: str
) -> None:
    pin = guarded(ToolPolicy(ask=["refund"]))
    paused = await arun(desk.agent, pin, mode, way)
    state = paused.to_state()
    for item in state.get_interruptions():
        state.reject(item, rejection_message="too much")
    with pytest.raises(ApprovalRejectedError, match="refund was not approved: too much"):
        await arun(desk.agent, pin, mode, way, state)
    assert (desk.ran, desk.server.served, finished(pin).status) == (["orders"], 1, "stopped")
    assert ("rejected", "refund") in verdicts(pin)


@both_modes
async def test_a_call_beside_a_rejected_one_runs_if_the_model_is_told(
    desk: Desk, guarded: MakeGuard, mode: str
) -> None:
    pin = guarded(ToolPolicy(ask=["refund"], on_deny="tell"))
    paused = await arun(desk.agent, pin, mode)
    result = await arun(desk.agent, pin, mode, given=decided(paused, five=True, seven=False))
    assert result.final_output == "Sorted out."
    assert sorted(desk.ran) == ["five", "orders"]
    assert (finished(pin).status, counts(finished(pin))) == ("ok", (2, 2, 2))
    expected = [("allow", "look"), ("approved", "refund"), ("ask", "refund"), ("ask", "refund"), ("rejected", "refund")]
    assert verdicts(pin) == expected


async def test_a_rejection_is_one_in_another_process(desk: Desk, guarded: MakeGuard) -> None:
    here, there = guarded(ToolPolicy(ask=["refund"])), guarded(ToolPolicy(ask=["refund"]))
    kept = (await arun(desk.agent, here)).to_state().to_string()
    state = decided(await RunState.from_string(desk.agent, kept), five=True, seven=False)
    with pytest.raises(ApprovalRejectedError):
        await arun(desk.agent, there, given=state)
    assert (desk.ran, desk.server.served) == (["orders"], 1)


async def test_a_run_that_goes_on_without_an_answer_waits_on(desk: Desk, guarded: MakeGuard) -> None:
    pin = guarded(ToolPolicy(ask=["refund"]))
    paused = await arun(desk.agent, pin)
    again = await arun(desk.agent, pin, given=decided(paused, five=True))
    assert (len(again.interruptions), sorted(desk.ran), finished(pin).status) == (1, ["five", "orders"], "paused")
    await arun(desk.agent, pin, given=decided(again, seven=True))
    assert sorted(desk.ran) == ["five", "orders", "seven"]
    assert counts(finished(pin)) == (2, 2, 3)
    assert [verdict for verdict, _ in verdicts(pin)] == ["allow", "approved", "approved", "ask", "ask"]


async def test_only_the_calls_asked_about_wait(desk: Desk, guarded: MakeGuard) -> None:
    pin = guarded(ToolPolicy(ask=["refund(q=seven)"]))
    paused = await arun(desk.agent, pin)
    assert (sorted(desk.ran), len(paused.interruptions)) == (["five", "orders"], 1)
    await arun(desk.agent, pin, given=decided(paused, seven=True))
    assert sorted(desk.ran) == ["five", "orders", "seven"]


async def test_runs_that_share_a_tool_do_not_share_its_questions(desk: Desk, guarded: MakeGuard) -> None:
    careful, free = guarded(ToolPolicy(ask=["refund"])), guarded(Budget(tool_calls=30))
    results = await asyncio.gather(*(arun(desk.agent, pin) for pin in (careful, free) * 5))
    assert [len(result.interruptions) for result in results] == [2, 0] * 5
    assert desk.ran.count("five") == 5
    desk.assert_untouched()


@both_modes
@all_ways
async def test_an_approver_is_asked_in_place_of_the_pause(desk: Desk, guarded: MakeGuard, mode: str, way: str) -> None:
    async def approver(request: Any) -> bool:
        await asyncio.sleep(0)
        return request.arguments["q"] == "five"

    pin = guarded(ToolPolicy(ask=["refund"], approver=approver, on_deny="tell"))
    result = await arun(desk.agent, pin, mode, way)
    assert (result.interruptions, sorted(desk.ran)) == ([], ["five", "orders"])
    assert [verdict for verdict, _ in verdicts(pin)] == ["allow", "approved", "ask", "ask", "rejected"]


async def test_an_answer_for_good_needs_no_second_pause(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    ran: list[str] = []

    def script(request: Request) -> Reply:
        return reply("Done") if request.turn == 2 else tool_call("refund", {"q": str(request.turn)})

    pin = guarded(ToolPolicy(ask=["refund"]))
    asked = agent(serve(script), tool_of(ran, "refund"))
    state = (await arun(asked, pin)).to_state()
    state.approve(state.get_interruptions()[0], always_approve=True)
    result = await arun(asked, pin, given=state)
    assert (result.final_output, ran) == ("Done", ["0", "1"])
    assert [verdict for verdict, _ in verdicts(pin)] == ["approved", "approved", "ask", "ask"]


async def test_a_rejection_for_good_stops_the_next_call_too(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    ran: list[str] = []

    def script(request: Request) -> Reply:
        return reply("Done") if request.turn == 2 else tool_call("refund", {"q": str(request.turn)})

    pin = guarded(ToolPolicy(ask=["refund"], on_deny="tell"))
    asked = agent(serve(script), tool_of(ran, "refund"))
    state = (await arun(asked, pin)).to_state()
    state.reject(state.get_interruptions()[0], always_reject=True)
    result = await arun(asked, pin, given=state)
    assert (result.final_output, ran) == ("Done", [])
    assert [verdict for verdict, _ in verdicts(pin)] == ["ask", "ask", "rejected", "rejected"]


async def test_a_rejection_that_no_policy_asked_for_is_none_of_its_business(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    @function_tool(needs_approval=True)
    async def delete(q: str) -> str:
        return f"deleted {q}"

    pin = guarded(ToolPolicy(ask=["refund"]))
    asked = agent(serve([tool_call("delete", {"q": "five"}), reply("Kept.")]), delete)
    paused = await arun(asked, pin)
    result = await arun(asked, pin, given=decided(paused, five=False))
    assert (result.final_output, finished(pin).status, verdicts(pin)) == ("Kept.", "ok", [])


async def test_the_question_of_a_tools_own_is_asked_too(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    ran: list[str] = []

    async def large(context: Any, arguments: dict[str, Any], call_id: str) -> bool:
        return arguments["q"] == "seven"

    @function_tool(needs_approval=large)
    async def refund(q: str) -> str:
        ran.append(q)
        return f"{q} given back"

    calls = [("refund", {"q": "five"}), ("refund", {"q": "six"}), ("refund", {"q": "seven"})]
    pin = guarded(ToolPolicy(ask=["refund(q=five)"]))
    asked = agent(serve([tool_calls(calls), reply("Done")]), refund)
    paused = await arun(asked, pin)
    assert (ran, len(paused.interruptions)) == (["six"], 2)
    assert refund.needs_approval is large
    await arun(asked, pin, given=decided(paused, five=True, seven=True))
    assert sorted(ran) == ["five", "seven", "six"]
    assert sorted(verdict for verdict, _ in verdicts(pin)) == ["allow", "allow", "approved", "ask"]


async def test_a_hand_over_is_not_asked_about(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server = serve([tool_call("transfer_to_billing"), reply("Done")])
    asked = agent(server, name="support", handoffs=[agent(server, name="billing")])
    pin = guarded(ToolPolicy(ask=["*"]))
    assert (await arun(asked, pin)).final_output == "Done"
    assert verdicts(pin) == []


async def test_an_agent_used_as_a_tool_is_asked_about(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    inner, outer = serve([reply("Helped.")]), serve([tool_call("help", {"input": "x"}), reply("Done")])
    boss = agent(outer, agent(inner, name="helper").as_tool("help", "Helps."), name="boss")
    pin = guarded(ToolPolicy(ask=["help"]))
    paused = await arun(boss, pin)
    assert (inner.served, len(paused.interruptions)) == (0, 1)
    state = paused.to_state()
    state.approve(state.get_interruptions()[0])
    assert (await arun(boss, pin, given=state)).final_output == "Done"
    assert (inner.served, finished(pin).status) == (1, "ok")


async def test_a_tool_of_an_agent_used_as_a_tool_is_asked_about(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    inner = serve(lambda request: reply("Helped.") if request.turn else tool_call("refund", {"q": "five"}))
    outer = serve(lambda request: reply("Done") if request.turn else tool_call("help", {"input": "x"}))
    helper = agent(inner, tool_of(ran, "refund"), name="helper")
    boss = agent(outer, helper.as_tool("help", "Helps."), name="boss")
    for answer in (True, False):
        pin = guarded(ToolPolicy(ask=["refund"]))
        paused = await arun(boss, pin)
        state = decided(paused, five=answer)
        if answer:
            assert (await arun(boss, pin, given=state)).final_output == "Done"
        else:
            with pytest.raises(ApprovalRejectedError):
                await arun(boss, pin, given=state)
    assert ran == ["five"]


async def test_a_question_holds_on_to_no_run(desk: Desk, guarded: MakeGuard) -> None:
    """The tools outlive the run; another default runner means that nothing of ours is told of its end."""
    runner = get_default_agent_runner()
    set_default_agent_runner(AgentRunner())
    try:
        pin = guarded(ToolPolicy(ask=["refund"]))
        with pytest.warns(EnforcementGapWarning):
            paused = await Runner.run(desk.agent, "Hello?", hooks=ShearpinRunHooks(pin))
        assert [item.tool_name for item in paused.interruptions] == ["refund", "refund"]
        del paused
        gc.collect()
    finally:
        set_default_agent_runner(runner)
    assert (desk.ran, pin.active) == (["orders"], [])
    desk.assert_untouched()


async def test_a_call_that_leaves_an_argument_out_does_not_wait_beside_one_that_does(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    ran: list[str] = []
    server = serve([tool_calls([("refund", {}), ("refund", {"q": "seven"})]), reply("Done")])
    refund = tool_of(ran, "refund")
    before, pin = vars(refund).copy(), guarded(ToolPolicy(ask=["refund(q=seven)"]))
    asked = agent(server, refund)
    paused = await arun(asked, pin)
    assert (ran, len(paused.interruptions)) == ([""], 1)
    assert vars(refund) == before
    await arun(asked, pin, given=decided(paused, seven=True))
    assert ran == ["", "seven"]
