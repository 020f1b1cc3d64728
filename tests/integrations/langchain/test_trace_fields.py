"""Every field of every span, filled from what really happened."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import RetryPolicy

from shearpin import Budget, BudgetExceededError, Guard, Usage
from shearpin.testing import Reply, Request, Tokens, ToolCall, error, reply, tool_call, tool_calls
from tests.integrations.langchain.conftest import (
    PRICES,
    Provider,
    acall,
    assert_complete,
    call,
    counts,
    finished,
    only,
    parent_of,
    watched,
)

CALLS = ("invoke", "ainvoke")
STREAMS = ("stream", "astream")
LLM_MODES = CALLS + STREAMS


def search(q: str) -> str:
    """Searches."""
    return f"found {q}"


async def asearch(q: str) -> str:
    """Searches."""
    return search(q)


SEARCH = StructuredTool.from_function(search, asearch, name="search", description="Searches.")


# --- model calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", LLM_MODES)
def test_a_model_call_records_what_was_asked_and_what_was_answered(provider: Provider, mode: str) -> None:
    """(Of a stream, LangChain does not tell the response's id; the id it makes up itself is not one.)"""
    said = tool_calls(
        [ToolCall("search", {"q": "pins"}, id="call_1")],
        "Looking.",
        model="gpt-4o-2024-08-06",
        usage=Tokens(1000, 100, cached=400, reasoning=50),
    )
    model = provider.model([said], temperature=0.25, max_tokens=77, seed=5).bind_tools([SEARCH])
    pin = Guard(prices=PRICES)
    asked = [SystemMessage("Be brief."), HumanMessage("Find pins.", name="ann")]

    call(mode, model, asked, watched(pin))

    trace = finished(pin)
    span = only(trace, "llm")
    assert (span.provider, span.request_model, span.response_model) == ("openai", "gpt-4o", "gpt-4o-2024-08-06")
    assert (span.temperature, span.max_tokens, span.seed) == (0.25, 77, 5)
    assert span.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Find pins.", "name": "ann"},
    ]
    (offered,) = span.tools
    assert (offered["type"], offered["function"]["name"]) == ("function", "search")
    assert set(offered["function"]["parameters"]["properties"]) == {"q"}
    assert span.reply == "Looking."
    assert span.tool_calls == [{"id": "call_1", "name": "search", "arguments": {"q": "pins"}}]
    assert span.output == {"role": "assistant", "content": "Looking.", "tool_calls": span.tool_calls}
    assert span.finish_reason == "tool_calls"
    assert span.response_id is None if mode in STREAMS else span.response_id.startswith("chatcmpl-")
    assert span.usage == Usage(1000, 100, cached_input_tokens=400, reasoning_tokens=50, cost_usd=span.usage.cost_usd)
    assert span.usage.cost_usd == pytest.approx((600 * 2 + 400 * 1 + 100 * 10) / 1e6)
    assert span.price_source
    assert span.usage_estimated is False
    assert (span.name, span.status, span.error, span.step) == ("gpt-4o", "ok", None, 1)
    assert (span.cumulative_tokens, span.cumulative_cost_usd) == (1100, span.usage.cost_usd)
    assert counts(trace) == (1, 1, 0)


@pytest.mark.parametrize("mode", STREAMS)
def test_a_streamed_call_knows_when_its_first_token_came(provider: Provider, mode: str) -> None:
    model = provider.model([reply("one two three", chunks=3, chunk_delay=0.02)])
    pin = Guard()

    call(mode, model, "Count.", watched(pin))

    span = only(finished(pin), "llm")
    assert span.reply == "one two three"
    assert 0 < span.time_to_first_token_ns < span.duration_ns - 20_000_000  # two more pauses came after it


@pytest.mark.parametrize("mode", CALLS)
def test_a_call_that_is_not_streamed_has_no_first_token(provider: Provider, mode: str) -> None:
    pin = Guard()

    call(mode, provider.model([reply("Hello")]), "Hi", watched(pin))

    assert only(finished(pin), "llm").time_to_first_token_ns is None


def test_what_a_call_does_not_say_is_none(provider: Provider) -> None:
    pin = Guard()

    provider.model([reply("Hello")]).invoke("Hi", watched(pin))

    span = only(finished(pin), "llm")
    assert (span.temperature, span.max_tokens, span.seed, span.reasoning) == (None, None, None, None)
    assert (span.tools, span.tool_calls) == ([], [])


