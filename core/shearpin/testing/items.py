"""The items that a conversation of the Responses API is made of, and the same conversation as a chat."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

Item = dict[str, Any]

CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Calls that the client answers, and where they hold what the tool is called with."""


def items_in(given: object) -> list[Item]:
    """The `input` of a request as items: a text is what the user says."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return list(cast("list[Item]", given)) if isinstance(given, list) else []


def kind_of(item: Item) -> str:
    """The type of an item, which a message may leave out."""
    return str(item.get("type") or "message")


def as_messages(instructions: object, items: Iterable[Item]) -> list[Item]:
    """The conversation in the shape of the chat API: what the model said in one go is one message."""
    messages: list[Item] = [{"role": "system", "content": instructions}] if isinstance(instructions, str) else []
    for item in items:
        kind = kind_of(item)
        if kind == "message" and item.get("role") != "assistant":
            messages.append({"role": item.get("role"), "content": _content(item.get("content"))})
        elif kind.endswith("_output"):
            answer = {"tool_call_id": item.get("call_id"), "content": _content(item.get("output"))}
            messages.append({"role": "tool"} | answer)
        else:
            _say(_turn(messages, kind), item, kind)
    return messages


def _turn(messages: list[Item], kind: str) -> Item:
    """The message of the model that an item of this kind belongs to: the last one, or a new one."""
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    said = last is not None and (last["content"] is not None or "tool_calls" in last)
    if last is None or (said and kind in ("message", "reasoning")):
        last = {"role": "assistant", "content": None}
        messages.append(last)
    return last


def _say(message: Item, item: Item, kind: str) -> None:
    if kind == "message":
        message["content"] = _content(item.get("content"))
    elif kind == "reasoning":
        message["reasoning_content"] = _content(item.get("summary"))
    elif kind in CALLS:
        function = {"name": item.get("name"), "arguments": item.get(CALLS[kind])}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        message.setdefault("tool_calls", []).append(call)


def _content(given: object) -> object:
    """Parts that are all text as one text; others as the chat API has them."""
    if not isinstance(given, list):
        return given
    parts = cast("list[Item]", given)
    texts = [part.get("text") for part in parts]
    if all(isinstance(text, str) for text in texts):
        return "".join(cast("list[str]", texts))
    return [{"type": "text", "text": part["text"]} if "text" in part else part for part in parts]


def as_tools(tools: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Tools in the shape of the chat API; hosted ones, which it does not have, stay as they are."""
    return [_tool(tool) if tool.get("type") == "function" else dict(tool) for tool in tools]


def _tool(tool: Mapping[str, Any]) -> Item:
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


class Memory:
    """The last conversations that a `previous_response_id` can go on with; as many as `keep`."""

    def __init__(self, keep: int = 1000) -> None:
        self._lock = threading.Lock()
        self._keep = keep
        self._kept: OrderedDict[str, list[Item]] = OrderedDict()

    def keep(self, response_id: str, items: list[Item]) -> None:
        with self._lock:
            self._kept[response_id] = items
            if len(self._kept) > self._keep:
                self._kept.popitem(last=False)

    def recall(self, response_id: str) -> list[Item] | None:
        with self._lock:
            return self._kept.get(response_id)
