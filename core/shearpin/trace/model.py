"""What a run leaves behind: a trace of spans. `shearpin.runs` is the only writer; everyone else reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from shearpin.trace.plain import Plain
from shearpin.trace.pool import Pool, expand
from shearpin.trace.usage import Usage

if TYPE_CHECKING:
    from shearpin.errors import RunStoppedError

SCHEMA_VERSION = 1

Kind = Literal["agent", "step", "node", "llm", "embedding", "tool", "retriever", "handoff", "guardrail", "decision"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SpanStatus = Literal["ok", "error", "stopped", "paused", "cancelled", "unfinished"]
TraceStatus = Literal["ok", "error", "stopped", "paused", "cancelled", "unfinished"]
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


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run was stopped: the error its caller got, the rule that made it, the decision span that records it."""

    error: RunStoppedError
    rule: str
    span_id: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a run belongs to and what it is called; every field is the user's own word for it."""

    session_id: str | None = None
    user_id: str | None = None
    tenant: str | None = None
    team: str | None = None
    organization: str | None = None
    task_type: str | None = None
    version: str | None = None
    env: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(slots=True, eq=False, repr=False)
class Trace:
    """One run, complete: who, what, when, every call with its input and output, every decision, what it cost."""

    trace_id: str
    name: str
    identity: Identity = Identity()
    status: TraceStatus = "unfinished"
    stop: Stop | None = None
    stored_input: Any = None
    stored_output: Any = None
    started_ns: int = 0
    ended_ns: int | None = None
    steps: int = 0
    llm_calls: int = 0
    tool_calls: int = 0
    usage: Usage = field(default_factory=lambda: Usage(cost_usd=0.0))
    spans: list[Span] = field(default_factory=list[Span])
    gaps: list[str] = field(default_factory=list[str])
    pool: Pool = field(default_factory=Pool)

    @property
    def session_id(self) -> str | None:
        """The conversation or thread the run belongs to."""
        return self.identity.session_id

    @property
    def user_id(self) -> str | None:
        """Whose run it is."""
        return self.identity.user_id

    @property
    def tenant(self) -> str | None:
        """The customer it was done for."""
        return self.identity.tenant

    @property
    def team(self) -> str | None:
        """The team that owns the agent."""
        return self.identity.team

    @property
    def organization(self) -> str | None:
        """The organization that owns it."""
        return self.identity.organization

    @property
    def task_type(self) -> str | None:
        """What sort of work it was."""
        return self.identity.task_type

    @property
    def version(self) -> str | None:
        """The version of the agent."""
        return self.identity.version

    @property
    def env(self) -> str | None:
        """Where it ran, e.g. ``prod``."""
        return self.identity.env

    @property
    def tags(self) -> tuple[str, ...]:
        """The user's labels."""
        return self.identity.tags

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The user's own facts."""
        return self.identity.metadata

    @property
    def input(self) -> Plain:
        """What the run was asked."""
        return expand(self.stored_input)

    @property
    def output(self) -> Plain:
        """What the run answered; None where it did not finish."""
        return expand(self.stored_output)

    @property
    def decisions(self) -> list[DecisionSpan]:
        """Every decision a rule took, in order."""
        return self.spans_of("decision")

    @property
    def warnings(self) -> list[DecisionSpan]:
        """The decisions that warned."""
        return [span for span in self.decisions if span.verdict == "warn"]

    @overload
    def spans_of(self, kind: Literal["llm", "embedding"]) -> list[LLMSpan]: ...
    @overload
    def spans_of(self, kind: Literal["tool"]) -> list[ToolSpan]: ...
    @overload
    def spans_of(self, kind: Literal["node"]) -> list[NodeSpan]: ...
    @overload
    def spans_of(self, kind: Literal["decision"]) -> list[DecisionSpan]: ...
    @overload
    def spans_of(self, kind: Kind) -> Sequence[Span]: ...
    def spans_of(self, kind: Kind) -> Sequence[Span]:
        """The spans of one kind, in start order."""
        return [span for span in self.spans if span.kind == kind]

    @classmethod
    def load(cls, path: str | Path, trace_id: str | None = None) -> Trace:
        """Read a trace from a JSON Lines file: the one with `trace_id`, else the newest.

        Raises TraceFormatError for a file that is not one, or has no such trace. A run that never ended, because
        its process died, is ``unfinished``.
        """
        from shearpin.trace.jsonl import load_trace

        return load_trace(Path(path), trace_id)

    def print(self) -> None:
        """Print the run as a tree, with tokens and dollars."""
        from shearpin.view.terminal import print_trace

        print_trace(self)

    def __repr__(self) -> str:
        return f"<Trace {self.name!r} {self.status} {len(self.spans)} spans {self.trace_id}>"


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
