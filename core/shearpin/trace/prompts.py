"""What is sent to a model, as a trace keeps it: the bodies of OpenAI's chat completions and responses.

Messages are dicts with ``role`` and ``content`` and, where they apply, ``name``, ``tool_call_id`` and ``tool_calls``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shearpin.trace.plain import is_list
from shearpin.trace.providers import read_call
from shearpin.trace.usage import field_of

_KEPT = ("name", "tool_call_id")


def chat_messages(messages: object) -> list[dict[str, Any]]:
    """The messages of a chat; what is none is kept as it is."""
    return [_chat_message(message) for message in messages] if is_list(messages) else []


def _chat_message(message: object) -> Any:  # noqa: ANN401 - what is no message stays what it was
    role = field_of(message, "role")
    if role is None:
        return message
    told = {"role": role, "content": field_of(message, "content")}
    told |= {name: value for name in _KEPT if (value := field_of(message, name)) is not None}
    if calls := field_of(message, "tool_calls"):
        told["tool_calls"] = [read_call(call, "id", field_of(call, "function", "custom")) for call in calls]
    return told


def response_messages(instructions: object, given: object) -> list[dict[str, Any]]:
    """The ``input`` of a response with its ``instructions``: calls beside each other are one message of the model."""
    told = [{"role": "system", "content": instructions}] if instructions else []
    if not is_list(given):
        return [*told, {"role": "user", "content": given}] if given else told
    return [*told, *_items(given)]


def _items(items: Iterable[object]) -> list[Any]:
    told: list[Any] = []
    for item in items:
        kind = str(field_of(item, "type") or "message")
        if kind.endswith("_call") and field_of(item, "call_id") is not None:
            _calling(told)["tool_calls"].append(read_call(item, "call_id", item))
        elif kind.endswith("_output"):
            answer = {"content": field_of(item, "output"), "tool_call_id": field_of(item, "call_id")}
            told.append({"role": "tool"} | answer)
        else:
            told.append(_chat_message(item))
    return told


def _calling(told: list[Any]) -> dict[str, Any]:
    """The message of the model that a call belongs to: the last one, or a new one."""
    if not told or field_of(told[-1], "role") != "assistant":
        told.append({"role": "assistant", "content": None})
    message: dict[str, Any] = told[-1]
    message.setdefault("tool_calls", [])
    return message
