"""Loops: a run that repeats itself and learns nothing by it.

Counting calls cannot tell a loop from work: polling, paging, filling in a form and retrying all repeat. What tells
them apart is what comes back, so every judgement here is about a call *and its answer*. Three ideas carry it.

**A streak**: how often in a row a call got the same answer. After `threshold` times it is not made again. A changed
answer ends the streak, so polling with progress never makes one; and in a cycle each call has a streak of its own,
so that A B A B, A B C and a set of parallel calls in any order need no rule for themselves.

**A ladder of likeness**: a model that is stuck seldom repeats itself to the letter. Words change places, a page
number grows, an id is fresh. So a call has up to five keys, one for each `Rung` from "the same call" down to "the
same tool", and a streak on each. The looser the likeness, the longer the streak must be, and the more the answer
must look like a failure (`Tells`): `PATIENCE` is the whole table. Searching ten subjects in vain is work, searching
for one in ten ways is not, and "saved" for ten different rows says nothing at all.

**News**: an acknowledgement is always the same by nature. `wait` says "ok" between two looks at a status, `tab` says
"ok" between two fields of a form. So a streak of acknowledgements counts only while nothing new happens anywhere in
the tree: no answer unheard of, nothing new written. The same goes for hand-offs, whose texts drift (`support` to
`billing` and back, with no work in between), and for a model that says the same to the same question. A tool that
only thinks or logs makes no news, whatever it is told.

What an answer tells, and which of its pieces (clocks, request ids, counters of retries) are no part of it, is read in
`answers`; the keys of a call in `canonical`; the words of the error in `evidence`.

Streaks belong to an agent, by its name: twenty sub-agents may each look up the same thing. What an agent tried counts
for the agents that work for it. Only what a call could have known is held against it: never calls in flight, nor what
a branch beside it learnt after its own had begun. Everything kept is bounded by the window, the last `window` calls
of an agent, and a call costs one look through it, however long the run.

What it cannot see: a cycle longer than a third of the window; a loop whose every answer is new, or that makes news on
the way (reading a clock is news); a call that flips between two answers and nothing else; acknowledged writes that
differ in a counter only; talk in which both questions and texts keep changing. A budget ends those. And it takes for
a loop what looks like one from outside: asking a model for the same sample again and again, going through pages or
days that hold nothing nine times in a row, sub-agents of one name that one after the other look up the same. A higher
`threshold` allows those.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile, zip_longest

from shearpin.errors import LoopDetectedError
from shearpin.rules.answers import Answer, Tells, read_answer
from shearpin.rules.canonical import Call, Rung, only_tick, read_call, same_subject
from shearpin.rules.evidence import Action, describe
from shearpin.rules.protocol import Notice, Scene
from shearpin.trace import Span

PATIENCE: Mapping[Rung, Mapping[Tells, int]] = {
    Rung.CALL: {Tells.NOTHING: 1, Tells.ANSWER: 1, Tells.LONG: 1, Tells.EMPTY: 1, Tells.ERROR: 1},
    Rung.WORDS: {Tells.ANSWER: 2, Tells.LONG: 1, Tells.EMPTY: 1, Tells.ERROR: 1},
    Rung.BOOKKEEPING: {Tells.ANSWER: 2, Tells.LONG: 2, Tells.EMPTY: 2, Tells.ERROR: 2},
    Rung.NUMBERS: {Tells.ANSWER: 3, Tells.LONG: 3, Tells.EMPTY: 3, Tells.ERROR: 2},
    Rung.TOOL: {Tells.LONG: 4, Tells.EMPTY: 4, Tells.ERROR: 3},
}
"""How long a streak must be, in thresholds, by likeness of the calls and by what the answers tell."""

_PROOF: Mapping[tuple[Rung, Tells], Callable[[Sequence[Call]], bool]] = {
    (Rung.NUMBERS, Tells.ANSWER): only_tick,
    (Rung.TOOL, Tells.EMPTY): same_subject,
}
"""Where honest work looks the same by its keys, what else the calls must have in common."""

_PATIENT = 3
"""Thresholds from which an answer that differs only in its echo of the call is the same answer."""
_FEWEST = 2
_AGENTS = 256
"""Agents remembered in one tree; beyond these, the one that has been idle longest is forgotten."""


@dataclass(frozen=True, slots=True)
class LoopBreaker:
    """Stops a run before it repeats itself once more.

    A call that got the same answer ``threshold`` times is not made again. Calls that are only alike need two to four
    times as much evidence. All of it must lie within the last ``window`` calls of an agent, so cycles are seen up to
    a length of ``window / threshold``.

    Raises ValueError unless ``2 <= threshold <= window``, both whole numbers.
    """

    window: int = 20
    threshold: int = 3

    name = "LoopBreaker"

    def __post_init__(self) -> None:
        for given in ("window", "threshold"):
            value: object = getattr(self, given)
            _require(isinstance(value, int) and not isinstance(value, bool), f"{given}={value!r}", "a whole number")
        _require(self.threshold >= _FEWEST, f"threshold={self.threshold}", "2 or more: one call is no repetition")
        both = f"window={self.window}, threshold={self.threshold}"
        _require(self.window >= self.threshold, both, "a window that holds the repetitions")

    def watch(self, scene: Scene) -> LoopWatch:  # noqa: ARG002 - a loop shows in the calls alone
        """Begin to watch one run tree."""
        return LoopWatch(self.window, self.threshold)


def _require(condition: bool, what: str, wanted: str) -> None:
    if not condition:
        raise ValueError(f"LoopBreaker({what}): must be {wanted}")


@dataclass(slots=True, eq=False)
class _Frame:
    """A span that is open: a call, or what calls happen in. `since` counts the answers there were when it began."""

    span: Span
    call: Call | None
    number: int
    since: int
    around: tuple[_Frame, ...]
    """The frames it is in, outermost first."""


@dataclass(slots=True, eq=False)
class _Known(Action):
    """An answered call, with how many answers and how much news there had been, and the frames it came in."""

    at: int
    news: int
    around: tuple[_Frame, ...]

    def known_in(self, frames: tuple[_Frame, ...]) -> bool:
        """Could a call in `frames` know of it? Not if it came from a branch beside, after ours had begun."""
        for mine, theirs in zip_longest(frames, self.around[: len(frames)]):
            if mine is not theirs:
                return self.at <= mine.since
        return True


class LoopWatch:
    """The last answered calls of every agent in one run tree."""

    def __init__(self, window: int, threshold: int) -> None:
        self._window, self._threshold = window, threshold
        self._lanes: OrderedDict[tuple[str | None, bool], deque[_Known]] = OrderedDict()
        self._recent: deque[_Known] = deque(maxlen=window)
        self._open: dict[str, _Frame] = {}
        self._asked: tuple[Span, Call | None] | None = None
        self._numbers = {True: 0, False: 0}
        self._answers = self._news = self._drafts = 0

    def check(self, span: Span) -> LoopDetectedError | None:
        """The error that refuses `span` because it would only repeat what is known."""
        call = self._call(span)
        if call is None:
            return None
        frames = self._around(span)
        past = self._past(call, frames)
        if not self._repetitive(past):
            return None
        past = [known for known in past if known.known_in(frames)]
        for rung in Rung:
            streak = _streak(rung, call, past)
            if streak and self._suffices(rung, call, streak):
                return describe(rung, call, streak, self._recent)
        return None

    def admit(self, span: Span) -> Iterable[Notice]:
        """The action starts."""
        call = self._call(span)
        number = 0
        if call is not None:
            number = self._numbers[call.manner.model] = self._numbers[call.manner.model] + 1
        self._open[span.span_id] = _Frame(span, call, number, self._answers, self._around(span))
        return ()

    def settle(self, span: Span) -> Iterable[Notice]:
        """The action ended; what came back is evidence."""
        frame = self._open.pop(span.span_id, None)
        if frame is not None and frame.call is not None and (answer := read_answer(frame.call)) is not None:
            self._learn(frame, frame.call, answer)
        return ()

    def release(self, span: Span) -> None:
        """The action failed; that is an answer too."""
        self.settle(span)

    def _call(self, span: Span) -> Call | None:
        """The call that `span` is; its check and its admission share one, so that it is read once."""
        if self._asked is None or self._asked[0] is not span:
            self._asked = span, read_call(span)
        return self._asked[1]

    def _around(self, span: Span) -> tuple[_Frame, ...]:
        outer = self._open.get(span.parent_id or "")
        return () if outer is None else (*outer.around, outer)

    # --- what is known ----------------------------------------------------------------------------------------------

    def _past(self, call: Call, frames: tuple[_Frame, ...]) -> list[_Known]:
        """What the same tool answered to this agent and to those it works for, oldest first."""
        agents = dict.fromkeys([call.span.agent, *(frame.span.agent for frame in frames)])
        lanes = [lane for agent in agents if (lane := self._lanes.get((agent, call.manner.model))) is not None]
        past = [known for lane in lanes for known in lane if known.call.name == call.name]
        return past if len(lanes) <= 1 else sorted(past, key=lambda known: known.at)

    def _repetitive(self, past: list[_Known]) -> bool:
        """Has any answer come often enough for any rung? Most calls need no closer look."""
        answers = [known.answer.echoless for known in past]
        if len(answers) - len(set(answers)) + 1 < self._threshold:
            return False
        return max(Counter(answers).values()) >= self._threshold

    def _suffices(self, rung: Rung, call: Call, streak: Sequence[_Known]) -> bool:
        answer = streak[-1].answer
        needed = PATIENCE[rung].get(answer.tells, 0) * self._threshold
        if not needed or len(streak) < needed:
            return False
        proof = _PROOF.get((rung, answer.tells))
        if proof is not None and not proof([known.call for known in streak]):
            return False
        until_news = call.manner.idle or answer.tells is Tells.NOTHING
        return not until_news or streak[1 - needed].news == self._news_for(call)

    # --- what is learnt ---------------------------------------------------------------------------------------------

    def _learn(self, frame: _Frame, call: Call, answer: Answer) -> None:
        lane = self._lane((frame.span.agent, call.manner.model))
        self._answers += 1
        self._hear(lane, call, answer)
        known = _Known(frame.number, call, answer, self._answers, self._news_for(call), frame.around)
        lane.append(known)
        self._recent.append(known)

    def _lane(self, key: tuple[str | None, bool]) -> deque[_Known]:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = deque(maxlen=self._window)
            if len(self._lanes) > _AGENTS:
                self._lanes.popitem(last=False)
        self._lanes.move_to_end(key)
        return lane

    def _hear(self, lane: Iterable[_Known], call: Call, answer: Answer) -> None:
        """News is an answer this tool has not given of late or, where answers tell nothing, a call not made."""
        if call.manner.idle and not call.manner.model:
            return
        heard = (known for known in lane if known.call.name == call.name and known.answer.digest == answer.digest)
        if answer.tells is Tells.NOTHING:
            heard = (known for known in heard if known.call.keys[Rung.CALL] == call.keys[Rung.CALL])
        new = next(heard, None) is None
        self._news += new and not call.manner.model
        self._drafts += new and call.manner.model and answer.tells is Tells.LONG

    def _news_for(self, call: Call) -> int:
        """Between hand-offs a long new text of a model is work done, too."""
        return self._news + self._drafts if call.manner.handoff else self._news


def _streak(rung: Rung, call: Call, past: Sequence[_Known]) -> list[_Known]:
    """How often in a row calls like `call` got the same answer, up to the last one."""
    key = call.keys[rung]
    alike = [known for known in past if known.call.keys[rung] == key] if key is not None else []
    if not alike:
        return []
    last = alike[-1].answer
    echo = PATIENCE[rung].get(last.tells, 0) < _PATIENT
    return list(takewhile(lambda known: known.answer.same(last, echo=echo), reversed(alike)))[::-1]
