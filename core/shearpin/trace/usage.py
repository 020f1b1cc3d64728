"""What a model call used: as the record counts it, and as providers tell it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from shearpin.trace.plain import is_dict

LARGEST = (1 << 63) - 1
"""The highest count: databases and OpenTelemetry hold no higher one."""


@dataclass(slots=True)
class Usage:
    """Tokens and money of one call, or summed over many.

    ``input_tokens`` includes cached and cache-write tokens, ``output_tokens`` includes reasoning tokens, as
    OpenTelemetry's GenAI conventions have it. ``cost_usd`` is None where no price is known.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0
    cost_usd: float | None = None

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def add(self, other: Usage) -> None:
        """Count `other` in. A total that met a call without a price has no cost: None, never too little."""
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cached_input_tokens += other.cached_input_tokens
        self.cache_write_tokens += other.cache_write_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.image_tokens += other.image_tokens
        self.audio_tokens += other.audio_tokens
        known = self.cost_usd is not None and other.cost_usd is not None
        self.cost_usd = (self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None


SIDES = ("input_tokens", "output_tokens")


@dataclass(slots=True)
class PartialUsage(Usage):
    """A usage that leaves something out: the ``lacking`` sides are 0 here, until they are charged at the estimate.

    ``told_in_all`` is the sum of both sides where a provider tells that and neither of them.
    """

    lacking: Sequence[str] = ()
    told_in_all: int | None = None

    @classmethod
    def of(cls, told: Usage, lacking: Sequence[str], in_all: int | None = None) -> PartialUsage:
        """`told`, of which something is not known."""
        usage = cls(*_counts(told))
        usage.cost_usd, usage.lacking, usage.told_in_all = told.cost_usd, lacking, in_all
        return usage

    def filled(self, estimate: Usage) -> Usage:
        """This usage, and `estimate` where it leaves something out."""
        whole = Usage(*_counts(self))
        whole.cost_usd = self.cost_usd
        for side in self.lacking:
            setattr(whole, side, getattr(estimate, side))
        if self.told_in_all is not None:  # what is above the prompt was made, though nobody was told what it says
            made = max(estimate.output_tokens, self.told_in_all - estimate.input_tokens)
            whole.output_tokens = min(made, self.told_in_all)
            whole.input_tokens = self.told_in_all - whole.output_tokens
        return whole


def usage_told(usage: object) -> Usage | None:
    """A `Usage` of its own that can be counted with, from one or from a provider's; None for neither. Never raises.

    A side that is no count is left out of it, any other such count is 0, and a cost that is no finite amount from
    zero on is unknown: None.
    """
    try:
        told = usage if isinstance(usage, Usage) else read_usage(usage)
        return None if told is None else _clean(told)
    except Exception:  # noqa: BLE001 - a stranger's object: a call without usage is charged at its estimate
        return None


def _clean(told: Usage) -> Usage:
    counts = _counts(told)
    cost = None if told.cost_usd is None else _cost_told(told.cost_usd)
    sure = _are_counts(counts)
    read = counts if sure else [count_told(count) for count in counts]
    whole = Usage(*(counts if sure else [count or 0 for count in read]))
    whole.cost_usd = cost
    if sure and type(told) is Usage:
        return whole
    lacking = [side for side, count in zip(SIDES, read, strict=False) if count is None]
    in_all = None
    if isinstance(told, PartialUsage):
        lacking, in_all = [*told.lacking], told.told_in_all
    return PartialUsage.of(whole, lacking, in_all) if lacking else whole


_counts: Callable[[Usage], tuple[Any, ...]] = attrgetter(
    *SIDES, "cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "image_tokens", "audio_tokens"
)


def _are_counts(values: Sequence[Any]) -> bool:
    """Are they all counts, as nearly always? Told in one look."""
    try:
        total: Any = sum(values)
    except Exception:  # noqa: BLE001 - no numbers, or code of their own
        return False
    return type(total) is int and total <= LARGEST and min(values) >= 0


def count_told(value: Any) -> int | None:  # noqa: ANN401 - whatever is called a number
    """`value` as a count, at most `LARGEST`; None for what is no number from zero on. Never raises."""
    if type(value) is int and 0 <= value <= LARGEST:
        return value
    try:
        count = int(value)
    except Exception:  # noqa: BLE001 - no number, not a number, infinite, or code of its own
        return None
    return min(count, LARGEST) if count >= 0 else None


def _cost_told(value: Any) -> float | None:  # noqa: ANN401 - as above
    try:
        cost = float(value)
    except Exception:  # noqa: BLE001 - as above
        return None
    return cost if 0 <= cost < math.inf else None


def read_usage(usage: object) -> Usage | None:
    """Token counts in any of the shapes that providers tell them in; None when there are none.

    Anthropic tells cached tokens beside its input tokens; here they are part of them, as the GenAI conventions want.
    A total above its parts is output that they leave out: Gemini's thoughts, as OpenAI's shape tells them. Of a usage
    without a readable input or output, that side is left out (`PartialUsage`), if no total tells it.
    """
    if usage is None:
        return None
    sent, made = _count(usage, "prompt_tokens", "input_tokens"), _count(usage, "completion_tokens", "output_tokens")
    read_beside, written_beside = (_part(usage, f"cache_{kind}_input_tokens") for kind in ("read", "creation"))
    sent = None if sent is None else sent + read_beside + written_beside
    in_all = _count(usage, "total_tokens")
    if in_all is not None:
        made = max(made or 0, in_all - sent) if sent is not None else made
        sent = max(0, in_all - made) if sent is None and made is not None else sent
    if sent is None and made is None and in_all is None:
        return None
    details = field_of(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    outcome = field_of(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
    told = Usage(
        input_tokens=sent or 0,
        output_tokens=made or 0,
        cached_input_tokens=_part(details, "cached_tokens", "cache_read") + read_beside,
        cache_write_tokens=_part(details, "cache_write_tokens", "cache_creation") + written_beside,
        reasoning_tokens=_part(outcome, "reasoning_tokens", "reasoning"),
        image_tokens=_part(details, "image_tokens", "image"),
        audio_tokens=_part(details, "audio_tokens", "audio") + _part(outcome, "audio_tokens", "audio"),
    )
    lacking = [side for side, count in zip(SIDES, (sent, made), strict=True) if count is None]
    return PartialUsage.of(told, lacking, in_all) if lacking else told


def _count(source: object, *names: str) -> int | None:
    return count_told(field_of(source, *names))


def _part(source: object, *names: str) -> int:
    return 0 if source is None else _count(source, *names) or 0


def field_of(source: object, *names: str) -> Any:  # noqa: ANN401 - a stranger's attribute
    """The first of these fields that a provider's object, or a dict of the same shape, has; else None. Never raises."""
    for name in names:
        try:
            value: Any = source.get(name) if is_dict(source) else getattr(source, name, None)
        except Exception:  # noqa: BLE001, S112 - a property is anybody's code: one that raises tells nothing
            continue
        if value is not None:
            return value
    return None
