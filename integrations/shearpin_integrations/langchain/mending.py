"""Conversations that a stop has left with unanswered tool calls.

A stop before a tool leaves the model's request for it in the checkpoint. The next message on that thread follows it,
and every provider rejects such a conversation. The calls that were never made are answered so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage

NOT_MADE = "This call was not made: the run was stopped before it."


def mended(messages: Sequence[Any]) -> list[Any] | None:
    """The conversation with every unanswered call answered that other messages follow; None when none is."""
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    whole: list[Any] = []
    owed: list[ToolMessage] = []
    for message in messages:
        if owed and not isinstance(message, ToolMessage):
            whole.extend(owed)
            owed = []
        whole.append(message)
        if isinstance(message, AIMessage):
            owed = [
                ToolMessage(NOT_MADE, tool_call_id=call["id"], name=call["name"], status="error")
                for call in message.tool_calls
                if call["id"] not in answered
            ]
    return whole if len(whole) > len(messages) else None
