"""A scripted provider behind real LangChain models, and ways to look at what a guard recorded."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI

from shearpin import Guard, Span, Trace
from shearpin.testing import Reply, Script, ScriptedServer
from shearpin_integrations.langchain import ShearpinCallbackHandler
from shearpin_integrations.langchain.tracking import tracker_of

PRICES = {
    "gpt-4o": {"input": 2.0, "output": 10.0, "cached_input": 1.0, "cache_write": 4.0},
    "gpt-4o-mini": {"input": 0.2, "output": 1.0, "cached_input": 0.1, "cache_write": 0.4},
}
"""Round figures, so that no test depends on what a table of real prices says today."""


class Provider:
    """Scripted servers, closed when the test ends, and LangChain's own model class over OpenAI's own client."""

    def __init__(self) -> None:
        self.server: ScriptedServer
        self._servers: list[ScriptedServer] = []

    def serve(self, script: Script | Sequence[Reply], **options: Any) -> ScriptedServer:
        """A server of `script`; the newest one is ``server``."""
        self.server = ScriptedServer(script, **options)
        self._servers.append(self.server)
        return self.server

    def model(
        self, script: Script | Sequence[Reply] | ScriptedServer, name: str = "gpt-4o", **options: Any
    ) -> ChatOpenAI:
        """A model that says what `script` tells it to, and reports usage in streams too."""
        server = script if isinstance(script, ScriptedServer) else self.serve(script)
        client, async_client = (each.with_options(base_url=server.base_url) for each in _clients())
        given: dict[str, Any] = {"model": name, "api_key": "any", "stream_usage": True, **options}
        return ChatOpenAI(
            client=client.chat.completions,
            root_client=client,
            async_client=async_client.chat.completions,
            root_async_client=async_client,
            **given,
        )

    def close(self) -> None:
        for server in self._servers:
            server.close()


@functools.cache
def _clients() -> tuple[openai.OpenAI, openai.AsyncOpenAI]:
    """One pair for all tests: what costs time is the making. No connection outlives its request, nor its event loop."""
    options: dict[str, Any] = {
        "api_key": "any",
        "base_url": "http://127.0.0.1:9",
        "max_retries": 0,
        "timeout": 10,
        "default_headers": {"Connection": "close"},
    }
    return openai.OpenAI(**options), openai.AsyncOpenAI(**options)


def provided() -> Iterator[Provider]:
    """The body of the fixture ``provider``, for modules that this conftest does not reach."""
    provider = Provider()
    yield provider
    provider.close()


provider = pytest.fixture(provided, name="provider")


# --- calling ----------------------------------------------------------------------------------------------------------

SYNC_MODES = ("invoke", "stream", "batch")
ASYNC_MODES = ("ainvoke", "astream", "abatch")
MODES = SYNC_MODES + ASYNC_MODES
"""The ways to call a runnable."""


def call(mode: str, runnable: Runnable[Any, Any], value: Any, config: Any = None, **options: Any) -> Any:
    """Call `runnable` once, in one of `MODES`. Returns the answer, or the items of a stream."""
    if mode in ASYNC_MODES:
        return asyncio.run(acall(mode, runnable, value, config, **options))
    if mode == "batch":
        return runnable.batch([value], config, **options)[0]
    if mode == "stream":
        return list(runnable.stream(value, config, **options))
    return runnable.invoke(value, config, **options)


async def acall(mode: str, runnable: Runnable[Any, Any], value: Any, config: Any = None, **options: Any) -> Any:
    """The async half of `call`, for the event loop there is."""
    if mode == "abatch":
        return (await runnable.abatch([value], config, **options))[0]
    if mode == "astream":
        return [item async for item in runnable.astream(value, config, **options)]
    return await runnable.ainvoke(value, config, **options)


def watched(pin: Guard, thread: str | None = None, **metadata: Any) -> dict[str, Any]:
    """A config with the guard's handler, and so the way most users put a guard on a call."""
    config: dict[str, Any] = {"callbacks": [ShearpinCallbackHandler(pin)]}
    if thread is not None:
        config["configurable"] = {"thread_id": thread}
    if metadata:
        config["metadata"] = metadata
    return config


