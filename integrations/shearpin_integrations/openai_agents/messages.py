"""Prompts as every framework's prompts are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shearpin.adapter import is_list, parse_arguments, plain
from shearpin_integrations.openai_agents.reading import part

Message = dict[str, Any]


class Prompts:
    """The prompts of one run. Each repeats the last one, in objects made anew: only what is new is read."""

    def __init__(self) -> None:
        self._head: str | None = None
        self._items: list[Any] = []
        self._messages: list[Message] = []

    def told(self, system_prompt: str | None, items: Sequence[Any]) -> list[Message]:
        """The messages of a prompt; those that the last one had are the same objects."""
        told, known = list(items), len(self._items)
        if system_prompt != self._head or told[:known] != self._items:
            known, self._messages = 0, [{"role": "system", "content": system_prompt}] if system_prompt else []
        messages = list(self._messages)
        for item in told[known:]:
            _add(messages, item)
        self._head, self._items, self._messages = system_prompt, told, messages
        return messages


def _add(messages: list[Message], item: Any) -> None:
    kind, role = part(item, "type"), part(item, "role")
    if kind == "function_call":
        arguments = parse_arguments(part(item, "arguments"))
        call = {"id": part(item, "call_id"), "name": part(item, "name"), "arguments": arguments}
        said = _said(messages)
        messages[-1] = {**said, "tool_calls": [*said.get("tool_calls", ()), call]}
    elif kind == "function_call_output":
        content = text_of(part(item, "output"))
        messages.append({"role": "tool", "content": content, "tool_call_id": part(item, "call_id")})
    elif kind == "reasoning":
        thoughts = [part(piece, "text") for piece in part(item, "summary") or part(item, "content") or ()]
        messages.append({"role": "assistant", "content": None, "reasoning": "\n\n".join(filter(None, thoughts))})
    elif role is None:
        messages.append({"role": "assistant", "content": plain(item)})
    else:
        thought = role == "assistant" and messages and messages[-1].keys() == _THOUGHT
        before = messages.pop() if thought else {}
        messages.append({**before, "role": role, "content": text_of(part(item, "content"))})


_THOUGHT = {"role", "content", "reasoning"}


def _said(messages: list[Message]) -> Message:
    """The last message, if the model said it: what it says at once, words and calls, is one message."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or not isinstance(last["content"], str | None):
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def text_of(content: object) -> Any:
    """The text of a content that is nothing but text, else its parts."""
    if not is_list(content) or not content:
        return plain(content)
    texts = [part(piece, "text") for piece in content]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else plain(content)
