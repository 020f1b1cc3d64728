"""Budgets: a limit on what one run may use, checked before every call and exact under concurrency.

A model call is admitted when what is settled, what calls in flight hold, and its own estimate fit the limit. The
estimate is then held; when the call ends it is replaced by the real usage. Counts (calls, steps) need no estimate:
they are spent at admission.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from shearpin.errors import BudgetExceededError, amount
from shearpin.rules import tokens
from shearpin.rules.prices import Price, parse_price
from shearpin.rules.protocol import Notice, Scene
from shearpin.trace import LLMSpan, Span, Usage
from shearpin.trace.model import KINDS, Kind
from shearpin.trace.plain import Plain

MONEY_AND_TOKENS = ("usd", "tokens", "input_tokens", "output_tokens")
COUNTS = ("llm_calls", "tool_calls", "steps")
UNITS = (*MONEY_AND_TOKENS, *COUNTS, "seconds")

_COUNTED_KIND = {"llm": "llm_calls", "tool": "tool_calls"}
_USES: Mapping[str, Sequence[str]] = {
    "llm": (*MONEY_AND_TOKENS, "llm_calls", "steps", "seconds"),
    "embedding": (*MONEY_AND_TOKENS, "seconds"),
    "tool": ("tool_calls", "steps", "seconds"),
    "node": ("steps", "seconds"),
    "step": ("steps", "seconds"),
}
_TIME = ("seconds",)
"""What a span of a kind can use up."""
_ROUNDING = 1e-12
"""Dollars below any price of a token: three times a third of a limit must fit that limit."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit per run, in any of these units; give at least one.

    ``usd`` is dollars, ``tokens`` input and output together, ``steps`` model decisions, ``seconds`` wall time.
    ``warn_at`` is the share of a limit at which the run warns. ``unknown_price`` says what happens to a model
    nobody has a price for while ``usd`` is limited: refuse it before its first call (``deny``), let it run uncounted
    (``allow``), or count it at this price: dollars per million tokens, or a mapping as in ``Guard(prices=...)``.
    ``reserve`` says how much output a call is expected to make while it is in flight: its own ``max_tokens``, else
    ``expected_output_tokens`` (``expected``) or the model's output limit (``max``). ``wait_seconds`` bounds how long
    a call waits for others in flight when only they stand in its way.

    Raises ValueError for a limit that is negative or not a number, and when no limit is given.
    """

    usd: float | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    llm_calls: int | None = None
    tool_calls: int | None = None
    steps: int | None = None
    seconds: float | None = None
    warn_at: float = 0.7
    unknown_price: Literal["deny", "allow"] | float | Mapping[str, float] = "deny"
    reserve: Literal["expected", "max"] = "expected"
    expected_output_tokens: int = 512
    wait_seconds: float = 30.0

    def __post_init__(self) -> None:
        limits = self.limits
        if not limits:
            raise ValueError(f"Budget needs a limit: one of {', '.join(UNITS)}")
        for unit, limit in limits.items():
            _require(isinstance(limit, int | float) and not isinstance(limit, bool), f"{unit}={limit!r}", "a number")
            _require(math.isfinite(limit) and limit >= 0, f"{unit}={limit!r}", "zero or more")
        _require(0 < self.warn_at <= 1, f"warn_at={self.warn_at!r}", "a share between 0 and 1")
        _require(self.reserve in ("expected", "max"), f"reserve={self.reserve!r}", "'expected' or 'max'")
        _require(self.expected_output_tokens >= 0, "expected_output_tokens", "zero or more")
        _require(self.wait_seconds >= 0, f"wait_seconds={self.wait_seconds!r}", "zero or more")
        self.fallback_price  # noqa: B018 - a bad price is an error here, not in the middle of a run

    name = "Budget"

    @property
    def limits(self) -> dict[str, float]:
        """The limits that were given, by unit."""
        given = {unit: getattr(self, unit) for unit in UNITS}
        return {unit: limit for unit, limit in given.items() if limit is not None}

    @property
    def fallback_price(self) -> Price | None:
        """What a model without a price counts as, where the user said so."""
        if isinstance(self.unknown_price, str):
            _require(self.unknown_price in ("deny", "allow"), f"unknown_price={self.unknown_price!r}", _UNKNOWN)
            return None
        if isinstance(self.unknown_price, Mapping):
            return parse_price(self.unknown_price)
        return parse_price({"input": self.unknown_price, "output": self.unknown_price})

    def watch(self, scene: Scene) -> BudgetWatch:
        """Begin to count one run tree."""
        return BudgetWatch(self, scene)


_UNKNOWN = "'deny', 'allow' or a price"


def _require(condition: bool, what: str, wanted: str) -> None:
    if not condition:
        raise ValueError(f"Budget({what}): must be {wanted}")


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

    def at_least(self, other: Amounts) -> Amounts:
        """The larger of the two, unit by unit."""
        return Amounts(*(max(self.of(unit), other.of(unit)) for unit in MONEY_AND_TOKENS))

    def add(self, other: Amounts) -> None:
        """Count `other` in."""
        self.usd = self.of("usd") + other.of("usd")
        self.tokens += other.tokens
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens


def _amounts(usage: Usage, usd: float | None) -> Amounts:
    return Amounts(usd, usage.total_tokens, usage.input_tokens, usage.output_tokens)


@dataclass(slots=True)
class BudgetWatch:
    """One budget over one run tree. Every method is called under the tree's lock."""

    rule: Budget
    scene: Scene
    settled: Amounts = field(default_factory=Amounts)
    held: dict[str, Amounts] = field(default_factory=dict[str, Amounts])
    limits: dict[str, float] = field(init=False)
    warn: dict[str, float] = field(init=False)
    units: dict[Kind, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        usage = self.scene.trace.usage  # not zero where a paused run goes on in another process
        self.settled = _amounts(usage, usage.cost_usd)
        self.limits = self.rule.limits
        self.units = {kind: [unit for unit in self.limits if unit in _USES.get(kind, _TIME)] for kind in KINDS}
        self.warn = {unit: limit * self.rule.warn_at for unit, limit in self.limits.items()}

    # --- the four moments of an action ----------------------------------------------------------------------------

    def check(self, span: Span) -> BudgetExceededError | None:
        need = self._need(span)
        if need is not None and need.usd is None and self.rule.usd is not None and self.rule.unknown_price == "deny":
            return self._error("usd", self.rule.usd, span, estimate=None)
        for unit in self.units[span.kind]:
            limit, wanted = self.limits[unit], self._wanted(unit, span, need)
            if wanted is None:
                continue
            free = limit - self.spent(unit)
            if wanted + self._held(unit) > free + _ROUNDING:
                return self._error(unit, limit, span, wanted, in_flight=wanted <= free + _ROUNDING)
        return None

    def admit(self, span: Span) -> Iterable[Notice]:
        need = self._need(span)
        if need is not None:
            self.held[span.span_id] = need
        return self._warnings(span) if self.units[span.kind] else ()

    def settle(self, span: Span) -> Iterable[Notice]:
        held = self.held.pop(span.span_id, None)
        if held is not None and isinstance(span, LLMSpan) and span.usage is not None:
            self.settled.add(self._used(span, span.usage, held))
        return self._warnings(span) if self.units[span.kind] else ()

    def release(self, span: Span) -> None:
        self.held.pop(span.span_id, None)

    # --- what others ask ------------------------------------------------------------------------------------------

    def spent(self, unit: str) -> float:
        """What is used for good, in `unit`."""
        if unit in COUNTS:
            return float(getattr(self.scene.trace, unit))
        return self.scene.elapsed_seconds() if unit == "seconds" else self.settled.of(unit)

    def remaining(self) -> dict[str, float]:
        """What is left of each limit, calls in flight counted as spent."""
        return {unit: max(0.0, limit - self.spent(unit) - self._held(unit)) for unit, limit in self.limits.items()}

    def patience(self, span: Span, stuck: Collection[str]) -> float:
        """How many seconds waiting may help: 0 when what is in the way cannot end before this call does."""
        need = self._need(span)
        for unit, limit in self.limits.items():
            wanted = self._wanted(unit, span, need)
            blocked = sum(held.of(unit) for owner, held in self.held.items() if owner in stuck)
            if wanted is not None and wanted + blocked > limit - self.spent(unit) + _ROUNDING:
                return 0.0
        return self.rule.wait_seconds

    # --- inside ---------------------------------------------------------------------------------------------------

    def _need(self, span: Span) -> Amounts | None:
        """What a model call is expected to use; None for other spans. A cost of None: no price is known."""
        if not isinstance(span, LLMSpan):
            return None
        expected = self._expected(span)
        price = self._price(span) if self.rule.usd is not None else None
        return _amounts(expected, price.cost(expected) if price else None)

    def _expected(self, span: LLMSpan) -> Usage:
        sent = estimate_input(span)
        if span.kind == "embedding":
            return Usage(input_tokens=sent)
        expected = self.rule.expected_output_tokens
        if self.rule.reserve == "max":
            limit = self.scene.prices.limits(span.request_model or "", span.provider).max_output_tokens
            expected = limit or expected
        return Usage(input_tokens=sent, output_tokens=expected if span.max_tokens is None else span.max_tokens)

    def _price(self, span: LLMSpan) -> Price | None:
        return self.scene.prices.find(span.request_model or "", span.provider) or self.rule.fallback_price

    def _used(self, span: LLMSpan, usage: Usage, held: Amounts) -> Amounts:
        cost = usage.cost_usd
        if cost is None and self.rule.fallback_price is not None:
            cost = self.rule.fallback_price.cost(usage)
        used = _amounts(usage, cost)
        cut = span.status != "ok" and (span.reply or span.tool_calls)
        # Nobody told what the call used: never charge less than was held, unless it was seen to be cut short.
        return used.at_least(held) if span.usage_estimated and not cut else used

    def _wanted(self, unit: str, span: Span, need: Amounts | None) -> float | None:
        """How much of `unit` this span would take; None when it takes none and so cannot be refused for it."""
        if unit == "seconds":
            return _ROUNDING * 2  # any time at all: refused once the limit is reached
        if unit == "steps":
            return 1.0 if span.step > self.scene.trace.steps else None
        if unit in COUNTS:
            return 1.0 if _COUNTED_KIND.get(span.kind) == unit else None
        return None if need is None else need.of(unit)

    def _held(self, unit: str) -> float:
        if unit == "steps":
            return float(self.scene.steps_in_flight())
        return sum(held.of(unit) for held in self.held.values()) if unit in MONEY_AND_TOKENS else 0.0

    def _error(
        self, unit: str, limit: float, span: Span, estimate: float | None = 0.0, *, in_flight: bool = False
    ) -> BudgetExceededError:
        estimate = 0.0 if unit == "seconds" else estimate
        return BudgetExceededError(
            unit=unit,
            limit=limit,
            spent=self.spent(unit),
            reserved=self._held(unit),
            estimate=estimate,
            key=self.scene.trace.trace_id,
            in_flight=in_flight,
            subject=f"{span.kind} {span.name}",
        )

    def _warnings(self, span: Span) -> Iterable[Notice]:
        warn = self.warn
        due = [
            unit
            for unit in self.units[span.kind]
            if unit in warn and (spent := self.spent(unit)) >= warn[unit] and spent
        ]
        return [self._warning(unit) for unit in due]

    def _warning(self, unit: str) -> Notice:
        del self.warn[unit]  # once a run
        limit, spent = self.limits[unit], self.spent(unit)
        facts = {"unit": unit, "limit": limit, "spent": spent, "share": spent / limit if limit else 1.0}
        return Notice(f"{facts['share']:.0%} of the budget of {amount(limit, unit)} is used", facts)


def estimate_input(span: LLMSpan) -> int:
    """Tokens a call is expected to send: its messages (each measured once in a run) and its tool definitions."""
    sent = tokens.REPLY_OVERHEAD
    if span.stored_input is not None:
        sent += span.stored_input.total(_measure)
    if span.stored_tools is not None:
        sent += span.stored_tools.total(_measure_tool)
    return sent


def _measure(message: Plain) -> int:
    if isinstance(message, dict):
        return tokens.estimate_message(cast("dict[str, object]", message))
    return tokens.estimate_text(message if isinstance(message, str) else repr(message))


def _measure_tool(tool: dict[str, object]) -> int:
    return tokens.estimate_tools([tool])
