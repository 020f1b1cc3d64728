"""`shearpin.attach` and `shearpin.install` for the OpenAI Agents SDK."""

from __future__ import annotations

import copy
from typing import Any

from agents import Agent

from shearpin import Guard
from shearpin_integrations.openai_agents.runner import Attached, install_everywhere, mark

__all__ = ["attach_to", "install_everywhere"]


def attach_to(agent: Any, guard: Guard, *, service: str | None = None, **identity: Any) -> Any:
    """A copy of `agent`: a run that begins with it, also as a tool, is under `guard`; None for anything else."""
    given: Any = agent
    if not isinstance(agent, Agent):
        return None
    attached: Any = copy.copy(given)  # not `clone`, which a subclass with fields of its own may not survive
    mark(attached, Attached(guard, service, {key: value for key, value in identity.items() if value is not None}))
    return attached
