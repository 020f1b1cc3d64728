"""Recorded conversations: read from a file, changed into loops, and made into the models and tools of an agent."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, StructuredTool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from shearpin.testing import Reply, Request, ScriptedServer, ToolCall, tool_calls

MODEL = "gpt-4o"

# --- what was recorded ------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """A tool call and what came back."""

    id: str
    name: str
    arguments: str
    """As the model wrote them: JSON."""
    result: str

    @property
    def given(self) -> dict[str, Any]:
        """The arguments by name."""
        given: dict[str, Any] = json.loads(self.arguments)
        return given

    @property
    def key(self) -> tuple[str, str]:
        """Equal for the same call, whatever the order of its arguments."""
        return self.name, json.dumps(self.given, sort_keys=True)


class Said(NamedTuple):
    """A turn of the model."""

    text: str
    calls: tuple[Call, ...] = ()


Turn: TypeAlias = str | Said
"""Of the user, or of the model."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order; what a user said last and got no answer to is left out."""

    name: str
    solved: bool
    system: str
    turns: Sequence[Turn]

    @property
    def asked(self) -> list[str]:
        """What the user said."""
        return [turn for turn in self.turns if isinstance(turn, str)]

    @property
    def said(self) -> list[Said]:
        """What the model said."""
        return [turn for turn in self.turns if isinstance(turn, Said)]

    @property
    def calls(self) -> list[Call]:
        """The tool calls, in the order they were made in."""
        return [call for said in self.said for call in said.calls]


