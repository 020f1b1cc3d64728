"""What a model call that ended is charged."""

from __future__ import annotations

from collections.abc import Sequence

from shearpin.rules import tokens
from shearpin.rules.budget import Budget
from shearpin.rules.expecting import estimate_input
from shearpin.rules.prices import PriceBook
from shearpin.rules.protocol import Rule
from shearpin.trace import LLMSpan, Trace, Usage

EXPECTED_OUTPUT = 512
"""Output tokens assumed for a call that told neither its usage nor its limit: `Budget`'s own default."""


def expected_output(rules: Sequence[Rule]) -> int:
    """What is reserved, and so is charged, for the output of a call that told neither its usage nor its limit."""
    given = [rule.expected_output_tokens for rule in rules if isinstance(rule, Budget)]
    return max(given, default=EXPECTED_OUTPUT)


def charge(span: LLMSpan, trace: Trace, prices: PriceBook, expected: int) -> None:
    """Give `span` its usage and cost, and add them to the run's totals.

    A call without usage is charged its estimate: the input it sent and the output that came, or that it was expected
    to make when nothing came.
    """
    if span.usage is None:
        span.usage, span.usage_estimated = _estimate(span, expected), True
    if span.usage.cost_usd is None:
        model = span.response_model or span.request_model or ""
        price = prices.find(model, span.provider) or prices.find(span.request_model or "", span.provider)
        if price is not None:
            span.usage.cost_usd = price.cost(span.usage)
            span.price_source = f"{price.source} {price.version}".strip()
    trace.usage.add(span.usage)


def was_cut(span: LLMSpan) -> bool:
    """Some output came and then the stream ended early: what came is all there is to pay."""
    return span.status != "ok" and bool(span.reply or span.tool_calls)


def _estimate(span: LLMSpan, expected: int) -> Usage:
    sent = estimate_input(span)
    if span.kind == "embedding":
        return Usage(input_tokens=sent)
    came = tokens.estimate_text(span.reply or "") + sum(tokens.estimate_text(str(call)) for call in span.tool_calls)
    expected = expected if span.max_tokens is None else span.max_tokens
    return Usage(input_tokens=sent, output_tokens=came if was_cut(span) else max(came, expected))
