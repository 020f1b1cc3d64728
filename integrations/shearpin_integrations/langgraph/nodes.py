"""Guarding single nodes: their start, and every model and tool call inside them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.graph import StateGraph

from shearpin import Guard, Span
from shearpin.adapter import Place, raise_if_meant
from shearpin_integrations.langchain.graphs import checkpoint_of, is_sent
from shearpin_integrations.langchain.keeping import PLACE
from shearpin_integrations.langchain.mending import mend
from shearpin_integrations.langchain.reading import conversations
from shearpin_integrations.langchain.roots import count_on
from shearpin_integrations.langchain.tracking import guard_for
from shearpin_integrations.langgraph.lineage import Cover, covered, watch_lineage

Node = TypeVar("Node", bound="Callable[..., Any] | Runnable[Any, Any]")
Builder = TypeVar("Builder", bound=StateGraph[Any, Any, Any, Any])


def guarded_node(node: Node, *rules: Any) -> Node:
    """`node` under these rules, or under a guard you have: for ``builder.add_node``.

    Rules given here count over one invocation of the graph, whatever the number of times the node runs in it.
    Passing a guard that already watches the invocation through its handler changes nothing.

    Raises:
        TypeError: there is no rule, or `node` is nothing that a graph could run.
    """
    if not rules:
        raise TypeError("guarded_node needs a rule or a guard: guarded_node(node, Budget(tool_calls=3))")
    if not callable(node) and not isinstance(node, Runnable):
        raise TypeError(f"guarded_node takes a function or a runnable, not {node!r}")
    if len(rules) == 1 and isinstance(rules[0], Guard):
        guard = rules[0]
    else:
        guard = Guard(*rules)
        vars(guard)[PLACE] = _label(node)
    return _guarded(node, guard, None)  # type: ignore[no-any-return]


def hook_nodes(builder: Builder, guard: Guard) -> Builder:
    """Put every node of a graph under `guard`; call it before ``compile()``. Returns the same builder.

    Raises:
        TypeError: `builder` is no graph that is still to be compiled, or `guard` no guard.
    """
    if not isinstance(builder, StateGraph):
        raise TypeError(
            f"hook_nodes takes a StateGraph before compile(): hook_nodes(builder, pin).compile(), not {builder!r}"
        )
    guard_for("hook_nodes(builder, {})", guard)
    for name, spec in builder.nodes.items():
        builder.nodes[name] = dataclasses.replace(spec, runnable=_guarded(spec.runnable, guard, name))
    return builder


def _guarded(node: Any, guard: Guard, name: str | None) -> Any:
    watch_lineage()
    if inspect.isgeneratorfunction(node) or inspect.isasyncgenfunction(node):
        node = RunnableLambda(node)  # as LangGraph does with what yields its updates
    label = name or _label(node)
    if isinstance(node, Runnable):
        return _GuardedRunnable(node, guard, label)

    if inspect.iscoroutinefunction(node) or inspect.iscoroutinefunction(type(node).__call__):

        @functools.wraps(node)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            args = _mended(args)
            async with _anode(guard, label, args[0] if args else None, kwargs.get("config")) as outcome:
                return outcome(await node(*args, **kwargs))

        return acall

    @functools.wraps(node)
    def call(*args: Any, **kwargs: Any) -> Any:
        args = _mended(args)
        with _node(guard, label, args[0] if args else None, kwargs.get("config")) as outcome:
            return outcome(node(*args, **kwargs))

    return call


def _label(node: Any) -> str:
    return node.get_name() if isinstance(node, Runnable) else str(getattr(node, "__name__", type(node).__name__))


class _GuardedRunnable(RunnableLambda[Any, Any]):
    """A node that is a runnable: a chain, a tool node, a compiled graph.

    Of the classes in which LangGraph looks for the graphs inside a node, this is the one that is not taken apart.
    """

    def __init__(self, node: Any, guard: Guard, name: str) -> None:
        super().__init__(node.invoke, node.ainvoke, name=name)
        self.node, self.guard = node, guard

    @property
    def deps(self) -> list[Runnable[Any, Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What is inside."""
        return [self.node]

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        (input,) = _mended((input,))  # noqa: A001
        with _node(self.guard, self.name or "", input, config) as outcome:
            return outcome(self.node.invoke(input, config, **kwargs))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        (input,) = _mended((input,))  # noqa: A001
        async with _anode(self.guard, self.name or "", input, config) as outcome:
            return outcome(await self.node.ainvoke(input, config, **kwargs))

    # By way of the two above.
    stream, astream = Runnable[Any, Any].stream, Runnable[Any, Any].astream
    transform, atransform = Runnable[Any, Any].transform, Runnable[Any, Any].atransform


def _mended(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The node's arguments with calls in its messages answered that an earlier stop left open."""
    state: Any = copy.copy(args[0]) if args and conversations(args[0]) else None
    return (state, *args[1:]) if mend(state) else args


Outcome = Callable[[Any], Any]


@contextlib.contextmanager
def _node(guard: Guard, name: str, state: Any, config: Any) -> Generator[Outcome]:
    """One run of a node, as a span; what the block passes to the callable is the node's update."""
    with covered(guard, config) as cover:
        if cover is None or not cover.new:
            yield lambda update: update
            return
        with _running(cover, cover.entry.root.run.start("node", **_seen(cover, name, state, config))) as outcome:
            yield outcome


@contextlib.asynccontextmanager
async def _anode(guard: Guard, name: str, state: Any, config: Any) -> AsyncGenerator[Outcome]:
    """`_node` on an event loop, where it can wait for nodes that have not decided yet."""
    with covered(guard, config) as cover:
        if cover is None or not cover.new:
            yield lambda update: update
            return
        with _running(cover, await cover.entry.root.run.astart("node", **_seen(cover, name, state, config))) as outcome:
            yield outcome


def _seen(cover: Cover, name: str, state: Any, config: Any) -> dict[str, Any]:
    """What the handler would have been told of this node."""
    root = cover.entry.root
    config = config or var_child_runnable_config.get() or {}
    facts: Any = config.get("metadata") or {}
    if not is_sent(facts):
        count_on(root, state)
        root.run.reached(state)
    return {
        "name": facts.get("langgraph_node") or name,
        "parent": root.run.span,
        "input": state,
        "thread_id": root.thread,
        "checkpoint_id": checkpoint_of(facts, config),
    }


@contextlib.contextmanager
def _running(cover: Cover, span: Span) -> Generator[Outcome]:
    entry, run = cover.entry, cover.entry.root.run
    entry.place, entry.role = Place(run, span), "span"

    def ended(update: Any) -> Any:
        try:
            cover.handler.end_node(entry, update)
        except Exception as error:  # noqa: BLE001 - sorted out by the next line
            raise_if_meant(error, "end of a node")
            run.end(span)
        return update

    try:
        yield ended
    except BaseException as error:
        cover.handler.fail(entry, error)
        raise
