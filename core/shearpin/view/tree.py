"""The spans of a trace as a tree: who is whose child, and what each branch cost and contains.

A trace may come from a file that anyone wrote: parents may be missing, form circles, or lie thousands deep.
So every span is placed exactly once, and nothing here recurses.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from shearpin.trace import DecisionSpan, LLMSpan, Span, ToolSpan, Usage
from shearpin.view.figures import brief, gist

_STOPPING = ("stop", "deny", "rejected")
_CALLS = ("llm", "embedding", "tool", "retriever")


@dataclass(slots=True, eq=False)
class Branch:
    """A span and what is beneath it. ``usage`` is the whole branch's, None when no model was called in it."""

    span: Span
    children: list[Branch] = field(default_factory=list["Branch"])
    usage: Usage | None = None
    estimated: bool = False
    step: int = 0
    """The first step in it."""
    look: int = 0
    """The same for branches that would be drawn the same, figures apart."""
    told_elsewhere: bool = False
    """Its error only passed through: the child it came from tells it, or the decision that stopped the run."""
    calls: int = 0
    errors: int = 0
    warnings: int = 0
    stops: int = 0

    @property
    def cut_off(self) -> bool:
        """Whether it ended because the run was stopped elsewhere."""
        return self.span.status == "stopped" and not self.stops

    @property
    def unstarted(self) -> bool:
        """Whether it was cut off before it did anything."""
        return self.cut_off and self.told_elsewhere and not (self.calls or self.errors or self.warnings)


def grow(spans: Iterable[Span]) -> list[Branch]:
    """The tree, its roots in start order."""
    branches = [Branch(span) for span in sorted(spans, key=lambda span: span.start_ns)]
    parents = _parents(branches)
    roots: list[Branch] = []
    for branch, place in zip(branches, parents, strict=True):
        (roots if place is None else branches[place].children).append(branch)
    reasons = {
        item.span.reason for item in branches if isinstance(item.span, DecisionSpan) and item.span.verdict == "stop"
    }
    looks: dict[Hashable, int] = {}
    for branch, parent in reversed(list(_from_the_top(roots))):
        branch.told_elsewhere |= _is_stop(branch.span, reasons)
        _sum_up(branch, parent)
        shape = (_look(branch.span), tuple(child.look for child in branch.children))
        branch.look = looks.setdefault(shape, len(looks))
    return roots


def _parents(branches: Sequence[Branch]) -> list[int | None]:
    """For each branch the index of its parent. A decision hangs below the span it touched."""
    index: dict[str, int] = {}
    for number, branch in enumerate(branches):
        index.setdefault(branch.span.span_id, number)
    parents: list[int | None] = []
    for branch in branches:
        touched = branch.span.touched if isinstance(branch.span, DecisionSpan) else None
        parents.append(index.get(touched if touched in index else branch.span.parent_id or ""))
    _cut_circles(parents)
    return parents


def _cut_circles(parents: list[int | None]) -> None:
    grounded: set[int] = set()
    for start in range(len(parents)):
        path: dict[int, None] = {}
        here: int | None = start
        while here is not None and here not in grounded and here not in path:
            path[here] = None
            here = parents[here]
        if here in path:
            parents[here] = None
        grounded.update(path)


def _from_the_top(roots: list[Branch]) -> Iterator[tuple[Branch, Branch | None]]:
    stack: list[tuple[Branch, Branch | None]] = [(root, None) for root in roots]
    while stack:
        branch, parent = stack.pop()
        yield branch, parent
        stack += [(child, branch) for child in branch.children]


def _is_stop(span: Span, reasons: set[str]) -> bool:
    """Whether what ended `span` is a stop that a decision of this trace tells."""
    return span.status == "stopped" and span.error is not None and span.error.message in reasons


def _look(span: Span) -> Hashable:
    """What is shown of `span` itself, without its figures."""
    error = None if span.error is None else (span.error.type, span.error.message)
    if span.kind == "step":  # its name is its number
        return span.kind, span.status, error
    look = span.kind, span.name, span.status, error
    if isinstance(span, ToolSpan):
        return *look, span.http_status, brief(span.arguments), brief(span.result)
    if isinstance(span, LLMSpan):
        asked = gist({"messages": span.stored_input})  # the whole prompt grows with every call
        return *look, asked, brief([span.request_model, span.finish_reason, span.reply]), brief(span.tool_calls)
    if isinstance(span, DecisionSpan):
        return *look, span.rule, span.verdict, span.reason, brief(span.input)
    return look if span.kind == "node" else (*look, brief(span.input), brief(span.output))


def _sum_up(branch: Branch, parent: Branch | None) -> None:
    """Add the span's own share, then hand the branch's sum to the parent. Children come before parents."""
    span = branch.span
    if isinstance(span, LLMSpan) and span.usage is not None:
        branch.usage = sum_of((branch.usage, span.usage))
        branch.estimated |= span.usage_estimated
    if isinstance(span, DecisionSpan):
        branch.stops += span.verdict in _STOPPING
        branch.warnings += span.verdict in ("warn", "nudge")
    branch.calls += span.kind in _CALLS
    branch.errors += span.error is not None and not branch.told_elsewhere
    branch.step = branch.step or span.step
    if parent is None:
        return
    parent.usage = sum_of((parent.usage, branch.usage))
    parent.estimated |= branch.estimated
    parent.errors += branch.errors
    parent.warnings += branch.warnings
    parent.stops += branch.stops
    parent.calls += branch.calls
    parent.step = min(filter(None, (parent.step, branch.step)), default=0)
    parent.told_elsewhere |= _same_error(span, parent.span)


def _same_error(one: Span, other: Span) -> bool:
    if one.error is None or other.error is None:
        return False
    return (one.error.type, one.error.message) == (other.error.type, other.error.message)


def sum_of(usages: Iterable[Usage | None]) -> Usage | None:
    """The usages together; None where there is none."""
    total: Usage | None = None
    for usage in usages:
        if usage is not None:
            total = total or Usage(cost_usd=0.0)
            total.add(usage)
    return total
