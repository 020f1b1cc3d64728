"""What a model call costs, in US dollars: the user's prices over the table bundled with ``genai-prices``.

A model is priced by its exact name, without a provider's prefix, or without a trailing date; no looser match is a
price. The table itself matches more loosely (``starts_with``, ``contains``), so only its ids and ``equals`` clauses
count here. Where several hosts serve a model and none was named, the maker's price counts, else the dearest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from shearpin.rules import price_table
from shearpin.rules.model_names import spellings
from shearpin.rules.price_table import Rate
from shearpin.trace import Usage

_MILLION = 1_000_000
_REQUIRED = ("input", "output")
_OPTIONAL = ("cached_input", "cache_write", "reasoning", "image", "audio")
_KEPT_ANSWERS = 4096
_FRESH_SECONDS = 300  # the table has prices that begin on a day, or hold from 16:30 to 00:30


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What a model takes and makes at most, in tokens; None where nobody says."""

    context_window: int | None = None
    max_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """What the tokens of one model cost. ``source`` is ``override`` or ``genai-prices``; ``version`` is that table's.

    ``rates`` has ``input`` and ``output``, and what is priced apart: ``cached_input``, ``cache_write``, ``reasoning``,
    and ``image`` and ``audio`` with ``_input`` or ``_output``. What has no rate of its own costs what other input or
    output costs. ``per_request`` is USD for each call.
    """

    source: str
    version: str
    rates: Mapping[str, Rate] = field(repr=False)
    per_request: float = 0.0

    def cost(self, usage: Usage) -> float:
        """USD for `usage`; never raises, and never too little for counts that contradict each other.

        A prompt above a tier's threshold costs that tier's rates for all its tokens, as providers bill it. An estimate
        that names no cached tokens gets no discount for them.
        """
        cached, written = max(0, usage.cached_input_tokens), max(0, usage.cache_write_tokens)
        sent, made = max(0, usage.input_tokens), max(0, usage.output_tokens, usage.reasoning_tokens)
        if cached + written > sent:  # then `input_tokens` cannot have included them
            sent += cached + written
        bill = _Bill(self.rates, sent, made)
        bill.add_modality("audio", max(0, usage.audio_tokens))
        bill.add_modality("image", max(0, usage.image_tokens))
        bill.add_text(cached, written, max(0, usage.reasoning_tokens))
        return bill.total + self.per_request


class _Bill:
    """The sum of one call. Each modality takes its share of the input and the output; text takes the rest."""

    __slots__ = ("_made", "_made_rest", "_rates", "_sent", "_sent_rest", "total")

    def __init__(self, rates: Mapping[str, Rate], sent: int, made: int) -> None:
        self._rates, self._sent, self._made = rates, sent, made
        self._sent_rest, self._made_rest = sent, made
        self.total = 0.0

    def add_modality(self, name: str, tokens: int) -> None:
        """`tokens` of input and output together: nobody says how many of each, so the dearer side is filled first."""
        extra_in = self._rate(f"{name}_input", "input") - self._rate("input", "input")
        extra_out = self._rate(f"{name}_output", "output") - self._rate("output", "output")
        heard, spoken = min(tokens, self._sent_rest), min(tokens, self._made_rest)
        if extra_out > extra_in:
            heard = min(heard, tokens - spoken)
        else:
            spoken = min(spoken, tokens - heard)
        if extra_in > 0:
            self._sent_rest -= heard
            self.total += heard * self._rate(f"{name}_input", "input")
        if extra_out > 0:
            self._made_rest -= spoken
            self.total += spoken * self._rate(f"{name}_output", "output")

    def add_text(self, cached: int, written: int, reasoning: int) -> None:
        """Everything that is left, with what is written to a cache counted first and the discount for reading last."""
        written = min(written, self._sent_rest)
        cached = min(cached, self._sent_rest - written)
        reasoning = min(reasoning, self._made_rest)
        self.total += written * self._rate("cache_write", "input") + cached * self._rate("cached_input", "input")
        self.total += (self._sent_rest - written - cached) * self._rate("input", "input")
        self.total += reasoning * self._rate("reasoning", "output")
        self.total += (self._made_rest - reasoning) * self._rate("output", "output")

    def _rate(self, name: str, otherwise: str) -> float:
        rate = self._rates.get(name) or self._rates[otherwise]
        if len(rate) == 1:
            return rate[0][1]
        return next(price for above, price in reversed(rate) if self._sent > above or above == 0)


def parse_price(price: Mapping[str, float]) -> Price:
    """A price in USD per million tokens, as users write it: ``{"input": 2.5, "output": 10, "cached_input": 1.25}``.

    Raises:
        ValueError: a key is unknown, ``input`` or ``output`` is missing, or a price is no finite number from 0 on.
    """
    if not isinstance(price, Mapping):
        raise ValueError(f"{price!r} is no price: give a mapping such as {_EXAMPLE}")  # noqa: TRY004 - as all of these
    for key in price:
        if key not in (*_REQUIRED, *_OPTIONAL):
            raise ValueError(f"{key!r} is nothing that has a price; known: {', '.join((*_REQUIRED, *_OPTIONAL))}")
    for key in _REQUIRED:
        if key not in price:
            raise ValueError(f"{key!r} is missing: give it in USD per million tokens, as in {_EXAMPLE}")
    rates = {key: ((0, _per_token(key, value)),) for key, value in price.items()}
    for modality in ("image", "audio"):
        if modality in rates:
            rates[f"{modality}_input"] = rates[f"{modality}_output"] = rates.pop(modality)
    return Price("override", "", rates)


_EXAMPLE = '{"input": 2.5, "output": 10.0}'


def _per_token(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{key!r} is {value!r}: give USD per million tokens, a finite number from 0 on")
    return value / _MILLION


class PriceBook:
    """Prices by model name: the user's own first, then the bundled table. Safe to share between threads.

    ``overrides`` maps model names to prices as `parse_price` reads them.
    """

    def __init__(self, overrides: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self._overrides = {model.lower(): _parse_for(model, price) for model, price in (overrides or {}).items()}
        self._answers: dict[tuple[str, str | None], Price | None] = {}
        self._fresh_until = 0.0

    def load(self) -> None:
        """Read the table now, some tenths of a second, so that the first call need not."""
        price_table.load()

    def find(self, model: str, provider: str | None = None) -> Price | None:
        """The price of `model`, or None. ``provider`` is its host in a framework's, OpenTelemetry's or its own words."""
        answers = self._answers
        if time.monotonic() >= self._fresh_until or len(answers) >= _KEPT_ANSWERS:
            answers = self._answers = {}
            self._fresh_until = time.monotonic() + _FRESH_SECONDS
        try:
            return answers[model, provider]
        except KeyError:
            found = answers[model, provider] = self._look_up(model, provider)
            return found

    def limits(self, model: str, provider: str | None = None) -> ModelLimits:
        """The limits the table knows; it has context windows, and no limits of output."""
        return ModelLimits(context_window=price_table.load().context_window(model, provider))

    def _look_up(self, model: str, provider: str | None) -> Price | None:
        for _, name in spellings(model, provider) if self._overrides else ():
            if name in self._overrides:
                return self._overrides[name]
        table = price_table.load()
        listed = table.rates(model, provider)
        return None if listed is None else Price("genai-prices", table.version, *listed)


def _parse_for(model: str, price: Mapping[str, float]) -> Price:
    try:
        return parse_price(price)
    except ValueError as error:
        raise ValueError(f"prices[{model!r}]: {error}") from None
