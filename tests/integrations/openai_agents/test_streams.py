"""Streams: a run goes on whether it is watched or not, and so does the guard."""

import asyncio
import gc
from typing import Any

import pytest
from agents import MaxTurnsExceeded, ModelSettings, Runner

from shearpin import Budget, BudgetExceededError, RunStoppedError
from shearpin.testing import Reply, Request, reply, tool_call
from shearpin_integrations.openai_agents import ShearpinRunHooks
from tests.integrations.openai_agents.conftest import (
    MakeAgent,
    MakeAgentOver,
    MakeGuard,
    Serve,
    consume,
    finished,
    run,
    tool_of,
    until,
)


def searching(request: Request) -> Reply:
    return tool_call("search", {"q": str(request.turn)})


async def test_the_stop_comes_out_of_the_events_each_time_they_are_asked_for(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    server, pin = serve(searching), guarded(Budget(llm_calls=2))
    result = Runner.run_streamed(agent(server, tool_of([])), "x", hooks=ShearpinRunHooks(pin))
    stops = []
    for _ in range(2):
        with pytest.raises(BudgetExceededError) as stopped:
            await consume(result)
        stops.append(stopped.value)
    assert stops[0] is stops[1] is result.run_loop_exception
    assert (result.is_complete, result.final_output, server.served) == (True, None, 2)


async def test_the_trace_is_there_when_the_stream_ends(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve([reply("Hi there")]), guarded()
    result = Runner.run_streamed(agent(server), "x", hooks=ShearpinRunHooks(pin))
    await consume(result)
    assert (finished(pin).status, finished(pin).output) == ("ok", "Hi there")


async def test_a_stream_that_is_left_goes_on_spending_up_to_the_budget(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    server, pin = serve(searching), guarded(Budget(llm_calls=5))
    result = Runner.run_streamed(agent(server, tool_of([])), "x", max_turns=50, hooks=ShearpinRunHooks(pin))
    async for event in result.stream_events():
        if event.type == "run_item_stream_event":
            break
    await until(lambda: not pin.active)
    assert server.served == 5
    assert isinstance(result.run_loop_exception, BudgetExceededError)
    with pytest.raises(BudgetExceededError):
        pin.raise_if_stopped()
    await asyncio.sleep(0.01)


async def test_a_stream_that_nobody_reads_is_stopped_too(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve(searching), guarded(Budget(llm_calls=5))
    result = Runner.run_streamed(agent(server, tool_of([])), "x", max_turns=50, hooks=ShearpinRunHooks(pin))
    await until(lambda: not pin.active)
    assert server.served == 5
    assert finished(pin).status == "stopped"
    with pytest.raises(RunStoppedError) as stopped:
        pin.raise_if_stopped()
    assert stopped.value is result.run_loop_exception
    assert len(stopped.value.partial) == 10
    del result
    gc.collect()


async def test_a_cancelled_stream_is_a_cancelled_run(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve([reply("a b c d e f", chunk_delay=0.05)]), guarded(Budget(usd=1))
    result = Runner.run_streamed(agent(server), "x", hooks=ShearpinRunHooks(pin))
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            result.cancel()
    assert finished(pin).status == "cancelled"
    (span,) = finished(pin).spans_of("llm")
    assert span.status == "cancelled"
    assert 0 < span.usage.output_tokens < 20


async def test_a_stream_cancelled_after_its_turn_ends_well(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve(searching), guarded()
    result = Runner.run_streamed(agent(server, tool_of([])), "x", hooks=ShearpinRunHooks(pin))
    async for event in result.stream_events():
        if event.type == "run_item_stream_event":
            result.cancel(mode="after_turn")
    assert server.served == 1
    assert finished(pin).status == "ok"


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_a_stream_that_breaks_off_is_charged_for_what_came(
    serve: Serve, speaking: MakeAgentOver, guarded: MakeGuard, api: str
) -> None:
    server = serve([reply("one two three four five six", cut_after=8 if api == "responses" else 4)])
    pin = guarded(Budget(usd=1))
    asked = speaking(api, server)
    with pytest.raises(Exception) as broken:  # noqa: PT011 - the client's own
        await consume(Runner.run_streamed(asked, "x", hooks=ShearpinRunHooks(pin)))
    assert not isinstance(broken.value, RunStoppedError)
    (span,) = finished(pin).spans_of("llm")
    assert span.status == "error"
    assert span.reply
    assert "one two three four five six".startswith(span.reply)
    assert 0 < span.usage.output_tokens < 10


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_the_time_to_the_first_token_is_known(
    serve: Serve, speaking: MakeAgentOver, guarded: MakeGuard, api: str
) -> None:
    server, pin = serve([reply("one two three", delay=0.05, chunk_delay=0.03)]), guarded()
    asked = speaking(api, server)
    await consume(Runner.run_streamed(asked, "x", hooks=ShearpinRunHooks(pin)))
    (span,) = finished(pin).spans_of("llm")
    assert 0.05e9 < (span.time_to_first_token_ns or 0) < span.duration_ns


async def test_a_consumer_who_is_cancelled_ends_the_run(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve([reply("late", delay=5)]), guarded()
    result = Runner.run_streamed(agent(server), "x", hooks=ShearpinRunHooks(pin))
    reading = asyncio.create_task(consume(result))
    await until(lambda: server.in_flight)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until(lambda: not pin.active)
    assert finished(pin).status == "cancelled"


@pytest.mark.parametrize("mode", ["run", "run_streamed"])
def test_too_many_turns_are_the_sdks_own_error(serve: Serve, agent: MakeAgent, guarded: MakeGuard, mode: str) -> None:
    server, pin = serve(searching), guarded(Budget(llm_calls=10))
    with pytest.raises(MaxTurnsExceeded):
        run(agent(server, tool_of([])), pin, mode, max_turns=3)
    assert server.served == 3
    assert finished(pin).status == "error"
    assert [span.status for span in finished(pin).spans_of("agent")] == ["error"]


async def test_usage_asked_for_in_a_stream_is_taken(serve: Serve, agent: MakeAgent, guarded: MakeGuard) -> None:
    server, pin = serve([reply("Hi", usage=(100, 7))]), guarded()
    asked = agent(server, model_settings=ModelSettings(include_usage=True))
    await consume(Runner.run_streamed(asked, "x", hooks=ShearpinRunHooks(pin)))
    assert finished(pin).usage.total_tokens == 107


async def test_without_the_sdks_queue_only_the_first_token_is_unknown(
    serve: Serve, agent: MakeAgent, guarded: MakeGuard
) -> None:
    result = Runner.run_streamed(agent(serve([reply("Hi")])), "x", hooks=ShearpinRunHooks(guarded()))
    queue: Any = result._event_queue  # noqa: SLF001 - the internal that streams.py reads
    assert queue.put_nowait.__module__ == "shearpin_integrations.openai_agents.streams"
    await consume(result)
