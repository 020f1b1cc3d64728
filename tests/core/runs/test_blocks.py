"""A block is opened once and always ends, whatever was put into it."""

from __future__ import annotations

import contextvars
import threading
from collections import UserDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from shearpin import Budget, BudgetExceededError, Guard, RunStoppedError, ShearpinError, Usage, current_run, guard
from shearpin.adapter import Reply
from shearpin.runs.block import Block
from shearpin.runs.run import Run


def blocks(pin: Guard) -> list[Block]:
    run = pin.run("around")
    run.open()
    return [pin.run("x"), run.tool("x"), run.step("x"), run.llm(model="x")]


@pytest.mark.parametrize("which", range(4))
def test_a_block_is_opened_once(which: int) -> None:
    pin = Guard()
    block = blocks(pin)[which]
    with pytest.raises(ShearpinError, match=r"x.* was opened before"), block, block:
        pass
    assert current_run() is None
    with pytest.raises(ShearpinError, match="was opened before"), block:
        pass
    [around] = pin.active
    around.close()
    assert pin.active == []


async def test_an_async_block_is_opened_once() -> None:
    pin = Guard()
    async with pin.run() as run:
        call = run.tool("x")
        async with call:
            with pytest.raises(ShearpinError, match="tool x was opened before"):
                await call.__aenter__()
        with pytest.raises(ShearpinError, match="was opened before"):
            await run.__aenter__()
    assert pin.active == []
    assert pin.traces[-1].status == "ok"


def test_of_many_threads_one_opens_a_run() -> None:
    pin = Guard()
    run = pin.run("shared")
    together = threading.Barrier(8)

    def enter() -> str:
        together.wait()
        try:
            with run:
                return "inside"
        except ShearpinError:
            return "refused"

    with ThreadPoolExecutor(8) as pool:
        outcomes = sorted(pool.map(lambda _: enter(), range(8)))
    assert outcomes == ["inside", *["refused"] * 7]
    assert pin.active == []
    assert len(pin.traces) == 1


def test_a_block_that_could_not_open_says_why_each_time() -> None:
    pin = Guard(Budget(tool_calls=0))
    with pytest.raises(BudgetExceededError) as stopped, pin.run() as run:
        call, child = run.tool("search"), pin.run("child")
        for block in (call, call, child, child):
            with pytest.raises(BudgetExceededError) as refused, block:
                pass
            assert refused.value is run.stopped
    assert stopped.value.spent == 0


def test_leaving_a_block_again_or_before_it_was_entered_does_nothing() -> None:
    pin = Guard(Budget(tool_calls=0))
    run = pin.run()
    run.__exit__(None, None, None)
    with pytest.raises(BudgetExceededError), run, run.tool("search"):
        pass
    run.__exit__(None, None, None)
    assert len(pin.traces) == 1
    assert current_run() is None


def still_open(run: Run) -> list[str]:
    return [span.name for span in run.trace.spans if span.end_ns is None]


# --- usage


TOLD = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


@pytest.mark.parametrize(
    "usage",
    [
        TOLD,
        SimpleNamespace(**TOLD),
        {"input_tokens": 10, "output_tokens": 5},
        SimpleNamespace(input_tokens=10, output_tokens=5),
        Usage(input_tokens=10, output_tokens=5),
    ],
)
def test_the_usage_of_an_answer_can_be_given_as_it_is(usage: Any) -> None:
    pin = Guard(Budget(usd=1))
    with pin.run() as run:
        with run.llm(model="gpt-4o", messages="hi", max_tokens=9) as call:
            call.usage = usage
        spent = 10 * 2.5e-6 + 5 * 10e-6
        assert run.usage == Usage(input_tokens=10, output_tokens=5, cost_usd=pytest.approx(spent))
        assert run.remaining["usd"] == pytest.approx(1 - spent)


class Unread(UserDict[str, int]):
    def __iter__(self) -> Any:
        raise RuntimeError("no")


NO_USAGE = [15, "n/a", [10, 5], {}, {"tokes": 3}, {"prompt_tokens": None}, object(), SimpleNamespace(usage=TOLD)]