def test_the_whole_conversation_is_in_the_prompt_of_each_call(provider: Provider) -> None:
    model = provider.model([reply("Done")])
    asked = [{"id": "call_1", "name": "search", "args": {"q": "pins"}}]
    pin = Guard()

    model.invoke(
        [
            HumanMessage("Find pins."),
            AIMessage("", tool_calls=asked),
            ToolMessage("found pins", tool_call_id="call_1", name="search"),
        ],
        watched(pin),
    )

    assert only(finished(pin), "llm").messages == [
        {"role": "user", "content": "Find pins."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_1", "name": "search", "arguments": {"q": "pins"}}],
        },
        {"role": "tool", "content": "found pins", "name": "search", "tool_call_id": "call_1"},
    ]


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("42", additional_kwargs={"reasoning_content": "six times seven"}),
        AIMessage([{"type": "thinking", "thinking": "six times seven"}, {"type": "text", "text": "42"}]),
        AIMessage([{"type": "reasoning", "reasoning": "six times seven"}, {"type": "text", "text": "42"}]),
    ],
    ids=["beside the text", "thinking block", "reasoning block"],
)
@pytest.mark.parametrize("mode", CALLS)
def test_reasoning_is_kept_apart_from_the_reply(mode: str, message: AIMessage) -> None:
    pin = Guard()

    call(mode, GenericFakeChatModel(messages=iter([message])), "6 * 7?", watched(pin))

    span = only(finished(pin), "llm")
    assert (span.reply, span.reasoning) == ("42", "six times seven")


def test_tokens_written_to_a_cache_are_counted_and_priced_as_such(provider: Provider) -> None:
    model = provider.model([reply("Hello", usage=Tokens(1000, 100, cached=300, cache_write=200))])
    pin = Guard(prices=PRICES)

    told = model.invoke("Hi", watched(pin)).usage_metadata

    if "cache_creation" not in told["input_token_details"]:
        pytest.skip("older versions of langchain-openai do not tell")
    usage = only(finished(pin), "llm").usage
    assert (usage.cached_input_tokens, usage.cache_write_tokens) == (300, 200)
    assert usage.cost_usd == pytest.approx((500 * 2 + 300 * 1 + 200 * 4 + 100 * 10) / 1e6)


@pytest.mark.parametrize("mode", LLM_MODES)
@pytest.mark.parametrize("how", ["bound", "per call"])
def test_a_model_chosen_for_one_call_is_named_and_priced(provider: Provider, how: str, mode: str) -> None:
    model = provider.model([reply("Hello", usage=(1000, 100))])
    pin = Guard(prices=PRICES)

    if how == "bound":
        call(mode, model.bind(model="gpt-4o-mini"), "Hi", watched(pin))
    else:
        call(mode, model, "Hi", watched(pin), model="gpt-4o-mini")

    span = only(finished(pin), "llm")
    assert provider.server.requests[0].model == "gpt-4o-mini"
    assert (span.name, span.request_model, span.response_model) == ("gpt-4o-mini",) * 3
    assert span.usage.cost_usd == pytest.approx((1000 * 0.2 + 100 * 1) / 1e6)


def test_a_budget_reserves_at_the_price_of_the_model_that_is_really_asked(provider: Provider) -> None:
    model = provider.model([reply("Hello", usage=(1000, 100))], max_tokens=1000)
    pin = Guard(Budget(usd=0.005), prices=PRICES)  # fits 1000 tokens of output by the small model only

    model.invoke("Hi", watched(pin), model="gpt-4o-mini")
    with pytest.raises(BudgetExceededError):
        model.invoke("Hi", watched(pin))

    assert provider.server.served == 1


@pytest.mark.parametrize("mode", LLM_MODES)
def test_a_failed_model_call_tells_why_and_costs_nothing(provider: Provider, mode: str) -> None:
    model = provider.model([error(503)])
    pin = Guard(prices=PRICES)

    with pytest.raises(openai.InternalServerError, match="overloaded") as raised:
        call(mode, model, "Hi", watched(pin))

    trace = finished(pin)
    span = only(trace, "llm")
    assert (span.status, trace.status) == ("error", "error")
    assert span.error.type == type(raised.value).__name__
    assert "overloaded" in span.error.message
    assert "Traceback" in span.error.traceback
    assert (trace.usage.cost_usd, trace.usage.total_tokens) == (0.0, 0)


