"""How a paused run reaches another process: in the checkpoint, on the last reply of its model.

A handler can neither write to a graph's state nor, on an event loop, to its checkpointer. But the reply it is told of
is the very message that goes into the state, and its ``response_metadata`` is kept with it and sent to no provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import LLMResult

from shearpin.adapter import Run, is_dict
from shearpin_integrations.langchain.reading import is_a

KEY = "shearpin"


def carry_in(result: LLMResult, run: Run) -> None:
    """Note on the reply what the run has come to."""
    generations = result.generations[0] if result.generations else []
    message = getattr(generations[0], "message", None) if generations else None
    if isinstance(message, AIMessage):
        message.response_metadata[KEY] = run.carry()


def carried_in(messages: Sequence[Any], run: Run) -> Any:
    """What the last reply that tells of another run says it had come to; `run` may have made replies since."""
    for message in reversed(messages):
        carried = message.response_metadata.get(KEY) if is_a(message, AIMessage) else None
        if is_dict(carried) and carried.get("trace_id") != run.trace.trace_id:
            return carried
    return None
