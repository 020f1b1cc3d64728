"""What a run leaves behind: a trace of spans. `shearpin.runs` is the only writer; everyone else reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from shearpin.trace.plain import Plain
from shearpin.trace.pool import Pool, expand
from shearpin.trace.spans import DecisionSpan, Kind, LLMSpan, NodeSpan, Span, ToolSpan
from shearpin.trace.usage import Usage

if TYPE_CHECKING:
    from shearpin.errors import RunStoppedError

SCHEMA_VERSION = 1

TraceStatus = Literal["ok", "error", "stopped", "paused", "cancelled", "unfinished"]


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
