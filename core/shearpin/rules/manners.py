"""What kind of call the name of a tool gives away."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

words = re.compile(r"[^\W_]+").findall
"""The words and numbers of a text."""

_STEM = 4


class Manner(NamedTuple):
    """What kind of call the name of a tool gives away."""

    model: bool = False
    handoff: bool = False
    quiet: bool = False
    """Its answer tells nothing, whatever it is: it waits, talks to itself or hands over."""
    idle: bool = False
    """It changes nothing, so that doing it for the first time is no news."""
    exact: bool = False
    """A time, an id, a price or whatever comes next is its business: nothing it says is left out of a comparison."""
    clock: bool = False
    """It tells the date or the time and nothing else: honest work asks again, and a date stays the same all day."""
    chance: bool = False
    """It draws lots: that the same comes twice says nothing."""
    verbs: tuple[str, ...] = ()
    """How its words begin."""


PLAIN = Manner()
MODEL = Manner(model=True, idle=True)
HANDOFF = Manner(handoff=True, quiet=True, idle=True)

_TRANSFER = re.compile(r"(transfer|hand_?off|hand_?over|switch|escalate)(_?back)?_?to_?", re.IGNORECASE)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WAITING = frozenset(words("wait sleep pause delay idle nap backoff"))
_MUSING = frozenset(
    words("think thought thinking reflect reason reasoning note notes log scratchpad comment print echo say memo")
)
_CLOCKS = frozenset(words("now time clock date datetime timestamp today epoch utcnow"))
_OF_A_CLOCK = _CLOCKS | frozenset(
    words("a at day fetch get current in is iso local mcp my of read server system tell the timezone tool tz unix utc")
    + words("what zone")
)
_EXACT = _CLOCKS | frozenset(words("price prices quote quotes rate rates ticker next pop nonce"))
_CHANCE = frozenset(words("dice die coin lottery random rand randint uuid uuid4 guid"))
_IDS = frozenset(words("id ids"))


@lru_cache(maxsize=1_000)
def manner_of(name: str) -> Manner:
    """How a tool of this name is to be taken."""
    if _TRANSFER.match(name):
        return HANDOFF
    about = words(_HUMP.sub(" ", name).lower().replace("_", " "))
    idle = not _MUSING.isdisjoint(about)
    return Manner(
        quiet=idle or not _WAITING.isdisjoint(about),
        idle=idle,
        exact=not _EXACT.isdisjoint(about) or (not _IDS.isdisjoint(about[-1:]) and "by" not in about),
        clock=not _CLOCKS.isdisjoint(about) and _OF_A_CLOCK.issuperset(about),
        chance=not _CHANCE.isdisjoint(about),
        verbs=tuple(word[:_STEM] for word in about if len(word) >= _STEM),
    )
