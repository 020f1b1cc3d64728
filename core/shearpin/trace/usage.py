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


def usage_told(usage: object) -> Usage | None:
    """A `Usage` of its own that can be counted with, from one or from a provider's; None for neither. Never raises.

    A count that is none is 0, and a cost that is no finite amount from zero on is unknown: None.
    """
    try:
        told = usage if isinstance(usage, Usage) else read_usage(usage)
    except Exception:  # noqa: BLE001 - a stranger's object: a call without usage is charged at its estimate
        return None
    if told is None:
        return None
    clean = Usage(*_counts_told(_counts(told)))
    clean.cost_usd = _cost_told(told.cost_usd)
    return clean


_counts: Callable[[Usage], tuple[Any, ...]] = attrgetter(
    *("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens"),
    *("reasoning_tokens", "image_tokens", "audio_tokens"),
)


def _counts_told(counts: Sequence[Any]) -> Sequence[int]:
    try:
        total: Any = sum(counts)
    except Exception:  # noqa: BLE001 - no numbers, or code of their own
        total = None
    if type(total) is int and total <= LARGEST and min(counts) >= 0:  # as nearly always: told in one look
        return counts
    return [count_told(count) for count in counts]


def count_told(value: Any) -> int:  # noqa: ANN401 - whatever is called a number
    """`value` as a count from 0 to `LARGEST`; 0 for what is no number. Never raises."""
    if type(value) is int and 0 <= value <= LARGEST:
        return value
    try:
        return min(max(int(value), 0), LARGEST)
    except Exception:  # noqa: BLE001 - no number, not a number, infinite, or code of its own
        return 0


def _cost_told(value: Any) -> float | None:  # noqa: ANN401 - as above
    if value is None:
        return None
    try:
        cost = float(value)
    except Exception:  # noqa: BLE001 - as above
        return None
    return cost if 0 <= cost < math.inf else None


def read_usage(usage: object) -> Usage | None:
    """Token counts in any of the shapes that providers tell them in; None when there are none.

    Anthropic tells cached tokens beside its input tokens; here they are part of them, as the GenAI conventions want.
    """
    if usage is None:
        return None
    sent = _count(usage, "prompt_tokens", "input_tokens")
    details = field_of(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    made = field_of(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
    cached = _count(details, "cached_tokens", "cache_read")
    written = _count(details, "cache_write_tokens", "cache_creation")
    read_beside, written_beside = (_count(usage, f"cache_{kind}_input_tokens") for kind in ("read", "creation"))
    return Usage(
        input_tokens=sent + read_beside + written_beside,
        output_tokens=_count(usage, "completion_tokens", "output_tokens"),
        cached_input_tokens=cached + read_beside,
        cache_write_tokens=written + written_beside,
        reasoning_tokens=_count(made, "reasoning_tokens", "reasoning"),
        image_tokens=_count(details, "image_tokens", "image"),
        audio_tokens=_count(details, "audio_tokens", "audio") + _count(made, "audio_tokens", "audio"),
    )


def _count(source: object, *names: str) -> int:
    return count_told(field_of(source, *names))


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
