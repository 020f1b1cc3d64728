"""Models of the user's own classes, which may tell CrewAI nothing of their calls.

CrewAI calls them directly for plans, converters, guardrails and memory, past every hook. So the ``call`` and ``acall``
of such a class are wrapped, once it is seen, in a gate of ours; outside of a guard it does nothing. What the class
tells of itself is then heard as part of that call.
"""

from __future__ import annotations

import functools
import inspect
import threading
import uuid
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from crewai import BaseLLM

from shearpin import RunStoppedError
from shearpin.adapter import Reply, raise_if_meant
from shearpin_integrations.crewai import models
from shearpin_integrations.crewai.reading import messages, provider_of, text_of, token_limit, tool_calls
from shearpin_integrations.crewai.scope import watching

_OWN = "crewai."
_MARK = "_shearpin_gate"
_making = threading.Lock()


class _Asked:
    """The call that the running code is inside of; the first event it sends tells CrewAI's id for it."""

    __slots__ = ("call_id", "llm", "told")

    def __init__(self, llm: Any) -> None:
        self.llm, self.call_id, self.told = llm, str(uuid.uuid4()), False


_asked: ContextVar[_Asked | None] = ContextVar("shearpin_crewai_asked", default=None)


def watch_all(holders: Iterable[Any]) -> None:
    """Watch every model that these crews, tasks and agents hold."""
    try:
        _watch_all(holders)
    except Exception as error:  # noqa: BLE001 - sorted out by the next line
        raise_if_meant(error, "search for custom models")


def _watch_all(holders: Iterable[Any]) -> None:
    for holder in holders:
        kept = getattr(
            holder, "__dict__", {}
        )  # not by attribute: CrewAI warns of some of these when they are asked for
        for name in ("llm", "function_calling_llm", "manager_llm", "planning_llm", "chat_llm"):
            watch(kept.get(name))


def watch(llm: Any) -> None:
    """Put gates into the class of a model, if it is the user's own.

    On the class, since CrewAI copies the models of a crew that it copies, and what is on them.
    """
    if isinstance(llm, BaseLLM) and not type(llm).__module__.startswith(_OWN):
        for owner in type(llm).__mro__:
            if not owner.__module__.startswith(_OWN) and issubclass(owner, BaseLLM):
                _put_gates(owner)


def _put_gates(owner: type) -> None:
    with _making:
        for name, gate in (("call", _gated), ("acall", _agated)):
            method = vars(owner).get(name)
            if method is not None and not hasattr(method, _MARK):
                gated = gate(method)
                setattr(gated, _MARK, True)
                setattr(owner, name, gated)


def adopted(llm: Any, event: Any) -> bool:
    """Is this start of a call the one that our gate has let in? Then CrewAI's id for it stands for it from here on."""
    asked = _asked.get()
    if asked is None or asked.llm is not llm or asked.told:
        return False
    asked.told = True
    for by in watching():
        models.rename(by.guard, asked.call_id, event.call_id)
    asked.call_id = event.call_id
    return True


def _gated(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _passes(self):
            return method(self, *args, **kwargs)
        with _let_in(self, method, args, kwargs) as answered:
            return answered(method(self, *args, **kwargs))

    return call


def _agated(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _passes(self):
            return await method(self, *args, **kwargs)
        with _let_in(self, method, args, kwargs) as answered:
            return answered(await method(self, *args, **kwargs))

    return acall


def _passes(llm: Any) -> bool:
    """A class's call may call that of its base: one call."""
    asked = _asked.get()
    return not watching() or (asked is not None and asked.llm is llm)


@contextmanager
def _let_in(llm: Any, method: Any, args: Any, kwargs: Any) -> Generator[Callable[[Any], Any]]:
    asked = _Asked(llm)
    _admit(asked, _fields(llm, method, args, kwargs))
    token = _asked.set(asked)
    answers: list[Any] = []

    def answered(response: Any) -> Any:
        answers.append(response)
        return response

    try:
        yield answered
    except BaseException as error:
        for by in watching():
            models.break_off(by.guard, asked.call_id, error)
        raise
    finally:
        _asked.reset(token)
    for by in watching():
        call = models.calls_of(by.guard).get(asked.call_id)
        if call is not None:
            models.finish(by.guard, asked.call_id, _reply(answers[0], call.counted))


def _admit(asked: _Asked, fields: dict[str, Any]) -> None:
    admitted: list[Any] = []
    for by in watching():
        try:
            models.admit(by, asked.llm, asked.call_id, fields)
        except RunStoppedError:
            for other in admitted:
                models.withdraw(other.guard, asked.call_id)
            raise
        admitted.append(by)


def _fields(llm: Any, method: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"request_model": str(llm.model), "provider": provider_of(llm)}
    try:
        given = inspect.signature(method).bind(llm, *args, **kwargs).arguments
        limits = {"temperature": llm.temperature, "max_tokens": token_limit(llm.max_tokens), "seed": llm.seed}
        return {"messages": messages(given.get("messages")), "tools": given.get("tools") or (), **fields, **limits}
    except Exception as error:  # noqa: BLE001 - sorted out by the next line
        raise_if_meant(error, "reading of a custom model's call")
        return fields


def _reply(response: Any, usage: Any) -> Reply:
    calls = tool_calls(response)
    return Reply(text=None if calls else text_of(response), tool_calls=calls, usage=usage)
