"""Things that happen at once: a limit is exact, what runs may finish, and nobody's run is mistaken for another's."""

import asyncio
import gc
import threading
import time
import weakref
from typing import Any

import pytest
from agents import Runner, function_tool
from agents.run import RunConfig

from shearpin import Budget, BudgetExceededError, Guard, LoopBreaker, RunStoppedError
from shearpin.testing import Reply, Request, reply, tool_call, tool_calls
from shearpin_integrations.openai_agents import ShearpinRunHooks, installed
from tests.integrations.openai_agents.conftest import (
    MakeAgent,
    MakeGuard,
    Serve,
    arun,
    consume,
    counts,
    finished,
    run,
    sync_tool_of,
    tool_of,
    until,
)

FIVE = range(5)
ASKED = [("search", {"q": str(n)}) for n in FIVE]


# --- five tools at once, and a budget for two


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
@pytest.mark.parametrize("kind", ["async", "thread"])
def test_two_of_five_run_to_their_end_and_the_third_is_refused(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, kind: str, mode: str
) -> None:
    ran: list[str] = []
    done: list[str] = []

    async def slowly(q: str) -> str:
        await asyncio.sleep(0.05)
        done.append(q)
        return q

    def slowly_in_a_thread(q: str) -> str:
        time.sleep(0.05)
        done.append(q)
        return q

    tool = tool_of(ran, body=slowly) if kind == "async" else sync_tool_of(ran, body=slowly_in_a_thread)
    server, pin = serve([tool_calls(ASKED)]), guarded(Budget(tool_calls=2))
    with pytest.raises(BudgetExceededError):
        run(agent(server, tool), pin, mode)
    assert sorted(ran) == sorted(done) == ["0", "1"]
    assert server.served == 1
    trace = finished(pin)
    assert counts(trace) == (1, 1, 2)
    assert [(span.status, span.output) for span in trace.spans_of("tool")] == [("ok", "0"), ("ok", "1")]


