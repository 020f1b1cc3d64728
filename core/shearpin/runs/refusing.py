"""What rules refuse; a rule that has a bug refuses everything, with the bug as the cause."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from shearpin.errors import BudgetExceededError, RunStoppedError
from shearpin.rules.budget import BudgetWatch
from shearpin.rules.protocol import Notice, Rule, Scene, Watch
from shearpin.trace import Span


@dataclass(slots=True)
class Refusal:
    """A rule says no."""

    rule: Rule
    error: RunStoppedError
    watch: Watch

    def patience(self, span: Span, stuck: Collection[str]) -> float:
        """How many seconds it may help `span` to wait, when the spans `stuck` cannot end before."""
        in_flight = isinstance(self.error, BudgetExceededError) and self.error.in_flight
        return self.watch.patience(span, stuck) if in_flight and isinstance(self.watch, BudgetWatch) else 0.0


def bug_in(rule: Rule, bug: Exception) -> RunStoppedError:
    """The stop that a bug of `rule` is."""
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
