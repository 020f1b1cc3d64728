"""What a trace tells of a crew."""

from typing import Any

import pytest
from crewai import Crew

from shearpin import Budget, BudgetExceededError, Guard
from shearpin.testing import Tokens, endless, error, per_conversation, reply, tool_call, tool_calls
from shearpin_integrations.crewai import attach
from tests.integrations.crewai.conftest import (
    MakeGuard,
    Search,
    Serve,
    a_crew,
    a_task,
    an_agent,
    llm,
    react_answer,
    react_call,
    thinking,
)


def test_a_model_call_is_told_in_full(serve: Serve, guarded: MakeGuard):
    usage = Tokens(100, 20, cached=60, reasoning=5)
    server = serve([tool_call("search", {"q": "pins"}, usage=usage), reply("done")])
    pin = guarded()
    attach(a_crew(llm(server, temperature=0.2, max_tokens=50, seed=7), Search()), pin).kickoff()
    first, second = pin.traces[-1].spans_of("llm")
    assert (first.provider, first.request_model, first.temperature, first.max_tokens, first.seed) == (
        "openai",
        "gpt-4o-mini",
        0.2,
        50,
        7,
    )
    assert (first.finish_reason, bool(first.response_id), first.reply) == ("tool_calls", True, None)
    (asked,) = first.tool_calls
    assert (asked["name"], asked["arguments"]) == ("search", {"q": "pins"})
    assert (first.usage.cached_input_tokens, first.usage.reasoning_tokens) == (60, 5)
    assert first.usage.cost_usd > 0
    assert first.price_source
    assert (second.reply, second.finish_reason) == ("done", "stop")
    sent = server.requests[1].messages
    assert [message["role"] for message in second.messages] == [message["role"] for message in sent]
    (call,) = second.messages[-2]["tool_calls"]
    assert call == asked
    assert (second.messages[-1]["content"], second.messages[-1]["tool_call_id"]) == ("found pins", asked["id"])


@pytest.mark.slow
def test_the_tools_a_model_was_offered_are_told_as_deep_as_they_are(serve: Serve, guarded: MakeGuard):
    server, pin = serve([reply("done")]), guarded()
    attach(a_crew(llm(server), Search()), pin).kickoff()
    (tool,) = pin.traces[-1].spans_of("llm")[0].tools
    assert tool["function"]["parameters"]["properties"]["q"]["type"] == "string"


def test_a_tool_call_is_told_in_full_and_joined_to_who_asked_for_it(serve: Serve, guarded: MakeGuard):
    calls = [("search", {"q": "a"}), ("search", {"q": "a"}), ("search", {"q": "b"})]
    server, pin = serve([tool_calls(calls), reply("done")]), guarded()
    attach(a_crew(llm(server), Search(body=lambda q: {"found": q})), pin).kickoff()
    trace = pin.traces[-1]
    asked = [call["id"] for call in trace.spans_of("llm")[0].tool_calls]
    tools = trace.spans_of("tool")
    assert sorted(tool.call_id for tool in tools) == sorted(asked)
    assert {(tool.name, tool.step, tool.status, tool.agent) for tool in tools} == {("search", 1, "ok", "researcher")}
    assert sorted((tool.arguments["q"], tool.result["found"]) for tool in tools) == [("a", "a"), ("a", "a"), ("b", "b")]
    assert trace.steps == 2


@pytest.mark.slow
def test_a_tool_that_raises_is_an_error(serve: Serve, guarded: MakeGuard):
    def fail(_: str) -> str:
        raise LookupError("no such pin")

    server, pin = serve([tool_call("search", {"q": "a"}), reply("done")]), guarded()
    attach(a_crew(llm(server), Search(body=fail)), pin).kickoff()
    (tool,) = pin.traces[-1].spans_of("tool")
    assert (tool.status, tool.error.type, tool.error.message) == ("error", "LookupError", "no such pin")
    assert "no such pin" in tool.result


@pytest.mark.slow
def test_a_tool_that_answers_from_the_cache_is_a_call(serve: Serve, guarded: MakeGuard):
    server = serve([tool_call("search", {"q": "a"}), tool_call("search", {"q": "a"}), reply("done")])
    pin, search = guarded(), Search()
    attach(a_crew(llm(server), search, crew={"cache": True}), pin).kickoff()
    assert [tool.result for tool in pin.traces[-1].spans_of("tool")] == ["found a", "found a"]


