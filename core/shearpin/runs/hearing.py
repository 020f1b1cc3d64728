"""What comes out of a model's stream, event by event: chat completions, completions and responses of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from shearpin.trace.plain import is_dict, is_list
from shearpin.trace.providers import parse_arguments, read_reply
from shearpin.trace.reply import Reply
from shearpin.trace.usage import Usage, read_usage

_TEXTS = ("response.output_text.delta", "response.refusal.delta")
_THOUGHTS = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")
_ARGUMENTS = ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta")
_ENDS = ("response.completed", "response.incomplete", "response.failed")


class Events:
    """Server-sent events out of pieces of bytes; None for the mark that ends a stream of chat completions."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, piece: bytes) -> Iterator[dict[str, Any] | None]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    yield None
                elif is_dict(event := _parsed(data)):
                    yield event


def _parsed(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:  # the client will say so
        return None


class Heard:
    """The answer so far."""

    def __init__(self) -> None:
        self.came = False
        """Has the model said, thought or asked for anything?"""
        self.ended = False
        """Has the provider said that this is all?"""
        self.trouble: str | None = None
        """What the provider said went wrong in the middle."""
        self._said: list[str] = []
        self._thought: list[str] = []
        self._calls: dict[Any, dict[str, Any]] = {}
        self._finish: str | None = None
        self._id: str | None = None
        self._model: str | None = None
        self._usage: Usage | None = None
        self._whole: Reply | None = None

    def take(self, event: dict[str, Any] | None) -> None:
        """One event more, or the mark of the end."""
        if event is None:
            self.ended = True
        elif event.get("error") or event.get("type") == "error":
            error: Any = event.get("error") or event
            self.trouble = str(error.get("message") if is_dict(error) else error)
        elif str(event.get("type")).startswith("response."):
            self._take_response(str(event["type"]), event)
        else:
            self._take_chunk(event)

    @property
    def finished(self) -> bool:
        """Is the answer whole, though its usage may still be to come?"""
        return self.ended or self._finish is not None

    def reply(self) -> Reply:
        """What has come."""
        if self._whole is not None:
            return self._whole
        calls = [call | {"arguments": parse_arguments(call["arguments"])} for call in self._calls.values()]
        said, thought = "".join(self._said), "".join(self._thought)
        return Reply(said or None, calls, thought or None, self._finish, self._id, self._model, self._usage)

    def _take_chunk(self, chunk: dict[str, Any]) -> None:
        self._id, self._model = chunk.get("id") or self._id, chunk.get("model") or self._model
        self._usage = read_usage(chunk.get("usage")) or self._usage
        for choice in chunk.get("choices") or ():
            if not choice.get("index"):  # the first one, where several were asked for
                self._take_delta(choice.get("delta") or choice)
                self._finish = choice.get("finish_reason") or self._finish

    def _take_delta(self, delta: dict[str, Any]) -> None:
        self._say(self._said, delta.get("content") or delta.get("refusal") or delta.get("text"))
        self._say(self._thought, delta.get("reasoning_content") or delta.get("reasoning"))
        calls = delta.get("tool_calls")
        for call in calls if is_list(calls) else ():
            asked: Any = call.get("function") or call.get("custom") or {}
            self._call(call.get("index"), call.get("id"), asked.get("name"))
            self._argue(call.get("index"), asked.get("arguments") or asked.get("input"))

    def _take_response(self, kind: str, event: dict[str, Any]) -> None:
        response: Any = event.get("response") or {}
        self._id, self._model = response.get("id") or self._id, response.get("model") or self._model
        item: Any = event.get("item") or {}
        if kind in _TEXTS:
            self._say(self._said, event.get("delta"))
        elif kind in _THOUGHTS:
            self._say(self._thought, event.get("delta"))
        elif kind in _ARGUMENTS:
            self._argue(event.get("output_index"), event.get("delta"))
        elif kind == "response.output_item.added" and item.get("call_id"):
            self._call(event.get("output_index"), item["call_id"], item.get("name"))
        elif kind in _ENDS:
            self.ended, self._whole = True, read_reply(response)

    def _say(self, pieces: list[str], piece: object) -> None:
        if isinstance(piece, str) and piece:
            self.came = True
            pieces.append(piece)

    def _call(self, place: object, call_id: object, name: object) -> None:
        self.came = True
        call = self._calls.setdefault(place, {"id": None, "name": None, "arguments": ""})
        call["id"], call["name"] = call_id or call["id"], name or call["name"]

    def _argue(self, place: object, piece: object) -> None:
        if isinstance(piece, str) and place in self._calls:
            self._calls[place]["arguments"] += piece