@pytest.mark.parametrize("usage", [*NO_USAGE, Unread(TOLD)])
def test_what_is_no_usage_is_a_gap_and_charged_as_reserved(usage: Any) -> None:
    pin = Guard(Budget(usd=1))
    with pin.run() as run, run.llm(model="gpt-4o", messages="hi", max_tokens=9) as call:
        call.usage = usage
    assert run.usage.output_tokens == 9
    [gap] = pin.traces[-1].gaps
    assert gap.startswith(f"call.usage = {type(usage).__name__}: tells no tokens")


def test_a_usage_of_no_tokens_is_no_error_and_charged_as_reserved() -> None:
    pin = Guard()
    with pin.run() as run, run.llm(model="gpt-4o", messages="hi", max_tokens=9) as call:
        call.usage = {"prompt_tokens": 0, "completion_tokens": 0}
    assert run.usage.output_tokens == 9


def test_a_usage_may_grow_after_it_was_given_and_is_left_as_it_is() -> None:
    pin = Guard()
    mine = Usage()
    with pin.run() as run, run.llm(model="gpt-4o", messages="hi") as call:
        call.usage = mine
        mine.input_tokens += 7
    assert run.usage.input_tokens == 7
    assert mine == Usage(input_tokens=7)


# --- what cannot be recorded


class Unreadable:
    """Ctrl-C, while this is recorded."""

    def __repr__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize("record", ["tool", "child", "run", "decorated"])
def test_what_is_interrupted_while_its_outcome_is_recorded_has_ended(record: str) -> None:
    pin = Guard()
    run = pin.run("outer")
    run.open()
    with pytest.raises(KeyboardInterrupt):
        RECORDS[record](pin, run)
    assert still_open(run) == ([] if record == "run" else ["outer"])
    run.close()
    assert pin.active == []
    assert still_open(run) == []


def _tool(_: Guard, run: Run) -> None:
    with run.tool("x") as call:
        call.result = Unreadable()


def _child(pin: Guard, run: Run) -> None:
    with run.here, pin.run("inner") as inner:
        inner.returned(Unreadable())


def _run(_: Guard, run: Run) -> None:
    run.returned(Unreadable())
    run.close()


def _decorated(pin: Guard, _: Run) -> None:
    @guard(pin)
    def answer() -> object:
        return Unreadable()

    answer()


RECORDS: dict[str, Callable[[Guard, Run], None]] = {
    "tool": _tool,
    "child": _child,
    "run": _run,
    "decorated": _decorated,
}


@pytest.mark.parametrize("strict", [True, False])
def test_a_call_whose_outcome_cannot_be_read_has_ended_and_is_charged(
    strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Undecided:
        def __bool__(self) -> bool:
            raise ZeroDivisionError

    undecided: Any = Undecided()

    monkeypatch.setattr("shearpin.runs.trouble.STRICT", strict)
    pin = Guard(Budget(usd=1))
    with pin.run() as run:
        call = run.llm(model="gpt-4o", messages="hi", max_tokens=9)
        with pytest.raises(ZeroDivisionError) if strict else nullcontext(), call:
            call.response = Reply("hi", usage=Usage(1, 1), from_cache=undecided)
        [span] = run.trace.spans_of("llm")
        assert (span.status, span.usage_estimated) == ("ok", True)
        assert still_open(run) == ["run"]
        assert run.remaining["usd"] == pytest.approx(1 - (span.usage.cost_usd or 0) if span.usage else 1)


def test_an_orphan_of_a_stopped_run_starts_no_run_of_its_own():
    pin = Guard()
    with pytest.raises(RunStoppedError) as stop, pin.run("outer") as run:
        inherited = contextvars.copy_context()
        run.stop("enough")
        run.check()

    def start():
        with pin.run("orphan"):
            pass

    with pytest.raises(RunStoppedError) as told:
        inherited.run(start)
    assert told.value is stop.value
    assert [trace.name for trace in pin.traces] == ["outer"]
    start()
    assert pin.traces[-1].name == "orphan"


def test_a_tool_call_that_was_admitted_and_never_made_is_not_counted():
    pin = Guard(Budget(tool_calls=1))
    with pin.run("agent") as run:
        run.withdraw(run.start("tool", "search", input={"q": "x"}, call_id="c1"))
        assert run.trace.tool_calls == 0

        made = run.start("tool", "search", input={"q": "x"}, call_id="c1")
        run.end(made, output="found")

    assert (pin.traces[-1].tool_calls, made.retry) == (1, 0)
