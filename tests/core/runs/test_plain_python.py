"""Plain Python under a guard: decorators and blocks, sync and async, generators, threads, nested runs."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import pickle
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shearpin import (
    Budget,
    BudgetExceededError,
    EnforcementGapWarning,
    Guard,
    LoopBreaker,
    RunStoppedError,
    ShearpinError,
    Usage,
    current_run,
    guard,
)
from shearpin.runs.run import Run

CALL = Usage(input_tokens=1000, output_tokens=500)  # $0.0075 at gpt-4o's price
PROMPT = [{"role": "user", "content": "word " * 900}]


def call_model(run: Run, usage: Usage | None = CALL) -> None:
    with run.llm(model="gpt-4o", messages=PROMPT, max_tokens=500) as call:
        call.usage = copy.copy(usage)


def test_the_call_that_would_exceed_the_budget_is_not_made() -> None:
    pin = Guard(Budget(usd=0.025))
    made = 0
    with pytest.raises(BudgetExceededError) as stopped, pin.run() as run:
        for _ in range(12):
            call_model(run)
            made += 1
    assert made == 3
    assert stopped.value.spent == pytest.approx(0.0225)
    assert pin.traces[-1].usage.cost_usd == pytest.approx(0.0225)


def test_a_stop_that_was_swallowed_is_raised_again_when_the_run_is_left() -> None:
    pin = Guard(Budget(llm_calls=2))
    caught: list[RunStoppedError] = []
    with pytest.raises(BudgetExceededError) as stopped, pin.run() as run:
        for _ in range(10):
            try:
                call_model(run)
            except RunStoppedError as error:
                caught.append(error)
    assert len(caught) == 8
    assert all(error is stopped.value for error in caught)


def test_an_error_raised_because_of_the_stop_does_not_hide_it() -> None:
    pin = Guard(Budget(llm_calls=0))
    with pytest.raises(BudgetExceededError) as stopped, pin.run() as run:
        try:
            call_model(run)
        except RunStoppedError:
            raise KeyError("lost") from None
    assert isinstance(stopped.value.__cause__, KeyError)


def test_giving_up_is_not_replaced_by_the_stop() -> None:
    pin = Guard(Budget(llm_calls=0))
    with pytest.raises(KeyboardInterrupt), pin.run() as run:
        with pytest.raises(RunStoppedError):
            call_model(run)
        raise KeyboardInterrupt


@pytest.mark.parametrize("workers", [5, 20])
def test_parallel_threads_never_exceed_a_cold_budget_and_none_starves(workers: int) -> None:
    pin = Guard(Budget(usd=0.025))
    served = []

    def one(run: Run) -> None:
        with run.llm(model="gpt-4o", messages=PROMPT, max_tokens=500) as call:
            served.append(1)
            threading.Event().wait(0.01)
            call.usage = copy.copy(CALL)

    with pytest.raises(BudgetExceededError), pin.run() as run, ThreadPoolExecutor(workers) as pool:
        for _ in range(workers):
            pool.submit(one, run)
    assert len(served) == 3


async def test_parallel_tasks_wait_for_each_other_and_never_exceed_a_cold_budget() -> None:
    pin = Guard(Budget(usd=0.025))
    served = []

    async def one(run: Run) -> None:
        async with run.llm(model="gpt-4o", messages=PROMPT, max_tokens=500) as call:
            served.append(1)
            await asyncio.sleep(0.01)
            call.usage = copy.copy(CALL)

    with pytest.raises(BudgetExceededError):
        async with pin.run() as run:
            await asyncio.gather(*(one(run) for _ in range(20)), return_exceptions=True)
    assert len(served) == 3
    assert pin.traces[-1].ended_ns - pin.traces[-1].started_ns < 5e9  # nobody waited in vain


async def test_a_sync_block_on_an_event_loop_cannot_wait_and_says_so() -> None:
    pin = Guard(Budget(usd=0.01))
    with pytest.raises(BudgetExceededError) as refused:
        async with pin.run() as run:

            async def slow() -> None:
                async with run.llm(model="gpt-4o", messages=PROMPT, max_tokens=500):
                    await asyncio.sleep(0.01)

            in_flight = asyncio.create_task(slow())
            await asyncio.sleep(0)
            try:
                call_model(run)
            finally:
                await in_flight
    assert refused.value.in_flight


async def test_a_cancelled_waiter_leaves_nothing_behind() -> None:
    pin = Guard(Budget(usd=0.01))
    async with pin.run() as run:
        release = asyncio.Event()

        async def one(usage: Usage) -> None:
            async with run.llm(model="gpt-4o", messages=PROMPT, max_tokens=500) as call:
                await release.wait()
                call.usage = usage

        first, waiter = (asyncio.create_task(one(Usage(10, 10))) for _ in range(2))
        await asyncio.sleep(0.01)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        release.set()
        await first
        assert len(run.tree.journal.open) == 1
        assert run.remaining["usd"] == pytest.approx(0.01, abs=0.001)
        await one(Usage(10, 10))


def test_nobody_waits_for_a_call_it_is_nested_in() -> None:
    pin = Guard(Budget(usd=0.01, wait_seconds=20))
    with pytest.raises(BudgetExceededError) as refused, pin.run() as run, run.llm(model="gpt-4o", messages=PROMPT):
        call_model(run)
    assert refused.value.in_flight


def test_nobody_waits_for_a_call_that_is_open_in_the_same_thread() -> None:
    pin = Guard(Budget(usd=0.01, wait_seconds=20))
    with pytest.raises(BudgetExceededError), pin.run() as run:
        stream = run.llm(model="gpt-4o", messages=PROMPT, max_tokens=500)
        stream.open()
        call_model(run)


def test_an_entry_point_is_one_run_and_a_fresh_one_each_time() -> None:
    @guard(Budget(tool_calls=3))
    def agent(question: str) -> str:
        for n in range(3):
            with current_or_fail().tool("search", {"n": n}) as call:
                call.result = question
        return "done"

    assert agent("a") == "done"
    assert agent("b") == "done"
    traces = agent.pin.traces  # type: ignore[attr-defined]
    assert [trace.status for trace in traces] == ["ok", "ok"]
    assert traces[0].input == {"question": "a"}
    assert traces[0].output == "done"
    assert traces[0].tool_calls == 3


def current_or_fail() -> Run:
    run = current_run()
    assert run is not None
    return run


async def test_a_coroutine_can_be_an_entry_point() -> None:
    @guard(Budget(tool_calls=1))
    async def agent() -> None:
        for n in range(3):
            async with current_or_fail().tool("search", {"n": n}):
                await asyncio.sleep(0)

    with pytest.raises(BudgetExceededError):
        await agent()


def test_a_generator_is_a_run_while_it_runs_and_its_consumer_is_not_inside() -> None:
    @guard(Budget(tool_calls=3))
    def agent() -> Iterator[int]:
        for n in range(10):
            with current_or_fail().tool("count", {"n": n}):
                pass
            yield n

    items = []
    with pytest.raises(BudgetExceededError) as stopped:
        for item in agent():
            assert current_run() is None
            items.append(item)
    assert items == stopped.value.partial == [0, 1, 2]


def test_values_and_errors_sent_into_a_generator_arrive() -> None:
    @guard()
    def echo() -> Any:
        got = yield "first"
        try:
            yield got
        except ValueError as error:
            yield f"caught {error}"
        return "end"

    generator = echo()
    assert next(generator) == "first"
    assert generator.send("sent") == "sent"
    assert generator.throw(ValueError("thrown")) == "caught thrown"
    with pytest.raises(StopIteration) as end:
        next(generator)
    assert end.value.value == "end"


def test_a_generator_its_consumer_leaves_is_cancelled_with_what_it_yielded() -> None:
    @guard()
    def agent() -> Iterator[int]:
        yield from range(10)

    generator = agent()
    next(generator)
    generator.close()  # type: ignore[attr-defined]
    trace = agent.pin.traces[-1]  # type: ignore[attr-defined]
    assert trace.status == "cancelled"
    assert trace.output == [0]


async def test_an_async_generator_is_stopped_with_what_it_yielded() -> None:
    @guard(Budget(tool_calls=2))
    async def agent() -> AsyncIterator[int]:
        for n in range(5):
            async with current_or_fail().tool("count", {"n": n}):
                await asyncio.sleep(0)
            yield n

    items = []
    with pytest.raises(BudgetExceededError) as stopped:
        async for item in agent():
            assert current_run() is None
            items.append(item)
    assert items == stopped.value.partial == [0, 1]


def test_two_tool_functions_of_one_guard_accumulate_outside_any_run() -> None:
    pin = Guard(Budget(tool_calls=4))

    @pin.tool
    def read(path: str) -> str:
        return path

    @pin.tool
    async def write(path: str) -> str:
        return path

    for n in range(2):
        read(f"{n}")
        asyncio.run(write(f"{n}"))
    with pytest.raises(BudgetExceededError) as stopped:
        read("fifth")
    with pytest.raises(BudgetExceededError):
        asyncio.run(write("sixth"))
    with pytest.raises(BudgetExceededError) as again:
        pin.close()
    assert again.value is stopped.value
    assert pin.traces[-1].tool_calls == 4
    pin.close()
    assert read("a new ambient run") == "a new ambient run"
    pin.close()


def test_a_decorated_tool_records_its_arguments_and_result() -> None:
    pin = Guard()

    class Shop:
        @pin.tool
        def price(self, item: str, *, currency: str = "EUR") -> dict[str, Any]:
            return {"item": item, "price": 3}

    with pin.run():
        Shop().price("tea", currency="USD")
    [span] = pin.traces[-1].spans_of("tool")
    assert span.name == "price"
    assert span.arguments == {"item": "tea", "currency": "USD"}
    assert span.result == {"item": "tea", "price": 3}


def test_a_decorated_model_call_is_gated_and_its_text_recorded() -> None:
    pin = Guard(Budget(llm_calls=1))

    @pin.llm(model="gpt-4o")
    def ask(prompt: str) -> str:
        return f"answer to {prompt}"

    with pytest.raises(BudgetExceededError), pin.run():
        ask("one")
        ask("two")
    [span] = pin.traces[-1].spans_of("llm")
    assert span.reply == "answer to one"
    assert span.messages == [{"role": "user", "content": "one"}]
    assert span.usage_estimated


def test_a_run_inside_a_run_is_its_child_and_spends_from_it() -> None:
    pin = Guard(Budget(llm_calls=3))
    with pytest.raises(BudgetExceededError), pin.run("outer") as outer:
        call_model(outer)
        with pin.run("inner") as inner:
            for _ in range(5):
                call_model(inner)
    [trace] = pin.traces
    names = [(span.name, span.agent) for span in trace.spans if span.kind == "agent"]
    assert names == [("outer", "outer"), ("inner", "inner")]
    assert trace.spans_of("agent")[1].parent_id == trace.spans[0].span_id
    assert trace.llm_calls == 3


def test_two_guards_count_separately() -> None:
    one, other = Guard(Budget(llm_calls=1)), Guard(Budget(llm_calls=5))
    with pytest.raises(BudgetExceededError), one.run(), other.run() as inner:
        call_model(inner)
        with one.run() as nested:
            call_model(nested)
            call_model(nested)
    assert other.traces[-1].llm_calls == 1
    assert one.traces[-1].llm_calls == 1


def test_concurrent_runs_of_one_guard_never_mix() -> None:
    pin = Guard(Budget(tool_calls=5))

    @pin.tool
    def work(who: int) -> int:
        return who

    def agent(who: int) -> str:
        try:
            with pin.run(f"agent {who}", user_id=str(who)):
                for _ in range(who):
                    work(who)
        except BudgetExceededError:
            return "stopped"
        return "ok"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(agent, range(10)))
    assert outcomes == ["ok"] * 6 + ["stopped"] * 4
    for trace in pin.traces:
        assert {span.arguments["who"] for span in trace.spans_of("tool")} <= {int(trace.user_id or -1)}


def test_a_thread_without_the_context_is_counted_apart_and_that_is_said() -> None:
    pin = Guard(Budget(tool_calls=1))

    @pin.tool
    def work() -> None: ...

    caught: list[BaseException] = []

    def lost() -> None:
        try:
            work()
        except EnforcementGapWarning as warning:
            caught.append(warning)

    with pin.run():
        threads = [threading.Thread(target=lost), threading.Thread(target=contextvars.copy_context().run, args=(work,))]
        for thread in threads:
            thread.start()
            thread.join()
    assert len(caught) == 1
    assert pin.traces[-1].tool_calls == 1


def test_what_starts_after_the_run_has_ended_is_refused_with_a_clear_error() -> None:
    pin = Guard()
    with pin.run("short") as run:
        pass
    with pytest.raises(ShearpinError, match="has ended"):
        run.tool("late").open()


def test_raise_if_stopped_tells_of_the_last_run_only() -> None:
    pin = Guard(Budget(llm_calls=0))
    pin.raise_if_stopped()
    with pytest.raises(BudgetExceededError), pin.run() as run:
        call_model(run)
    with pytest.raises(BudgetExceededError):
        pin.raise_if_stopped()
    with pin.run():
        pass
    pin.raise_if_stopped()


def test_an_operator_can_stop_a_run() -> None:
    pin = Guard()
    with pytest.raises(RunStoppedError, match="on fire"), pin.run() as run:
        [live] = pin.active
        live.stop("on fire")
        call_model(run)
    assert pin.traces[-1].status == "stopped"


def test_a_stop_survives_pickle_and_copy_as_the_core_class() -> None:
    pin = Guard(Budget(llm_calls=0))
    with pytest.raises(BudgetExceededError) as stopped, pin.run() as run:
        call_model(run)
    error = stopped.value
    assert error.trace is pin.traces[-1]
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is BudgetExceededError
        assert str(twin) == str(error)
        assert twin.as_dict() == error.as_dict()
        assert twin.trace is None
        assert twin.partial is None


def test_a_hundred_thousand_runs_leave_bounded_state() -> None:
    pin = Guard(Budget(llm_calls=1))
    for _ in range(2_000):
        with pin.run():
            pass
    assert pin.active == []
    assert len(pin.traces) == 100


def test_observe_mode_waits_for_nobody() -> None:
    pin = Guard(Budget(tokens=150, wait_seconds=20), mode="observe")
    with pin.run("agent") as run:
        held = run.start("llm", "m", request_model="m", messages=["x"], max_tokens=100)
        begun = time.monotonic()
        other = threading.Thread(target=_call_model, args=(run,))
        other.start()
        other.join(10)
        asyncio.run(_acall_model(run))
        run.end(held)

    assert time.monotonic() - begun < 5
    assert all(decision.verdict == "warn" for decision in pin.traces[-1].decisions)  # enforced, these would have waited
    assert pin.traces[-1].llm_calls == 3


def _call_model(run: Run) -> None:
    with run.llm(model="m", messages="x", max_tokens=100) as call:
        call.usage = Usage(1, 1)


async def _acall_model(run: Run) -> None:
    async with run.llm(model="m", messages="x", max_tokens=100) as call:
        call.usage = Usage(1, 1)


def test_observe_mode_records_the_stop_once_and_stops_nothing() -> None:
    pin = Guard(Budget(llm_calls=1), mode="observe")
    with pin.run() as run:
        for _ in range(4):
            call_model(run)
    trace = pin.traces[-1]
    assert trace.status == "ok"
    assert trace.llm_calls == 4
    [decision] = [decision for decision in trace.decisions if decision.verdict == "stop"]
    assert decision.facts["observed"] is True


def test_a_hand_off_is_recorded() -> None:
    pin = Guard()
    with pin.run() as run:
        run.handoff("support", "billing", "refund")
    [span] = pin.traces[-1].spans_of("handoff")
    assert span.input == {"from": "support", "to": "billing", "reason": "refund"}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Guard(Budget), "Guard takes rules"),
        (lambda: Guard(mode="watch"), "'enforce' or 'observe'"),
        (Budget, "needs a limit"),
        (lambda: Budget(usd=-1), "zero or more"),
        (lambda: Budget(usd=float("nan")), "zero or more"),
        (lambda: Budget(usd="5"), "a finite number"),
        (lambda: Budget(usd=1, unknown_price="maybe"), "a price"),
        (lambda: Budget(usd=1, warn_at=7), "between 0 and 1"),
    ],
)
def test_a_bad_configuration_is_one_clear_error(make: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        make()


def test_a_program_that_handles_its_own_recursion_is_not_stopped() -> None:
    pin = Guard(LoopBreaker(), Budget(steps=10_000))

    @pin.tool
    def visit(depth: int) -> int:
        return depth

    def down(depth: int) -> str:
        try:
            visit(depth)
            return down(depth + 1)
        except RecursionError:
            return "handled"

    with pin.run("agent"):
        assert down(0) == "handled"
        assert visit(-1) == -1