@pytest.mark.parametrize("mode", LLM_MODES)
def test_usage_that_nobody_told_is_an_estimate_and_says_so(provider: Provider, mode: str) -> None:
    model = provider.model([reply("Hello", usage=None)], max_tokens=50)
    pin = Guard(prices=PRICES)

    call(mode, model, "Hi", watched(pin))

    trace = finished(pin)
    span = only(trace, "llm")
    assert span.usage_estimated is True
    assert span.usage.output_tokens == 50
    assert trace.usage.cost_usd > 50 * 10 / 1e6


@pytest.mark.parametrize("mode", LLM_MODES)
def test_arguments_that_are_no_json_are_kept_as_the_text_they_are(provider: Provider, mode: str) -> None:
    model = provider.model([tool_calls([ToolCall("search", "q=pins", id="call_1")])]).bind_tools([SEARCH])
    pin = Guard()

    call(mode, model, "Find pins.", watched(pin))

    assert only(finished(pin), "llm").tool_calls == [{"id": "call_1", "name": "search", "arguments": "q=pins"}]


# --- tools ------------------------------------------------------------------------------------------------------------


def agent_of(provider: Provider, tools: list[BaseTool], *asked: Any, **options: Any) -> Any:
    """An agent whose model asks for `asked`, one reply each, and then is done."""
    script = [tool_calls([call]) for call in asked]
    return create_agent(provider.model([*script, reply("Done")]), tools, **options)


@pytest.mark.parametrize("mode", LLM_MODES)
def test_a_tool_call_records_its_arguments_and_its_result(provider: Provider, mode: str) -> None:
    agent = agent_of(provider, [SEARCH], ToolCall("search", {"q": "pins"}, id="call_1"))
    pin = Guard()

    call(mode, agent, {"messages": [("user", "Find pins.")]}, watched(pin))

    trace = finished(pin)
    span = only(trace, "tool")
    assert (span.name, span.call_id, span.retry, span.http_status) == ("search", "call_1", 0, None)
    assert (span.arguments, span.result) == ({"q": "pins"}, "found pins")
    assert (span.input, span.output) == (span.arguments, span.result)
    assert (span.status, span.error, span.step) == ("ok", None, 1)
    assert (span.cumulative_tokens, span.agent) == (trace.spans_of("llm")[0].usage.total_tokens, trace.name)
    assert counts(trace) == (2, 2, 1)


class _Response:
    status_code = 503


class _HTTPError(Exception):
    """As HTTP clients raise it: the response hangs on the exception."""

    response = _Response()


@pytest.mark.parametrize("mode", LLM_MODES)
def test_a_failed_request_of_a_tool_leaves_its_http_status(provider: Provider, mode: str) -> None:
    def fetch(url: str) -> str:
        raise _HTTPError(f"503 for {url}")

    fetching = StructuredTool.from_function(fetch, name="fetch", description="Fetches.")
    agent = agent_of(provider, [fetching], ToolCall("fetch", {"url": "http://x"}))
    pin = Guard()

    with pytest.raises(_HTTPError):
        call(mode, agent, {"messages": [("user", "Fetch.")]}, watched(pin))

    trace = finished(pin)
    span = only(trace, "tool")
    assert (span.http_status, span.status, trace.status) == (503, "error", "error")
    assert (span.error.type, span.error.message) == ("_HTTPError", "503 for http://x")
    assert "raise _HTTPError" in span.error.traceback
    assert parent_of(trace, span).status == "error"


