"""How a paused run reaches another process where its checkpointer is out of reach: on the replies of its model.

A handler can neither write to a graph's state nor, on an event loop, to most checkpointers. But the reply it is told of
is the very message that goes into the state, and its ``response_metadata`` is kept with it and sent to no provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import LLMResult

from shearpin.adapter import Run, is_dict
from shearpin_integrations.langchain.reading import is_a

KEY = "shearpin"
_NO_SPENDING = ("trace_id", "seconds", "owed")
"""What may differ though as much was spent."""


def carry_in(result: LLMResult, run: Run) -> None:
    """Note on the reply what the run has come to."""
    generations = result.generations[0] if result.generations else []
    message = getattr(generations[0], "message", None) if generations else None
    if isinstance(message, AIMessage):
        message.response_metadata[KEY] = run.carry()


def carried_in(messages: Sequence[Any]) -> Any:
    """What the last reply says its run had come to; a question after it began another run."""
    for message in reversed(messages):
        if is_a(message, HumanMessage):
            return None
        carried = message.response_metadata.get(KEY) if is_a(message, AIMessage) else None
        if is_dict(carried):
            return carried
    return None


def amounts_to(run: Run, carried: Any) -> bool:
    """Does `carried` tell of all that the run has spent?"""
    told: Any = run.carry()
    return is_dict(carried) and all(carried.get(key) == told[key] for key in told if key not in _NO_SPENDING)
