"""Every error of Shearpin.

    ShearpinError (RuntimeError)
    ├── RunStoppedError                 catch this one: a rule stopped the run
    │   ├── BudgetExceededError
    │   ├── LoopDetectedError
    │   ├── ToolDeniedError
    │   └── ApprovalRejectedError
    ├── TraceFormatError (ValueError)
    └── MissingIntegrationError (ImportError)

The text of every error can be printed anywhere: what a terminal or a log would obey instead of show is spelled out.
The facts of an error are its attributes; the message is derived from them. A stop is one object: every later
start in the stopped run raises that same object, so its identity tells that two refusals are one stop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from unicodedata import category

if TYPE_CHECKING:
    from shearpin.trace import Trace


class ShearpinError(RuntimeError):
    """The root of every error Shearpin raises."""

    def __str__(self) -> str:
        return printable(self.message())

    def message(self) -> str:
        """What happened, with names and texts as raw as they were given."""
        return super().__str__()


class RunStoppedError(ShearpinError):
    """A rule, an operator or a bug in a rule stopped the run; nothing starts in it any more.

    ``reason`` says why in words. ``trace`` is the record of the stopped run, complete once the run has ended.
    ``partial`` is what the run had reached: the last graph state, or the items a generator had yielded.
    Pickling or copying keeps the facts and the message; ``trace`` and ``partial`` are then None.
    """

    facts: ClassVar[tuple[str, ...]] = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.trace: Trace | None = None
        self.partial: Any = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message()!r})"

    def message(self) -> str:
        return f"run stopped: {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """The facts by name, as a decision span records them."""
        return {name: getattr(self, name) for name in self.facts}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (core_class(type(self)), self.as_dict())


class BudgetExceededError(RunStoppedError):
    """The call would have taken the run over a budget, so it was not made.

    ``limit``, ``spent``, ``reserved`` and ``estimate`` are in ``unit``: ``usd`` (dollars), ``seconds``, or a count.
    ``spent`` is settled; ``reserved`` is held by calls in flight; ``estimate`` is what the refused call was expected
    to need, None when its model has no price. ``in_flight`` tells that only calls in flight made it exceed.
    """

    facts = ("unit", "limit", "spent", "reserved", "estimate", "scope", "key", "in_flight", "subject")

    def __init__(
        self,
        *,
        unit: str,
        limit: float,
        spent: float,
        reserved: float = 0.0,
        estimate: float | None = 0.0,
        scope: str = "run",
        key: str | None = None,
        in_flight: bool = False,
        subject: str = "",
    ) -> None:
        self.unit, self.limit, self.spent, self.reserved = unit, limit, spent, reserved
        self.estimate, self.scope, self.key, self.in_flight = estimate, scope, key, in_flight
        self.subject = subject
        super().__init__(self._why())

    def _why(self) -> str:
        what = self.subject or "the next call"
        limit, spent = amount(self.limit, self.unit), amount(self.spent, self.unit)
        if self.estimate is None:
            return (
                f"no price is known for {what}, so it cannot run under a budget of {limit}; give its price with "
                "Guard(prices={model: {'input': ..., 'output': ...}}) or Budget(unknown_price=...)"
            )
        if self.unit == "seconds":
            return f"the budget of {limit} per {self.scope} is used up ({spent}), before {what}"
        if self.unit not in _ESTIMATED:
            return f"the budget of {limit} per {self.scope} is used up, before {what}"
        held = f", {amount(self.reserved, self.unit)} held by calls in flight" if self.reserved else ""
        need = amount(self.estimate, self.unit)
        return f"the budget of {limit} per {self.scope} does not fit {what}: {spent} spent{held}, it may need {need}"


_ESTIMATED = ("usd", "tokens", "input_tokens", "output_tokens")
_WORDS = {"llm_calls": "model calls"}


class LoopDetectedError(RunStoppedError):
    """The run repeats itself without progress.

    ``pattern`` names what repeats, ``calls`` are the repeating calls in order, ``repeats`` counts how often they
    came, ``onset`` is the number of the action (from 1, in this run) at which the repetition began.
    """

    facts = ("pattern", "calls", "repeats", "onset", "unchanged")

    def __init__(self, *, pattern: str, calls: Sequence[str], repeats: int, onset: int, unchanged: str = "") -> None:
        self.pattern, self.calls, self.repeats, self.onset = pattern, list(calls), repeats, onset
        self.unchanged = unchanged
        same = f"; unchanged: {unchanged}" if unchanged else ""
        super().__init__(f"loop: {pattern}, {' -> '.join(self.calls)} came {repeats} times since action {onset}{same}")


class ToolDeniedError(RunStoppedError):
    """A policy forbids this tool call; ``rule`` is the pattern that does."""

    facts = ("tool", "arguments", "rule", "reason")

    def __init__(self, *, tool: str, arguments: object, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.tool, self.arguments, self.rule = tool, arguments, rule

    def message(self) -> str:
        return f"tool {self.tool} is {self.reason} ({self.rule})"


class ApprovalRejectedError(RunStoppedError):
    """A person was asked about this tool call and did not approve it, or nobody answered; ``approver`` is who."""

    facts = ("tool", "arguments", "approver", "reason")

    def __init__(self, *, tool: str, arguments: object, approver: str, reason: str) -> None:
        super().__init__(reason)
        self.tool, self.arguments, self.approver = tool, arguments, approver

    def message(self) -> str:
        by = f" by {self.approver}" if self.approver else ""
        return f"tool {self.tool} was not approved{by}: {self.reason}"


class ToldError(Exception):
    """A call is denied and the run goes on: the caller answers the model with `text` in the tool's place.

    For adapters, and so outside of the tree: in plain Python a decorated tool returns the text, and a block raises the
    ``denial``.
    """

    def __init__(self, denial: RunStoppedError, tool: str) -> None:
        self.denial = denial
        self.text = f"The call of {printable(tool)} was denied and did not run: {denial.reason}. Do not repeat it."
        Exception.__init__(self, self.text)  # not super(): an adapter mixes in its framework's class


class TraceFormatError(ShearpinError, ValueError):
    """A trace file or record is not one that this version of Shearpin can read."""


class MissingIntegrationError(ShearpinError, ImportError):
    """An optional package is absent; the message is the line that installs it."""


class EnforcementGapWarning(UserWarning):
    """A guard is attached but cannot do its work; the text says why and what mends it."""


def amount(value: float, unit: str) -> str:
    """A quantity as people write it.

    >>> amount(0.0075, "usd"), amount(3, "llm_calls"), amount(1, "steps"), amount(1.5, "seconds")
    ('$0.0075', '3 model calls', '1 step', '1.5 s')
    """
    if unit == "usd":
        return dollars(value)
    if unit == "seconds":
        return f"{value:.3g} s"
    words = _WORDS.get(unit, unit.replace("_", " "))
    return f"{value:,.0f} {words.removesuffix('s') if value == 1 else words}"


def dollars(usd: float, decimals: int = 6) -> str:
    """Dollars with two decimals at least and `decimals` at most; of less than that, two digits that are not zero.

    >>> dollars(1), dollars(0.1 + 0.2), dollars(1234.5678), dollars(0.0000000312), dollars(-0.5)
    ('$1.00', '$0.30', '$1,234.5678', '$0.000000031', '-$0.50')
    """
    size = abs(usd)
    if not math.isfinite(size) or size >= _LARGEST:
        return f"${usd:.3g}"
    if size > _NOISE:
        decimals = max(decimals, 1 - math.floor(math.log10(size)))
    whole, _, part = f"{size:,.{decimals}f}".partition(".")
    return f"{'-' if usd < 0 else ''}${whole}.{part.rstrip('0'):0<2}"


_NOISE, _LARGEST = 1e-12, 1e12
"""Dollars: less is what floating point leaves of a difference, more is nobody's bill."""


