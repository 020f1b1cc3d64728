"""A stop reaches whoever called the runner, through all that makes texts of exceptions, and nothing starts after it."""

import asyncio
from typing import Any

import pytest
from agents import Agent, AgentsException, FunctionTool, Runner, function_tool
from agents.tool_context import ToolContext

from shearpin import Budget, BudgetExceededError, LoopBreaker, LoopDetectedError, RunStoppedError
from shearpin.testing import Request, endless, reply, tool_call, tool_calls
from tests.integrations.openai_agents.conftest import (
    MODES,
    WAYS_IN,
    MakeAgent,
    MakeGuard,
    Serve,
    arun,
    finished,
    own_loop,
    run,
    tool_of,
)


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("mode", MODES)
def test_a_refused_first_model_call_is_not_made(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str, way: str
) -> None:
    server, pin = serve([reply("Hi")]), guarded(Budget(llm_calls=0))
    with pytest.raises(BudgetExceededError) as stopped:
        run(agent(server), pin, mode, way)
    assert server.served == 0
    assert isinstance(stopped.value, AgentsException)
    assert stopped.value.run_data is not None
    assert stopped.value.__cause__ is None
    assert stopped.value.trace is finished(pin)
    assert finished(pin).status == "stopped"


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("mode", MODES)
def test_as_many_model_calls_are_made_as_the_budget_has(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str, way: str
) -> None:
    ran: list[str] = []
    server, pin = serve(endless("search", {"q": "x"})), guarded(Budget(llm_calls=3))
    with pytest.raises(BudgetExceededError) as stopped:
        run(agent(server, tool_of(ran)), pin, mode, way)
    assert (server.served, len(ran)) == (3, 3)
    assert [item.type for item in stopped.value.partial] == ["tool_call_item", "tool_call_output_item"] * 3
    assert stopped.value.run_data.new_items == stopped.value.partial


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("mode", MODES)
def test_a_refused_tool_does_not_run_and_the_stop_is_what_comes_out(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str, way: str
) -> None:
    ran: list[str] = []
    server, pin = serve(endless("search", {"q": "x"})), guarded(Budget(tool_calls=2))
    with pytest.raises(RunStoppedError) as stopped:
        run(agent(server, tool_of(ran)), pin, mode, way)
    assert type(stopped.value).__name__ == "BudgetExceededError"
    assert stopped.value.__cause__ is None
    assert (server.served, len(ran)) == (3, 2)
    assert len(stopped.value.partial) >= 4


