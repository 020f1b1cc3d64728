"""How many calls a run tree has made, and which tries of the same call they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shearpin.trace import Span, ToolSpan, Trace


class Calls:
    """The calls of one run tree. Every method is called under the tree's lock."""

    __slots__ = ("_trace", "_tries", "asked")

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._tries: dict[str, int] = {}
        self.asked: dict[str, Mapping[str, Any]] = {}
        """The tool calls that models asked for, by id."""

    def count(self, span: Span) -> None:
        """`span` starts."""
        if span.kind == "llm":
            self._trace.llm_calls += 1
        elif isinstance(span, ToolSpan):
            self._trace.tool_calls += 1
            if span.call_id is not None:
                span.retry = self._tries.get(span.call_id, 0)
                self._tries[span.call_id] = span.retry + 1

    def uncount_tool(self, span: ToolSpan) -> None:
        """A tool that was paused is counted once, when it runs; one that was admitted and never called is not."""
        self._trace.tool_calls -= 1
        self._tries.pop(span.call_id or "", None)

    def uncount_unmade(self) -> None:
        """A model call was admitted and never made."""
        self._trace.llm_calls -= 1

    def ask(self, calls: Mapping[str, Mapping[str, Any]]) -> None:
        """A model asks for these: an id that is asked for anew is a new call, not another try."""
        self.asked.update(calls)
        for call_id in calls:
            self._tries.pop(call_id, None)
