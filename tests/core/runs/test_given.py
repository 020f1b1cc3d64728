"""What users hand in: odd names and limits become what they mean, what means nothing is one clear error."""

from __future__ import annotations

import atexit
import gc
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shearpin import Budget, BudgetExceededError, Guard, RunStoppedError, Trace, guard
from shearpin_exporters.files import JSONLinesExporter

ANYONE = uuid.UUID(int=7)


class HalfAnExporter:
    def run_ended(self, trace: Trace) -> None: ...


@pytest.mark.parametrize(
    ("exporters", "says"),
    [
        ([1], "1 is no exporter, it lacks span_started, span_ended, run_ended"),
        ([HalfAnExporter()], "it lacks span_started, span_ended"),
        ([JSONLinesExporter], "it is a class, not an object"),
        (HalfAnExporter(), "must be a list of exporters"),
        (None, "must be a list of exporters"),
        ("runs.jsonl", r"'runs.jsonl'\): must be a list of exporters"),
    ],
)
def test_what_is_no_exporter_is_refused_with_what_it_lacks(exporters: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Guard(exporters=exporters)


@pytest.mark.parametrize(("more", "options"), [([], {"mode": "observe"}), ([Budget(usd=1)], {}), ([Guard()], {})])
def test_a_guard_you_have_takes_nothing_beside_it(more: Any, options: Any) -> None:
    with pytest.raises(TypeError, match=r"guard\(pin\) takes nothing beside the guard"):
        guard(Guard(), *more, **options)


@pytest.mark.parametrize(
    ("prices", "says"),
    [
        (["gpt-4o"], r"prices=\['gpt-4o'\]: must be a mapping such as"),
        ({1: {"input": 1, "output": 1}}, r"prices\[1\]: the name of a model must be a string"),
    ],
)
def test_what_are_no_prices_is_refused_with_what_they_lack(prices: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Guard(prices=prices)


def test_metadata_without_names_is_refused() -> None:
    metadata: Any = ["a"]
    with pytest.raises(TypeError, match=r"metadata=\['a'\]: must be a mapping from names"):
        Guard().run(metadata=metadata)


def test_an_entry_point_is_no_class() -> None:
    with pytest.raises(TypeError, match="Path is a class, decorate its methods"):
        guard(Budget(usd=1))(Path)


def test_names_and_labels_are_strings_in_the_trace_and_its_file(tmp_path: Path) -> None:
    odd: Any = {"session_id": ANYONE, "user_id": 42, "tenant": 1.5, "version": 2, "env": b"prod", "team": None}
    anything: Any = None
    exporter = JSONLinesExporter(tmp_path / "runs.jsonl")
    pin = Guard(exporters=[exporter])
    with pin.run(anything, tags=[2024, "beta"], metadata={7: 1}, **odd) as run:
        run.gap(123)  # type: ignore[arg-type]
        with run.step(1), run.tool(anything, call_id=9):  # type: ignore[arg-type]
            pass
    exporter.close()
    for trace in (pin.traces[-1], Trace.load(tmp_path / "runs.jsonl")):
        assert (trace.name, trace.session_id, trace.user_id) == ("run", str(ANYONE), "42")
        assert (trace.tenant, trace.version, trace.env, trace.team) == ("1.5", "2", "b'prod'", None)
        assert trace.tags == ("2024", "beta")
        assert trace.metadata == {"7": 1}
        assert trace.gaps == ["123"]
        assert [span.name for span in trace.spans] == ["run", "1", "None"]
        assert trace.spans_of("tool")[0].call_id == "9"


@pytest.mark.parametrize(
    ("given", "tags"),
    [("beta", ("beta",)), (None, ()), (2024, ("2024",)), ({"a": 1}, ("a",)), (iter("ab"), ("a", "b"))],
)
def test_one_tag_needs_no_list(given: Any, tags: tuple[str, ...]) -> None:
    with Guard().run(tags=given) as run:
        assert run.trace.tags == tags


def test_a_reason_to_stop_may_be_anything() -> None:
    reason: Any = KeyError("fire")
    with pytest.raises(RunStoppedError, match="fire"), Guard().run() as run:
        assert run.stop(reason).reason == "'fire'"


@pytest.mark.parametrize("model", [None, ""])
def test_a_model_call_needs_the_name_of_its_model(model: Any) -> None:
    with Guard().run() as run:
        with pytest.raises(TypeError, match="needs the name of its model"):
            run.llm(model=model)
        with pytest.raises(TypeError, match="needs the name of its model"):
            run.embedding(model=model, texts=[])


@pytest.mark.parametrize("limit", ["500", [1], object(), {}])
def test_a_limit_that_is_no_number_is_refused_where_it_is_given(limit: Any) -> None:
    with Guard().run() as run, pytest.raises(TypeError, match=r"max_tokens=.* must be a number of tokens"):
        run.llm(model="gpt-4o", max_tokens=limit)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *[(none, None) for none in (None, 0, -1, -(10**9), True, False, -0.5, float("nan"), float("inf"))],
        *[(500, 500), (500.0, 500), (1.5, 2), (10**400, 2**63 - 1)],
    ],
)
def test_a_limit_that_limits_nothing_is_none(given: Any, kept: int | None) -> None:
    with Guard().run() as run, run.llm(model="gpt-4o", max_tokens=given) as call:
        pass
    assert call.span is not None
    assert run.trace.spans_of("llm")[0].max_tokens == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("hi", [{"role": "user", "content": "hi"}]),
        ({"role": "system", "content": "hi"}, [{"role": "system", "content": "hi"}]),
        (None, []),
        ((), []),
    ],
)
def test_a_prompt_may_be_one_message(given: Any, kept: list[Any]) -> None:
    with Guard().run() as run, run.llm(model="gpt-4o", messages=given):
        pass
    assert run.trace.spans_of("llm")[0].messages == kept


def test_one_text_to_embed_is_one_text() -> None:
    with Guard().run() as run, run.embedding(model="text-embedding-3-small", texts="hello"):
        pass
    assert run.trace.spans_of("embedding")[0].input == ["hello"]


def callbacks() -> int:
    return atexit._ncallbacks()  # type: ignore[attr-defined] # noqa: SLF001


def ambient(pin: Guard) -> Callable[[], None]:
    @pin.tool
    def work() -> None: ...

    return work


def test_ambient_runs_leave_one_callback_a_guard_and_no_guard_behind() -> None:
    pin = Guard(Budget(tool_calls=1))
    work, before = ambient(pin), callbacks()
    for _ in range(100):
        work()
        pin.close()
    assert callbacks() == before + 1
    work()
    with pytest.raises(BudgetExceededError):
        work()
    gone = weakref.ref(pin)
    del pin, work
    gc.collect()
    assert gone() is None
