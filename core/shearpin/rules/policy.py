"""Which tools may be called, which may not, and which only when a person says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from shearpin.errors import ApprovalRejectedError, RunStoppedError, ToolDeniedError
from shearpin.rules.approval import Answer, ApprovalRequest, Approver
from shearpin.rules.patterns import Predicate, ToolPattern, ToolRequest, read_patterns
from shearpin.rules.protocol import Notice, Question, Scene
from shearpin.trace import Span, ToolSpan, Trace

Patterns: TypeAlias = str | Predicate | Sequence[str | Predicate]


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """Allows, denies or asks, for each tool call, by patterns (`shearpin.rules.patterns` says what they are).

    ``deny`` wins over ``ask``, and ``ask`` over ``allow``. With ``allow`` given, what no pattern names is denied.

    ``approver`` is asked for what ``ask`` names: a function, sync or async, that gets the `ApprovalRequest` and returns
    True, False, or either with a reason. Without one the framework pauses as it does for people (LangGraph's
    interrupt), and where it cannot, the terminal asks, for two minutes. No answer is a no.

    ``on_deny="stop"`` stops the run; ``"tell"`` answers the model that the call was denied, and the run goes on.

    Raises TypeError and ValueError for patterns that are none.
    """

    allow: Patterns | None = None
    deny: Patterns = ()
    ask: Patterns = ()
    approver: Approver | None = None
    on_deny: Literal["stop", "tell"] = "stop"
    _read: tuple[tuple[ToolPattern, ...] | None, tuple[ToolPattern, ...], tuple[ToolPattern, ...]] = field(
        init=False, repr=False, compare=False
    )

    name = "ToolPolicy"

    def __post_init__(self) -> None:
        if self.on_deny not in ("stop", "tell"):
            raise ValueError(f"ToolPolicy(on_deny={self.on_deny!r}): must be 'stop' or 'tell'")
        if self.approver is not None and not callable(self.approver):
            raise TypeError(f"ToolPolicy(approver={self.approver!r}): must be a function that is asked")
        allow = None if self.allow is None else read_patterns("allow", self.allow)
        read = (allow, read_patterns("deny", self.deny), read_patterns("ask", self.ask))
        object.__setattr__(self, "_read", read)
        if allow is None and not any(read[1:]):
            raise ValueError("ToolPolicy needs a pattern, e.g. ToolPolicy(deny=['delete_*'])")

    def judge(self, request: ToolRequest) -> tuple[Literal["allow", "deny", "ask"], str]:
        """The verdict on a call, and why."""
        allow, deny, ask = self._read
        for pattern in deny:
            if pattern.matches(request, unreadable=True):
                return "deny", f"deny {pattern.text}"
        for pattern in ask:
            if pattern.matches(request, unreadable=True):
                return "ask", f"ask {pattern.text}"
        if allow is None:
            return "allow", "no pattern denies it"
        for pattern in allow:
            if pattern.matches(request, unreadable=False):
                return "allow", f"allow {pattern.text}"
        return "deny", "not in allow"

    def watch(self, scene: Scene) -> PolicyWatch:
        """Begin to watch one run tree."""
        return PolicyWatch(self, scene.trace)


class PolicyWatch:
    """The answers people gave about the calls of one run tree that have not started yet."""

    def __init__(self, policy: ToolPolicy, trace: Trace) -> None:
        self._policy, self._trace = policy, trace
        self._answers: dict[str, Answer] = {}

    @property
    def tells(self) -> bool:
        """Does a denial leave the run going on?"""
        return self._policy.on_deny == "tell"

    def check(self, span: Span) -> RunStoppedError | Question | None:
        """The denial of `span`, or the question that has to be answered first."""
        if not isinstance(span, ToolSpan):
            return None
        request = ToolRequest(span.name, span.arguments, span.call_id, span.agent)
        verdict, why = self._policy.judge(request)
        if verdict == "deny":
            return ToolDeniedError(tool=span.name, arguments=request.arguments, rule=why, reason="denied by the policy")
        if verdict == "allow":
            return None
        answer = self._answers.get(span.span_id)
        if answer is None:
            return self._question(request, why)
        if answer.approved:
            return None
        reason = answer.reason or "rejected"
        return ApprovalRejectedError(
            tool=span.name, arguments=request.arguments, approver=answer.approver, reason=reason
        )

    def _question(self, request: ToolRequest, why: str) -> Question:
        trace = self._trace
        asked = ApprovalRequest(
            request.tool, request.arguments, request.call_id, request.agent, why, trace.name, trace.trace_id
        )
        return Question(asked, self._policy.approver, self.answer)

    def answer(self, span: Span, answer: Answer) -> None:
        """A person decided about `span`; called under the tree's lock."""
        self._answers[span.span_id] = answer

    def admit(self, span: Span) -> Iterable[Notice]:
        """The call starts: say on whose word."""
        if not isinstance(span, ToolSpan):
            return ()
        answer = self._answers.pop(span.span_id, None)
        if answer is None:
            return (Notice("allowed by the policy", {"tool": span.name}, "allow"),)
        facts = {"tool": span.name, "approver": answer.approver, "waited_seconds": round(answer.waited_seconds, 3)}
        return (Notice(answer.reason or "approved", facts, "approved"),)

    def settle(self, span: Span) -> Iterable[Notice]:  # noqa: ARG002 - what comes of a call is not its business
        """Nothing is counted."""
        return ()

    def release(self, span: Span) -> None:
        """Nothing was held."""

    recall = release
