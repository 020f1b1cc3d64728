"""What a streaming model has said so far.

The SDK tells hooks of a model call's begin and end only. When its first token came, and what had come when it broke
off, is known to nobody but the queue between the run and its consumer: ``RunResultStreaming._event_queue``, an
internal. Without it both would be unknown, and a broken stream charged at its estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agents import RawResponsesStreamEvent, RunResultStreaming

from shearpin.adapter import Reply
from shearpin_integrations.openai_agents.gaps import harmless
from shearpin_integrations.openai_agents.reading import part

_QUEUE = "_event_queue"
_ENDS = ("response.completed", "response.incomplete")


@dataclass(slots=True)
class Heard:
    """What has come of one answer."""

    pieces: list[str] = field(default_factory=list[str])
    cut_short: str | None = None
    """Why it is not complete."""
    response_model: str | None = None

    def hear(self, event: Any) -> bool:
        """Take in one event of the provider's; tells whether it was output."""
        kind = str(part(event, "type"))
        if kind.endswith(".delta"):
            self.pieces.append(str(part(event, "delta") or ""))
            return True
        response = part(event, "response")
        if kind in _ENDS and part(response, "id") not in (None, "__fake_id__"):
            self.cut_short = part(part(response, "incomplete_details"), "reason")
            self.response_model = part(response, "model")
        return False

    def cut(self) -> Reply | None:
        """What had come when it broke off; None for nothing."""
        text = "".join(self.pieces)
        return Reply(text=text) if text else None


def listen(result: RunResultStreaming, hear: Callable[[Any], None]) -> None:
    """Let `hear` know of every event of the provider's as it comes."""
    queue: Any = getattr(result, _QUEUE, None)
    put: Any = getattr(queue, "put_nowait", None)
    if put is None:
        return

    def put_nowait(item: Any) -> None:
        put(item)
        if isinstance(item, RawResponsesStreamEvent):
            with harmless("reading of a stream"):
                hear(item.data)

    queue.put_nowait = put_nowait
