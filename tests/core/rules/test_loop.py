"""The loop breaker: what it stops and when, what it lets run, what its error says, what it costs."""

from __future__ import annotations

import asyncio
import pickle
import random
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from itertools import cycle, islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shearpin import Guard, LoopBreaker, LoopDetectedError
from shearpin.runs.run import Run
from shearpin.trace import LLMSpan, ToolSpan

Move = tuple[str, Any, Any]
"""A tool, its arguments, and what comes back; an exception is raised."""


def call(run: Run, move: Move) -> None:
    name, arguments, result = move
    with suppress(ValueError), run.tool(name, arguments) as made:
        if isinstance(result, Exception):
            raise result
        made.result = result


def play(moves: Iterable[Move], rule: LoopBreaker | None = None) -> tuple[int, LoopDetectedError | None]:
    """How many moves are made, and what ended them."""
    made = 0
    try:
        with Guard(rule or LoopBreaker()).run("agent") as run:
            for move in moves:
                call(run, move)
                made += 1
    except LoopDetectedError as error:
        return made, error
    return made, None


def stopped_after(moves: Iterable[Move], rule: LoopBreaker | None = None) -> int | None:
    made, error = play(islice(moves, 60), rule)
    return made if error else None


def uid(i: int) -> str:
    return str(uuid.UUID(int=random.Random(i).getrandbits(128), version=4))


def words(i: int) -> str:
    """A text that shares no word with the one for any other number."""
    return " ".join("".join(random.Random(f"{i}/{j}").choices("abcdefghijklmnopqrstuvwxyz", k=9)) for j in range(3))


# --- loops ------------------------------------------------------------------------------------------------------------

READ, WRITE = ("read", {"path": "a"}, "A"), ("write", {"path": "a"}, "ok")
THERE, BACK = ("edit", {"old": "x", "new": "y"}, "ok"), ("edit", {"old": "y", "new": "x"}, "ok")
PERMUTED = ["refund policy eu", "policy refund eu", "eu refund policy", "refund eu policy"]
SPACED = ["python asyncio", "python asyncio ", "Python asyncio", " python \n asyncio", "PYTHON\tasyncio"]

