"""The live state of one run tree: one outermost run, everything inside it, and the stop they share.

All of it is guarded by one lock, held for microseconds and never while user code runs. What a rule answers becomes
an admission, a wait or a stop here and nowhere else; so does every write to the trace.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from shearpin.errors import BudgetExceededError, RunStoppedError, ShearpinError, deliverable
from shearpin.rules.budget import BudgetWatch
from shearpin.rules.protocol import Notice, Rule, Scene, Watch
from shearpin.runs.carrying import Carried
from shearpin.runs.charging import charge, expected_output
from shearpin.runs.clock import Clock
from shearpin.runs.counting import Calls
from shearpin.runs.settings import Settings
from shearpin.runs.steps import Steps
from shearpin.runs.trouble import describe_error, quietly
from shearpin.runs.waiting import Waiters, on_event_loop, owner_here
from shearpin.trace import DecisionSpan, LLMSpan, Span, Stop, ToolSpan, Trace, source
from shearpin.trace.model import SPAN_CLASSES, SpanStatus, TraceStatus, Verdict

Cost = Literal["settle", "release"]


@dataclass(slots=True)
class _Refusal:
    rule: str
    error: RunStoppedError
    watch: Watch | None = None


_Outbox = list[DecisionSpan]
"""Warnings recorded under the lock, told to the user's callbacks after it."""


