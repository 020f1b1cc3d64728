"""What a run leaves: agents, hand-offs, steps, model calls and tools, with all that the SDK tells of them."""

from typing import Any

import openai
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    ModelSettings,
    OpenAIProvider,
    OpenAIResponsesModel,
    RunConfig,
    SQLiteSession,
    UserError,
    WebSearchTool,
    function_tool,
    handoff,
    input_guardrail,
    output_guardrail,
)
from pydantic import BaseModel

from shearpin import Budget, BudgetExceededError, LoopBreaker, LoopDetectedError, Trace, current_run
from shearpin.testing import Reply, Request, Tokens, reply, tool_call, tool_calls
from tests.integrations.openai_agents.conftest import (
    MakeAgent,
    MakeAgentOver,
    MakeGuard,
    Serve,
    counts,
    finished,
    outline,
    parent_of,
    run,
    tool_of,
)

MODES = ("run", "run_streamed")


@pytest.mark.parametrize("mode", ["run", "run_streamed", "run_sync"])
def test_a_run_of_two_turns(serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str) -> None:
    server, pin = serve([tool_call("search", {"q": "x"}), reply("Hi")]), guarded()
    run(agent(server, tool_of([]), instructions="Be brief."), pin, mode)
    trace = finished(pin)
    assert outline(trace) == [("agent", "assistant"), ("llm", "gpt-4o"), ("tool", "search"), ("llm", "gpt-4o")]
    assert counts(trace) == (2, 2, 1)
    assert [span.step for span in trace.spans] == [0, 1, 1, 2]
    assert {span.agent for span in trace.spans} == {"assistant"}
    assert {parent_of(trace, span) for span in trace.spans[1:]} == {"assistant"}
    assert (trace.input, trace.output, trace.name, trace.status) == ("Hello?", "Hi", "assistant", "ok")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_model_call_has_all_its_fields(
    serve: Serve, speaking: MakeAgentOver, guarded: MakeGuard, api: str, mode: str
) -> None:
    server = serve([tool_call("search", {"q": "x"}, reasoning="Hm."), reply("Hi", usage=Tokens(50, 5))])
    pin = guarded()
    settings = ModelSettings(temperature=0.3, max_tokens=99, include_usage=True)
    asked = speaking(api, server, tool_of([]), instructions="Be brief.", model_settings=settings)
    run(asked, pin, mode)
    first, last = finished(pin).spans_of("llm")
    assert (first.provider, first.request_model, first.temperature, first.max_tokens) == ("openai", "gpt-4o", 0.3, 99)
    (called,) = first.tool_calls
    assert (called["name"], called["arguments"]) == ("search", {"q": "x"})
    assert first.reasoning == "Hm."
    assert first.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    assert [tool["function"]["name"] for tool in first.tools] == ["search"]
    assert first.tools[0]["function"]["parameters"]["properties"]["q"]["type"] == "string"
    assert last.messages[2]["tool_calls"] == [called]
    assert last.messages[3] == {"role": "tool", "content": "found x", "tool_call_id": called["id"]}
    assert (last.reply, last.usage.total_tokens) == ("Hi", 55)
    assert last.price_source
    (tool,) = finished(pin).spans_of("tool")
    assert (tool.call_id, tool.arguments, tool.result) == (called["id"], {"q": "x"}, "found x")
    if api == "responses":
        assert (last.response_id or "").startswith("resp_")
    elif mode == "run":
        assert (last.response_id or "").startswith("chatcmpl-")


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_that_ends_the_run_is_recorded_with_its_error(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    class RefusedError(Exception):
        status_code = 503

    @function_tool(failure_error_function=None)
    async def fetch(q: str) -> str:
        raise RefusedError(q)

    pin = guarded()
    with pytest.raises(UserError, match="Error running tool fetch"):
        run(agent(serve([tool_call("fetch", {"q": "a"})]), fetch), pin, mode)
    (span,) = finished(pin).spans_of("tool")
    assert (span.status, span.http_status, span.error.type, span.error.message) == ("error", 503, "RefusedError", "a")
    assert finished(pin).status == "error"


def test_a_tool_that_fails_is_an_error_though_the_model_reads_a_text(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    def fail(q: str) -> str:
        raise ValueError("no such thing")

    server, pin = serve([tool_call("search", {"q": "x"}), reply("Hi")]), guarded()
    run(agent(server, tool_of([], body=fail)), pin)
    (tool,) = finished(pin).spans_of("tool")
    assert tool.status == "error"
    assert "An error occurred" in str(tool.result)
    assert finished(pin).status == "ok"


# --- agents and hand-offs


def desk(serve: Serve, agent: MakeAgent, script: Any) -> Agent[Any]:
    server = serve(script)
    billing = agent(server, name="billing")
    support = agent(server, name="support", handoffs=[billing])
    billing.handoffs = [support]
    return support


def once(request: Request) -> Reply:
    return tool_call("transfer_to_billing", usage=(10, 5)) if request.turn == 0 else reply("Paid", usage=(10, 5))


@pytest.mark.parametrize("mode", MODES)
def test_a_hand_off_is_a_span_and_the_taker_has_its_own(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    pin = guarded()
    run(desk(serve, agent, once), pin, mode)
    trace = finished(pin)
    assert outline(trace) == [
        ("agent", "support"),
        ("llm", "gpt-4o"),
        ("handoff", "support -> billing"),
        ("agent", "billing"),
        ("llm", "gpt-4o"),
    ]
    assert [span.agent for span in trace.spans] == ["support", "support", "support", "billing", "billing"]
    assert counts(trace) == (2, 2, 0)
    assert trace.spans[3].output == "Paid"


def test_the_reason_for_a_hand_off_is_told(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    class Why(BaseModel):
        reason: str

    async def note(context: Any, why: Why) -> None:
        """Nothing to do."""

    server = serve([tool_call("transfer_to_billing", {"reason": "money"}), reply("Paid")])
    pin = guarded()
    taker = handoff(agent(server, name="billing"), on_handoff=note, input_type=Why)
    run(agent(server, name="support", handoffs=[taker]), pin)
    (span,) = finished(pin).spans_of("handoff")
    assert span.input == {"from": "support", "to": "billing", "reason": "money"}


@pytest.mark.parametrize("mode", MODES)
def test_hand_off_ping_pong_is_a_loop(serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str) -> None:
    def script(request: Request) -> Reply:
        names = [tool["function"]["name"] for tool in request.tools]
        return tool_call(names[0])

    pin = guarded(LoopBreaker())
    with pytest.raises(LoopDetectedError):
        run(desk(serve, agent, script), pin, mode, max_turns=50)
    assert 4 <= len(finished(pin).spans_of("handoff")) <= 8


def test_a_refused_hand_off_starts_nobody(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    pin = guarded(Budget(llm_calls=1))
    with pytest.raises(BudgetExceededError):
        run(desk(serve, agent, once), pin)
    assert finished(pin).llm_calls == 1


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_used_as_a_tool_is_an_agent_in_a_tool(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    inner = serve([tool_call("search", {"q": "x"}), reply("Helped")])
    outer = serve([tool_call("help", {"input": "please"}), reply("Done")])
    helper = agent(inner, tool_of([]), name="helper")
    pin = guarded()
    run(agent(outer, helper.as_tool("help", "Helps."), name="boss"), pin, mode)
    trace = finished(pin)
    assert outline(trace) == [
        ("agent", "boss"),
        ("llm", "gpt-4o"),
        ("tool", "help"),
        ("agent", "helper"),
        ("llm", "gpt-4o"),
        ("tool", "search"),
        ("llm", "gpt-4o"),
        ("llm", "gpt-4o"),
    ]
    assert parent_of(trace, trace.spans[3]) == "help"
    assert [span.agent for span in trace.spans[4:7]] == ["helper"] * 3
    assert (trace.spans[3].input, trace.spans[3].output, trace.spans[2].output) == ("please", "Helped", "Helped")
    assert counts(trace) == (4, 4, 2)


def test_parallel_tool_agents_are_each_in_their_own_tool(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    outer = serve([tool_calls([(f"help{n}", {"input": "x"}) for n in range(3)]), reply("Done")])
    inner = serve(lambda _: reply("Helped", delay=0.02))
    helpers = [agent(inner, name=f"helper{n}").as_tool(f"help{n}", "Helps.") for n in range(3)]
    pin = guarded()
    run(agent(outer, *helpers, name="boss"), pin)
    agents = [span for span in finished(pin).spans_of("agent") if span.name != "boss"]
    assert {span.name: parent_of(finished(pin), span) for span in agents} == {
        f"helper{n}": f"help{n}" for n in range(3)
    }


def test_code_in_a_tool_is_in_its_span(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    pin = guarded()
    seen: list[Any] = []

    @pin.tool
    def fetch(url: str) -> str:
        seen.append(current_run())
        return url

    @function_tool
    def search(q: str) -> str:
        return fetch(q)

    server = serve([tool_calls([("search", {"q": "a"}), ("search", {"q": "b"})]), reply("Hi")])
    run(agent(server, search), pin)
    trace = finished(pin)
    inner = [span for span in trace.spans_of("tool") if span.name == "fetch"]
    by_id = {span.span_id: span for span in trace.spans}
    assert [by_id[span.parent_id or ""].input for span in inner] == [{"q": span.input["url"]} for span in inner]  # type: ignore[index, call-overload]
    assert seen[0].trace is trace
    assert trace.tool_calls == 4


def test_a_run_inside_a_run_of_ones_own_is_its_child(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve(lambda _: reply("Hi")), guarded()
    with pin.run("evening", session_id="s1"):
        run(agent(server), pin)
        run(agent(server), pin)
    trace = finished(pin)
    assert [name for kind, name in outline(trace) if kind == "agent"] == ["evening", "assistant", "assistant"]
    assert (trace.session_id, trace.llm_calls) == ("s1", 2)


# --- who


def test_identity_is_in_the_metadata_of_the_trace(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve([reply("Hi")]), guarded()
    facts = {"user_id": "u1", "tenant": "acme", "team": "t", "env": "prod", "version": "2", "tags": ["a"], "mine": 1}
    config = RunConfig(workflow_name="support desk", group_id="s1", trace_metadata=facts)
    run(agent(server), pin, run_config=config)
    trace = finished(pin)
    assert (trace.session_id, trace.user_id, trace.tenant, trace.team) == ("s1", "u1", "acme", "t")
    assert (trace.env, trace.version, list(trace.tags), trace.metadata) == ("prod", "2", ["a"], {"mine": 1})
    assert trace.name == "support desk"
    assert outline(trace)[:2] == [("agent", "support desk"), ("agent", "assistant")]
    assert trace.spans_of("llm")[0].agent == "assistant"


@pytest.mark.parametrize(
    "case",
    [
        ({"group_id": "g", "trace_metadata": {"session_id": "m"}}, "s", "m"),
        ({"group_id": "g"}, "s", "g"),
        ({}, "s", "s"),
        ({}, None, None),
    ],
)
def test_the_session_is_the_group_by_default(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, case: tuple[Any, ...]
) -> None:
    config, session, expected = case
    server, pin = serve([reply("Hi")]), guarded()
    kept = SQLiteSession(session) if session else None
    run(agent(server), pin, run_config=config, session=kept)
    if kept is not None:
        kept.close()
    assert finished(pin).session_id == expected


# --- models by other names


@pytest.mark.parametrize("mode", MODES)
def test_the_model_is_what_is_asked_whatever_names_it(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, client: openai.AsyncOpenAI, mode: str
) -> None:
    server = serve(lambda _: reply("Hi"))
    provider = OpenAIProvider(openai_client=client.with_options(base_url=server.base_url), use_responses=False)
    for model, config in (
        ("gpt-4o-mini", RunConfig(model_provider=provider)),
        ("other", RunConfig(model="gpt-4o-mini", model_provider=provider)),
        (agent(server).model, RunConfig(model="gpt-4o-mini", model_provider=provider)),
        (None, RunConfig(model_provider=provider)),
    ):
        pin = guarded()
        run(Agent(name="a", model=model), pin, mode, run_config=config)
        (span,) = finished(pin).spans_of("llm")
        assert span.request_model == server.requests[-1].model
        assert span.provider == "openai"


# --- tools that ran at the provider


@pytest.mark.parametrize("mode", MODES)
def test_a_web_search_is_a_tool_that_ran_at_the_provider(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, client: openai.AsyncOpenAI, mode: str
) -> None:
    server, pin = serve([reply("Found", searches=["pins", "shear"])]), guarded()
    asked = agent(server, WebSearchTool())
    asked.model = OpenAIResponsesModel("gpt-4o", client.with_options(base_url=server.base_url))
    run(asked, pin, mode)
    trace = finished(pin)
    assert [span.name for span in trace.spans_of("tool")] == ["web_search", "web_search"]
    assert [span.attributes for span in trace.spans_of("tool")] == [{"ran_at_provider": True}] * 2
    assert "pins" in str(trace.spans_of("tool")[0].input)
    assert counts(trace) == (1, 1, 2)
    assert trace.spans_of("llm")[0].tool_calls == []


@pytest.mark.parametrize("mode", MODES)
def test_what_ran_at_the_provider_counts_and_stops_the_run_after_it(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, client: openai.AsyncOpenAI, mode: str
) -> None:
    ran: list[str] = []
    answer = tool_calls([("search", {"q": "x"})], searches=["a", "b", "c"])
    server, pin = serve([answer]), guarded(Budget(tool_calls=2))
    asked = agent(server, WebSearchTool(), tool_of(ran))
    asked.model = OpenAIResponsesModel("gpt-4o", client.with_options(base_url=server.base_url))
    with pytest.raises(BudgetExceededError):
        run(asked, pin, mode)
    assert ran == []
    assert finished(pin).tool_calls == 2


# --- guardrails


@pytest.mark.parametrize("mode", MODES)
def test_guardrails_are_spans(serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str) -> None:
    @input_guardrail(name="polite")
    async def polite(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info="fine", tripwire_triggered=False)

    @output_guardrail(name="short")
    async def short(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info={"words": 1}, tripwire_triggered=False)

    server, pin = serve([reply("Hi")]), guarded()
    run(agent(server, input_guardrails=[polite], output_guardrails=[short]), pin, mode)
    spans = finished(pin).spans_of("guardrail")
    assert [(span.name, span.status, span.output) for span in spans] == [
        ("polite", "ok", "fine"),
        ("short", "ok", {"words": 1}),
    ]


# --- files


def test_a_trace_is_the_same_from_its_file(serve: Serve, agent: MakeAgent, guarded: MakeGuard, tmp_path: Any) -> None:
    from shearpin_exporters.files import JSONLinesExporter

    path = tmp_path / "runs.jsonl"
    pin = guarded(exporters=[JSONLinesExporter(path)])
    run(desk(serve, agent, once), pin)
    loaded = Trace.load(path, finished(pin).trace_id)
    assert outline(loaded) == outline(finished(pin))
    assert counts(loaded) == (2, 2, 0)