def read(path: Path) -> list[Conversation]:
    """JSON lines, gzipped or not, of ``task_id``, ``trial``, ``reward`` and ``traj``: messages as OpenAI has them."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [_conversation(json.loads(line)) for line in file if line.strip()]


def _conversation(line: Mapping[str, Any]) -> Conversation:
    messages: Sequence[Mapping[str, Any]] = line["traj"]
    turns = list(_turns(messages))
    while turns and isinstance(turns[-1], str):
        turns.pop()
    system = next((str(message["content"]) for message in messages if message["role"] == "system"), "")
    return Conversation(f"task {line['task_id']} trial {line['trial']}", line["reward"] == 1.0, system, turns)


def _turns(messages: Sequence[Mapping[str, Any]]) -> Iterator[Turn]:
    for place, message in enumerate(messages):
        if message["role"] == "user":
            yield message["content"]
        elif message["role"] == "assistant":
            behind = itertools.takewhile(lambda other: other["role"] == "tool", messages[place + 1 :])
            # An id may come again later in the same conversation, so only the answers right behind are its own.
            results = {answer["tool_call_id"]: answer["content"] for answer in behind}
            yield Said(
                message.get("content") or "",
                tuple(
                    Call(call["id"], call["function"]["name"], call["function"]["arguments"], results[call["id"]])
                    for call in message.get("tool_calls") or ()
                ),
            )


# --- what might have been recorded ------------------------------------------------------------------------------------


class Looped(NamedTuple):
    """A conversation with a loop in it, and how many tool calls come before the loop."""

    conversation: Conversation
    before: int


def looped(conversation: Conversation, period: int, times: int, dice: random.Random) -> Looped | None:
    """`period` different calls of before, made again in turn, `times` times over, from a random place on.

    None for a conversation without so many different calls.
    """
    turns = conversation.turns
    places = [place for place in _models_turns(turns) if len(_distinct(turns[:place])) >= period]
    if not places:
        return None
    place = dice.choice(places)
    known = _distinct(turns[:place])
    first = dice.randrange(len(known) - period + 1)
    again = [
        Said("", (call._replace(id=f"again_{number}_{call.id}"),))
        for number in range(times)
        for call in known[first : first + period]
    ]
    changed = replace(
        conversation, name=f"{conversation.name}, loop of {period}", turns=[*turns[:place], *again, *turns[place:]]
    )
    return Looped(changed, len(_calls(turns[:place])))


def _models_turns(turns: Sequence[Turn]) -> list[int]:
    """The places at which the model has the word: where it took it, and after an answer that ended the recording."""
    places = [place for place, turn in enumerate(turns) if isinstance(turn, Said)]
    last = turns[-1] if turns else ""
    return [*places, len(turns)] if isinstance(last, Said) and last.calls else places


def _calls(turns: Iterable[Turn]) -> list[Call]:
    return [call for turn in turns if isinstance(turn, Said) for call in turn.calls]


def _distinct(turns: Iterable[Turn]) -> list[Call]:
    return list({call.key: call for call in _calls(turns)}.values())


# --- recorded tools ---------------------------------------------------------------------------------------------------

_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


def schemas(conversations: Iterable[Conversation]) -> dict[str, dict[str, Any]]:
    """JSON schemas of the arguments by tool, as far as its recorded calls show them."""
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for call in itertools.chain.from_iterable(conversation.calls for conversation in conversations):
        calls[call.name].append(call.given)
    return {name: _schema(calls[name]) for name in sorted(calls)}


def _schema(given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = {name: value for arguments in given for name, value in arguments.items()}
    return {
        "type": "object",
        "properties": {name: _type_of(value) for name, value in values.items()},
        "required": [name for name in values if all(name in arguments for arguments in given)],
    }


def _type_of(value: object) -> dict[str, Any]:
    kind = {"type": _JSON_TYPES[type(value)]} if value is not None else {}
    return kind | {"items": {}} if isinstance(value, list) else kind


def tools(conversation: Conversation, known: Mapping[str, Mapping[str, Any]]) -> list[BaseTool]:
    """Every known tool; each call returns what the same call was answered in the conversation, in order."""
    results: dict[tuple[str, str], deque[str]] = defaultdict(deque)
    for call in conversation.calls:
        results[call.key].append(call.result)

    def tool(name: str, schema: Mapping[str, Any]) -> BaseTool:
        def answer(**arguments: object) -> str:
            return results[Call("", name, json.dumps(arguments), "").key].popleft()

        return StructuredTool(name=name, description=f"{name}, recorded.", args_schema=dict(schema), func=answer)

    return [tool(name, schema) for name, schema in known.items()]


# --- recorded models --------------------------------------------------------------------------------------------------


class InProcess(BaseChatModel):
    """A chat model that says what is in a recording; its usage is a quarter of the texts sent and said."""

    said: list[Said]

    @property
    def _llm_type(self) -> str:
        return "recorded"

    def _get_ls_params(self, stop: list[str] | None = None, **_: Any) -> Any:
        return {"ls_provider": "openai", "ls_model_name": MODEL, "ls_model_type": "chat"}

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **_: Any,
    ) -> ChatResult:
        said = self.said[spoken(messages)]
        calls = [{"id": call.id, "name": call.name, "args": call.given} for call in said.calls]
        sent = sum(len(message.text) for message in messages) // 4
        made = max(1, (len(said.text) + sum(len(call.arguments) for call in said.calls)) // 4)
        usage = {"input_tokens": sent, "output_tokens": made, "total_tokens": sent + made}
        message = AIMessage(said.text, tool_calls=calls, usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])


def spoken(messages: Iterable[BaseMessage]) -> int:
    """How often the model has spoken."""
    return sum(isinstance(message, AIMessage) for message in messages)


class Provider:
    """One scripted server for any number of recordings, and OpenAI's real client for each of them."""

    def __init__(self) -> None:
        self._said: dict[str, list[Said]] = {}
        self.server = ScriptedServer(self._answer, keep=1)
        self._model = ChatOpenAI(model=MODEL, api_key=SecretStr("any"), base_url=self.server.base_url, max_retries=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()

    def model(self, conversation: Conversation) -> BaseChatModel:
        """A client whose server says what the model said in `conversation`, which it knows by its name."""
        self._said[conversation.name] = conversation.said
        return self._model.model_copy(update={"model_kwargs": {"user": conversation.name}})

    def _answer(self, request: Request) -> Reply:
        said = self._said[request.body["user"]][request.turn]
        return tool_calls([ToolCall(call.name, call.arguments, call.id) for call in said.calls], said.text or None)
