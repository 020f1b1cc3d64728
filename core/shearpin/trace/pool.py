"""What recurs in a trace is stored once.

An agent sends its whole conversation with every call, so a run of n turns would hold about n² messages. A `Pool`
keeps each distinct body once and each list as a path through a tree of (previous, body) nodes: the next prompt,
which is the last one and a few messages more, adds only those few nodes. That holds in memory and in a file alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from shearpin.trace.plain import Plain, plain

ROOT = 0
_SMALL = 64


class Chain(Sequence[Any]):
    """A stored list: looks like one, holds only its last node."""

    __slots__ = ("_length", "node", "pool")

    def __init__(self, pool: Pool, node: int, length: int) -> None:
        self.pool, self.node, self._length = pool, node, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pool.items(self.node))

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.pool.items(self.node)[index]

    def total(self, measure: Callable[[Any], int]) -> int:
        """The sum of `measure` over the items, remembered per node: only items not seen before are measured."""
        return self.pool.total(self.node, measure)


class Pool:
    """The bodies and lists of one trace. Written under the run's lock only."""

    __slots__ = ("_by_content", "_by_identity", "_by_source", "_children", "_totals", "bodies", "links")

    def __init__(self) -> None:
        self.bodies: list[Plain] = []
        self.links: list[tuple[int, int]] = [(ROOT, -1)]  # node -> (previous node, body); node 0 is the empty list
        self._children: dict[tuple[int, int], int] = {}
        self._by_content: dict[str, int] = {}
        self._by_identity: dict[int, int] = {}
        self._by_source: dict[int, tuple[object, object, int]] = {}
        self._totals: dict[Callable[[Any], int], dict[int, int]] = {}

    # --- writing --------------------------------------------------------------------------------------------------

    def chain(self, items: Sequence[object]) -> Chain:
        """Store a list; an item that is the same object as before is not even converted again."""
        node = ROOT
        for item in items:
            node = self._step(node, self._body_of(item))
        return Chain(self, node, len(items))

    def extend(self, node: int, body: int) -> int:
        """The node that follows `node` with `body`: how a file's links are read back."""
        return self._step(node, body)

    def value(self, value: object) -> Plain:
        """Store any value: lists become chains, and a large part that is already here is shared, not copied."""
        if isinstance(value, dict):
            return {str(key): self._part(item) for key, item in value.items()}
        return self._part(value)

    def add(self, body: Plain) -> int:
        """The index of a body, new or already stored."""
        key = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=repr)
        index = self._by_content.get(key)
        if index is None:
            index = self._by_content[key] = len(self.bodies)
            self.bodies.append(body)
            self._by_identity[id(body)] = index
        return index

    def forget_sources(self) -> None:
        """Let go of the framework's own objects, once the run has ended."""
        self._by_source.clear()
        self._totals.clear()

    def _part(self, value: object) -> Plain:
        if isinstance(value, list | tuple):
            return self.chain(value)
        copied = plain(value)
        if isinstance(copied, dict) or (isinstance(copied, str) and len(copied) > _SMALL):
            return self.bodies[self.add(copied)]
        return copied

    def _body_of(self, item: object) -> int:
        known = self._by_source.get(id(item))
        content = _content(item)
        # An object kept here cannot give its id to another; its content may still have been replaced.
        if known is not None and known[0] is item and known[1] is content and type(content) is str:
            return known[2]
        body = self.add(plain(item))
        self._by_source[id(item)] = (item, content, body)
        return body

    def _step(self, node: int, body: int) -> int:
        child = self._children.get((node, body))
        if child is None:
            child = self._children[node, body] = len(self.links)
            self.links.append((node, body))
        return child

    # --- reading --------------------------------------------------------------------------------------------------

    def items(self, node: int) -> list[Plain]:
        """The list that ends at `node`."""
        found: list[Plain] = []
        while node != ROOT:
            node, body = self.links[node]
            found.append(self.bodies[body])
        found.reverse()
        return found

    def index_of(self, body: object) -> int | None:
        """Which stored body this very object is, if it is one."""
        return self._by_identity.get(id(body))

    def total(self, node: int, measure: Callable[[Any], int]) -> int:
        known = self._totals.setdefault(measure, {ROOT: 0})
        path: list[int] = []
        while node not in known:
            path.append(node)
            node = self.links[node][0]
        total = known[node]
        for step in reversed(path):
            total += measure(self.bodies[self.links[step][1]])
            known[step] = total
        return total


def _content(item: object) -> object:
    return item.get("content") if type(item) is dict else getattr(item, "content", None)


def expand(value: Plain) -> Plain:
    """Stored data as a reader wants it: chains become lists."""
    if type(value) is Chain:
        return list(value)
    if type(value) is dict and any(type(item) is Chain for item in value.values()):
        return {key: list(item) if type(item) is Chain else item for key, item in value.items()}
    return value
