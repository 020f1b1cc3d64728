"""How steps are counted: a step is one model decision plus the tool calls it asked for.

A `run.step` block is one step whatever happens in it. A graph node that neither decides nor runs tools that were
asked for is one step; whether it is such a node is known only when it ends, so until then it holds a step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from shearpin.trace import Span, ToolSpan, Trace

HOOK = "framework_hook"
"""Attribute of a node that is part of the framework's own agent loop: not a step of its own."""


class Steps:
    """The steps of one run tree. Every method is called under the tree's lock."""

    __slots__ = (
        "_asked",
        "_block",
        "_holding",
        "_node",
        "_open",
        "_outstanding",
        "_undecided",
        "begun_elsewhere",
        "trace",
    )

    def __init__(self, trace: Trace, open_spans: Mapping[str, Span]) -> None:
        self.trace = trace
        self._open = open_spans
        self._asked: dict[str, int] = {}
        self._outstanding: dict[str, set[str]] = {}  # who decided -> call ids it asked for that have not started
        self.begun_elsewhere = False
        """Is the model decision that this run's first tool calls follow from not known here?"""
        self._node: Span | None = None
        self._block: Span | None = None
        self._holding: set[str] = set()
        self._undecided: set[str] = set()

    def propose(self, span: Span) -> None:
        """Set the step `span` would belong to; beyond ``trace.steps`` when it would open one."""
        self._node, self._block = self._surroundings(span)
        span.step = self.trace.steps + self._would_open(span)

    def in_flight(self) -> int:
        """Steps that nodes hold which have not decided yet, besides the node around the span proposed last."""
        own = self._node is not None and self._node.span_id in self._holding
        return len(self._holding) - own

    def commit(self, span: Span) -> None:
        """`span` was admitted with the step proposed."""
        node, block = self._node, self._block
        opens = span.step > self.trace.steps
        if span.kind == "tool":
            self.start_tool(span)
        elif span.kind == "node":
            self._start_node(span, opens=opens)
        elif opens:
            self._open_step(span, node)
        elif block is not None:
            span.step = block.step
        if span.kind == "llm":
            self.begun_elsewhere = False
            self._outstanding.pop(self._decider(span, node), None)
        if node is not None and span.kind in ("llm", "node"):
            self._drop(node)

    def asked(self, span: Span, call_ids: Collection[str]) -> None:
        """A model call ended and asked for these tool calls."""
        if call_ids:
            self._asked.update(dict.fromkeys(call_ids, span.step))
            decider = self._decider(span, self._surroundings(span)[0])
            self._outstanding.setdefault(decider, set()).update(call_ids)

    @property
    def owed(self) -> list[str]:
        """Ids of tool calls that were asked for and have not started."""
        return [call_id for call_ids in self._outstanding.values() for call_id in call_ids]

    def owe(self, call_ids: Collection[str]) -> None:
        """The last step, taken elsewhere, asked for these tool calls."""
        self._asked.update(dict.fromkeys(call_ids, self.trace.steps))
        self._outstanding["elsewhere"] = set(call_ids)
        self.begun_elsewhere = False

    def close(self, span: Span) -> None:
        """`span` ended. A node that turned out to be a step of its own is counted now."""
        if span.span_id in self._undecided and span.status in ("ok", "error"):
            self._open_step(span, span)
        if isinstance(span, ToolSpan) and span.status == "paused" and span.call_id in self._asked:
            self._outstanding.setdefault("paused", set()).add(
                span.call_id
            )  # the node that resumes it runs what was asked
        self._drop(span)

    def withdraw(self, span: Span) -> None:
        """The decision `span` was not made after all; its step is given back if none came after it."""
        if span.step == self.trace.steps and self._surroundings(span)[1] is None:
            self.trace.steps -= 1

    def _would_open(self, span: Span) -> bool:
        """Does `span` open a step?"""
        if span.kind == "llm":
            return self._block is None
        if span.kind == "node":
            owed = self.begun_elsewhere or any(self._outstanding.values())
            return HOOK not in span.attributes and not owed
        return span.kind == "step"

    def start_tool(self, span: Span) -> None:
        """The tool call proposed is made, or answered without being made."""
        node, block = self._node, self._block
        call_id = span.call_id if isinstance(span, ToolSpan) else None
        if call_id in self._asked or (self.begun_elsewhere and call_id is not None):
            span.step = self._asked.get(call_id or "", self.trace.steps)
            for outstanding in self._outstanding.values():
                outstanding.discard(call_id)
            if node is not None:
                self._drop(node)
            return
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

    def _surroundings(self, span: Span) -> tuple[Span | None, Span | None]:
        """The node that `span` is in, and the step block it is directly in: an agent in between decides for itself."""
        node = block = None
        parent = self._open.get(span.parent_id or "")
        while parent is not None and (node is None or block is None):
            if parent.kind == "node":
                node = node or parent
            elif parent.kind == "step":
                block = parent
            elif parent.kind == "agent":
                break
            parent = self._open.get(parent.parent_id or "")
        return node or self._outer_node(parent), block

    def _outer_node(self, agent: Span | None) -> Span | None:
        """The node around an agent: what the agent decides, that node has decided."""
        while agent is not None and agent.kind != "node":
            agent = self._open.get(agent.parent_id or "")
        return agent

    @staticmethod
    def _decider(span: Span, node: Span | None) -> str:
        return f"{span.agent}/{node.name if node else ''}"
