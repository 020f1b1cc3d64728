"""The live state of one run tree: one outermost run, everything inside it, and the stop they share.

All of it is guarded by one lock, held for microseconds and never while user code runs: what goes into the trace is
made plain data before. What a rule answers becomes an admission, a wait or a stop here and nowhere else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal

from shearpin.errors import RunStoppedError, ShearpinError, ToldError, deliverable
from shearpin.rules.approval import Answer, ApprovalRequest
from shearpin.rules.policy import PolicyWatch
from shearpin.rules.protocol import Notice, Question, Rule, Scene, Watch
from shearpin.runs.charging import charge
from shearpin.runs.counting import Calls
from shearpin.runs.journal import Journal
from shearpin.runs.refusing import Refusal, bug_in, watch_of
from shearpin.runs.settings import Settings
from shearpin.runs.steps import Steps
from shearpin.runs.trouble import quietly
from shearpin.runs.waiting import Waiters, owner_here
from shearpin.trace import DecisionSpan, LLMSpan, Span, Stop, ToolSpan, Trace
from shearpin.trace.model import TraceStatus
from shearpin.trace.spans import SpanStatus

Cost = Literal["settle", "release"]


_NOT_CALLED = (("paused", "settle"), ("paused", "release"), ("cancelled", "release"))
"""How a tool call ends whose tool has not run, or will run anew."""

Outbox = list[DecisionSpan]
"""Warnings recorded under the lock, told to the user's callbacks after it."""


