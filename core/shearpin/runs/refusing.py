"""What rules refuse, or ask about first; a rule that has a bug refuses everything, with the bug as the cause."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from shearpin.errors import ApprovalRejectedError, BudgetExceededError, RunStoppedError, ToolDeniedError
from shearpin.rules.budget import BudgetWatch
from shearpin.rules.policy import PolicyWatch
from shearpin.rules.protocol import Notice, Question, Rule, Scene, Watch
from shearpin.runs.journal import Journal
from shearpin.trace import Span
from shearpin.trace.spans import Verdict


@dataclass(slots=True)
class Refusal:
    """A rule says no, or not before a person says yes."""

    rule: Rule
    error: RunStoppedError | Question
    watch: Watch

    @property
    def verdict(self) -> Verdict | None:
        """What a policy says of the call, apart from what the run makes of it."""
        if isinstance(self.error, Question):
            return "ask"
        if isinstance(self.error, ToolDeniedError):
            return "deny"
        return "rejected" if isinstance(self.error, ApprovalRejectedError) else None

    @property
    def tells(self) -> bool:
        """Is the model told, and the run goes on?"""
        return isinstance(self.watch, PolicyWatch) and self.watch.tells and self.verdict is not None

    def weight(self, patience: float) -> int:
        """Whose refusal comes first: what stops the run, then what is denied or may pass, then what is only asked."""
        return 2 if isinstance(self.error, Question) else int(self.tells or patience > 0)

    def record(self, journal: Journal, span: Span, *, observed: bool = False) -> None:
        """Its decision beside the call that it keeps from starting, or would."""
        facts = self.error.request.as_dict() if isinstance(self.error, Question) else self.error.as_dict()
        reason = self.error.request.reason if isinstance(self.error, Question) else str(self.error)
        facts |= {"observed": True} if observed else {}
        journal.decide(self.rule.name, self.verdict or "stop", reason, facts, refused=span)

    def patience(self, span: Span, stuck: Collection[str]) -> float:
        """How many seconds it may help `span` to wait, when the spans `stuck` cannot end before."""
        in_flight = isinstance(self.error, BudgetExceededError) and self.error.in_flight
        return self.watch.patience(span, stuck) if in_flight and isinstance(self.watch, BudgetWatch) else 0.0


def bug_in(rule: Rule, bug: Exception) -> RunStoppedError:
    """The stop that a bug of `rule` is; raises what the whole program has run out of, for its own handlers."""
    if isinstance(bug, RecursionError | MemoryError):
        raise bug
    error = RunStoppedError(f"internal error in {rule.name}: {type(bug).__name__}: {bug}")
    error.__cause__ = bug
    return error


def watch_of(rule: Rule, scene: Scene) -> Watch:
    """What `rule` watches with; if it cannot begin, everything is refused."""
    try:
        return rule.watch(scene)
    except Exception as bug:  # noqa: BLE001 - fail closed
        return _Broken(bug_in(rule, bug))


class _Broken:
    """The watch of a rule that could not begin."""

    def __init__(self, error: RunStoppedError) -> None:
        self._error = error

    def check(self, span: Span) -> RunStoppedError:  # noqa: ARG002 - whatever it is
        return self._error

    def admit(self, span: Span) -> Iterable[Notice]:  # noqa: ARG002 - nothing is counted
        return ()

    settle = admit

    def release(self, span: Span) -> None:
        """Nothing was held."""

    recall = release
