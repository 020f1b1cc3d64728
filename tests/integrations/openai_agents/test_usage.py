"""What a run is charged: what the server counted, or what was reserved where nobody knows."""

import asyncio
from typing import Any

import openai
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrailTripwireTriggered,
    ModelBehaviorError,
    ModelSettings,
    OpenAIChatCompletionsModel,
    input_guardrail,
    retry_policies,
)
from agents.model_settings import ModelRetrySettings
from agents.run import RunConfig

from shearpin import Budget, BudgetExceededError, RunStoppedError
from shearpin.testing import Reply, Request, Tokens, ToolCall, error, hang, reply, tool_call, tool_calls
from tests.integrations.openai_agents.conftest import (
    MakeAgent,
    MakeAgentOver,
    MakeGuard,
    Serve,
    arun,
    counts,
    finished,
    run,
    tool_of,
)

APIS = ("chat", "responses")


USED = [Tokens(1_000, 100, cached=600, reasoning=40), Tokens(1_200, 50, cached=900)]


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
@pytest.mark.parametrize("api", APIS)
def test_usage_is_what_the_server_counted(
    serve: Serve, speaking: MakeAgentOver, guarded: MakeGuard, api: str, mode: str
) -> None:
    server = serve([tool_call("search", {"q": "x"}, usage=USED[0]), reply("Hi", usage=USED[1])])
    pin = guarded(Budget(usd=1))
    asked = speaking(api, server, tool_of([]), model_settings=ModelSettings(include_usage=True))
    run(asked, pin, mode)
    usage = finished(pin).usage
    assert (usage.input_tokens, usage.output_tokens) == server.usage[:2] == (2_200, 150)
    assert (usage.cached_input_tokens, usage.reasoning_tokens) == (1_500, 40)
    assert usage.cost_usd == pytest.approx((700 * 2.5 + 1_500 * 1.25 + 150 * 10) / 1e6)
    assert [span.usage_estimated for span in finished(pin).spans_of("llm")] == [False, False]


@pytest.mark.parametrize("usage", [None, (0, 0)])
def test_a_call_without_usage_is_charged_at_what_was_reserved(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, usage: Any
) -> None:
    server, pin = serve([reply("Hi", usage=usage)]), guarded(Budget(usd=1))
    run(agent(server), pin)
    (span,) = finished(pin).spans_of("llm")
    assert span.usage_estimated
    assert span.usage.output_tokens == 512