def printable(text: str) -> str:
    r"""`text` without anything that is obeyed, not shown: control, escape and bidi characters, half surrogate pairs.

    >>> print(printable(f"search{chr(27)}[2J"))
    search\x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(map(_printable, text))


def _printable(char: str) -> str:
    return char if char.isprintable() else " " if category(char) == "Zs" else repr(char)[1:-1]


# --- the framework's own class on a stop --------------------------------------------------------------------------

_pass_through: list[type[BaseException]] = []
_combined: dict[type[RunStoppedError], type[RunStoppedError]] = {}


def register_pass_through(base: type[BaseException]) -> None:
    """Let every later stop also be a ``base``: the exception class a framework hands to its caller untouched."""
    if base not in _pass_through:
        _pass_through.append(base)
        _combined.clear()


def passes_through(error: BaseException) -> bool:
    """Is it what a framework hands to its caller untouched: a stop, or its own control flow?"""
    return isinstance(error, tuple(_pass_through))


def core_class(kind: type[RunStoppedError]) -> type[RunStoppedError]:
    """The class of this module behind a class that carries framework bases."""
    return next(base for base in kind.__mro__ if base.__module__ == __name__ and "_with_bases" not in vars(base))


def deliverable(error: RunStoppedError) -> RunStoppedError:
    """The same object, now also an instance of every registered pass-through base."""
    kind = core_class(type(error))
    if _pass_through and kind not in _combined:
        body: Mapping[str, Any] = {"__module__": kind.__module__, "__doc__": kind.__doc__, "_with_bases": True}
        _combined[kind] = type(kind.__name__, (kind, *_pass_through), dict(body))
    error.__class__ = _combined.get(kind, kind)
    return error


def _rebuild(kind: type[RunStoppedError], facts: dict[str, Any]) -> RunStoppedError:
    error = kind.__new__(kind)
    error.__dict__.update(facts, trace=None, partial=None)
    if "reason" not in facts:
        kind.__init__(error, **facts)
    return error
