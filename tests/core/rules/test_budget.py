"""Budgets: what a call is expected to use, what is reserved, and what a budget may be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shearpin import Budget, BudgetExceededError, Guard, LoopBreaker, RunStoppedError, Span, Usage
from shearpin.rules.expecting import bound_input, estimate_input
from shearpin.rules.protocol import Scene, Watch
from shearpin.trace import LLMSpan
from shearpin.trace.pool import Pool

TEXT = st.text(st.characters(categories=None), max_size=60) | st.text('\\"\x00\n\t{}', max_size=60)
DATA = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda v: st.lists(v) | st.dictionaries(TEXT, v))
CALLS = st.lists(st.fixed_dictionaries({"id": TEXT, "name": TEXT, "arguments": DATA}), max_size=3)
PARTS = st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", "input_audio"]), "text": TEXT}))
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"]), "content": TEXT | PARTS | st.none()},
    optional={"tool_calls": CALLS, "name": TEXT, "tool_call_id": TEXT, "status": TEXT},
)


@settings(deadline=None)
@given(st.lists(MESSAGES | TEXT, max_size=4))
def test_what_is_told_without_reading_is_never_below_the_estimate(messages: list[Any]) -> None:
    span = LLMSpan("1", None, "llm", "gpt-4o", stored_input=Pool().chain(messages))

    assert bound_input(span) >= estimate_input(span)


def test_far_from_the_limit_nothing_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    monkeypatch.setattr("shearpin.rules.tokens.estimate_message", lambda message: measured.append(message) or 1)

    with Guard(Budget(usd=1000, tokens=10**9)).run() as run, run.llm(model="gpt-4o", messages="word " * 900) as call:
        call.usage = Usage(900, 10)

    assert not measured


@pytest.mark.parametrize("reserve", ["expected", "max"])
def test_near_the_limit_the_estimate_decides_not_its_bound(reserve: Any) -> None:
    pin = Guard(Budget(input_tokens=1300, reserve=reserve))

    with pin.run() as run, run.llm(model="gpt-4o", messages="word " * 900, max_tokens=5) as call:
        assert 900 <= 1300 - run.remaining["input_tokens"] <= 1300
        call.usage = Usage(900, 5)


def test_reserving_the_most_takes_all_the_room_in_the_context_window() -> None:
    run = Guard(Budget(tokens=10**6, reserve="max")).run()

    with run, run.llm(model="gpt-4o", messages="word " * 900):
        assert 10**6 - run.remaining["tokens"] == 128_000

    with run.guard.run() as again, again.llm(model="gpt-4o", messages="word", max_tokens=7):  # type: ignore[attr-defined]
        assert 10**6 - again.remaining["tokens"] < 20


@pytest.mark.parametrize(("model", "reserved"), [("gpt-4o", 127_991), ("my-model", 512)])
def test_reserving_the_most_without_knowing_it_warns_once_a_model_and_names_max_tokens(
    model: str, reserved: int
) -> None:
    pin = Guard(Budget(output_tokens=10**6, reserve="max"), prices={"my-model": {"input": 1, "output": 1}})

    with pin.run() as run:
        for _ in range(3):
            with run.llm(model=model, messages="hi") as call:
                call.usage = Usage(1, 1)

    [warning] = pin.traces[-1].warnings
    assert warning.reason == (
        f"the output limit of {model} is not known: {reserved:,} tokens are reserved for it; "
        "give the call its max_tokens"
    )
    assert warning.facts == {"model": model, "reserved_output_tokens": reserved}


def test_a_refusal_because_of_an_output_limit_nobody_knows_names_max_tokens() -> None:
    pin = Guard(Budget(tokens=100_000, reserve="max"))

    with pytest.raises(BudgetExceededError, match="llm gpt-4o, which gives no max_tokens"), pin.run() as run:
        run.llm(model="gpt-4o", messages="hi").open()


@pytest.mark.parametrize("options", [{"max_tokens": 7}, {}])
def test_where_the_limit_is_given_or_nothing_is_to_be_made_nothing_is_warned_of(options: Any) -> None:
    pin = Guard(Budget(tokens=10**6, reserve="max"))

    with pin.run() as run:
        call = run.llm(model="gpt-4o", messages="hi", **options) if options else run.embedding(model="m", texts="hi")
        with call:
            pass

    assert pin.traces[-1].warnings == []


@pytest.mark.parametrize("limit", [-1, 0, float("nan"), True - 1])
def test_a_limit_of_output_that_is_none_reserves_what_is_expected(limit: Any) -> None:
    pin = Guard(Budget(output_tokens=1000, wait_seconds=0))
    served: list[int] = []

    def ask(number: int) -> None:
        with run.llm(model="local", messages="hi", max_tokens=limit) as call:
            served.append(number)
            call.usage = Usage(1, 500)

    with pytest.raises(BudgetExceededError), pin.run() as run, ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(20)))

    assert len(served) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"usd": 10**400}, "usd=1000"),
        ({"usd": True}, "usd=True"),
        ({"usd": float("inf")}, "finite number"),
        ({"llm_calls": 1.5}, "llm_calls=1.5.*whole number"),
        ({"steps": 2.5}, "steps=2.5.*whole number"),
        ({"usd": 1, "wait_seconds": True}, "wait_seconds=True"),
        ({"usd": 1, "wait_seconds": float("nan")}, "wait_seconds=nan"),
        ({"usd": 1, "expected_output_tokens": True}, "expected_output_tokens=True"),
        ({"usd": 1, "warn_at": "half"}, "warn_at='half'"),
    ],
)
def test_a_limit_that_is_none_is_one_clear_error(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Budget(**given)


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert Budget(tokens=1e6).limits == {"tokens": 1_000_000}  # type: ignore[arg-type]


def test_observing_records_the_first_refusal_of_every_rule() -> None:
    pin = Guard(Budget(llm_calls=1), Budget(tool_calls=2), LoopBreaker(), mode="observe")

    with pin.run() as run:
        for _ in range(5):
            with run.llm(model="local", messages="hi"):
                pass
            with run.tool("search", {"q": "pins"}) as call:
                call.result = "nothing"

    refusals = [(decision.rule, decision.facts.get("unit")) for decision in pin.traces[-1].decisions]
    assert [refusal for refusal in refusals if refusal[0] != "Budget" or refusal[1]].count(("LoopBreaker", None)) == 1
    assert {("Budget", "llm_calls"), ("Budget", "tool_calls")} <= set(refusals)
    assert pin.traces[-1].llm_calls == pin.traces[-1].tool_calls == 5


class _Unable:
    name = "Unable"

    def watch(self, scene: Scene) -> Watch:
        raise KeyError(scene.trace.name)


class _Blind(_Unable):
    def watch(self, scene: Scene) -> Watch:
        return object()  # type: ignore[return-value]


@pytest.mark.parametrize("rule", [_Unable(), _Blind()])
def test_a_rule_that_cannot_watch_stops_the_run_before_its_first_call(rule: Any) -> None:
    made: list[Span | None] = []

    stops = pytest.raises(RunStoppedError, match="internal error in Unable")
    with stops as stopped, Guard(rule).run() as run, run.tool("search") as call:
        made.append(call.span)

    assert not made
    assert isinstance(stopped.value.__cause__, KeyError | AttributeError)
