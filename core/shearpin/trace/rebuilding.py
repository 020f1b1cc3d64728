"""Puts the records of a file back together into a trace. Nothing in a record is trusted.

Records of the wrong shape are a ValueError (pydantic's are) that says what is wrong; who reads the file knows where.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, NamedTuple, cast

from pydantic import Field, TypeAdapter

from shearpin import errors
from shearpin.trace.model import (
    SCHEMA_VERSION,
    SPAN_CLASSES,
    Identity,
    Span,
    Stop,
    Trace,
    TraceStatus,
    Usage,
)
from shearpin.trace.plain import Plain
from shearpin.trace.pool import ROOT, Chain, Pool

_LOST = {"role": "unknown", "content": "<lost: the file lacks the record that held it>"}
_END_OF_TIME = 1 << 63
_Time = Annotated[int, Field(ge=0, lt=_END_OF_TIME)]


class Record(NamedTuple):
    """A line: of which trace, by which stream, its number there. ``data`` is None where the line is cut off."""

    of: str
    by: str
    number: int
    kind: str
    data: dict[str, Any] | None


@dataclass
class _RunRecord:
    name: str
    started_ns: _Time = 0
    identity: Identity = Identity()  # noqa: RUF009 - frozen
    stored_input: Any = None


@dataclass
class _SumsRecord:
    steps: int = 0
    llm_calls: int = 0
    tool_calls: int = 0
    usage: Usage = field(default_factory=lambda: Usage(cost_usd=0.0))


@dataclass(slots=True)
class _ErrorRecord:
    type: str
    message: str
    facts: dict[str, Any]


@dataclass(slots=True)
class _StopRecord:
    error: _ErrorRecord
    rule: str
    span_id: str


@dataclass
class _FinishedRecord(_SumsRecord, _RunRecord):
    status: TraceStatus = "unfinished"
    ended_ns: _Time | None = None
    stop: _StopRecord | None = None
    gaps: list[str] = field(default_factory=list[str])
    stored_output: Any = None


@dataclass(slots=True)
class _PoolRecord:
    first: tuple[int, int]
    bodies: list[Any]
    links: list[tuple[int, int]]


_read_fields = TypeAdapter(dict[str, Any]).validate_python
_read_run = TypeAdapter(_RunRecord).validate_python
_read_sums = TypeAdapter(_SumsRecord).validate_python
_read_finished = TypeAdapter(_FinishedRecord).validate_python
_read_pool = TypeAdapter(_PoolRecord).validate_python
_SPANS: list[type[Span]] = [Span, *SPAN_CLASSES.values()]
_read_span = {kind: TypeAdapter(kind).validate_python for kind in _SPANS}


class Outline:
    """What the records tell of a run as a whole; the other records may be left out."""

    def __init__(self, trace_id: str) -> None:
        self.trace = Trace(trace_id, "")

    def add(self, record: Record) -> None:
        """Take in the next record of this trace; raises ValueError if it is not one."""
        if record.data is None:
            return
        payload = record.data.get(record.kind)
        if self.trace.status == "paused":  # and goes on
            self.trace.status, self.trace.ended_ns = "unfinished", None
        if record.kind == "run":
            _assign(self.trace, _read_run(_fields_of_run(payload)))
        elif record.kind == "finished":
            self._finished(payload)
        if "sums" in record.data:
            _assign(self.trace, _read_sums(record.data["sums"]))

    def _finished(self, payload: object) -> None:
        record = _read_finished(payload)
        stop, record.stop = record.stop, None
        _assign(self.trace, record)
        if stop is not None:
            self.trace.stop = Stop(_restored(stop.error), stop.rule, stop.span_id)


class Rebuilt(Outline):
    """A trace, from all of its records in the order of the file."""

    def __init__(self, trace_id: str) -> None:
        super().__init__(trace_id)
        self._streams: dict[str, _Stream] = {}
        self._at: dict[str, int] = {}
        self._input: Callable[[], Plain] | None = None

    def add(self, record: Record) -> None:
        """Take in the next record of this trace; raises ValueError if it is not one."""
        stream = self._streams.setdefault(record.by, _Stream(self.trace.pool))
        if record.data is None or not stream.follows(record.number):
            stream.cut.add(record.number) if record.data is None else None
            return
        super().add(record)
        payload = record.data.get(record.kind)
        if record.kind == "pool":
            stream.extend(payload)
        elif record.kind in ("started", "ended"):
            self._span(stream, payload, stands=record.kind == "ended")
        elif record.kind == "run":
            raw = self.trace.stored_input
            self._input = lambda: stream.value(raw)  # what it refers to comes in the next record
        elif record.kind == "finished":
            self._input = None
            self.trace.stored_input = stream.value(self.trace.stored_input)
            self.trace.stored_output = stream.value(self.trace.stored_output)
        else:
            raise ValueError(f"unknown kind of record: {record.kind}")

    def complete(self) -> Trace:
        """The trace, once the file has ended."""
        trace = self.trace
        if self._input is not None:
            trace.stored_input = _LOST
            with suppress(ValueError):
                trace.stored_input = self._input()
        if trace.stop is not None:
            trace.stop.error.trace = trace
        lost = sum(stream.lost for stream in self._streams.values())
        if lost:
            trace.spans.sort(key=lambda span: span.start_ns)
            trace.gaps.append(f"records of this run that its file lacks, cut off or removed: {lost}")
        return trace

    def _span(self, stream: _Stream, payload: object, *, stands: bool) -> None:
        span = _span(stream, payload)
        at = self._at.setdefault(span.span_id, len(self.trace.spans))
        if at == len(self.trace.spans):
            self.trace.spans.append(span)
        elif stands:
            self.trace.spans[at] = span


class _Stream:
    """What one writer's numbers mean: its bodies and nodes, by their place in the trace's own pool."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.cut: set[int] = set()
        self._next = self._missing = 0
        self._bodies: dict[int, int] = {}
        self._nodes: dict[int, tuple[int, int]] = {0: (ROOT, 0)}  # and how long the list is that ends there

    @property
    def lost(self) -> int:
        """How many records are not there, as far as can be known."""
        return self._missing + sum(number >= self._next for number in self.cut)

    def follows(self, number: int) -> bool:
        """Is this a new record? One that is written again, after its first try seemed to fail, is not."""
        if number < self._next:
            return False
        self._missing += number - self._next
        self._next = number + 1
        return True

    def extend(self, payload: object) -> None:
        record = _read_pool(payload)
        body, node = record.first
        if not self._missing and (body, node) != (len(self._bodies), len(self._nodes)):
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
                if found != length and not self._missing:
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
        if not self._missing:
            raise ValueError(f"{what} is referred to and nowhere told")
        return self.pool.add(_LOST)


