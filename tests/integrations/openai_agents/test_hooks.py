"""Hooks of the user's own beside ours, and runners of the user's own around ours."""

import asyncio
import gc
import threading
from contextvars import ContextVar
from typing import Any

import pytest
from agents import Agent, AgentHooks, RunHooks, Runner, RunResult
from agents.lifecycle import RunHooksBase
from agents.run import AgentRunner, get_default_agent_runner, set_default_agent_runner

import shearpin
from shearpin import Budget, BudgetExceededError, EnforcementGapWarning, Guard
from shearpin.testing import endless, error, reply, tool_call
from shearpin_integrations.openai_agents import ShearpinRunHooks, installed
from tests.integrations.openai_agents.conftest import (
    MakeAgent,
    MakeGuard,
    Serve,
    arun,
    consume,
    counts,
    finished,
    outline,
    own_loop,
    run,
    tool_of,
)

MODES = ("run", "run_streamed")


class Noting(RunHooks[Any]):
    """Notes every event. The SDK tells of hand-offs by name: these are its names."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def on_agent_start(self, context: Any, agent: Any) -> None:
        self.events.append(f"agent {agent.name}")

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        self.events.append(f"answer {output}")

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        self.events.append(f"{from_agent.name} to {to_agent.name}")

    async def on_llm_start(self, context: Any, agent: Any, system_prompt: Any, input_items: Any) -> None:
        self.events.append(f"model {system_prompt}")

    async def on_llm_end(self, context: Any, agent: Any, response: Any) -> None:
        self.events.append("answered")

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self.events.append(f"tool {tool.name} {context.tool_arguments}")

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        self.events.append(f"result {result}")


def desk(serve: Serve, agent: MakeAgent, ran: list[str]) -> Agent[Any]:
    server = serve([tool_call("search", {"q": "x"}), tool_call("transfer_to_billing"), reply("Paid")])
    billing = agent(server, name="billing")
    return agent(server, tool_of(ran), name="support", handoffs=[billing], instructions="Be brief.")


@pytest.mark.parametrize("way", ["hooks", "installed"])
@pytest.mark.parametrize("mode", [*MODES, "run_sync"])
def test_hooks_of_ones_own_are_told_what_they_would_be_without_us(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str, way: str
) -> None:
    alone, beside = Noting(), Noting()
    asyncio.run(_alone(desk(serve, agent, []), alone))
    run(desk(serve, agent, []), guarded(), mode, way, wrap=beside)
    assert beside.events == alone.events
    assert len(beside.events) == 12


async def _alone(asked: Agent[Any], hooks: Noting) -> None:
    await Runner.run(asked, "Hello?", hooks=hooks)


def test_hooks_of_ones_own_are_not_told_of_what_is_refused(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    noting = Noting()
    server = serve(endless("search", {"q": "x"}))
    with pytest.raises(BudgetExceededError):
        run(agent(server, tool_of([])), guarded(Budget(llm_calls=1)), wrap=noting)
    assert noting.events == ["agent assistant", "model None", "answered", 'tool search {"q":"x"}', "result found x"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("event", ["on_agent_start", "on_llm_start", "on_llm_end", "on_tool_start", "on_agent_end"])
def test_what_ones_own_hooks_raise_is_raised(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, event: str, mode: str
) -> None:
    class Failing(Noting):
        pass

    async def fail(*_: Any, **__: Any) -> None:
        raise LookupError(event)

    setattr(Failing, event, fail)
    server, pin = serve([tool_call("search", {"q": "x"}), reply("Hi")]), guarded()
    with pytest.raises(Exception, match=event) as raised:
        run(agent(server, tool_of([])), pin, mode, wrap=Failing())
    assert type(raised.value).__name__ == ("UserError" if "tool" in event else "LookupError")
    assert finished(pin).status == "error"


def test_an_agents_own_hooks_go_on_working(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    told: list[str] = []

    class Own(AgentHooks[Any]):
        async def on_llm_start(self, *_: Any) -> None:
            told.append("start")

        async def on_tool_end(self, *_: Any) -> None:
            told.append("tool")

    server, pin = serve([tool_call("search", {"q": "x"}), reply("Hi")]), guarded()
    run(agent(server, tool_of([]), hooks=Own()), pin)
    assert told == ["start", "tool", "start"]
    assert counts(finished(pin)) == (2, 2, 1)


class Calling(RunHooksBase[Any, Any]):
    """Hooks of the user's own that call ours."""

    def __init__(self, ours: ShearpinRunHooks) -> None:
        for name in ("agent_start", "agent_end", "handoff", "llm_start", "llm_end", "tool_start", "tool_end"):
            setattr(self, f"on_{name}", self._calling(getattr(ours, f"on_{name}")))

    @staticmethod
    def _calling(ours: Any) -> Any:
        async def call(*args: Any, **kwargs: Any) -> None:
            await ours(*args, **kwargs)

        return call


