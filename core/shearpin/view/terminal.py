"""A trace as a tree in the terminal: who called what, what it took, and why the run was stopped."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TextIO

from shearpin.trace import Trace
from shearpin.view.folding import Node, walk
from shearpin.view.rows import Cells, Row, row
from shearpin.view.summary import footer, header
from shearpin.view.text import Line, Page, cells
from shearpin.view.tree import Branch, grow

_WIDEST = 140
"""Beyond this the eye loses the line between a call and its price."""
_HEADINGS = Cells("in", "out", "cost", "time")
_ROOM_FOR_TOKENS, _ROOM_FOR_MONEY = 64, 40


def standard_output() -> TextIO:
    """Where to print: nowhere in a program without a stdout, which may be closed, or have no console on Windows."""
    return io.StringIO() if sys.stdout is None else sys.stdout


def encoding_of(out: TextIO) -> str:
    """The encoding of what is written to `out`; a string buffer takes everything."""
    return getattr(out, "encoding", None) or "utf-8"


def print_trace(
    trace: Trace,
    *,
    file: TextIO | None = None,
    color: bool | None = None,
    width: int | None = None,
    full: bool = False,
) -> None:
    """Print `trace` as a tree, to stdout unless `file` is given.

    Coloured when that is a terminal (``NO_COLOR`` and ``FORCE_COLOR`` are honoured), as wide as it, and in
    ASCII where its encoding has nothing better. Long repetitions are told in one line unless `full`.
    """
    out = standard_output() if file is None else file
    color = wants_color(out) if color is None else color
    width = terminal_width() if width is None else width
    out.write(render(trace, color=color, width=width, full=full, encoding=encoding_of(out)))


def render(trace: Trace, *, color: bool = False, width: int = 100, full: bool = False, encoding: str = "utf-8") -> str:
    """`trace` as the lines that `print_trace` prints; none is wider than `width` columns."""
    page = Page.fitting(width, encoding)
    above, below = header(trace, page), footer(trace, page)
    lines = chain(above, _tree(trace, page, full=full), below)
    return "".join(line.cut(page.width).paint(color=color) + "\n" for line in lines)


def wants_color(out: TextIO) -> bool:
    """Whether to write colours to `out`."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return out.isatty() and os.environ.get("TERM") != "dumb"


def terminal_width() -> int:
    """The columns to use: the terminal's, within reason; 100 where there is none."""
    return min(shutil.get_terminal_size((100, 24)).columns, _WIDEST)


@dataclass(slots=True)
class _Placed:
    """A row with what stands left of it."""

    margin: Line
    below: Line
    row: Row


def _tree(trace: Trace, page: Page, *, full: bool) -> list[Line]:
    roots = _without_root(trace, grow(trace.spans))
    placed = list(_place(walk(roots, full=full), page, _margin(trace)))
    if not placed:
        return []
    columns = _Columns([entry.row for entry in placed], page)
    body = [line for entry in placed for line in _draw(entry, columns, page)]
    return [page.line(), *columns.heading(), *body]


def _without_root(trace: Trace, roots: list[Branch]) -> list[Branch]:
    """The header is the root: an agent span that only repeats it costs every row three columns."""
    if len(roots) == 1 and roots[0].span.kind == "agent" and roots[0].span.name == trace.name:
        return roots[0].children
    return roots


# --- what stands left of a row -------------------------------------------------------------------------


def _margin(trace: Trace) -> int:
    """Digits of the step numbers in the margin; none where steps are spans of their own, or unknown."""
    highest = max((span.step for span in trace.spans), default=0)
    return max(3, len(str(highest))) if highest and not trace.spans_of("step") else 0


def _place(nodes: Iterator[Node], page: Page, digits: int) -> Iterator[_Placed]:
    step = 0
    levels = max(2, page.width // 9)
    for node in nodes:
        before, step = step, node.item.step if isinstance(node.item, Branch) else 0
        gutter = f"{step if step not in (0, before) else '':>{digits}} " if digits else ""
        rails = "".join("│  " if goes_on else "   " for goes_on in node.rails[:levels])
        fork = "└" if node.last else "├"
        fork += f"{node.depth} " if node.depth > levels else "─ "
        made = row(node.item, page.line)
        margin = page.line().add(gutter, "dim").add(rails + fork, "dim")
        below = page.line().add(" " * len(gutter) + rails + _below(node), "dim")
        yield _Placed(margin, below, made)


def _below(node: Node) -> str:
    has_children = isinstance(node.item, Branch) and bool(node.item.children)
    return ("   " if node.last else "│  ") + ("│ " if has_children else "  ")


# --- what stands right of a row ------------------------------------------------------------------------


class _Columns:
    """The figures of all rows, aligned: tokens at the arrow, money at the point.

    Time stands last because every row has one: a row without tokens and money has their space for its text.
    """

    def __init__(self, rows: Sequence[Row], page: Page) -> None:
        self.page = page
        self.points = max((len(_fraction(entry.cells.cost)) for entry in rows), default=0)
        every = [self._texts(entry.cells) for entry in rows]
        widths = [max(cells(text) for text in column) for column in zip(*every, strict=True)]
        self.widths = [max(width, len(name)) if width else 0 for width, name in zip(widths, _HEADINGS, strict=True)]
        if page.width < _ROOM_FOR_TOKENS:
            self.widths[0] = self.widths[1] = 0
        if page.width < _ROOM_FOR_MONEY:
            self.widths[2] = 0

    def _texts(self, values: Cells) -> Cells:
        cost = values.cost
        if cost.lstrip("~-").startswith("$"):
            cost += " " * (self.points - len(_fraction(cost)))
        return values._replace(cost=cost)

    def heading(self) -> list[Line]:
        """The names of the columns; no line where there are none."""
        names = "".join(text for text, _ in self.render(_HEADINGS).parts).lstrip()
        names = f"tokens {names}" if self.widths[0] else names  # where the rows have text there is room for it
        line = self.page.line().add(names, "dim")
        return [self.page.line().pad(self.page.width - line.width).extend(line)] if names else []

    def render(self, values: Cells, style: str = "") -> Line:
        """One row's figures, from the first that it has."""
        line = self.page.line()
        for name, text, width in zip(Cells._fields, self._texts(values), self.widths, strict=True):
            if not width or not (text or line.parts):
                continue
            arrow = name == "tokens_out" and values.tokens_in
            line.add(" → " if arrow else "  ", "dim").add(" " * (width - cells(text)))
            line.add(text, "dim" if name == "time" else style)
        return line


def _fraction(cost: str) -> str:
    return cost.partition(".")[2]


# --- a row ---------------------------------------------------------------------------------------------


def _draw(entry: _Placed, columns: _Columns, page: Page) -> Iterator[Line]:
    made = entry.row
    figures = columns.render(made.cells, "dim" if made.quiet else "")
    room = page.width - figures.width
    text = _share(made, room - entry.margin.width, page)
    line = page.line().extend(entry.margin).extend(text)
    yield line.pad(room).extend(figures) if figures.parts else line
    if made.note.parts:
        for part in made.note.wrap(page.width - entry.below.width, made.note_lines):
            yield page.line().extend(entry.below).extend(part)


def _share(made: Row, room: int, page: Page) -> Line:
    """Lead, given and came in `room` columns: what came out keeps at least half of what the lead leaves."""
    left = max(room - made.lead.width, 0)
    half = max(left - made.came.width, left // 2)
    given = made.given.cut(half)
    came = made.came.cut(left - given.width)
    return page.line().extend(made.lead).extend(given).extend(came).cut(room)
