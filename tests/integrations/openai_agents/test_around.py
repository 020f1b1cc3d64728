"""What lies around a run: sessions, tools of other kinds, the network, and what is broken."""

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from agents import (
    GuardrailFunctionOutput,
    LocalShellTool,
    Runner,
    RunState,
    SQLiteSession,
    function_tool,
    input_guardrail,
)
from agents.mcp import MCPServerStdio

from shearpin import Budget, BudgetExceededError, LoopBreaker
from shearpin.runs import trouble
from shearpin.testing import Request, endless, reply, tool_call
from shearpin_integrations.openai_agents import ShearpinRunHooks, reading
from tests.integrations.openai_agents.conftest import (
    MCP_SERVER,
    MakeAgent,
    MakeGuard,
    Serve,
    arun,
    counts,
    finished,
    run,
    tool_of,
)

MODES = ("run", "run_streamed")


# --- sessions


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", [Budget(tool_calls=1), Budget(llm_calls=2), Budget(llm_calls=1)])
async def test_after_a_stop_the_session_takes_a_new_message(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str, rule: Budget
) -> None:
    server = serve(lambda request: reply("Hi") if "Again" in str(request.messages[-1]) else tool_call("search"))
    asked = agent(server, tool_of([]))
    session = SQLiteSession("s1")
    try:
        with pytest.raises(BudgetExceededError):
            await arun(asked, guarded(rule), mode, session=session)
        result = await arun(asked, guarded(), mode, given="Again", session=session)
    finally:
        session.close()
    assert result.final_output == "Hi"  # the server refuses a prompt with a call that nobody answered


