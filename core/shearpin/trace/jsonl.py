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
died. The trace is then read without them, and without what makes no sense, and says so in its ``gaps``. A run whose
first record makes no sense is left out of the file, and so is a line that is nobody's: the log says so.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic import ValidationError

from shearpin.errors import TraceFormatError, printable
from shearpin.trace.lines import DEEPEST, LONGEST_VALUE, nested_deeper, write_what_waits
from shearpin.trace.model import Trace, TraceStatus
from shearpin.trace.rebuilding import UNREADABLE, Outline, Rebuilt, Record

_LONGEST_LINE = 4 * LONGEST_VALUE
_BEGINNING = re.compile(rb'\{\s*"of"\s*:')
_NO_BEGINNING = "this is not the beginning of a file of traces"
_FOREIGN = 100
"""Lines at the head of a file that may be somebody else's."""
_HEAD = re.compile(
    rb'\s*\{\s*"of"\s*:\s*("(?:[^"\\]|\\.){0,256}")\s*,\s*"by"\s*:\s*"(\w{1,64})"'
    rb'\s*,\s*"n"\s*:\s*(\d{1,18})\s*,\s*"(\w{1,16})"\s*:'
)
_logger = logging.getLogger("shearpin")
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
    """The trace with `trace_id`, else of those that can be read the one that started last; see `Trace.load`.

    Reads the file once and keeps the records of that trace only.
    """
    found: Rebuilt | None = None
    left_out = _LeftOut(path)

    def wanted(of: str, kind: str) -> bool:
        if trace_id is not None:
            return of == trace_id
        return kind == "run" or (found is not None and of == found.trace.trace_id)

    for number, record in _records(path, wanted, left_out):
        known = found is not None and found.trace.trace_id == record.of
        rebuilt = found if found is not None and known else Rebuilt(record.of)
        try:
            rebuilt.add(record)
        except UNREADABLE as error:
            if record.kind == "run" and not known:
                if trace_id is not None:
                    raise TraceFormatError(f"{path}, {_where(number, error)}") from error
                left_out.add(number, error)
                continue
            rebuilt.wrong = rebuilt.wrong or _where(number, error)
        if found is None or rebuilt.trace.started_ns >= found.trace.started_ns:
            found = rebuilt
    left_out.tell(anything_left=found is not None or trace_id is not None)
    if found is None:
        raise TraceFormatError(
            f"{path}: no run is in this file" if trace_id is None else f"{path}: no trace {trace_id}"
        )
    return found.complete()


def list_traces(path: Path) -> list[TraceSummary]:
    """The runs of a file, the one that started last at the end; raises TraceFormatError as `load_trace` does."""
    outlines: dict[str, Outline | None] = {}
    left_out = _LeftOut(path)

    def wanted(of: str, kind: str) -> bool:
        return kind != "pool" and (of not in outlines or outlines[of] is not None)

    for number, record in _records(path, wanted, left_out):
        outline = outlines.get(record.of) or Outline(record.of)
        try:
            outline.add(record)
        except UNREADABLE as error:
            left_out.add(number, error)
            outlines.setdefault(record.of, None if record.kind == "run" else outline)
        else:
            outlines[record.of] = outline
    traces = sorted((outline.trace for outline in outlines.values() if outline), key=lambda trace: trace.started_ns)
    left_out.tell(anything_left=bool(traces))
    return [
        TraceSummary(trace.trace_id, trace.name, trace.status, trace.started_ns, trace.steps, trace.usage.cost_usd)
        for trace in traces
    ]


def ids_beginning(path: Path, beginning: str) -> set[str]:
    """The ids in a file that begin like this, also of runs that cannot be read."""
    ids: set[str] = set()

    def wanted(of: str, _: str) -> bool:
        if of.startswith(beginning):
            ids.add(of)
        return False

    for _ in _records(path, wanted, _LeftOut(path)):
        pass
    return ids


# --- lines --------------------------------------------------------------------------------------------------


def _records(path: Path, wanted: _Wanted, left_out: _LeftOut) -> Iterator[tuple[int, Record]]:
    begun, foreign = False, list[int]()
    for number, line in _lines(path):
        if not line.strip():
            continue
        if not begun:
            begun = _BEGINNING.search(line) is not None
            if not begun:
                foreign.append(number)
                if len(foreign) > _FOREIGN:
                    break
                continue
            for other in foreign:
                left_out.add(other, ValueError(_NO_BEGINNING))
        try:
            found = list(_read(line, wanted))
        except UNREADABLE as error:
            left_out.add(number, error)
        else:
            yield from ((number, record) for record in found)
    if not begun:
        why = f"line {foreign[0]}: {_NO_BEGINNING}" if foreign else "line 1: the file is empty"
        raise TraceFormatError(f"{path}, {why}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, of one that is too long its beginning."""
    write_what_waits()
    with _opened(path) as file:
        for number in itertools.count(1):
            line = rest = file.readline(_LONGEST_LINE + 1)
            while len(rest) > _LONGEST_LINE and not rest.endswith(b"\n"):
                rest = file.readline(_LONGEST_LINE + 1)
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
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"longer than {_LONGEST_LINE:,} bytes")
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
    place = of, head[2].decode(), int(head[3]), kind
    try:
        return Record(*place, _parse(line[start:]))
    except ValueError as error:
        return Record(*place, None, str(error))


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


class _LeftOut:
    """The lines of a file that nothing could be made of, nor of the run they begin."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines, self._first = path, 0, ""

    def add(self, number: int, error: Exception) -> None:
        """This line, because of that."""
        self._lines += 1
        self._first = self._first or _where(number, error)

    def tell(self, *, anything_left: bool) -> None:
        """Log what there is to say; raises TraceFormatError if that is all there is to say of the file."""
        if self._lines and not anything_left:
            raise TraceFormatError(f"{self._path}, {self._first}")
        if self._lines:
            what = f"{self._path}: unreadable lines left out: {self._lines}; the first is {self._first}"
            _logger.warning("%s", printable(what))


def _where(number: int, error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"line {number}: {error}"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"line {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
