"""The SDK's objects in the trace's words: what is sent to a model, what it answers, who a run belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents import (
    Agent,
    FunctionTool,
    Handoff,
    InputGuardrailTripwireTriggered,
    ModelResponse,
    RunConfig,
    Tool,
    Usage,
    UserError,
)
from agents.models import get_default_model
from agents.tool_context import ToolContext
from agents.tracing import get_current_span

from shearpin import RunStoppedError
from shearpin import Usage as OurUsage
from shearpin.adapter import Reply, is_dict, parse_arguments, plain, read_reply

_IDENTITY = ("user_id", "tenant", "team", "organization", "task_type", "version", "env")
_NO_NAME = RunConfig.workflow_name
_PROVIDERS = {
    "OpenAIChatCompletionsModel": "openai",
    "OpenAIResponsesModel": "openai",
    "OpenAIResponsesWSModel": "openai",
}


def part(item: object, name: str, default: Any = None) -> Any:
    """A field of one of the provider's items, which come as objects and as dicts."""
    return item.get(name, default) if is_dict(item) else getattr(item, name, default)


# --- who ----------------------------------------------------------------------------------------------------------


def config_of(given: object) -> RunConfig:
    """The run's configuration; what is none is the runner's to complain of."""
    if isinstance(given, RunConfig):
        return given
    try:
        return RunConfig(**given) if is_dict(given) else RunConfig()
    except TypeError:
        return RunConfig()


def workflow_of(config: RunConfig) -> str | None:
    """What the user calls the workflow, if it is called anything."""
    return None if config.workflow_name == _NO_NAME else config.workflow_name


def identity_of(config: RunConfig, session: object, conversation_id: str | None) -> dict[str, Any]:
    """Who a run belongs to, from the metadata of its trace; the rest of it is the user's own."""
    facts: Mapping[str, Any] = config.trace_metadata or {}
    belongs = facts.get("session_id") or config.group_id or conversation_id or _session_id(session)
    given = {key: facts.get(key) for key in _IDENTITY}
    own = {key: value for key, value in facts.items() if key not in (*given, "session_id", "tags")}
    return {"session_id": belongs, "tags": facts.get("tags") or (), "metadata": own, **given}


def _session_id(session: object) -> str | None:
    try:
        return getattr(session, "session_id", None)
    except ValueError:  # a conversation at the provider has no id before its first call
        return None


# --- model calls --------------------------------------------------------------------------------------------------


def model_call(agent: Agent[Any], config: RunConfig) -> dict[str, Any]:
    """What is known of a model call before it is made, beside its messages, as a span's fields."""
    chosen = config.model if config.model is not None else agent.model
    settings = agent.model_settings.resolve(config.model_settings)
    extra: Mapping[str, Any] = settings.extra_args or {}
    return {
        "tools": offered(agent),
        "request_model": model_name(chosen),
        "provider": provider_of(chosen, config),
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "seed": extra.get("seed"),
    }


def model_name(chosen: object) -> str:
    """The model asked for: by its name, by an object, or by the SDK's default."""
    if chosen is None:
        return get_default_model()
    named: object = chosen if isinstance(chosen, str) else getattr(chosen, "model", None)
    return str(named or type(chosen).__name__)


def provider_of(chosen: object, config: RunConfig) -> str | None:
    """Who serves a model, as far as its class or the prefix of its name tells."""
    if chosen is None or isinstance(chosen, str):
        prefix, slash, _ = (chosen or "").removeprefix("litellm/").removeprefix("any-llm/").partition("/")
        own = type(config.model_provider).__module__.startswith("agents.models.")
        return prefix if slash else "openai" if own else None
    for base in type(chosen).__mro__:
        if base.__name__ in _PROVIDERS and base.__module__.startswith("agents."):
            return _PROVIDERS[base.__name__]
    prefix, slash, _ = str(getattr(chosen, "model", "")).partition("/")
    return prefix if slash else None


def offered(agent: Agent[Any]) -> list[dict[str, Any]]:
    """The tools and hand-offs that an agent offers; those of MCP servers as they were last fetched."""
    tools = [_tool(tool) for tool in agent.tools if getattr(tool, "is_enabled", True) is not False]
    fetched = [tool for server in agent.mcp_servers for tool in getattr(server, "cached_tools", None) or ()]
    tools += [_function(tool.name, tool.description or "", _schema(tool)) for tool in fetched]
    return tools + [_handoff(taker) for taker in agent.handoffs]


