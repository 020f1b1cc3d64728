"""How much evidence makes a loop: how many calls, and what else they must have in common.

Honest work goes through lists, and most of a list may be missing, forbidden or empty. So the looser the likeness of
calls, the more of them it takes, and the more their answers must look like a failure. A failure that is the same to
the letter whatever is asked for speaks of the tool; one that echoes the call speaks of what was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from shearpin.rules.answers import Tells
from shearpin.rules.canonical import CONTENT, FILLER, HUGE, STAMP, Call, Rung, named, texts_of

PATIENCE: Mapping[Rung, Mapping[Tells, int]] = {
    Rung.CALL: dict.fromkeys(Tells, 1),
    Rung.TURN: dict.fromkeys(Tells, 1),
    Rung.WORDS: {Tells.ANSWER: 2, Tells.LONG: 1, Tells.EMPTY: 1, Tells.MISSING: 1, Tells.ERROR: 1},
    Rung.BOOKKEEPING: {Tells.ANSWER: 2, Tells.LONG: 2, Tells.EMPTY: 2, Tells.MISSING: 2, Tells.ERROR: 2},
    Rung.NUMBERS: {Tells.ANSWER: 3, Tells.LONG: 3, Tells.ERROR: 2},
    Rung.TOOL: {Tells.LONG: 4, Tells.ERROR: 3},
}
"""How long a streak must be, in thresholds, by likeness of the calls and by what the answers tell."""
WITH_ECHOES: Mapping[Rung, Mapping[Tells, int]] = {
    Rung.NUMBERS: {Tells.EMPTY: 3, Tells.MISSING: 3, Tells.ERROR: 3},
    Rung.TOOL: {Tells.EMPTY: 4, Tells.MISSING: 12, Tells.ERROR: 12},
}
"""The same where answers may differ in their echo of the call: "no x" is to x what "no y" is to y.

A tool that fails alike whatever it is asked for is gone through with a list, or guessed at; only the length tells,
twelve thresholds in a row, and the window does not bound it.
"""
AMONG_SIBLINGS = 8
"""The same for one call made by agents of several names, one after the other, that do little else."""
LADDER: Sequence[tuple[Rung, bool, Mapping[Tells, int]]] = [
    (rung, echo, table[rung])
    for rung in Rung
    for echo, table in ((True, PATIENCE), (False, WITH_ECHOES))
    if rung in table
]
"""Both tables from the closest likeness down; whether the echo counts as part of an answer."""

_IDENTITY = re.compile(
    r"(^|_)(id|ids|no|nr|number|key|name|code|sku|order|user|item|file|path|row|line|index|date|day|month|year|hour|"
    r"amount|size|x|y|z|lat|lon)$",
    re.IGNORECASE,
)
"""Arguments whose number says which thing is meant."""
_NAME = re.compile(r"((^|_)ids?|name|sku|order|user|file|path|host|url|link|mail)$", re.IGNORECASE)
_NAMED = re.compile(r"(?=.*[^\W\d_]).*[/.@:]").match
"""What things are called by, and counters are not: the name of the argument, a sign within the text."""
_PROGRAM = re.compile(r"(command|cmd|code|script|sql)$", re.IGNORECASE)
_EPOCH = 1_500_000_000
_ROUND = ".,;:!?\"'`()[]{}<>"


def only_tick(calls: Sequence[Call]) -> bool:
    """Do the arguments that change merely count on, or carry a clock or a random id, beside a text that stays?"""
    given, changing = _given(calls)
    stays = any(
        isinstance(value, str) and not value.isdigit() for key, value in given[0].items() if key not in changing
    )
    return stays and all(_ticks(key, [one.get(key) for one in given]) for key in changing)


def same_subject(calls: Sequence[Call]) -> bool:
    """Do the texts that change have a word in common? Then they put one question in many ways.

    A word stands between spaces: the folder of many files is none, nor is the command that looks at each of them.
    """
    given, changing = _given(calls)
    asking = [key for key in changing if not _PROGRAM.search(key)]
    said = [{word for key in asking for word in _spoken(one.get(key))} for one in given]
    return not said[0].intersection(*said) <= FILLER


def not_a_list(calls: Sequence[Call]) -> bool:
    """Does no argument name one thing after another? Paths, links and users are gone through, most may be missing."""
    given, changing = _given(calls)
    return not any(_names_things(key, [one.get(key) for one in given]) for key in changing)


PROOF: Mapping[tuple[Rung, Tells], Callable[[Sequence[Call]], bool]] = {
    (Rung.NUMBERS, Tells.ANSWER): only_tick,
    (Rung.NUMBERS, Tells.EMPTY): not_a_list,
    (Rung.NUMBERS, Tells.MISSING): not_a_list,
    (Rung.TOOL, Tells.EMPTY): same_subject,
}


def _given(calls: Sequence[Call]) -> tuple[list[dict[str, Any]], set[str]]:
    """The arguments of all calls, and the names of those that change."""
    given = [named(call.span.input) for call in calls]
    return given, {key for one in given for key in one if any(other.get(key) != one[key] for other in given)}


def _ticks(key: str, values: Sequence[Any]) -> bool:
    if _IDENTITY.search(key):
        return False
    if all(isinstance(value, int | float) and abs(value) < HUGE for value in values):
        return len({round(later - earlier, 3) for earlier, later in pairwise(values)}) == 1 or min(values) > _EPOCH
    return all(isinstance(value, str) and STAMP.fullmatch(value) for value in values)


def _spoken(value: object) -> list[str]:
    """The words of a text that stand alone."""
    told = [text[:CONTENT].split() for text in texts_of(value)]
    bare = (word.strip(_ROUND) for text in told if text and text[0] != "select" for word in text)
    return [word for word in bare if word.isalpha()]


def _names_things(key: str, values: Sequence[Any]) -> bool:
    """Numbers or words, such as things are called by, that change other than behind the ``?`` of a link."""
    by_key = _NAME.search(key) is not None
    if all(isinstance(value, int) for value in values):
        return by_key
    if not all(isinstance(value, str) for value in values):
        return False
    said = [{word.partition("?")[0] for word in value[:CONTENT].split()} for value in values]
    always = said[0].intersection(*said)
    return all(any((by_key or _NAMED(word)) and not STAMP.fullmatch(word) for word in one - always) for one in said)
