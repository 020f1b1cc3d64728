"""Reading the answers of provider clients: OpenAI (chat completions, responses), Anthropic, LangChain messages.

Read by shape, not by class, as objects or as dicts: no client is imported, and a proxy of one is understood too.
Anthropic tells cached tokens beside its input tokens; here they are part of them, as the GenAI conventions want.
"""

from __future__ import annotations

import json
from typing import Any

from shearpin.trace.model import Usage
from shearpin.trace.plain import Plain, is_dict
from shearpin.trace.reply import Reply


def read_reply(response: object) -> Reply:
    """What `response` says, as far as its shape is known; a plain string is the text. Never raises."""
    if response is None:
        return Reply()
    if isinstance(response, str):
        return Reply(text=response)
    try:
        return _read(response)
    except Exception:  # noqa: BLE001 - a stranger's object: an unread reply is charged at its estimate
        return Reply()


def _read(response: object) -> Reply:
    if _get(response, "choices"):
        return _openai_chat(response)
    if _get(response, "output") is not None and _get(response, "object") == "response":
        return _openai_responses(response)
    if _get(response, "usage_metadata") is not None and _get(response, "content") is not None:
        return _langchain(response)
    if isinstance(_get(response, "content"), list):
        return _anthropic(response)
    return Reply(usage=read_usage(_get(response, "usage")))


def read_usage(usage: object) -> Usage | None:
    """Token counts in any of the known shapes; None when there are none."""
    if usage is None:
        return None
    sent = _number(usage, "prompt_tokens", "input_tokens")
    details = _get(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    made = _get(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
    cached = _number(details, "cached_tokens", "cache_read")
    written = _number(details, "cache_write_tokens", "cache_creation")
    read_beside, written_beside = (_number(usage, f"cache_{kind}_input_tokens") for kind in ("read", "creation"))
    return Usage(
        input_tokens=sent + read_beside + written_beside,
        output_tokens=_number(usage, "completion_tokens", "output_tokens"),
        cached_input_tokens=cached + read_beside,
        cache_write_tokens=written + written_beside,
        reasoning_tokens=_number(made, "reasoning_tokens", "reasoning"),
        image_tokens=_number(details, "image_tokens", "image"),
        audio_tokens=_number(details, "audio_tokens", "audio") + _number(made, "audio_tokens", "audio"),
    )


def _openai_chat(response: object) -> Reply:
    choice = _get(response, "choices")[0]
    message: Any = _get(choice, "message") or {}
    return Reply(
        text=_get(message, "content"),
        tool_calls=[_tool_call(call, _get(call, "function")) for call in _get(message, "tool_calls") or ()],
        reasoning=_get(message, "reasoning_content", "reasoning"),
        finish_reason=_get(choice, "finish_reason"),
        response_id=_get(response, "id"),
        response_model=_get(response, "model"),
        usage=read_usage(_get(response, "usage")),
    )


def _openai_responses(response: object) -> Reply:
    items = _get(response, "output")
    texts = [_get(part, "text") for item in items for part in _get(item, "content") or () if _get(part, "text")]
    return Reply(
        text="".join(texts) or None,
        tool_calls=[_tool_call(item, item, "call_id") for item in items if _get(item, "type") == "function_call"],
        finish_reason=_get(response, "status"),
        response_id=_get(response, "id"),
        response_model=_get(response, "model"),
        usage=read_usage(_get(response, "usage")),
    )


def _anthropic(response: object) -> Reply:
    blocks = _get(response, "content")
    tools = [block for block in blocks if _get(block, "type") == "tool_use"]
    return Reply(
        text="".join(_get(block, "text") or "" for block in blocks if _get(block, "type") == "text") or None,
        tool_calls=[{"id": _get(t, "id"), "name": _get(t, "name"), "arguments": _get(t, "input")} for t in tools],
        reasoning="".join(_get(block, "thinking") or "" for block in blocks) or None,
        finish_reason=_get(response, "stop_reason"),
        response_id=_get(response, "id"),
        response_model=_get(response, "model"),
        usage=read_usage(_get(response, "usage")),
    )


def _langchain(message: object) -> Reply:
    content, facts = _get(message, "content"), _get(message, "response_metadata")
    calls: Any = _get(message, "tool_calls") or ()
    return Reply(
        text=content if isinstance(content, str) else json.dumps(content, default=str),
        tool_calls=[{"id": _get(c, "id"), "name": _get(c, "name"), "arguments": _get(c, "args")} for c in calls],
        finish_reason=_get(facts, "finish_reason"),
        response_id=_get(message, "id"),
        response_model=_get(facts, "model_name"),
        usage=read_usage(_get(message, "usage_metadata")),
    )


def _tool_call(call: object, function: object, id_name: str = "id") -> dict[str, Any]:
    arguments = _get(function, "arguments")
    return {"id": _get(call, id_name), "name": _get(function, "name"), "arguments": parse_arguments(arguments)}


def parse_arguments(arguments: object) -> Plain:
    """Tool arguments as data; what is not JSON stays the text it was."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _get(source: object, *names: str) -> Any:  # noqa: ANN401 - a stranger's attribute
    for name in names:
        value: Any = source.get(name) if is_dict(source) else getattr(source, name, None)
        if value is not None:
            return value
    return None


def _number(source: object, *names: str) -> int:
    value = _get(source, *names)
    return int(value) if isinstance(value, int | float) and value > 0 else 0
