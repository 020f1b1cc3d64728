"""Conversations that a stop has left with unanswered tool calls.

A stop before a tool leaves the model's request for it in the checkpoint. The next message on that thread follows it,
and every provider rejects such a conversation. The calls that were never made are answered so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage

from shearpin_integrations.langchain.reading import conversations, is_a, put_back

NOT_MADE = "This call was not made: the run was stopped before it."


def mend(state: Any) -> bool:
    """Mend every conversation in `state`, which is the caller's own copy; was any torn?"""
    whole = {name: mended(messages) for name, messages in conversations(state).items()}
    for name, messages in whole.items():
        if messages is not None:
            put_back(state, name, messages)
    return any(whole.values())


def mended(messages: Sequence[Any]) -> list[Any] | None:
    """The conversation with every unanswered call answered that other messages follow; None when none is."""
    whole: list[Any] = []
    owed: dict[str | None, str] = {}  # names by id, until the next word: an id may come again later
    for message in messages:
        if is_a(message, ToolMessage):
            owed.pop(message.tool_call_id, None)
        else:
            whole.extend(_not_made(call_id, name) for call_id, name in owed.items())
            owed = {}
        whole.append(message)
        if is_a(message, AIMessage):
            owed = {call["id"]: call["name"] for call in message.tool_calls}
    return whole if len(whole) > len(messages) else None


def _not_made(call_id: str | None, name: str) -> ToolMessage:
    return ToolMessage(NOT_MADE, tool_call_id=call_id, name=name, status="error")
