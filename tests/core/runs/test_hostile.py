"""Errors and values whose own code raises: they reach the program as they are, and are counted all the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shearpin import Budget, Guard, LoopBreaker, LoopDetectedError, guard


class UnsetError(Exception):
    @property
    def response(self) -> object:
        raise RuntimeError("the response has not been set")


class UnknownError(Exception):
    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"no {name}")


class UnfinishedError(Exception):
    @property
    def completion(self) -> object:
        raise KeyError("completion")


class NestedError(Exception):
    response = UnsetError()

    @property
    def status_code(self) -> object:
        raise RuntimeError("no")


class Undecided(int):
    def __bool__(self) -> bool:
        raise RuntimeError("neither")

    __eq__ = __hash__ = __bool__  # type: ignore[assignment]


class OddError(Exception):
    status_code = Undecided(503)


class NobodyError(Exception):
    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @__class__.setter
    def __class__(self, other: object) -> None:
        raise RuntimeError("no class")


HOSTILE = [UnsetError, UnknownError, UnfinishedError, NestedError, OddError, NobodyError]


def called(pin: Guard, way: str, body: Callable[[], object]) -> None:
    """Run `body` in each of the ways there are to guard it."""
    if way in ("tool", "llm"):
        decorate: Any = getattr(pin, way)
        decorate(body)()
    elif way == "guard":
        guard(pin)(body)()
    else:
        with pin.run("r") as run:
            blocks = {"step": run.step("s"), "tool block": run.tool("t"), "llm block": run.llm(model="m")}
            with blocks[way]:
                body()


WAYS = ["tool", "llm", "guard", "step", "tool block", "llm block"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_an_error_that_cannot_be_asked_reaches_the_program_as_it_is(kind: type[Exception], way: str) -> None:
    error = kind("down")
    pin = Guard(Budget(usd=1, unknown_price=1))

    def fail() -> None:
        raise error

    with pytest.raises(kind) as caught:
        called(pin, way, fail)
    pin.close()

    assert caught.value is error
    assert "error" in {span.status for span in pin.traces[-1].spans}
    assert all(span.end_ns is not None for span in pin.traces[-1].spans)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_call_that_failed_with_it_gives_back_what_it_held(kind: type[Exception]) -> None:
    pin = Guard(Budget(tokens=1000, wait_seconds=0))

    with pin.run("r") as run:
        for _ in range(20):
            with pytest.raises(kind), run.llm(model="m", messages="hi", max_tokens=100):
                raise kind("down")

        assert run.remaining["tokens"] == 1000


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_loop_of_it_is_seen(kind: type[Exception]) -> None:
    pin = Guard(LoopBreaker())
    made = []

    with pytest.raises(LoopDetectedError), pin.run("r") as run:
        for _ in range(10):
            with pytest.raises(kind), run.tool("ask", {"q": 1}):
                made.append(1)
                raise kind("down")

    assert len(made) == 3


def test_a_status_is_read_past_a_response_that_has_none() -> None:
    pin = Guard()

    with pin.run("r") as run, pytest.raises(OddError), run.tool("ask"):
        raise OddError

    assert pin.traces[-1].spans_of("tool")[0].http_status == 503


# --- values


class Gone:
    """What a proxy stands for that is dead by the time it is returned."""


def dead() -> object:
    return weakref.proxy(Gone())


async def async_dead() -> object:
    return dead()


def decorators(pin: Guard) -> list[Any]:
    return [pin.tool, pin.llm, pin.llm(model="m"), guard(pin)]


@pytest.mark.parametrize("which", range(4))
async def test_a_value_that_has_no_class_to_tell_is_returned_as_it_is(which: int) -> None:
    pin = Guard(Budget(tool_calls=10), LoopBreaker())
    decorate = decorators(pin)[which]

    def some() -> Iterator[object]:
        yield dead()

    def later() -> object:
        return async_dead()

    values = [decorate(dead)(), await decorate(async_dead)(), await decorate(later)(), *decorate(some)()]
    pin.close()

    assert [type(value) for value in values] == [weakref.ProxyType] * 4
    assert {span.status for trace in pin.traces for span in trace.spans} == {"ok"}
    assert {span.end_ns is None for trace in pin.traces for span in trace.spans} == {False}


@pytest.mark.parametrize("which", range(4))
def test_an_argument_that_has_no_class_to_tell_is_handed_on(which: int) -> None:
    pin = Guard(Budget(tokens=10_000))
    decorate = decorators(pin)[which]
    given = dead()

    def take(prompt: object, model: object = None, max_tokens: object = None, tools: object = None) -> bool:
        return type(prompt) is weakref.ProxyType

    assert decorate(take)(given)
    assert decorate(take)(given, given, given, given)
    pin.close()


class Barred(list[object]):
    def __iter__(self) -> Iterator[object]:
        raise RuntimeError("no")

    __len__ = __bool__ = __getitem__ = __iter__  # type: ignore[assignment]


def test_an_argument_that_cannot_be_looked_into_is_handed_on() -> None:
    pin = Guard(Budget(tokens=10_000))
    given = Barred([1])

    with pin.run():
        assert pin.llm(model="m")(lambda question: question)(given) is given
        assert pin.llm(model="m")(lambda messages: messages)(given) is given


def test_an_answer_that_has_no_class_to_tell_is_charged_as_reserved() -> None:
    pin = Guard()

    with pin.run("r") as run, run.llm(model="m", messages="hi", max_tokens=7) as call:
        call.response = dead()

    assert run.usage.output_tokens == 7
