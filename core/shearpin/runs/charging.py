"""What a model call that ended is charged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shearpin.rules import tokens
from shearpin.rules.budget import Budget
from shearpin.rules.expecting import estimate_input
from shearpin.rules.prices import Price, PriceBook
from shearpin.rules.protocol import Rule
from shearpin.trace import LLMSpan, Trace, Usage
from shearpin.trace.usage import count_told

EXPECTED_OUTPUT = 512
"""Output tokens assumed for a call that told neither its usage nor its limit: `Budget`'s own default."""


class Terms(NamedTuple):
    """What the rules say of calls that nobody tells the use or the price of: the dearest, where they differ."""

    expected_output: int
    assumed_price: Price | None

    @classmethod
    def of(cls, rules: Sequence[Rule]) -> Terms:
        """The terms of a guard's rules."""
        budgets = [rule for rule in rules if isinstance(rule, Budget)]
        expected = max((budget.expected_output_tokens for budget in budgets), default=EXPECTED_OUTPUT)
        assumed = [price for budget in budgets if (price := budget.fallback_price) is not None]
        return cls(expected, max(assumed, key=lambda price: price.cost(_MILLIONS), default=None))


_MILLIONS = Usage(input_tokens=4_000_000, output_tokens=1_000_000)


def charge(span: LLMSpan, trace: Trace, prices: PriceBook, terms: Terms) -> None:
    """Give `span` its usage and cost, and add them to the run's totals.

    A call without usage is charged its estimate: the input it sent and the output that came, or that it was expected
    to make when nothing came.
    """
    if span.usage is None:
        span.usage, span.usage_estimated = _estimate(span, terms.expected_output), True
    if span.usage.cost_usd is None:
        model = span.response_model or span.request_model or ""
        price = prices.find(model, span.provider) or prices.find(span.request_model or "", span.provider)
        if price is not None:
            span.usage.cost_usd = price.cost(span.usage)
            span.price_source = f"{price.source} {price.version}".strip()
        elif terms.assumed_price is not None:
            span.usage.cost_usd, span.price_source = terms.assumed_price.cost(span.usage), "unknown_price"
    trace.usage.add(span.usage)


def _estimate(span: LLMSpan, expected: int) -> Usage:
    sent = estimate_input(span)
    if span.kind == "embedding":
        return Usage(input_tokens=sent)
    came = tokens.estimate_text(span.reply or "") + sum(tokens.estimate_text(str(call)) for call in span.tool_calls)
    expected = expected if span.max_tokens is None else count_told(span.max_tokens)
    return Usage(input_tokens=sent, output_tokens=came if span.was_cut else max(came, expected))
