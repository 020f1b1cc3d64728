"""Reading the answers of provider clients: OpenAI (chat completions, responses), Anthropic, LangChain messages.

Read by shape, not by class, as objects or as dicts: no client is imported, and a proxy of one is understood too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from shearpin.trace.plain import Plain, is_list
from shearpin.trace.reply import Reply
from shearpin.trace.usage import field_of, read_usage


def read_reply(response: object) -> Reply:
    """What `response` says, as far as its shape is known; a plain string is the text. Never raises."""
    if response is None:
        return Reply()
    try:
        return Reply(text=response) if isinstance(response, str) else _read(response)
    except Exception:  # noqa: BLE001 - a stranger's object: an unread reply is charged at its estimate
        return Reply()


def _read(response: object) -> Reply:
    if field_of(response, "choices"):
        return _openai_chat(response)
    if field_of(response, "output") is not None and field_of(response, "object") == "response":
        return _openai_responses(response)
    if field_of(response, "usage_metadata") is not None and field_of(response, "content") is not None:
        return _langchain(response)
    if isinstance(field_of(response, "content"), list):
        return _anthropic(response)
    return Reply(response_model=field_of(response, "model"), usage=read_usage(field_of(response, "usage")))


def _openai_chat(response: object) -> Reply:
    choice = field_of(response, "choices")[0]
    message: Any = field_of(choice, "message") or {}
    calls = field_of(message, "tool_calls") or ()
    return Reply(
        text=_text(field_of(message, "content", "refusal") or field_of(choice, "text")),
        tool_calls=[read_call(call, "id", field_of(call, "function", "custom")) for call in calls],
        reasoning=field_of(message, "reasoning_content", "reasoning"),
        finish_reason=field_of(choice, "finish_reason"),
        response_id=field_of(response, "id"),
        response_model=field_of(response, "model"),
        usage=read_usage(field_of(response, "usage")),
    )


def _openai_responses(response: object) -> Reply:
    items = field_of(response, "output")
    said = [_text(field_of(item, "content")) for item in items if field_of(item, "type") == "message"]
    thought = [_thought(item) for item in items if field_of(item, "type") == "reasoning"]
    return Reply(
        text="".join(filter(None, said)) or None,
        tool_calls=[read_call(item, "call_id", item) for item in items if _is_call(item)],
        reasoning="\n\n".join(filter(None, thought)) or None,
        finish_reason=_finish(response),
        response_id=field_of(response, "id"),
        response_model=field_of(response, "model"),
        usage=read_usage(field_of(response, "usage")),
    )


def _thought(item: object) -> str | None:
    """A summary, told in paragraphs, or where a server tells them the thoughts themselves."""
    paragraphs = field_of(item, "summary") or field_of(item, "content") or ()
    return "\n\n".join(filter(None, (field_of(paragraph, "text") for paragraph in paragraphs))) or None


def _is_call(item: object) -> bool:
    """Is the caller asked to run something? What the provider runs itself, a web search, has no id to answer under."""
    return str(field_of(item, "type")).endswith("_call") and field_of(item, "call_id") is not None


def _finish(response: object) -> str | None:
    """Why a response is not complete, or that it is; nothing of one that is still being made."""
    why = field_of(field_of(response, "incomplete_details"), "reason")
    status = field_of(response, "status")
    return why or (None if status in ("in_progress", "queued") else status)


def _anthropic(response: object) -> Reply:
    blocks = field_of(response, "content")
    tools = [block for block in blocks if field_of(block, "type") == "tool_use"]
    return Reply(
        text="".join(field_of(block, "text") or "" for block in blocks if field_of(block, "type") == "text") or None,
        tool_calls=_tool_calls(tools, "input"),
        reasoning="".join(field_of(block, "thinking") or "" for block in blocks) or None,
        finish_reason=field_of(response, "stop_reason"),
        response_id=field_of(response, "id"),
        response_model=field_of(response, "model"),
        usage=read_usage(field_of(response, "usage")),
    )


def _langchain(message: object) -> Reply:
    facts = field_of(message, "response_metadata")
    return Reply(
        text=_text(field_of(message, "content")),
        tool_calls=_tool_calls(field_of(message, "tool_calls") or (), "args"),
        finish_reason=field_of(facts, "finish_reason"),
        response_id=field_of(message, "id"),
        response_model=field_of(facts, "model_name"),
        usage=read_usage(field_of(message, "usage_metadata")),
    )


def _text(content: object) -> Any:  # noqa: ANN401 - as it was told
    """The text of a message's content, which may be a list of parts."""
    if not is_list(content):
        return content
    parts = (part if isinstance(part, str) else field_of(part, "text", "refusal") or "" for part in content)
    return "".join(parts) or None


def _tool_calls(calls: Iterable[object], arguments: str) -> list[dict[str, Any]]:
    return [{"id": field_of(c, "id"), "name": field_of(c, "name"), "arguments": field_of(c, arguments)} for c in calls]


def read_call(call: object, id_name: str, asked: object) -> dict[str, Any]:
    """A call: a function has arguments, a custom tool an input, a hand on a computer an action or an operation."""
    name = field_of(asked, "name") or str(field_of(asked, "type")).removesuffix("_call")
    arguments = parse_arguments(field_of(asked, "arguments", "input", "action", "operation"))
    return {"id": field_of(call, id_name), "name": name, "arguments": arguments}


def parse_arguments(arguments: object) -> Plain:
    """Tool arguments as data; what is not JSON stays the text it was."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
