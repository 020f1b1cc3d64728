"""How the run of a call begins: as a run of its own, inside the run of the call around it, or as one that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agents import RunConfig

from shearpin import Guard
from shearpin.adapter import Run
from shearpin_integrations.openai_agents import resuming
from shearpin_integrations.openai_agents.gaps import harmless
from shearpin_integrations.openai_agents.places import slots
from shearpin_integrations.openai_agents.reading import identity_of, workflow_of

if TYPE_CHECKING:
    from shearpin_integrations.openai_agents.places import Slot
    from shearpin_integrations.openai_agents.watching import Watched


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

    def run_of(self, guard: Guard, *, inside: bool) -> Run:
        """The run of this call, not open yet; one inside another is named after its agent."""
        name = str(getattr(self.agent, "name", None) or "run")
        identity: dict[str, Any] = {}
        if not inside:
            name = self.service or workflow_of(self.config) or name
            identity |= self.identity
        with harmless("reading of a run's metadata"):
            told = identity_of(self.config, self.session, self.conversation_id)
            identity |= {key: value for key, value in told.items() if value}
        question = None if resuming.is_state(self.input) else self.input
        return guard.run(name, input=question, **identity)


def open_run(guard: Guard, asked: Asked, own: Slot, which: int) -> Run:
    """Open the run of a call for `guard`, its guard number `which`; may raise the stop of the run around it."""
    around = _around(guard, own)
    if around is not None:
        around.run.check()  # also if it has ended: this is an orphan of it
        if around.run.tree.ended:
            around = None
    run = asked.run_of(guard, inside=around is not None)
    if around is not None:
        run.open(resuming.tool_around(asked.input, around))
    elif resuming.is_state(asked.input):
        resuming.open_again(run, guard, asked.input, which)
    else:
        run.open()
    return run


def _around(guard: Guard, own: Slot) -> Watched | None:
    """What `guard` watches of the innermost call around."""
    found = (slot.call.watched.get(guard) for slot in slots() if slot.call is not own.call)
    return next((watched for watched in found if watched is not None), None)
