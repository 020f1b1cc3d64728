"""CrewAI's objects in the trace's words: prompts, replies, usage, tools."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from typing import Any

from crewai import CrewOutput, TaskOutput
from crewai.lite_agent_output import LiteAgentOutput
from pydantic import BaseModel, ValidationError

from shearpin import Usage
from shearpin.adapter import Reply, is_dict, is_list, parse_arguments, plain, register_plain

_DEPTH = 5
"""CrewAI's events hold containers down to here; what is deeper is its `repr`."""


def model_call(source: Any, event: Any) -> dict[str, Any]:
    """What the start of a model call tells of it, as a span's fields."""
    return {
        "messages": messages(event.messages),
        "tools": _deepened(event.tools, 0) or (),
        "provider": provider_of(source),
        "request_model": str(event.model),
        "temperature": event.temperature,
        "max_tokens": token_limit(event.max_tokens),
        "seed": event.seed,
    }


def provider_of(llm: Any) -> str | None:
    """Whose model it is; of a class of the user's own, CrewAI says OpenAI's unless told otherwise."""
    told = getattr(llm, "provider", None)
    known = type(llm).__module__.startswith("crewai.") or "provider" in getattr(llm, "model_fields_set", ())
    return str(told) if told and known else None


def token_limit(limit: Any) -> int | None:
    """``max_tokens``, which may be a float, as a number of tokens."""
    return int(limit) if isinstance(limit, int | float) and 0 < limit < float("inf") else None


def messages(given: Any) -> list[dict[str, Any]]:
    """A prompt as every framework's are recorded."""
    if not is_list(given):
        return [{"role": "user", "content": given if isinstance(given, str) else plain(given)}]
    return [_message(_deepened(message, 1)) for message in given]


def _message(told: Any) -> dict[str, Any]:
    if not is_dict(told):
        return {"role": "user", "content": plain(told)}
    message = {"role": told.get("role", "user"), "content": told.get("content")}
    message |= {name: told[name] for name in ("name", "tool_call_id") if told.get(name)}
    if told.get("tool_calls"):
        message["tool_calls"] = tool_calls(told["tool_calls"])
    return message


def _deepened(value: Any, depth: int) -> Any:
    """`value` with what CrewAI has cut off at its depth read back from its `repr`."""
    if depth >= _DEPTH:
        return _unquoted(value)
    if is_dict(value):
        return {name: _deepened(item, depth + 1) for name, item in value.items()}
    return [_deepened(item, depth + 1) for item in value] if is_list(value) else value


def _unquoted(value: Any) -> Any:
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def tool_calls(told: Any) -> list[dict[str, Any]]:
    """The calls a model asked for, in any provider's shape; empty for anything else."""
    listed: list[Any] = list(told) if isinstance(told, list | tuple) else []  # pyright: ignore[reportUnknownArgumentType]
    calls = [plain(call) for call in listed]
    return [_tool_call(call) for call in calls if is_dict(call) and _name_of(call)]


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function: Mapping[str, Any] = call.get("function") or call.get("function_call") or {}
    arguments = _first(function, call, "arguments", "args", "input")
    return {
        "id": call.get("id") or call.get("call_id") or call.get("toolUseId"),
        "name": _name_of(call),
        "arguments": parse_arguments(arguments),
    }


def _name_of(call: Mapping[str, Any]) -> str | None:
    function: Any = call.get("function") or call.get("function_call") or {}
    name = function.get("name") or call.get("name") if is_dict(function) else None
    return str(name) if name else None


def _first(function: Mapping[str, Any], call: Mapping[str, Any], *names: str) -> Any:
    found = (source[name] for name in names for source in (function, call) if source.get(name) is not None)
    return next(found, None) or {}


def reply_of(event: Any, usage: Usage | None) -> Reply:
    """What the end of a model call tells of its answer."""
    response = event.response
    calls = tool_calls(response)
    return Reply(
        text=None if calls else text_of(response),
        tool_calls=calls,
        finish_reason=getattr(event, "finish_reason", None),
        response_id=getattr(event, "response_id", None),
        usage=usage,
    )


def text_of(response: Any) -> str | None:
    """An answer as text; a structured one as the JSON it was."""
    if response is None or isinstance(response, str):
        return response
    return json.dumps(plain(response), ensure_ascii=False)


def usage_told(told: Any) -> Usage | None:
    """The usage of one call, as an event tells it: input includes cached tokens, output includes reasoning."""
    if not is_dict(told) or not (told.get("prompt_tokens") or told.get("completion_tokens")):
        return None
    return _usage(told.get)


def usage_since(llm: Any, before: Any) -> Usage | None:
    """What a model's own counter has gone up by."""
    now = counter_of(llm)
    if now is None or before is None or now == before:
        return None

    def gone_up(name: str) -> int:
        return max(getattr(now, name, 0) - getattr(before, name, 0), 0)

    return _usage(gone_up)


def counter_of(llm: Any) -> Any:
    """A model's own count of all its calls; None where it has none."""
    try:
        return llm.get_token_usage_summary()
    except Exception:  # noqa: BLE001 - a custom model's own code
        return None


def _usage(count: Callable[[str], Any]) -> Usage:
    return Usage(
        input_tokens=count("prompt_tokens") or 0,
        output_tokens=count("completion_tokens") or 0,
        cached_input_tokens=count("cached_prompt_tokens") or 0,
        cache_write_tokens=count("cache_creation_tokens") or 0,
        reasoning_tokens=count("reasoning_tokens") or 0,
    )


def unreadable_answer(error: BaseException | None) -> bool:
    """Did a call fail because its answer was not what was asked for? Then the provider has billed it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ValidationError | json.JSONDecodeError):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def task_name(task: Any) -> str:
    """What a task is called; most have nothing but a description."""
    return str(getattr(task, "name", None) or str(getattr(task, "description", "task"))[:80])


def task_input(task: Any, context: Any) -> dict[str, Any]:
    told = {"description": task.description, "expected_output": task.expected_output, "context": context}
    return {name: value for name, value in told.items() if value}


def role_of(agent: Any) -> str:
    return str(getattr(agent, "role", None) or "agent").strip()


def _output(output: Any) -> Any:
    """A crew's, a task's or an agent's answer: its data where it has some, else its text."""
    data = getattr(output, "json_dict", None) or getattr(output, "pydantic", None)
    if isinstance(data, BaseModel):
        data = data.model_dump(mode="json")
    return plain(data) if data else str(output.raw)


for _kind in (CrewOutput, TaskOutput, LiteAgentOutput):
    register_plain(_kind, _output)
