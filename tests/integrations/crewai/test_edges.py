"""Many at once, ends that nobody tells, and what goes wrong inside of a guard."""

import asyncio
import threading
from typing import Any

import pytest
from crewai import BaseLLM, Crew

from shearpin import Budget, BudgetExceededError, LoopBreaker, LoopDetectedError
from shearpin.testing import endless, hang, per_conversation, reply, tool_call
from shearpin_integrations.crewai import attach, attached
from tests.integrations.crewai.conftest import MakeGuard, Search, Serve, a_crew, a_task, an_agent, llm, wait_until


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kickoff_for_each_async", "akickoff_for_each"])
def test_many_at_once_never_exceed_a_budget(serve: Serve, guarded: MakeGuard, mode: str):
    server = serve(lambda _: reply("done", delay=0.05))
    pin = guarded(Budget(llm_calls=3))
    crew = attach(a_crew(llm(server)), pin)

    async def all_at_once() -> None:
        async with pin.run("batch"):
            await getattr(crew, mode)([{"n": number} for number in range(8)])

    with pytest.raises(BudgetExceededError):
        asyncio.run(all_at_once())
    assert server.wait_idle()
    assert len(server.requests) == 3


@pytest.mark.slow
def test_money_is_held_while_calls_are_in_flight(serve: Serve, guarded: MakeGuard):
    server = serve(lambda _: reply("done", delay=0.05, usage=(100, 100)))
    pin = guarded(Budget(output_tokens=450))
    crew = a_crew(llm(server, max_tokens=100))

    def start() -> None:
        with pin.run("batch"), attached(pin):
            asyncio.run(crew.kickoff_for_each_async([{"n": number} for number in range(8)]))

    with pytest.raises(BudgetExceededError):
        start()
    assert server.wait_idle()
    assert len(server.requests) == 4  # those in threads wait for each other, so that none starves
    assert pin.traces[-1].usage.output_tokens <= 450


@pytest.mark.slow
def test_a_cancelled_crew_is_closed_as_such(serve: Serve, guarded: MakeGuard):
    server, pin = serve(lambda _: hang()), guarded()

    async def give_up() -> None:
        await asyncio.wait_for(attach(a_crew(llm(server, timeout=1)), pin).akickoff(), 0.3)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    (trace,) = pin.traces
    assert trace.status == "cancelled"
    assert pin.active == []
    server.close()


@pytest.mark.slow
def test_a_crew_that_is_interrupted_is_closed(serve: Serve, guarded: MakeGuard):
    server, pin = serve(endless("search", {"q": "pins"})), guarded()

    def interrupt(_: str) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attach(a_crew(llm(server), Search(body=interrupt)), pin).kickoff()
    assert [trace.status for trace in pin.traces] == ["cancelled"]


class Unreadable(BaseLLM):
    """A model whose own code fails as soon as it is looked at."""

    @property
    def temper(self) -> Any:
        raise ValueError("mine")

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> str:
        return "done"

    def __getattribute__(self, name: str) -> Any:
        if name == "seed":
            raise ValueError("mine")
        return super().__getattribute__(name)


@pytest.mark.slow
def test_a_call_that_cannot_be_read_is_still_let_in_or_not(guarded: MakeGuard, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shearpin.runs.trouble.STRICT", False)  # as users have it
    agent = an_agent(Unreadable(model="mine"))
    crew = Crew(agents=[agent], tasks=[a_task(agent), a_task(agent)])
    pin = guarded(Budget(llm_calls=1))
    with pytest.raises(BudgetExceededError):
        attach(crew, pin).kickoff()
    assert pin.traces[-1].llm_calls == 1


@pytest.mark.slow
def test_a_function_that_a_model_calls_by_itself_is_a_tool(serve: Serve, guarded: MakeGuard):
    server, pin, ran = serve(endless("dig", {"q": "pins"})), guarded(Budget(tool_calls=1)), list[str]()
    model = llm(server)
    tool = {"type": "function", "function": {"name": "dig", "description": "Digs.", "parameters": {"type": "object"}}}

    def dig(q: str = "") -> str:
        ran.append(q)
        return "dirt"

    with pytest.raises(BudgetExceededError), pin.run("two"), attached(pin):
        assert model.call("Dig.", tools=[tool], available_functions={"dig": dig}) == "dirt"
        model.call("Dig.", tools=[tool], available_functions={"dig": dig})
    assert ran == ["pins"]
    trace = pin.traces[-1]
    assert [(tool.name, tool.result) for tool in trace.spans_of("tool")] == [("dig", "dirt")]
    assert trace.usage.input_tokens == server.usage.input


@pytest.mark.slow
def test_a_replayed_crew_is_guarded(serve: Serve, guarded: MakeGuard):
    server = serve(lambda _: reply("done"))
    agent = an_agent(llm(server))
    crew = Crew(agents=[agent], tasks=[a_task(agent, "one"), a_task(agent, "two")])
    crew.kickoff()
    pin = guarded(Budget(llm_calls=0))
    with pytest.raises(BudgetExceededError):
        attach(crew, pin).replay(str(crew.tasks[1].id))
    assert len(server.requests) == 2


@pytest.mark.slow
def test_progress_is_no_loop(serve: Serve, guarded: MakeGuard):
    server = serve(lambda r: tool_call("search", {"q": f"page {r.turn}"}) if r.turn < 8 else reply("done"))
    pin = guarded(LoopBreaker())
    attach(a_crew(llm(server), Search()), pin).kickoff()
    assert pin.traces[-1].tool_calls == 8


@pytest.mark.slow
def test_a_loop_over_several_tasks_is_one(serve: Serve, guarded: MakeGuard):
    server = serve(per_conversation([tool_call("search", {"q": "pins"}), reply("done")]))
    agent = an_agent(llm(server), Search(cache_function=lambda *_: False))
    crew = Crew(agents=[agent], tasks=[a_task(agent, f"task {number}") for number in range(5)])
    with pytest.raises(LoopDetectedError):
        attach(crew, guarded(LoopBreaker(threshold=3))).kickoff()


@pytest.mark.slow
def test_in_observation_nothing_is_stopped(serve: Serve, guarded: MakeGuard):
    server = serve(per_conversation([tool_call("search", {"q": "pins"}), reply("done")]))
    pin = guarded(Budget(llm_calls=1), mode="observe")
    assert attach(a_crew(llm(server), Search()), pin).kickoff().raw == "done"
    assert [decision.verdict for decision in pin.traces[-1].decisions if decision.verdict == "stop"] == ["stop"]


@pytest.mark.slow
def test_a_stop_from_another_thread_reaches_a_crew(serve: Serve, guarded: MakeGuard):
    server, pin = serve(lambda r: tool_call("search", {"q": str(r.turn)}, delay=0.05)), guarded()
    crew, stops = attach(a_crew(llm(server), Search(), max_iter=100), pin), list[Any]()

    def work() -> None:
        with pytest.raises(Exception, match="enough") as stop:
            crew.kickoff()
        stops.append(stop.value)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: pin.active and pin.active[0].trace.tool_calls)
    told = pin.active[0].stop("enough")
    thread.join(20)
    assert stops == [told]
