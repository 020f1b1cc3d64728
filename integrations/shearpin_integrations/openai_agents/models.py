"""The model calls of one run, one after the other."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from agents import Agent, ModelResponse, RunConfig, RunContextWrapper, Usage

from shearpin.adapter import Reply, is_dict
from shearpin_integrations.openai_agents import reading
from shearpin_integrations.openai_agents.gaps import harmless
from shearpin_integrations.openai_agents.messages import Prompts
from shearpin_integrations.openai_agents.places import Slot
from shearpin_integrations.openai_agents.streams import Heard
from shearpin_integrations.openai_agents.watching import Watched

_UNREAD = "unread"


class ModelCalls:
    """What is known of the model call that goes on, and of the last answer."""

    def __init__(self, config: RunConfig) -> None:
        self._config, self._prompts = config, Prompts()
        self._heard = Heard()
        self._usage: weakref.ref[Usage] | None = None
        self._spent: reading.Counts | None = None
        self.asked: list[dict[str, Any]] = []
        """The calls that the last answer asked for."""
        self.unanswered: list[dict[str, Any]] = []
        """Those of them that no tool has taken yet."""

    async def start(
        self,
        watched: Sequence[Watched],
        slot: Slot,
        context: RunContextWrapper[Any],
        agent: Agent[Any],
        system_prompt: str | None,
        items: Sequence[Any],
    ) -> None:
        """A model is about to be called. Where the call cannot be read, the guards are asked without what it says."""
        usage = context.usage
        self._heard, self._usage, self._spent = Heard(), weakref.ref(usage), reading.spent(usage)
        fields: dict[str, Any] = {"request_model": _UNREAD}
        with harmless("reading of a model call"):
            messages = self._prompts.told(system_prompt, items)
            fields = {**reading.model_call(agent, self._config), "messages": messages}
        let_in: list[Watched] = []
        try:
            for one in watched:
                slot.places[one.guard] = await one.model_starts(fields)
                let_in.append(one)
        except BaseException:
            for one in let_in:
                one.withdraw_model()
            raise

    def end(self, watched: Sequence[Watched], response: ModelResponse) -> None:
        """The model answered; what ran at the provider is told with its answer, and may raise the stop."""
        reply, hosted = Reply(), list[Any]()
        with harmless("reading of a reply"):
            reply, hosted = reading.read_response(response), reading.hosted_calls(response)
            reply.finish_reason = self._heard.cut_short or reply.finish_reason
            reply.response_model = self._heard.response_model
        self.asked, self.unanswered = reply.tool_calls, list(reply.tool_calls)
        for one in watched:
            one.model_ends(reply)
        for item in hosted:
            for one in watched:
                one.hosted(item)

    def hear(self, watched: Iterable[Watched], event: Any) -> None:
        """Something came out of a streaming model."""
        if self._heard.hear(event):
            for one in watched:
                one.first_token()

    def break_off(self, watched: Watched, error: BaseException, *, alone: bool) -> None:
        """The run fails: if a model call is open because of it, of its answer, or of something beside it.

        `alone` tells that the SDK counts this run's usage apart from others that go on at the same time.
        """
        span, watched.model = watched.model, None
        if span is None:
            return
        now = None if self._usage is None else self._usage()
        spent = reading.usage_since(self._spent, now)
        if spent is not None:  # it was answered, and the SDK did not like the answer
            watched.run.fail(span, error, reply=Reply(usage=spent if alone else None))
        elif reading.beside_model(error):
            watched.run.fail(span, asyncio.CancelledError())
        else:
            watched.run.fail(span, error, reply=self._heard.cut())

    def reason_to_hand_over(self, taker: str) -> str:
        """Why the model wants to hand over, if it said so: hooks are not told."""
        named = taker.replace(" ", "_").lower()
        given = [call["arguments"] for call in self.asked if named in str(call["name"]).lower()]
        return next((str(told["reason"]) for told in given if is_dict(told) and told.get("reason")), "")
