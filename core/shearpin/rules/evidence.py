"""What a loop looked like, for the error: which calls, how often, since when, and what did not change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from shearpin.errors import LoopDetectedError
from shearpin.rules.answers import Answer
from shearpin.rules.canonical import Call, Rung, is_dict, is_list
from shearpin.trace import LLMSpan, Span

_TEXT, _LINE, _ITEMS, _DEPTH = 32, 100, 4, 3
"""How much is shown: characters of a text and of a line, items of a list, lists within lists."""
_SHOWN = 3
"""Calls shown of a streak in which every call is another."""


class Row(NamedTuple):
    """How many times in a row, and since which call."""

    times: int
    onset: int


@dataclass(slots=True, eq=False)
class Action:
    """A call that was made and answered: the `number`-th of its run (model calls are numbered apart)."""

    number: int
    call: Call
    answer: Answer
    vain: Row | None
    """For a failure, how long its tool has been failing like this, whatever the arguments."""

    @property
    def key(self) -> tuple[str, int | None]:
        """Equal for the same call."""
        return self.call.name, self.call.exact

    @property
    def step(self) -> int:
        """The model decision it belongs to; 0 if that is not known."""
        return self.call.span.step


def describe(
    rung: Rung, refused: Call, streak: Sequence[Action], recent: Iterable[Action], vain: Row | None = None
) -> LoopDetectedError:
    """The error for `refused`, which `streak` says not to make again; `recent` is what happened last in the tree.

    `vain` if the streak goes further back than what is remembered of it.
    """
    repeats, onset = max(Row(len(streak), streak[0].number), vain or Row(0, 0))
    recent = [action for action in recent if action.call.manner.model == refused.manner.model]
    together = _decided_together(refused, streak[-1], recent)
    round_ = together or _since(refused, streak[-1], recent)
    if rung is Rung.TURN:
        pattern, shown = "a cycle of texts from the model", streak[-1:]
    elif refused.manner.model:
        pattern, shown = "the same text from the model", streak[-1:]
    elif refused.manner.handoff:
        pattern, shown = "a hand-off ping-pong", round_
    elif rung > Rung.WORDS:
        pattern, shown = "the same result whatever the arguments", streak[-_SHOWN:]
    elif len(round_) == 1:
        pattern, shown = "the same call with the same result", round_
    elif together:
        pattern, shown = "the same set of parallel calls", round_
    else:
        pattern, shown = f"a cycle of {len(round_)} calls", round_
    return LoopDetectedError(
        pattern=pattern,
        calls=[render_call(action.call) for action in shown],
        repeats=repeats,
        onset=min([onset, *(action.number for action in _beside(streak[0], round_, recent))]),
        unchanged=render_answer(streak[-1].call.span),
    )


def _decided_together(refused: Call, last: Action, recent: Iterable[Action]) -> Sequence[Action]:
    """The calls that one decision asked for, if `last` was one of several and `refused` belongs to a new decision."""
    if last.step in (0, refused.span.step):
        return ()
    mates = _repeated([action for action in recent if action.step == last.step], recent)
    return mates if len(mates) > 1 and last in mates else ()


def _since(refused: Call, last: Action, recent: Iterable[Action]) -> Sequence[Action]:
    """One round of the cycle: what came since `last`, without what came only once."""
    agent = refused.span.agent
    since = [a for a in recent if a.number >= last.number and (refused.manner.handoff or a.call.span.agent == agent)]
    return _repeated(since, recent) or (last,)


def _repeated(actions: Iterable[Action], recent: Iterable[Action]) -> Sequence[Action]:
    times = Counter(action.key for action in recent)
    return list({action.key: action for action in actions if times[action.key] > 1}.values())


def _beside(first: Action, round_: Iterable[Action], recent: Iterable[Action]) -> Iterable[Action]:
    """The calls of the round that the decision for `first` asked for with it, and that may have come before it."""
    keys = {action.key for action in round_}
    return [action for action in recent if first.step and action.step == first.step and action.key in keys]


# --- rendering: one short line, whatever is in it ------------------------------------------------------------------


def render_call(call: Call) -> str:
    """A call as code: ``search(q='x', n=5)``."""
    given = call.span.input
    if call.manner.model:
        return _escaped(call.span.name)
    if call.span.kind == "handoff" and is_dict(given):
        return _cut(f"handoff({_short(given.get('from'))}, {_short(given.get('to'))})")
    if is_dict(given):
        shown = [f"{_escaped(str(key))}={_short(value)}" for key, value in islice(given.items(), _ITEMS)]
        inside = _listed(shown, len(given))
    else:
        inside = "" if given is None else _short(given)
    return _cut(f"{_escaped(call.name)}({inside}", _LINE - 1) + ")"


def render_answer(span: Span) -> str:
    """The head of what came back."""
    if isinstance(span, LLMSpan):
        return _cut(_short(span.reply, _LINE))
    if span.error is not None:
        return _cut(f"{_escaped(span.error.type)}: {_escaped(span.error.message, _LINE)}")
    return "" if span.kind == "handoff" else _cut(_short(span.output, _LINE))


def _short(value: object, length: int = _TEXT, depth: int = 0) -> str:
    """A repr of bounded length: control and invisible characters come out escaped, so it stays on one line."""
    if isinstance(value, str):
        return repr(value[:length] + ("…" if len(value) > length else ""))
    if depth >= _DEPTH:
        return "…"
    if is_dict(value):
        items = [f"{_short(str(k))}: {_short(v, depth=depth + 1)}" for k, v in islice(value.items(), _ITEMS)]
        return "{" + _listed(items, len(value)) + "}"
    if is_list(value):
        items = [_short(item, depth=depth + 1) for item in islice(value, _ITEMS)]
        return "[" + _listed(items, len(value)) + "]"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "<large number>"
    return _cut(repr(value), length)


def _listed(items: list[str], total: int) -> str:
    return ", ".join(items) + (", …" if total > _ITEMS else "")


def _escaped(text: str, length: int = 2 * _TEXT) -> str:
    return _short(text, length)[1:-1]


def _cut(text: str, length: int = _LINE) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
