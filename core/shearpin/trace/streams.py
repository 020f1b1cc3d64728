"""What the numbers in one stream of a file stand for. Nothing in it is trusted, and some of it may be lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from pydantic import TypeAdapter

from shearpin.trace.plain import Plain
from shearpin.trace.pool import ROOT, Chain, Pool

LOST = {"role": "unknown", "content": "<lost: the file lacks the record that held it>"}


@dataclass(slots=True)
class _PoolRecord:
    first: tuple[int, int]
    bodies: list[Any]
    links: list[tuple[int, int]]


_read_pool = TypeAdapter(_PoolRecord).validate_python


class Stream:
    """What one writer's numbers mean: its bodies and nodes, by their place in the trace's own pool."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.cut: set[int] = set()
        self.unreadable = self._next = self._missing = 0
        self._bodies: dict[int, int] = {}
        self._nodes: dict[int, tuple[int, int]] = {0: (ROOT, 0)}  # and how long the list is that ends there

    @property
    def lost(self) -> int:
        """How many records are not there, as far as can be known."""
        return self._missing + sum(number >= self._next for number in self.cut)

    @property
    def whole(self) -> bool:
        """Has every record of it been taken in so far?"""
        return not (self._missing or self.unreadable)

    def follows(self, number: int) -> bool:
        """Is this a new record? One that is written again, after its first try seemed to fail, is not."""
        if number < self._next:
            return False
        self._missing += number - self._next
        self._next = number + 1
        return True

    def extend(self, payload: object) -> None:
        """Take in a pool record; raises ValueError if it is not one."""
        record = _read_pool(payload)
        body, node = record.first
        if self.whole and (body, node) != (len(self._bodies), len(self._nodes)):
            raise ValueError(f"bodies from {body} and nodes from {node}: others were expected")
        for number, item in enumerate(record.bodies, body):
            self._bodies[number] = self.pool.add(item)
        for number, (previous, item) in enumerate(record.links, node):
            before, length = self._node(previous)
            self._nodes[number] = self.pool.extend(before, self._body(item)), length + 1

    def value(self, stored: Plain) -> Plain:
        """A value of a span or a run, its references followed."""
        match stored:
            case dict():
                return {key: self.value(item) for key, item in cast("dict[str, Plain]", stored).items()}
            case ["chain", int(node), int(length)]:
                place, found = self._node(node)
                if found != length and self.whole:
                    raise ValueError(f"node {node} ends a list of {found}, not of {length}")
                return Chain(self.pool, place, found)
            case ["body", int(number)]:
                return self.pool.bodies[self._body(number)]
            case ["json", value]:
                return value
            case list():
                raise ValueError("a list that is no reference")
            case _:
                return stored

    def _body(self, number: int) -> int:
        found = self._bodies.get(number)
        return self._or_lost(f"body {number}") if found is None else found

    def _node(self, number: int) -> tuple[int, int]:
        found = self._nodes.get(number)
        return (self.pool.extend(ROOT, self._or_lost(f"node {number}")), 1) if found is None else found

    def _or_lost(self, what: str) -> int:
        if self.whole:
            raise ValueError(f"{what} is referred to and nowhere told")
        return self.pool.add(LOST)
