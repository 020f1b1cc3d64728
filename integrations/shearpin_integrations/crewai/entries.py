"""Where runs begin and end: the methods that start crews, flows and agents.

CrewAI has no hook that hears of every end: not of a call that is cancelled, nor of Ctrl-C, nor of what the callbacks
after a kickoff do. So these public methods are wrapped, when this module is imported; without a guard the wrapper does
nothing. Those that only call another one of these are left alone: `kickoff_for_each` is as many runs as it has inputs,
and what streams starts when it is iterated, wherever that is.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import warnings
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from crewai import Agent, Crew, Flow
from crewai.events.event_context import get_current_parent_id, pop_event_scope
from crewai.hooks import HookAborted
from crewai.lite_agent import LiteAgent  # pyright: ignore[reportDeprecated] - people have them still

from shearpin import EnforcementGapWarning, Guard
from shearpin.adapter import Place, Run
from shearpin_integrations.crewai import custom_models, models, pauses, scope
from shearpin_integrations.crewai.attachments import attached_to, follow, owe, owed
from shearpin_integrations.crewai.listening import listen
from shearpin_integrations.crewai.parts import is_own
from shearpin_integrations.crewai.reading import role_of
from shearpin_integrations.crewai.scope import Attachment

UNSEEN = (
    "{}: an answer came but none of its model calls reached Shearpin, so nothing was enforced; its agents are not "
    "CrewAI's own, or their models hide their calls: put a guard on those"
)

AGENTS: tuple[Any, ...] = (Agent, LiteAgent)  # pyright: ignore[reportDeprecated]

_entered: contextvars.ContextVar[Any] = contextvars.ContextVar("shearpin_crewai_entered", default=None)


@dataclass(slots=True)
class _Opened:
    """The run of one guard, and how many model calls its trace had when it was opened."""

    guard: Guard
    run: Run
    calls: int

    def close(self, answer: Any, error: BaseException | None) -> None:
        run, paused = self.run, pauses.is_pause(answer)
        run.returned(answer)
        if paused:
            pauses.keep(self.guard, answer, run)
        try:
            run.close(error, status="paused" if paused else None)
        finally:
            if run.outermost:
                models.calls_of(self.guard).forget(run)

    def gap(self) -> str | None:
        """What there is to say if no model call was seen."""
        if self.run.trace.llm_calls > self.calls or self.run.stopped is not None:
            return None
        text = UNSEEN.format(self.run.name)
        self.run.gap(text)
        return text


class Entry:
    """One call that starts a crew, a flow or an agent, as a run of every guard it is under."""

    def __init__(self, target: Any, attachments: tuple[Attachment, ...], given: Any) -> None:
        self._target, self._attachments, self._given = target, attachments, given
        self._opened: list[_Opened] = []
        self._stack = ExitStack()
        self._scope = get_current_parent_id()
        self.answer: Any = None

    def __enter__(self) -> Self:
        try:
            self._stack.enter_context(scope.entering(self._attachments))
            listen(self._stack)
            self._stack.callback(_entered.reset, _entered.set(self._target))
            custom_models.watch_all(_holders(self._target))
            for by in self._attachments:
                self._open(by)
        except BaseException as error:
            self._leave(error)
            raise
        return self

    def _open(self, by: Attachment) -> None:
        run = by.guard.run(by.service or name_of(self._target), input=self._given, **by.identity)
        pauses.open_or_go_on(by.guard, self._target, run)
        self._opened.append(_Opened(by.guard, run, run.trace.llm_calls))
        scope.push(by.guard, Place(run, run.span), ("entry", id(self._target)))
        if run.outermost and run.partial is None:
            run.reached({} if isinstance(self._target, Flow) else [])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        self._stack.close()
        forget_events(self._scope)
        seen_nothing = [] if self._is_quiet(error) else [opened.gap() for opened in self._opened]
        stop: BaseException | None = None
        for opened in reversed(self._opened):
            try:
                opened.close(self.answer, error)
            except Exception as raised:  # noqa: BLE001 - all are closed first
                stop = raised
        if stop is not None:
            raise stop
        for text in filter(None, seen_nothing):  # last: a user may have made warnings errors
            warnings.warn(text, EnforcementGapWarning, stacklevel=4)

    def _is_quiet(self, error: BaseException | None) -> bool:
        """May this well have called no model? A flow may be plain Python, and what failed has not come to it."""
        return error is not None or self.answer is None or isinstance(self._target, Flow)


def forget_events(scope: str | None) -> None:
    """Take off CrewAI's stack of events what an abort has left there: what comes later would hang below it."""
    while get_current_parent_id() not in (scope, None):
        pop_event_scope()


