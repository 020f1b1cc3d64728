"""The SDK's default runner with ours around it: it opens a run for each call, and closes it however the call ends.

The SDK has no hook for the end of a run that failed, nor for the runs that tools start. `set_default_agent_runner` is
what it has for both; it is exported, and called experimental. Where another runner takes the place of ours, the hooks
go on without it (`strays`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from agents import Agent, MaxTurnsExceeded, RunHooks, RunResult, RunResultStreaming
from agents.lifecycle import RunHooksBase
from agents.run import AgentRunner, get_default_agent_runner, set_default_agent_runner

from shearpin import Guard, RunStoppedError
from shearpin_integrations.openai_agents.calls import Call
from shearpin_integrations.openai_agents.hooks import Relay, ShearpinRunHooks
from shearpin_integrations.openai_agents.places import here, slots
from shearpin_integrations.openai_agents.reading import config_of
from shearpin_integrations.openai_agents.roots import Asked
from shearpin_integrations.openai_agents.streams import listen

_here: ContextVar[tuple[Guard, ...]] = ContextVar("shearpin_installed", default=())
_everywhere: list[Guard] = []
_MARK = "_shearpin_attached"


@dataclass(frozen=True, slots=True)
class Attached:
    """A guard that one agent has, and whom its runs belong to."""

    guard: Guard
    service: str | None
    identity: Mapping[str, Any]


def mark(agent: Agent[Any], attached: Attached) -> None:
    """Let runs that begin with `agent` be watched; it may have several guards."""
    setattr(agent, _MARK, (*marks(agent), attached))


def marks(agent: object) -> tuple[Attached, ...]:
    """What was attached to `agent`."""
    found: tuple[Attached, ...] = getattr(agent, _MARK, ())
    return found


class PassThroughRunner(AgentRunner):
    """Calls the runner that was there before; inert for a call without a guard."""

    def __init__(self, inner: AgentRunner) -> None:
        self.inner = inner

    async def run(self, starting_agent: Agent[Any], input: Any, **kwargs: Any) -> RunResult:  # noqa: A002 - its name
        call = _begin(starting_agent, input, kwargs)
        if call is None:
            return await self.inner.run(starting_agent, input, **kwargs)
        with _closing(call):
            result = await self.inner.run(starting_agent, input, **kwargs)
        return _ended(call, result)

    def run_sync(self, starting_agent: Agent[Any], input: Any, **kwargs: Any) -> RunResult:  # noqa: A002 - its name
        call = _begin(starting_agent, input, kwargs)
        if call is None:
            return self.inner.run_sync(starting_agent, input, **kwargs)
        with _closing(call):
            result = self.inner.run_sync(starting_agent, input, **kwargs)
        return _ended(call, result)

    def run_streamed(
        self,
        starting_agent: Agent[Any],
        input: Any,  # noqa: A002 - its name
        **kwargs: Any,
    ) -> RunResultStreaming:
        call = _begin(starting_agent, input, kwargs)
        if call is None:
            return self.inner.run_streamed(starting_agent, input, **kwargs)
        with _closing(call):
            result = self.inner.run_streamed(starting_agent, input, **kwargs)
        listen(result, partial(_hear, call))
        _follow(call, result)
        return result


@contextlib.contextmanager
def installed(guard: Guard) -> Generator[None]:
    """Every run is under `guard` until the block ends.

    ``with installed(pin): await Runner.run(agent, question)``

    Code that runs elsewhere at the same time is not concerned, nor are threads that do not share this context.
    """
    given: object = guard
    if not isinstance(given, Guard):
        raise TypeError(f"installed takes a guard: installed(Guard(Budget(usd=0.50))), not {given!r}")
    take_place()
    token = _here.set((*_here.get(), guard))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # closed in another context, which holds nothing of ours
            _here.reset(token)


def install_everywhere(guard: Guard) -> None:
    """Enforce `guard` on every run of this process, for its life."""
    take_place()
    if guard not in _everywhere:
        _everywhere.append(guard)


def take_place() -> None:
    """Put our runner around the default one, unless it is there."""
    runner = get_default_agent_runner()
    if not isinstance(runner, PassThroughRunner):
        set_default_agent_runner(PassThroughRunner(runner))


# --- a call of the runner -----------------------------------------------------------------------------------------


def _begin(agent: Any, given: Any, kwargs: dict[str, Any]) -> Call | None:
    """The call that begins, with the hooks in `kwargs` replaced by ours; None where there is nothing to watch."""
    hooks = kwargs.get("hooks")
    if not isinstance(hooks, RunHooksBase | None):
        return None  # the runner will say what it thinks of that
    own, wrap = _unwrapped(hooks)
    attached = marks(agent)
    guards = list(dict.fromkeys([*own, *(one.guard for one in attached), *_here.get(), *_everywhere, *_around()]))
    if not guards and wrap is None:
        return None
    config = config_of(kwargs.get("run_config"))
    given_name = next((one.service for one in attached if one.service), None)
    identity = {key: value for one in reversed(attached) for key, value in one.identity.items()}
    asked = Asked(agent, given, config, kwargs.get("session"), kwargs.get("conversation_id"), given_name, identity)
    call = Call(asked)
    if guards:
        with call.opening():
            kwargs["hooks"] = Relay(call, guards, wrap)
    return call


def _unwrapped(hooks: Any) -> tuple[list[Guard], RunHooks[Any] | None]:
    guards: list[Guard] = []
    while type(hooks) is ShearpinRunHooks:
        guards.append(hooks.guard)
        hooks = hooks.wrap
    return guards, hooks


def _around() -> Iterator[Guard]:
    """The guards of the calls that this one is made in."""
    for slot in slots():
        yield from slot.call.watched


@contextlib.contextmanager
def _closing(call: Call) -> Generator[None]:
    """Around the runner's own work: what it raises ends the call."""
    token = here.set(call.slot)
    try:
        yield
    except BaseException as error:
        call.failed(error, getattr(error, "run_data", None))
        raise
    finally:
        with contextlib.suppress(ValueError):
            here.reset(token)