def test_each_new_try_of_a_tool_call_is_a_span_with_its_number(provider: Provider) -> None:
    tries: list[str] = []

    def flaky(q: str) -> str:
        tries.append(q)
        if len(tries) < 3:
            raise ConnectionError("not yet")
        return "at last"

    builder = StateGraph(MessagesState)
    tools = [StructuredTool.from_function(flaky, name="flaky", description="Fails twice.")]
    policy = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=ConnectionError)
    builder.add_node("tools", ToolNode(tools, handle_tool_errors=False), retry_policy=policy)
    builder.add_edge(START, "tools")
    pin = Guard()
    request = AIMessage("", tool_calls=[{"id": "call_1", "name": "flaky", "args": {"q": "x"}}])

    builder.compile().invoke({"messages": [request]}, watched(pin))

    trace = finished(pin)
    assert [(span.retry, span.status, span.call_id) for span in trace.spans_of("tool")] == [
        (0, "error", "call_1"),
        (1, "error", "call_1"),
        (2, "ok", "call_1"),
    ]
    assert trace.tool_calls == 3


def test_an_error_that_is_told_to_the_model_is_still_an_error(provider: Provider) -> None:
    def broken(q: str) -> str:
        raise ConnectionError("down")

    builder = StateGraph(MessagesState)
    tools = [StructuredTool.from_function(broken, name="broken", description="Fails.")]
    builder.add_node("tools", ToolNode(tools, handle_tool_errors=True))
    builder.add_edge(START, "tools")
    pin = Guard()
    request = AIMessage("", tool_calls=[{"id": "call_1", "name": "broken", "args": {"q": "x"}}])

    builder.compile().invoke({"messages": [request]}, watched(pin))

    trace = finished(pin)
    assert (only(trace, "tool").status, only(trace, "tool").error.message) == ("error", "down")
    assert (only(trace, "node").status, trace.status) == ("ok", "ok")


def test_an_artifact_is_not_what_the_model_was_told() -> None:
    @tool(response_format="content_and_artifact")
    def chart(kind: str) -> tuple[str, bytes]:
        """Draws."""
        return f"a {kind} chart", b"PNG"

    pin = Guard()

    chart.invoke({"type": "tool_call", "id": "call_1", "name": "chart", "args": {"kind": "bar"}}, watched(pin))

    span = only(finished(pin), "tool")
    assert (span.arguments, span.result, span.call_id) == ({"kind": "bar"}, "a bar chart", "call_1")


# --- retrievers -------------------------------------------------------------------------------------------------------


class Shelf(BaseRetriever):
    """Finds what it was given."""

    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        if query == "burn":
            raise OSError("no shelf")
        return self.documents


@pytest.mark.parametrize("mode", CALLS)
def test_a_retriever_records_its_query_and_its_documents(mode: str) -> None:
    shelf = Shelf(documents=[Document("A pin.", metadata={"page": 3}), Document("A bolt.")])
    pin = Guard()

    call(mode, shelf, "pins", watched(pin))

    trace = finished(pin)
    span = only(trace, "retriever")
    assert (span.name, span.status, span.input) == ("Shelf", "ok", {"query": "pins"})
    assert span.output == [
        {"content": "A pin.", "metadata": {"page": 3}},
        {"content": "A bolt.", "metadata": {}},
    ]
    assert counts(trace) == (0, 0, 0)


@pytest.mark.parametrize("mode", CALLS)
def test_a_retriever_that_fails_says_why(mode: str) -> None:
    pin = Guard()

    with pytest.raises(OSError, match="no shelf"):
        call(mode, Shelf(documents=[]), "burn", watched(pin))

    trace = finished(pin)
    assert (only(trace, "retriever").status, only(trace, "retriever").error.type) == ("error", "OSError")
    assert trace.status == "error"


# --- agents and nodes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", LLM_MODES)
def test_the_agent_span_has_the_agents_name_its_question_and_its_answer(provider: Provider, mode: str) -> None:
    agent = agent_of(provider, [SEARCH], name="librarian")
    pin = Guard()

    call(mode, agent, {"messages": [("user", "Hello?")]}, watched(pin))

    trace = finished(pin)
    assert trace.name == "librarian"
    assert {span.agent for span in trace.spans} == {"librarian"}
    assert (trace.spans[0].name, trace.spans[0].input) == ("librarian", trace.input)
    assert trace.input == {"messages": [["user", "Hello?"]]}
    assert trace.spans[0].output == trace.output
    if mode in CALLS:
        said = {"role": "assistant", "content": "Done", "name": "librarian"}
        assert trace.output == {"messages": [{"role": "user", "content": "Hello?"}, said]}


