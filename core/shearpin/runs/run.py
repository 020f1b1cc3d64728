"""A run as users and adapters hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from shearpin.errors import RunStoppedError, ToldError
from shearpin.rules.approval import ApprovalRequest, Approver
from shearpin.rules.budget import BudgetWatch
from shearpin.rules.policy import ToolPolicy
from shearpin.runs import given
from shearpin.runs.block import Block
from shearpin.runs.calls import LLMCall, SpanBlock, ToolCall
from shearpin.runs.entering import aenter, enter
from shearpin.runs.outcomes import http_status, interrupted, provider_answered, status_of
from shearpin.runs.settings import Settings
from shearpin.runs.tree import Cost, Tree
from shearpin.runs.trouble import raise_if_meant
from shearpin.trace import DecisionSpan, Identity, LLMSpan, Span, Trace, Usage, source
from shearpin.trace.ambient import Here, Place, left_place_of, place_of
from shearpin.trace.model import TraceStatus
from shearpin.trace.plain import Plain
from shearpin.trace.reply import Reply
from shearpin.trace.spans import SpanStatus


class Run(Block):
    """One live execution: the outermost one makes a trace, one inside it is an agent span of that trace.

    Thread-safe: hand it to other threads freely. Users open it with ``with pin.run(...) as run``; an adapter calls
    `open`, then `start`, `end` and `fail` for every action of its framework, then `close`.
    """

    def __init__(
        self, guard: object, settings: Settings, name: str, identity: Identity, question: object = None
    ) -> None:
        super().__init__(f"run {name!r}")
        self.guard = guard
        self.name = name
        self._settings, self._identity, self._input = settings, identity, question
        self._output: Any = None
        self._tree: Tree | None = None
        self._span: Span | None = None

    # --- opening and closing --------------------------------------------------------------------------------------

    def open(self, place: Place | None = None) -> None:
        """Start, inside `place` or wherever this guard's code is now; may raise the stop of the run around it.

        That run may have ended: threads and tasks that were started in a stopped one go on without it.
        """
        with self._once:
            place = place or place_of(self.guard)
            if place is None and (left := left_place_of(self.guard)) is not None:
                left.run.check()
            if place is not None and not place.run.tree.ended:
                self._tree = place.run.tree
                span = self.tree.journal.new("agent", self.name, place.span, {"input": self._input})
                self._span = enter(self.tree, span)
            else:
                self._begin()
            self.here = Here(self, self.span)

    def _begin(self) -> None:
        self._tree = Tree(self._settings, Trace(source.new_trace_id(), self.name, self._identity))
        self._span = self.tree.journal.new("agent", self.name, None, {"input": self._input})
        self.trace.stored_input = self._span.stored_input
        self.tree.begin(self._span)
        self._settings.on_start(self)

    def resume(self, paused: Run) -> None:
        """Go on as `paused`: the same trace, and what it spent and did still counts."""
        self._tree, self._span = paused.tree, paused.span
        self.tree.reopen()
        self.here = Here(self, self.span)
        self._settings.on_start(self)

    def close(self, error: BaseException | None = None, *, status: TraceStatus | None = None) -> None:
        """End. Raises the stop if the run was stopped and `error` is not already on its way to tell so."""
        stop = self.tree.stop
        status = "stopped" if stop else status or status_of(error)
        try:
            self._end(status, {"output": self._output}, error)
        except Exception as bug:  # noqa: BLE001 - ours, not the agent's
            raise_if_meant(bug, "record of a run's end")
        finally:
            self._end(status, {}, error)  # even if Ctrl-C came while the output was recorded; else it has ended
        if stop is not None and error is not stop and not (error is not None and interrupted(error)):
            raise stop.with_traceback(None) from error

    def _end(self, status: TraceStatus, fields: dict[str, Any], error: BaseException | None) -> None:
        if self.outermost:
            self.tree.finish(status, fields, error)
        else:
            self.tree.end(self.span, fields, status=status, error=error)

    def returned(self, value: object) -> None:
        """What the run answered."""
        self._output = value

    def produced(self, items: list[object]) -> None:
        self._output = items
        if self.outermost:
            self.tree.partial = items

    @property
    def tree(self) -> Tree:
        """The live state this run shares with all runs inside the same outermost one."""
        if self._tree is None:
            raise RuntimeError(f"run {self.name!r} is not open: use it as `with pin.run(...) as run:`")
        return self._tree

    @property
    def span(self) -> Span:
        """This run's own agent span."""
        self.tree  # noqa: B018 - not open is the clearer error
        assert self._span is not None  # noqa: S101 - set whenever the tree is
        return self._span

    @property
    def trace(self) -> Trace:
        """The trace of the outermost run; live while it runs."""
        return self.tree.trace

    @property
    def outermost(self) -> bool:
        """Is this the run the trace is named after?"""
        return self.trace.spans[0] is self.span

    # --- what users do in a run -----------------------------------------------------------------------------------

    def step(self, name: str) -> SpanBlock:
        """A block that is one step, whatever is called in it."""
        return SpanBlock(self, "step", given.text(name), {})

    def tool(self, name: str, arguments: object = None, *, call_id: str | None = None) -> ToolCall:
        """A tool call as a block; opening it raises the stop if a rule refuses the call."""
        return ToolCall(self, given.text(name), arguments, given.label(call_id))

    def llm(
        self,
        *,
        model: str,
        messages: Sequence[object] | str = (),
        max_tokens: int | None = None,
        tools: Sequence[object] = (),
        provider: str | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> LLMCall:
        """A model call as a block; opening it raises the stop if a rule refuses the call.

        Raises TypeError for a model without a name, and for a limit that is no number.
        """
        fields: dict[str, Any] = {"provider": given.label(provider), "temperature": temperature, "seed": seed}
        fields |= {"messages": given.messages(messages), "max_tokens": given.token_limit(max_tokens), "tools": tools}
        return LLMCall(self, "llm", given.model_name(model), fields)

    def embedding(self, *, model: str, texts: Sequence[str] | str, provider: str | None = None) -> LLMCall:
        """An embedding call as a block; opening it raises the stop if a rule refuses the call."""
        fields = {"messages": [texts] if isinstance(texts, str) else texts, "provider": given.label(provider)}
        return LLMCall(self, "embedding", given.model_name(model), fields)

    def handoff(self, giver: str, taker: str, reason: str = "", *, parent: Span | None = None) -> None:
        """One agent hands the work to another; raises the stop if a rule refuses it."""
        facts = {"from": giver, "to": taker, "reason": reason}
        self.end(self.start("handoff", f"{giver} -> {taker}", parent=parent, input=facts))

    def stop(self, reason: str) -> RunStoppedError:
        """Stop the whole run: nothing starts in it any more, and leaving it raises the error that is returned."""
        return self.tree.stop_now("operator", RunStoppedError(given.text(reason)))

    def on_warning(self, callback: Callable[[DecisionSpan], object]) -> None:
        """Call `callback` with every warning's decision, on the thread that caused it; what it raises is logged."""
        self.tree.warning_callbacks.append(callback)

    @property
    def usage(self) -> Usage:
        """What this run and the runs inside it have used so far; what is in flight is not counted."""
        with self.tree.lock:
            if self.outermost:
                return _total([self.trace.usage])
            inside = {self.span.span_id}
            inside.update(s.span_id for s in self.trace.spans if s.parent_id in inside and not inside.add(s.span_id))  # type: ignore[func-returns-value]
            spans = [s for s in self.trace.spans if isinstance(s, LLMSpan) and s.span_id in inside]
            return _total([span.usage for span in spans if span.usage])

    @property
    def remaining(self) -> Mapping[str, float]:
        """What is left of every budget, by unit (dollars for ``usd``); the tightest where several limit one unit."""
        left: dict[str, float] = {}
        with self.tree.lock:
            for _, watch in self.tree.watches:
                if isinstance(watch, BudgetWatch):
                    for unit, amount in watch.remaining().items():
                        left[unit] = min(amount, left.get(unit, amount))
        return left

    # --- what adapters do in a run --------------------------------------------------------------------------------

    def start(
        self, kind: str, name: str, *, parent: Span | None = None, native: Approver | None = None, **fields: Any
    ) -> Span:
        """An action is about to happen: returns its span, or raises the stop. The caller then ends or fails it.

        `fields` are the span's own, with ``input`` (any value), ``messages`` and ``tools`` (lists) stored shared.
        `native` asks a person in the framework's own way: it returns the answer, or raises what pauses the framework.
        Raises `ToldError` for a tool call in whose place the model is answered that it was denied.
        """
        tree = self.tree
        return enter(tree, tree.journal.new(kind, name, parent or self._inside(), fields), native)

    async def astart(
        self, kind: str, name: str, *, parent: Span | None = None, native: Approver | None = None, **fields: Any
    ) -> Span:
        """`start`, waiting for calls in flight without blocking the event loop."""
        return await aenter(self.tree, self.tree.journal.new(kind, name, parent or self._inside(), fields), native)

    def end(self, span: Span, *, reply: Reply | None = None, status: SpanStatus = "ok", **fields: Any) -> None:
        """The action ended. Never raises; ending a span twice does nothing."""
        if reply is not None and isinstance(span, LLMSpan):
            reply.write_to(span)
        self.tree.end(span, fields, status=status)

    def fail(
        self,
        span: Span,
        error: BaseException,
        *,
        reply: Reply | None = None,
        status: SpanStatus | None = None,
        **fields: Any,
    ) -> None:
        """The action raised `error`. `reply` is what had come before it: then the call is charged for that.

        A call that failed without an answer is given back; one whose caller gave up may have been served, and is
        charged at its estimate.
        """
        if reply is not None and isinstance(span, LLMSpan):
            reply.write_to(span)
        answered = reply is not None or interrupted(error) or provider_answered(error)
        cost: Cost = "settle" if answered else "release"
        fields.setdefault("http_status", http_status(error)) if span.kind == "tool" else None
        self.tree.end(span, fields, status=status or status_of(error), error=error, cost=cost)

    def withdraw(self, span: Span) -> None:
        """A call that was admitted is not made after all: give everything back."""
        self.tree.end(span, {}, status="cancelled", cost="release")

    def questions(self, calls: Iterable[Mapping[str, Any]], *, parent: Span | None = None) -> Sequence[ApprovalRequest]:
        """What a person has to be asked before these tool calls (``id``, ``name``, ``arguments``) are made.

        Only what the framework's own pause has to put: an approver that the user gave is asked at the start of a call.
        """
        new, inside = self.tree.journal.new, parent or self._inside()
        return self.tree.questions(
            new("tool", call["name"], inside, {"input": call["arguments"], "call_id": call["id"]}) for call in calls
        )

    def halt(self, told: ToldError) -> RunStoppedError:
        """The stop of the run, in place of a denial that there is no way to tell the model."""
        return self.tree.stop_now(ToolPolicy.name, told.denial)

    @property
    def stopped(self) -> RunStoppedError | None:
        """The stop of this run's tree, once there is one."""
        return self.tree.stop

    def carry(self) -> Plain:
        """The run's counts as plain data, to be kept with the framework's own state of a paused run."""
        from shearpin.runs.carrying import carry  # here, since pydantic takes long to import

        return carry(self.tree)

    def begun_elsewhere(self) -> None:
        """This goes on with a run of another process: tool calls come before anything they were asked by."""
        self.tree.steps.begun_elsewhere = True

    def continue_from(self, data: Plain, answered: Sequence[Mapping[str, Any]] = ()) -> None:
        """Count on from what `carry` gave, in this or another process; data that is none of it changes nothing.

        `answered` are the tool calls made there, as ``name``, ``input`` and ``output``: a loop may go on here.
        """
        from shearpin.runs.carrying import continue_from

        continue_from(self.tree, self.span, data, answered)

    def check(self) -> None:
        """Raise the stop of a stopped run."""
        if (stop := self.tree.stop) is not None:
            raise stop.with_traceback(None)

    @property
    def partial(self) -> object:
        """How far the run has come, as `reached` was told."""
        return self.tree.partial

    def reached(self, state: object) -> None:
        """Remember how far the run has come: a stop's ``partial``."""
        self.tree.partial = state

    def first_token(self, span: Span) -> None:
        """Something came out of a streaming model call; only the first time counts."""
        if isinstance(span, LLMSpan) and span.time_to_first_token_ns is None:
            span.time_to_first_token_ns = self.tree.journal.clock.now_ns() - span.start_ns

    def asked(self, call_id: str) -> Mapping[str, Any] | None:
        """The tool call a model asked for under this id: ``name`` and ``arguments``."""
        return self.tree.calls.asked.get(call_id)

    def gap(self, text: str) -> None:
        """Note that something here could not be enforced."""
        with self.tree.lock:
            if (text := given.text(text)) not in self.trace.gaps:
                self.trace.gaps.append(text)

    def _inside(self) -> Span:
        place = place_of(self.guard)
        return place.span if place is not None and place.run.tree is self._tree else self.span


def _total(usages: Sequence[Usage]) -> Usage:
    total = Usage(cost_usd=0.0)
    for usage in usages:
        total.add(usage)
    return total
