"""The blocks inside a run: a step, a model call, a tool call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from shearpin.runs.block import Block
from shearpin.runs.trouble import raise_if_meant
from shearpin.trace import Span, Usage
from shearpin.trace.ambient import Here
from shearpin.trace.plain import is_dict, is_list
from shearpin.trace.providers import read_reply
from shearpin.trace.reply import Reply
from shearpin.trace.usage import read_usage

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
            self.here = Here(self._run, self.span)

    async def aopen(self) -> None:
        with self._once:
            self.span = await self._run.astart(self._kind, self._name, **self._fields)
            self.here = Here(self._run, self.span)

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
        self.response: Any = None
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """What the call used. Set it to a `Usage` or to the ``usage`` of an answer; anything else is a TypeError."""
        return self._usage

    @usage.setter
    def usage(self, value: object) -> None:
        self._usage = None if value is None else _read_usage(value)

    def returned(self, value: object) -> None:
        self.response = value

    def _outcome(self) -> dict[str, Any]:
        response = self.response
        if is_list(response) and all(isinstance(piece, str) for piece in response):
            response = "".join(response) or None  # a decorated generator's; none came before it failed
        if response is None and self._usage is None:
            return {}
        reply = response if isinstance(response, Reply) else read_reply(response)
        reply.usage = self._usage or reply.usage
        return {"reply": reply}


def _read_usage(value: object) -> Usage:
    if isinstance(value, Usage):
        return value
    told = dict(value) if _is_mapping(value) else value
    usage = read_usage(told)
    if usage is None or not (usage.total_tokens or _names_tokens(told)):
        raise TypeError(f"call.usage = {value!r}: must be a Usage(...), or the usage of a provider's answer")
    return usage


def _names_tokens(told: object) -> bool:
    return any("token" in str(name) for name in (told if is_dict(told) else dir(told)))


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)