# --- looking ----------------------------------------------------------------------------------------------------------


def finished(pin: Guard) -> Trace:
    """The only run of `pin`, after everything that holds for every finished run was checked."""
    (trace,) = pin.traces
    assert_complete(trace)
    assert_nothing_left(pin)
    return trace


def assert_nothing_left(pin: Guard) -> None:
    """No run is live, and no LangChain run is still remembered."""
    assert pin.active == []
    assert tracker_of(pin).entries == {}


def assert_complete(trace: Trace) -> None:
    """What holds for every trace of a run that ended, whatever went on in it."""
    assert re.fullmatch(r"[0-9a-f]{32}", trace.trace_id)
    assert trace.status != "unfinished"
    assert trace.ended_ns is not None
    assert trace.started_ns <= trace.ended_ns
    root, *rest = trace.spans
    assert (root.kind, root.parent_id, root.status) == ("agent", None, trace.status)
    seen = {root.span_id: root}
    for span in rest:
        assert re.fullmatch(r"[0-9a-f]{16}", span.span_id)
        assert span.span_id not in seen
        parent = seen[span.parent_id or ""]  # a parent starts before its children
        assert parent.start_ns <= span.start_ns
        seen[span.span_id] = span
    assert [span for span in trace.spans if span.end_ns is None or span.status == "unfinished"] == []
    assert all(span.start_ns <= (span.end_ns or 0) for span in trace.spans)
    starts = [span.start_ns for span in trace.spans]
    assert starts == sorted(starts)
    assert trace.tool_calls == sum(span.status != "paused" for span in trace.spans_of("tool"))
    # What was admitted in advance and then not made is on record, but used nothing.
    assert trace.llm_calls == sum(
        span.status != "cancelled" or span.usage is not None for span in trace.spans_of("llm")
    )
    _assert_sums(trace)


def _assert_sums(trace: Trace) -> None:
    """The totals are those of the spans, and grew from each end to the next."""
    made = [span for span in trace.spans_of("llm") if span.usage is not None]
    assert trace.usage.input_tokens == sum(span.usage.input_tokens for span in made)  # type: ignore[union-attr]
    assert trace.usage.output_tokens == sum(span.usage.output_tokens for span in made)  # type: ignore[union-attr]
    costs = [span.usage.cost_usd for span in made]  # type: ignore[union-attr]
    if None not in costs:
        assert trace.usage.cost_usd == pytest.approx(sum(cost for cost in costs if cost))
    ended = sorted((span for span in trace.spans if span.kind != "decision"), key=lambda span: span.end_ns or 0)
    totals = [span.cumulative_tokens for span in ended if span.parent_id]
    assert totals == sorted(totals)
    assert trace.spans[0].cumulative_tokens == trace.usage.total_tokens
    assert trace.spans[0].cumulative_cost_usd == trace.usage.cost_usd


def counts(trace: Trace) -> tuple[int, int, int]:
    """Steps, model calls and tool calls."""
    return trace.steps, trace.llm_calls, trace.tool_calls


def outline(trace: Trace, *fields: str) -> list[str]:
    """The tree of spans, a line for each: indented kind and name, and the values of `fields`."""
    children: dict[str | None, list[Span]] = {}
    for span in trace.spans:
        children.setdefault(span.parent_id, []).append(span)

    def lines(span: Span, depth: int) -> Iterator[str]:
        shown = "".join(f" {getattr(span, field)}" for field in fields)
        yield f"{'  ' * depth}{span.kind} {span.name}{shown}"
        for child in children.get(span.span_id, ()):
            yield from lines(child, depth + 1)

    return list(lines(trace.spans[0], 0))


def only(trace: Trace, kind: Any) -> Any:
    """The one span of a kind."""
    (span,) = trace.spans_of(kind)
    return span


def parent_of(trace: Trace, span: Span) -> Span:
    return next(other for other in trace.spans if other.span_id == span.parent_id)
