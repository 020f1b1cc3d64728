"""The tree as it is drawn: which place each branch has, and which siblings are told in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

from shearpin.trace import Usage
from shearpin.view.tree import Branch, sum_of

FOLD_ABOVE = 12
"""Siblings shown in full; of more, the first, the last, and those where something happened."""
_FIRST, _LAST, _ALARMS, _WORTH_FOLDING = 3, 5, 4, 3
_RAILS = 64
"""Levels whose rails are kept: no terminal has room for more."""
_NOUNS = {"llm": "model call", "embedding": "embedding", "tool": "tool call"}


@dataclass(slots=True, eq=False)
class Fold:
    """Siblings that are told in one line: so many groups of them, described by ``label``."""

    branches: list[Branch]
    groups: int
    label: str
    usage: Usage | None
    estimated: bool
    duration_ns: int | None
    errors: int
    warnings: int
    stops: int


_Group = Sequence[Branch | Fold]


@dataclass(frozen=True, slots=True)
class Node:
    """One place in the tree as drawn. ``rails``: for the levels above, from the top, whether they go on."""

    item: Branch | Fold
    rails: tuple[bool, ...]
    depth: int
    last: bool


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
    shown = branches if full else list(_folded(branches))
    return [Node(item, rails, depth, item is shown[-1]) for item in reversed(shown)]


def _folded(branches: list[Branch]) -> Iterator[Branch | Fold]:
    unstarted = [branch for branch in branches if branch.unstarted]
    if len(unstarted) <= 1:
        unstarted = []
    started = [branch for branch in branches if not (unstarted and branch.unstarted)]
    yield from chain.from_iterable(_shortened(*_groups(started)))
    if unstarted:
        more = "more " if started else ""
        yield _fold(unstarted, len(unstarted), f"{more}{_noun(unstarted)}s, stopped before their first call")


def _groups(branches: list[Branch]) -> tuple[list[list[Branch]], bool]:
    """Siblings in groups: those of one step together, unless steps are spans of their own."""
    numbers = {branch.step for branch in branches if branch.step}
    if len(numbers) <= 1 or any(branch.span.kind == "step" for branch in branches):
        return [[branch] for branch in branches], False
    return [list(group) for _, group in groupby(branches, lambda branch: branch.step)], True


def _shortened(groups: list[list[Branch]], by_step: bool) -> Iterator[_Group]:
    return _without_the_middle(list(_without_repetitions(groups, by_step)), by_step)


def _without_repetitions(groups: list[list[Branch]], by_step: bool) -> Iterator[_Group]:
    """Of groups in a row that look the same, the first; but every stop."""
    for _, alike in groupby(groups, lambda group: [branch.look for branch in group]):
        first, *others = alike
        if len(others) < _WORTH_FOLDING or any(branch.stops for branch in first):
            yield from (_inside(group, by_step) for group in (first, *others))
        else:
            yield _inside(first, by_step)
            branches = list(chain.from_iterable(others))
            yield [_fold(branches, len(others), f"more {_noun(branches, by_step)}s that look the same")]


def _inside(group: list[Branch], by_step: bool) -> _Group:
    """A step may have as many calls as a run has steps."""
    return list(chain.from_iterable(_shortened([[branch] for branch in group], by_step=False))) if by_step else group


def _without_the_middle(groups: list[_Group], by_step: bool) -> Iterator[_Group]:
    """Of many groups the first, the last, and those where something happened."""
    if len(groups) <= FOLD_ABOVE:
        yield from groups
        return
    kept = _kept(groups)
    for keep, run in groupby(range(len(groups)), kept.__contains__):
        members = [groups[number] for number in run]
        if keep or len(members) < _WORTH_FOLDING:
            yield from members
        else:
            yield [_merged(members, by_step)]


def _kept(groups: list[_Group]) -> set[int]:
    total = len(groups)
    stops = [number for number, group in enumerate(groups) if any(item.stops for item in group)]
    alarms = [number for number, group in enumerate(groups) if any(item.errors or item.warnings for item in group)]
    return {*range(_FIRST), *range(total - _LAST, total), *stops[:_ALARMS], *stops[-1:], *alarms[:_ALARMS]}


def _merged(groups: list[_Group], by_step: bool) -> Fold:
    items = list(chain.from_iterable(groups))
    branches = [branch for item in items for branch in (item.branches if isinstance(item, Fold) else [item])]
    count = sum(group[0].groups if isinstance(group[0], Fold) else 1 for group in groups)
    return _fold(branches, count, f"more {_noun(branches, by_step)}s")


def _noun(branches: list[Branch], by_step: bool = False) -> str:
    kinds = {branch.span.kind for branch in branches}
    kind = "step" if by_step else kinds.pop() if len(kinds) == 1 else "span"
    return _NOUNS.get(kind, kind)


def _fold(branches: list[Branch], groups: int, what: str) -> Fold:
    return Fold(
        branches,
        groups,
        f"{groups:,} {what}",
        sum_of(branch.usage for branch in branches),
        any(branch.estimated for branch in branches),
        _extent(branches),
        sum(branch.errors for branch in branches),
        sum(branch.warnings for branch in branches),
        sum(branch.stops for branch in branches),
    )


def _extent(branches: list[Branch]) -> int | None:
    ends = [branch.span.end_ns for branch in branches if branch.span.end_ns is not None]
    return max(ends) - min(branch.span.start_ns for branch in branches) if ends else None