# --- the parts of a record ----------------------------------------------------------------------------------


def _span(stream: _Stream, payload: object) -> Span:
    columns = _read_fields(payload)
    for name in columns:
        if name.startswith("stored_"):
            columns[name] = stream.value(columns[name])
    span = _read_span[SPAN_CLASSES.get(str(columns.get("kind")), Span)](columns)
    if not (0 <= span.start_ns < _END_OF_TIME and 0 <= (span.end_ns or 0) < _END_OF_TIME):
        raise ValueError("a start_ns or end_ns out of range")
    return span


def _fields_of_run(payload: object) -> dict[str, Any]:
    columns = _read_fields(payload)
    version = columns.get("schema")
    if type(version) is not int:
        raise ValueError("a run without a schema version")
    if version > SCHEMA_VERSION:
        known = f"schema {version}, this one reads {SCHEMA_VERSION}"
        raise ValueError(f"written by a newer version of Shearpin ({known}); upgrade it")
    return columns


def _assign(trace: Trace, record: _RunRecord | _SumsRecord) -> None:
    for column in fields(record):
        setattr(trace, column.name, getattr(record, column.name))


def _restored(record: _ErrorRecord) -> errors.RunStoppedError:
    """The error with its facts; a plain `RunStoppedError` where its class is not ours, or the facts do not fit it."""
    kind = vars(errors).get(record.type)
    if isinstance(kind, type) and issubclass(kind, errors.RunStoppedError):
        known: Sequence[str] = [name for name in kind.facts if name in record.facts]
        with suppress(Exception):  # a class rejects, with any error, what makes no sense
            return kind(**{name: record.facts[name] for name in known})
    return errors.RunStoppedError(record.message.removeprefix("run stopped: "))