LOOPS = {
    "the same call": (3, (("search", {"q": "x"}, "none") for _ in range(60))),
    "keys in any order": (3, (("search", dict(islice(cycle([("q", "x"), ("n", 5)]), i % 2, i % 2 + 2)), "none") for i in range(60))),
    "white space and case": (3, (("search", {"q": SPACED[i % 5]}, "none") for i in range(60))),
    "words in any order": (3, (("search", {"q": PERMUTED[i % 4]}, "no results") for i in range(60))),
    "two calls in turn": (6, cycle([READ, WRITE])),
    "a cycle of three": (9, cycle([(name, {}, f"answer of {name}") for name in "abc"])),
    "a cycle of six": (18, cycle([(name, {}, f"answer of {name}") for name in "abcdef"])),
    "a counter that drifts": (9, (("search", {"q": "x", "page": i}, "no results") for i in range(60))),
    "a counter that drifts, any answer": (9, (("search", {"q": "x", "round_": i}, "blue") for i in range(60))),
    "a cursor that drifts": (6, (("search", {"q": "x", "cursor": i}, "no results") for i in range(60))),
    "a clock that drifts": (6, (("get", {"url": "u", "ts": 1_700_000_000 + i}, "ERROR 500") for i in range(60))),
    "an id that drifts": (6, (("create", {"name": "a", "request_id": uid(i)}, "409 conflict") for i in range(60))),
    "a number within a text": (6, (("get", {"url": f"https://h/a?try={i}"}, "ERROR 500") for i in range(60))),
    "a page that never turns": (9, (("list", {"of": "all", "page": i}, "the same rows " * 30) for i in range(60))),
    "one question in many words": (12, (("search", {"q": f"{words(i)} refund"}, "no results") for i in range(60))),
    "the same error": (3, (("get", {"url": "u"}, "ERROR 500") for _ in range(60))),
    "errors with times and ids": (3, (("get", {}, f"timeout at 2026-01-02T03:04:{i:02d}Z, request {uid(i)}") for i in range(60))),
    "errors that count": (3, (("get", {}, ValueError(f"no route (attempt {i})")) for i in range(60))),
    "answers with the time they were given": (3, (("job", {}, {"state": "up", "checked_at": 17 * 10**8 + i}) for i in range(60))),
    "edit and undo": (6, cycle([THERE, BACK])),
    "hand-over tools with drifting text": (
        6,
        ((f"transfer_to_{'ab'[i % 2]}", {"reason": f"help {i}"}, "transferred") for i in range(60)),
    ),
    "thinking in between": (5, (("search", {"q": "x"}, "none") if i % 3 else ("think", {"t": f"hm {i}"}, "") for i in range(60))),
    "after honest work": (9, [("do", {"i": i}, f"did {i} things") for i in range(6)] + [READ] * 20),
    "amid honest work": (9, (READ if i % 3 == 0 else ("do", {"i": i}, f"report {i}") for i in range(60))),
    "a tool that does not exist": (3, (("nope", {"a": 1}, "Error: unknown tool") for _ in range(60))),
    "a tool that does not exist, called anyhow": (9, (("nope", {"a": words(i)}, "no such tool: nope") for i in range(60))),
    "a button that toggles": (8, (("click", {}, "ok") if i % 2 == 0 else ("look", {}, f"state {i // 2 % 2}") for i in range(60))),
    "edits that change no test": (7, (("edit", {"patch": words(i)}, "ok") if i % 2 == 0 else ("test", {}, "7 failed") for i in range(60))),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_stopped_before_its_next_call(name):
    made, moves = LOOPS[name]

    assert stopped_after(moves) == made


# --- honest work --------------------------------------------------------------------------------------------------------

WORK = {
    "polling with progress": (("status", {"id": 1}, f"progress {i}%") for i in range(60)),
    "polling a countdown": (("status", {"id": 1}, f"pending {60 - i}") for i in range(60)),
    "paging": (("list", {"page": i}, f"items {i}0 to {i}9") for i in range(60)),
    "reading files": (("read", {"path": f"src/m{i}.py"}, f"code {i}") for i in range(60)),
    "reading empty files": (("read", {"path": f"src/m{i}.py"}, "") for i in range(60)),
    "editing and testing": (("edit", {"patch": f"p{i}"}, "ok") if i % 2 else ("test", {}, f"{60 - i} failed") for i in range(60)),
    "writing rows": (("append", {"table": "t", "row": [f"v{i}"]}, "ok") for i in range(60)),
    "writing rows in silence": (("append", {"table": "t", "row": i}, None) for i in range(60)),
    "reading the plan again": (READ if i in (1, 11, 21) else ("do", {"i": i}, f"report {i}") for i in range(30)),
    "sums that happen to agree": (("add", {"a": i, "b": 60 - i}, "60") for i in range(60)),
    "waiting between looks": (("wait", {"s": 5}, "ok") if i % 2 else ("status", {}, f"pending {i}") for i in range(60)),
    "waiting between writes": (("sleep", {"s": 5}, None) if i % 2 else ("put", {"row": i}, None) for i in range(60)),
    "two failures, then success": (("get", {"u": i // 3}, f"page {i}" if i % 3 == 2 else "ERROR 500") for i in range(60)),
    "ten subjects in vain": (("search", {"q": words(i)}, f"found {i}" if i % 11 == 10 else "no results") for i in range(60)),
    "screening names": (("screen", {"name": words(i), "list": "eu"}, "no match") for i in range(60)),
    "verdicts": (("classify", {"text": words(i)}, "harmless") for i in range(60)),
    "checks that pass": (("lint", {"path": f"src/m{i}.py", "fix": False}, "no errors found") for i in range(60)),
    "filling in a form": (("press", {"key": "tab"}, "ok") if i % 2 else ("type", {"text": f"v{i}"}, "ok") for i in range(60)),
    "walking and looking": (("move", {"to": "north"}, "ok") if i % 2 else ("look", {}, f"a tree {i} steps off") for i in range(60)),
    "a shell without output": (("bash", {"command": f"mkdir {words(i)}"}, "(no output)") for i in range(60)),
    "transfers of money": (("transfer_to_account", {"iban": f"DE{i}", "amount": i}, "ok") for i in range(60)),
    "patches that do not fit": (("patch", {"diff": words(i) * 200}, "patch failed") for i in range(8)),
    "a clock between other work": (("now", {}, f"2026-01-02T03:04:{i:02d}Z") if i % 2 else ("do", {"i": i}, i) for i in range(60)),
}  # fmt: skip


@pytest.mark.parametrize("name", WORK)
def test_honest_work_is_never_stopped(name):
    made, error = play(islice(WORK[name], 60))

    assert error is None, (made, error)


def test_thousands_of_varied_calls_are_never_stopped():
    draw = random.Random(7)
    results = ["ok", "none", "ERROR 500", None, "saved", [], {"ok": True}]
    moves = [
        (draw.choice("abcd"), {"q": words(i), "n": i}, draw.choice([*results, f"report {i}", f"report {i}"]))
        for i in range(4000)
    ]

    assert play(moves)[1] is None


def test_undoing_and_looking_again_is_exploring_as_long_as_something_new_is_seen():
    click, undo = ("click", {"x": 1}, "ok"), ("undo", {}, "ok")
    moves = [m for i in range(20) for m in (click, ("shot", {}, f"page {i}"), undo, ("shot", {}, "home"))]

    assert stopped_after(moves) is None


# --- agents, hand-offs, parallel calls, models ----------------------------------------------------------------------------


def test_calls_in_flight_are_no_evidence():
    with Guard(LoopBreaker()).run("agent") as run:
        spans = [run.start("tool", "search", input={"q": "x"}) for _ in range(8)]
        for span in reversed(spans):
            run.end(span, output=f"result {span.span_id}")


def test_answers_may_come_in_any_order():
    with pytest.raises(LoopDetectedError), Guard(LoopBreaker()).run("agent") as run:
        for _ in range(2):
            spans = [run.start("tool", "search", input={"q": "x"}), run.start("tool", "other", input={"q": "y"})]
            for span in reversed(spans):
                run.end(span, output=f"answer of {span.name}")
        call(run, ("search", {"q": "x"}, "answer of search"))
        call(run, ("search", {"q": "x"}, "answer of search"))


def test_the_same_set_of_parallel_calls_is_a_loop_in_any_order():
    names, draw = ["a", "b", "c"], random.Random(3)
    with pytest.raises(LoopDetectedError) as stopped, Guard(LoopBreaker()).run("agent") as run:
        for _ in range(9):
            with run.step("turn"):
                spans = [run.start("tool", name, input={"q": "x"}) for name in draw.sample(names, 3)]
                for span in draw.sample(spans, 3):
                    run.end(span, output=f"answer of {span.name}")

    assert stopped.value.pattern == "the same set of parallel calls"
    assert sorted(stopped.value.calls) == ["a(q='x')", "b(q='x')", "c(q='x')"]
    assert (stopped.value.repeats, stopped.value.onset) == (3, 1)


def test_agents_that_each_look_up_the_same_do_not_trip_one_another():
    pin = Guard(LoopBreaker())
    with pin.run("boss"):
        for i in range(12):
            with pin.run(f"worker {i}") as worker:
                call(worker, READ)


async def test_agents_of_one_name_side_by_side_cannot_know_of_one_another():
    pin = Guard(LoopBreaker())

    async def work() -> None:
        async with pin.run("worker") as worker:
            for name in ("rules", "dates"):
                async with worker.tool(name, {}) as look:
                    await asyncio.sleep(0)
                    look.result = f"the {name}"

    async with pin.run("boss"):
        await asyncio.gather(*(work() for _ in range(12)))


def test_what_an_agent_tried_counts_for_those_that_work_for_it():
    pin = Guard(LoopBreaker())
    with pytest.raises(LoopDetectedError), pin.run("boss") as boss:
        call(boss, READ)
        call(boss, READ)
        with pin.run("worker") as worker:
            call(worker, READ)
            call(worker, READ)


def test_a_new_run_starts_afresh():
    pin = Guard(LoopBreaker())
    for _ in range(5):
        with pin.run("agent") as run:
            for _ in range(3):
                call(run, READ)


def test_hand_offs_to_and_fro_are_a_loop_whatever_is_said():
    with pytest.raises(LoopDetectedError) as stopped, Guard(LoopBreaker()).run("desk") as run:
        for i in range(9):
            run.handoff("support", "billing", words(i))
            run.handoff("billing", "support", words(-i))

    assert stopped.value.pattern == "a hand-off ping-pong"
    assert stopped.value.calls == ["handoff('support', 'billing')", "handoff('billing', 'support')"]


def test_hand_offs_with_work_in_between_are_none():
    with Guard(LoopBreaker()).run("desk") as run:
        for i in range(12):
            run.handoff("boss", "worker", "next")
            call(run, ("do", {"i": i}, f"report {i}"))
            run.handoff("worker", "boss", "done")


def ask(run: Run, messages: list[dict[str, str]], reply: str) -> None:
    with run.llm(model="gpt-4o", messages=messages) as made:
        made.response = reply


def test_a_model_that_says_the_same_to_the_same_question_is_stopped():
    messages = [{"role": "user", "content": "go on"}]
    with pytest.raises(LoopDetectedError) as stopped, Guard(LoopBreaker()).run("agent") as run:
        for reply in ["I am on it.", "I am  on it.", "i am on it.", "I am on it."]:
            ask(run, messages, reply)
            messages = [*messages, {"role": "assistant", "content": reply}]

    assert stopped.value.pattern == "the same text from the model"
    assert stopped.value.unchanged == "'i am on it.'"


def test_a_model_asked_about_many_documents_may_give_one_answer():
    with Guard(LoopBreaker()).run("agent") as run:
        for i in range(20):
            ask(run, [{"role": "system", "content": "label it"}, {"role": "user", "content": words(i)}], "harmless")


def test_a_model_may_repeat_itself_while_its_tools_get_on():
    with Guard(LoopBreaker()).run("agent") as run:
        for i in range(20):
            ask(run, [{"role": "user", "content": "go on"}], "Let me look further.")
            call(run, ("look", {"at": i}, f"page {i}"))


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [2, 3, 5])
def test_a_call_is_made_as_often_as_the_threshold_says(threshold):
    assert stopped_after([READ] * 20, LoopBreaker(threshold=threshold)) == threshold


def test_what_lies_outside_the_window_is_forgotten():
    moves = [READ if i % 5 == 0 else ("do", {"i": i}, f"report {i}") for i in range(60)]

    assert stopped_after(moves, LoopBreaker(window=10)) is None
    assert stopped_after(moves, LoopBreaker(window=20)) == 15


@pytest.mark.parametrize(
    "nonsense", [{"threshold": 1}, {"threshold": 0}, {"window": 2}, {"threshold": 2.5}, {"window": True}, {"window": -1}]
)
def test_nonsense_is_refused(nonsense):
    with pytest.raises(ValueError, match=r"LoopBreaker\(.*\): must be"):
        LoopBreaker(**nonsense)


@pytest.mark.parametrize("unbuilt", ["on_loop", "tools"])
def test_what_is_not_built_is_not_accepted(unbuilt):
    with pytest.raises(TypeError):
        LoopBreaker(**{unbuilt: None})


def test_the_rule_is_a_value():
    assert LoopBreaker().name == "LoopBreaker"
    assert LoopBreaker() == LoopBreaker(window=20, threshold=3)
    with pytest.raises(AttributeError):
        LoopBreaker().window = 5


# --- the error --------------------------------------------------------------------------------------------------------


def test_the_error_shows_the_evidence():
    error = play([("do", {"i": i}, f"report {i}") for i in range(6)] + [("search", {"q": "x"}, "none")] * 9)[1]

    assert error.as_dict() == {
        "pattern": "the same call with the same result",
        "calls": ["search(q='x')"],
        "repeats": 3,
        "onset": 7,
        "unchanged": "'none'",
    }
    assert pickle.loads(pickle.dumps(error)).as_dict() == error.as_dict()  # noqa: S301


def test_the_error_names_a_cycle_without_the_noise_in_it():
    think = [("think", {"t": words(i)}, "") for i in range(9)]
    error = play(m for thought in think for m in (READ, thought, WRITE))[1]

    assert error.pattern == "a cycle of 2 calls"
    assert error.calls == ["read(path='a')", "write(path='a')"]


def test_the_error_says_that_only_the_arguments_changed():
    error = play(("search", {"q": "x", "page": i}, "no results") for i in range(20))[1]

    assert error.pattern == "the same result whatever the arguments"
    assert error.calls == ["search(q='x', page=6)", "search(q='x', page=7)", "search(q='x', page=8)"]


def test_hostile_text_stays_short_and_on_one_line():
    hostile = "\x1b[31m\r\n\u202e" + "x" * 10_000
    nested: Any = hostile
    for _ in range(40):
        nested = {hostile: [nested]}
    error = play([(hostile, {hostile: nested, "a": 10**5000}, ValueError(hostile))] * 9)[1]

    shown = [*error.calls, error.unchanged]
    assert all(len(text) <= 100 and text.isprintable() for text in shown)


# --- properties -------------------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)
FEW = settings(max_examples=60, deadline=None)


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


# --- cost -------------------------------------------------------------------------------------------------------------


def kept_by(value: object, seen: set[int]) -> int:
    """How many objects hang on `value`, spans left out: the trace has those anyway."""
    if id(value) in seen or isinstance(value, ToolSpan | type | str | int | None):
        return 0
    seen.add(id(value))
    parts: list[object] = [getattr(value, name, None) for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
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