def count_up(state: MessagesState) -> dict[str, Any]:
    return {"messages": [("assistant", f"{len(state['messages'])}")]}


async def acount_up(state: MessagesState) -> dict[str, Any]:
    return count_up(state)


@pytest.mark.parametrize("mode", LLM_MODES)
def test_a_node_records_the_state_that_went_in_and_the_update_that_came_out(mode: str) -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("count", acount_up if mode.startswith("a") else count_up)
    builder.add_node("again", acount_up if mode.startswith("a") else count_up)
    builder.add_edge(START, "count")
    builder.add_edge("count", "again")
    graph = builder.compile(checkpointer=InMemorySaver())
    pin = Guard()

    call(mode, graph, {"messages": [("user", "go")]}, watched(pin, thread="t1"))

    trace = finished(pin)
    first, second = trace.spans_of("node")
    go = {"role": "user", "content": "go"}
    assert first.input == {"messages": [go]}
    assert first.output == {"messages": [["assistant", "1"]]}
    assert second.input == {"messages": [go, {"role": "assistant", "content": "1"}]}
    assert second.output == {"messages": [["assistant", "2"]]}
    assert (first.thread_id, second.thread_id) == ("t1", "t1")
    assert counts(trace) == (2, 0, 0)


@pytest.mark.parametrize("mode", LLM_MODES)
def test_a_node_knows_the_checkpoint_it_started_from(provider: Provider, mode: str) -> None:
    agent = agent_of(provider, [SEARCH], ToolCall("search", {"q": "pins"}), checkpointer=InMemorySaver())
    pin = Guard()
    config = watched(pin, thread="t1")

    call(mode, agent, {"messages": [("user", "Find pins.")]}, config)

    started_from = [s.config["configurable"]["checkpoint_id"] for s in agent.get_state_history(config) if s.next]
    nodes = finished(pin).spans_of("node")
    assert [node.name for node in nodes] == ["model", "tools", "model"]
    assert [node.checkpoint_id for node in reversed(nodes)] == started_from[: len(nodes)]


def test_a_graph_that_saves_nothing_has_no_checkpoints(provider: Provider) -> None:
    pin = Guard()

    agent_of(provider, [SEARCH], ToolCall("search", {"q": "pins"})).invoke(
        {"messages": [("user", "Find pins.")]}, watched(pin, thread="t1")
    )

    assert {node.checkpoint_id for node in finished(pin).spans_of("node")} == {None}


def test_a_node_run_from_an_old_checkpoint_does_not_pass_that_one_on_to_the_nodes_after_it() -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("count", count_up)
    builder.add_node("again", count_up)
    builder.add_edge(START, "count")
    builder.add_edge("count", "again")
    graph = builder.compile(checkpointer=InMemorySaver())
    graph.invoke({"messages": [("user", "go")]}, {"configurable": {"thread_id": "t1"}})
    before = next(s for s in graph.get_state_history({"configurable": {"thread_id": "t1"}}) if s.next == ("count",))
    pin = Guard()

    graph.invoke(None, before.config | {"callbacks": watched(pin)["callbacks"]})

    first, second = finished(pin).spans_of("node")
    assert first.checkpoint_id != second.checkpoint_id


def test_unchanged_parts_of_the_state_are_stored_once() -> None:
    big = "word " * 1000
    builder = StateGraph(MessagesState)
    names = [f"n{number}" for number in range(20)]
    for name in names:
        builder.add_node(name, count_up)
    builder.add_edge(START, "n0")
    for before, after in pairwise(names):
        builder.add_edge(before, after)
    pin = Guard()

    builder.compile().invoke({"messages": [("user", big)]}, watched(pin))

    trace = finished(pin)
    assert sum(big in str(body) for body in trace.pool.bodies) <= 2  # as the user gave it, and as a message
    assert len(trace.spans_of("node")[-1].input["messages"]) == 20