@pytest.mark.slow
def test_a_tool_nobody_has_is_recorded_as_crewai_answers_it(serve: Serve, guarded: MakeGuard):
    server, pin = serve([tool_call("dig", {"q": "a"}), reply("done")]), guarded()
    attach(a_crew(llm(server), Search()), pin).kickoff()
    (tool,) = pin.traces[-1].spans_of("tool")
    assert (tool.name, "not found" in tool.result) == ("dig", True)


@pytest.mark.slow
def test_an_agent_that_thinks_aloud_has_the_same_tree(serve: Serve, guarded: MakeGuard):
    native, aloud = guarded(), guarded()
    server = serve(per_conversation([tool_call("search", {"q": "pins"}), reply("done")]))
    attach(a_crew(llm(server), Search()), native).kickoff()
    server = serve(
        lambda r: react_answer("done") if "found pins" in str(r.messages) else react_call("search", q="pins")
    )
    attach(a_crew(thinking(server), Search()), aloud).kickoff()

    def shape(pin: Guard) -> Any:
        return [
            (span.kind, span.name, span.agent, span.step, span.status)
            for span in pin.traces[-1].spans
            if span.kind != "llm"
        ]

    assert shape(native) == shape(aloud)
    assert native.traces[-1].steps == aloud.traces[-1].steps == 2


@pytest.mark.slow
def test_every_try_of_a_tool_that_thinks_aloud_is_a_call(serve: Serve, guarded: MakeGuard):
    def fail(_: str) -> str:
        raise LookupError("no such pin")

    server = serve(
        lambda r: react_answer("done") if "no such pin" in str(r.messages) else react_call("search", q="pins")
    )
    pin, search = guarded(), Search(body=fail)
    attach(a_crew(thinking(server), search), pin).kickoff()
    tools = pin.traces[-1].spans_of("tool")
    assert {tool.status for tool in tools} == {"error"}
    assert len(tools) == 3
    with pytest.raises(BudgetExceededError):
        attach(a_crew(thinking(server), search), guarded(Budget(tool_calls=2))).kickoff()


def test_a_refused_call_is_a_decision_and_no_span(serve: Serve, guarded: MakeGuard):
    server, pin = serve(endless("search", {"q": "pins"})), guarded(Budget(tool_calls=1))
    with pytest.raises(BudgetExceededError):
        attach(a_crew(llm(server), Search()), pin).kickoff()
    trace = pin.traces[-1]
    assert [
        (span.rule.lower(), span.verdict, span.input["name"]) for span in trace.decisions if span.verdict == "stop"
    ] == [("budget", "stop", "search")]
    assert len(trace.spans_of("tool")) == trace.tool_calls == 1
    assert {span.status for span in trace.spans if span.kind in ("agent", "node")} == {"stopped"}


@pytest.mark.slow
def test_tasks_follow_each_other_in_one_tree(serve: Serve, guarded: MakeGuard):
    server, pin = serve([reply("one"), reply("two")]), guarded()
    first, second = an_agent(llm(server), role="first"), an_agent(llm(server), role="second")
    crew = Crew(agents=[first, second], tasks=[a_task(first, "dig", name="digging"), a_task(second, "sift")])
    attach(crew, pin).kickoff()
    trace = pin.traces[-1]
    spans = {span.span_id: span for span in trace.spans}
    lineage = [[span.name, spans[span.parent_id].name] for span in trace.spans if span.parent_id and span.kind != "llm"]
    assert lineage == [["digging", "crew"], ["first", "digging"], ["sift", "crew"], ["second", "sift"]]
    assert [span.output for span in trace.spans_of("node")] == ["one", "two"]
    assert trace.spans_of("node")[1].input["context"] == "one"


@pytest.mark.slow
def test_tries_that_the_provider_throttled_are_calls_that_cost_nothing(serve: Serve, guarded: MakeGuard):
    server = serve([error(429, retry_after=0.01), reply("done", usage=(10, 5))])
    pin = guarded()
    attach(a_crew(llm(server)), pin).kickoff()
    assert [call.status for call in pin.traces[-1].spans_of("llm")] == ["error", "ok"]
    assert pin.traces[-1].usage.total_tokens == 15


@pytest.mark.slow
def test_the_users_own_callbacks_are_kept(serve: Serve, guarded: MakeGuard):
    seen: list[str] = []
    server = serve(per_conversation([tool_call("search", {"q": "pins"}), reply("done")]))
    crew = a_crew(
        llm(server),
        Search(),
        crew={"step_callback": lambda _: seen.append("step"), "task_callback": lambda _: seen.append("task")},
    )
    attach(crew, guarded()).kickoff()
    assert set(seen) == {"step", "task"}
