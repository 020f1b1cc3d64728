"""What recurs in a trace is stored once.

An agent sends its whole conversation with every call, so a run of n turns would hold about n² messages. A `Pool`
keeps each distinct body once and each list as a path through a tree of (previous, body) nodes: the next prompt,
which is the last one and a few messages more, adds only those few nodes. That holds in memory and in a file alike.
"""

from __future__ import annotations

import hashlib
import marshal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter, is_
from typing import Any, overload

from shearpin.trace.plain import Plain, is_dict, is_list, is_tuple, named, plain

ROOT = 0
_NUMBERS = frozenset((int, float))
_SMALL = 64
"""Characters up to which a text is kept where it stands."""
_LONG = 8
"""Items from which a list is compared with those before it at once."""


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
    """The bodies and lists of one trace. Safe to write to from any thread.

    What is stored is there before anything refers to it: a signal's handler may raise between any two statements.
    """

    __slots__ = (
        "_by_content",
        "_by_identity",
        "_by_source",
        "_children",
        "_constants",
        "_fronts",
        "_heirs",
        "_lock",
        "_totals",
        "bodies",
        "links",
    )

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.bodies: list[Plain] = []
        self.links: list[tuple[int, int]] = [(ROOT, -1)]  # node -> (previous node, body); node 0 is the empty list
        self._children: dict[tuple[int, int], int] = {}
        self._heirs: dict[int, tuple[int, int]] = {}  # node -> (body, child) that followed it last: often again
        self._by_content: dict[bytes, int] = {}
        self._by_identity: dict[int, int] = {}
        self._by_source: dict[int, tuple[object, object, object, int]] = {}
        self._fronts: dict[int, _Front] = {}
        self._constants: dict[bytes, Chain] = {}
        self._totals: dict[Callable[[Any], int], dict[int, int]] = {}

    # --- writing: what the user's objects do when they are read happens outside of the lock -----------------------

    def chain(self, items: Sequence[object]) -> Chain:
        """Store a list; what was at the front of an earlier list that began alike is not looked at again."""
        items = list(items)
        if len(items) < _LONG:
            return self._chain(ROOT, [self._body(item, _of(item, "content")) for item in items], len(items))
        contents = _contents(items)
        front = self._fronts.get(id(items[0]))
        if front is None or not front.begins(items, contents):
            front = _EMPTY
        new = zip(items[len(front.items) :], contents[len(front.items) :], strict=True)
        chain = self._chain(front.node, [self._body(item, content) for item, content in new], len(items))
        if _TEXT.issuperset(map(type, contents[len(front.items) :])):
            self._fronts[id(items[0])] = front.grown(items, contents, chain.node)
        return chain

    def _chain(self, node: int, bodies: list[int], length: int) -> Chain:
        with self._lock:
            return Chain(self, self._extended(node, bodies), length)

    def constant(self, items: Sequence[object]) -> Chain:
        """Store a list that is the same in every call, though made anew for each: known by its content at once."""
        try:
            key = _digest(items)
        except ValueError:  # not plain data
            return self.chain(items)
        chain = self._constants.get(key)
        if chain is None:
            chain = self._constants[key] = self.chain(items)
        return chain

    def extend(self, node: int, body: int) -> int:
        """The node that follows `node` with `body`: how a file's links are read back."""
        return self._extended(node, (body,))

    def value(self, value: object) -> Plain:
        """Store any value: lists become chains, and a large part that is already here is shared, not copied."""
        return {name: self._part(item) for name, item in named(value)} if is_dict(value) else self._part(value)

    def add(self, body: Plain) -> int:
        """The index of a body, new or already stored."""
        try:
            key = _digest(body)
        except ValueError:  # not quite plain: an adapter passed on somebody's own kind of string
            body = plain(body)
            key = _digest(body)
        index = self._by_content.get(key)
        return self._store(key, body) if index is None else index

    def _store(self, key: bytes, body: Plain) -> int:
        with self._lock:
            index = self._by_content.get(key)
            if index is None:
                index = len(self.bodies)
                self.bodies.append(body)
                self._by_identity[id(body)] = index
                self._by_content[key] = index
        return index

    def forget_sources(self) -> None:
        """Let go of the framework's own objects, once the run has ended."""
        self._by_source.clear()
        self._fronts.clear()
        self._constants.clear()
        self._totals.clear()

    def _part(self, value: object) -> Plain:
        numbers = is_list(value) and bool(value) and type(value[0]) in _NUMBERS  # a vector: stored as a whole
        if (is_list(value) or is_tuple(value)) and not numbers:
            return self.chain(value)
        copied = plain(value)
        if numbers or type(copied) is dict or (type(copied) is str and len(copied) > _SMALL):
            return self.bodies[self.add(copied)]
        return copied

    def _body(self, item: object, content: object) -> int:
        if type(content) is not str:  # no object with a text: known by all that it says
            return self._body_of_data(item)
        source = self._by_source.get(id(item))
        # An object kept here cannot give its id to another; what it says may still have been replaced.
        if source is not None and source[0] is item and source[1] is content and source[2] is _asked(item):
            return source[3]
        asked = _asked(item)
        body = self.add(plain(item))
        self._by_source[id(item)] = (item, content, asked, body)
        return body

    def _body_of_data(self, item: object) -> int:
        """A dict's content is told as fast as it is compared, and a dict may be changed anywhere inside."""
        if not is_dict(item):
            return self.add(plain(item))
        try:
            key = _digest(item)
        except ValueError:  # not plain
            return self.add(plain(item))
        index = self._by_content.get(key)
        if index is not None:
            return index
        copied = plain(item)
        return self._store(key, copied) if copied == item else self.add(copied)

    def _extended(self, node: int, bodies: Iterable[int]) -> int:
        for body in bodies:
            heir = self._heirs.get(node)
            if heir is None or heir[0] != body:
                child = self._children.get((node, body))
                if child is None:
                    child = len(self.links)
                    self.links.append((node, body))
                    self._children[node, body] = child
                heir = self._heirs[node] = (body, child)
            node = heir[1]
        return node

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
    """The texts of messages that are objects, by which a replaced one is told; None for what is none."""
    try:
        return [item.content for item in items]
    except Exception:  # noqa: BLE001 - an attribute may be anybody's code
        return [_of(item, "content") for item in items]