def _schema(tool: Any) -> Mapping[str, Any]:
    """An MCP tool's parameters, by the name that the installed version of MCP has for them."""
    return part(tool, "inputSchema") or part(tool, "input_schema") or {}


def _tool(tool: Tool) -> dict[str, Any]:
    if not isinstance(tool, FunctionTool):
        return {"type": tool.name}
    return _function(tool.name, tool.description, tool.params_json_schema)


def _handoff(taker: Agent[Any] | Handoff[Any, Any]) -> dict[str, Any]:
    if isinstance(taker, Handoff):
        return _function(taker.tool_name, taker.tool_description, taker.input_json_schema)
    return _function(Handoff.default_tool_name(taker), Handoff.default_tool_description(taker), {})


def _function(name: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": plain(schema)}}


# --- replies ------------------------------------------------------------------------------------------------------


def read_response(response: ModelResponse) -> Reply:
    """What a model answered. The SDK keeps neither the model that answered nor why it ended.

    So ``finish_reason`` is what the answer amounts to: an answer without calls that was cut off by a limit of tokens
    says ``stop`` too.
    """
    answer = {"object": "response", "output": response.output, "usage": response.usage, "id": _response_id(response)}
    reply = read_reply(answer)
    reply.finish_reason = "tool_calls" if reply.tool_calls else "stop"
    return reply


def _response_id(response: ModelResponse) -> str | None:
    """The provider's; of a chat completion the SDK keeps it with what was said."""
    known = [response.response_id, *(part(part(item, "provider_data"), "response_id") for item in response.output)]
    return next((str(one) for one in known if one not in (None, "__fake_id__")), None)


def hosted_calls(response: ModelResponse) -> list[Any]:
    """The tool calls in an answer that the provider has made itself: nobody has to answer them."""
    calls = [item for item in response.output if str(part(item, "type")).endswith("_call")]
    return [call for call in calls if part(call, "call_id") is None]


# --- tools --------------------------------------------------------------------------------------------------------


def tool_call(context: object, tool: Tool, asked: list[dict[str, Any]]) -> dict[str, Any]:
    """What a local tool is called with, as a span's fields.

    Shells, computers and the like are not told which call they answer: the first one of `asked` that is for them.
    """
    if isinstance(context, ToolContext):
        return {"input": parse_arguments(context.tool_arguments), "call_id": context.tool_call_id}
    call = next((call for call in asked if tool.name.startswith(str(call["name"]))), None)
    if call is None:
        return {}
    asked.remove(call)
    return {"input": plain(call["arguments"]), "call_id": call["id"]}


def tool_failed() -> bool:
    """Did the tool whose end is told raise? The SDK made a text of that; its own trace knows, if it is on."""
    span = get_current_span()
    return span is not None and span.error is not None


def raised_by_tool(error: BaseException) -> BaseException:
    """What a tool raised, of which the SDK made an error of its own."""
    return error.__cause__ if isinstance(error, UserError) and error.__cause__ is not None else error


# --- what was spent -----------------------------------------------------------------------------------------------

Counts = tuple[int, int, int, int, int]


def spent(usage: Usage) -> Counts:
    """What the SDK has counted: calls, and tokens."""
    sent, made = usage.input_tokens_details, usage.output_tokens_details
    return (
        usage.requests,
        usage.input_tokens,
        usage.output_tokens,
        sent.cached_tokens or 0,
        made.reasoning_tokens or 0,
    )


def usage_since(before: Counts | None, usage: object) -> OurUsage | None:
    """What the SDK has counted since then; None if it has counted no call."""
    if before is None or not isinstance(usage, Usage):
        return None
    calls, *tokens = (now - then for now, then in zip(spent(usage), before, strict=True))
    names = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
    return OurUsage(**dict(zip(names, tokens, strict=True))) if calls else None


def beside_model(error: BaseException) -> bool:
    """Did something beside a model call break it off? Then what was sent may have been served."""
    return isinstance(error, InputGuardrailTripwireTriggered | RunStoppedError) or type(error).__name__ == _GAVE_UP


_GAVE_UP = "ModelTimeoutError"
"""The SDK's own deadline, which its older versions have not: it cancels the request."""