# --- decisions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", LLM_MODES)
def test_a_refused_call_is_a_decision_and_no_span(provider: Provider, mode: str) -> None:
    agent = agent_of(provider, [SEARCH], ToolCall("search", {"q": "pins"}, id="call_1"))
    pin = Guard(Budget(tool_calls=0))

    with pytest.raises(BudgetExceededError) as stopped:
        call(mode, agent, {"messages": [("user", "Find pins.")]}, watched(pin))

    trace = finished(pin)
    (decision,) = trace.decisions
    assert (decision.rule, decision.verdict, decision.touched) == ("Budget", "stop", None)
    assert decision.reason == str(stopped.value)
    assert decision.facts == stopped.value.as_dict()
    assert decision.facts["unit"] == "tool_calls"
    assert decision.input == {"kind": "tool", "name": "search", "input": {"q": "pins"}}
    assert decision.start_ns == decision.end_ns
    assert (parent_of(trace, decision).kind, parent_of(trace, decision).name) == ("node", "tools")
    assert decision.cumulative_tokens == trace.usage.total_tokens > 0
    assert (trace.stop.error, trace.stop.rule, trace.stop.span_id) == (stopped.value, "Budget", decision.span_id)
    assert (stopped.value.trace, trace.status, counts(trace)) == (trace, "stopped", (1, 1, 0))
    assert trace.spans_of("tool") == []


@pytest.mark.parametrize("mode", LLM_MODES)
def test_a_warning_is_a_decision_that_touches_the_call_that_caused_it(provider: Provider, mode: str) -> None:
    agent = agent_of(provider, [SEARCH], ToolCall("search", {"q": "pins"}), ToolCall("search", {"q": "bolts"}))
    pin = Guard(Budget(tool_calls=2, warn_at=0.5))

    call(mode, agent, {"messages": [("user", "Find pins.")]}, watched(pin))

    trace = finished(pin)
    (decision,) = trace.decisions
    assert trace.warnings == [decision]
    assert (decision.rule, decision.verdict) == ("Budget", "warn")
    assert decision.touched == trace.spans_of("tool")[0].span_id
    assert decision.facts == {"unit": "tool_calls", "limit": 2, "spent": 1.0, "share": 0.5}
    assert "50%" in decision.reason
    assert trace.status == "ok"


def test_a_stop_knows_the_state_the_run_had_reached(provider: Provider) -> None:
    agent = agent_of(provider, [SEARCH], ToolCall("search", {"q": "pins"}))
    pin = Guard(Budget(llm_calls=1))

    with pytest.raises(BudgetExceededError) as stopped:
        agent.invoke({"messages": [("user", "Find pins.")]}, watched(pin))

    reached = stopped.value.partial["messages"]
    assert [message.type for message in reached] == ["human", "ai", "tool"]
    assert reached[-1].content == "found pins"


# --- who, what, when --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", LLM_MODES)
def test_a_trace_says_whose_it_is(provider: Provider, mode: str) -> None:
    pin = Guard()
    config = watched(
        pin,
        session_id="s1",
        user_id="u1",
        tenant="acme",
        team="blue",
        organization="org",
        task_type="refund",
        version="2.3",
        env="prod",
        ticket=17,
    )

    call(mode, provider.model([reply("Hello")]), "Hi", {**config, "tags": ["beta"]})

    trace = finished(pin)
    assert (trace.session_id, trace.user_id, trace.tenant, trace.team) == ("s1", "u1", "acme", "blue")
    assert (trace.organization, trace.task_type, trace.version, trace.env) == ("org", "refund", "2.3", "prod")
    assert (trace.tags, trace.metadata) == (("beta",), {"ticket": 17})


@pytest.mark.parametrize("mode", LLM_MODES)
@pytest.mark.parametrize(
    ("thread", "given", "session"),
    [("t1", {}, "t1"), ("t1", {"session_id": "s1"}, "s1"), (None, {}, None), (7, {}, "7")],
    ids=["the thread", "what was given wins", "neither", "a thread that is no text"],
)
def test_the_thread_is_the_session_unless_one_is_given(
    provider: Provider, thread: Any, given: dict[str, Any], session: str | None, mode: str
) -> None:
    pin = Guard()
    agent = agent_of(provider, [])

    call(mode, agent, {"messages": [("user", "Hi")]}, watched(pin, thread=thread, **given))

    trace = finished(pin)
    assert trace.session_id == session
    assert trace.metadata == {}


