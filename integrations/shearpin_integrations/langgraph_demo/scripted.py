"""What the scripted model says in each story, and what it counts: tokens, the prompt cache, the context window."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shearpin.testing import Reply, Request, Tokens, error, reply, tool_call

__all__ = ["CONTEXT_WINDOW", "explains", "finds_the_order", "reviews", "searches_for_ever"]

CONTEXT_WINDOW = 128_000
"""Tokens that gpt-4o takes; a longer conversation is refused as OpenAI refuses it."""

_CACHED_FROM, _CACHED_BY = 1024, 128
"""OpenAI caches the beginning of prompts of so many tokens, in units of so many, and bills half for it."""

_SECONDS_FOR_A_REVIEW = 0.05


def finds_the_order(request: Request) -> Reply:
    """Looks it up, then answers."""
    if request.turn == 0:
        return _calls(request, "find_order", {"number": 4711})
    return _says(request, "Order 4711 is in Lyon and reaches you on Tuesday.")


def searches_for_ever(request: Request) -> Reply:
    """Asks the same of the same manual, whatever it has read."""
    return _calls(request, "search_manual", {"query": "P-7 warranty period"})


def reviews(request: Request) -> Reply:
    """One clause's review, after the time in which the others arrive too."""
    text = "Binding: it obliges the supplier to have every part inspected at the stated interval and the log kept."
    return _says(request, text, delay=_SECONDS_FOR_A_REVIEW)


def explains(request: Request) -> Reply:
    """A sentence."""
    return _says(request, "A shear pin is the part made to break first, so that the machine does not.")


def _says(request: Request, text: str, delay: float = 0.0) -> Reply:
    tokens = _count(request, text)
    return _too_long(tokens) or reply(text, usage=tokens, delay=delay)


def _calls(request: Request, tool: str, arguments: Mapping[str, Any]) -> Reply:
    tokens = _count(request, [tool, arguments])
    return _too_long(tokens) or tool_call(tool, arguments, usage=tokens)


def _too_long(tokens: Tokens) -> Reply | None:
    if tokens.input <= CONTEXT_WINDOW:
        return None
    text = f"This model's maximum context length is {CONTEXT_WINDOW} tokens, your messages have {tokens.input}."
    return error(400, text, param="messages", code="context_length_exceeded")


def _count(request: Request, said: object) -> Tokens:
    """What was sent and said; what an earlier call of the conversation had sent is in the cache."""
    spoken = [place for place, message in enumerate(request.messages) if message["role"] == "assistant"]
    known = _size([request.messages[: spoken[-1]], request.tools]) if spoken else 0
    cached = known // _CACHED_BY * _CACHED_BY if known >= _CACHED_FROM else 0
    return Tokens(_size([request.messages, request.tools]), _size(said), cached=cached)


def _size(value: object) -> int:
    """Four characters are about a token."""
    return len(json.dumps(value, separators=(",", ":"))) // 4
