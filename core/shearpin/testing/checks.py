"""What OpenAI's chat and embeddings refuse before the model is asked, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from shearpin.testing.request import Request
from shearpin.testing.script import Failure, error

_ROLES = ("system", "assistant", "user", "function", "tool", "developer")


def refusal(request: Request) -> Failure | None:
    """The 400 a chat request deserves, or None when the model may be asked."""
    body = request.body
    if not body.get("model"):
        return refuse("you must provide a model parameter")
    if "messages" not in body:
        return refuse("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
    if body.get("n") not in (None, 1):
        return refuse("The scripted model gives one choice: 'n' must be 1.", "n", "unsupported_value")
    if body.get("tools") == []:
        return _empty("tools")
    return _refused_messages(body["messages"])


def refused_embedding(request: Request) -> Failure | None:
    if not request.model:
        return refuse("you must provide a model parameter")
    return None if request.body.get("input") else refuse("'$.input' is invalid.", "input")


def bad_json() -> Failure:
    return refuse(
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your "
        "HTTP library correctly. The API expects a JSON payload, but what was sent was not valid JSON.)"
    )


def _refused_messages(messages: object) -> Failure | None:
    if not isinstance(messages, list):
        text = "Invalid type for 'messages': expected an array of objects."
        return refuse(text, "messages", "invalid_type")
    if not messages:
        return _empty("messages")
    listed = cast("list[object]", messages)
    for place, message in enumerate(listed):
        if wrong := _refused_message(message, place):
            return wrong
    return _refused_order(cast("list[dict[str, Any]]", listed))


def _refused_message(message: object, place: int) -> Failure | None:
    if not isinstance(message, dict):
        where = f"messages[{place}]"
        return refuse(f"Invalid type for '{where}': expected an object.", where, "invalid_type")
    given = cast("dict[str, Any]", message)
    if given.get("role") not in _ROLES:
        known = ", ".join(f"'{role}'" for role in _ROLES)
        text = f"Invalid value: '{given.get('role')}'. Supported values are: {known}."
        return refuse(text, f"messages[{place}].role", "invalid_value")
    return _empty(f"messages[{place}].tool_calls") if given.get("tool_calls") == [] else None


def _refused_order(messages: Sequence[dict[str, Any]]) -> Failure | None:
    """Every tool call is answered before anything else is said, and only tool calls are answered."""
    asked: list[str] = []
    waiting: list[str] = []
    for place, message in enumerate(messages):
        if message["role"] == "tool":
            answered = message.get("tool_call_id")
            if answered not in asked:
                return _orphan(answered, place, bool(asked))
            waiting = [call for call in waiting if call != answered]
            continue
        if waiting:
            return _dangling(waiting, place)
        asked = [str(call.get("id")) for call in message.get("tool_calls") or ()]
        waiting = asked
    return _dangling(waiting, len(messages)) if waiting else None


def _dangling(waiting: Sequence[str], place: int) -> Failure:
    return refuse(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
        f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(waiting)}",
        f"messages.[{place}].role",
    )


def _orphan(answered: object, place: int, after_calls: bool) -> Failure:
    if after_calls:
        text = f"'tool_call_id' of '{answered}' not found in 'tool_calls' of previous message."
        return refuse(f"Invalid parameter: {text}", f"messages.[{place}].tool_call_id")
    text = "messages with role 'tool' must be a response to a preceding message with 'tool_calls'."
    return refuse(f"Invalid parameter: {text}", f"messages.[{place}].role")


def _empty(name: str) -> Failure:
    text = "Expected an array with minimum length 1, but got an empty array instead."
    return refuse(f"Invalid '{name}': empty array. {text}", name, "empty_array")


def refuse(message: str, param: str | None = None, code: str | None = None) -> Failure:
    return error(400, message, param=param, code=code)
