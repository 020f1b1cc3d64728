"""What a model answered, in the trace's own words, whoever the provider or the framework is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shearpin.trace.model import LLMSpan, Usage


@dataclass(slots=True)
class Reply:
    """One answer. ``tool_calls`` are dicts of ``id``, ``name`` and ``arguments``.

    ``usage`` is None when the provider told none. ``from_cache`` marks an answer the provider was not asked for,
    which costs nothing.
    """

    text: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    reasoning: str | None = None
    finish_reason: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    usage: Usage | None = None
    from_cache: bool = False

    def write_to(self, span: LLMSpan) -> None:
        """Record this answer on the span of its call."""
        span.reply, span.tool_calls, span.reasoning = self.text, self.tool_calls, self.reasoning
        span.finish_reason, span.response_id = self.finish_reason, self.response_id
        span.response_model = self.response_model or span.response_model
        span.stored_output = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            span.stored_output["tool_calls"] = self.tool_calls
        if self.usage is not None and (self.usage.total_tokens or self.from_cache):
            span.usage = self.usage
            if self.from_cache:
                span.usage.cost_usd, span.price_source = 0.0, "provider cache"
