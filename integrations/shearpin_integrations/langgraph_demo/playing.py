"""A story really played: by a real agent and a real client, with Shearpin or without it."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from langchain_openai import ChatOpenAI
from langsmith import tracing_context  # pyright: ignore[reportUnknownVariableType]
from pydantic import SecretStr

from shearpin import Guard, RunStoppedError, Trace, Usage
from shearpin.testing import ScriptedServer, Tokens
from shearpin_exporters.files import JSONLinesExporter
from shearpin_integrations.langgraph import ShearpinCallbackHandler
from shearpin_integrations.langgraph_demo.stories import MODEL, Story

__all__ = ["Played", "Unguarded", "play", "play_unguarded"]


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a story: its trace, what ended it, and how many calls the server answered."""

    story: Story
    trace: Trace
    ended_by: Exception | None
    served: int | None
    """None where a real model was asked."""

    @property
    def failed(self) -> bool:
        """Whether something other than a rule ended it."""
        return self.ended_by is not None and not isinstance(self.ended_by, RunStoppedError)

    @property
    def problems(self) -> Iterator[str]:
        """What did not happen as it should have."""
        expected = self.story.stopped_by
        if not isinstance(self.ended_by, expected or type(None)):
            told = f"be stopped by {expected.__name__}" if expected else "end well"
            yield f"it should {told}; it ended with {self.ended_by!r}" if self.ended_by else f"it should {told}"
        elif self.trace.status != ("stopped" if expected else "ok"):
            yield f"its trace says {self.trace.status}"
        if self.served not in (None, self.trace.llm_calls):
            yield f"the server answered {self.served} model calls, the trace has {self.trace.llm_calls}"
        if isinstance(self.ended_by, RunStoppedError) and self.ended_by.trace is not self.trace:
            yield "the stop does not carry the trace"
        spent = self.trace.usage.cost_usd
        if spent is None or spent > self.story.usd:
            yield f"it cost {spent} dollars under a budget of {self.story.usd}"


@dataclass(frozen=True, slots=True)
class Unguarded:
    """What the same agent did without Shearpin: calls the server answered, their price, and what ended it."""

    served: int
    usd: float
    ended_by: Exception | None
    limit: int | None
    """LangGraph's own limit for it, in steps of the graph."""


def play(story: Story, exporter: JSONLinesExporter, *, live: bool) -> Played:
    """The story, guarded; its trace goes to `exporter` too."""
    pin = Guard(*story.rules, exporters=[exporter])
    handler = ShearpinCallbackHandler(pin)
    config = {"callbacks": [handler], "metadata": {"service": story.name}}
    with _provider(story, live=live) as (model, server):
        ended_by = _ask(story, story.build(model), config)
        return Played(story, pin.traces[-1], ended_by, server.served if server else None)


def play_unguarded(story: Story, recursion_limit: int | None = None) -> Unguarded:
    """The story on a server of its own with no Shearpin in it, up to LangGraph's own limit or this one."""
    with _provider(story, live=False) as (model, server):
        assert server is not None  # noqa: S101 - narrows the type
        agent = story.build(model)
        config: dict[str, Any] = getattr(agent, "config", None) or {}
        if recursion_limit is not None:
            config = {"recursion_limit": recursion_limit}
        ended_by = _ask(story, agent, config)
        return Unguarded(server.served, _price_of(server.usage), ended_by, config.get("recursion_limit"))


@contextmanager
def _provider(story: Story, *, live: bool) -> Generator[tuple[ChatOpenAI, ScriptedServer | None]]:
    """A client of OpenAI's API, or of a server of this machine that speaks it."""
    if live:
        yield ChatOpenAI(model=MODEL), None
        return
    with (
        tracing_context(enabled=False),  # where LangSmith is switched on, it would be told
        ScriptedServer(story.script) as server,
        httpx.Client(trust_env=False) as http,  # a proxy of the environment would not find this machine
    ):
        yield _client(server, http), server


def _client(server: ScriptedServer, http: httpx.Client) -> ChatOpenAI:
    logging.getLogger("langchain_openai").setLevel(logging.ERROR)  # it would warn that a proxy is passed by
    return ChatOpenAI(
        model=MODEL,
        base_url=server.base_url,
        api_key=SecretStr("none"),
        http_client=http,
        http_async_client=httpx.AsyncClient(trust_env=False),
        openai_proxy=None,
        max_retries=0,
    )


def _ask(story: Story, agent: Any, config: dict[str, Any]) -> Exception | None:
    try:
        agent.invoke(story.given, config=config)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        return error
    return None


def _price_of(tokens: Tokens) -> float:
    """Dollars for these tokens, by the prices that every run is charged with."""
    pin = Guard()
    with pin.run() as run, run.llm(model=MODEL, messages=[]) as call:
        call.usage = Usage(tokens.input, tokens.output, cached_input_tokens=tokens.cached)
    return pin.traces[-1].usage.cost_usd or 0.0