@pytest.mark.parametrize("mode", MODES)
async def test_a_stopped_run_can_be_begun_again_from_what_it_had_reached(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    ran: list[str] = []
    server = serve(
        lambda request: reply("Done") if request.turn == 3 else tool_call("search", {"q": str(request.turn)})
    )
    asked = agent(server, tool_of(ran))
    with pytest.raises(BudgetExceededError) as stopped:
        await arun(asked, guarded(Budget(llm_calls=2)), mode)
    told: list[Any] = [{"role": "user", "content": "Hello?"}]
    told += [item.to_input_item() for item in stopped.value.partial]
    assert (await arun(asked, guarded(), mode, given=told)).final_output == "Done"
    assert ran == ["0", "1", "2"]


# --- tools of other kinds


@pytest.mark.slow
async def test_a_tool_of_an_mcp_server_is_a_tool(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, tmp_path: Path
) -> None:
    noted = tmp_path / "notes"
    script = tmp_path / "server.py"
    script.write_text(MCP_SERVER.format(path=str(noted)))
    model, pin = serve(endless("note", {"text": "x"})), guarded(Budget(tool_calls=2))
    async with MCPServerStdio({"command": sys.executable, "args": [str(script)]}) as server:
        with pytest.raises(BudgetExceededError):
            await arun(agent(model, mcp_servers=[server]), pin)
    assert noted.read_text() == "xx"
    assert counts(finished(pin)) == (3, 3, 2)
    first = finished(pin).spans_of("llm")[0]
    assert [tool["function"]["name"] for tool in first.tools] == ["note"]


class Shells:
    """Answers of a model that asks for a local shell, which the scripted server has no words for."""

    def __init__(self) -> None:
        self.calls = 0


@pytest.mark.parametrize("mode", ["run"])
def test_a_local_shell_is_a_tool(serve: Serve, guarded: MakeGuard, mode: str) -> None:
    from agents import Agent, Model, ModelResponse, Usage
    from openai.types.responses.response_output_item import LocalShellCall, LocalShellCallAction

    made = Shells()

    class Asking(Model):
        async def get_response(self, *_: Any, **__: Any) -> ModelResponse:
            made.calls += 1
            action = LocalShellCallAction(command=["ls", str(made.calls)], env={}, type="exec")
            call_id = f"call_{made.calls}"
            call = LocalShellCall(
                id=call_id, call_id=call_id, action=action, status="completed", type="local_shell_call"
            )
            usage = Usage(requests=1, input_tokens=5, output_tokens=2, total_tokens=7)
            return ModelResponse(output=[call], usage=usage, response_id=None)

        def stream_response(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    ran: list[Any] = []

    def shell(request: Any) -> str:
        ran.append(request.data.action.command)
        return "files"

    pin = guarded(Budget(tool_calls=2))
    with pytest.raises(BudgetExceededError):
        run(Agent(name="a", model=Asking(), tools=[LocalShellTool(shell)]), pin, mode)
    assert ran == [["ls", "1"], ["ls", "2"]]
    spans = finished(pin).spans_of("tool")
    assert [(span.name, span.call_id, span.output) for span in spans] == [
        ("local_shell", "call_1", "files"),
        ("local_shell", "call_2", "files"),
    ]
    assert spans[0].input["command"] == ["ls", "1"]
    assert finished(pin).usage.total_tokens == 21


# --- the network


@pytest.mark.parametrize("mode", MODES)
def test_nobody_but_the_model_is_talked_to(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    asked_for: set[str] = set()
    look_up = socket.getaddrinfo

    def noted(host: Any, *args: Any, **kwargs: Any) -> Any:
        asked_for.add(str(host))
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-any")
    server, pin = serve([tool_call("search", {"q": "x"}), reply("Hi")]), guarded(Budget(usd=1), LoopBreaker())
    run(agent(server, tool_of([])), pin, mode)
    assert asked_for <= {"127.0.0.1"}
    assert server.served == 2


# --- what is broken


def test_what_cannot_be_read_is_still_a_gate(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(trouble, "STRICT", False)
    for name in ("model_call", "read_response", "tool_call", "identity_of"):
        monkeypatch.setattr("shearpin_integrations.openai_agents.roots.identity_of", broken)
        monkeypatch.setattr(reading, name, broken)
    ran: list[str] = []
    server, pin = serve(endless("search", {"q": "x"})), guarded(Budget(llm_calls=3))
    with pytest.raises(BudgetExceededError):
        run(agent(server, tool_of(ran)), pin)
    assert (server.served, len(ran)) == (3, 3)


def test_a_tool_that_returns_anything_is_recorded(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    class Broken:
        def __str__(self) -> str:
            return "fine"

        def __repr__(self) -> str:
            raise ValueError

    @function_tool
    def search(q: str) -> Any:
        return Broken()

    server, pin = serve([tool_call("search", {"q": "x"}), reply("Hi")]), guarded()
    assert run(agent(server, search), pin).final_output == "Hi"
    assert finished(pin).status == "ok"


def test_arguments_that_are_no_json_are_kept_as_they_are(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve([tool_call("search", '{"q": '), reply("Hi")]), guarded()
    run(agent(server, tool_of([])), pin)
    (span,) = finished(pin).spans_of("llm")[:1]
    assert span.tool_calls[0]["arguments"] == '{"q": '
    assert finished(pin).status == "ok"


async def test_guardrails_of_a_paused_run_are_recorded_once(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    @input_guardrail(name="polite")
    async def polite(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info="fine", tripwire_triggered=False)

    @function_tool(needs_approval=True)
    def delete() -> str:
        return "deleted"

    server, pin = serve([tool_call("delete"), reply("Done")]), guarded()
    asked = agent(server, delete, input_guardrails=[polite])
    paused = await arun(asked, pin)
    state: RunState[Any] = paused.to_state()
    state.approve(paused.interruptions[0])
    await arun(asked, pin, given=state)
    assert len(finished(pin).spans_of("guardrail")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_many_turns_are_recorded_in_linear_space(serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str) -> None:
    def script(request: Request) -> Any:
        return reply("Done") if request.turn == 40 else tool_call("search", {"q": str(request.turn)})

    pin = guarded()
    run(agent(serve(script), tool_of([])), pin, mode, max_turns=50)
    trace = finished(pin)
    assert counts(trace) == (41, 41, 40)
    assert len(trace.pool.bodies) < 300
    assert len(trace.spans_of("llm")[-1].messages) == 81


async def test_the_stop_can_be_pickled_though_the_run_data_cannot(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    import pickle

    server = serve(endless("search", {"q": "x"}))
    with pytest.raises(BudgetExceededError) as stopped:
        await Runner.run(agent(server, tool_of([])), "x", hooks=ShearpinRunHooks(guarded(Budget(llm_calls=1))))
    copy = pickle.loads(pickle.dumps(stopped.value))
    assert str(copy) == str(stopped.value)
    assert json.dumps(copy.as_dict())
    await asyncio.sleep(0)