def test_a_streamed_chat_that_tells_no_usage_is_not_free(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    ran: list[str] = []
    server = serve(lambda request: tool_call("search", {"q": str(request.turn)}))
    pin = guarded(Budget(tokens=2_500))
    with pytest.raises(BudgetExceededError):
        run(agent(server, tool_of(ran)), pin, "run_streamed")
    assert server.served == 3
    assert all(span.usage_estimated for span in finished(pin).spans_of("llm"))


def test_max_tokens_is_what_is_reserved(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve([reply("Hi")]), guarded(Budget(output_tokens=1_000))
    with pytest.raises(BudgetExceededError):
        run(agent(server, model_settings=ModelSettings(max_tokens=1_001)), pin)
    assert server.served == 0


def test_the_settings_of_the_run_win_over_those_of_the_agent(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    server, pin = serve([reply("Hi")]), guarded(Budget(output_tokens=1_000))
    settings = ModelSettings(max_tokens=10, temperature=0.5, extra_args={"seed": 7})
    asked = agent(server, model_settings=ModelSettings(max_tokens=1_001))
    run(asked, pin, run_config=RunConfig(model_settings=settings))
    (span,) = finished(pin).spans_of("llm")
    assert (span.max_tokens, span.temperature, span.seed) == (10, 0.5, 7)
    assert server.requests[0].body["max_tokens"] == 10


# --- calls that fail


def test_a_request_that_failed_is_given_back(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve([error(500)]), guarded(Budget(usd=1))
    with pytest.raises(openai.InternalServerError):
        run(agent(server), pin)
    (span,) = finished(pin).spans_of("llm")
    assert (span.status, span.error.type) == ("error", "InternalServerError")
    assert finished(pin).status == "error"
    assert finished(pin).usage.total_tokens == 0


def test_the_clients_own_retries_are_one_call(serve: Serve, guarded: MakeGuard, client: openai.AsyncOpenAI) -> None:
    server, pin = serve([error(500), error(500), reply("Hi")]), guarded(Budget(llm_calls=1))
    patient = client.with_options(base_url=server.base_url, max_retries=2)
    asked = Agent(name="assistant", model=OpenAIChatCompletionsModel("gpt-4o", patient))
    assert run(asked, pin).final_output == "Hi"
    assert counts(finished(pin)) == (1, 1, 0)


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
def test_retries_of_the_sdk_ask_the_guard_once(serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str) -> None:
    server, pin = serve([error(500), error(500), reply("Hi")]), guarded(Budget(llm_calls=1))
    retry = ModelRetrySettings(
        max_retries=5,
        backoff={"initial_delay": 0.01},
        policy=retry_policies.http_status([500]),  # type: ignore[arg-type]
    )
    assert run(agent(server, model_settings=ModelSettings(retry=retry)), pin, mode).final_output == "Hi"
    assert counts(finished(pin)) == (1, 1, 0)


def test_a_stop_is_not_retried(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve([reply("Hi")]), guarded(Budget(llm_calls=0))
    retry = ModelRetrySettings(max_retries=5, policy=lambda _: True)
    with pytest.raises(BudgetExceededError):
        run(agent(server, model_settings=ModelSettings(retry=retry)), pin)
    assert (server.served, len(finished(pin).decisions)) == (0, 1)


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
def test_an_answer_that_the_sdk_rejects_is_charged_all_the_same(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    def script(request: Request) -> Reply:
        return tool_calls([ToolCall("search", {"q": str(request.turn)}, "same")], usage=(100, 20))

    server, pin = serve(script), guarded(Budget(usd=1))
    asked = agent(server, tool_of([]), model_settings=ModelSettings(include_usage=True))
    with pytest.raises(ModelBehaviorError):
        run(asked, pin, mode)
    usage = finished(pin).usage
    assert (usage.input_tokens, usage.output_tokens) == server.usage[:2]
    assert server.served == finished(pin).llm_calls == 2


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
def test_an_unknown_tool_is_the_sdks_own_error(serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str) -> None:
    server, pin = serve([tool_call("nothing")]), guarded()
    with pytest.raises(ModelBehaviorError):
        run(agent(server), pin, mode)
    assert finished(pin).status == "error"
    assert counts(finished(pin)) == (1, 1, 0)


async def test_a_provider_that_hangs_is_given_up_and_charged(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    server, pin = serve([hang()]), guarded(Budget(usd=1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await arun(agent(server), pin)
    (span,) = finished(pin).spans_of("llm")
    assert span.status == "cancelled"
    assert span.usage_estimated


@pytest.mark.skipif("timeout" not in ModelSettings.__dataclass_fields__, reason="this version has no such deadline")
@pytest.mark.parametrize("mode", ["run", "run_streamed"])
def test_the_sdks_own_deadline_charges_what_was_given_up(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    server, pin = serve([hang()]), guarded(Budget(usd=1))
    settings = ModelSettings(timeout=0.1)
    with pytest.raises(Exception, match="timed out") as late:
        run(agent(server, model_settings=settings), pin, mode)
    assert type(late.value).__name__ == "ModelTimeoutError"
    (span,) = finished(pin).spans_of("llm")
    assert span.usage_estimated
    assert finished(pin).status == "error"


def test_a_guard_that_observes_stops_nothing(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    ran: list[str] = []
    server = serve([tool_calls([("search", {"q": "a"}), ("search", {"q": "b"})]), reply("Hi")])
    pin = guarded(Budget(llm_calls=1, tool_calls=1), mode="observe")
    assert run(agent(server, tool_of(ran)), pin).final_output == "Hi"
    assert sorted(ran) == ["a", "b"]
    assert finished(pin).status == "ok"
    assert len([decision for decision in finished(pin).decisions if decision.verdict == "stop"]) == 1


# --- guardrails beside a model call


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
def test_a_model_call_that_a_guardrail_cancels_is_charged_and_leaks_nothing(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    @input_guardrail(name="strict")
    async def strict(*_: Any) -> GuardrailFunctionOutput:
        await asyncio.sleep(0.05)
        return GuardrailFunctionOutput(output_info="no", tripwire_triggered=True)

    server, pin = serve([reply("late", delay=0.5)]), guarded(Budget(usd=1))
    with pytest.raises(InputGuardrailTripwireTriggered):
        run(agent(server, input_guardrails=[strict]), pin, mode)
    trace = finished(pin)
    (span,) = trace.spans_of("llm")
    assert span.usage_estimated
    assert trace.status == "error"
    (guardrail,) = trace.spans_of("guardrail")
    assert (guardrail.name, guardrail.status, guardrail.output) == ("strict", "error", "no")


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
def test_a_guardrail_that_goes_first_costs_no_model_call(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str
) -> None:
    @input_guardrail(run_in_parallel=False)
    async def strict(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info="no", tripwire_triggered=True)

    server, pin = serve([reply("Hi")]), guarded()
    with pytest.raises(InputGuardrailTripwireTriggered):
        run(agent(server, input_guardrails=[strict]), pin, mode)
    assert (server.served, finished(pin).llm_calls) == (0, 0)


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
def test_a_stop_wins_over_a_slow_guardrail(serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str) -> None:
    @input_guardrail
    async def slow(*_: Any) -> GuardrailFunctionOutput:
        await asyncio.sleep(0.3)
        return GuardrailFunctionOutput(output_info="no", tripwire_triggered=True)

    server, pin = serve([reply("Hi")]), guarded(Budget(llm_calls=0))
    with pytest.raises(BudgetExceededError):
        run(agent(server, input_guardrails=[slow]), pin, mode)
    assert server.served == 0


# --- the SDK's own trace


def test_budgets_need_no_tracing_of_the_sdks(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server = serve(lambda request: tool_call("search", {"q": str(request.turn)}))
    for config in (RunConfig(tracing_disabled=True), RunConfig(trace_include_sensitive_data=False)):
        server.reset()
        pin = guarded(Budget(llm_calls=2))
        with pytest.raises(RunStoppedError):
            run(agent(server, tool_of([])), pin, run_config=config)
        assert server.served == 2
        assert [span.input for span in finished(pin).spans_of("tool")] == [{"q": "0"}, {"q": "1"}]


def test_an_unknown_price_is_refused_before_the_first_call(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve([reply("Hi")]), guarded(Budget(usd=1))
    asked = agent(server)
    asked.model.model = "no-such-model"  # type: ignore[union-attr]
    with pytest.raises(BudgetExceededError) as stopped:
        run(asked, pin)
    assert (server.served, stopped.value.estimate) == (0, None)