class Tree:
    """One run tree. `start` may raise the stop; `end` and `finish` never raise."""

    def __init__(self, settings: Settings, trace: Trace) -> None:
        self.settings = settings
        self.trace = trace
        self.lock = threading.RLock()
        self.clock = Clock()
        self.calls = Calls(trace)
        self.stop: RunStoppedError | None = None
        self.open: dict[str, Span] = {}
        self.partial: Any = None
        self.ended = False
        self.warning_callbacks: list[Callable[[DecisionSpan], object]] = []
        self._exporters = settings.exporters
        self._steps = Steps(trace, self.open)
        self._changed = threading.Condition(self.lock)
        self._waiters = Waiters(self._changed)
        self._owners: dict[str, int] = {}
        self._observed: set[str] = set()
        self._numbers = itertools.count(source.new_span_base())
        self._watch()
        trace.started_ns = self.clock.now_ns()

    def _watch(self) -> None:
        scene = Scene(self.trace, self.settings.prices, self.clock.elapsed_seconds, self._steps.in_flight)
        self.watches: list[tuple[Rule, Watch]] = [(rule, rule.watch(scene)) for rule in self.settings.rules]

    # --- an action starts -----------------------------------------------------------------------------------------

    def begin(self, root: Span) -> None:
        """The outermost run starts; nothing refuses that."""
        with self.lock:
            self._admit(root, [])

    def new(self, kind: str, name: str, parent: Span | None, fields: dict[str, Any]) -> Span:
        """A span that has not started. ``messages``, ``tools``, ``input`` go through the pool."""
        span_id, parent_id = source.span_id(next(self._numbers)), None if parent is None else parent.span_id
        agent = name if kind == "agent" else None if parent is None else parent.agent
        span = SPAN_CLASSES.get(kind, Span)(span_id, parent_id, kind, name, agent)  # type: ignore[arg-type]
        self.fill(span, fields)
        return span

    def fill(self, span: Span, fields: dict[str, Any]) -> None:
        """Set what is known of `span` before it starts, or, of one admitted in advance, when it really does."""
        pool = self.trace.pool
        with self.lock:
            if "messages" in fields:
                span.stored_input = pool.chain(fields.pop("messages"))
            if "input" in fields:
                span.stored_input = pool.value(fields.pop("input"))
            if isinstance(span, LLMSpan) and "tools" in fields:
                tools = fields.pop("tools")
                span.stored_tools = pool.constant(tools) if tools else None
            for name, value in fields.items():
                setattr(span, name, value)

    def start(self, span: Span) -> Span:
        """Admit `span` or raise the stop. In a thread it waits when only calls in flight are in the way."""
        outbox: _Outbox = []
        with self.lock:
            refusal = self._try(span, outbox)
            if refusal is not None and not on_event_loop():
                refusal = self._wait(span, refusal, outbox)
            if refusal is not None:
                self._refuse(span, refusal, outbox)
        if outbox:
            self._tell(outbox)
        return span

    async def astart(self, span: Span) -> Span:
        """`start` for a coroutine: waits without blocking the event loop, and leaks nothing when cancelled."""
        outbox: _Outbox = []
        deadline: int | None = None
        while True:
            with self.lock:
                refusal = self._try(span, outbox)
                if refusal is None:
                    break
                patience = self._patience_ns(span, refusal)
                deadline = deadline or source.mono_ns() + patience
                left = (deadline - source.mono_ns()) / 1e9
                if not patience or left <= 0:
                    self._refuse(span, refusal, outbox)
                    break
                future = self._waiters.add()
            try:
                await asyncio.wait_for(future, left)
            except TimeoutError:
                continue
            finally:
                self._waiters.discard(future)
        self._tell(outbox)
        return span

    def _wait(self, span: Span, refusal: _Refusal, outbox: _Outbox) -> _Refusal | None:
        deadline = source.mono_ns() + self._patience_ns(span, refusal)
        while (left := (deadline - source.mono_ns()) / 1e9) > 0:
            self._waiters.threads += 1
            self._changed.wait(left)
            self._waiters.threads -= 1
            again = self._try(span, outbox)
            if again is None or not self._patience_ns(span, again):
                return again
            refusal = again
        return refusal

    def _try(self, span: Span, outbox: _Outbox) -> _Refusal | None:
        """Admit and return None, or say who refuses; raises the stop of a stopped run."""
        if self.stop is not None:
            raise self.stop.with_traceback(None)
        if self.ended:
            raise ShearpinError(f"{span.kind} {span.name} cannot start: its run {self.trace.name!r} has ended")
        self._steps.propose(span)
        refusals: list[_Refusal] = []
        for rule, watch in self.watches:
            try:
                error = watch.check(span)
            except Exception as bug:  # noqa: BLE001 - a rule that cannot answer is a rule that is broken: fail closed
                refusals.append(_Refusal(rule.name, _bug(rule, bug)))
            else:
                if error is not None:
                    refusals.append(_Refusal(rule.name, error, watch))
        if not refusals:
            self._admit(span, outbox)
            return None
        # A refusal that waiting cannot lift decides; waiting for the others first would be in vain.
        return next((refusal for refusal in refusals if not self._patience_ns(span, refusal)), refusals[0])

    def _patience_ns(self, span: Span, refusal: _Refusal) -> int:
        in_flight = isinstance(refusal.error, BudgetExceededError) and refusal.error.in_flight
        if not in_flight or not isinstance(refusal.watch, BudgetWatch):
            return 0
        here = owner_here()
        stuck = {owner for owner, runner in self._owners.items() if runner == here}
        parent = self.open.get(span.parent_id or "")
        while parent is not None:
            stuck.add(parent.span_id)
            parent = self.open.get(parent.parent_id or "")
        return int(refusal.watch.patience(span, stuck) * 1e9)

    def _admit(self, span: Span, outbox: _Outbox) -> None:
        span.start_ns = self.clock.now_ns()
        self._steps.commit(span)
        self.calls.count(span)
        if isinstance(span, LLMSpan):
            self._owners[span.span_id] = owner_here()
        self.open[span.span_id] = span
        self.trace.spans.append(span)
        self._waiters.wake()  # a node that decides now holds its step no longer
        if self._exporters:
            self._export("span_started", span)
        for rule, watch in self.watches:
            try:
                notices = watch.admit(span)
            except Exception as bug:  # noqa: BLE001 - the rule lost count: nothing more may start
                self.stop_now(rule.name, _bug(rule, bug), span)
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
        outbox: _Outbox = []
        with self.lock:
            if self.open.pop(span.span_id, None) is None:
                return
            if "output" in fields:
                span.stored_output = self.trace.pool.value(fields.pop("output"))
            for name, value in fields.items():
                setattr(span, name, value)
            span.end_ns, span.status = self.clock.now_ns(), status
            if error is not None and status != "paused":
                span.error = describe_error(error)
            self._close(span, cost, outbox)
        if outbox:
            self._tell(outbox)

    def _close(self, span: Span, cost: Cost, outbox: _Outbox) -> None:
        if isinstance(span, LLMSpan):
            self._close_model_call(span, cost)
        elif isinstance(span, ToolSpan) and span.status == "paused":
            self.calls.uncount_paused(span)
        self._steps.close(span)
        usage = self.trace.usage
        span.cumulative_cost_usd, span.cumulative_tokens = usage.cost_usd, usage.total_tokens
        for rule, watch in self.watches:
            try:
                notices: Iterable[Notice] = ()
                if cost == "settle":
                    notices = watch.settle(span)
                else:
                    watch.release(span)
            except Exception as bug:  # noqa: BLE001 - the rule lost count: nothing more may start
                self.stop_now(rule.name, _bug(rule, bug), span)
            else:
                if notices:
                    self._warn(rule, notices, span, outbox)
        if self._exporters:
            self._export("span_ended", span)
        self._waiters.wake()

    def _close_model_call(self, span: LLMSpan, cost: Cost) -> None:
        self._owners.pop(span.span_id, None)
        if cost == "settle":
            charge(span, self.trace, self.settings.prices, expected_output(self.settings.rules))
        elif span.kind == "llm" and span.status == "cancelled":
            self.calls.uncount_unmade()
            self._steps.withdraw(span)
        if span.tool_calls:
            asked = {call["id"]: call for call in span.tool_calls if call.get("id")}
            self.calls.ask(asked)
            self._steps.asked(span, asked)

    def finish(self, status: TraceStatus, fields: dict[str, Any], error: BaseException | None = None) -> None:
        """The outermost run ended: end what is still open, close the trace, hand it on. Once."""
        with self.lock:
            if self.ended:
                return
            for span in reversed(list(self.open.values())):
                if span is self.trace.spans[0]:
                    self.end(span, fields, status=status, error=error)
                else:
                    self.end(span, {}, status=_left_open(span, status))
            self.clock.stop()
            self.ended = True
            if self.stop is not None:
                self.stop.partial = self.partial
            self.trace.status, self.trace.ended_ns = status, self.clock.now_ns()
            self.trace.stored_output = self.trace.spans[0].stored_output if self.trace.spans else None
            if status != "paused":
                self.trace.pool.forget_sources()
            for exporter in self._exporters:
                quietly(exporter.run_ended, self.trace)
        self.settings.on_end(self)

    # --- pauses ---------------------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """A paused run goes on: what it spent and did before still counts."""
        with self.lock:
            self.clock.start()
            self.ended = False
            self.trace.status, self.trace.ended_ns = "unfinished", None
            root = self.trace.spans[0]
            root.status, root.end_ns = "unfinished", None
            self.open[root.span_id] = root

    def carry(self) -> Carried:
        """The counts so far, for another process to go on from."""
        with self.lock:
            return Carried.of(self.trace, self.clock.elapsed_seconds(), self._steps.owed)

    def begun_elsewhere(self) -> None:
        """Tool calls may follow from a model decision of another process."""
        self._steps.begun_elsewhere = True

    def continue_from(self, carried: Carried) -> None:
        """Count on from where another process paused: no model was called here yet."""
        with self.lock:
            carried.add_to(self.trace)
            self._steps.owe(carried.owed)
            self.clock.add(carried.seconds)
            self._watch()

    # --- stops and decisions --------------------------------------------------------------------------------------

    def stop_now(self, rule: str, error: RunStoppedError, span: Span | None = None) -> RunStoppedError:
        """Latch: from here on nothing starts in this tree. The first stop wins."""
        with self.lock:
            if self.stop is None:
                decision = self.decide(rule, "stop", str(error), error.as_dict(), refused=span)
                self.stop = deliverable(error)
                error.trace, error.partial = self.trace, self.partial
                self.trace.stop = Stop(error, rule, decision.span_id)
                self._waiters.wake()
            return self.stop

    def decide(
        self,
        rule: str,
        verdict: Verdict,
        reason: str,
        facts: dict[str, Any],
        *,
        touched: Span | None = None,
        refused: Span | None = None,
    ) -> DecisionSpan:
        """Record a decision beside the action it touched, or the one that never started."""
        beside = touched or refused
        parent = self.open.get((beside.parent_id if beside else None) or "")
        with self.lock:
            decision = self.new("decision", f"{rule}: {verdict}", parent or self.trace.spans[0], {"facts": facts})
            assert isinstance(decision, DecisionSpan)  # noqa: S101 - narrows the type
            decision.rule, decision.verdict, decision.reason = rule, verdict, reason
            decision.touched = touched.span_id if touched else None
            decision.step = min(beside.step, self.trace.steps + 1) if beside else self.trace.steps
            if refused is not None:
                call = {"kind": refused.kind, "name": refused.name, "input": refused.stored_input}
                decision.stored_input = call
            decision.start_ns = decision.end_ns = self.clock.now_ns()
            decision.status = "ok"
            decision.cumulative_cost_usd = self.trace.usage.cost_usd
            decision.cumulative_tokens = self.trace.usage.total_tokens
            self.trace.spans.append(decision)
            self._export("span_started", decision)
            self._export("span_ended", decision)
        return decision

    def _refuse(self, span: Span, refusal: _Refusal, outbox: _Outbox) -> None:
        if self.settings.enforce:
            raise self.stop_now(refusal.rule, refusal.error, span)
        if refusal.rule not in self._observed:  # every later call would be refused too: one record says it all
            self._observed.add(refusal.rule)
            facts = refusal.error.as_dict() | {"observed": True}
            self.decide(refusal.rule, "stop", str(refusal.error), facts, refused=span)
        self._admit(span, outbox)

    def _warn(self, rule: Rule, notices: Iterable[Notice], span: Span, outbox: _Outbox) -> None:
        outbox += [self.decide(rule.name, "warn", note.reason, note.facts, touched=span) for note in notices]

    def _tell(self, outbox: _Outbox) -> None:
        for decision in outbox:
            for callback in self.warning_callbacks:
                quietly(callback, decision)

    def _export(self, event: Literal["span_started", "span_ended"], span: Span) -> None:
        for exporter in self._exporters:
            quietly(getattr(exporter, event), self.trace, span)


def _left_open(span: Span, status: TraceStatus) -> SpanStatus:
    return status if span.kind == "agent" or status != "ok" else "cancelled"


def _bug(rule: Rule, bug: Exception) -> RunStoppedError:
    error = RunStoppedError(f"internal error in {rule.name}: {type(bug).__name__}: {bug}")
    error.__cause__ = bug
    return error
