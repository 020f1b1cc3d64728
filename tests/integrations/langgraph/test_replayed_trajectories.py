"""Whole conversations held again: an agent on one thread, a message of the user after the other, in one run.

They have the shape in which recorded trajectories are published, and go through the benchmark that replays those.
"""

import importlib
import json
from pathlib import Path

import pytest

from shearpin import Budget, Guard, LoopBreaker, LoopDetectedError

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are in the repository only")


@pytest.fixture(scope="module")
def bench():
    """The benchmark as a module, which finds its other file beside itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("tau_replay")


@pytest.fixture
def provider(bench):
    with bench.Provider() as provider:
        yield provider


@pytest.fixture
def file(tmp_path):
    """Write trajectories: `file(trajectory, …)`."""

    def write(*trajectories):
        path = tmp_path / "trajectories.jsonl"
        path.write_text("\n".join(map(json.dumps, trajectories)), encoding="utf-8")
        return path

    return write


# --- what might have been recorded


def user(text):
    return [{"role": "user", "content": text}]


def says(text):
    return [{"role": "assistant", "content": text}]


def uses(*calls, text=None):
    """A turn of the model and the answers to it; each call is an id, a name, arguments and a result."""
    asked = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for call_id, name, arguments, _ in calls
    ]
    answers = [
        {"role": "tool", "tool_call_id": call_id, "name": name, "content": result} for call_id, name, _, result in calls
    ]
    return [{"role": "assistant", "content": text, "tool_calls": asked}, *answers]


def trajectory(*parts, task=1, reward=1.0):
    messages = [{"role": "system", "content": "You run the desk of a small library."}]
    return {"task_id": task, "trial": 0, "reward": reward, "traj": sum(parts, messages)}


LEND = {"book": "b7", "reader": {"card": 12, "name": "Ada"}, "days": [14, 28]}
LENDING = trajectory(
    user("I would like to borrow a book on bridges."),
    uses(("c1", "find_book", {"subject": "bridges", "limit": 3}, '[{"book": "b7"}, {"book": "b9"}]')),
    says("There are two. The first one?"),
    user("The first. I am Ada, card 12."),
    uses(("c2", "reader", {"card": 12}, '{"name": "Ada", "owes": 0}'), ("c3", "shelf", {"book": "b7"}, "hall 2")),
    uses(("c1", "lend", LEND, ""), text="One moment."),  # an id used before: providers' caches do that
    says("It is yours until the 28th."),
    user("Thanks, bye."),
)
REFUSED = trajectory(
    user("Prolong everything I have."),
    uses(("c1", "loans", {"card": 31}, '["b1", "b2"]')),
    uses(("c2", "prolong", {"book": "b1"}, "Error: the book is reserved")),
    uses(("c3", "prolong", {"book": "b2"}, "Error: the book is reserved")),
    says("Both are reserved by others, I am afraid."),
    user("Then I want to talk to somebody."),
    uses(("c4", "fetch_librarian", {"why": "both loans are reserved"}, "She is on her way")),
    task=2,
    reward=0.0,
)
STUCK = [uses((f"c{n}", "find_book", {"subject": "bridges"}, "[]")) for n in range(9)]


def test_a_conversation_is_traced_as_it_was_recorded(bench, provider, file):
    (conversation,) = bench.read(file(LENDING))
    pin = Guard(LoopBreaker(), Budget(usd=5, steps=60))

    trace = bench.replay(conversation, pin, provider.model(conversation), bench.schemas([conversation]))

    calls = [(span.step, span.call_id, span.name, span.arguments, span.result) for span in trace.spans_of("tool")]
    assert sorted(calls, key=lambda call: call[:2]) == [  # two of them run side by side
        (1, "c1", "find_book", {"subject": "bridges", "limit": 3}, '[{"book": "b7"}, {"book": "b9"}]'),
        (3, "c2", "reader", {"card": 12}, '{"name": "Ada", "owes": 0}'),
        (3, "c3", "shelf", {"book": "b7"}, "hall 2"),
        (4, "c1", "lend", LEND, ""),
    ]
    assert (trace.status, trace.steps, trace.llm_calls, trace.tool_calls) == ("ok", 5, 5, 4)
    assert [span.name for span in trace.spans_of("agent")] == ["task 1 trial 0", "LangGraph", "LangGraph"]
    assert (trace.usage.input_tokens, trace.usage.output_tokens) == provider.server.usage[:2]
    assert pin.traces == [trace]


def test_a_loop_over_several_messages_of_the_user_is_one_loop(bench, provider, file):
    asked_again = [
        user("Anything on bridges?") + turn + says(f"Nothing, for the {n}. time.") for n, turn in enumerate(STUCK)
    ]
    (conversation,) = bench.read(file(trajectory(*asked_again)))
    pin = Guard(LoopBreaker())

    trace = bench.replay(conversation, pin, provider.model(conversation), bench.schemas([conversation]))

    assert isinstance(trace.stop.error, LoopDetectedError)
    assert (trace.status, trace.tool_calls) == ("stopped", 3)
    assert provider.server.served == 7


@pytest.mark.parametrize("model", ["--server", "--no-server"])
def test_honest_conversations_keep_every_promise(bench, file, capsys, model):
    assert bench.main([str(file(LENDING, REFUSED)), model]) == 0

    table = rows(capsys)
    assert table["steps"] == "10"
    assert table["tool calls"] == "8"
    assert table["solved, stopped"] == "0 of 1"
    assert table["unsolved, stopped"] == "0 of 1"
    assert table["tool calls traced as recorded"] == "2 of 2"
    assert table["one call repeated 12 times, stopped"].startswith("2 of 2")
    assert table["two calls in turn 12 times, stopped"].startswith("2 of 2")


def test_a_solved_conversation_that_is_stopped_breaks_a_promise(bench, file, capsys):
    assert bench.main([str(file(trajectory(user("Bridges?"), *STUCK, says("None."))))]) == 1

    assert "BROKEN: task 1 trial 0 was solved, and stopped" in capsys.readouterr().out


def test_an_unsolved_conversation_may_be_stopped(bench, file, capsys):
    stuck = trajectory(user("Bridges?"), *STUCK, says("None."), reward=0.0)

    assert bench.main([str(file(LENDING, stuck))]) == 0

    assert rows(capsys)["unsolved, stopped"] == "1 of 1"


def test_a_loop_that_goes_on_breaks_a_promise(bench, file, capsys, monkeypatch):
    monkeypatch.setattr(bench, "LoopBreaker", lambda **_: LoopBreaker(threshold=20))

    assert bench.main([str(file(LENDING)), "--no-server"]) == 1

    assert "loop of 1: not stopped" in capsys.readouterr().out


def test_without_a_file_the_benchmark_is_skipped(bench, capsys, monkeypatch):
    monkeypatch.delenv("SHEARPIN_TAU_FILE", raising=False)

    assert bench.main(["--quick"]) == 0

    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("skipped")


def test_the_file_may_be_named_in_the_environment(bench, file, capsys, monkeypatch):
    monkeypatch.setenv("SHEARPIN_TAU_FILE", str(file(LENDING)))

    assert bench.main(["--no-server"]) == 0

    assert rows(capsys)["conversations"].startswith("1,")


def rows(capsys):
    """The printed table: what, and its figures."""
    lines = capsys.readouterr().out.splitlines()
    return {line[:44].strip(): line[44:].strip() for line in lines if not line.startswith(" ")}
