"""What a model call that ended is charged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shearpin.rules import tokens
from shearpin.rules.budget import Budget
from shearpin.rules.expecting import estimate_input, expected_output
from shearpin.rules.prices import Price, PriceBook
from shearpin.rules.protocol import Rule
from shearpin.trace import LLMSpan, Trace, Usage
from shearpin.trace.usage import PartialUsage

EXPECTED_OUTPUT = 512
"""Output tokens assumed for a call that told neither its usage nor its limit: `Budget`'s own default."""


class Terms(NamedTuple):
    """What the rules say of calls that nobody tells the use or the price of: the dearest, where they differ."""

    budgets: Sequence[Budget]
    assumed_price: Price | None

    @classmethod
    def of(cls, rules: Sequence[Rule]) -> Terms:
        """The terms of a guard's rules."""
        budgets = [rule for rule in rules if isinstance(rule, Budget)]
        assumed = [budget.fallback_price for budget in budgets if budget.fallback_price is not None]
        return cls(budgets, max(assumed, key=lambda price: price.cost(_MILLIONS), default=None))

    def expected_output(self, span: LLMSpan, prices: PriceBook) -> int:
        """Output tokens of a call that told none: as many as were reserved for it."""
        otherwise = EXPECTED_OUTPUT if span.max_tokens is None else span.max_tokens
        return max((expected_output(budget, span, prices) for budget in self.budgets), default=otherwise)


_MILLIONS = Usage(input_tokens=4_000_000, output_tokens=1_000_000)


def charge(span: LLMSpan, trace: Trace, prices: PriceBook, terms: Terms) -> None:
    """Give `span` its usage and cost, and add them to the run's totals.

    A call without usage is charged its estimate: the input it sent and the output that came, or that it was expected
    to make when nothing came. So is what its usage leaves out.
    """
    names = [span.response_model or span.request_model or "", span.request_model or ""]
    if span.usage is None or isinstance(span.usage, PartialUsage):
        estimate, span.usage_estimated = _estimate(span, terms.expected_output(span, prices)), True
        span.usage = estimate if span.usage is None else span.usage.filled(estimate)
        names.reverse()  # priced as it was reserved
    if span.usage.cost_usd is None:
        price = prices.find(names[0], span.provider) or prices.find(names[1], span.provider)
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
    return Usage(input_tokens=sent, output_tokens=came if span.was_cut else max(came, expected))
