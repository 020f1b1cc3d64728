"""Writes a trace as lines of JSON while it happens; `shearpin.trace.jsonl` describes the lines and reads them.

Whatever a trace holds becomes a line that can be read again: a value JSON has no words for is described, one of the
wrong type for its field is converted, one too long for a line is left out and says so.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import MISSING, Field, fields
from operator import attrgetter
from typing import Any, TypeGuard

from shearpin.trace.fitting import DIGITS, fitting
from shearpin.trace.model import SCHEMA_VERSION, Identity, Stop, Trace
from shearpin.trace.plain import Plain, plain
from shearpin.trace.pool import Chain, Pool
from shearpin.trace.spans import SPAN_CLASSES, Span, SpanError
from shearpin.trace.usage import Usage

LONGEST_VALUE = 1 << 26
"""Characters of JSON a message or a field may take; what is longer is left out."""
DEEPEST = 64
"""Containers within containers, as `shearpin.trace.plain` cuts them."""

_BATCH = 1 << 22
_FIELD = 1 << 16
_SHARED = 64
_UNFIT = (TypeError, ValueError, RecursionError, RuntimeError)
_LONE = re.compile("[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")
_writers: list[Callable[[], object]] = []
_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class TraceLines:
    """The lines of one trace in one file; remembers what is written. One thread at a time.

    The run may be changing the trace meanwhile: a line then holds what is newer, never less. Every method returns
    whole lines. `finished` also writes what was not told of before: alone, it writes a whole trace.
    """

    __slots__ = ("_bodies", "_ended", "_head", "_links", "_number", "_sums", "trace")

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._head = f'{{"of":{_dump(trace.trace_id)},"by":"{os.urandom(4).hex()}","n":'
        self._number = self._bodies = 0
        self._links = 1
        self._ended: set[str] = set()
        self._sums: tuple[object, ...] = ()

    @staticmethod
    def before_reading(write: Callable[[], object]) -> None:
        """Have `write` called whenever this process reads a file of traces: so it can read what it has just told."""
        _writers.append(write)

    def started(self, span: Span, attributes: dict[str, Any]) -> bytes:
        """`span` started, with these attributes."""
        if span.kind == "decision":  # an instant: its end follows and says it all
            return b""
        record = _AT_START[type(span)].record(span, self.trace.pool)
        return self._lines("started", record | {"attributes": attributes} if attributes else record)

    def ended(self, span: Span) -> bytes:
        """`span` ended; all of it is written, so that its start need not have been."""
        self._ended.add(span.span_id)
        return self._lines("ended", _WHOLE[type(span)].record(span, self.trace.pool))

    def finished(self) -> bytes:
        """The run ended, or was paused."""
        untold = [span for span in list(self.trace.spans) if span.span_id not in self._ended]
        record = _FINISHED.record(self.trace, self.trace.pool)
        if self.trace.stop is not None:
            record["stop"] = _stop(self.trace.stop)
        return b"".join([*map(self.ended, untold), self._lines("finished", record)])

    def _lines(self, kind: str, record: dict[str, Any]) -> bytes:
        begin = [] if self._number else [self._run()]
        last = _json(record, _shortened)
        # The pool comes after the record was made, which may refer to what was added meanwhile.
        return b"".join([*begin, *self._pool(), self._line(kind, last, self._new_sums())])

    def _run(self) -> bytes:
        record = _RUN.record(self.trace, self.trace.pool)
        return self._line("run", _json({"schema": SCHEMA_VERSION} | record, _shortened))

    def _pool(self) -> Iterator[bytes]:
        pool = self.trace.pool
        links = pool.links[self._links :]  # before the bodies: what a link names is there before it
        bodies = len(pool.bodies)
        while self._bodies < bodies or links:
            first, texts = self._bodies, list(self._batch(pool, bodies))
            new = links if self._bodies == bodies else []
            items = f'"bodies":[{",".join(texts)}],"links":{_dump(new)}'
            yield self._line("pool", f'{{"first":[{first},{self._links}],{items}}}')
            self._links += len(new)
            links = links[len(new) :]

    def _batch(self, pool: Pool, until: int) -> Iterator[str]:
        size = 0
        while self._bodies < until and size < _BATCH:
            text = _json(pool.bodies[self._bodies], _shortened_body)
            self._bodies += 1
            size += len(text)
            yield text

    def _new_sums(self) -> str:
        sums = _sums(self.trace)
        if sums == self._sums:
            return ""
        self._sums = sums
        return f',"sums":{_json(_SUMS.record(self.trace, self.trace.pool), dict)}'

    def _line(self, kind: str, text: str, more: str = "") -> bytes:
        line = f'{self._head}{self._number},"{kind}":{text}{more}}}\n'
        self._number += 1
        return _utf8(line)


def write_what_waits() -> None:
    """Have everything written that was told in this process and waits to be."""
    for write in _writers:
        write()


# --- records ------------------------------------------------------------------------------------------------


class _Shape:
    """Which fields of a class a record tells."""

    __slots__ = ("_columns", "_values")

    def __init__(self, kind: type, *, only: Collection[str] = (), without: Collection[str] = ()) -> None:
        columns = [c for c in _fields(kind).values() if c.name not in without and (c.name in only or not only)]
        self._columns = [(column.name, _default(column), *fitting(str(column.type))) for column in columns]
        self._values = attrgetter(*(column.name for column in columns))

    def record(self, item: object, pool: Pool) -> dict[str, Any]:
        """The fields of `item` that differ from their defaults."""
        record: dict[str, Any] = {}
        for (name, default, fits, convert), value in zip(self._columns, self._values(item), strict=True):
            # Values of other types are not compared: an array answers with an array.
            if value is default or (type(value) is type(default) and value == default):
                continue
            if name.startswith("stored_"):
                record[name] = _stored(value, pool)
            elif type(value) in _NESTED:
                record[name] = _NESTED[type(value)].record(value, pool)
            elif type(value) in fits:
                record[name] = value
            else:
                with suppress(Exception):  # a class may refuse with any error: then the field has its default
                    record[name] = convert(value)
        return record


def _fields(kind: type) -> dict[str, Field[Any]]:
    return {column.name: column for column in fields(kind)}


def _default(column: Field[Any]) -> object:
    return column.default if column.default_factory is MISSING else column.default_factory()


_SPANS: list[type[Span]] = [Span, *SPAN_CLASSES.values()]
_WHOLE = {kind: _Shape(kind) for kind in _SPANS}
# A start may be written when the span has long ended, and must not tell half of that.
_KNOWN_AT_START = {
    *("span_id", "parent_id", "kind", "name", "agent", "step", "start_ns", "stored_input"),
    *("provider", "request_model", "temperature", "max_tokens", "seed", "stored_tools"),
    *("call_id", "retry", "thread_id", "checkpoint_id"),
}
_AT_START = {kind: _Shape(kind, only=_KNOWN_AT_START) for kind in _SPANS}
_NESTED: dict[type, _Shape] = {Usage: _Shape(Usage), SpanError: _Shape(SpanError), Identity: _Shape(Identity)}
_RUN = _Shape(Trace, only=("name", "identity", "started_ns", "stored_input"))
_SUMS = _Shape(Trace, only=("steps", "llm_calls", "tool_calls", "usage"))
_FINISHED = _Shape(Trace, without=("trace_id", "spans", "pool", "stop"))
_sums = attrgetter("steps", "llm_calls", "tool_calls", *(f"usage.{name}" for name in _fields(Usage)))


def _stored(value: object, pool: Pool, depth: int = 8) -> Plain:
    """Parts of the pool by their place in it, in lists that begin with a word; any other list is put in one."""
    kind = type(value)
    if value is None or kind is int or kind is bool or kind is float:
        return value
    if isinstance(value, Chain) and value.pool is pool:
        return ["chain", value.node, len(value)]
    if kind is dict or (isinstance(value, str) and len(value) > _SHARED):
        index = pool.index_of(value)
        if index is not None:
            return ["body", index]
    if _is_dict(value) and depth:
        return {key: _stored(item, pool, depth - 1) for key, item in list(value.items())}
    return value if kind is str else ["json", value]


def _stop(stop: Stop) -> dict[str, Any]:
    told: dict[str, Any] = {"type": type(stop.error).__name__, "message": "", "facts": {}}
    with suppress(Exception):  # the class may be a user's
        told |= {"message": str(stop.error), "facts": plain(dict(stop.error.as_dict()))}
    return {"error": told, "rule": str(stop.rule), "span_id": str(stop.span_id)}


# --- JSON ---------------------------------------------------------------------------------------------------


def _json(value: Plain, shorten: Callable[[Any], Any]) -> str:
    try:
        text = _dump(value)
        fits = not nested_deeper(value, text, DEEPEST + 10)
    except _UNFIT:
        text, fits = "", False
    if not fits:
        value = _tame(value, ())
        text = _dump(value)
    return text if len(text) <= LONGEST_VALUE else _dump(shorten(value))


def nested_deeper(value: Plain, text: str, depth: int) -> bool:
    """Is `value`, whose JSON is `text`, nested deeper than this? Most cannot be, for want of brackets."""
    if text.count("{") + text.count("[") <= depth:
        return False
    layer: list[Any] = [value]
    while layer and depth >= 0:
        layer = [part for item in layer for part in _containers_in(item)]
        depth -= 1
    return bool(layer)


def _containers_in(item: Plain) -> list[Any]:
    parts = item.values() if _is_dict(item) else item if _is_list(item) else ()
    return [part for part in parts if _is_dict(part) or _is_list(part)]


def _is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, list | tuple)


def _tame(value: object, path: tuple[int, ...]) -> Plain:
    """Like `plain`, also of what a run is changing at this moment, and with a way to write enormous numbers."""
    if isinstance(value, int) and value.bit_length() > DIGITS:
        return hex(value)
    if _is_dict(value):
        items = list(value.items())  # in one go: no other thread comes between
        return _cut(value, path) or {str(key): _tame(item, (*path, id(value))) for key, item in items}
    if _is_list(value) or isinstance(value, Chain):
        return _cut(value, path) or [_tame(item, (*path, id(value))) for item in list(value)]
    copied = plain(value)
    return _tame(copied, path) if _is_dict(copied) or _is_list(copied) else copied


def _cut(value: object, path: tuple[int, ...]) -> str:
    return "<cycle>" if id(value) in path else "<too deep>" if len(path) > DEEPEST else ""


def _shortened(record: dict[str, Any]) -> dict[str, Any]:
    """A record without its long fields, or with a word in their place where the field is open to it."""
    short: dict[str, Any] = {}
    for name, value in record.items():
        size = len(_dump(value))
        if size <= _FIELD:
            short[name] = value
        elif isinstance(value, str) or name.startswith("stored_"):
            short[name] = _left_out(size)
    return short


def _shortened_body(body: Plain) -> Plain:
    if not _is_dict(body):
        return _left_out(len(_dump(body)))
    sizes = {key: len(_dump(value)) for key, value in body.items()}
    return {key: value if sizes[key] <= _FIELD else _left_out(sizes[key]) for key, value in body.items()}


def _left_out(size: int) -> str:
    return f"<left out: {size:,} characters>"


def _utf8(line: str) -> bytes:
    """UTF-8. Half a surrogate pair, which UTF-8 cannot hold, is escaped; two halves kept apart stay so."""
    try:
        return line.encode()
    except UnicodeEncodeError:
        return _LONE.sub(lambda half: f"\\u{ord(half[0]):04x}", line).encode("utf-8", "surrogatepass")
