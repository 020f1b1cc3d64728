"""One call of the runner - `Runner.run`, `run_sync` or `run_streamed` - and what the guards watch of it."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
import weakref
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents import Agent, ModelResponse, RunConfig, RunContextWrapper, RunState, Tool, Usage
from agents.tool_context import ToolContext

from shearpin import EnforcementGapWarning, Guard, RunStoppedError, Span
from shearpin.adapter import Place, Reply, is_dict, raise_if_meant
from shearpin_integrations.openai_agents import guardrails, reading, resuming
from shearpin_integrations.openai_agents.places import Slot, here, slots
from shearpin_integrations.openai_agents.streams import Heard
from shearpin_integrations.openai_agents.watching import Watched


UNSEEN = (
    "{}: models answered but none of their calls reached Shearpin, so nothing was enforced; the runner that was set with "
    "set_default_agent_runner does not pass on the hooks it is given"
)


@dataclass(slots=True)
class Asked:
    """What the runner was asked for."""

    agent: Any
    input: Any = None
    config: RunConfig = field(default_factory=RunConfig)
    session: Any = None
    conversation_id: str | None = None
    service: str | None = None
    identity: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Call:
    """A call of the runner while it goes on. Its guards may become known as late as their hooks are first told."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.slot = Slot(self, here.get())
        self.watched: dict[Guard, Watched] = {}
        self.doors: dict[Guard, object] = {}
        """Which hooks object tells a guard of this call; others of the same guard say nothing."""
        self.running: set[object] = set()
        """The tools whose bodies run."""
        self.reply: Reply | None = None
        self._usage: weakref.ref[Usage] | None = None
        self.gap: str | None = None
        """What cannot be enforced in it."""
        self.heard = Heard()
        self._idle: asyncio.Event | None = None
        self._spent: Any = None
        self._unanswered: list[dict[str, Any]] = []
        self._known: set[int] = set()

    # --- opening and closing --------------------------------------------------------------------------------------

    def watch(self, guard: Guard, door: object) -> Watched | None:
        """`door` tells `guard` of this call; None if another one does already. May raise the stop of a run around."""
        if self.doors.setdefault(guard, door) is not door:
            return None
        watched = self.watched.get(guard)
        if watched is None:
            watched = self.watched[guard] = self._open(guard)
        return watched

    def _open(self, guard: Guard) -> Watched:
        asked, inside, place = self.asked, False, None
        for slot in slots():
            if slot.call is not self and (around := slot.call.watched.get(guard)) is not None:
                around.run.check()  # also if it has ended: this is an orphan of it
                inside = not around.run.tree.ended
                place = resuming.tool_around(asked.input, around) if inside else None
                break
        name = str(getattr(asked.agent, "name", None) or "run")
        if not inside:
            name = asked.service or reading.workflow_of(asked.config) or name
        told = reading.identity_of(asked.config, asked.session, asked.conversation_id)
        identity = {key: value for key, value in told.items() if value}
        run = guard.run(name, input=reading.question(asked.input), **{**asked.identity, **identity})
        notes = resuming.noted_in(asked.input)
        if isinstance(asked.input, RunState) and not inside:
            resuming.open_again(run, guard, asked.input, notes, len(self.watched))
        else:
            run.open(place)
        if self.gap is not None:
            run.gap(self.gap)
            warn(guard, self.gap)
        return Watched(guard, run)

    @contextlib.contextmanager
    def opening(self) -> Generator[None]:
        """Around the first `watch`: a stop of the run around it also ends those that were opened before."""
        try:
            yield
        except RunStoppedError as stop:
            with contextlib.suppress(RunStoppedError):
                self.failed(stop)
            raise

    def places(self) -> list[Place]:
        """Where its agents are; in the one tool that runs, if there is but one."""
        watched = list(self.watched.values())
        return [next(iter(w.tools.values())) if len(w.tools) == 1 else w.place for w in watched]

    def answered(self, result: Any) -> None:
        """The runner has a result. Raises a stop that was swallowed on the way."""
        paused = bool(getattr(result, "interruptions", None))
        output = result.final_output
        for watched in self.watched.values():
            watched.end_agent()
            watched.run.returned(output)
            if watched.run.outermost:
                watched.run.reached(list(result.new_items))
            self._record(watched, result)
        self._check_seen(result)
        waiting = [watched for watched in self.watched.values() if paused and watched.run.outermost]
        if waiting:
            resuming.note(result, [watched.run for watched in waiting])
        try:
            self._close(None, "paused" if paused else None)
        finally:
            for watched in waiting:
                if watched.run.stopped is None:
                    resuming.keep(watched.run, watched.guard)

    def failed(self, error: BaseException, details: Any = None) -> None:
        """The runner raises `error`, with `details` of its run. Raises the stop instead, if there is one."""
        for watched in self.watched.values():
            if watched.model is not None:
                self._break_off(watched, watched.model, error)
            if details is not None and watched.run.outermost:
                watched.run.reached(list(details.new_items))
            self._record(watched, details, error)
        self._close(error, None)

    def _break_off(self, watched: Watched, span: Span, error: BaseException) -> None:
        """A model call is open, and the run fails: because of it, or of its answer, or of something beside it."""
        spent = reading.usage_since(self._spent, self.usage)
        if spent is not None:  # it was answered, and the answer was not to the SDK's liking
            alone = self.slot.outer is None  # runs that tools start count together
            watched.run.fail(span, error, reply=Reply(usage=spent if alone else None))
        elif reading.beside_model(error):
            watched.run.fail(span, asyncio.CancelledError())
        else:
            watched.run.fail(span, error, reply=self.heard.cut())

    def _record(self, watched: Watched, *outcomes: Any) -> None:
        results = {id(result): result for outcome in outcomes for result in guardrails.results_of(outcome)}
        new = [result for key, result in results.items() if key not in self._known]
        with contextlib.suppress(RunStoppedError):  # closing the run raises it
            guardrails.record(watched.run, new)

    def _check_seen(self, result: Any) -> None:
        """Models answered, and nobody told us of any call: whatever runs here does not call hooks."""
        answers = getattr(result, "raw_responses", ()) and not isinstance(self.asked.input, RunState)
        for watched in self.watched.values():
            if answers and not watched.seen:
                gap = UNSEEN.format(watched.run.name)
                watched.run.gap(gap)
                warn(watched.guard, gap)

    def abandoned(self) -> None:
        """Nobody will tell its end. May raise the stop."""
        self._close(None, "cancelled")

    def _close(self, error: BaseException | None, status: Any) -> None:
        stop: RunStoppedError | None = None
        for watched in reversed(self.watched.values()):
            try:
                watched.run.close(error, status=status)
            except RunStoppedError as raised:
                stop = raised
        if stop is not None:
            raise stop.with_traceback(None) from error

    @property
    def usage(self) -> Usage | None:
        """The SDK's own object that counts this run, and no other one at the same time, while there is one."""
        return None if self._usage is None else self._usage()

    @usage.setter
    def usage(self, usage: Usage) -> None:
        self._usage = weakref.ref(usage)

    @contextlib.contextmanager
    def stopping(self) -> Generator[None]:
        """Around what may raise the stop: that ends a call which no runner of ours ends."""
        try:
            yield
        except RunStoppedError as stop:
            if self.gap is not None and not self.running:
                with contextlib.suppress(RunStoppedError):
                    self._close(stop, None)
            raise

    # --- what happens in it ---------------------------------------------------------------------------------------

    async def model_starts(
        self,
        watched: Sequence[Watched],
        context: RunContextWrapper[Any],
        agent: Agent[Any],
        system_prompt: str | None,
        items: Sequence[Any],
    ) -> None:
        """A model is about to be called."""
        self.heard, self._spent = Heard(), reading.spent(context.usage)
        self.usage = context.usage
        try:
            fields = reading.model_call(agent, self.asked.config, system_prompt, items)
        except Exception as error:  # noqa: BLE001 - sorted out by the next line; the gate stays one
            raise_if_meant(error, "reading of a model call")
            fields = {"request_model": "unread"}
        let_in: list[Watched] = []
        try:
            for one in watched:
                await one.model_starts(fields)
                let_in.append(one)
        except BaseException:
            for one in let_in:
                one.withdraw_model()
            raise

    def model_ends(self, watched: Sequence[Watched], response: ModelResponse) -> None:
        """The model answered; what ran at the provider is told with its answer."""
        try:
            reply = reading.read_response(response)
        except Exception as error:  # noqa: BLE001 - as above; the call is charged at its estimate
            raise_if_meant(error, "reading of a reply")
            reply = Reply()
        reply.finish_reason = reply.finish_reason or self.heard.finish_reason
        reply.response_model = reply.response_model or self.heard.response_model
        self.reply, self._unanswered = reply, list(reply.tool_calls)
        for one in watched:
            one.model_ends(reply)
        for item in reading.hosted_calls(response):
            for one in watched:
                one.hosted(item)

    def hear(self, event: Any) -> None:
        """Something came out of a streaming model."""
        if self.heard.hear(event):
            for one in self.watched.values():
                if one.model is not None:
                    one.run.first_token(one.model)

    def tool_slot(self) -> Slot:
        """Where a tool's body will be, once it is let in."""
        slot = Slot(self, self.slot)
        here.set(slot)
        return slot

    async def tool_starts(self, watched: Sequence[Watched], slot: Slot, context: Any, tool: Tool) -> None:
        """A tool is about to run.

        If it is refused, those that were asked for with it and run already are waited for: the SDK would cancel them
        in the middle, and would leave threads running.
        """
        key = _key(context, tool)
        fields = reading.tool_call(context, tool, self._unanswered)
        let_in: list[Watched] = []
        try:
            for one in watched:
                slot.places[one.guard] = await one.tool_starts(key, tool.name, fields)
                let_in.append(one)
        except BaseException as error:
            for one in let_in:
                one.withdraw_tool(key)
            if isinstance(error, RunStoppedError):
                await self._until_idle()
            raise
        self.running.add(key)

    def tool_ends(self, watched: Sequence[Watched], context: Any, tool: Tool, result: object) -> None:
        """A tool answered. Once a run is stopped, the last of those that still run tells so."""
        key = _key(context, tool)
        for one in watched:
            if key not in one.tools:
                one.tool_goes_on(key, tool.name, reading.tool_call(context, tool, self._unanswered))
            one.tool_ends(key, result, failed=reading.tool_failed())
        self.running.discard(key)
        if self._idle is not None and not self.running:
            self._idle.set()

    def check_tools(self, watched: Sequence[Watched]) -> None:
        """Raise the stop of a stopped run, unless a tool of this call still runs."""
        if not self.running:
            check(watched)

    def reason_to_hand_over(self, taker: Agent[Any]) -> str:
        """Why the model wants to hand over, if it said so: hooks are not told."""
        calls = self.reply.tool_calls if self.reply is not None else []
        reasons = [_reason(call) for call in calls if taker.name.replace(" ", "_").lower() in str(call["name"]).lower()]
        return next(filter(None, reasons), "")

    async def _until_idle(self) -> None:
        while self.running:
            self._idle = self._idle or asyncio.Event()
            self._idle.clear()
            await self._idle.wait()


def warn(guard: Guard, gap: str) -> None:
    """Say once what a guard cannot do; Python's own memory of that is cleared by any `catch_warnings`."""
    said: set[str] = vars(guard).setdefault("_openai_agents_warned", set())
    if gap not in said:
        said.add(gap)
        warnings.warn(gap, EnforcementGapWarning, stacklevel=3)


def _reason(call: Mapping[str, Any]) -> str:
    arguments = call["arguments"]
    return str(arguments.get("reason") or "") if is_dict(arguments) else ""


def check(watched: Sequence[Watched]) -> None:
    """Raise the stop of a stopped run."""
    for one in watched:
        one.run.check()


def _key(context: Any, tool: Tool) -> object:
    """What a tool call is known by between its hooks: only function tools have a context of their own."""
    return context.tool_call_id if isinstance(context, ToolContext) else tool.name
