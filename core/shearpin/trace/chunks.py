"""What a model streamed, put together to the answer it would have been at once: `read_reply` reads that.

Knows the streams of OpenAI (chat completions, responses), Anthropic and LangChain, and plain texts, by the shape of
their chunks.
"""

from __future__ import annotations

from typing import Any, cast

from shearpin.trace.plain import made_as
from shearpin.trace.providers import read_reply
from shearpin.trace.reply import Reply
from shearpin.trace.usage import field_of

Fields = dict[str, Any]


class Chunks:
    """The chunks of one answer so far. No method raises, whatever they are."""

    def __init__(self) -> None:
        self._facts: Fields = {}
        self._usage: Fields = {}
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: dict[object, Fields] = {}
        self._whole: object = None

    def add(self, chunk: object) -> None:
        """`chunk` came."""
        try:
            self._add(chunk)
        except Exception:  # noqa: BLE001 - a stranger's object: what cannot be read says nothing
            return

    def reply(self) -> Reply:
        """What all of them say."""
        if self._whole is not None:
            return read_reply(self._whole)
        calls = [call | {"function": call | {"arguments": "".join(call["arguments"])}} for call in self._calls.values()]
        message: Fields = {"content": "".join(self._texts) or None, "tool_calls": calls}
        message["reasoning"] = "".join(self._thoughts) or None
        choice = {"message": message, "finish_reason": self._facts.get("finish_reason")}
        return read_reply(self._facts | {"choices": [choice], "usage": self._usage or None})

    def _add(self, chunk: object) -> None:
        kind = field_of(chunk, "type")
        if made_as(chunk, str):
            self._texts.append(chunk)
        elif (choices := field_of(chunk, "choices")) is not None:
            self._add_chat(chunk, choices)
        elif field_of(chunk, "tool_call_chunks") is not None:
            self._whole = chunk if self._whole is None else cast("Any", self._whole) + chunk  # LangChain's, as it adds
        elif made_as(kind, str) and kind.startswith("response."):
            self._add_response(chunk, kind)
        elif made_as(kind, str):
            self._add_anthropic(chunk, kind)

    def _tell(self, **facts: object) -> None:
        self._facts |= {name: fact for name, fact in facts.items() if fact is not None}

    def _count(self, usage: object, but: str = "") -> None:
        """Later counts are the higher ones; a provider may tell the input first and the output last."""
        told = {name: field_of(usage, name) for name in _USAGE if name != but}
        self._usage |= {name: count for name, count in told.items() if count is not None}

    def _add_chat(self, chunk: object, choices: Any) -> None:  # noqa: ANN401 - as it was told
        self._tell(id=field_of(chunk, "id"), model=field_of(chunk, "model"))
        self._count(field_of(chunk, "usage"))
        for choice in choices:
            if not field_of(choice, "index"):
                delta = field_of(choice, "delta", "message")
                self._tell(finish_reason=field_of(choice, "finish_reason"))
                self._say(field_of(delta, "content") or field_of(delta, "refusal"))
                self._think(field_of(delta, "reasoning_content", "reasoning"))
                for call in field_of(delta, "tool_calls") or ():
                    asked = field_of(call, "function", "custom")
                    self._ask(field_of(call, "index"), call, asked, field_of(asked, "arguments", "input"))

    def _add_response(self, event: object, kind: str) -> None:
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            self._whole = field_of(event, "response")
        elif kind == "response.created":
            begun = field_of(event, "response")
            self._tell(id=field_of(begun, "id"), model=field_of(begun, "model"))
        elif kind in ("response.output_text.delta", "response.refusal.delta"):
            self._say(field_of(event, "delta"))
        elif kind.startswith("response.reasoning") and kind.endswith(".delta"):
            self._think(field_of(event, "delta"))

    def _add_anthropic(self, event: object, kind: str) -> None:
        begun, block, delta = (field_of(event, name) for name in ("message", "content_block", "delta"))
        if kind == "message_start":  # what it tells of the output is not what there will be
            self._tell(id=field_of(begun, "id"), model=field_of(begun, "model"))
            self._count(field_of(begun, "usage"), but="output_tokens")
        elif kind == "content_block_start" and field_of(block, "type") == "tool_use":
            self._ask(field_of(event, "index"), block, block, None)
        elif kind == "content_block_delta":
            self._say(field_of(delta, "text"))
            self._think(field_of(delta, "thinking"))
            if (arguments := field_of(delta, "partial_json")) is not None:
                self._ask(field_of(event, "index"), None, None, arguments)
        elif kind == "message_delta":
            self._tell(finish_reason=field_of(delta, "stop_reason"))
            self._count(field_of(event, "usage"))

    def _say(self, text: object) -> None:
        if made_as(text, str):
            self._texts.append(text)

    def _think(self, text: object) -> None:
        if made_as(text, str):
            self._thoughts.append(text)

    def _ask(self, index: object, call: object, asked: object, arguments: object) -> None:
        told = self._calls.setdefault(index, {"arguments": list[str]()})
        names = {"id": field_of(call, "id"), "name": field_of(asked, "name")}
        told |= {name: value for name, value in names.items() if value}
        if made_as(arguments, str):
            told["arguments"].append(arguments)


_USAGE = (
    *("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"),
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
)
