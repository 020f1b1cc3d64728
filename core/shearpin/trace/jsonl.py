"""Traces in a file of JSON Lines: what the lines are, and how they are read. `shearpin.trace.lines` writes them.

A line is one record, and begins with the trace it is ``of``, the stream it is ``by`` and its number in that stream::

    {"of": trace id, "by": stream id, "n": 0, "run": {"schema": 1, "name": …, "identity": …, "started_ns": …}}
    {…, "n": 1, "pool": {"first": [body, node], "bodies": [body, …], "links": [[previous node, body], …]}}
    {…, "n": 2, "started": {fields of a span that are known at its start}, "sums": {"steps": …, "usage": …}}
    {…, "n": 3, "ended": {all fields of a span}, "sums": …}
    {…, "n": 4, "finished": {all fields of the run, and its "stop"}}

Fields are named as in `shearpin.trace.model`; one that is absent has its default. ``sums`` are the run's counts so far,
written when they have changed. A later record stands over an earlier one of the same span or run. A stream is what one
process has written of a run in one go: a run that is resumed elsewhere, or a forked child, begins another stream.

What a run holds many times is written once, in ``pool`` records: bodies, and lists as links (a node is the list of the
previous node and one body more; node 0 is the empty list), numbered from the stream's beginning. The fields
``stored_…`` refer to them by lists that begin with a word, in objects at any depth: ``["chain", node, length]`` is a
list, ``["body", number]`` a body, and ``["json", value]`` any other list or object. So user data is never searched
for references, and may look like one.

Numbers of a stream that are missing tell that records are lost; a line that is no JSON was cut off when its writer
died. The trace is then read without them, and says so in its ``gaps``.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic import ValidationError

from shearpin.errors import TraceFormatError
from shearpin.trace.lines import DEEPEST, LONGEST_VALUE, nested_deeper, write_what_waits
from shearpin.trace.model import Trace, TraceStatus
from shearpin.trace.rebuilding import Outline, Rebuilt, Record

_LONGEST_LINE = 4 * LONGEST_VALUE
_BEGINNING = re.compile(rb'\s*\{\s*"of"\s*:')
_HEAD = re.compile(
    rb'\s*\{\s*"of"\s*:\s*("(?:[^"\\]|\\.){0,256}")\s*,\s*"by"\s*:\s*"(\w{1,64})"'
    rb'\s*,\s*"n"\s*:\s*(\d{1,18})\s*,\s*"(\w{1,16})"\s*:'
)
_Wanted = Callable[[str, str], bool]
"""Given a trace id and a kind of record: is it worth reading?"""


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """A run in one line; ``cost`` is in dollars, None where a call had no price."""

    trace_id: str
    name: str
    status: TraceStatus
    started_ns: int
    steps: int
    cost: float | None


def load_trace(path: Path, trace_id: str | None = None) -> Trace:
    """The trace with `trace_id`, else the one that started last; see `Trace.load`.

    Reads the file once and keeps the records of that trace only.
    """
    found: Rebuilt | None = None

    def wanted(of: str, kind: str) -> bool:
        if trace_id is not None:
            return of == trace_id
        return kind == "run" or (found is not None and of == found.trace.trace_id)

    for number, record in _records(path, wanted):
        with _at(path, number):
            known = found is not None and found.trace.trace_id == record.of
            rebuilt = found if found is not None and known else Rebuilt(record.of)
            rebuilt.add(record)
        if found is None or rebuilt.trace.started_ns >= found.trace.started_ns:
            found = rebuilt
    if found is None:
        raise TraceFormatError(
            f"{path}: no run is in this file" if trace_id is None else f"{path}: no trace {trace_id}"
        )
    return found.complete()


def list_traces(path: Path) -> list[TraceSummary]:
    """The runs of a file, the one that started last at the end; raises TraceFormatError as `load_trace` does."""
    outlines: dict[str, Outline] = {}
    for number, record in _records(path, lambda _, kind: kind != "pool"):
        with _at(path, number):
            outlines.setdefault(record.of, Outline(record.of)).add(record)
    traces = sorted((outline.trace for outline in outlines.values()), key=lambda trace: trace.started_ns)
    return [
        TraceSummary(trace.trace_id, trace.name, trace.status, trace.started_ns, trace.steps, trace.usage.cost_usd)
        for trace in traces
    ]


# --- lines --------------------------------------------------------------------------------------------------


def _records(path: Path, wanted: _Wanted) -> Iterator[tuple[int, Record]]:
    empty = True
    for number, line in _lines(path):
        if not line.strip():
            continue
        with _at(path, number):
            if empty and not _BEGINNING.match(line):
                raise ValueError("this is not the beginning of a file of traces")
            found = list(_read(line, wanted))
        empty = False
        yield from ((number, record) for record in found)
    if empty:
        raise TraceFormatError(f"{path}, line 1: the file is empty")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    write_what_waits()
    with _opened(path) as file:
        for number in itertools.count(1):
            line = file.readline(_LONGEST_LINE + 1)
            if len(line) > _LONGEST_LINE:
                raise TraceFormatError(f"{path}, line {number}: longer than {_LONGEST_LINE:,} bytes")
            if not line:
                return
            yield number, line


def _opened(path: Path) -> BinaryIO:
    try:
        if stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            return path.open("rb")
        why = "not a file"
    except (OSError, ValueError) as error:  # ValueError: no path at all
        why = getattr(error, "strerror", None) or str(error)
    raise TraceFormatError(f"{path}: cannot be read: {why}")


def _read(line: bytes, wanted: _Wanted) -> Iterator[Record]:
    """The records of a line: one, or none. A writer that died in the middle of a line leaves the next one on it."""
    record = _record(line, 0, wanted)
    if record is not None and (record.data is not None or line.endswith(b"\n")):
        yield record
    if record is None or record.data is None:
        behind = line.rfind(b'{"of":', 1)
        second = _record(line, behind, wanted) if behind > 0 else None
        if second is not None and second.data is not None:
            yield second


def _record(line: bytes, start: int, wanted: _Wanted) -> Record | None:
    head = _HEAD.match(line, start)
    if head is None:
        if not start and _parse(line) is not None:
            raise ValueError("not a record of a trace")
        return None
    of, kind = json.loads(head[1].decode("utf-8", "surrogatepass")), head[4].decode()
    if not wanted(of, kind):
        return None
    return Record(of, head[2].decode(), int(head[3]), kind, _parse(line[start:]))


def _parse(line: bytes) -> dict[str, Any] | None:
    """The object on a line; None for a line that is cut off. Raises ValueError for one that is out of all bounds."""
    try:
        text = line.decode("utf-8", "surrogatepass")
        data: Any = _decoder.decode(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if nested_deeper(data, text, DEEPEST + 20):
        raise ValueError("nested too deeply")
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"a number out of range: {text[:20]}")
    return number


_decoder = json.JSONDecoder(parse_float=_number, parse_constant=_number)


# --- errors -------------------------------------------------------------------------------------------------


@contextmanager
def _at(path: Path, number: int) -> Generator[None]:
    try:
        yield
    except TraceFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise TraceFormatError(f"{path}, line {number}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
