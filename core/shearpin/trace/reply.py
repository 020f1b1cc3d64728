"""What a model answered, in the trace's own words, whoever the provider or the framework is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from shearpin.trace.plain import is_dict, plain
from shearpin.trace.spans import LLMSpan
from shearpin.trace.usage import SIDES, PartialUsage, Usage, usage_told


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
        """Record this answer on the span of its call. Never raises: what has another type than ours is converted."""
        text, calls = _text(self.text), _tool_calls(self.tool_calls)
        span.reply, span.tool_calls, span.reasoning = text, calls, _text(self.reasoning)
        span.finish_reason, span.response_id = _text(self.finish_reason), _text(self.response_id)
        span.response_model = _text(self.response_model) or span.response_model
        span.stored_output = {"role": "assistant", "content": text}
        if calls:
            span.stored_output["tool_calls"] = calls
        usage = usage_told(self.usage)
        if usage is not None and self.from_cache:
            usage.cost_usd, span.price_source = 0.0, "provider cache"
        elif usage is not None and not usage.total_tokens and type(usage) is Usage:  # of no tokens, or of none told
            usage = PartialUsage(cost_usd=usage.cost_usd, lacking=SIDES)
        span.usage = usage or span.usage


def _text(value: Any) -> str | None:  # noqa: ANN401 - whatever an adapter or a provider has put where a text belongs
    """`value` as a text."""
    if value is None or type(value) is str:
        return value
    return str.__str__(value) if isinstance(value, str) else str(plain(value))


def _tool_calls(calls: object) -> list[dict[str, Any]]:
    given = cast("Iterable[object]", calls if isinstance(calls, list | tuple) else ())
    return [
        {"id": _text(call.get("id")), "name": _text(call.get("name")), "arguments": plain(call.get("arguments"))}
        for call in given
        if is_dict(call)
    ]
