"""How a paused run reaches another process: in the checkpoint, on the last reply of its model.

A handler can neither write to a graph's state nor, on an event loop, to its checkpointer. But the reply it is told of
is the very message that goes into the state, and its ``response_metadata`` is kept with it and sent to no provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import LLMResult

from shearpin.adapter import Run

KEY = "shearpin"


def carry_in(result: LLMResult, run: Run) -> None:
    """Note on the reply what the run has come to."""
    generations = result.generations[0] if result.generations else []
    message = getattr(generations[0], "message", None) if generations else None
    if isinstance(message, AIMessage):
        message.response_metadata[KEY] = run.carry()


def carried_in(messages: Sequence[Any]) -> Any:
    """What the last reply says its run had come to."""
    replies = (message for message in reversed(messages) if isinstance(message, AIMessage))
    last = next(replies, None)
    return None if last is None else last.response_metadata.get(KEY)