def name_of(target: Any) -> str:
    """What a crew, a flow or an agent is called."""
    if isinstance(target, AGENTS):
        return role_of(target)
    return str(getattr(target, "name", None) or type(target).__name__)


def _holders(target: Any) -> list[Any]:
    """Whatever in `target` may hold a model."""
    if not isinstance(target, Crew):
        return [target]
    return [target, *target.agents, target.manager_agent, *(task.agent for task in target.tasks)]


# --- the wrappers -------------------------------------------------------------------------------------------------


def _entry(target: Any, args: Any, kwargs: Mapping[str, Any]) -> Entry | None:
    """The entry that a call is, or None: without a guard, inside of itself, or where it only prepares a stream."""
    if _entered.get() is target or is_own(target):
        return None
    attachments = scope.without_twins((*attached_to(target), *scope.watching(), *owed(target)))
    if not attachments:
        return None
    if getattr(target, "stream", False) and isinstance(target, Crew | Flow):
        owe(target, attachments)
        return None
    return Entry(target, attachments, _input(args, kwargs))


def _input(args: Any, kwargs: Mapping[str, Any]) -> Any:
    named = (kwargs[name] for name in ("inputs", "messages", "task") if name in kwargs)
    given = args[0] if args else next(named, None)
    return getattr(given, "description", given)  # of an agent's task


def _sync(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        entry = None if _is_awaited(self) else _entry(self, args, kwargs)
        if entry is None:
            return method(self, *args, **kwargs)
        with entry:
            entry.answer = _off_loop(self, method)(self, *args, **kwargs)
            return entry.answer

    return call


def _async(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        entry = _entry(self, args, kwargs)
        if entry is None:
            return await method(self, *args, **kwargs)
        with entry:
            entry.answer = await method(self, *args, **kwargs)
            return entry.answer

    return call


def _on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _is_awaited(target: Any) -> bool:
    """On an event loop an agent's `kickoff` only makes the coroutine of `kickoff_async`."""
    return isinstance(target, Agent) and _on_loop()


def _off_loop(target: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    """A flow's `kickoff` on an event loop, as in a notebook, takes any RuntimeError from inside for a missing loop.

    A stop is one. In a thread without a loop, where CrewAI would run it anyway, that path is not taken.
    """
    if not isinstance(target, Flow) or not _on_loop():
        return method

    def call(*args: Any, **kwargs: Any) -> Any:
        context = contextvars.copy_context()
        with ThreadPoolExecutor(max_workers=1) as pool:
            return pool.submit(context.run, method, *args, **kwargs).result()

    return call


@contextmanager
def _task_of(agent: Any, args: Any, kwargs: Mapping[str, Any]) -> Generator[None]:
    """An agent's task: a run of the guards that the agent has and its crew has not, or of all if there is no crew.

    What a stop leaves on the stack of events is taken off at once: CrewAI prints a warning of it.
    """
    around, outside = [by.guard for by in scope.watching()], get_current_parent_id()
    here = scope.without_twins((*attached_to(agent), *scope.watching()))
    own = tuple(by for by in here if by.guard not in around or scope.place_here(by.guard) is None)
    try:
        with Entry(agent, own, _input(args, kwargs)) if own and _entered.get() is not agent else nullcontext():
            yield
    except HookAborted:
        forget_events(outside)
        raise


def _for_task(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _task_of(self, args, kwargs):
            return method(self, *args, **kwargs)

    return call


def _for_atask(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _task_of(self, args, kwargs):
            return await method(self, *args, **kwargs)

    return call


def _copying(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def copy(self: Any) -> Any:
        return follow(self, method(self))

    return copy


def _wrap_entries() -> None:
    kinds: tuple[Any, ...] = (Crew, Flow, *AGENTS)
    for kind in kinds:
        for name, wrap in (("kickoff", _sync), ("kickoff_async", _async), ("akickoff", _async)):
            setattr(kind, name, wrap(getattr(kind, name)))
    Crew.replay = _sync(Crew.replay)  # type: ignore[method-assign]
    Flow.resume_async = _async(Flow.resume_async)  # type: ignore[method-assign]
    Agent.execute_task = _for_task(Agent.execute_task)  # type: ignore[method-assign]
    Agent.aexecute_task = _for_atask(Agent.aexecute_task)  # type: ignore[method-assign]
    Crew.copy = _copying(Crew.copy)  # type: ignore[method-assign]


_wrap_entries()
