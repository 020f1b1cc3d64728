"""OpenAI's Responses API: replies as the bytes a client reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shearpin.testing.answer import Answer
from shearpin.testing.items import Item, Memory
from shearpin.testing.request import Request
from shearpin.testing.response_events import Event, events_of
from shearpin.testing.script import Completion, Tokens
from shearpin.testing.wire import Ids, answered, as_json, tokens_of
from shearpin.trace import source

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""What the chat API calls a reason to finish, the Responses API calls a reason why it did not."""

_ECHOED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def response(reply: Completion, request: Request, ids: Ids, memory: Memory) -> Answer:
    """The reply as the request wants it: one body, or a stream of events."""
    draft = _Draft(reply, request, ids)
    pieces = list(draft.events()) if request.stream else [as_json(draft.ended)]
    if draft.body["store"] and reply.cut_after is None:
        memory.keep(draft.body["id"], request.items + draft.output)
    return answered(reply, request, pieces, draft.tokens)


class _Draft:
    """One response while it is written down."""

    def __init__(self, reply: Completion, request: Request, ids: Ids) -> None:
        self.reply = reply
        self.tokens = tokens_of(reply, request)
        self.incomplete = _INCOMPLETE.get(reply.finish_reason or "")
        self.status = "incomplete" if self.incomplete else "completed"
        now = source.wall_ns() // 1_000_000_000
        self.body: dict[str, Any] = {
            "id": ids.new("resp_"),
            "object": "response",
            "created_at": now,
            "status": "in_progress",
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": reply.model or request.model,
            "output": [],
            "service_tier": "default",
            "usage": None,
        }
        given = {name: value for name, value in request.body.items() if name in _ECHOED and value is not None}
        self.body |= _ECHOED | given
        self.output = list(_output(reply, ids, self.status))
        self.ended = self.body | {
            "status": self.status,
            "completed_at": None if self.incomplete else now,
            "incomplete_details": {"reason": self.incomplete} if self.incomplete else None,
            "output": self.output,
            "usage": None if self.tokens is None else _usage(self.tokens),
        }

    def events(self) -> Iterator[bytes]:
        """Server-sent events, numbered; the last one carries the whole response again."""
        for number, (kind, fields) in enumerate(self._told()):
            event = {"type": kind, "sequence_number": number} | fields
            yield b"event: " + kind.encode() + b"\ndata: " + as_json(event) + b"\n\n"

    def _told(self) -> Iterator[Event]:
        yield "response.created", {"response": self.body}
        yield "response.in_progress", {"response": self.body}
        for index, item in enumerate(self.output):
            yield from events_of(item, index, self.reply.chunks)
        yield f"response.{self.status}", {"response": self.ended}


def _output(reply: Completion, ids: Ids, status: str) -> Iterator[Item]:
    """The items of a reply, in the order in which OpenAI's models make them."""
    if reply.reasoning is not None:
        summary = [{"type": "summary_text", "text": reply.reasoning}] if reply.reasoning else []
        yield {"id": ids.new("rs_"), "type": "reasoning", "summary": summary}
    for query in reply.searches:
        action = {"type": "search", "query": query, "queries": [query]}
        yield {"id": ids.new("ws_"), "type": "web_search_call", "status": "completed", "action": action}
    if reply.text is not None:
        part: Item = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        said = {"id": ids.new("msg_"), "type": "message", "role": "assistant"}
        yield said | {"status": status, "content": [part]}
    for call in reply.tool_calls:
        asked = {"name": call.name, "arguments": call.arguments_json, "call_id": call.id or ids.new("call_")}
        yield {"id": ids.new("fc_"), "type": "function_call", "status": status} | asked


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": tokens.input,
        "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_write},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.input + tokens.output,
    }
