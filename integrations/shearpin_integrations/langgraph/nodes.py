"""Guarding single nodes: their start, and every model and tool call inside them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph import StateGraph

from shearpin import Guard
from shearpin.adapter import Place
from shearpin_integrations.langchain.reading import update_of
from shearpin_integrations.langgraph.lineage import covered, watch_lineage

Node = TypeVar("Node", bound="Callable[..., Any] | Runnable[Any, Any]")
Builder = TypeVar("Builder", bound=StateGraph[Any, Any, Any, Any])


def guarded_node(node: Node, *rules: Any) -> Node:
    """`node` under these rules, or under a guard you have: for ``builder.add_node``.

    Rules given here count over one invocation of the graph, whatever the number of times the node runs in it.
    Passing a guard that already watches the invocation through its handler changes nothing.
    """
    guard = rules[0] if len(rules) == 1 and isinstance(rules[0], Guard) else Guard(*rules)
    return _guarded(node, guard, None)  # type: ignore[no-any-return]


def hook_nodes(builder: Builder, guard: Guard) -> Builder:
    """Put every node of a graph under `guard`; call it before ``compile()``. Returns the same builder."""
    for name, spec in builder.nodes.items():
        builder.nodes[name] = dataclasses.replace(spec, runnable=_guarded(spec.runnable, guard, name))
    return builder


def _guarded(node: Any, guard: Guard, name: str | None) -> Any:
    watch_lineage()
    if isinstance(node, Runnable):
        return _GuardedRunnable(node, guard, name or node.get_name())
    label = name or str(getattr(node, "__name__", type(node).__name__))

    if inspect.iscoroutinefunction(node) or inspect.iscoroutinefunction(type(node).__call__):

        @functools.wraps(node)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            with _node(guard, label, args[0] if args else None, kwargs.get("config")) as outcome:
                return outcome(await node(*args, **kwargs))

        return acall

    @functools.wraps(node)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _node(guard, label, args[0] if args else None, kwargs.get("config")) as outcome:
            return outcome(node(*args, **kwargs))

    return call


class _GuardedRunnable(Runnable[Any, Any]):
    """A node that is a runnable: a chain, a tool node, a compiled graph."""

    def __init__(self, node: Any, guard: Guard, name: str) -> None:
        self.node, self.guard, self.name = node, guard, name

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        with _node(self.guard, self.name or "", input, config) as outcome:
            return outcome(self.node.invoke(input, config, **kwargs))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002
        with _node(self.guard, self.name or "", input, config) as outcome:
            return outcome(await self.node.ainvoke(input, config, **kwargs))


@contextlib.contextmanager
def _node(guard: Guard, name: str, state: Any, config: Any) -> Generator[Callable[[Any], Any]]:
    """One run of a node, as a span; what the block passes to the callable is the node's update."""
    with covered(guard, config) as cover:
        if cover is None or not cover.new:
            yield lambda update: update
            return
        entry, run = cover.entry, cover.entry.root.run
        run.reached(state)
        thread = entry.root.thread
        span = run.start("node", name, parent=run.span, input=state, thread_id=thread)
        entry.place, entry.role = Place(run, span), "span"

        def ended(update: Any) -> Any:
            cover.handler.record_unstarted(entry, update)
            run.end(span, output=update_of(update))
            return update

        try:
            yield ended
        except BaseException as error:
            cover.handler.fail(entry, error)
            raise
