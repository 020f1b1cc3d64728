"""Waiting for calls in flight on an event loop, where a callback may not block and so is refused at once.

LangChain tells its inline handlers of a model call one after the other, and awaits those that are coroutines. One of
these right before the guard's handler lets the call in when there is room for it; the handler then knows it already.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import BaseMessage

from shearpin import Guard, RunStoppedError
from shearpin.adapter import Place, raise_if_meant
from shearpin_integrations.langchain.handler import ShearpinCallbackHandler
from shearpin_integrations.langchain.reading import model_call
from shearpin_integrations.langchain.tracking import Entry, end_elsewhere, tracker_of


class ShearpinWaiting(BaseCallbackHandler):
    """Lets the model calls of one node in, on the event loop that the node runs on.

    It has two coroutines only: LangChain runs each coroutine of a handler in a thread of its own in a sync call.
    """

    raise_error = True
    run_inline = True

    def __init__(self, guard: Guard, loop: asyncio.AbstractEventLoop) -> None:
        self._tracker, self._loop = tracker_of(guard), loop

    async def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        await self._admit(run_id, parent_run_id, serialized, messages[0] if messages else [], kwargs)

    async def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        prompt = [{"role": "user", "content": text} for text in prompts]
        await self._admit(run_id, parent_run_id, serialized, prompt, kwargs)

    async def _admit(
        self,
        run_id: UUID,
        parent_run_id: UUID | None,
        serialized: Mapping[str, Any] | None,
        messages: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        if asyncio.get_running_loop() is not self._loop:  # a sync call: its handlers have been told by now
            return
        try:
            parent = self._tracker.parent(parent_run_id)
            if parent is not None and run_id not in self._tracker.entries:
                await self._start(run_id, parent, model_call(serialized, messages, kwargs.get("metadata"), kwargs))
        except (RunStoppedError, asyncio.CancelledError) as left:
            end_elsewhere(run_id, self._tracker, left)
            raise
        except Exception as error:  # noqa: BLE001 - the handler comes to the same, and knows what to do then
            raise_if_meant(error, "waiting")

    async def _start(self, run_id: UUID, parent: Entry, asked: Mapping[str, Any]) -> None:
        root, name = parent.root, asked["request_model"]
        span = await root.run.astart("llm", name, parent=parent.place.span, **asked)
        self._tracker.add(run_id, Entry(root, Place(root.run, span), "span", name))


@contextlib.contextmanager
def waiting(guard: Guard, managers: Sequence[BaseCallbackManager]) -> Generator[None]:
    """Let model calls that call back through `managers` wait, if this block runs on an event loop."""
    try:
        waiter = ShearpinWaiting(guard, asyncio.get_running_loop())
    except RuntimeError:  # in a thread the handler itself waits
        yield
        return
    asynchronous = [manager for manager in managers if manager.is_async]  # the others await nothing
    for handlers in (own for manager in asynchronous for own in (manager.handlers, manager.inheritable_handlers)):
        place = next((at for at, handler in enumerate(handlers) if _is_of(guard, handler)), None)
        if place is not None:
            handlers.insert(place, waiter)
    try:
        yield
    finally:
        for manager in asynchronous:
            manager.remove_handler(waiter)


def _is_of(guard: Guard, handler: BaseCallbackHandler) -> bool:
    return isinstance(handler, ShearpinCallbackHandler) and handler.guard is guard
