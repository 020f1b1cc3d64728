"""What a model call costs, in US dollars: the user's prices over the table bundled with ``genai-prices``.

A model is priced by its exact name, without a provider's prefix, or without a trailing date; no looser match is a
price. The table itself matches more loosely (``starts_with``, ``contains``), so only its ids and ``equals`` clauses
count here. Where several hosts serve a model and none was named, the maker's price counts, else the dearest.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from shearpin.rules import price_table
from shearpin.rules.model_names import spellings
from shearpin.rules.price_table import Rate
from shearpin.trace import Usage

_MILLION = 1_000_000
_REQUIRED = ("input", "output")
_MODALITIES = ("image", "audio")
_OPTIONAL = ("cached_input", "cache_write", "reasoning", *_MODALITIES)
_KEPT_ANSWERS = 4096
_FRESH_SECONDS = 300  # the table has prices that begin on a day, or hold from 16:30 to 00:30


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
    flat: tuple[float, float] | None = field(init=False, repr=False, compare=False)
    """USD for a token of plain input and of plain output, where no tier and no detail changes that."""

    def __post_init__(self) -> None:
        sent, made = self.rates["input"], self.rates["output"]
        single = len(sent) == len(made) == 1
        object.__setattr__(self, "flat", (sent[0][1], made[0][1]) if single else None)

    def cost(self, usage: Usage) -> float:
        """USD for `usage`. Never raises: negative counts are none, and counts that contradict others earn no discount.

        A prompt above a tier's threshold costs that tier's rates for all its tokens, as providers bill it. An estimate
        that names no cached tokens is charged none as cached.
        """
        sent, made = max(0, usage.input_tokens), max(0, usage.output_tokens)
        details = usage.cached_input_tokens or usage.cache_write_tokens or usage.reasoning_tokens
        if self.flat is not None and not (details or usage.audio_tokens or usage.image_tokens):
            return sent * self.flat[0] + made * self.flat[1] + self.per_request
        bill = _Bill(self.rates, sent, made)
        if usage.audio_tokens > 0:
            bill.add_modality("audio", usage.audio_tokens)
        if usage.image_tokens > 0:
            bill.add_modality("image", usage.image_tokens)
        bill.add_input(max(0, usage.cached_input_tokens), max(0, usage.cache_write_tokens))
        bill.add_output(max(0, usage.reasoning_tokens))
        return bill.total + self.per_request


class _Bill:
    """The sum of one call. Each modality takes its share of the input and the output, text the rest."""

    __slots__ = ("_made", "_prompt", "_rates", "_sent", "total")

    def __init__(self, rates: Mapping[str, Rate], sent: int, made: int) -> None:
        self._rates, self._prompt = rates, sent
        self._sent, self._made = sent, made
        self.total = 0.0

    def add_modality(self, name: str, tokens: int) -> None:
        """`tokens` of input and output together: nobody says how many of each, so the dearer side is filled first."""
        rate_in, rate_out = self._rate(f"{name}_input", "input"), self._rate(f"{name}_output", "output")
        extra_in, extra_out = rate_in - self._rate("input"), rate_out - self._rate("output")
        if extra_out > extra_in:
            spoken = min(tokens, self._made)
            heard = min(tokens - spoken, self._sent)
        else:
            heard = min(tokens, self._sent)
            spoken = min(tokens - heard, self._made)
        if extra_in > 0:  # where it costs no more than text, it is left among the text
            self._sent -= heard
            self.total += heard * rate_in
        if extra_out > 0:
            self._made -= spoken
            self.total += spoken * rate_out

    def add_input(self, cached: int, written: int) -> None:
        """The rest of the input: what was written to a cache, what was read from one, what is new."""
        written = min(written, self._sent)
        cached = 0 if cached + written > self._prompt else min(cached, self._sent - written)
        new = self._sent - written - cached
        self.total += new * self._rate("input")
        self.total += written * self._rate("cache_write", "input") + cached * self._rate("cached_input", "input")

    def add_output(self, reasoning: int) -> None:
        """The rest of the output: the reasoning, and what was said."""
        reasoning = min(reasoning, self._made)
        self.total += (self._made - reasoning) * self._rate("output") + reasoning * self._rate("reasoning", "output")

    def _rate(self, name: str, otherwise: str = "") -> float:
        rate = self._rates.get(name) or self._rates[otherwise]
        if len(rate) == 1:
            return rate[0][1]
        return next(price for above, price in reversed(rate) if self._prompt > above or above == 0)


def parse_price(price: Mapping[str, float]) -> Price:
    """A price in USD per million tokens, as users write it: ``{"input": 2.5, "output": 10.0, "cached_input": 1.25}``.

    Raises:
        ValueError: a key is unknown, ``input`` or ``output`` is missing, or a price is no finite number from zero on.
    """
    if not isinstance(price, Mapping):
        raise ValueError(f"{price!r} is no price: must be a mapping such as {_EXAMPLE}")  # noqa: TRY004 - as the others
    for key in price:
        if key not in (*_REQUIRED, *_OPTIONAL):
            raise ValueError(f"unknown price {key!r}: must be one of {', '.join((*_REQUIRED, *_OPTIONAL))}")
    for key in _REQUIRED:
        if key not in price:
            raise ValueError(f"needs {key!r}: USD per million tokens, as in {_EXAMPLE}")
    rates = {key: ((0, _per_token(key, value)),) for key, value in price.items()}
    for modality in _MODALITIES:
        if modality in rates:
            rates[f"{modality}_input"] = rates[f"{modality}_output"] = rates.pop(modality)
    return Price("override", "", rates)


_EXAMPLE = '{"input": 2.5, "output": 10.0}'


def _per_token(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{key}={value!r}: must be USD per million tokens, a finite number from zero on")
    return value / _MILLION


class PriceBook:
    """Prices by model name: the user's own first, then the bundled table. Safe to share between threads.

    ``overrides`` maps model names to prices as `parse_price` reads them.
    """

    def __init__(self, overrides: Mapping[str, Mapping[str, float]] | None = None) -> None:
        if not isinstance(overrides, Mapping | None):
            raise ValueError(f"prices={overrides!r}: must be a mapping such as {{'my-model': {_EXAMPLE}}}")  # noqa: TRY004 - as for a price
        self._overrides = {_name(model): _parse_for(model, price) for model, price in (overrides or {}).items()}
        self._answers: dict[tuple[str, str | None], Price | None] = {}
        self._fresh_until = 0.0

    def load(self) -> None:
        """Read the table now, some tenths of a second, so that the first call need not."""
        price_table.load()

    def find(self, model: str, provider: str | None = None) -> Price | None:
        """The price of `model`, or None; ``provider`` is its host in a framework's, OpenTelemetry's or its own word."""
        answers = self._answers
        if time.monotonic() >= self._fresh_until or len(answers) >= _KEPT_ANSWERS:
            answers = self._answers = {}
            self._fresh_until = time.monotonic() + _FRESH_SECONDS
        try:
            return answers[model, provider]
        except KeyError:
            found = answers[model, provider] = self._look_up(model, provider)
            return found

    def context_window(self, model: str, provider: str | None = None) -> int | None:
        """How many tokens `model` takes and makes together at most; None where the table does not say."""
        return price_table.load().context_window(model, provider)

    def _look_up(self, model: str, provider: str | None) -> Price | None:
        for _, name in spellings(model, provider) if self._overrides else ():
            if name in self._overrides:
                return self._overrides[name]
        table = price_table.load()
        listed = table.rates(model, provider)
        return None if listed is None else Price("genai-prices", table.version, *listed)


def _name(model: object) -> str:
    if not isinstance(model, str):
        raise ValueError(f"prices[{model!r}]: the name of a model must be a string")  # noqa: TRY004 - as for a price
    return model.lower()


def _parse_for(model: str, price: Mapping[str, float]) -> Price:
    try:
        return parse_price(price)
    except ValueError as error:
        raise ValueError(f"prices[{model!r}]: {error}") from None
