"""The hooks: the SDK's events as starts and ends of spans.

How a stop gets out: `on_llm_start` and `on_tool_start` raise, before the model or the tool is called. What comes out
of a hook reaches the caller as it is only if it is an `AgentsException`, so every stop is one. Even that is made a text
for the model where it comes out of a tool's body, as from an agent used as a tool: then the latch holds, and the
`on_tool_end` that follows raises it again, before the model is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agents import Agent, AgentHookContext, ModelResponse, RunContextWrapper, RunHooks, Tool, TResponseInputItem
from agents.lifecycle import RunHooksBase

from shearpin import Guard
from shearpin_integrations.openai_agents import strays
from shearpin_integrations.openai_agents.calls import Call
from shearpin_integrations.openai_agents.places import Slot, enter
from shearpin_integrations.openai_agents.watching import Watched


class Telling(RunHooks[Any]):
    """Tells the guards of a call, then the user's own hooks; these are not told of what was refused."""

    def __init__(self, wrap: RunHooks[Any] | None) -> None:
        self.wrap = wrap

    def told(self, context: RunContextWrapper[Any], agent: Agent[Any]) -> tuple[Call, Sequence[Watched]]:
        """The call that goes on, and what is to be told of it."""
        raise NotImplementedError

    async def on_agent_start(self, context: AgentHookContext[Any], agent: Agent[Any]) -> None:
        call, told = self.told(context, agent)
        with call.stopping():
            for watched in told:
                watched.agent_starts(agent.name)
        if self.wrap is not None:
            await self.wrap.on_agent_start(context, agent)

    async def on_agent_end(self, context: AgentHookContext[Any], agent: Agent[Any], output: Any) -> None:
        call, told = self.told(context, agent)
        for watched in told:
            watched.end_agent(output)
        if self.wrap is not None:
            await self.wrap.on_agent_end(context, agent, output)
        with call.stopping():
            call.check(told)
        strays.ended(call, output)

    async def on_handoff(self, context: RunContextWrapper[Any], from_agent: Agent[Any], to_agent: Agent[Any]) -> None:
        call, told = self.told(context, from_agent)
        with call.stopping():
            for watched in told:
                watched.hand_over(from_agent.name, to_agent.name, call.models.reason_to_hand_over(to_agent.name))
        if self.wrap is not None:  # in the SDK's own way: by name
            await self.wrap.on_handoff(context=context, from_agent=from_agent, to_agent=to_agent)

    def on_llm_start(
        self,
        context: RunContextWrapper[Any],
        agent: Agent[Any],
        system_prompt: str | None,
        input_items: list[TResponseInputItem],
    ) -> Any:
        """A coroutine: `places` tells why this is no coroutine function."""
        call, told = self.told(context, agent)
        return self._llm_start(call, told, enter(call), (context, agent, system_prompt, input_items))

    async def _llm_start(self, call: Call, told: Sequence[Watched], slot: Slot, event: tuple[Any, ...]) -> None:
        with call.stopping():
            await call.approvals.settle(told, event[0])
            await call.models.start(told, slot, *event)
        if self.wrap is not None:
            await self.wrap.on_llm_start(*event)

    async def on_llm_end(self, context: RunContextWrapper[Any], agent: Agent[Any], response: ModelResponse) -> None:
        call, told = self.told(context, agent)
        with call.stopping():
            try:
                call.models.end(told, response)
            finally:
                if self.wrap is not None:
                    await self.wrap.on_llm_end(context, agent, response)
            call.check(told)
            await call.approvals.ask(told, context, agent, call.models.asked)

    def on_tool_start(self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool) -> Any:
        """A coroutine: `places` tells why this is no coroutine function."""
        call, told = self.told(context, agent)
        return self._tool_start(call, told, enter(call), context, agent, tool)

    async def _tool_start(
        self,
        call: Call,
        told: Sequence[Watched],
        slot: Slot,
        context: RunContextWrapper[Any],
        agent: Agent[Any],
        tool: Tool,
    ) -> None:
        with call.stopping():
            for watched in told:
                watched.tool_first(agent.name)
            await call.approvals.settle(told, context)
            runs = await call.tools.start(told, slot, context, tool)
        if runs and self.wrap is not None:
            await self.wrap.on_tool_start(context, agent, tool)

    async def on_tool_end(self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool, result: object) -> None:
        call, told = self.told(context, agent)
        ran = call.tools.end(told, context, tool, result)
        if ran and self.wrap is not None:
            await self.wrap.on_tool_end(context, agent, tool, result)
        with call.stopping():
            call.check(told)


class ShearpinRunHooks(Telling):
    """Enforce a guard's rules on everything run with these hooks: `Runner.run(agent, q, hooks=ShearpinRunHooks(pin))`.

    One object serves any number of concurrent runs. Hooks of your own go into ``wrap``.
    """

    def __init__(self, guard: Guard, wrap: RunHooks[Any] | None = None) -> None:
        given: object = guard
        if not isinstance(given, Guard):
            raise TypeError(f"ShearpinRunHooks takes a guard: ShearpinRunHooks(Guard(Budget(usd=0.50))), not {given!r}")
        if not isinstance(wrap, RunHooksBase | None):
            raise TypeError(f"ShearpinRunHooks(wrap=...) takes the hooks of a run, not {wrap!r}")
        super().__init__(wrap)
        self.guard = guard

    def told(self, context: RunContextWrapper[Any], agent: Agent[Any]) -> tuple[Call, Sequence[Watched]]:
        call = strays.call_of(context, agent)
        watched = call.watch(self.guard, self)
        return call, [] if watched is None else [watched]


class Relay(Telling):
    """What the runner puts in the place of the hooks it was given: it knows its call and all of its guards."""

    def __init__(self, call: Call, guards: Sequence[Guard], wrap: RunHooks[Any] | None) -> None:
        super().__init__(wrap)
        self._told = call, [watched for guard in guards if (watched := call.watch(guard, self)) is not None]

    def told(self, context: RunContextWrapper[Any], agent: Agent[Any]) -> tuple[Call, Sequence[Watched]]:
        return self._told
