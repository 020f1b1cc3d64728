"""A run as adapters hold it: every action of a framework starts, and ends or fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shearpin.errors import RunStoppedError, ToldError
from shearpin.rules.approval import ApprovalRequest, Approver
from shearpin.rules.policy import ToolPolicy
from shearpin.runs import given
from shearpin.runs.block import Block
from shearpin.runs.entering import aenter, enter
from shearpin.runs.outcomes import http_status, interrupted, provider_answered, status_of
from shearpin.runs.tree import Cost, Tree
from shearpin.runs.unmade import unmade
from shearpin.trace import LLMSpan, Span, Trace
from shearpin.trace.ambient import place_of
from shearpin.trace.plain import Plain
from shearpin.trace.reply import Reply
from shearpin.trace.spans import SpanStatus


class Seam(Block):
    """What an adapter does in a run; whose opening and closing is `Run`'s."""

    def __init__(self, guard: object, name: str) -> None:
        super().__init__(f"run {name!r}")
        self.guard, self.name = guard, name
        self._tree: Tree | None = None
        self._span: Span | None = None
        self._resumed_at: Plain = None

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
        return self.span.parent_id is None

    # --- actions ----------------------------------------------------------------------------------------------------

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
        if reply is not None and isinstance(span, LLMSpan) and span.span_id in self.tree.journal.open:
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
        if reply is not None and isinstance(span, LLMSpan) and span.span_id in self.tree.journal.open:
            reply.write_to(span)
        answered = reply is not None or interrupted(error) or provider_answered(error)
        cost: Cost = "settle" if answered else "release"
        fields.setdefault("http_status", http_status(error)) if span.kind == "tool" else None
        self.tree.end(span, fields, status=status or status_of(error), error=error, cost=cost)

    def withdraw(self, span: Span) -> None:
        """A call that was admitted is not made after all: give everything back."""
        self.tree.withdraw(span)

    def questions(self, calls: Iterable[Mapping[str, Any]], *, parent: Span | None = None) -> Sequence[ApprovalRequest]:
        """What a person has to be asked before these tool calls (``id``, ``name``, ``arguments``) are made.

        Only what the framework's own pause has to put: an approver that the user gave is asked at the start of a call.
        """
        new, inside = self.tree.journal.new, parent or self._inside()
        return self.tree.questions(
            new("tool", call["name"], inside, {"input": call["arguments"], "call_id": call["id"]}) for call in calls
        )

    def unmade(self, name: str, *, parent: Span, output: object, status: SpanStatus = "ok", **fields: Any) -> None:
        """A tool call was answered without being made: it counts for nothing, but a loop may go through it."""
        unmade(self.tree, self.tree.journal.new("tool", name, parent, fields), output, status)

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

        continue_from(self.tree, self.span, data, answered, self._resumed_at)

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
