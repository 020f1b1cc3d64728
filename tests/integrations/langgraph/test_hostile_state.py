"""Whatever lies in a graph's state, a guarded node answers and raises what the node by itself would."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, TypedDict
from unittest.mock import MagicMock

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph

from shearpin import Budget, Guard, LoopBreaker
from shearpin_integrations.langgraph import ShearpinCallbackHandler, guarded_node, hook_nodes


class State(TypedDict, total=False):
    thing: Any
    messages: Any


class Lazy(dict[str, Any]):
    """Loads itself when it is looked into, and cannot."""

    def _load(self, *_: object) -> Any:
        raise ConnectionError("the database is gone")

    items = keys = values = get = __iter__ = __len__ = _load


class Sealed:
    """A proxy of nothing: whatever one asks of it, it raises, its class included."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("working outside of the request")


class Unnamed:
    def __repr__(self) -> str:
        raise ValueError("no text")

    def __eq__(self, other: object) -> bool:
        raise ValueError("no comparison")

    __hash__ = object.__hash__


class Undecided:
    def __bool__(self) -> bool:
        raise ValueError("neither")

    def __iter__(self) -> Iterator[Any]:
        raise ValueError("no items")


class CommandLike:
    """Looks like a `Command`, and is not ready yet."""

    @property
    def update(self) -> Any:
        raise KeyError("update")

    goto = resume = graph = update


class BrokenList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise ValueError("no items")


def cyclic() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


THINGS: dict[str, Callable[[], Any]] = {
    "lazy": lambda: Lazy(a=1),
    "sealed": Sealed,
    "unnamed": Unnamed,
    "undecided": Undecided,
    "like a command": CommandLike,
    "mock": MagicMock,
    "broken list": lambda: BrokenList([1]),
    "cycle": cyclic,
    "generator": lambda: (each for each in "abc"),
    "surrogate": lambda: "\ud800",
    "huge": lambda: 10**5000,
    "nan": lambda: float("nan"),
    "error": lambda: ValueError(Unnamed()),
}
PLACES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "a field": lambda thing: {"thing": thing},
    "the messages": lambda thing: {"messages": thing},
    "among the messages": lambda thing: {"messages": [thing]},
}
BODIES: dict[str, Callable[[Any, Any], Any]] = {
    "passed on": lambda state, _: dict(state),
    "alone": lambda _, thing: thing,
}
WAYS = ("guarded function", "guarded runnable", "guarded coroutine", "hooked", "handler")


def compiled(node: Any, pin: Guard | None = None) -> Any:
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return (hook_nodes(builder, pin) if pin else builder).compile()


def outcome(graph: Any, way: str, given: Any, config: Any) -> tuple[str, Any]:
    try:
        answer = asyncio.run(graph.ainvoke(given, config)) if "coroutine" in way else graph.invoke(given, config)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return "raised", type(error)
    return "answered", {name: type(value) for name, value in answer.items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", THINGS.values(), ids=THINGS)
def test_a_guard_changes_neither_the_answer_nor_the_error(
    make: Callable[[], Any], place: str, body: str, way: str
) -> None:
    thing, pin, config = make(), Guard(Budget(usd=1, tool_calls=5), LoopBreaker()), {}

    def work(state: Any) -> Any:
        return BODIES[body](state, thing)

    async def awork(state: Any) -> Any:
        return work(state)

    node: Any = {"guarded runnable": RunnableLambda(work), "guarded coroutine": awork}.get(way, work)
    given = PLACES[place](thing)
    by_itself = outcome(compiled(node), way, given, {})

    if way == "handler":
        config = {"callbacks": [ShearpinCallbackHandler(pin)]}
    graph = compiled(guarded_node(node, pin)) if "guarded" in way else compiled(node, pin if way == "hooked" else None)

    assert outcome(graph, way, given, config) == by_itself
    assert pin.traces[-1].status == ("ok" if by_itself[0] == "answered" else "error")
