"""Loops: a run that repeats itself and learns nothing by it.

Counting calls cannot tell a loop from work: polling, paging, filling in a form and retrying all repeat. What tells
them apart is what comes back, so every judgement here is about a call *and its answer*. Three ideas carry it.

**A streak**: how often in a row a call got the same answer. After `threshold` times it is not made again. A changed
answer ends the streak, so polling with progress never makes one; and in a cycle each call has a streak of its own,
so that A B A B, A B C and a set of parallel calls in any order need no rule for themselves.

**A ladder of likeness**: a model that is stuck seldom repeats itself to the letter. Words change places, a page
number grows, an id is fresh. So a call has up to five keys, one for each `Rung` from "the same call" down to "the
same tool", and a streak on each. The looser the likeness, the longer the streak must be, and the more the answer
must look like a failure (`Tells`): `patience` has the whole table. Searching ten subjects in vain is work, searching
for one in ten ways is not, and "saved" for ten different rows says nothing at all. Of thirty files, links or users
most may be missing, so a tool that misses whatever it is asked for is given up twelve thresholds on, no sooner.

**News**: an acknowledgement is always the same by nature. `wait` says "ok" between two looks at a status, `tab` says
"ok" between two fields of a form, and a date is the same all day. So a streak of these counts only while nothing new
happens anywhere in the tree: no answer unheard of, nothing new written. The same goes for hand-offs, whose texts drift
(`support` to `billing` and back, with no work in between), and for a model that says the same to the same question. A
tool that only thinks or logs makes no news, whatever it is told.

What an answer tells, and which of its pieces (clocks, request ids, counters of retries) are no part of it, is read in
`answers`; tools whose job these pieces are, in `manners`; the keys of a call in `canonical`; the words of the error in
`evidence`.

Streaks belong to an agent, by its name: twenty sub-agents may each look up the same thing. Only if many do, one after
the other, and all of them the same few things and no other, is that a loop too. What an agent tried counts for the
agents that work for it. Only what a call could have known is held against it: never calls in flight, nor what a branch
beside it learnt after its own had begun. Everything kept is bounded by the window, the last `window` calls of an agent,
and so is what a call costs, however long the run.

What it cannot see: a cycle longer than a third of the window; a loop whose every answer is new, or that makes news on
the way (reading a clock is news); a call that flips between two answers and nothing else; acknowledged writes that
differ in a counter only; one thing after another that is not found without the answer saying which; talk in which both
questions and texts keep changing. A budget ends those. And it takes for a loop what looks like one from outside: asking
a model for the same sample again and again, going through pages that hold nothing nine times in a row, thirty-six
names of which none is known, sub-agents of one name that one after the other look up the same. A higher `threshold`
allows those.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shearpin.errors import LoopDetectedError
from shearpin.rules.answers import Tells, read_answer
from shearpin.rules.canonical import Call, Rung, read_call
from shearpin.rules.evidence import Row, describe
from shearpin.rules.patience import AMONG_SIBLINGS, LADDER, PROOF
from shearpin.rules.protocol import Notice, Scene
from shearpin.rules.remembered import Frame, Known, is_new, most_of_one, path_to, streak_of, vain_row
from shearpin.trace import LLMSpan, Span

_CALLS = frozenset(["tool", "llm", "handoff"])
_FAILED = frozenset([Tells.MISSING, Tells.ERROR])
_FEWEST = 2
_FEW = 4
_AGENTS = 256
"""Agents remembered in one tree; beyond these, the one that has been idle longest is forgotten."""


@dataclass(frozen=True, slots=True)
class LoopBreaker:
    """Stops a run before it repeats itself once more.

    A call that got the same answer ``threshold`` times is not made again. Calls that are only alike need two to four
    times as much evidence, other calls of a tool that misses every time twelve times. What is repeated must lie within
    the last ``window`` calls of an agent, so cycles are seen up to a length of ``window / threshold``.

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


