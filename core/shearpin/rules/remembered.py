"""What is remembered of a run: calls with their answers, where they were made, and how they follow one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile, zip_longest

from shearpin.rules.answers import Answer, Tells
from shearpin.rules.canonical import Call, Rung
from shearpin.rules.evidence import Action, Row
from shearpin.trace import Span


@dataclass(slots=True, eq=False)
class Frame:
    """A span that is open: a call, or what calls happen in. `since` counts the answers there were when it began."""

    span: Span
    outer: Frame | None
    """The one it is in."""
    since: int
    number: int
    """Which call it is; 0 for what is none."""


@dataclass(slots=True, eq=False)
class Known(Action):
    """An answered call, with how many answers and how much news there had been, and the frame it came in."""

    at: int
    news: int
    outer: Frame | None

    def known_in(self, frames: Sequence[Frame]) -> bool:
        """Could a call in `frames` know of it? Not if it came from a branch beside, after ours had begun."""
        if not frames or self.outer is frames[-1]:
            return True
        for mine, theirs in zip_longest(frames, path_to(self.outer)[: len(frames)]):
            if mine is not theirs:
                return self.at <= mine.since
        return True


def path_to(frame: Frame | None) -> list[Frame]:
    """The frame and all that it is in, outermost first."""
    path: list[Frame] = []
    while frame is not None:
        path.append(frame)
        frame = frame.outer
    return path[::-1]


def most_of_one(past: Iterable[Known]) -> dict[Tells, int]:
    """How often the commonest answer came, for everything that answers tell."""
    most: dict[Tells, int] = {}
    for (tells, _), times in Counter((known.answer.tells, known.answer.echoless) for known in past).items():
        most[tells] = max(times, most.get(tells, 0))
    return most


def streak_of(rung: Rung, call: Call, past: Sequence[Known], *, echo: bool) -> list[Known]:
    """How often in a row calls like `call` got the same answer, with its echo of them or without, up to the last."""
    key = call.key(rung)
    alike = [known for known in past if known.call.key(rung) == key] if key is not None else []
    if not alike:
        return []
    last = alike[-1].answer
    return list(takewhile(lambda known: known.answer.same(last, echo=echo), reversed(alike)))[::-1]


def vain_row(frame: Frame, call: Call, answer: Answer, lane: Sequence[Known]) -> Row:
    """How many times in a row this failed, and since which call; the window does not bound it."""
    frames = path_to(frame.outer)
    before = (known for known in reversed(lane) if known.call.name == call.name and known.known_in(frames))
    last = next(before, None)
    if last is None or last.vain is None or not last.answer.same(answer, echo=False):
        return Row(1, frame.number)
    return Row(last.vain.times + 1, last.vain.onset)


def is_new(lane: Iterable[Known], call: Call, answer: Answer) -> bool:
    """Has this tool not given this answer of late or, where answers tell nothing, was this call not made?"""
    heard = (known for known in lane if known.call.name == call.name and known.answer.digest == answer.digest)
    if answer.tells is Tells.NOTHING:
        heard = (known for known in heard if known.call.exact == call.exact)
    return next(heard, None) is None
