"""What recurs in a trace is stored once.

An agent sends its whole conversation with every call, so a run of n turns would hold about n² messages. A `Pool`
keeps each distinct body once and each list as a path through a tree of (previous, body) nodes: the next prompt,
which is the last one and a few messages more, adds only those few nodes. That holds in memory and in a file alike.
"""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Callable, Iterator, Sequence
from operator import is_
from typing import Any, cast, overload

from shearpin.trace.plain import Plain, is_dict, plain

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
    def __getitem__(self, index: int) -> Plain: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.pool.items(self.node)[index]

    def total(self, measure: Callable[[Any], int]) -> int:
        """The sum of `measure` over the items, remembered per node: only items not seen before are measured."""
        return self.pool.total(self.node, measure)


class Pool:
    """The bodies and lists of one trace. Written under the run's lock only."""

    __slots__ = (
        "_by_content",
        "_by_identity",
        "_by_source",
        "_children",
        "_fronts",
        "_heirs",
        "_totals",
        "bodies",
        "links",
    )

    def __init__(self) -> None:
        self.bodies: list[Plain] = []
        self.links: list[tuple[int, int]] = [(ROOT, -1)]  # node -> (previous node, body); node 0 is the empty list
        self._children: dict[tuple[int, int], int] = {}
        self._heirs: list[tuple[int, int]] = [
            (-1, ROOT)
        ]  # node -> (body, child) that followed it last: nearly always again
        self._by_content: dict[bytes, int] = {}
        self._by_identity: dict[int, int] = {}
        self._by_source: dict[int, tuple[object, object, int]] = {}
        self._fronts: dict[int, tuple[list[object], list[object], int]] = {}
        self._totals: dict[Callable[[Any], int], dict[int, int]] = {}

    # --- writing --------------------------------------------------------------------------------------------------

    def chain(self, items: Sequence[object]) -> Chain:
        """Store a list; what was at the front of an earlier list that began alike is not looked at again."""
        sources, heirs = self._by_source, self._heirs
        items = list(items)
        contents = _contents(items)
        node, start = self._known_front(items, contents)
        for index in range(start, len(items)):
            item = items[index]
            known = sources.get(id(item))
            # An object kept here cannot give its id to another; its content may still have been replaced.
            same = known is not None and known[0] is item and known[1] is contents[index]
            body = known[2] if known is not None and same else self._body_of(item, contents[index])
            heir = heirs[node]
            node = heir[1] if heir[0] == body else self._step(node, body)
        if set(map(type, contents)) == _TEXT:
            self._fronts[id(items[0])] = (items, contents, node)
        return Chain(self, node, len(items))

    def _known_front(self, items: list[object], contents: list[object]) -> tuple[int, int]:
        """The node up to which `items` is an earlier list, and how many items that are.

        Compared as lists: for the very same objects that is a pointer comparison each, in C.
        """
        front = self._fronts.get(id(items[0])) if items else None
        if front is None:
            return ROOT, 0
        length = len(front[0])
        if all(map(is_, items, front[0])) and all(map(is_, contents, front[1])) and len(items) >= length:
            return front[2], length
        return ROOT, 0

    def extend(self, node: int, body: int) -> int:
        """The node that follows `node` with `body`: how a file's links are read back."""
        return self._step(node, body)

    def value(self, value: object) -> Plain:
        """Store any value: lists become chains, and a large part that is already here is shared, not copied."""
        if isinstance(value, dict):
            parts = cast("dict[object, object]", value)
            return {str(key): self._part(item) for key, item in parts.items()}
        return self._part(value)

    def add(self, body: Plain) -> int:
        """The index of a body, new or already stored."""
        key = _digest(body)
        index = self._by_content.get(key)
        if index is None:
            index = self._by_content[key] = len(self.bodies)
            self.bodies.append(body)
            self._by_identity[id(body)] = index
        return index

    def forget_sources(self) -> None:
        """Let go of the framework's own objects, once the run has ended."""
        self._by_source.clear()
        self._fronts.clear()
        self._totals.clear()

    def _part(self, value: object) -> Plain:
        if isinstance(value, list | tuple):
            return self.chain(cast("Sequence[object]", value))
        copied = plain(value)
        if type(copied) is dict or (isinstance(copied, str) and len(copied) > _SMALL):
            return self.bodies[self.add(copied)]
        return copied

    def _body_of(self, item: object, content: object) -> int:
        body = self.add(plain(item))
        if type(content) is str:  # a list of parts could change inside and still be the same list
            self._by_source[id(item)] = (item, content, body)
        return body

    def _step(self, node: int, body: int) -> int:
        child = self._children.get((node, body))
        if child is None:
            child = self._children[node, body] = len(self.links)
            self.links.append((node, body))
            self._heirs.append((-1, ROOT))
        self._heirs[node] = (body, child)
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


def _digest(body: Plain) -> bytes:
    """What tells bodies apart. marshal in its second version is the fastest encoding of plain data that repeats."""
    return hashlib.blake2b(marshal.dumps(body, 2), digest_size=16).digest()


_TEXT = {str}


def _contents(items: list[Any]) -> list[object]:
    """The texts of messages, by which a replaced one is told; None for what is no message."""
    try:
        return [item.content for item in items]
    except AttributeError:
        return [item.get("content") if is_dict(item) else getattr(item, "content", None) for item in items]


def expand(value: Plain) -> Plain:
    """Stored data as a reader wants it: chains become lists."""
    if is_dict(value):
        return {key: expand(item) for key, item in value.items()}
    return list(value) if type(value) is Chain else value
