"""What recurs in a trace is stored once.

An agent sends its whole conversation with every call, so a run of n turns would hold about n² messages. A `Pool`
keeps each distinct body once and each list as a path through a tree of (previous, body) nodes: the next prompt,
which is the last one and a few messages more, adds only those few nodes. That holds in memory and in a file alike.
"""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter, is_
from typing import Any, overload

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
        "_constants",
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
        self._by_source: dict[int, tuple[object, object, object, int]] = {}
        self._fronts: dict[int, _Front] = {}
        self._constants: dict[bytes, Chain] = {}
        self._totals: dict[Callable[[Any], int], dict[int, int]] = {}

    # --- writing --------------------------------------------------------------------------------------------------

    def chain(self, items: Sequence[object]) -> Chain:
        """Store a list; what was at the front of an earlier list that began alike is not looked at again."""
        items = list(items)
        if not items:
            return Chain(self, ROOT, 0)
        contents = _contents(items)
        front = self._fronts.get(id(items[0]))
        if front is None or not front.begins(items, contents):
            front = _Front()
        start, node, heirs, sources = len(front.items), front.node, self._heirs, self._by_source
        for index in range(start, len(items)):
            item, content = items[index], contents[index]
            known = sources.get(id(item))
            # An object kept here cannot give its id to another; what it says may still have been replaced.
            if known is not None and known[0] is item and known[1] is content and known[2] is _asked(item):
                body = known[3]
            else:
                body = self.add(plain(item))
                if type(content) is str:  # a list of parts could change inside and still be the same list
                    sources[id(item)] = (item, content, _asked(item), body)
            heir = heirs[node]
            node = heir[1] if heir[0] == body else self._step(node, body)
        if _TEXT.issuperset(map(type, contents[start:])):
            front.grow(items, contents, node)
            self._fronts[id(items[0])] = front
        return Chain(self, node, len(items))

    def constant(self, items: Sequence[object]) -> Chain:
        """Store a list that is the same in every call, though made anew for each: known by its content at once."""
        try:
            key = _digest(items)
        except ValueError:  # not plain data
            return self.chain(items)
        if key not in self._constants:
            self._constants[key] = self.chain(items)
        return self._constants[key]

    def extend(self, node: int, body: int) -> int:
        """The node that follows `node` with `body`: how a file's links are read back."""
        return self._step(node, body)

    def value(self, value: Any) -> Plain:  # noqa: ANN401 - anything at all
        """Store any value: lists become chains, and a large part that is already here is shared, not copied."""
        if type(value) is dict:
            return {key if type(key) is str else str(key): self._part(item) for key, item in list(value.items())}
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
        self._constants.clear()
        self._totals.clear()

    def _part(self, value: Any) -> Plain:  # noqa: ANN401 - anything at all
        if isinstance(value, list | tuple):
            return self.chain(value)
        copied = plain(value)
        if type(copied) is str:
            return copied if len(copied) <= _SMALL else self.bodies[self.add(copied)]
        return self.bodies[self.add(copied)] if type(copied) is dict else copied

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


def _digest(body: Any) -> bytes:  # noqa: ANN401 - plain data
    """What tells bodies apart. marshal in its second version is the fastest encoding of plain data that repeats."""
    return hashlib.blake2b(marshal.dumps(body, 2), digest_size=16).digest()


_TEXT = frozenset((str,))
_tool_calls = attrgetter("tool_calls")


def _contents(items: list[Any]) -> list[object]:
    """The texts of messages, by which a replaced one is told; None for what is no message."""
    try:
        return [item.content for item in items]
    except AttributeError:
        return [item.get("content") if is_dict(item) else getattr(item, "content", None) for item in items]


def _asked(item: Any) -> object:  # noqa: ANN401 - a message of any framework
    """The tool calls that a message asks for, which may be replaced though its text stays."""
    return item.get("tool_calls") if is_dict(item) else getattr(item, "tool_calls", None)


class _Front:
    """A list of messages that longer ones are expected to begin with, and what each held when it was stored.

    Compared by identity, in C: that is what makes the next prompt cheap, however long the conversation.
    """

    __slots__ = ("_asked", "_askers", "_contents", "_read", "items", "node")

    def __init__(self) -> None:
        self.items: list[object] = []
        self.node = ROOT
        self._contents: list[object] = []
        self._askers: list[object] = []
        self._asked: list[object] = []
        self._read: Callable[[Any], object] = _tool_calls

    def begins(self, items: list[object], contents: list[object]) -> bool:
        """Does `items` begin with this list, unchanged?"""
        return (
            len(items) >= len(self.items)
            and all(map(is_, self.items, items))
            and all(map(is_, self._contents, contents))
            and all(map(is_, self._asked, map(self._read, self._askers)))
        )

    def grow(self, items: list[object], contents: list[object], node: int) -> None:
        """Become this longer list, which began like it."""
        for item in items[len(self.items) :]:
            if is_dict(item):
                self._read = _asked
            if is_dict(item) or hasattr(item, "tool_calls"):
                self._askers.append(item)
                self._asked.append(_asked(item))
        self.items, self._contents, self.node = items, contents, node


def expand(value: Plain) -> Plain:
    """Stored data as a reader wants it: chains become lists."""
    if is_dict(value):
        return {key: expand(item) for key, item in value.items()}
    return list(value) if type(value) is Chain else value
