"""Any function under a guard, however it is made, called, left or broken off."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import warnings
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import pytest

from shearpin import Budget, BudgetExceededError, EnforcementGapWarning, Guard, current_run, guard

# --- generators end their run, whatever they do


def cleans_up_badly() -> Generator[int]:
    try:
        yield 1
    finally:
        raise ValueError("cleanup failed")


def goes_on() -> Generator[int]:
    try:
        yield 1
    except GeneratorExit:
        yield 2


def returns() -> Generator[int]:
    try:
        yield 1
    except GeneratorExit:
        return


@pytest.mark.parametrize(
    ("body", "error", "status"),
    [(cleans_up_badly, ValueError, "error"), (goes_on, RuntimeError, "error"), (returns, None, "cancelled")],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_generator_that_is_left_ends_its_run_however_it_takes_that(
    body: Callable[[], Generator[int]], error: type[Exception] | None, status: str, is_async: bool
) -> None:
    pin = Guard()
    guarded = guard(pin)(awaited(body) if is_async else body)

    async def leave() -> None:
        items: Any = guarded()
        assert (await anext(items) if is_async else next(items)) == 1
        await items.aclose() if is_async else items.close()

    if error is None:
        asyncio.run(leave())
    else:
        with pytest.raises(error):
            asyncio.run(leave())
    assert pin.active == []
    assert [(trace.status, trace.output) for trace in pin.traces] == [(status, [1])]
    assert current_run() is None


def awaited(body: Callable[[], Generator[int]]) -> Callable[[], AsyncGenerator[int]]:
    """The same generator, asynchronous."""

    async def asynchronous() -> AsyncGenerator[int]:
        inner = body()
        for item in inner:
            try:
                yield item
            except GeneratorExit as leaving:
                try:
                    yield inner.throw(leaving)
                except StopIteration:
                    return

    return asynchronous


def test_a_generator_called_wrongly_ends_its_run() -> None:
    pin = Guard()

    @guard(pin)
    def items(count: int) -> Generator[int]:
        yield from range(count)

    with pytest.raises(TypeError, match="count"):
        next(items())  # type: ignore[call-arg]
    assert pin.active == []
    assert pin.traces[-1].status == "error"


def test_a_model_call_that_streams_is_recorded_and_charged_with_the_text_that_came() -> None:
    pin = Guard()

    @pin.llm(model="gpt-4o")
    def stream(prompt: str) -> Generator[str]:
        yield "Hello, "
        yield "world."

    with pin.run():
        assert "".join(stream("hi")) == "Hello, world."
        left = stream("hi")
        next(left)
        left.close()
    whole, cut = pin.traces[-1].spans_of("llm")
    assert (whole.reply, whole.status) == ("Hello, world.", "ok")
    assert (cut.reply, cut.status) == ("Hello, ", "cancelled")
    assert cut.usage is not None
    assert cut.usage.output_tokens < 10


def test_a_model_call_that_fails_before_it_streams_costs_nothing() -> None:
    pin = Guard(Budget(usd=1))

    @pin.llm(model="gpt-4o")
    def stream(prompt: str) -> Generator[str]:
        if prompt:
            raise ConnectionError
        yield "never"

    with pin.run() as run:
        with pytest.raises(ConnectionError):
            list(stream("hi"))
        assert run.usage.cost_usd == 0
        assert run.remaining["usd"] == 1


# --- anything that can be called


class Search:
    """Looks things up."""

    def __call__(self, query: str, limit: int = 3) -> str:
        return query * limit

    def method(self, query: str) -> str:
        return query


class AsyncSearch:
    async def __call__(self, query: str) -> str:
        assert current_run() is not None
        return query


def find(kind: str, query: str, *, limit: int = 1) -> str:
    """Find it."""
    return f"{kind} {query} {limit}"


async def afind(query: str) -> str:
    assert current_run() is not None
    with current_run().tool("inside"):  # type: ignore[union-attr]
        return query


@pytest.mark.parametrize(
    ("function", "name", "arguments"),
    [
        (functools.partial(find, "book", limit=2), "find", {"query": "tea", "limit": 2}),
        (functools.partial(functools.partial(find, "book"), limit=2), "find", {"query": "tea", "limit": 2}),
        (functools.partial(Search()), "Search", {"query": "tea", "limit": 3}),
        (Search(), "Search", {"query": "tea", "limit": 3}),
        (Search().method, "method", {"query": "tea"}),
        (functools.lru_cache(find), "find", {"kind": "tea", "query": "tea", "limit": 1}),
        (lambda query: query, "<lambda>", {"query": "tea"}),
        (len, "len", {"obj": "tea"}),
        (str, "str", {"args": ("tea",)}),
    ],
)
def test_whatever_can_be_called_can_be_a_tool(function: Any, name: str, arguments: dict[str, Any]) -> None:
    pin = Guard()
    tool = pin.tool(function)
    given = ("tea", "tea") if name == "find" and "kind" in arguments else ("tea",)

    with pin.run():
        assert tool(*given) == function(*given)

    [span] = pin.traces[-1].spans_of("tool")
    assert (span.name, tool.__name__) == (name, name)
    assert span.arguments == {key: list(v) if isinstance(v, tuple) else v for key, v in arguments.items()}


@pytest.mark.parametrize(
    ("function", "name"),
    [(AsyncSearch(), "AsyncSearch"), (functools.partial(afind), "afind"), (AsyncSearch().__call__, "__call__")],
)
async def test_whatever_can_be_awaited_can_be_a_tool(function: Any, name: str) -> None:
    pin = Guard()
    tool = pin.tool(function)
    assert inspect.iscoroutinefunction(tool)
    async with pin.run():
        assert await tool("tea") == "tea"
    span = pin.traces[-1].spans_of("tool")[0]
    assert (span.name, span.result) == (name, "tea")


async def test_an_async_function_behind_a_plain_one_runs_inside_too() -> None:
    pin = Guard(Budget(tool_calls=1))

    @guard(pin)
    @functools.wraps(afind)
    def logged(query: str) -> Any:
        return afind(query)

    assert await logged("tea") == "tea"
    [trace] = pin.traces
    assert (trace.output, trace.tool_calls, trace.status) == ("tea", 1, "ok")
    assert pin.active == []


async def test_an_async_function_behind_a_plain_one_fails_as_itself() -> None:
    pin = Guard()

    async def fails() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError):
        await guard(pin)(lambda: fails())()  # noqa: PLW0108 - that is the case
    assert pin.traces[-1].status == "error"
    assert pin.active == []


def test_decorators_of_methods_may_come_in_either_order() -> None:
    pin = Guard()

    class Shop:
        @pin.tool
        @staticmethod
        def price(item: str) -> str:
            return item

        @staticmethod
        @pin.tool
        def weight(item: str) -> str:
            return item

        @pin.tool
        @classmethod
        def name(cls, item: str) -> str:
            return cls.__name__ + item

        @guard(pin)
        @classmethod
        def run(cls, item: str) -> str:
            return Shop.price(item) + Shop().price(item) + Shop.weight(item) + Shop.name(item) + Shop().name(item)

    assert Shop.run("tea") == "teateateaShopteaShoptea"
    [trace] = pin.traces
    assert (trace.name, trace.input) == ("run", {"item": "tea"})
    assert [(span.name, span.arguments) for span in trace.spans_of("tool")] == [
        (name, {"item": "tea"}) for name in ("price", "price", "weight", "name", "name")
    ]
    assert Shop.run.pin is pin  # type: ignore[attr-defined]


def test_what_is_wrapped_looks_like_what_it_wraps() -> None:
    tool = Guard().tool(functools.partial(find, "book"))
    assert tool.__doc__ == "Find it."
    assert list(inspect.signature(tool).parameters) == ["query", "limit"]


# --- arguments mean what the call means


def test_a_model_call_sees_the_defaults_of_its_function() -> None:
    pin = Guard(Budget(usd=1))

    @pin.llm
    def ask(prompt: str, model: str = "gpt-4o", max_tokens: int = 50, messages: list[Any] | None = None) -> str:
        return "text"

    with pin.run():
        ask("hi")
        ask("hi", "gpt-4o-mini", 60)
    first, second = pin.traces[-1].spans_of("llm")
    assert (first.request_model, first.max_tokens) == ("gpt-4o", 50)
    assert (second.request_model, second.max_tokens) == ("gpt-4o-mini", 60)
    assert first.messages == [{"role": "user", "content": "hi"}]


def test_a_model_call_sees_further_keywords() -> None:
    pin = Guard(Budget(input_tokens=100))

    @pin.llm(model="gpt-4o")
    def chat(**options: Any) -> str:
        return "text"

    with pytest.raises(BudgetExceededError), pin.run():
        chat(messages="word " * 5_000)


@pytest.mark.parametrize(
    "odd",
    [
        {"max_tokens": "500"},
        {"max_tokens": [1]},
        {"max_tokens": -1},
        {"max_tokens": float("nan")},
        {"max_tokens": True},
        {"model": object()},
        {"model": None},
        {"tools": "auto"},
        {"tools": 5},
        {"messages": None},
        {"messages": 5},
        {"messages": (message for message in ("seen", "by the function"))},
    ],
)
def test_an_argument_that_means_something_else_by_its_name_breaks_nothing(odd: dict[str, Any]) -> None:
    pin = Guard(Budget(usd=1, output_tokens=10_000))

    @pin.llm(model="gpt-4o")
    def ask(messages: Any = (), model: Any = None, max_tokens: Any = None, tools: Any = ()) -> str:
        return " ".join(messages) if isinstance(messages, Generator) else "text"

    with pin.run():
        assert ask(**odd) == ("seen by the function" if isinstance(odd.get("messages"), Generator) else "text")
    [span] = pin.traces[-1].spans_of("llm")
    assert (span.request_model, span.max_tokens, span.tools) == ("gpt-4o", None, [])


def test_two_calls_that_mean_the_same_are_recorded_the_same() -> None:
    pin = Guard()

    @pin.tool
    def search(query: str, *more: str, page: int = 1, **filters: str) -> None: ...

    with pin.run():
        search("tea")
        search(query="tea", page=1)
        search("tea", "green", lang="en")
    first, second, third = (span.arguments for span in pin.traces[-1].spans_of("tool"))
    assert first == second == {"query": "tea", "page": 1}
    assert third == {"query": "tea", "more": ["green"], "page": 1, "lang": "en"}


def test_the_warning_of_a_lost_context_points_at_the_call() -> None:
    pin = Guard()

    @pin.tool
    def work() -> None: ...

    def lost() -> None:
        work()

    with pin.run(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        thread = threading.Thread(target=lost)
        thread.start()
        thread.join()
    pin.close()
    [warning] = caught
    assert warning.category is EnforcementGapWarning
    assert (warning.filename, warning.lineno) == (__file__, lost.__code__.co_firstlineno + 1)


# --- decorated twice


def decorated_twice(pin: Guard, decorate: Any) -> list[Callable[..., Any]]:
    class Tools:
        @decorate
        def search(self, query: str) -> str:
            return query

        @staticmethod
        @decorate
        def find(query: str) -> str:
            return query

    def look(query: str) -> str:
        return query

    other = Guard()
    twice = decorate(decorate(look))
    return [twice, decorate(Tools().search), decorate(Tools.find), decorate(other.tool(decorate(look)))]


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("kind", ["tool", "llm"])
def test_what_is_decorated_twice_by_one_guard_is_one_call(kind: str, which: int) -> None:
    pin = Guard()
    decorate = pin.tool if kind == "tool" else pin.llm(model="m")
    function = decorated_twice(pin, decorate)[which]

    with pin.run() as run:
        assert function("q") == "q"

    assert (run.trace.tool_calls, run.trace.llm_calls) == ((1, 0) if kind == "tool" else (0, 1))


def test_another_function_with_the_attributes_of_a_decorated_one_is_decorated_all_the_same() -> None:
    pin = Guard()

    @pin.tool
    def search(query: str) -> str:
        return query

    @functools.wraps(search)
    def instead(query: str) -> str:
        return query

    with pin.run() as run:
        pin.tool(instead)("q")

    assert run.trace.tool_calls == 1


def test_two_guards_count_what_both_decorate() -> None:
    first, second = Guard(), Guard()

    def search(query: str) -> str:
        return query

    with first.run() as one, second.run() as other:
        first.tool(second.tool(search))("q")

    assert (one.trace.tool_calls, other.trace.tool_calls) == (1, 1)
