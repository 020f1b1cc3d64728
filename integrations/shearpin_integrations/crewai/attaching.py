"""Putting guards on crews, flows and agents; `shearpin.attach` and `shearpin.install` for CrewAI."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from crewai import Crew, Flow

from shearpin import Guard
from shearpin_integrations.crewai import attachments, entries, scope
from shearpin_integrations.crewai.listening import listen
from shearpin_integrations.crewai.scope import Attachment

Target = TypeVar("Target")

_KINDS: tuple[Any, ...] = (Crew, Flow, *entries.AGENTS)


def attach(target: Target, pin: Guard, *, service: str | None = None, **identity: Any) -> Target:
    """Put a crew, a flow or an agent, and the crews copied from it, under `pin` for its life; returns `target` itself.

    Each of its kickoffs is a run, which is named by ``service``; ``identity`` is what `Guard.run` takes
    (``session_id``, ``user_id``, ...). Attached twice to one guard it counts once.

    Raises:
        TypeError: `target` is nothing that can be kicked off, `pin` is no guard, or an option is unknown.
    """
    if not isinstance(target, _KINDS):
        raise TypeError(f"attach takes a crew, a flow or an agent of CrewAI, not {target!r}")
    attachments.add(target, _attachment("attach(crew, {})", pin, service, identity))
    return target


class attached:  # noqa: N801 - read as a verb: `with attached(pin):`
    """A block under `pin`: every crew, flow and agent that is kicked off in it, copies and threads included.

    It opens no run itself: each outermost kickoff in it is one. Takes the options of `attach`.
    """

    def __init__(self, pin: Guard, *, service: str | None = None, **identity: Any) -> None:
        self._attachment = _attachment("attached({})", pin, service, identity)
        self._blocks: list[ExitStack] = []

    def __enter__(self) -> Self:
        block = ExitStack()
        block.enter_context(scope.entering((self._attachment,)))
        listen(block)
        self._blocks.append(block)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._blocks.pop().close()


def attach_to(agent: Any, guard: Guard, *, service: str | None = None, **identity: Any) -> Any:
    """`agent` under `guard`; None for what is none of CrewAI's."""
    return attach(agent, guard, service=service, **identity) if isinstance(agent, _KINDS) else None


def install_everywhere(guard: Guard) -> None:
    """Put every kickoff of this process under `guard`, in every thread, for the process's life.

    A model that is called outside of a crew, a flow or an agent is not reached.
    """
    scope.install(Attachment(guard))


def _attachment(usage: str, pin: object, service: str | None, identity: dict[str, Any]) -> Attachment:
    if not isinstance(pin, Guard):
        taker = usage.partition("(")[0]
        raise TypeError(f"{taker} takes a guard: {usage.format('Guard(Budget(usd=0.50))')}, not {pin!r}")
    pin.run(service or "run", **identity)  # never opened: it says now which options there are
    return Attachment(pin, service, identity)