@pytest.mark.parametrize("mode", [*MODES, "run_sync"])
def test_ours_may_be_called_from_hooks_of_ones_own(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    ran: list[str] = []
    inner = serve(endless("search", {"q": "x"}))
    outer = serve([tool_call("help", {"input": "x"})])
    helper = agent(inner, tool_of(ran), name="helper").as_tool("help", "Helps.")
    pin = guarded(Budget(llm_calls=3))
    with pytest.raises(BudgetExceededError):
        run(agent(outer, helper, name="boss"), pin, mode, "neither", wrap=Calling(ShearpinRunHooks(pin)))
    assert (outer.served, inner.served, len(ran)) == (1, 2, 2)
    assert len(pin.traces) == 1
    assert outline(finished(pin))[2:4] == [("tool", "help"), ("agent", "helper")]


def test_ours_called_by_ones_own_and_installed_count_once(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve([tool_call("search", {"q": "x"}), reply("Hi")]), guarded()
    run(agent(server, tool_of([])), pin, "run", "installed", wrap=Calling(ShearpinRunHooks(pin)))
    assert counts(finished(pin)) == (2, 2, 1)


def test_what_a_hook_sets_in_its_context_is_not_needed(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    var: ContextVar[int] = ContextVar("var", default=0)
    seen: list[int] = []

    class Setting(RunHooks[Any]):
        async def on_agent_start(self, *_: Any) -> None:
            var.set(1)

        async def on_llm_start(self, *_: Any) -> None:
            seen.append(var.get())

    run(agent(serve([reply("Hi")])), guarded(), wrap=Setting())
    assert seen == [0]


# --- what is wrong is told


def test_hooks_want_a_guard() -> None:
    with pytest.raises(TypeError, match="takes a guard"):
        ShearpinRunHooks(Budget(llm_calls=1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="hooks of a run"):
        ShearpinRunHooks(Guard(), wrap=AgentHooks())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes a guard"), installed(Budget(llm_calls=1)):  # type: ignore[arg-type]
        pass


def test_the_sdks_own_complaints_stay(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    async def go() -> None:
        with installed(guarded()):
            await Runner.run(agent(serve([])), "x", hooks=AgentHooks())  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="AgentHooks"):
        asyncio.run(go())


async def test_run_sync_on_a_running_loop_is_the_sdks_own_error(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    pin = guarded()
    with pytest.raises(RuntimeError, match="event loop is already running"):
        Runner.run_sync(agent(serve([])), "x", hooks=ShearpinRunHooks(pin))
    assert finished(pin).status == "error"


# --- runs without a guard, and runners of ones own


def test_without_a_guard_nothing_is_changed(serve: Serve, agent: MakeAgent) -> None:
    noting = Noting()
    given: list[Any] = []

    class Looking(AgentRunner):
        async def run(self, *args: Any, **kwargs: Any) -> RunResult:
            given.append(kwargs["hooks"])
            return await super().run(*args, **kwargs)

    ours: Any = get_default_agent_runner()
    before, ours.inner = ours.inner, Looking()
    try:
        asyncio.run(_alone(agent(serve([reply("Hi")])), noting))
    finally:
        ours.inner = before
    assert given == [noting]


@pytest.fixture
def another_runner() -> Any:
    """A default runner that is set after ours and knows nothing of it."""
    ours = get_default_agent_runner()
    set_default_agent_runner(AgentRunner())
    yield
    set_default_agent_runner(ours)


@pytest.mark.usefixtures("another_runner")
@pytest.mark.parametrize("mode", MODES)
def test_under_another_runner_the_gate_holds_and_the_gap_is_told(serve: Serve, agent: MakeAgent, mode: str) -> None:
    ran: list[str] = []
    server, pin = serve(endless("search", {"q": "x"})), Guard(Budget(llm_calls=2))
    with pytest.warns(EnforcementGapWarning, match="another default runner"), pytest.raises(BudgetExceededError):
        run(agent(server, tool_of(ran)), pin, mode)
    assert (server.served, len(ran)) == (2, 2)
    gc.collect()
    assert finished(pin).status == "stopped"
    assert len(finished(pin).gaps) == 1


@pytest.mark.usefixtures("another_runner")
def test_under_another_runner_a_run_ends_with_its_answer(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve(lambda _: reply("Hi")), guarded()
    with pytest.warns(EnforcementGapWarning) as warned:
        run(agent(server), pin)
    run(agent(server), pin)
    assert [trace.status for trace in pin.traces] == ["ok", "ok"]
    assert [trace.output for trace in pin.traces] == ["Hi", "Hi"]
    assert len(warned) == 1


@pytest.mark.usefixtures("another_runner")
def test_under_another_runner_a_failed_run_is_closed_once_it_is_gone(serve: Serve, agent: MakeAgent) -> None:
    server, pin = serve([error(500)]), Guard()
    with pytest.warns(EnforcementGapWarning), pytest.raises(Exception, match="500"):
        run(agent(server), pin)
    gc.collect()
    assert pin.active == []


@pytest.mark.usefixtures("another_runner")
def test_installed_takes_its_place_again(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve([error(500)]), guarded()
    with pytest.raises(Exception, match="500"):
        run(agent(server), pin, way="installed")
    assert finished(pin).status == "error"


def test_a_runner_that_drops_our_hooks_is_found_out(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    class Deaf(AgentRunner):
        async def run(self, *args: Any, **kwargs: Any) -> RunResult:
            return await super().run(*args, **(kwargs | {"hooks": None}))

    ours: Any = get_default_agent_runner()
    before, ours.inner = ours.inner, Deaf()
    pin = guarded()
    try:
        with pytest.warns(EnforcementGapWarning, match="none of their calls reached Shearpin"):
            run(agent(serve([reply("Hi")])), pin)
    finally:
        ours.inner = before
    assert len(finished(pin).gaps) == 1


# --- attach and install


@pytest.mark.parametrize("mode", [*MODES, "run_sync"])
def test_an_attached_agent_carries_its_guard(serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str) -> None:
    server, pin = serve(lambda _: reply("Hi")), guarded()
    plain = agent(server)
    attached = shearpin.attach(plain, pin, service="support", env="prod", user_id="u1")
    run(attached, Guard(), mode, "neither", run_config={"trace_metadata": {"user_id": "u2"}})
    trace = finished(pin)
    assert (trace.name, trace.env, trace.user_id) == ("support", "prod", "u2")
    run(plain, Guard(), mode, "neither")
    assert len(pin.traces) == 1


def test_an_attached_agent_used_as_a_tool_is_guarded_alone(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    inner = serve(endless("search", {"q": "x"}))
    outer = serve([tool_call("help", {"input": "x"}), reply("Done")])
    pin = guarded(Budget(llm_calls=2))
    helper = shearpin.attach(agent(inner, tool_of([]), name="helper"), pin)
    result = run(agent(outer, helper.as_tool("help", "Helps."), name="boss"), Guard(), "run", "neither")
    assert result.final_output == "Done"  # the boss is under no guard: it reads of the stop as of any failure
    assert inner.served == 2
    assert finished(pin).status == "stopped"


def test_attached_rules_make_a_guard(serve: Serve, agent: MakeAgent) -> None:
    server = serve(endless("search", {"q": "x"}))
    with pytest.raises(BudgetExceededError):
        run(shearpin.attach(agent(server, tool_of([])), Budget(llm_calls=2)), Guard(), "run", "neither")
    assert server.served == 2


def test_install_reaches_every_run_of_the_process(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shearpin_integrations.openai_agents import runner

    monkeypatch.setattr(runner, "_everywhere", [])
    server, pin = serve(endless("search", {"q": "x"})), guarded(Budget(llm_calls=2))
    asked = agent(server, tool_of([]))
    stops: list[BaseException] = []

    def in_a_thread() -> None:
        with own_loop():
            try:
                Runner.run_sync(asked, "x")
            except BudgetExceededError as stop:
                stops.append(stop)

    runner.install_everywhere(pin)
    runner.install_everywhere(pin)
    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert (server.served, len(stops)) == (2, 1)
    assert finished(pin).status == "stopped"


async def test_installed_ends_with_its_block(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve(lambda _: reply("Hi")), guarded()
    with installed(pin):
        streamed = Runner.run_streamed(agent(server), "x")
    await Runner.run(agent(server), "x")
    await consume(streamed)
    assert finished(pin).output == "Hi"
    await arun(agent(server), pin)
    assert len(pin.traces) == 2