class LoopWatch:
    """The last answered calls of every agent in one run tree.

    Every event of a run comes here and nearly none belongs to a loop. So most of them touch a few counters only; what
    calls have in common is looked at once an answer has come often enough.
    """

    def __init__(self, window: int, threshold: int) -> None:
        self._window, self._threshold = window, threshold
        self._lanes: OrderedDict[tuple[str | None, bool], deque[Known]] = OrderedDict()
        self._times: dict[tuple[str, int], int] = {}
        """How often a tool gave an answer, over all lanes; which tools gave one often enough is in `_often`."""
        self._often: Counter[str] = Counter()
        self._rife: Counter[str] = Counter()
        """The tools that gave one often enough for a loop among siblings."""
        self._recent: deque[Known] = deque(maxlen=window)
        self._open: dict[str | None, Frame] = {}
        self._asked: Call | None = None
        self._numbers = {True: 0, False: 0}
        self._answers = self._news = self._drafts = 0

    def check(self, span: Span) -> LoopDetectedError | None:
        """The error that refuses `span` because it would only repeat what is known."""
        if not self._often or span.kind not in _CALLS:
            return None
        call = self._asked = read_call(span)
        if call is None or call.name not in self._often:
            return None
        frames = path_to(self._open.get(span.parent_id))
        past = self._past(call, frames)
        times = most_of_one(past)
        if max(times.values(), default=0) < self._threshold and call.name not in self._rife:
            return None
        past = [known for known in past if known.known_in(frames)]
        for rung, echo, patience in LADDER:
            # The keys of a call cost more than all the rest: not for a streak that is too short anyway.
            if rung is Rung.TOOL or any(times.get(tells, 0) >= n * self._threshold for tells, n in patience.items()):
                streak = streak_of(rung, call, past, echo=echo)
                vain = streak[-1].vain if streak and rung is Rung.TOOL and not echo else None
                if streak and self._suffices(rung, call, streak, patience, vain):
                    return describe(rung, call, streak, self._recent, vain)
        return self._among_siblings(call, frames) if call.name in self._rife else None

    def admit(self, span: Span) -> Iterable[Notice]:
        """The action starts."""
        number = 0
        if span.kind in _CALLS:
            model = span.kind == "llm"
            number = self._numbers[model] = self._numbers[model] + 1
        self._open[span.span_id] = Frame(span, self._open.get(span.parent_id), self._answers, number)
        return ()

    def settle(self, span: Span) -> Iterable[Notice]:
        """The action ended; what came back is evidence."""
        frame = self._open.pop(span.span_id, None)
        # A model that asks for tools has not said its last.
        if frame is not None and frame.number and not (isinstance(span, LLMSpan) and span.tool_calls):
            self._learn(frame)
        return ()

    def release(self, span: Span) -> None:
        """The action failed; that is an answer too."""
        self.settle(span)

    def recall(self, span: Span) -> None:
        """It was made and answered before the run went on in this process."""
        self.admit(span)
        self.settle(span)

    # --- what is known ----------------------------------------------------------------------------------------------

    def _past(self, call: Call, frames: Sequence[Frame]) -> list[Known]:
        """What the same tool answered to this agent and to those it works for, oldest first."""
        agents = dict.fromkeys([call.span.agent, *(frame.span.agent for frame in frames)])
        lanes = [lane for agent in agents if (lane := self._lanes.get((agent, call.manner.model))) is not None]
        past = [known for lane in lanes for known in lane if known.call.name == call.name]
        return past if len(lanes) <= 1 else sorted(past, key=lambda known: known.at)

    def _suffices(
        self, rung: Rung, call: Call, streak: Sequence[Known], patience: Mapping[Tells, int], vain: Row | None
    ) -> bool:
        last = streak[-1]
        needed = patience.get(last.answer.tells, 0) * self._threshold
        if not needed or max(len(streak), vain.times if vain else 0) < needed:
            return False
        proof = PROOF.get((rung, last.answer.tells))
        if proof is not None and not proof([known.call for known in streak]):
            return False
        date = call.manner.clock and last.answer.tells is Tells.ANSWER
        until_news = date or call.manner.idle or last.answer.tells is Tells.NOTHING
        return not until_news or streak[1 - needed].news == self._news_for(call)

    def _among_siblings(self, call: Call, frames: Sequence[Frame]) -> LoopDetectedError | None:
        """The error for a call that agents of many names have made one after the other, doing little else meanwhile."""
        if call.manner.model or call.manner.quiet:
            return None
        known = sorted((known for lane in self._lanes.values() for known in lane), key=lambda known: known.at)
        past = [one for one in known if one.call.name == call.name and one.known_in(frames)]
        streak, needed = streak_of(Rung.CALL, call, past, echo=True), AMONG_SIBLINGS * self._threshold
        if len(streak) < needed:
            return None
        lately = [one for one in known if one.at > streak[-needed].at and not one.call.manner.quiet]
        if len({(*one.key, one.answer.digest) for one in lately}) > needed // _FEW:
            return None
        return describe(Rung.CALL, call, streak, self._recent)

    # --- what is learnt ---------------------------------------------------------------------------------------------

    def _learn(self, frame: Frame) -> None:
        span, call = frame.span, self._asked
        if call is None or call.span is not span:
            call = read_call(span)
        answer = None if call is None else read_answer(call)
        if call is None or answer is None:
            return
        manner, tells = call.manner, answer.tells
        lane = self._lanes.get((span.agent, manner.model))
        if lane is None or len(self._lanes) > 1:
            lane = self._lane((span.agent, manner.model))
        key = call.name, answer.echoless
        times = self._times[key] = self._times.get(key, 0) + 1
        if times == self._threshold:
            self._often[call.name] += 1
        if times == self._threshold * AMONG_SIBLINGS:
            self._rife[call.name] += 1
        self._answers += 1
        vain = vain_row(frame, call, answer, lane) if tells in _FAILED else None
        # An answer that is the only one of its kind is news without a look at the others.
        if (manner.model or not manner.idle) and (times == 1 or is_new(lane, call, answer)):
            self._news += not manner.model
            self._drafts += manner.model and tells is Tells.LONG
        if len(lane) == self._window:
            self._forget(lane.popleft())
        known = Known(frame.number, call, answer, vain, self._answers, self._news_for(call), frame.outer)
        lane.append(known)
        self._recent.append(known)

    def _lane(self, key: tuple[str | None, bool]) -> deque[Known]:
        lane = self._lanes.setdefault(key, deque())
        self._lanes.move_to_end(key)
        if len(self._lanes) > _AGENTS:
            for known in self._lanes.popitem(last=False)[1]:
                self._forget(known)
        return lane

    def _forget(self, known: Known) -> None:
        key = name, _ = known.call.name, known.answer.echoless
        times = self._times[key] = self._times[key] - 1
        if not times:
            del self._times[key]
        for names, enough in ((self._often, self._threshold), (self._rife, self._threshold * AMONG_SIBLINGS)):
            if times == enough - 1:
                names[name] -= 1
                if not names[name]:
                    del names[name]

    def _news_for(self, call: Call) -> int:
        """Between hand-offs a long new text of a model is work done, too."""
        return self._news + self._drafts if call.manner.handoff else self._news
