"""LangChain's objects in the trace's words: messages, replies, documents, tool arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import UnionType
from typing import Any, TypeGuard, TypeVar

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, Generation, GenerationChunk, LLMResult

from shearpin import Usage
from shearpin.adapter import Reply, is_dict, is_list, parse_arguments, plain, read_usage, register_plain
from shearpin_integrations.langchain.graphs import is_command

Kind = TypeVar("Kind")

_ROLES = {"human": "user", "ai": "assistant", "HumanMessageChunk": "user", "AIMessageChunk": "assistant"}
_OWN_MODULES = ("langchain", "langchain_core", "langgraph")


def is_a(value: object, kind: type[Kind] | UnionType) -> TypeGuard[Kind]:
    """`isinstance` without asking the value: a proxy of the user's may raise even there."""
    return issubclass(type(value), kind)


def message_dict(message: BaseMessage) -> dict[str, Any]:
    """A message as every framework's messages are recorded. Its id is left out: it is new in every run."""
    role = message.role if isinstance(message, ChatMessage) else _ROLES.get(message.type, message.type)
    content = message.content
    record: dict[str, Any] = {"role": role, "content": content if type(content) is str else plain(content)}
    if message.name:
        record["name"] = message.name
    if isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls):
        record["tool_calls"] = [{**call, "arguments": plain(call["arguments"])} for call in tool_calls(message)]
    if isinstance(message, ToolMessage):
        record["tool_call_id"] = message.tool_call_id
        if message.status == "error":
            record["status"] = "error"
    return record


def called(serialized: Mapping[str, Any] | None, kwargs: Mapping[str, Any]) -> str:
    """What an event's subject is called."""
    facts = serialized or {}
    return str(kwargs.get("name") or facts.get("name") or (facts.get("id") or ["run"])[-1])


