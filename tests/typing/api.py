"""The public API as a type checker sees it: read by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, assert_type

from agents import Agent, RunHooks, Runner
from langchain_core.runnables import Runnable
from openai import AsyncAzureOpenAI, OpenAI

from shearpin import (
    Budget,
    BudgetExceededError,
    Guard,
    LoopBreaker,
    LoopDetectedError,
    RunStoppedError,
    Span,
    ToolPolicy,
    Trace,
    Usage,
    attach,
    current_run,
    guard,
    install,
)
from shearpin.adapter import Exporter, Reply, Run
from shearpin.testing import ScriptedServer, endless
from shearpin.trace import DecisionSpan, LLMSpan, NodeSpan, ToolSpan
from shearpin_exporters.files import JSONLinesExporter
from shearpin_integrations.langgraph import ShearpinCallbackHandler, guarded_node, hook_nodes
from shearpin_integrations.openai_agents import ShearpinRunHooks, installed

exporter: Exporter = JSONLinesExporter("runs.jsonl")
pin = Guard(
    Budget(usd=0.5, steps=25, warn_at=0.5, unknown_price={"input": 1, "output": 2}),
    LoopBreaker(),
    ToolPolicy(
        deny=["delete_*", lambda call: call.tool == "pay" and call.arguments["amount"] > 100],
        ask="refund",
        approver=lambda request: (request.tool == "refund", "fine"),
        on_deny="tell",
    ),
    exporters=[exporter],
    prices={"my-model": {"input": 2.5, "output": 10.0}},
    mode="observe",
)


@guard(Budget(usd=1), LoopBreaker())
def answer(question: str) -> int:
    return len(question)


@pin.tool
async def search(query: str, limit: int = 3) -> list[str]:
    return [query] * limit


@pin.llm(model="gpt-4o")
def ask(prompt: str) -> str:
    return prompt


@pin.tool
def pages() -> Iterator[int]:
    yield 1


@guard(pin)
async def stream() -> AsyncIterator[str]:
    yield "a"


def decorated_functions_keep_their_types() -> None:
    assert_type(answer("x"), int)
    assert_type(ask("x"), str)
    assert_type(pages(), Iterator[int])
    take: Callable[[str], int] = answer
    take("x")


async def a_run_and_its_parts() -> None:
    async with pin.run("support", user_id="u1", tags=["beta"]) as run:
        assert_type(run, Run)
        assert_type(run.usage, Usage)
        assert_type(run.remaining, Mapping[str, float])
        async with run.llm(model="gpt-4o", messages="hi", max_tokens=5) as call:
            call.response = "text"
            call.usage = Usage(1, 2)
        with run.step("plan"), run.tool("search", {"q": 1}) as tool:
            tool.result = 3
        run.handoff("a", "b", "why")
        assert_type(run.stop("enough"), RunStoppedError)
        run.on_warning(lambda decision: decision.reason)
    assert_type(current_run(), Run | None)
    assert_type(await search("x"), list[str])


def a_trace_and_its_spans(trace: Trace) -> None:
    assert_type(trace.spans_of("llm"), list[LLMSpan])
    assert_type(trace.spans_of("tool"), list[ToolSpan])
    assert_type(trace.spans_of("node"), list[NodeSpan])
    assert_type(trace.spans, list[Span])
    assert_type(trace.decisions, list[DecisionSpan])
    assert_type(trace.usage.cost_usd, float | None)
    assert_type(Trace.load("runs.jsonl", "id"), Trace)


def a_stop_and_its_facts() -> None:
    try:
        pin.raise_if_stopped()
    except BudgetExceededError as error:
        assert_type(error.limit, float)
        assert_type(error.estimate, float | None)
        assert_type(error.trace, Trace | None)
    except LoopDetectedError as error:
        assert_type(error.calls, list[str])


def frameworks(graph: Runnable[Any, Any], builder: Any) -> None:
    assert_type(attach(graph, Budget(usd=1), service="s", env="prod"), Runnable[Any, Any])
    graph.invoke({}, config={"callbacks": [ShearpinCallbackHandler(pin)]})
    assert_type(guarded_node(answer, pin)("x"), int)
    hook_nodes(builder, pin)
    install(pin)


def a_wrapped_client_keeps_its_type(client: AsyncAzureOpenAI) -> None:
    assert_type(pin.wrap(OpenAI()), OpenAI)
    assert_type(pin.wrap(client), AsyncAzureOpenAI)


def testing_tools() -> None:
    with ScriptedServer(endless("search", {"q": "x"})) as server:
        assert_type(server.base_url, str)
    Reply(text="x", usage=Usage(1, 1))


async def openai_agents(agent: Agent[int], mine: RunHooks[int]) -> None:
    await Runner.run(agent, "Hello?", context=1, hooks=ShearpinRunHooks(pin, wrap=mine))
    with installed(pin):
        await Runner.run(agent, "Hello?", context=1)
    assert_type(attach(agent, Budget(usd=0.5), service="support"), Agent[int])
