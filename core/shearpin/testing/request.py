"""What a client sent, as scripts read it: the same for every endpoint that asks a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from shearpin.testing.items import as_messages, as_tools, items_in

RESPONSES = "/v1/responses"


@dataclass(slots=True)
class Request:
    """What a client sent. Headers are by lower-case name; `body` is `{}` when it was no JSON object.

    `messages` and `tools` have the shape of the chat API whichever API was asked; `body` is as it came.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any] = field(default_factory=dict[str, Any])
    index: int = -1
    """How many requests reached the script before this one; -1 for a request that did not reach it."""
    earlier: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The items of the conversation that `previous_response_id` goes on with."""

    @property
    def items(self) -> list[dict[str, Any]]:
        """The conversation as items of the Responses API: what went before, then what was sent now."""
        return [*self.earlier, *items_in(self.body.get("input"))]

    @property
    def messages(self) -> list[dict[str, Any]]:
        if self.path == RESPONSES:
            return as_messages(self.body.get("instructions"), self.items)
        return cast("list[dict[str, Any]]", self.body.get("messages") or [])

    @property
    def model(self) -> str:
        return str(self.body.get("model") or "")

    @property
    def tools(self) -> list[dict[str, Any]]:
        tools = cast("list[dict[str, Any]]", self.body.get("tools") or [])
        return as_tools(tools) if self.path == RESPONSES else tools

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def turn(self) -> int:
        """How often the model has spoken in this conversation, whoever else is being served."""
        return sum(message.get("role") == "assistant" for message in self.messages)
