"""What OpenAI's Responses API refuses before the model is asked, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from shearpin.testing.checks import refuse
from shearpin.testing.items import CALLS, Item, kind_of
from shearpin.testing.request import Request
from shearpin.testing.script import Failure, error

_MOVED = {"messages": "input", "max_tokens": "max_output_tokens", "response_format": "text.format"}
_ROLES = ("assistant", "system", "developer", "user")
_ONE_OF = "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation_id' must be provided."


def refused_response(request: Request) -> Failure | None:
    """The 400 a request deserves, or None when the model may be asked."""
    body = request.body
    for name, place in _MOVED.items():
        if name in body:
            return _moved(name, place)
    if not body.get("model"):
        return _missing("model")
    if body.get("conversation") is not None:
        return refuse("The scripted model keeps no conversations.", "conversation", "unsupported_value")
    if "input" not in body and not request.earlier:
        return refuse(_ONE_OF, "input", "missing_required_parameter")
    return _refused_tools(body.get("tools") or ()) or _refused_input(body.get("input", []), request)


def unknown_response(response_id: object) -> Failure:
    text = f"Previous response with id '{response_id}' not found."
    return refuse(text, "previous_response_id", "previous_response_not_found")


def _refused_tools(tools: Sequence[Any]) -> Failure | None:
    for place, tool in enumerate(tools):
        if not isinstance(tool, dict):
            where = f"tools[{place}]"
            return refuse(f"Invalid type for '{where}': expected an object.", where, "invalid_type")
        given = cast("Item", tool)
        if given.get("type") == "function" and not given.get("name"):  # as in the shape of the chat API
            return _missing(f"tools[{place}].name")
    return None


def _refused_input(given: object, request: Request) -> Failure | None:
    if isinstance(given, str):
        return _refused_order(request.items)
    if not isinstance(given, list):
        text = "Invalid type for 'input': expected one of a string or an array of objects."
        return refuse(text, "input", "invalid_type")
    for place, item in enumerate(cast("list[object]", given)):
        if wrong := _refused_item(item, f"input[{place}]"):
            return wrong
    return _refused_order(request.items)


def _refused_item(item: object, where: str) -> Failure | None:
    if not isinstance(item, dict):
        return refuse(f"Invalid type for '{where}': expected an object.", where, "invalid_type")
    given = cast("Item", item)
    kind = kind_of(given)
    if kind == "item_reference":  # as for an item that was not stored
        return error(404, f"Item with id '{given.get('id')}' not found.", param="input")
    if kind == "message" and given.get("role") not in _ROLES:
        known = ", ".join(f"'{role}'" for role in _ROLES)
        text = f"Invalid value: '{given.get('role')}'. Supported values are: {known}."
        return refuse(text, f"{where}.role", "invalid_value")
    if (kind in CALLS or kind.removesuffix("_output") in CALLS) and not given.get("call_id"):
        return _missing(f"{where}.call_id")
    return None


def _refused_order(items: Sequence[Item]) -> Failure | None:
    """Every call is answered, only calls are answered, and reasoning leads to something."""
    waiting: list[str] = []
    asked: set[str] = set()
    for item, following in zip(items, [*items[1:], None], strict=True):
        kind, call = kind_of(item), str(item.get("call_id"))
        if kind in CALLS:
            waiting.append(call)
            asked.add(call)
        elif kind.removesuffix("_output") in CALLS:
            if call not in asked:
                return refuse(f"No tool call found for function call output with call_id {call}.", "input")
            waiting = [other for other in waiting if other != call]
        elif kind == "reasoning" and not _goes_on(following):
            text = f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item."
            return refuse(text, "input")
    return refuse(f"No tool output found for function call {waiting[0]}.", "input") if waiting else None


def _goes_on(item: Item | None) -> bool:
    """Is this something that the model itself said or asked for?"""
    if item is None:
        return False
    kind = kind_of(item)
    return item.get("role") == "assistant" if kind == "message" else not kind.endswith("_output")


def _missing(name: str) -> Failure:
    return refuse(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


def _moved(name: str, place: str) -> Failure:
    text = f"In the Responses API, this parameter has moved to '{place}'. Try again with the new parameter."
    return refuse(f"Unsupported parameter: '{name}'. {text}", name, "unsupported_parameter")
