"""The blocks inside a run: a step, a model call, a tool call."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from shearpin.runs import prompts
from shearpin.runs.block import Block
from shearpin.runs.streaming import streamed
from shearpin.runs.trouble import raise_if_meant
from shearpin.trace import Span, Usage
from shearpin.trace.ambient import Here
from shearpin.trace.chunks import Chunks
from shearpin.trace.plain import is_list, made_as
from shearpin.trace.providers import read_reply
from shearpin.trace.reply import Reply
from shearpin.trace.usage import usage_told

if TYPE_CHECKING:
    from shearpin.runs.run import Run


class SpanBlock(Block):
    """A block that is one span of a run."""

    def __init__(self, run: Run, kind: str, name: str, fields: dict[str, Any]) -> None:
        super().__init__(f"{kind} {name}")
        self._run, self._kind, self._name, self._fields = run, kind, name, fields
        self.span: Span | None = None

    def open(self) -> None:
        with self._once:
            self.span = self._run.start(self._kind, self._name, **self._fields)
            self._started(self.span)

    async def aopen(self) -> None:
        with self._once:
            self.span = await self._run.astart(self._kind, self._name, **self._fields)
            self._started(self.span)

    def _started(self, span: Span) -> None:
        self.here = Here(self._run, span)

    def abandon(self) -> None:
        if self.span is not None:
            self._run.withdraw(self.span)

    def close(self, error: BaseException | None = None) -> None:
        if self.span is None:
            return
        try:
            self._end(self.span, error, self._outcome())
        except Exception as bug:  # noqa: BLE001 - ours, not the agent's
            raise_if_meant(bug, "record of a call's outcome")
        finally:
            self._end(self.span, error, {})  # whatever it is that cannot be read; else it has ended

    def _end(self, span: Span, error: BaseException | None, outcome: dict[str, Any]) -> None:
        if error is None:
            self._run.end(span, **outcome)
        else:
            self._run.fail(span, error, **outcome)

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
    """A model call. Set ``response`` to what the provider answered, or ``usage``, which wins.

    A call that ends with neither is charged what was reserved for it.
    """

    def __init__(self, run: Run, kind: str, model: str, fields: dict[str, Any]) -> None:
        super().__init__(run, kind, model, {"request_model": model, **fields})
        self._unread = prompts.unread(fields["messages"]) or prompts.unread(fields.get("tools", ()))
        self.response: Any = None
        self._usage: Usage | None = None

    def _started(self, span: Span) -> None:
        super()._started(span)
        if self._unread is not None:
            self._run.gap(self._unread)

    @property
    def usage(self) -> Usage | None:
        """What the call used. Set it to a `Usage` or to the ``usage`` of an answer.

        What tells no tokens is a gap of the trace, and the call is charged what was reserved for it.
        """
        return self._usage

    @usage.setter
    def usage(self, value: object) -> None:
        self._usage = value if made_as(value, Usage) else _read_usage(value)
        if self._usage is None and value is not None:
            kind = type(value).__name__
            self._run.gap(f"call.usage = {kind}: tells no tokens, so its call was charged what was reserved for it")

    def returned(self, value: object) -> None:
        self.response = value

    def hand_out(self, value: Any) -> Any:  # noqa: ANN401 - the function's own
        """A stream goes on after the function that opened it: the call ends with it."""
        stream = streamed(value, self)
        return super().hand_out(value) if stream is None else stream

    def came(self) -> None:
        """A chunk of the answer came."""
        if self.span is not None:
            self._run.first_token(self.span)

    def _outcome(self) -> dict[str, Any]:
        response = self.response
        if is_list(response):  # of chunks
            response = _put_together(response)
        if response is None and self._usage is None:
            return {}
        reply = response if type(response) is Reply else read_reply(response)
        reply.usage = _over(usage_told(self._usage), reply.usage)
        return {"reply": reply}


def _put_together(chunks: list[object]) -> Reply | None:
    """What was streamed; None when nothing came before it failed."""
    if all(type(chunk) is str and not chunk for chunk in chunks):
        return None
    answer = Chunks()
    for chunk in chunks:
        answer.add(chunk)
    return answer.reply()


def _over(mine: Usage | None, told: Usage | None) -> Usage | None:
    """What the user says wins; who says a cost alone leaves the tokens to the provider."""
    if mine is None:
        return told
    costs_alone = mine.cost_usd is not None and not mine.total_tokens
    counted = usage_told(told) if costs_alone else None
    return mine if counted is None else dataclasses.replace(counted, cost_usd=mine.cost_usd)


def _read_usage(value: object) -> Usage | None:
    try:
        return usage_told(dict(value) if prompts.is_mapping(value) else value)
    except Exception:  # noqa: BLE001 - a mapping that is anybody's code
        return None
