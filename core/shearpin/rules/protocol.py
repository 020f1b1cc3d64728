"""What a rule is: a question asked before every action, and told how every action ended.

A rule object is configuration, shared by any number of runs. For each run tree it makes one `Watch`, which holds
that tree's state. The run calls the watch under the tree's lock, in this order for each action:

    check    would this action break the rule? Returns the error it would raise, or the question that a person has to
             answer first. No side effects: a check may be repeated after a wait, or thrown away because another
             rule refused.
    admit    every rule agreed, the action starts: count it, reserve for it.
    settle   it ended: `span` has its outcome. Replace what was reserved by what was used.
    release  it failed without having cost anything: give back what was reserved.

`settle` or `release` comes exactly once for every `admit`. A watch never raises; only the run does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from shearpin.errors import RunStoppedError
from shearpin.rules.approval import Answer, ApprovalRequest, Approver
from shearpin.rules.prices import PriceBook
from shearpin.trace import Span, Trace
from shearpin.trace.spans import Verdict


@dataclass(slots=True)
class Notice:
    """Something a rule wants said of an action that goes on: recorded as a decision beside it."""

    reason: str
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    verdict: Verdict = "warn"


@dataclass(frozen=True, slots=True)
class Question:
    """A person has to say yes before the action: asked once no rule refuses it, without the lock."""

    request: ApprovalRequest
    approver: Approver | None
    answered: Callable[[Span, Answer], None]
    """Called under the lock with what was said; then every rule is asked anew."""


class Watch(Protocol):
    """One rule over one run tree."""

    def check(self, span: Span) -> RunStoppedError | Question | None:
        """What refuses `span`, what must be asked first, or None; ``span.step`` is the step it would belong to."""
        ...

    def admit(self, span: Span) -> Iterable[Notice]:
        """The action starts."""
        ...

    def settle(self, span: Span) -> Iterable[Notice]:
        """The action ended and may have cost something."""
        ...

    def release(self, span: Span) -> None:
        """The action ended and cost nothing."""
        ...

    def recall(self, span: Span) -> None:
        """The action ended in another process, where its run began: evidence, already counted."""
        ...


@dataclass(slots=True)
class Scene:
    """What a rule may know about the tree it watches."""

    trace: Trace
    prices: PriceBook
    elapsed_seconds: Callable[[], float]
    steps_in_flight: Callable[[], int] = lambda: 0
    """Steps held by actions that go on and may not need them; asked within a `check`."""


class Rule(Protocol):
    """A rule as the user configures it."""

    @property
    def name(self) -> str:
        """What decisions and errors call it, e.g. ``Budget``."""
        ...

    def watch(self, scene: Scene) -> Watch:
        """Begin to watch one run tree."""
        ...
