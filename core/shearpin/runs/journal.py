"""What goes into a trace, and out to the exporters, as it happens."""

from __future__ import annotations

import itertools
from typing import Any, Literal

from shearpin.runs.clock import Clock
from shearpin.runs.given import token_limit
from shearpin.runs.settings import Settings
from shearpin.runs.trouble import describe_error, quietly
from shearpin.trace import DecisionSpan, LLMSpan, Span, Trace, source
from shearpin.trace.model import TraceStatus
from shearpin.trace.spans import KINDS, SPAN_CLASSES, SpanStatus, Verdict


class Journal:
    """The one writer of a trace. All but `new` are called under the tree's lock."""

    __slots__ = ("_exporters", "_numbers", "clock", "open", "trace")

    def __init__(self, settings: Settings, trace: Trace) -> None:
        self.trace = trace
        self.clock = Clock()
        self.open: dict[str, Span] = {}
        """The spans that have started and not ended, by id, oldest first."""
        self._exporters = settings.exporters
        self._numbers = itertools.count(source.new_span_base())
        trace.started_ns = self.clock.now_ns()

    def new(self, kind: str, name: str, parent: Span | None, fields: dict[str, Any]) -> Span:
        """A span that has not started. ``messages``, ``tools``, ``input`` go through the pool."""
        if kind not in _KINDS:
            raise ValueError(f"unknown kind of span {kind!r}: must be one of {', '.join(KINDS)}")
        span_id, parent_id = source.span_id(next(self._numbers)), None if parent is None else parent.span_id
        agent = name if kind == "agent" else None if parent is None else parent.agent
        span = SPAN_CLASSES.get(kind, Span)(span_id, parent_id, kind, name, agent)
        self._fill(span, fields)
        return span

    def _fill(self, span: Span, fields: dict[str, Any]) -> None:
        pool = self.trace.pool
        if "messages" in fields:
            span.stored_input = pool.chain(fields.pop("messages"))
        if "input" in fields:
            span.stored_input = pool.value(fields.pop("input"))
        if isinstance(span, LLMSpan):
            tools = fields.pop("tools", None)
            if tools:
                span.stored_tools = pool.constant(tools)
        for name, value in fields.items():
            setattr(span, name, value)
        if isinstance(span, LLMSpan):
            span.max_tokens = token_limit(span.max_tokens)

    def start(self, span: Span) -> None:
        """`span` was let in; what is open is ended with the run, come what may."""
        self.open[span.span_id] = span
        self.trace.spans.append(span)
        if self._exporters:
            self._export("span_started", span)

    def end(self, span: Span, fields: dict[str, Any], status: SpanStatus, error: BaseException | None) -> None:
        """`span` is over; `total` it and say that it has `ended` once its usage is known."""
        for name, value in fields.items():
            setattr(span, name, value)
        span.end_ns, span.status = self.clock.now_ns(), status
        if error is not None and status != "paused":
            span.error = describe_error(error)

    def total(self, span: Span) -> None:
        """Note on `span` what the run has come to."""
        usage = self.trace.usage
        span.cumulative_cost_usd, span.cumulative_tokens = usage.cost_usd, usage.total_tokens

    def ended(self, span: Span) -> None:
        """All of `span` is known."""
        if self._exporters:
            self._export("span_ended", span)

    def decide(
        self,
        rule: str,
        verdict: Verdict,
        reason: str,
        facts: dict[str, Any],
        *,
        touched: Span | None = None,
        refused: Span | None = None,
    ) -> DecisionSpan:
        """Record a decision beside the action it touched, or the one that never started."""
        beside = touched or refused
        parent = self.open.get((beside.parent_id if beside else None) or "") or self.trace.spans[0]
        decision = self.new("decision", f"{rule}: {verdict}", parent, {"facts": facts})
        assert isinstance(decision, DecisionSpan)  # noqa: S101 - narrows the type
        decision.rule, decision.verdict, decision.reason = rule, verdict, reason
        decision.touched = touched.span_id if touched else None
        decision.step = min(beside.step, self.trace.steps + 1) if beside else self.trace.steps
        if refused is not None:
            decision.stored_input = {"kind": refused.kind, "name": refused.name, "input": refused.stored_input}
        decision.start_ns = decision.end_ns = self.clock.now_ns()
        decision.status = "ok"
        self.total(decision)
        self.trace.spans.append(decision)
        self._export("span_started", decision)
        self._export("span_ended", decision)
        return decision

    def finish(self, status: TraceStatus) -> None:
        """The run is over, or paused."""
        self.clock.stop()
        self.trace.status, self.trace.ended_ns = status, self.clock.now_ns()
        self.trace.stored_output = self.trace.spans[0].stored_output
        if status != "paused":
            self.trace.pool.forget_sources()
        for exporter in self._exporters:
            quietly(exporter.run_ended, self.trace)

    def reopen(self) -> None:
        """The run goes on after a pause."""
        self.clock.start()
        root = self.trace.spans[0]
        self.trace.status, self.trace.ended_ns = "unfinished", None
        root.status, root.end_ns = "unfinished", None
        self.open[root.span_id] = root

    def _export(self, event: Literal["span_started", "span_ended"], span: Span) -> None:
        for exporter in self._exporters:
            quietly(exporter.span_started if event == "span_started" else exporter.span_ended, self.trace, span)


_KINDS = frozenset(KINDS)
