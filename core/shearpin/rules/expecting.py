"""What a model call is expected to use, before it is made: estimated, or only bounded where that will do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shearpin.rules import tokens
from shearpin.rules.prices import Price, PriceBook
from shearpin.trace import LLMSpan, Usage
from shearpin.trace.plain import Plain, is_dict

if TYPE_CHECKING:
    from shearpin.rules.budget import Budget

MONEY_AND_TOKENS = ("usd", "tokens", "input_tokens", "output_tokens")
"""The units that have to be estimated."""

_BYTES = 4
"""Of UTF-8 in a character at most, and an estimate is never above one token a byte."""
_ESCAPED = 12
"""Characters of JSON that one character of a repr stands for at most."""
_FRAME = 64
"""Tokens around a message at most, beside its texts."""


@dataclass(slots=True)
class Amounts:
    """What a call needs, holds or has used, in the units that are estimated."""

    usd: float | None = 0.0
    tokens: float = 0
    input_tokens: float = 0
    output_tokens: float = 0

    def of(self, unit: str) -> float:
        """The amount in one unit; a cost nobody knows counts nothing."""
        value: float | None = getattr(self, unit)
        return value or 0.0

    def add(self, other: Amounts) -> None:
        """Count `other` in."""
        self.usd = self.of("usd") + other.of("usd")
        self.tokens += other.tokens
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens


def amounts(usage: Usage, usd: float | None) -> Amounts:
    """`usage` that costs `usd`."""
    return Amounts(usd, usage.total_tokens, usage.input_tokens, usage.output_tokens)


class Need:
    """What a model call is expected to use: bounded at once, and estimated only when somebody has to know."""

    __slots__ = ("_exact", "most", "output", "price", "span")

    def __init__(self, span: LLMSpan, output: int, price: Price | None) -> None:
        self.span, self.price, self.output = span, price, output
        self._exact: Amounts | None = None
        bounded = price is None or price.flat is not None  # more input may cost less where prices have tiers
        self.most = self._amounts(bound_input(span)) if bounded else self.exact
        """No unit of `exact` is above this."""

    @property
    def exact(self) -> Amounts:
        """The estimate."""
        if self._exact is None:
            self._exact = self._amounts(estimate_input(self.span))
        return self._exact

    def _amounts(self, sent: int) -> Amounts:
        usage = Usage(input_tokens=sent, output_tokens=self.output)
        return amounts(usage, None if self.price is None else self.price.cost(usage))


def expected_output(rule: Budget, span: LLMSpan, prices: PriceBook) -> int:
    """Output tokens that `rule` expects of a call before it is made."""
    if span.kind == "embedding":
        return 0
    if span.max_tokens is not None:
        return span.max_tokens
    if rule.reserve == "max":
        window = prices.context_window(span.request_model or "", span.provider) or 0
        return max(rule.expected_output_tokens, window - estimate_input(span))
    return rule.expected_output_tokens


def estimate_input(span: LLMSpan) -> int:
    """Tokens a call is expected to send: its messages (each measured once in a run) and its tool definitions."""
    return _sent(span, _measure)


def bound_input(span: LLMSpan) -> int:
    """As many as `estimate_input` or more, told without reading the texts: hardly any work, and mostly enough."""
    return _sent(span, _bound)


def _sent(span: LLMSpan, measure: Callable[[Plain], int]) -> int:
    sent = tokens.REPLY_OVERHEAD
    if span.stored_input is not None:
        sent += span.stored_input.total(measure)
    if span.stored_tools is not None:
        sent += span.stored_tools.total(_measure_tool)
    return sent


def _measure(message: Plain) -> int:
    if is_dict(message):
        return tokens.estimate_message(message)
    return tokens.estimate_text(message if isinstance(message, str) else repr(message))


def _measure_tool(tool: dict[str, object]) -> int:
    return tokens.estimate_tools([tool])


def _bound(message: Plain) -> int:
    content = message.get("content") if is_dict(message) else None
    if type(content) is not str:  # an image counts more than its address has characters
        return _measure(message)
    beside = {key: value for key, value in message.items() if key not in _USUAL}
    return _FRAME + _BYTES * len(content) + (_BYTES * _ESCAPED * len(repr(beside)) if beside else 0)


_USUAL = frozenset(("role", "content"))
