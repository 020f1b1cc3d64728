"""The spans of a trace: one class for each kind of thing that is recorded with fields of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from shearpin.trace.plain import Plain
from shearpin.trace.pool import expand
from shearpin.trace.usage import Usage

Kind = Literal["agent", "step", "node", "llm", "embedding", "tool", "retriever", "handoff", "guardrail", "decision"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SpanStatus = Literal["ok", "error", "stopped", "paused", "cancelled", "unfinished"]
Verdict = Literal["allow", "warn", "deny", "ask", "approved", "rejected", "stop", "nudge"]


@dataclass(slots=True)
class SpanError:
    """An exception as data."""

    type: str
    message: str
    traceback: str = ""


@dataclass(slots=True, eq=False)
class Span:
    """One thing that happened: an interval in a trace, or an instant (end = start).

    Times are nanoseconds since the epoch. ``step`` is the number of the model decision it belongs to, from 1; 0 is
    before the first. ``cumulative_cost_usd`` and ``cumulative_tokens`` are the run's totals when the span ended.
    """

    span_id: str
    parent_id: str | None
    kind: Kind
    name: str
    agent: str | None = None
    step: int = 0
    start_ns: int = 0
    end_ns: int | None = None
    status: SpanStatus = "unfinished"
    error: SpanError | None = None
    stored_input: Any = None
    stored_output: Any = None
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    cumulative_cost_usd: float | None = 0.0
    cumulative_tokens: int = 0

    @property
    def input(self) -> Plain:
        """What went in, as plain data."""
        return expand(self.stored_input)

    @property
    def output(self) -> Plain:
        """What came out, as plain data."""
        return expand(self.stored_output)

    @property
    def duration_ns(self) -> int | None:
        """Nanoseconds from start to end; None while it runs."""
        return None if self.end_ns is None else self.end_ns - self.start_ns


@dataclass(slots=True, eq=False)
class LLMSpan(Span):
    """A model call (kind ``llm``) or an embedding call (kind ``embedding``).

    ``messages`` are dicts with ``role`` and ``content`` and, where they apply, ``name``, ``tool_call_id`` and
    ``tool_calls`` (each ``id``, ``name``, ``arguments``). ``reply`` is the text of the answer.
    """

    provider: str | None = None
    request_model: str | None = None
    response_model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    reply: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    reasoning: str | None = None
    finish_reason: str | None = None
    response_id: str | None = None
    time_to_first_token_ns: int | None = None
    usage: Usage | None = None
    usage_estimated: bool = False
    price_source: str | None = None
    stored_tools: Any = None

    @property
    def was_cut(self) -> bool:
        """Some output came, and then the stream broke off: what came is all there is to pay."""
        return self.status != "ok" and not self.finish_reason and bool(self.reply or self.tool_calls)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The prompt: every message sent, in order."""
        return list(self.stored_input or ())

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tool definitions offered to the model."""
        return list(self.stored_tools or ())


@dataclass(slots=True, eq=False)
class ToolSpan(Span):
    """A tool call. ``retry`` counts earlier tries of the same call id, ``http_status`` comes from a failed request."""

    call_id: str | None = None
    http_status: int | None = None
    retry: int = 0

    @property
    def arguments(self) -> Plain:
        """What the tool was called with."""
        return expand(self.stored_input)

    @property
    def result(self) -> Plain:
        """What the tool returned."""
        return expand(self.stored_output)


@dataclass(slots=True, eq=False)
class NodeSpan(Span):
    """A graph node: ``input`` is the state that went in, ``output`` the update that came out."""

    thread_id: str | None = None
    checkpoint_id: str | None = None


@dataclass(slots=True, eq=False)
class DecisionSpan(Span):
    """What a rule decided: ``verdict`` and ``reason``, the ``facts`` behind it, and the span it ``touched``.

    A refused call never started and has no span: then ``touched`` is None and ``input`` holds the refused call.
    """

    rule: str = ""
    verdict: Verdict = "allow"
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    touched: str | None = None


def new_span(kind: Kind, **fields: Any) -> Span:
    """A span of the class that `kind` has."""
    return SPAN_CLASSES.get(kind, Span)(kind=kind, **fields)


SPAN_CLASSES: Mapping[str, type[Span]] = {
    "llm": LLMSpan,
    "embedding": LLMSpan,
    "tool": ToolSpan,
    "node": NodeSpan,
    "decision": DecisionSpan,
}


def by_id(spans: Iterable[Span]) -> dict[str, Span]:
    """The spans by their id."""
    return {span.span_id: span for span in spans}
