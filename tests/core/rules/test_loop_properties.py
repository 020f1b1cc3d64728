"""The loop breaker on any data, and what it costs."""

from __future__ import annotations

import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shearpin import LoopBreaker, LoopDetectedError
from shearpin.trace import LLMSpan, ToolSpan
from tests.core.rules.loop_stories import words

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)
FEW = settings(max_examples=30, deadline=None)


class Feed:
    """A watch of its own, fed with spans."""

    def __init__(self) -> None:
        self.watch = LoopBreaker().watch(None)  # it asks nothing of the scene
        self.count = 0

    def make(self, arguments: Any, result: Any, name: str = "tool") -> LoopDetectedError | None:
        self.count += 1
        span = ToolSpan(str(self.count), None, "tool", name, agent="a", stored_input=arguments)
        refusal = self.watch.check(span)
        if refusal is None:
            self.watch.admit(span)
            span.stored_output, span.status = result, "ok"
            self.watch.settle(span)
        return refusal


@FEW
@given(st.dictionaries(st.text(), PLAIN, min_size=2, max_size=5), st.randoms())
def test_the_order_of_keys_makes_no_other_call(arguments, draw):
    feed = Feed()
    for _ in range(3):
        items = list(arguments.items())
        draw.shuffle(items)
        assert feed.make(dict(items), "the answer") is None

    assert feed.make(arguments, "the answer") is not None


@FEW
@given(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=6), st.randoms())
def test_white_space_and_case_make_no_other_call(texts, draw):
    feed = Feed()
    for left in (3, 2, 1, 0):
        varied = [draw.choice([str.upper, str.title, str.lower])(text) for text in texts]
        refusal = feed.make({"q": " " * draw.randint(0, 2) + draw.choice([" ", "\n", "  "]).join(varied)}, "the answer")
        assert (refusal is None) == bool(left)


@FEW
@given(PLAIN, PLAIN, st.integers(1, 6))
def test_no_data_makes_it_raise_and_a_check_changes_nothing(arguments, result, times):
    feed = Feed()
    for _ in range(times):
        span = ToolSpan("check", None, "tool", "tool", agent="a", stored_input=arguments)
        asked = [feed.watch.check(span) for _ in range(3)]
        refusal = feed.make(arguments, result)
        assert len({str(answer) for answer in [*asked, refusal]}) == 1


@FEW
@given(st.lists(st.dictionaries(st.sampled_from(["role", "content", "x"]), PLAIN) | PLAIN, max_size=4), st.text())
def test_no_prompt_makes_it_raise(messages, reply):
    watch = LoopBreaker().watch(None)
    for i in range(5):
        span = LLMSpan(str(i), None, "llm", "gpt-4o", stored_input=messages, reply=reply, status="ok")
        watch.check(span)
        watch.admit(span)
        watch.settle(span)


@FEW
@given(st.lists(st.sampled_from(["the answer", "ok", "none", "Error: x", "not found", 404]), max_size=12))
def test_what_another_process_did_is_evidence_like_any_other(results):
    here, elsewhere = Feed(), LoopBreaker().watch(None)
    for i, result in enumerate(results):
        refused = here.make({"q": "x"}, result) is not None
        span = ToolSpan(str(i), None, "tool", "tool", agent="a", stored_input={"q": "x"}, stored_output=result)
        assert (elsewhere.check(span) is not None) == refused
        if refused:
            break
        span.status = "ok"
        elsewhere.recall(span)


def test_a_clock_that_knows_no_place_is_given_up_in_the_end():
    feed = Feed()
    refused = [feed.make({"city": words(i)}, f"unknown city {words(i)}", "get_time") is not None for i in range(40)]

    assert refused.index(True) == 36


# --- cost -------------------------------------------------------------------------------------------------------------


def kept_by(value: object, seen: set[int]) -> int:
    """How many objects hang on `value`, spans left out: the trace has those anyway."""
    if id(value) in seen or isinstance(value, ToolSpan | type | str | int | None):
        return 0
    seen.add(id(value))
    parts: list[object] = [
        getattr(value, name, None) for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())
    ]
    parts += list(getattr(value, "__dict__", {}).values())
    if isinstance(value, dict):
        parts += [*value.keys(), *value.values()]
    elif hasattr(value, "__iter__"):
        parts += list(value)  # type: ignore[call-overload]
    return 1 + sum(kept_by(part, seen) for part in parts)


def test_memory_is_bounded_by_the_window():
    feed, sizes = Feed(), []
    for i in range(10_000):
        feed.make({"q": words(i % 97), "n": i}, f"report {i}", f"tool {i % 50}")
        if i in (1_000, 9_999):
            sizes.append(kept_by(feed.watch, set()))

    assert sizes[1] <= sizes[0] * 1.1
    assert sizes[1] < 1_000


def test_agents_without_number_are_forgotten():
    watch = LoopBreaker().watch(None)
    for i in range(2_000):
        span = ToolSpan(str(i), None, "tool", "tool", agent=f"agent {i}", stored_input={"i": i}, stored_output=i)
        watch.admit(span)
        watch.settle(span)

    assert kept_by(watch, set()) < 10_000


def test_a_call_costs_the_same_however_long_the_run():
    feed = Feed()

    def cost(calls: int) -> float:
        begun = time.process_time()
        for i in range(calls):
            feed.make({"q": f"the thing {feed.count}", "n": 5}, f"report {i}")
        return (time.process_time() - begun) / calls

    early = min(cost(200) for _ in range(5))
    cost(4_000)
    assert min(cost(200) for _ in range(5)) < 3 * early


def test_huge_arguments_cost_a_hash():
    feed = Feed()
    begun = time.process_time()
    for i in range(3):
        assert feed.make({"content": f"{i}" + "x" * 1_000_000, "list": [i] * 100_000}, "ok") is None

    assert time.process_time() - begun < 2
