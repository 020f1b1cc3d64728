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

from agents import RunContextWrapper

from shearpin import RunStoppedError
from shearpin_integrations.openai_agents.calls import Asked, Call
from shearpin_integrations.openai_agents.places import here

BYPASSED = (
    "another default runner has taken the place of Shearpin's: a run that fails is closed late, and agents used as "
    "tools are not seen; import shearpin_integrations.openai_agents after set_default_agent_runner, or call the "
    "runner inside `with installed(pin):`"
)
_strays: dict[int, Call] = {}


def call_of(context: RunContextWrapper[Any]) -> Call:
    """The call that a hook is told of."""
    usage, slot = context.usage, here.get()
    if slot is not None and (slot.call.usage is None or slot.call.usage is usage):
        slot.call.usage = usage
        return slot.call
    call = _strays.get(id(usage))
    if call is None:
        call = _strays[id(usage)] = Call(Asked(getattr(context, "agent", None)))
        call.gap = BYPASSED
        weakref.finalize(usage, _abandon, id(usage))
    return call


def ended(call: Call, output: object) -> None:
    """The last agent of `call` answered: that is the end of one that no runner ends."""
    if call.gap is not None and not call.running:
        for key in [key for key, stray in _strays.items() if stray is call]:
            del _strays[key]
        call.answered(SimpleNamespace(final_output=output, new_items=()))


def _abandon(key: int) -> None:
    call = _strays.pop(key, None)
    if call is not None:
        with contextlib.suppress(RunStoppedError):  # there is nobody to raise to
            call.abandoned()
