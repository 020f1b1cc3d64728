"""A run as users and adapters hold it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shearpin.errors import RunStoppedError
from shearpin.rules.budget import BudgetWatch
from shearpin.runs import given, prompts
from shearpin.runs.calls import LLMCall, SpanBlock, ToolCall
from shearpin.runs.entering import enter
from shearpin.runs.outcomes import interrupted, status_of
from shearpin.runs.seam import Seam
from shearpin.runs.settings import Settings
from shearpin.runs.tree import Tree
from shearpin.runs.trouble import raise_if_meant
from shearpin.trace import DecisionSpan, Identity, LLMSpan, Span, Trace, Usage, source
from shearpin.trace.ambient import Here, Place, left_place_of, place_of
from shearpin.trace.model import TraceStatus


class Run(Seam):
    """One live execution: the outermost one makes a trace, one inside it is an agent span of that trace.

    Thread-safe: hand it to other threads freely. Users open it with ``with pin.run(...) as run``; an adapter calls
    `open`, then `start`, `end` and `fail` for every action of its framework, then `close`.
    """

    def __init__(
        self, guard: object, settings: Settings, name: str, identity: Identity, question: object = None
    ) -> None:
        super().__init__(guard, name)
        self._settings, self._identity, self._input = settings, identity, question
        self._output: Any = None

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
        self._resumed_at = paused.carry()
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

    def abandon(self) -> None:
        if self._span is not None and self._span in self.trace.spans:
            self._end("cancelled", {}, None)

    def returned(self, value: object) -> None:
        """What the run answered."""
        self._output = value

    def produced(self, items: list[object]) -> None:
        self._output = items
        if self.outermost:
            self.tree.partial = items

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
        fields |= {"messages": prompts.messages(messages), "tools": prompts.tools(tools)}
        fields["max_tokens"] = given.asked_limit(max_tokens)
        return LLMCall(self, "llm", given.model_name(model), fields)

    def embedding(self, *, model: str, texts: Sequence[str] | str, provider: str | None = None) -> LLMCall:
        """An embedding call as a block; opening it raises the stop if a rule refuses the call."""
        listed = [texts] if isinstance(texts, str) else prompts.messages(texts)
        fields = {"messages": listed, "provider": given.label(provider)}
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


def _total(usages: Sequence[Usage]) -> Usage:
    total = Usage(cost_usd=0.0)
    for usage in usages:
        total.add(usage)
    return total
