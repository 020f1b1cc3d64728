"""The spans of a trace as a tree: who is whose child, what each branch cost, and what is told in one line.

A trace may come from a file that anyone wrote: parents may be missing, form circles, or lie thousands deep.
So every span is placed exactly once, and nothing here recurses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from shearpin.trace import DecisionSpan, LLMSpan, Span, Usage

FOLD_ABOVE = 12
"""Siblings shown in full; of more, the first, the last, and those where something happened."""
_FIRST, _LAST, _ALARMS, _WORTH_FOLDING = 3, 5, 4, 3
_RAILS = 64
"""Levels whose rails are kept: no terminal has room for more."""
_STOPPING = ("stop", "deny", "rejected")
_NOUNS = {"llm": "model call", "embedding": "embedding", "tool": "tool call"}


@dataclass(slots=True, eq=False)
class Branch:
    """A span and what is beneath it. ``usage`` is the whole branch's, None when no model was called in it."""

    span: Span
    children: list[Branch] = field(default_factory=list["Branch"])
    usage: Usage | None = None
    estimated: bool = False
    told_below: bool = False
    """Its error only passed through: the child it came from tells it."""
    errors: int = 0
    warnings: int = 0
    stops: int = 0


@dataclass(slots=True, eq=False)
class Fold:
    """Siblings that are told in one line."""

    branches: list[Branch]
    label: str
    usage: Usage | None
    estimated: bool
    duration_ns: int | None
    errors: int
    warnings: int


@dataclass(frozen=True, slots=True)
class Node:
    """One place in the tree as drawn. ``rails``: for the levels above, from the top, whether they go on."""

    item: Branch | Fold
    rails: tuple[bool, ...]
    depth: int
    last: bool


def grow(spans: Iterable[Span]) -> list[Branch]:
    """The tree, its roots in start order."""
    branches = [Branch(span) for span in sorted(spans, key=lambda span: span.start_ns)]
    parents = _parents(branches)
    roots: list[Branch] = []
    for branch, place in zip(branches, parents, strict=True):
        (roots if place is None else branches[place].children).append(branch)
    for branch, parent in reversed(list(_from_the_top(roots))):
        _sum_up(branch, parent)
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


def _sum_up(branch: Branch, parent: Branch | None) -> None:
    """Add the span's own share, then hand the branch's sum to the parent. Children come before parents."""
    span = branch.span
    if isinstance(span, LLMSpan) and span.usage is not None:
        branch.usage = _sum((branch.usage, span.usage))
        branch.estimated |= span.usage_estimated
    if isinstance(span, DecisionSpan):
        branch.stops += span.verdict in _STOPPING
        branch.warnings += span.verdict in ("warn", "nudge")
    branch.errors += span.error is not None and not branch.told_below
    if parent is None:
        return
    parent.usage = _sum((parent.usage, branch.usage))
    parent.estimated |= branch.estimated
    parent.errors += branch.errors
    parent.warnings += branch.warnings
    parent.stops += branch.stops
    parent.told_below |= _same_error(span, parent.span)


def _same_error(one: Span, other: Span) -> bool:
    if one.error is None or other.error is None:
        return False
    return (one.error.type, one.error.message) == (other.error.type, other.error.message)


def _sum(usages: Iterable[Usage | None]) -> Usage | None:
    total: Usage | None = None
    for usage in usages:
        if usage is not None:
            total = total or Usage(cost_usd=0.0)
            total.add(usage)
    return total


def walk(roots: list[Branch], *, full: bool) -> Iterator[Node]:
    """Every place of the tree from top to bottom, long rows of siblings folded unless `full`."""
    stack = _level(roots, (), 0, full=full)
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node.item, Branch):
            rails = (*node.rails, not node.last)[:_RAILS]
            stack += _level(node.item.children, rails, node.depth + 1, full=full)


def _level(branches: list[Branch], rails: tuple[bool, ...], depth: int, *, full: bool) -> list[Node]:
    """The nodes of one row of siblings, last one first."""
    shown = list(_folded(branches, full=full))
    return [Node(item, rails, depth, item is shown[-1]) for item in reversed(shown)]


def _folded(branches: list[Branch], *, full: bool) -> Iterator[Branch | Fold]:
    groups, by_step = _groups(branches)
    if full or len(groups) <= FOLD_ABOVE:
        yield from branches
        return
    kept = _kept(groups)
    for keep, run in groupby(range(len(groups)), kept.__contains__):
        numbers = list(run)
        members = [branch for number in numbers for branch in groups[number]]
        if keep or len(numbers) < _WORTH_FOLDING:
            yield from members
        else:
            yield _fold(members, len(numbers), by_step=by_step)


def _groups(branches: list[Branch]) -> tuple[list[list[Branch]], bool]:
    """Siblings in groups: those of one step together, unless steps are spans of their own."""
    numbers = {branch.span.step for branch in branches if branch.span.step}
    if len(numbers) <= 1 or any(branch.span.kind == "step" for branch in branches):
        return [[branch] for branch in branches], False
    return [list(group) for _, group in groupby(branches, lambda branch: branch.span.step)], True


def _kept(groups: list[list[Branch]]) -> set[int]:
    total = len(groups)
    stops = [number for number, group in enumerate(groups) if any(branch.stops for branch in group)]
    alarms = [n for n, group in enumerate(groups) if any(item.errors or item.warnings for item in group)]
    return {*range(_FIRST), *range(total - _LAST, total), *stops[:_ALARMS], *stops[-1:], *alarms[:_ALARMS]}


def _fold(branches: list[Branch], groups: int, *, by_step: bool) -> Fold:
    kinds = Counter(branch.span.kind for branch in branches)
    kind = "step" if by_step else next(iter(kinds)) if len(kinds) == 1 else "span"
    noun = _NOUNS.get(kind, kind)
    return Fold(
        branches,
        f"{groups:,} more {noun}s",
        _sum(branch.usage for branch in branches),
        any(branch.estimated for branch in branches),
        _extent(branches),
        sum(branch.errors for branch in branches),
        sum(branch.warnings for branch in branches),
    )


def _extent(branches: list[Branch]) -> int | None:
    ends = [branch.span.end_ns for branch in branches if branch.span.end_ns is not None]
    return max(ends) - min(branch.span.start_ns for branch in branches) if ends else None
