"""One call of the runner - `Runner.run`, `run_sync` or `run_streamed` - and what the guards watch of it."""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any

from agents import Usage

from shearpin import Guard, RunStoppedError
from shearpin.adapter import Place
from shearpin_integrations.openai_agents import gaps, guardrails, resuming
from shearpin_integrations.openai_agents.approvals import Approvals
from shearpin_integrations.openai_agents.batches import Batch
from shearpin_integrations.openai_agents.gaps import harmless
from shearpin_integrations.openai_agents.models import ModelCalls
from shearpin_integrations.openai_agents.places import Slot, here
from shearpin_integrations.openai_agents.roots import Asked, open_run
from shearpin_integrations.openai_agents.watching import Watched


class Call:
    """A call of the runner while it goes on. Its guards may become known as late as their hooks are first told."""

    def __init__(self, asked: Asked, gap: str | None = None) -> None:
        self.asked, self.gap = asked, gap
        self.slot = Slot(self, here.get())
        self.watched: dict[Guard, Watched] = {}
        self.models = ModelCalls(asked.config)
        self.tools = Batch(lambda: self.models.unanswered)
        self.approvals = Approvals(asked.input)
        self._usage: weakref.ref[Usage] | None = None
        self._doors: dict[Guard, object] = {}
        self._over = False

    # --- its guards -----------------------------------------------------------------------------------------------

    def watch(self, guard: Guard, door: object) -> Watched | None:
        """`door`, some hooks, tells `guard` of this call; None if others do already.

        May raise the stop of the run around.
        """
        if self._doors.setdefault(guard, door) is not door:
            return None
        watched = self.watched.get(guard)
        if watched is None:
            run = open_run(guard, self.asked, self.slot, len(self.watched))
            watched = self.watched[guard] = Watched(guard, run)
            if self.gap is not None:
                gaps.tell(run, self.gap)
        return watched

    def counted_by(self, usage: Usage) -> bool:
        """Is this the SDK's object that counts this call's usage? The first one that a hook is told of is."""
        if self._usage is None:
            self._usage = weakref.ref(usage)
        return self._usage() is usage

    @contextlib.contextmanager
    def opening(self) -> Generator[None]:
        """Around the first `watch`: a stop of the run around also ends the runs that were opened before."""
        try:
            yield
        except RunStoppedError as stop:
            with contextlib.suppress(RunStoppedError):
                self.failed(stop)
            raise

    def places(self) -> list[Place]:
        """Where its agents are; in the one tool that runs, if there is but one."""
        watched = list(self.watched.values())
        return [next(iter(one.tools.values())) if len(one.tools) == 1 else one.place for one in watched]

    # --- its end --------------------------------------------------------------------------------------------------

    def answered(self, result: Any) -> None:
        """The runner has a result. Raises a stop that was swallowed on the way."""
        if self._over:
            return
        paused = bool(getattr(result, "interruptions", None))
        for watched in self.watched.values():
            with harmless("record of a result"):
                self._record(watched, result, result)
                if not paused:
                    watched.end_agent()
                watched.run.returned(result.final_output)
        waiting = [watched for watched in self.watched.values() if paused and watched.run.outermost]
        if waiting:
            with harmless("note of a pause"):
                resuming.note(result, [watched.run for watched in waiting])
        try:
            self._close(None, "paused" if paused else None)
        finally:
            for watched in waiting:
                if watched.run.stopped is None:
                    resuming.keep(watched.run, watched.guard)
        self._check_seen(result)

    def failed(self, error: BaseException, details: Any = None) -> None:
        """The runner raises `error`, with `details` of its run. Raises the stop instead, if there is one."""
        if self._over:
            return
        if isinstance(error, RunStoppedError):
            vars(error).setdefault("run_data", None)  # the SDK reads it of every error of its own class
        for watched in self.watched.values():
            with harmless("record of an error"):
                self.models.break_off(watched, error, alone=self.slot.outer is None)
                self._record(watched, details, error)
        self._close(error, None)

    def abandoned(self) -> None:
        """Nobody will tell its end. May raise the stop."""
        self._close(None, "cancelled")

    @contextlib.contextmanager
    def stopping(self) -> Generator[None]:
        """Around what may raise the stop: that ends a call which no runner of ours ends."""
        try:
            yield
        except RunStoppedError as stop:
            if self.gap is not None and not self.tools.runs:
                with contextlib.suppress(RunStoppedError):
                    self._close(stop, None)
            raise

    def check(self, watched: Sequence[Watched]) -> None:
        """Raise the stop of a stopped run, unless a tool of this call still runs."""
        if not self.tools.runs:
            for one in watched:
                one.run.check()

    def _close(self, error: BaseException | None, status: Any) -> None:
        self._over = True
        self.approvals.over()
        stop: RunStoppedError | None = None
        for watched in reversed(self.watched.values()):
            try:
                watched.run.close(error, status=status)
            except RunStoppedError as raised:
                stop = raised
        if stop is not None:
            if getattr(stop, "run_data", None) is None:  # the SDK's, on the error it knows of
                vars(stop)["run_data"] = getattr(error, "run_data", None)
            raise stop.with_traceback(None) from error

    def _record(self, watched: Watched, details: Any, outcome: Any) -> None:
        """How far it came, and what its guardrails found; those of a state to go on with were told before."""
        if details is not None and watched.run.outermost:
            watched.run.reached(list(details.new_items))
        before = guardrails.results_of(self.asked.input, "_") if resuming.is_state(self.asked.input) else []
        known = Counter(guardrails.name_of(result) for result in before)
        found = {id(result): result for one in (details, outcome) for result in guardrails.results_of(one)}
        with contextlib.suppress(RunStoppedError):  # closing the run raises it
            guardrails.record(watched.run, found.values(), known)

    def _check_seen(self, result: Any) -> None:
        """Models answered, and nobody told us of any call: whatever runs here does not call hooks."""
        answers = getattr(result, "raw_responses", ()) and not resuming.is_state(self.asked.input)
        for watched in self.watched.values():
            if answers and not watched.seen:
                gaps.tell(watched.run, gaps.UNSEEN.format(watched.run.name))
