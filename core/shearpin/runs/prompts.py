"""The prompts that users hand in, as the list of messages they amount to; and what a decorated function was asked.

A prompt that is not read counts next to nothing, so one is looked for in whatever may hold it. Nothing is used up for
that: an iterator is left to the caller, and is a gap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MappingView, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeGuard, cast

from shearpin.runs import given
from shearpin.trace.plain import is_dict, is_list, is_tuple, made_as, plain
from shearpin.trace.usage import field_of

_DICTS = frozenset((dict,))
_SAID = ("content", "parts", "text")
"""Where an object that is a message has what it says."""
_BESIDE = ("role", "name", "tool_calls", "tool_call_id")
_INSTRUCTIONS = frozenset(("system", "instructions", "developer"))
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens")
_SETTINGS = frozenset(
    (
        *(*_LIMITS, "model", "provider", "tools", "tool_choice", "temperature", "top_p", "top_k", "seed", "stop", "n"),
        *(
            "stop_sequences",
            "stream",
            "stream_options",
            "timeout",
            "retries",
            "max_retries",
            "reasoning_effort",
            "client",
        ),
        *(
            "service_tier",
            "base_url",
            "headers",
            "extra_headers",
            "extra_query",
            "config",
            "metadata",
            "session",
            "user",
        ),
        *("user_id", "session_id", "thread_id", "run_id", "trace_id", "request_id"),
    )
)
_SECRET = re.compile(r"(^|_)(key|token|secret|password|auth|authorization|credentials?)$")


def messages(prompt: object) -> Sequence[Any]:
    """A prompt as the list of its messages: a text is the user's, an object that is no collection is one message."""
    if prompt is None:
        return ()
    if (is_list(prompt) or is_tuple(prompt)) and _DICTS.issuperset(map(type, prompt)):  # as nearly always
        return prompt
    try:
        return _messages(prompt)
    except Exception:  # noqa: BLE001 - anybody's code
        return [prompt]


def _messages(prompt: object) -> Sequence[Any]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if _is_message(prompt) or _is_record(prompt) or made_as(prompt, bytes) or not isinstance(prompt, Iterable):
        return [_message(prompt)]
    items = cast("Iterable[object]", prompt)
    return [prompt] if iter(items) is items else [_message(item) for item in items]


def is_mapping(item: object) -> TypeGuard[Mapping[Any, Any]]:
    """Was it made as a mapping?"""
    return issubclass(type(item), Mapping)


def _is_record(item: object) -> bool:
    """Is it an object that is recorded whole?"""
    return hasattr(type(item), "model_dump") or hasattr(type(item), "__dataclass_fields__")


def _is_message(item: object) -> bool:
    return is_mapping(item) or any(made_as(field_of(item, name), str | list | tuple | dict) for name in _SAID)


def _message(item: object) -> object:
    """A message that is neither a dict nor recorded whole, as the dict it amounts to."""
    if is_mapping(item) or _is_record(item) or not _is_message(item):
        return item
    return {name: told for name in (*_BESIDE, *_SAID) if (told := field_of(item, name)) is not None}


def unread(items: Sequence[object]) -> str | None:
    """What cannot be read of all that a model is sent, and so counts next to nothing, if anything."""
    if _DICTS.issuperset(map(type, items)):
        return None
    odd = (item for item in items if not (is_dict(item) or made_as(item, str | bytes) or _is_record(item)))
    kinds = (type(item).__name__ for item in odd if type(plain(item)) is str)
    return next((f"a {kind} that is sent to a model cannot be measured: hand it over as data" for kind in kinds), None)


def tools(definitions: object) -> Sequence[Any]:
    """Tool definitions as a list, those in a mapping with their names."""
    if is_mapping(definitions):
        return [{"name": name, "definition": tool} for name, tool in definitions.items()]
    return messages(definitions)


def asked(arguments: Mapping[str, object], model: str) -> dict[str, Any]:
    """What a decorated function asks its model: its settings by their usual names, and as its prompt all else.

    That is any text or data it is called with, under whatever name, save what is called a secret.
    """
    named, tooling = arguments.get("model"), arguments.get("tools")
    instructions: list[object] = []
    prompt: list[object] = []
    for name, value in arguments.items():
        if name not in _SETTINGS and not _SECRET.search(name):
            instructs = name in _INSTRUCTIONS or name.startswith("system")
            (instructions if instructs else prompt).extend(_told(name, value, "system" if instructs else "user"))
    limits = (given.token_limit(arguments.get(name)) for name in _LIMITS)
    return {
        "model": named if made_as(named, str) and named else model,
        "messages": [*instructions, *prompt],
        "max_tokens": next((limit for limit in limits if limit is not None), None),
        "tools": tooling if made_as(tooling, list | tuple | Mapping) else (),
    }


def _told(name: str, value: object, role: str) -> Sequence[Any]:
    try:
        return _said(name, value, role)
    except Exception:  # noqa: BLE001 - anybody's code
        return [value]


def _said(name: str, value: Any, role: str) -> Sequence[Any]:  # noqa: ANN401 - whatever a function is called with
    if name in ("messages", "prompt"):
        return messages(value)
    if not made_as(value, str | Sequence | Mapping | AbstractSet | MappingView):
        return [_message(value)] if _is_message(value) else ()  # else a number, a switch, what does the asking
    listed = made_as(value, list | tuple | Mapping) and any(map(_is_message, (value,) if is_dict(value) else value))
    return messages(value) if listed else [{"role": role, "content": value}]
