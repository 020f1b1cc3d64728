"""How the Responses API streams the items of a response: each is added, grows and is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from shearpin.testing.items import Item
from shearpin.testing.wire import cut

Event: TypeAlias = tuple[str, dict[str, Any]]
Chunks: TypeAlias = int | Sequence[str] | None


def events_of(item: Item, index: int, chunks: Chunks) -> Iterator[Event]:
    """All events of one item of the output, the `index`-th; `chunks` is how its text is cut."""
    unfinished, grow = _STREAMED[item["type"]]
    started = {"status": "in_progress"} if "status" in item else {}
    yield "response.output_item.added", {"output_index": index, "item": item | unfinished | started}
    for kind, fields in grow(item, chunks):
        yield f"response.{kind}", {"item_id": item["id"], "output_index": index} | fields
    yield "response.output_item.done", {"output_index": index, "item": item}


def _message(item: Item, chunks: Chunks) -> Iterator[Event]:
    (part,) = item["content"]
    here: dict[str, Any] = {"content_index": 0}
    yield "content_part.added", here | {"part": part | {"text": ""}}
    for piece in cut(part["text"], chunks):
        yield "output_text.delta", here | {"delta": piece, "logprobs": []}
    yield "output_text.done", here | {"text": part["text"], "logprobs": []}
    yield "content_part.done", here | {"part": part}


def _function_call(item: Item, chunks: Chunks) -> Iterator[Event]:
    for piece in cut(item["arguments"], chunks if isinstance(chunks, int) else None):
        yield "function_call_arguments.delta", {"delta": piece}
    yield "function_call_arguments.done", {"name": item["name"], "arguments": item["arguments"]}


def _reasoning(item: Item, chunks: Chunks) -> Iterator[Event]:
    for place, part in enumerate(item["summary"]):
        here: dict[str, Any] = {"summary_index": place}
        yield "reasoning_summary_part.added", here | {"part": part | {"text": ""}}
        for piece in cut(part["text"], chunks if isinstance(chunks, int) else None):
            yield "reasoning_summary_text.delta", here | {"delta": piece}
        yield "reasoning_summary_text.done", here | {"text": part["text"]}
        yield "reasoning_summary_part.done", here | {"part": part}


def _web_search(_: Item, __: Chunks) -> Iterator[Event]:
    for state in ("in_progress", "searching", "completed"):
        yield f"web_search_call.{state}", {}


_STREAMED: dict[str, tuple[Item, Callable[[Item, Chunks], Iterator[Event]]]] = {
    "message": ({"content": []}, _message),
    "function_call": ({"arguments": ""}, _function_call),
    "reasoning": ({"summary": []}, _reasoning),
    "web_search_call": ({}, _web_search),
}