def test_one_after_the_other_is_as_exact(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    ran: list[str] = []
    server, pin = serve([tool_calls(ASKED)]), guarded(Budget(tool_calls=2))
    with pytest.raises(BudgetExceededError):
        run(
            agent(server, tool_of(ran)),
            pin,
            run_config=RunConfig(tool_execution={"max_function_tool_concurrency": 1}),  # type: ignore[arg-type]
        )
    assert ran == ["0", "1"]


def test_a_loop_within_one_batch_is_refused_in_its_place(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    def script(request: Request) -> Reply:
        batch = [("search", {"q": "same"})]
        return tool_calls(batch if request.turn < 3 else [*batch, ("search", {"q": "after"})])

    ran: list[str] = []
    server, pin = serve(script), guarded(LoopBreaker(threshold=3))
    with pytest.raises(RunStoppedError):
        run(agent(server, tool_of(ran)), pin)
    assert ran == ["same"] * 3


def test_a_sibling_that_fails_ends_the_wait_for_it(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    @function_tool(failure_error_function=None)
    async def search(q: str) -> str:
        await asyncio.sleep(0.02)
        raise ValueError(q)

    server, pin = serve([tool_calls(ASKED)]), guarded(Budget(tool_calls=2))
    with pytest.raises(BudgetExceededError):
        run(agent(server, search), pin)
    assert [span.status for span in finished(pin).spans_of("tool")] != ["ok", "ok"]


def test_a_sibling_that_ends_while_another_fails_does_not_wait(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    @function_tool(failure_error_function=None)
    async def search(q: str) -> str:
        await asyncio.sleep(0.02 if q == "0" else 0.04)
        if q == "1":
            raise ValueError(q)
        return q

    server, pin = serve([tool_calls(ASKED)]), guarded(Budget(tool_calls=2))
    with pytest.raises(BudgetExceededError):
        run(agent(server, search), pin)


# --- calls in flight


async def test_a_call_waits_for_tokens_that_one_in_flight_may_give_back(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    inner = serve(lambda _: reply("short", usage=(10, 5), delay=0.05))
    outer = serve(
        lambda request: (
            reply("Done") if request.turn else tool_calls([("help0", {"input": "x"}), ("help1", {"input": "x"})])
        )
    )
    helpers = [agent(inner, name=f"helper{n}").as_tool(f"help{n}", "Helps.") for n in range(2)]
    pin = guarded(Budget(tokens=1_150))  # each call is taken for more than 512
    result = await arun(agent(outer, *helpers, name="boss"), pin)
    assert result.final_output == "Done"
    assert inner.peak_in_flight == 1
    assert inner.served == 2


async def test_one_who_gives_up_waiting_leaks_nothing(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server = serve(lambda _: reply("late", delay=0.2))
    pin = guarded(Budget(tokens=1_000))
    with installed(pin):
        async with asyncio.timeout(5):
            with pin.run("both"):
                first = asyncio.create_task(Runner.run(agent(server), "a"))
                await until(lambda: server.in_flight)
                second = asyncio.create_task(Runner.run(agent(server), "b"))
                await asyncio.sleep(0.05)
                second.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await second
                await first
    assert server.served == 1
    assert counts(finished(pin)) == (1, 1, 0)


# --- many runs at once


@pytest.mark.parametrize("way", ["hooks", "installed"])
async def test_runs_that_share_one_hooks_object_never_mix(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, way: str
) -> None:
    def script(request: Request) -> Reply:
        name = request.messages[0]["content"]
        return tool_call("search", {"q": name}, delay=0.01) if request.turn < 2 else reply(f"for {name}")

    server, pin = serve(script), guarded(Budget(llm_calls=3))
    hooks = ShearpinRunHooks(pin) if way == "hooks" else None
    asking = agent(server, tool_of([]))

    async def one(name: str) -> str:
        if hooks is None:
            with installed(pin):
                return str((await Runner.run(asking, name)).final_output)
        return str((await Runner.run(asking, name, hooks=hooks)).final_output)

    names = [f"run{n}" for n in range(10)]
    assert await asyncio.gather(*map(one, names)) == [f"for {name}" for name in names]
    assert sorted(str(trace.input) for trace in pin.traces) == sorted(names)
    for trace in pin.traces:
        assert counts(trace) == (3, 3, 2)
        assert trace.output == f"for {trace.input}"
        assert {span.input["q"] for span in trace.spans_of("tool")} == {trace.input}  # type: ignore[index, call-overload]


async def test_streams_consumed_in_turns_never_mix(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    def script(request: Request) -> Reply:
        return tool_call("search", {"q": "x"}) if not request.turn else reply(request.messages[0]["content"])

    server, pin = serve(script), guarded()
    hooks = ShearpinRunHooks(pin)
    asking = agent(server, tool_of([]))
    results = [Runner.run_streamed(asking, f"run{n}", hooks=hooks) for n in range(5)]
    await asyncio.gather(*map(consume, results))
    assert sorted(str(trace.output) for trace in pin.traces) == [f"run{n}" for n in range(5)]
    assert [counts(trace) for trace in pin.traces] == [(2, 2, 1)] * 5


def test_runs_in_threads_share_a_hooks_object(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve(lambda request: reply(request.messages[0]["content"])), guarded(Budget(llm_calls=1))
    hooks = ShearpinRunHooks(pin)
    asking = agent(server)
    answers: list[str] = []

    def one(name: str) -> None:
        answers.append(asyncio.run(Runner.run(asking, name, hooks=hooks)).final_output)

    threads = [threading.Thread(target=one, args=(f"run{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted(f"run{n}" for n in range(8))
    assert len(pin.traces) == 8


async def test_a_run_that_is_cancelled_is_charged_for_what_was_in_flight(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    server, pin = serve([reply("late", delay=5)]), guarded()
    running = asyncio.create_task(Runner.run(agent(server), "x", hooks=ShearpinRunHooks(pin)))
    await until(lambda: server.in_flight)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (span,) = finished(pin).spans_of("llm")
    assert finished(pin).status == span.status == "cancelled"
    assert span.usage_estimated
    assert finished(pin).usage.output_tokens


async def test_a_finished_run_is_let_go_of(serve: Serve, agent: MakeAgent) -> None:
    server = serve(lambda _: reply("Hi"))

    async def go() -> Any:
        pin = Guard()
        await Runner.run(agent(server), "x", hooks=ShearpinRunHooks(pin))
        return weakref.ref(pin)

    gone = await go()
    await until(lambda: gc.collect() >= 0 and gone() is None)


# --- two guards


async def test_two_guards_count_separately_and_what_one_refuses_the_other_has_not_let_in(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    server = serve(lambda request: tool_call("search", {"q": str(request.turn)}))
    wide, narrow = guarded(Budget(llm_calls=10)), guarded(Budget(llm_calls=2))
    with pytest.raises(BudgetExceededError), installed(narrow):
        await arun(agent(server, tool_of([])), wide)
    assert server.served == 2
    assert finished(wide).llm_calls == finished(narrow).llm_calls == 2
    assert (finished(narrow).status, len(finished(wide).decisions)) == ("stopped", 0)
    assert finished(wide).steps == 2


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
def test_a_guard_reached_twice_counts_once(serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str) -> None:
    server = serve([tool_call("search", {"q": "x"}), reply("Hi")])
    pin = guarded(Budget(llm_calls=2))

    async def go() -> None:
        with installed(pin), installed(pin):
            await arun(agent(server, tool_of([])), pin, mode, wrap=ShearpinRunHooks(pin))

    asyncio.run(go())
    assert counts(finished(pin)) == (2, 2, 1)


# --- tools whose end is not told as others' is


def ending(how: str, done: list[str]) -> Any:
    """A tool whose calls for "1" end in some way of their own."""

    async def search(q: str) -> str:
        await asyncio.sleep(0.03)
        if q == "1" and how == "cancelled":
            raise asyncio.CancelledError
        if q == "1" and how.startswith("timeout"):
            await asyncio.sleep(5)
        done.append(q)
        return q

    if how == "timeout as result":
        return function_tool(timeout=0.06)(search)
    if how == "timeout raised":
        return function_tool(timeout=0.06, timeout_behavior="raise_exception")(search)
    return function_tool(search)


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
@pytest.mark.parametrize("how", ["timeout as result", "timeout raised", "cancelled"])
def test_whatever_way_a_sibling_ends_the_stop_comes_out(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, how: str, mode: str
) -> None:
    done: list[str] = []
    server, pin = serve([tool_calls(ASKED)]), guarded(Budget(tool_calls=2))
    began = time.monotonic()
    with pytest.raises(BudgetExceededError):
        run(agent(server, ending(how, done)), pin, mode)
    assert time.monotonic() - began < 3
    assert done == ["0"]
    assert server.served == 1
