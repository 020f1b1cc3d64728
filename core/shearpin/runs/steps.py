"""How steps are counted: a step is one model decision plus the tool calls it asked for.

A `run.step` block is one step whatever happens in it. A graph node that neither decides nor runs tools that were
asked for is one step; whether it is such a node is known only when it ends, so until then it holds a step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from shearpin.trace import Span, ToolSpan, Trace

HOOK = "framework_hook"
"""Attribute of a node that is part of the framework's own agent loop: not a step of its own."""


class Steps:
    """The steps of one run tree. Every method is called under the tree's lock."""

    __slots__ = ("_asked", "_holding", "_open", "_outstanding", "_undecided", "trace")

    def __init__(self, trace: Trace, open_spans: Mapping[str, Span]) -> None:
        self.trace = trace
        self._open = open_spans
        self._asked: dict[str, int] = {}
        self._outstanding: dict[str, set[str]] = {}  # who decided -> call ids it asked for that have not started
        self._holding: set[str] = set()
        self._undecided: set[str] = set()

    def propose(self, span: Span) -> None:
        """Set the step `span` would belong to; beyond ``trace.steps`` when it would open one."""
        span.step = self.trace.steps + self._would_open(span)

    def commit(self, span: Span) -> None:
        """`span` was admitted with the step proposed."""
        node = self._node_around(span)
        opens = self._would_open(span)
        if span.kind == "tool":
            self._start_tool(span, node)
        elif span.kind == "node":
            self._start_node(span, opens=bool(opens))
        elif opens:
            self._open_step(span, node)
        elif span.kind == "llm":
            span.step = self._block_around(span).step  # type: ignore[union-attr]
        if span.kind == "llm":
            self._outstanding.pop(self._decider(span), None)
        if span.kind in ("llm", "node") and node is not None:
            self._drop(node)

    def asked(self, span: Span, call_ids: Collection[str]) -> None:
        """A model call ended and asked for these tool calls."""
        for call_id in call_ids:
            self._asked[call_id] = span.step
        if call_ids:
            self._outstanding.setdefault(self._decider(span), set()).update(call_ids)

    def close(self, span: Span) -> None:
        """`span` ended. A node that turned out to be a step of its own is counted now."""
        if span.span_id in self._undecided and span.status in ("ok", "error"):
            self._open_step(span, span)
        self._drop(span)

    def _would_open(self, span: Span) -> int:
        if span.kind == "llm" and self._block_around(span) is None:
            return 1 + self._held_by_others(span)
        if span.kind == "step":
            return 1 + self._held_by_others(span)
        if span.kind == "node" and HOOK not in span.attributes and not any(self._outstanding.values()):
            return 1 + self._held_by_others(span)
        return 0

    def _held_by_others(self, span: Span) -> int:
        node = self._node_around(span)
        return len(self._holding) - (node is not None and node.span_id in self._holding)

    def _start_tool(self, span: Span, node: Span | None) -> None:
        call_id = span.call_id if isinstance(span, ToolSpan) else None
        if call_id in self._asked:
            span.step = self._asked[call_id]
            for outstanding in self._outstanding.values():
                outstanding.discard(call_id)
            if node is not None:
                self._drop(node)
            return
        block = self._block_around(span)
        if block is None and node is not None and node.span_id in self._undecided:
            self._open_step(node, node)
        span.step = (block or node or span).step

    def _start_node(self, span: Span, *, opens: bool) -> None:
        span.step = self.trace.steps
        if HOOK not in span.attributes:
            self._undecided.add(span.span_id)
        if opens:
            self._holding.add(span.span_id)

    def _open_step(self, span: Span, node: Span | None) -> None:
        self.trace.steps += 1
        span.step = self.trace.steps
        if node is not None:
            node.step = span.step
            self._drop(node)

    def _drop(self, node: Span) -> None:
        self._holding.discard(node.span_id)
        self._undecided.discard(node.span_id)

    def _around(self, span: Span) -> Iterator[Span]:
        parent = self._open.get(span.parent_id or "")
        while parent is not None:
            yield parent
            parent = self._open.get(parent.parent_id or "")

    def _block_around(self, span: Span) -> Span | None:
        """The step block `span` is directly in: an agent in between decides for itself."""
        nearest = next((outer for outer in self._around(span) if outer.kind in ("step", "agent")), None)
        return nearest if nearest is not None and nearest.kind == "step" else None

    def _node_around(self, span: Span) -> Span | None:
        return next((outer for outer in self._around(span) if outer.kind == "node"), None)

    def _decider(self, span: Span) -> str:
        node = self._node_around(span)
        return f"{span.agent}/{node.name if node else ''}"
