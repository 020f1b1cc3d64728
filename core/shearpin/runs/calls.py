"""The blocks inside a run: a step, a model call, a tool call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from shearpin.runs.block import Block
from shearpin.trace import Span, Usage
from shearpin.trace.ambient import Here
from shearpin.trace.providers import read_reply
from shearpin.trace.reply import Reply

if TYPE_CHECKING:
    from shearpin.runs.run import Run


class SpanBlock(Block):
    """A block that is one span of a run."""

    def __init__(self, run: Run, kind: str, name: str, fields: dict[str, Any]) -> None:
        self._run, self._kind, self._name, self._fields = run, kind, name, fields
        self.span: Span | None = None

    def open(self) -> None:
        self._opened(self._run.start(self._kind, self._name, **self._fields))

    async def aopen(self) -> None:
        self._opened(await self._run.astart(self._kind, self._name, **self._fields))

    def _opened(self, span: Span) -> None:
        self.span, self.here = span, Here(self._run, span)

    def close(self, error: BaseException | None = None) -> None:
        if self.span is None:
            return
        if error is None:
            self._run.end(self.span, **self._outcome())
        else:
            self._run.fail(self.span, error, **self._outcome())

    def returned(self, value: object) -> None:
        """A step has no result of its own."""

    def _outcome(self) -> dict[str, Any]:
        return {}


class ToolCall(SpanBlock):
    """A tool call. Set ``result``, and ``http_status`` where the tool knows one."""

    def __init__(self, run: Run, name: str, arguments: object, call_id: str | None) -> None:
        super().__init__(run, "tool", name, {"input": arguments, "call_id": call_id})
        self.result: Any = None
        self.http_status: int | None = None

    def returned(self, value: object) -> None:
        self.result = value

    def _outcome(self) -> dict[str, Any]:
        outcome = {"output": self.result}
        return outcome if self.http_status is None else outcome | {"http_status": self.http_status}


class LLMCall(SpanBlock):
    """A model call. Set ``response`` to what the provider answered, or ``usage`` to a `Usage`, which wins.

    A call that ends with neither is charged what was reserved for it.
    """

    def __init__(self, run: Run, kind: str, model: str, fields: dict[str, Any]) -> None:
        super().__init__(run, kind, model, {"request_model": model, **fields})
        self.response: Any = None
        self.usage: Usage | None = None

    def returned(self, value: object) -> None:
        self.response = value

    def _outcome(self) -> dict[str, Any]:
        if self.response is None and self.usage is None:
            return {}
        reply = self.response if isinstance(self.response, Reply) else read_reply(self.response)
        reply.usage = self.usage or reply.usage
        return {"reply": reply}


def interrupted(error: BaseException) -> bool:
    """Did the caller give up, rather than the code fail? Then what was sent may have been served all the same."""
    return isinstance(error, asyncio.CancelledError) or not isinstance(error, Exception)
