"""Puts the records of a file back together into a trace. Nothing in a record is trusted.

Records of the wrong shape are an error, one of `UNREADABLE`, that says what is wrong; who reads the file knows where.
The trace can then go on without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter

from shearpin import errors
from shearpin.trace.model import SCHEMA_VERSION, Identity, Stop, Trace, TraceStatus
from shearpin.trace.plain import Plain
from shearpin.trace.pool import Chain
from shearpin.trace.spans import SPAN_CLASSES, LLMSpan, Span
from shearpin.trace.streams import LOST, Stream
from shearpin.trace.usage import Usage

_END_OF_TIME = 1 << 63
UNREADABLE = (ValueError, OverflowError, RecursionError)
"""What comes of records that are none: pydantic's errors are ValueErrors too."""
_Time = Annotated[int, Field(ge=0, lt=_END_OF_TIME)]


class Record(NamedTuple):
    """A line: of which trace, by which stream, its number there.

    ``data`` is None where the line is cut off, or where ``wrong`` says what makes it unreadable.
    """

    of: str
    by: str
    number: int
    kind: str
    data: dict[str, Any] | None
    wrong: str = ""


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


_read_fields = TypeAdapter(dict[str, Any]).validate_python
_read_run = TypeAdapter(_RunRecord).validate_python
_read_sums = TypeAdapter(_SumsRecord).validate_python
_read_finished = TypeAdapter(_FinishedRecord).validate_python
_SPANS: list[type[Span]] = [Span, *SPAN_CLASSES.values()]
_read_span = {kind: TypeAdapter(kind).validate_python for kind in _SPANS}


class Outline:
    """What the records tell of a run as a whole; the other records may be left out."""

    def __init__(self, trace_id: str) -> None:
        self.trace = Trace(trace_id, "")

    def add(self, record: Record) -> None:
        """Take in the next record of this trace; raises what is in `UNREADABLE` if it is not one."""
        if record.wrong:
            raise ValueError(record.wrong)
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
    """A trace, from all of its records in the order of the file. ``wrong`` is where and why the first is unreadable."""

    def __init__(self, trace_id: str) -> None:
        super().__init__(trace_id)
        self.wrong = ""
        self._streams: dict[str, Stream] = {}
        self._at: dict[str, int] = {}
        self._begun = self._late = False
        """Was the start of a span told, and after that the end of one whose start is in a file that was moved away?"""
        self._input: Callable[[], Plain] | None = None

    def add(self, record: Record) -> None:
        stream = self._streams.setdefault(record.by, Stream(self.trace.pool))
        if record.data is None and not record.wrong:
            stream.cut.add(record.number)
        elif stream.follows(record.number):
            try:
                self._take(record, stream)
            except UNREADABLE:
                stream.unreadable += 1
                raise

    def _take(self, record: Record, stream: Stream) -> None:
        super().add(record)
        assert record.data is not None  # noqa: S101 - narrows the type
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
            trace.stored_input = LOST
            with suppress(*UNREADABLE):
                trace.stored_input = self._input()
        if trace.stop is not None:
            trace.stop.error.trace = trace
        lost = sum(stream.lost for stream in self._streams.values())
        unreadable = sum(stream.unreadable for stream in self._streams.values())
        if lost:
            trace.gaps.append(f"records of this run that its file lacks, cut off or removed: {lost}")
        if unreadable:
            trace.gaps.append(f"records of this run that cannot be read: {unreadable}; the first is {self.wrong}")
        if lost or unreadable or (self._late and trace.status != "unfinished"):
            trace.spans.sort(key=lambda span: span.start_ns)
        return trace

    def _span(self, stream: Stream, payload: object, *, stands: bool) -> None:
        span = _span(stream, payload)
        at = self._at.setdefault(span.span_id, len(self.trace.spans))
        self._begun |= not stands
        if at == len(self.trace.spans):
            self._late |= stands and self._begun and span.kind != "decision"
            self.trace.spans.append(span)
        elif stands:
            self.trace.spans[at] = span


# --- the parts of a record ----------------------------------------------------------------------------------


def _span(stream: Stream, payload: object) -> Span:
    columns = _read_fields(payload)
    for name in columns:
        if name.startswith("stored_"):
            columns[name] = stream.value(columns[name])
    span = _read_span[SPAN_CLASSES.get(str(columns.get("kind")), Span)](columns)
    lists = (span.stored_input, span.stored_tools) if isinstance(span, LLMSpan) else ()
    if not all(value is None or isinstance(value, Chain | list) for value in lists):
        raise ValueError("messages or tools that are no list")
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