def _ended(call: Call, result: RunResult) -> RunResult:
    call.answered(result)
    return result


def _follow(call: Call, result: RunResultStreaming) -> None:
    """Put a task around the stream's own, as the SDK does too: what ends the call is raised where that would be."""
    task = result.run_loop_task
    if task is None:
        return
    result.run_loop_task = asyncio.create_task(_to_its_end(call, result, task))
    result.run_loop_task.add_done_callback(partial(_given_up, call, result, task))


async def _to_its_end(call: Call, result: RunResultStreaming, task: asyncio.Task[Any]) -> None:
    try:
        await task
    except BaseException as error:
        call.failed(error, result)
        raise
    counted_out = _too_many_turns(result)
    if counted_out is None:
        call.answered(result)
    else:
        call.failed(counted_out, result)


def _given_up(call: Call, result: RunResultStreaming, task: asyncio.Task[Any], ours: asyncio.Task[Any]) -> None:
    """Cancelled before it began, a task does nothing, not even cancel what it is around."""
    if ours.cancelled():
        task.cancel()
        with contextlib.suppress(RunStoppedError):  # whoever cancelled it will not look
            call.failed(asyncio.CancelledError(), result)


def _hear(call: Call, event: Any) -> None:
    call.models.hear(call.watched.values(), event)


def _too_many_turns(result: RunResultStreaming) -> MaxTurnsExceeded | None:
    """Of this the stream's task says nothing: its consumer finds it out by counting."""
    limit, answered = result.max_turns, result.final_output is not None or result.interruptions
    if answered or limit is None or result.current_turn <= limit:
        return None
    return MaxTurnsExceeded(f"Max turns ({limit}) exceeded")


take_place()
