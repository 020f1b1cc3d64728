"""What one guard is told of one call of the runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shearpin import Guard, Span
from shearpin.adapter import Place, Reply, Run
from shearpin_integrations.openai_agents.reading import part


class Watched:
    """A guard's run of one call of the runner. Every start may raise the stop."""

    def __init__(self, guard: Guard, run: Run) -> None:
        self.guard, self.run = guard, run
        self.place = Place(run, run.span)
        """Where the agent is that has the word."""
        self.model: Span | None = None
        self.tools: dict[object, Place] = {}
        self.seen = False
        self._early = False

    # --- agents ---------------------------------------------------------------------------------------------------

    def agent_starts(self, name: str) -> None:
        """An agent has the word: the one the run is named after, or another one, in a span of its own."""
        first = self._early or (not self.seen and name == self.run.span.name)
        self.seen, self._early = True, False
        self.run.check()
        if not first:
            self.end_agent()
            self.place = Place(self.run, self.run.start("agent", name, parent=self.run.span))

    def tool_first(self, name: str) -> None:
        """A run that goes on begins with the tool that waited, and only then with its agent."""
        if not self.seen:
            self.agent_starts(name)
            self._early = True

    def end_agent(self, output: object = None) -> None:
        """The agent that has the word has said all."""
        if self.place.span is not self.run.span:
            fields: dict[str, Any] = {} if output is None else {"output": output}
            self.run.end(self.place.span, **fields)
            self.place = Place(self.run, self.run.span)

    def hand_over(self, giver: str, taker: str, reason: str) -> None:
        """One agent hands over to another."""
        self.run.handoff(giver, taker, reason, parent=self.place.span)

    # --- models ---------------------------------------------------------------------------------------------------

    async def model_starts(self, fields: Mapping[str, Any]) -> Place:
        """A model is about to be called; waits for calls in flight."""
        self.seen = True
        self.model = await self.run.astart("llm", fields["request_model"], parent=self.place.span, **fields)
        return Place(self.run, self.model)

    def model_ends(self, reply: Reply) -> None:
        """The model answered."""
        span, self.model = self.model, None
        if span is not None:
            self.run.end(span, reply=reply)

    def first_token(self) -> None:
        """The model began to answer."""
        if self.model is not None:
            self.run.first_token(self.model)

    def withdraw_model(self) -> None:
        """Another guard refused the call."""
        span, self.model = self.model, None
        if span is not None:
            self.run.withdraw(span)

    def hosted(self, item: Any) -> None:
        """A tool ran at the provider: it could not be refused, but it counts, and what it takes may end the run."""
        name = str(part(item, "name") or str(part(item, "type")).removesuffix("_call"))
        fields = {key: value for key in ("action", "queries", "code", "arguments") if (value := part(item, key))}
        span = self.run.start(
            "tool",
            name,
            parent=self.place.span,
            input=fields,
            call_id=part(item, "id"),
            attributes={"ran_at_provider": True},
        )
        output = part(item, "output") or part(item, "results") or part(item, "outputs")
        self.run.end(span, output=output, status="error" if part(item, "status") == "failed" else "ok")

    # --- tools ----------------------------------------------------------------------------------------------------

    async def tool_starts(
        self, key: object, name: str, fields: Mapping[str, Any], answer: Callable[[object], object] | None
    ) -> Place:
        """A tool is about to run; `answer` is what a person said of that, if one was asked in the SDK's own way."""
        span = await self.run.astart("tool", name, parent=self.place.span, native=answer, **fields)
        place = self.tools[key] = Place(self.run, span)
        return place

    def tool_goes_on(self, key: object, name: str, fields: Mapping[str, Any]) -> Place:
        """A tool that waited for an approval inside of it runs on: no hook tells of that."""
        place = self.tools.get(key)
        if place is None:
            span = self.run.start("tool", name, parent=self.place.span, **fields)
            place = self.tools[key] = Place(self.run, span)
        return place

    def tool_ends(self, key: object, result: object, *, failed: bool) -> None:
        """A tool answered, or the SDK did in its place when it failed."""
        place = self.tools.pop(key, None)
        if place is not None:
            self.run.end(place.span, output=result, status="error" if failed else "ok")

    def tool_fails(self, key: object, error: BaseException) -> None:
        """A tool raised what ends the run."""
        place = self.tools.pop(key, None)
        if place is not None:
            self.run.fail(place.span, error)

    def withdraw_tool(self, key: object) -> None:
        """Another guard refused the call."""
        place = self.tools.pop(key, None)
        if place is not None:
            self.run.withdraw(place.span)
