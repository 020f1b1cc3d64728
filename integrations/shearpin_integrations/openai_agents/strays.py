"""Hooks that are told of a run which did not come through our runner, or of one whose runner did not know them.

The second happens when ours are called from hooks of the user's own; the call is known then. In the first, another
default runner has taken the place of ours: a run is known by the SDK's object that counts its usage, and ends with the
agent's answer, or when that object is gone.
"""

from __future__ import annotations

import contextlib
import weakref
from types import SimpleNamespace
from typing import Any

from agents import Agent, RunContextWrapper

from shearpin import RunStoppedError
from shearpin_integrations.openai_agents.calls import Call
from shearpin_integrations.openai_agents.gaps import BYPASSED
from shearpin_integrations.openai_agents.places import here
from shearpin_integrations.openai_agents.roots import Asked

_strays: dict[int, Call] = {}


def call_of(context: RunContextWrapper[Any], agent: Agent[Any]) -> Call:
    """The call that a hook is told of."""
    usage, slot = context.usage, here.get()
    if slot is not None and slot.call.counted_by(usage):
        return slot.call
    call = _strays.get(id(usage))
    if call is None:
        call = _strays[id(usage)] = Call(Asked(agent), BYPASSED)
        weakref.finalize(usage, _abandon, id(usage))
    return call


def ended(call: Call, output: object) -> None:
    """The last agent of `call` answered: that is the end of one that no runner ends."""
    if call.gap is not None and not call.tools.runs:
        for key in [key for key, stray in _strays.items() if stray is call]:
            del _strays[key]
        call.answered(SimpleNamespace(final_output=output, new_items=()))


def _abandon(key: int) -> None:
    call = _strays.pop(key, None)
    if call is not None:
        with contextlib.suppress(RunStoppedError):  # there is nobody to raise to
            call.abandoned()
