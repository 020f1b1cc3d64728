"""The runs of a file, one a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol, TextIO

from shearpin.view.figures import money, whole
from shearpin.view.summary import STATUS
from shearpin.view.terminal import encoding_of, standard_output, terminal_width, wants_color
from shearpin.view.text import Line, Page

ID_SHOWN = 12
"""Digits of a trace id that are shown: enough to name a run of any file."""

_HEADINGS = ("trace", "started", "status", "steps", "cost", "name")


class Summary(Protocol):
    """What a list tells of a run; ``cost`` is in dollars, None where a call had no price."""

    @property
    def trace_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def started_ns(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def cost(self) -> float | None: ...


def print_list(
    runs: Iterable[Summary],
    *,
    file: TextIO | None = None,
    color: bool | None = None,
    width: int | None = None,
) -> None:
    """Print a table of `runs` in the order given, with the beginning of the id that names each."""
    out = standard_output() if file is None else file
    color = wants_color(out) if color is None else color
    page = Page.fitting(terminal_width() if width is None else width, encoding_of(out))
    for line in _table(list(runs), page.line):
        out.write(line.cut(page.width).paint(color=color) + "\n")


def _table(runs: list[Summary], new: Callable[[], Line]) -> Iterable[Line]:
    rows = [_row(run, new) for run in runs]
    heading = [new().add(name, "dim") for name in _HEADINGS]
    widths = [max(row[column].width for row in [heading, *rows]) for column in range(len(_HEADINGS))]
    for row in [heading, *rows]:
        line = new()
        for name, cell, width in zip(_HEADINGS, row, widths, strict=True):
            gap = " " * (width - cell.width)
            line.add("  " if line.parts else "")
            line = line.add(gap).extend(cell) if name in ("steps", "cost") else line.extend(cell).add(gap)
        yield line


def _row(run: Summary, new: Callable[[], Line]) -> list[Line]:
    label, style = STATUS.get(run.status, (run.status, ""))
    texts = [(run.trace_id[:ID_SHOWN], ""), (_when(run.started_ns), "dim"), (label.strip(), style)]
    texts += [(whole(run.steps), ""), (money(run.cost), ""), (run.name, "bold")]
    return [new().add(text, style) for text, style in texts]


def _when(started_ns: int) -> str:
    try:
        return f"{datetime.fromtimestamp(started_ns / 1e9, tz=UTC).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # a file may claim any number
        return "?"