@pytest.mark.parametrize("mode", MODES)
def test_a_loop_is_broken_before_the_fourth_same_call(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    ran: list[str] = []
    server, pin = serve(endless("search", {"q": "x"})), guarded(LoopBreaker(threshold=3))
    with pytest.raises(LoopDetectedError):
        run(agent(server, tool_of(ran)), pin, mode)
    assert len(ran) == 3


# --- agents used as tools, and runs that tools start


def team(serve: Serve, agent: MakeAgent, ran: list[str], **options: Any) -> tuple[Any, Any, Agent[Any]]:
    """A boss who asks a helper, who searches for ever."""
    inner = serve(endless("search", {"q": "x"}))
    outer = serve(lambda request: reply("Done") if request.turn else tool_call("help", {"input": "please"}))
    helper = agent(inner, tool_of(ran), name="helper")
    return outer, inner, agent(outer, helper.as_tool("help", "Helps.", **options), name="boss")


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("mode", MODES)
def test_the_model_calls_of_an_agent_used_as_a_tool_count_and_its_stop_comes_out(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str, way: str
) -> None:
    ran: list[str] = []
    outer, inner, boss = team(serve, agent, ran)
    pin = guarded(Budget(llm_calls=3))
    with pytest.raises(BudgetExceededError) as stopped:
        run(boss, pin, mode, way)
    assert (outer.served, inner.served, len(ran)) == (1, 2, 2)
    assert stopped.value.run_data is not None
    assert stopped.value.run_data.last_agent.name == "boss"
    assert (finished(pin).llm_calls, finished(pin).tool_calls) == (3, 3)


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
def test_a_tool_agent_that_streams_is_seen_too(serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str) -> None:
    ran: list[str] = []
    events: list[Any] = []
    outer, inner, boss = team(serve, agent, ran, on_stream=events.append)
    with pytest.raises(BudgetExceededError):
        run(boss, guarded(Budget(llm_calls=3)), mode)
    assert (outer.served, inner.served, len(ran)) == (1, 2, 2)
    assert events


def test_the_same_hooks_on_a_tool_agent_count_once(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    from shearpin_integrations.openai_agents import ShearpinRunHooks

    ran: list[str] = []
    pin = guarded(Budget(llm_calls=3))
    outer, inner, boss = team(serve, agent, ran, hooks=ShearpinRunHooks(pin))
    with pytest.raises(BudgetExceededError):
        run(boss, pin)
    assert (outer.served, inner.served, len(ran)) == (1, 2, 2)


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
def test_a_stop_inside_the_tool_whose_result_is_the_answer_is_no_answer(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    inner = serve(endless("search", {"q": "x"}))
    outer = serve([tool_call("help", {"input": "please"})])
    helper = agent(inner, tool_of([]), name="helper")
    boss = agent(outer, helper.as_tool("help", "Helps."), name="boss", tool_use_behavior="stop_on_first_tool")
    pin = guarded(Budget(llm_calls=2))
    with pytest.raises(BudgetExceededError) as stopped:
        run(boss, pin, mode)
    assert (outer.served, inner.served) == (1, 1)
    with pytest.raises(BudgetExceededError) as again:
        pin.raise_if_stopped()
    assert again.value is stopped.value


def starting(kind: str, helper: Agent[Any]) -> FunctionTool:
    """A tool that runs an agent by itself."""
    if kind == "thread":

        @function_tool(name_override="help")
        def help_in_thread() -> str:
            with own_loop():
                return str(Runner.run_sync(helper, "please").final_output)

        return help_in_thread
    if kind == "streamed":

        @function_tool(name_override="help")
        async def help_streaming() -> str:
            result = Runner.run_streamed(helper, "please")
            async for _ in result.stream_events():
                pass
            return str(result.final_output)

        return help_streaming

    @function_tool(name_override="help")
    async def help_plainly() -> str:
        return str((await Runner.run(helper, "please")).final_output)

    return help_plainly


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("kind", ["await", "streamed", "thread"])
def test_a_run_that_a_tool_starts_is_part_of_the_run(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, kind: str, way: str
) -> None:
    ran: list[str] = []
    inner = serve(endless("search", {"q": "x"}))
    outer = serve(lambda request: reply("Done") if request.turn else tool_call("help"))
    boss = agent(outer, starting(kind, agent(inner, tool_of(ran), name="helper")), name="boss")
    pin = guarded(Budget(llm_calls=3))
    with pytest.raises(BudgetExceededError):
        run(boss, pin, "run", way)
    assert (outer.served, inner.served, len(ran)) == (1, 2, 2)
    agents = {span.name: span.parent_id for span in finished(pin).spans_of("agent")}
    tools = {span.span_id: span.name for span in finished(pin).spans_of("tool")}
    assert tools[agents["helper"] or ""] == "help"


def test_three_tool_agents_at_once_share_one_budget(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    inner = serve(endless("search", {"q": "x"}, delay=0.02))
    outer = serve([tool_calls([(f"help{n}", {"input": "x"}) for n in range(3)])])
    helpers = [agent(inner, tool_of([]), name=f"helper{n}").as_tool(f"help{n}", "Helps.") for n in range(3)]
    pin = guarded(Budget(llm_calls=3))
    with pytest.raises(BudgetExceededError):
        run(agent(outer, *helpers, name="boss"), pin)
    assert outer.served + inner.served == 3
    assert finished(pin).llm_calls == 3


async def test_an_orphan_of_a_stopped_run_starts_nothing(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    late: list[asyncio.Task[Any]] = []
    inner = serve([reply("late")])

    async def later() -> Any:
        await asyncio.sleep(0.1)
        return await Runner.run(agent(inner), "Late?")

    def spawn(_: str) -> str:
        late.append(asyncio.create_task(later()))
        return "spawned"

    outer = serve(endless("search", {"q": "x"}))
    with pytest.raises(BudgetExceededError) as stopped:
        await arun(agent(outer, tool_of([], body=spawn)), guarded(Budget(llm_calls=1)))
    with pytest.raises(BudgetExceededError) as again:
        await late[0]
    assert again.value is stopped.value
    assert inner.served == 0


# --- what a tool may do with the stop


def test_a_tool_that_swallows_everything_does_not_keep_the_run_alive(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    inner = serve(endless("search", {"q": "x"}))
    helper = agent(inner, tool_of([]), name="helper")

    async def invoke(context: ToolContext[Any], arguments: str) -> str:
        try:
            await Runner.run(helper, "please")
        except Exception:  # noqa: BLE001 - as users do
            return "never mind"
        return "never"

    stubborn = FunctionTool("help", "Helps.", {"type": "object", "properties": {}}, invoke, strict_json_schema=False)
    outer = serve(lambda request: tool_call("help"))
    with pytest.raises(BudgetExceededError):
        run(agent(outer, stubborn, name="boss"), guarded(Budget(llm_calls=3)))
    assert (outer.served, inner.served) == (1, 2)


def test_the_next_run_starts_afresh(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    def script(request: Request) -> Any:
        return tool_call("search", {"q": str(request.turn)})

    server, pin = serve(script), guarded(Budget(llm_calls=2))
    for _ in range(2):
        with pytest.raises(BudgetExceededError):
            run(agent(server, tool_of([])), pin)
    assert server.served == 4
    assert [trace.status for trace in pin.traces] == ["stopped", "stopped"]