@pytest.mark.parametrize("mode", LLM_MODES)
def test_times_are_in_order(provider: Provider, mode: str) -> None:
    agent = agent_of(provider, [SEARCH], ToolCall("search", {"q": "pins"}))
    pin = Guard()

    call(mode, agent, {"messages": [("user", "Find pins.")]}, watched(pin))

    trace = finished(pin)
    for span in trace.spans[1:]:
        parent = parent_of(trace, span)
        assert parent.start_ns <= span.start_ns <= span.end_ns <= parent.end_ns
    assert trace.started_ns <= trace.spans[0].start_ns <= trace.spans[0].end_ns <= trace.ended_ns


def test_a_run_is_unfinished_and_active_while_it_goes_on(provider: Provider) -> None:
    pin = Guard()
    seen: list[Any] = []

    def look(q: str) -> str:
        (run,) = pin.active
        seen.append((run.trace.status, run.trace.ended_ns, run.usage.total_tokens > 0))
        return "looked"

    agent = agent_of(
        provider,
        [StructuredTool.from_function(look, name="look", description="Looks.")],
        ToolCall("look", {"q": "x"}),
    )

    agent.invoke({"messages": [("user", "Look.")]}, watched(pin))

    assert seen == [("unfinished", None, True)]
    assert finished(pin).status == "ok"


def test_a_call_that_was_cancelled_is_closed_and_charged_at_its_estimate(provider: Provider) -> None:
    pin, asked = Guard(prices=PRICES), threading.Event()

    def script(_: Request) -> Reply:
        asked.set()
        return reply("never", delay=5)

    async def main() -> None:
        agent = create_agent(provider.model(script, max_tokens=50), [])
        task = asyncio.create_task(acall("ainvoke", agent, {"messages": [("user", "Hi")]}, watched(pin)))
        await asyncio.to_thread(asked.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    trace = finished(pin)
    span = only(trace, "llm")
    assert (trace.status, span.status, span.usage_estimated) == ("cancelled", "cancelled", True)
    assert span.usage.output_tokens == 50
    assert trace.usage.cost_usd > 0


def test_a_stream_left_by_its_reader_is_closed_and_charged(provider: Provider) -> None:
    model = provider.model([reply("one two three four", chunks=4, chunk_delay=0.01)])
    pin = Guard(prices=PRICES)

    for _ in model.stream("Count.", watched(pin)):
        break

    trace = finished(pin)
    span = only(trace, "llm")
    assert (span.status, trace.status) == ("cancelled", "cancelled")
    assert span.usage_estimated is True
    assert trace.usage.cost_usd > 0


def test_two_runs_of_one_handler_are_two_traces(provider: Provider) -> None:
    model = provider.model([reply("one"), tool_call("search", {"q": "x"})])
    pin = Guard()
    config = watched(pin)

    model.invoke("1?", config)
    model.invoke("2?", config)

    first, second = pin.traces
    assert first.trace_id != second.trace_id
    assert {span.span_id for span in first.spans} & {span.span_id for span in second.spans} == set()
    for trace in pin.traces:
        assert_complete(trace)


# --- usage that is told wrong -----------------------------------------------------------------------------------------


class Telling(BaseChatModel):
    """A model of the user's own that tells its usage as it likes."""

    usage: Any = None

    @property
    def _llm_type(self) -> str:
        return "telling"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        message = AIMessage("Hello").model_copy(update={"usage_metadata": self.usage})
        return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), "many"])
def test_of_usage_that_is_told_by_half_the_other_half_is_estimated(missing: Any) -> None:
    pin = Guard()

    Telling(usage={"input_tokens": missing, "output_tokens": 5, "total_tokens": 5}).invoke("Hi " * 500, watched(pin))

    assert finished(pin).usage.input_tokens > 100


@pytest.mark.parametrize("details", [{"audio": "x"}, [1], {"cache_read": None}, "x"])
@pytest.mark.parametrize("half", ["input_token_details", "output_token_details"])
def test_a_broken_detail_spoils_no_usage(half: str, details: Any) -> None:
    pin = Guard()

    Telling(usage={"input_tokens": 100, "output_tokens": 5, "total_tokens": 105, half: details}).invoke(
        "Hi", watched(pin)
    )

    trace = finished(pin)
    assert (trace.usage.input_tokens, trace.usage.output_tokens) == (100, 5)
    assert (trace.status, trace.spans_of("llm")[0].status) == ("ok", "ok")
