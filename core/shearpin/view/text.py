"""Text for a terminal: made harmless, measured in cells, cut and wrapped to fit.

Prompts, replies, tool results and trace files are written by strangers. What a terminal would obey instead
of show (escape sequences, bidirectional overrides, invisible characters) is spelled out, so that nothing can
move the cursor, hide a call or fake a line of this view.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, groupby, repeat
from operator import itemgetter

_MARKS = 3
"""Combining marks shown on one letter: enough for every script, too few to climb over other lines."""

_NARROWEST = 24
_GLYPHS = "✋⚠✓✗↻◌→…├│└─┃↵"

_SEEN = 4_000
"""Characters of one piece of data that are looked at: more never fits."""

_INVISIBLE = frozenset(
    "\u034f\u115f\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(
        map(chr, [*range(0x1160, 0x1200), *range(0xD7B0, 0xD800), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
    )
)
"""Printable to Python, nothing on the screen: alone, as half a Korean syllable, or as a variant of what is before."""

_EMOJI = "\u2190-\u2bff\U0001f000-\U0001faff"
_EMOJI_GLUE = re.compile(
    rf"(?<=[#*0-9©®{_EMOJI}])\ufe0f|(?<=[{_EMOJI}])\u200d(?=[{_EMOJI}])|(?<=[{_EMOJI}])[\U0001f3fb-\U0001f3ff]"
)
"""What joins emoji into one, or colours them. Terminals disagree about how wide the result is, not about its parts."""

_LEFT_TO_RIGHT = "\u200e"

_NEWLINES = re.compile(r"[\r\n]+")

_ASCII = str.maketrans("⚠✓✗↻◌·├└│─┃µ\u2018\u2019“”\u2013", "!+x~~||`|-#u''\"\"-") | str.maketrans(
    {"✋": "!!", "…": "...", "→": "->", "↵": "\\n"}
)
"""Stand-ins for a terminal that cannot draw ours."""

_WEIGHTS = {"bold": "1", "dim": "2"}
_COLORS = {"red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36", "blue": "94"}
_CODES = {**_WEIGHTS, **_COLORS, "alarm": "1;97;41"}


def clean(text: str, *, ascii_only: bool = False) -> str:
    r"""`text` on one line, with everything that is not plainly visible spelled out.

    >>> print(clean(f"one{chr(10)}two{chr(27)}[2J"))
    one ↵ two\x1b[2J
    """
    text = text[:_SEEN] + "…" if len(text) > _SEEN else text
    if not (text.isascii() and text.isprintable()):
        lines = _NEWLINES.split(text.replace("\t", " "))
        text = " ↵ ".join(line.strip(" ") for line in lines) if len(lines) > 1 else lines[0]
        text = _EMOJI_GLUE.sub("", unicodedata.normalize("NFC", text))
        text = "".join(_shown(text))
    if ascii_only and not text.isascii():
        text = text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")
    return text


def _shown(text: str) -> Iterator[str]:
    marks = _MARKS  # a mark with nothing before it would land on a character of ours
    for char in text:
        marks = marks + 1 if _is_mark(char) else 0
        yield _escaped(char) if marks > _MARKS else _visible(char)


@lru_cache(maxsize=4096)
def _visible(char: str) -> str:
    if char.isprintable() and char not in _INVISIBLE:
        return char
    return " " if unicodedata.category(char) == "Zs" else _escaped(char)


def _escaped(char: str) -> str:
    if char.isascii():
        return f"\\x{ord(char):02x}"
    return char.encode("ascii", "backslashreplace").decode("ascii")


@lru_cache(maxsize=4096)
def _is_mark(char: str) -> bool:
    return unicodedata.category(char) in ("Mn", "Me")


@lru_cache(maxsize=4096)
def _cells_of(char: str) -> int:
    if _is_mark(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cells(text: str) -> int:
    """How many columns cleaned `text` takes."""
    return len(text) if text.isascii() else sum(map(_cells_of, text))


def cut(text: str, width: int, dots: str = "…") -> str:
    """Cleaned `text` in at most `width` columns, with `dots` where something is missing."""
    if cells(text) <= width:
        return text
    dots = dots[: max(width, 0)]
    return _head(text, width - len(dots)) + dots


def _head(text: str, width: int) -> str:
    taken = 0
    for index, char in enumerate(text):
        taken += _cells_of(char)
        if taken > width:
            return text[:index]
    return text


def wrap(text: str, width: int) -> list[str]:
    """Cleaned `text` as lines of at most `width` columns, broken between words where they fit."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cells(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *full, line = _chunks(word, width)
        lines += full
    return [*lines, line] if line or not lines else lines


def _chunks(word: str, width: int) -> Iterator[str]:
    while cells(word) > width:
        head = _head(word, width) or word[0]
        yield head
        word = word[len(head) :]
    yield word


@dataclass(slots=True)
class Line:
    """Styled text on one line. Whatever is added is cleaned first: a line is harmless however it was made."""

    ascii_only: bool = False
    parts: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def add(self, text: str, style: str = "") -> Line:
        """Append `text`; `style` is names of colours and weights, separated by spaces."""
        if text:
            self.parts.append((clean(text, ascii_only=self.ascii_only), style))
        return self

    def extend(self, other: Line) -> Line:
        """Append another line."""
        self.parts += other.parts
        return self

    @property
    def width(self) -> int:
        """Columns it takes."""
        return sum(cells(text) for text, _ in self.parts)

    def cut(self, width: int) -> Line:
        """The same line in at most `width` columns."""
        if self.width <= width:
            return self
        dots = "..." if self.ascii_only else "…"
        short = Line(self.ascii_only)
        for text, style in self.parts:
            left = width - short.width
            if cells(text) >= left:  # something follows, or does not fit: the dots go here
                short.parts.append((_head(text, left - len(dots)) + dots[: max(left, 0)], style))
                break
            short.parts.append((text, style))
        return short

    def wrap(self, width: int, most: int) -> Iterator[Line]:
        """The same text on at most `most` lines of `width` columns, broken between words."""
        text = "".join(text for text, _ in self.parts)
        rows = wrap(text, width)
        if len(rows) > most:  # what is missing is a word at least: half a number would be another number
            dots = "..." if self.ascii_only else "…"
            *rows, last = wrap(text, width - len(dots) - 1)[:most]
            rows.append(f"{last} {dots}")
        written = chain(((char, style) for text, style in self.parts for char in text), repeat((None, "dim")))
        for row in rows:
            styles = [next(style for char, style in written if char in (shown, None)) for shown in row]
            runs = groupby(zip(row, styles, strict=True), itemgetter(1))
            yield Line(self.ascii_only, [("".join(char for char, _ in run), style) for style, run in runs])

    def pad(self, width: int) -> Line:
        """The same line in exactly `width` columns."""
        short = self.cut(width)
        return Line(self.ascii_only, [*short.parts, (" " * (width - short.width), "")])

    def paint(self, *, color: bool) -> str:
        """The characters to print."""
        if not color:
            return "".join(_kept_in_order(text) for text, _ in self.parts).rstrip()
        return "".join(_styled(_kept_in_order(text), style) for text, style in self.parts)


def _styled(text: str, style: str) -> str:
    if not style or not text:
        return text
    return f"\x1b[{';'.join(_CODES[name] for name in style.split())}m{text}\x1b[0m"


def _kept_in_order(text: str) -> str:
    """What is written from right to left ends there: a terminal that reorders leaves what follows alone."""
    if text.isascii() or not any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in text):
        return text
    return text + _LEFT_TO_RIGHT


@dataclass(frozen=True, slots=True)
class Page:
    """What is drawn on: so many columns, with or without characters to draw with."""

    width: int
    ascii_only: bool = False

    @classmethod
    def fitting(cls, width: int, encoding: str) -> Page:
        """A page for a terminal; in ASCII where its encoding lacks a character that a tree is drawn with."""
        try:
            _GLYPHS.encode(encoding)
        except (UnicodeEncodeError, LookupError):
            return cls(max(width, _NARROWEST), ascii_only=True)
        return cls(max(width, _NARROWEST))

    def line(self) -> Line:
        """An empty line."""
        return Line(self.ascii_only)