def _asked(item: object) -> object:
    """The tool calls that a message asks for, which may be replaced though its text stays."""
    return _of(item, "tool_calls")


def _of(item: object, name: str) -> object:
    try:
        return getattr(item, name, None)
    except Exception:  # noqa: BLE001 - an attribute may be anybody's code
        return None


@dataclass(slots=True)
class _Front:
    """A list of messages that longer ones are expected to begin with, and what each held when it was stored.

    Compared by identity, in C: that is what makes the next prompt cheap, however long the conversation.
    """

    items: list[object]
    node: int
    contents: list[object]
    askers: list[object]
    asked: list[object]

    def begins(self, items: list[object], contents: list[object]) -> bool:
        """Does `items` begin with this list, unchanged?"""
        return (
            len(items) >= len(self.items)
            and all(map(is_, self.items, items))
            and all(map(is_, self.contents, contents))
            and all(map(is_, self.asked, map(_tool_calls, self.askers)))
        )

    def grown(self, items: list[object], contents: list[object], node: int) -> _Front:
        """This longer list, which began like it."""
        new = items[len(self.items) :]
        if not new:
            return self
        asking = [item for item in new if hasattr(item, "tool_calls")]
        return _Front(items, node, contents, self.askers + asking, self.asked + [_asked(item) for item in asking])


_EMPTY = _Front([], ROOT, [], [], [])


def expand(value: Plain) -> Plain:
    """Stored data as a reader wants it: chains become lists."""
    if is_dict(value):
        return {key: expand(item) for key, item in value.items()}
    return list(value) if type(value) is Chain else value
