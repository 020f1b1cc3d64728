"""The loop breaker: what it stops and when, what it lets run, what its error says."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import random
from typing import Any

import pytest

from shearpin import Guard, LoopBreaker, LoopDetectedError
from shearpin.runs.run import Run
from tests.core.rules.loop_stories import LOOPS, READ, WORK, WRITE, call, play, report, stopped_after, words


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_stopped_before_its_next_call(name):
    made, moves = LOOPS[name]

    assert stopped_after(moves) == made


@pytest.mark.parametrize("name", WORK)
def test_honest_work_is_never_stopped(name):
    assert stopped_after(WORK[name]) is None


def test_thousands_of_varied_calls_are_never_stopped():
    draw = random.Random(7)  # noqa: S311 - chance, not secrecy
    results = ["ok", "none", "ERROR 500", None, "saved", [], {"ok": True}]
    moves = [
        (draw.choice("abcd"), {"q": words(i), "n": i}, draw.choice([*results, f"report {i}", f"report {i}"]))
        for i in range(2000)
    ]

    assert play(moves)[1] is None


# --- agents, hand-offs, parallel calls, models ---------------------------------------------------------------------


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
    names, draw = ["a", "b", "c"], random.Random(3)  # noqa: S311 - chance, not secrecy
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


def test_agents_of_many_names_that_make_one_call_each_and_nothing_else_are_a_loop():
    pin, made = Guard(LoopBreaker()), 0
    with pytest.raises(LoopDetectedError, match="the same call with the same result"), pin.run("boss"):
        for i in range(40):
            with pin.run(f"worker {i}") as worker:
                call(worker, READ)
                made += 1

    assert made == 24


def test_agents_of_many_names_may_look_up_the_same_while_they_get_on():
    pin = Guard(LoopBreaker())
    with pin.run("boss"):
        for i in range(60):
            with pin.run(f"worker {i}") as worker:
                call(worker, READ)
                call(worker, report(i))
    with pin.run("boss"):
        for i in range(60):
            with pin.run(f"worker {i}") as worker:
                call(worker, READ)
                ask(worker, [{"role": "user", "content": words(i)}], "harmless")


async def test_agents_of_many_names_side_by_side_cannot_know_of_one_another():
    pin = Guard(LoopBreaker())

    async def work(i: int) -> None:
        async with pin.run(f"worker {i}") as worker, worker.tool("rules", {}) as look:
            await asyncio.sleep(0)
            look.result = "the rules"

    async with pin.run("boss"):
        await asyncio.gather(*(work(i) for i in range(40)))


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
            call(run, report(i))
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


@pytest.mark.parametrize("texts", [["On it."], ["On it.", "Let me think."], ["On it.", "Thinking.", "Almost there."]])
def test_a_model_that_says_the_same_few_things_in_turn_is_stopped(texts):
    messages, made = [{"role": "user", "content": "do it"}], 0
    with pytest.raises(LoopDetectedError, match="the model"), Guard(LoopBreaker()).run("agent") as run:
        for reply in itertools.islice(itertools.cycle(texts), 60):
            ask(run, messages, reply)
            made += 1
            messages = [*messages, {"role": "assistant", "content": reply}, {"role": "user", "content": "go on"}]

    assert made == 3 * len(texts) + 1  # the first was asked for something else


def test_a_model_may_say_the_same_few_things_to_new_questions():
    messages = []
    with Guard(LoopBreaker()).run("agent") as run:
        for i in range(60):
            messages = [*messages, {"role": "user", "content": words(i)}]
            ask(run, messages, reply := ["Yes, it is.", "No, it is not."][i % 2])
            messages = [*messages, {"role": "assistant", "content": reply}]


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
    moves = [report(i) if i % 5 else READ for i in range(60)]

    assert stopped_after(moves, LoopBreaker(window=10)) is None
    assert stopped_after(moves, LoopBreaker(window=20)) == 15


@pytest.mark.parametrize(
    "nonsense",
    [{"threshold": 1}, {"threshold": 0}, {"window": 2}, {"threshold": 2.5}, {"window": True}, {"window": -1}],
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
    error = play([*map(report, range(6)), *[("search", {"q": "x"}, "none")] * 9])[1]

    assert error.as_dict() == {
        "pattern": "the same call with the same result",
        "calls": ["search(q='x')"],
        "repeats": 3,
        "onset": 7,
        "unchanged": "'none'",
    }
    assert pickle.loads(pickle.dumps(error)).as_dict() == error.as_dict()


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