def model_call(
    serialized: Mapping[str, Any] | None,
    messages: Sequence[Any],
    metadata: Mapping[str, Any] | None,
    kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """What the start of a model call tells of it, as a span's fields."""
    facts: Mapping[str, Any] = metadata or {}
    params: Mapping[str, Any] = kwargs.get("invocation_params") or {}
    return {
        "messages": messages,
        "tools": params.get("tools") or params.get("functions") or (),
        "provider": facts.get("ls_provider"),
        # Not params["model_name"]: a model chosen per call leaves the old name there.
        "request_model": str(facts.get("ls_model_name") or params.get("model") or called(serialized, kwargs)),
        "temperature": facts.get("ls_temperature"),
        "max_tokens": facts.get("ls_max_tokens"),
        "seed": params.get("seed"),
    }


def tool_calls(message: AIMessage) -> list[dict[str, Any]]:
    """The calls a model asked for, those with unreadable arguments too."""
    calls = [*message.tool_calls, *message.invalid_tool_calls]
    return [{"id": call["id"], "name": call["name"], "arguments": call["args"]} for call in calls]


def read_result(result: LLMResult | None) -> Reply | None:
    """The reply in a callback's result; None when nothing came."""
    generation = _first(result)
    if result is None or generation is None:
        return None
    message = getattr(generation, "message", None)
    if not isinstance(message, AIMessage):
        info = generation.generation_info or {}
        return Reply(
            text=generation.text, finish_reason=info.get("finish_reason"), usage=_usage_of_output(result.llm_output)
        )
    return _read_message(message, result.llm_output)


def read_cut(result: LLMResult | None, pieces: Sequence[str]) -> Reply | None:
    """What had come of a reply before an error: what LangChain tells, else the tokens it reported; None for nothing.

    Of an error that carries an HTTP response, LangChain passes that response here, as an empty reply: only what was
    streamed is a chunk. And of a stream within `generate`, as in a graph, it passes nothing.
    """
    if isinstance(_first(result), ChatGenerationChunk | GenerationChunk):
        return read_result(result)
    return Reply(text="".join(pieces)) if pieces else None


def _given_id(message: AIMessage) -> str | None:
    """The message's id, if it is the provider's: LangChain makes one up where it knows none, as in OpenAI's streams."""
    return None if (message.id or "").startswith(("lc_", "run-")) else message.id


def _read_message(message: AIMessage, llm_output: Mapping[str, Any] | None) -> Reply:
    facts = message.response_metadata
    usage: Any = message.usage_metadata
    return Reply(
        text=_blocks(message, ("text",), "text") if isinstance(message.content, list) else message.content,
        tool_calls=tool_calls(message),
        reasoning=message.additional_kwargs.get("reasoning_content") or _blocks(message, _THOUGHTS, *_THOUGHTS),
        finish_reason=facts.get("finish_reason") or facts.get("stop_reason"),
        response_id=facts.get("id") or _given_id(message),
        response_model=facts.get("model_name") or facts.get("model"),
        usage=_usage(usage) if usage else _usage_of_output(llm_output),
        # The only mark LangChain leaves on an answer from its own cache.
        from_cache=bool(usage) and usage.get("total_cost") == 0,
    )


def _usage(usage: Mapping[str, Any]) -> Usage | None:
    """LangChain's own counts, the same for every provider; its total is a sum of theirs, and of a half only that."""
    halves: Any = usage.get("input_tokens"), usage.get("output_tokens")
    whole = all(isinstance(half, int | float) and math.isfinite(half) for half in halves)
    return read_usage(usage if whole else {**usage, "total_tokens": None})


_THOUGHTS = ("reasoning", "thinking")


def _blocks(message: AIMessage, kinds: Sequence[str], *keys: str) -> str | None:
    if not isinstance(message.content, list):
        return None
    blocks = [block for block in message.content if isinstance(block, dict) and block.get("type") in kinds]
    plain = [block for block in message.content if isinstance(block, str)] if "text" in kinds else []
    return "".join([*plain, *(str(block.get(key) or "") for block in blocks for key in keys)]) or None


def _usage_of_output(llm_output: Mapping[str, Any] | None) -> Usage | None:
    return read_usage((llm_output or {}).get("token_usage"))


def _first(result: LLMResult | None) -> Generation | None:
    generations = result.generations if result is not None else []
    first = generations[0][0] if generations and generations[0] else None
    return first if isinstance(first, Generation) else None


def tool_arguments(inputs: Mapping[str, Any] | None, text: str) -> object:
    """What a tool was called with, without the runtime objects a framework injects: those never repeat."""
    if inputs is None:
        return parse_arguments(text)
    return {name: value for name, value in inputs.items() if not _injected(value)}


def _injected(value: object) -> bool:
    return not is_a(value, BaseMessage | Document) and type(value).__module__.split(".")[0] in _OWN_MODULES


def tool_result(output: object, call_id: str | None = None) -> object:
    """What a tool returned: a message's content, else the value itself.

    A command that hands over may bring the whole conversation along; only its answer to this call is the tool's.
    """
    if not is_command(output):
        return output.content if is_a(output, ToolMessage) else output
    answers: Any = [message for message in answered_calls(output) if message.tool_call_id == call_id]
    whole = conversations(output.update)
    return replace(output, update={**output.update, **dict.fromkeys(whole, answers)}) if answers and whole else output


def update_of(output: Any) -> Any:
    """What a node changed: a lone command that goes nowhere is its update."""
    lone: Any = output[0] if is_list(output) and len(output) == 1 else output
    return lone.update if is_command(lone) and not lone.goto else lone


def advanced(state: Any, update: Any) -> Any:
    """The state after an update, as far as it can be told without the graph's reducers: messages are appended."""
    known, new = messages_in(state), messages_in(update)
    if not is_list(known) or not is_list(new):
        return state
    return {**state, "messages": [*known, *new]}


def messages_in(state: Any) -> Any:
    """A state's messages, where it has them by that name."""
    return state.get("messages") if is_dict(state) else None


def pending_calls(messages: Any) -> list[dict[str, Any]]:
    """The tool calls that the last message asks for: ``id``, ``name`` and ``arguments``."""
    last = messages[-1] if is_list(messages) and messages else None
    return (
        [{**call, "arguments": plain(call["arguments"])} for call in tool_calls(last)] if is_a(last, AIMessage) else []
    )


def conversations(state: Any) -> dict[str, list[Any]]:
    """The fields of a state that hold messages, whatever they are called, be it a mapping, a dataclass or a model."""
    fields: Mapping[str, Any] = state if is_dict(state) else _fields_of(state)
    found: dict[str, Any] = {name: value for name, value in fields.items() if is_list(value)}
    return {name: value for name, value in found.items() if value and is_a(value[0], BaseMessage)}


def _fields_of(state: object) -> dict[str, Any]:
    kind = type(state)
    names = getattr(kind, "__dataclass_fields__", None) or getattr(kind, "__pydantic_fields__", None)
    return {name: getattr(state, name, None) for name in names} if is_dict(names) else {}


def put_back(state: Any, name: str, messages: list[Any]) -> None:
    """Let a field of a state hold other messages; a class may forbid that to its users only."""
    if is_dict(state):
        state[name] = messages
    else:
        object.__setattr__(state, name, messages)


def answered_calls(output: Any) -> list[ToolMessage]:
    """The tool messages in a node's update, whatever its shape: a mapping, messages, a command, or a list of these."""
    found: list[Any] = []
    for item in _several(output):
        update = item.update if is_command(item) else item
        found += _several(messages_in(update) if is_dict(update) else update)
    return [message for message in found if is_a(message, ToolMessage)]


def _several(value: Any) -> list[Any]:
    return value if is_list(value) else [value]


def calls_made(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """The tool calls since the last question that have an answer: ``name``, ``input`` and ``output``, in order."""
    asked: dict[str | None, Any] = {}
    made: list[dict[str, Any]] = []
    for message in messages:
        if isinstance(message, HumanMessage):
            asked, made = {}, []
        elif isinstance(message, AIMessage):
            asked |= {call["id"]: call for call in message.tool_calls}
        elif isinstance(message, ToolMessage) and (call := asked.pop(message.tool_call_id, None)) is not None:
            made.append({"name": call["name"], "input": call["args"], "output": message.content})
    return made


def holds_answer(output: Any) -> bool:
    """Does a chain's output hold a model's answer?"""
    found: Any = messages_in(output) if is_dict(output) else output
    last: Any = found[-1] if is_list(found) and found else found
    return is_a(last, AIMessage)


register_plain(BaseMessage, message_dict)
register_plain(Document, lambda document: {"content": document.page_content, "metadata": plain(document.metadata)})
