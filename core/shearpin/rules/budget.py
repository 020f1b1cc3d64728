"""Budgets: a limit on what one run may use, checked before every call and exact under concurrency.

A model call is admitted when what is settled, what calls in flight hold, and its own estimate fit the limit. The
estimate is then held; when the call ends it is replaced by the real usage. Counts (calls, steps) need no estimate:
they are spent at admission.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from shearpin.errors import BudgetExceededError, amount
from shearpin.rules.expecting import MONEY_AND_TOKENS, Amounts, Need, amounts, expected_output
from shearpin.rules.prices import Price, parse_price
from shearpin.rules.protocol import Notice, Scene
from shearpin.trace import LLMSpan, Span
from shearpin.trace.spans import KINDS, Kind

COUNTS = ("llm_calls", "tool_calls", "steps")
UNITS = (*MONEY_AND_TOKENS, *COUNTS, "seconds")

_TIME = ("seconds",)
_COUNTED: Mapping[str, Sequence[str]] = {
    "llm": ("llm_calls", "steps", "seconds"),
    "tool": ("tool_calls", "steps", "seconds"),
    "node": ("steps", "seconds"),
    "step": ("steps", "seconds"),
}
"""What a span of a kind uses up, beside what has to be estimated; other kinds take time only."""
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
    ``expected_output_tokens`` (``expected``) or as much as the model can make (``max``). No table of ours says how much
    that is: it is taken to be all the room that the prompt leaves in the context window, where that is known, else
    ``expected_output_tokens``, and the run warns. ``wait_seconds`` bounds how long a call waits for others in flight
    when only they stand in its way.

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
    fallback_price: Price | None = field(init=False, repr=False, compare=False)
    """What a model without a price counts as, where the user said so."""

    def __post_init__(self) -> None:
        limits = self.limits
        if not limits:
            raise ValueError(f"Budget needs a limit: one of {', '.join(UNITS)}")
        for unit, limit in limits.items():
            _require(_is_number(limit), f"{unit}={limit!r}", "a finite number, zero or more")
            whole = unit in ("usd", "seconds") or limit == int(limit)
            _require(whole, f"{unit}={limit!r}", "a whole number")
        _require(
            _is_number(self.warn_at) and 0 < self.warn_at <= 1, f"warn_at={self.warn_at!r}", "a share between 0 and 1"
        )
        _require(self.reserve in ("expected", "max"), f"reserve={self.reserve!r}", "'expected' or 'max'")
        expected = self.expected_output_tokens
        _require(_is_number(expected), f"expected_output_tokens={expected!r}", "a number, zero or more")
        _require(_is_number(self.wait_seconds), f"wait_seconds={self.wait_seconds!r}", "a finite number, zero or more")
        object.__setattr__(self, "fallback_price", _price_of(self.unknown_price))

    name = "Budget"

    @property
    def limits(self) -> dict[str, float]:
        """The limits that were given, by unit."""
        given = {unit: getattr(self, unit) for unit in UNITS}
        return {unit: limit for unit, limit in given.items() if limit is not None}

    def watch(self, scene: Scene) -> BudgetWatch:
        """Begin to count one run tree."""
        return BudgetWatch(self, scene)


def _price_of(unknown: str | float | Mapping[str, float]) -> Price | None:
    if isinstance(unknown, str):
        _require(unknown in ("deny", "allow"), f"unknown_price={unknown!r}", "'deny', 'allow' or a price")
        return None
    return parse_price(unknown if isinstance(unknown, Mapping) else {"input": unknown, "output": unknown})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _require(condition: bool, what: str, wanted: str) -> None:
    if not condition:
        raise ValueError(f"Budget({what}): must be {wanted}")


def _guess(span: LLMSpan, need: Need) -> Notice:
    facts = {"model": span.request_model, "reserved_output_tokens": need.output}
    reserved = f"{need.output:,} tokens are reserved for it"
    return Notice(f"the output limit of {span.name} is not known: {reserved}; give the call its max_tokens", facts)


@dataclass(slots=True)
class BudgetWatch:
    """One budget over one run tree. Every method is called under the tree's lock."""

    rule: Budget
    scene: Scene
    settled: Amounts = field(init=False)
    held: dict[str, Need] = field(default_factory=dict[str, "Need"])
    limits: dict[str, float] = field(init=False)
    warn: dict[str, float] = field(init=False)
    estimated: list[str] = field(init=False)
    """The limited units that a model call needs an estimate for."""
    counted: dict[Kind, list[str]] = field(init=False)
    """The other limited units that spans of a kind use up."""
    guessed: set[str] = field(default_factory=set[str])
    """Models of which the run has been told that their output limit is not known."""
    asked: Need | None = None
    """The need of the call that was checked last: its admission comes next, or another check."""

    def __post_init__(self) -> None:
        usage = self.scene.trace.usage  # not zero where a paused run goes on in another process
        self.settled = amounts(usage, usage.cost_usd)
        self.limits = self.rule.limits
        self.estimated = [unit for unit in self.limits if unit in MONEY_AND_TOKENS]
        others = [unit for unit in self.limits if unit not in MONEY_AND_TOKENS]
        self.counted = {kind: [unit for unit in others if unit in _COUNTED.get(kind, _TIME)] for kind in KINDS}
        self.warn = {unit: limit * self.rule.warn_at for unit, limit in self.limits.items()}

    # --- the four moments of an action ----------------------------------------------------------------------------

    def check(self, span: Span) -> BudgetExceededError | None:
        if self.estimated and isinstance(span, LLMSpan) and (error := self._check_estimate(span)) is not None:
            return error
        for unit in self.counted[span.kind]:
            wanted = self._wanted(unit, span)
            if wanted and (error := self._refusal(unit, span, wanted)) is not None:
                return error
        return None

    def admit(self, span: Span) -> Iterable[Notice]:
        notices = self._warnings(self.counted[span.kind])
        if self.estimated and isinstance(span, LLMSpan):
            self.held[span.span_id] = need = self._need(span)
            if self._guesses(span) and span.name not in self.guessed:
                self.guessed.add(span.name)
                notices = [*notices, _guess(span, need)]
        return notices

    def settle(self, span: Span) -> Iterable[Notice]:
        notices = self._warnings(self.counted[span.kind])
        need = self.held.get(span.span_id)
        if need is None:
            return notices
        if (usage := need.span.usage) is not None:
            self.settled.add(amounts(usage, usage.cost_usd))
        del self.held[span.span_id]  # last: until it is counted it is held, whatever interrupts this
        return [*notices, *self._warnings(self.estimated)]

    def release(self, span: Span) -> None:
        self.held.pop(span.span_id, None)

    def recall(self, span: Span) -> None:
        """It is counted in what the run took along."""

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
        wanted = {unit: self._wanted(unit, span) for unit in self.counted[span.kind]}
        if isinstance(span, LLMSpan):
            wanted |= {unit: self._need(span).exact.of(unit) for unit in self.estimated}
        for unit, needed in wanted.items():
            blocked = self._held(unit, stuck) if unit in MONEY_AND_TOKENS else 0.0
            if needed is not None and needed + blocked > self.limits[unit] - self.spent(unit) + _ROUNDING:
                return 0.0
        return self.rule.wait_seconds

    # --- inside ---------------------------------------------------------------------------------------------------

    def _check_estimate(self, span: LLMSpan) -> BudgetExceededError | None:
        need = self._need(span)
        usd = self.rule.usd
        if usd is not None and need.price is None and self.rule.unknown_price == "deny":
            return self._error("usd", usd, span, estimate=None)
        if self._surely_fits(need):
            return None
        errors = (self._refusal(unit, span, need.exact.of(unit)) for unit in self.estimated)
        return next((error for error in errors if error is not None), None)

    def _surely_fits(self, need: Need) -> bool:
        """Would even the most that this call and those in flight may need fit every limit? Then no estimate is made."""
        needs = [need, *self.held.values()]
        return all(
            sum([other.most.of(unit) for other in needs]) <= self.limits[unit] - self.settled.of(unit)
            for unit in self.estimated
        )

    def _refusal(self, unit: str, span: Span, wanted: float) -> BudgetExceededError | None:
        limit = self.limits[unit]
        free = limit - self.spent(unit) + _ROUNDING
        if wanted + self._held(unit) <= free:
            return None
        return self._error(unit, limit, span, wanted, in_flight=wanted <= free)

    def _need(self, span: LLMSpan) -> Need:
        """What a model call is expected to use."""
        if self.asked is None or self.asked.span is not span:
            price = self._price(span) if self.rule.usd is not None else None
            self.asked = Need(span, expected_output(self.rule, span, self.scene.prices), price)
        return self.asked

    def _guesses(self, span: Span) -> bool:
        """Is as much reserved as the model can make, though nobody knows how much that is?"""
        return self.rule.reserve == "max" and isinstance(span, LLMSpan) and span.kind == "llm" and not span.max_tokens

    def _price(self, span: LLMSpan) -> Price | None:
        return self.scene.prices.find(span.request_model or "", span.provider) or self.rule.fallback_price

    def _wanted(self, unit: str, span: Span) -> float | None:
        """How much of a counted `unit` this span would take; None when it takes none, and so cannot be refused."""
        if unit == "seconds":
            return _ROUNDING * 2  # any time at all: refused once the limit is reached
        if unit == "steps":
            return 1.0 if span.step > self.scene.trace.steps else None
        return 1.0

    def _held(self, unit: str, by: Collection[str] | None = None) -> float:
        """What calls in flight hold; of the spans `by` if given."""
        if unit == "steps":
            return float(self.scene.steps_in_flight())
        needs = self.held.items() if unit in MONEY_AND_TOKENS else ()
        return sum(need.exact.of(unit) for owner, need in needs if by is None or owner in by)

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
            subject=f"{span.kind} {span.name}" + (", which gives no max_tokens" if self._guesses(span) else ""),
        )

    def _warnings(self, units: Sequence[str]) -> Sequence[Notice]:
        warn = self.warn
        due = [unit for unit in units if unit in warn and (spent := self.spent(unit)) >= warn[unit] and spent]
        return [self._warning(unit) for unit in due]

    def _warning(self, unit: str) -> Notice:
        del self.warn[unit]  # once a run
        limit, spent = self.limits[unit], self.spent(unit)
        facts = {"unit": unit, "limit": limit, "spent": spent, "share": spent / limit if limit else 1.0}
        return Notice(f"{facts['share']:.0%} of the budget of {amount(limit, unit)} is used", facts)