class Tree:
    """One run tree. `attempt` and `refuse` may raise the stop; `end` and `finish` never raise."""

    def __init__(self, settings: Settings, trace: Trace) -> None:
        self.settings = settings
        self.trace = trace
        self.lock = threading.RLock()
        self.journal = Journal(settings, trace)
        self.calls = Calls(trace)
        self.stop: RunStoppedError | None = None
        self.partial: Any = None
        self.ended = False
        self.warning_callbacks: list[Callable[[DecisionSpan], object]] = []
        self.steps = Steps(trace, self.journal.open)
        self.changed = threading.Condition(self.lock)
        self.waiters = Waiters(self.changed)
        self._owners: dict[str, int] = {}
        self._observed: set[int] = set()
        self._asking: set[str] = set()
        self.watch()

    def watch(self) -> None:
        """Let the rules begin to count, from what the trace amounts to."""
        clock = self.journal.clock
        scene = Scene(self.trace, self.settings.prices, clock.elapsed_seconds, self.steps.in_flight)
        self.watches: list[tuple[Rule, Watch]] = [(rule, watch_of(rule, scene)) for rule in self.settings.rules]

    # --- an action starts -----------------------------------------------------------------------------------------

    def begin(self, root: Span) -> None:
        """The outermost run starts; nothing refuses that."""
        with self.lock:
            self._admit(root, [])

    def attempt(self, span: Span, outbox: Outbox) -> list[Refusal]:
        """Admit and return nothing, or who refuses, with who decides first; raises the stop of a stopped run."""
        if self.stop is not None:
            raise self.stop.with_traceback(None)
        if self.ended:
            raise ShearpinError(f"{span.kind} {span.name} cannot start: its run {self.trace.name!r} has ended")
        self.steps.propose(span)
        refusals: list[Refusal] = []
        for rule, watch in self.watches:
            try:
                error: RunStoppedError | Question | None = watch.check(span)
            except Exception as bug:  # noqa: BLE001 - a rule that cannot answer is a rule that is broken: fail closed
                error = bug_in(rule, bug)
            if error is not None:
                refusals.append(Refusal(rule, error, watch))
        if not refusals:
            self._admit(span, outbox)
        elif len(refusals) > 1:  # what waiting cannot lift decides; waiting for the others first would be in vain
            refusals.sort(key=lambda refusal: refusal.weight(self.patience_ns(span, refusal)))
        return refusals

    def patience_ns(self, span: Span, refusal: Refusal) -> int:
        """How long `span` may wait for the reason of `refusal` to pass: never for what it is nested in."""
        here, spans = owner_here(), self.journal.open
        stuck = {owner for owner, runner in self._owners.items() if runner == here}
        parent = spans.get(span.parent_id or "")
        while parent is not None:
            stuck.add(parent.span_id)
            parent = spans.get(parent.parent_id or "")
        return int(refusal.patience(span, stuck) * 1e9)

    def _admit(self, span: Span, outbox: Outbox) -> None:
        # In this order, a signal's handler may raise anywhere in it: what was begun can be ended.
        span.start_ns = self.journal.clock.now_ns()
        self.steps.commit(span)
        self.journal.start(span)
        self.calls.count(span)
        if isinstance(span, LLMSpan):
            self._owners[span.span_id] = owner_here()
        self.waiters.wake()  # a node that decides now holds its step no longer
        for rule, watch in self.watches:
            try:
                notices = watch.admit(span)
            except Exception as bug:  # noqa: BLE001 - the rule lost count: nothing more may start
                self.stop_now(rule.name, bug_in(rule, bug), span)
            else:
                if notices:
                    self._warn(rule, notices, span, outbox)

    # --- an action ends -------------------------------------------------------------------------------------------

    def end(
        self,
        span: Span,
        fields: dict[str, Any],
        *,
        status: SpanStatus = "ok",
        error: BaseException | None = None,
        cost: Cost = "settle",
    ) -> None:
        """`span` ended; a second end of the same span is ignored."""
        if span.span_id not in self.journal.open:
            return
        if "output" in fields:
            fields["stored_output"] = self.trace.pool.value(fields.pop("output"))
        outbox: Outbox = []
        with self.lock:
            if span.span_id not in self.journal.open:
                return
            self.journal.end(span, fields, status, error)
            self._close(span, cost, outbox)
            self.journal.open.pop(span.span_id, None)  # last: if a signal comes before, it is ended once more
            self.journal.ended(span)
            self.waiters.wake()
        if outbox:
            self.tell(outbox)

    def withdraw(self, span: Span) -> None:
        """`span` was admitted, if it was, and is not made after all."""
        self.end(span, {}, status="cancelled", cost="release")

    def _close(self, span: Span, cost: Cost, outbox: Outbox) -> None:
        if isinstance(span, LLMSpan):
            self._close_model_call(span, cost)
        elif isinstance(span, ToolSpan) and (
            span.status == "paused" or (span.status, cost) == ("cancelled", "release")
        ):
            self.calls.uncount_tool(span)
        self.steps.close(span)
        self.journal.total(span)
        for rule, watch in self.watches:
            try:
                notices: Iterable[Notice] = ()
                if cost == "settle":
                    notices = watch.settle(span)
                else:
                    watch.release(span)
            except Exception as bug:  # noqa: BLE001 - the rule lost count: nothing more may start
                self.stop_now(rule.name, bug_in(rule, bug), span)
            else:
                if notices:
                    self._warn(rule, notices, span, outbox)

    def _close_model_call(self, span: LLMSpan, cost: Cost) -> None:
        if span.span_id not in self._owners:  # done already, or not counted yet
            return
        if cost == "settle":
            charge(span, self.trace, self.settings.prices, self.settings.terms)
        elif span.kind == "llm" and span.status == "cancelled":
            self.calls.uncount_unmade()
            self.steps.withdraw(span)
        del self._owners[span.span_id]
        if span.tool_calls:
            asked = {call["id"]: call for call in span.tool_calls if call.get("id")}
            self.calls.ask(asked)
            self.steps.asked(span, asked)

    def finish(self, status: TraceStatus, fields: dict[str, Any], error: BaseException | None = None) -> None:
        """The outermost run ended: end what is still open, close the trace, hand it on. Once."""
        with self.lock:
            if self.ended:
                return
            for span in reversed(list(self.journal.open.values())):
                if span.parent_id is None:
                    self.end(span, fields, status=status, error=error)
                else:
                    self.end(span, {}, status=status if span.kind == "agent" or status != "ok" else "cancelled")
            if self.stop is not None:
                self.stop.partial = self.partial
            self.journal.finish(status)
            self.settings.on_end(self)
            self.ended = True

    # --- pauses ---------------------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """A paused run goes on: what it spent and did before still counts."""
        with self.lock:
            self.ended = False
            self.journal.reopen()

    # --- stops and warnings ---------------------------------------------------------------------------------------

    def stop_now(self, rule: str, error: RunStoppedError, span: Span | None = None) -> RunStoppedError:
        """Latch: from here on nothing starts in this tree. The first stop wins."""
        with self.lock:
            if self.stop is None:
                decision = self.journal.decide(rule, "stop", str(error), error.as_dict(), refused=span)
                self.stop = deliverable(error)
                error.trace, error.partial = self.trace, self.partial
                self.trace.stop = Stop(error, rule, decision.span_id)
                self.waiters.wake()
            return self.stop

    def refuse(self, span: Span, refusals: list[Refusal]) -> Question | None:
        """Raise the stop or the denial, or return what must be asked first."""
        first = refusals[0]
        if isinstance(first.error, Question):
            self._note(span, first)
            return first.error
        if first.verdict is not None:
            first.record(self.journal, span)
        if first.tells:
            raise self._told(span, first.error)
        raise self.stop_now(first.rule.name, first.error, span)

    def questions(self, spans: Iterable[Span]) -> list[ApprovalRequest]:
        """What a person has to be asked about these calls, in the framework's own way; noted as asked."""
        asked: list[ApprovalRequest] = []
        with self.lock:
            policies = [(rule, watch) for rule, watch in self.watches if isinstance(watch, PolicyWatch)]
            for span in spans if self.settings.enforce and policies else ():
                self.steps.propose(span)
                for rule, watch in policies:
                    question = watch.check(span)
                    if isinstance(question, Question) and question.approver is None:
                        self._note(span, Refusal(rule, question, watch))
                        asked.append(question.request)
                        break
        return asked

    def _note(self, span: Span, asked: Refusal) -> None:
        if _key(span) not in self._asking:  # a paused call that goes on asks again
            self._asking.add(_key(span))
            asked.record(self.journal, span)

    def observe(self, span: Span, refusals: list[Refusal], outbox: Outbox, *, waits: bool) -> None:
        """Note who would have refused `span`, and let it in at once; a caller that `waits` might have got in later."""
        for refusal in refusals:
            # A rule that stops would refuse every later call too: one record says it all.
            known = refusal.verdict is None and id(refusal.watch) in self._observed
            if not known and not (waits and self.patience_ns(span, refusal)):
                self._observed.add(id(refusal.watch))
                refusal.record(self.journal, span, observed=True)
        self._admit(span, outbox)

    def _told(self, span: Span, denial: RunStoppedError) -> ToldError:
        """The call is answered without being made; to the rules it is evidence all the same."""
        told = ToldError(denial, span.name)
        self.steps.start_tool(span)
        span.start_ns = span.end_ns = self.journal.clock.now_ns()
        span.status, span.stored_output = "error", self.trace.pool.value(told.text)
        for rule, watch in self.watches:
            try:
                watch.recall(span)
            except Exception as bug:  # noqa: BLE001 - the rule lost count: nothing more may start
                self.stop_now(rule.name, bug_in(rule, bug), span)
        return told

    def answered(self, span: Span, question: Question, answer: Answer) -> None:
        """A person has decided about `span`; the rules are asked anew."""
        with self.lock:
            self._asking.discard(_key(span))
            question.answered(span, answer)

    def _warn(self, rule: Rule, notices: Iterable[Notice], span: Span, outbox: Outbox) -> None:
        decisions = [
            self.journal.decide(rule.name, note.verdict, note.reason, note.facts, touched=span) for note in notices
        ]
        outbox += [decision for decision in decisions if decision.verdict == "warn"]

    def tell(self, outbox: Outbox) -> None:
        """The warnings recorded under the lock go to the user's callbacks."""
        for decision in outbox:
            for callback in self.warning_callbacks:
                quietly(callback, decision)


def _key(span: Span) -> str:
    """Which call it is, when it is tried again after a pause."""
    return (span.call_id if isinstance(span, ToolSpan) else None) or span.span_id
