"""A stop gets out, and nothing starts after it."""

import asyncio
import contextvars
import pickle
import threading
from typing import Any

import pytest
from crewai import Crew, Process, Task
from crewai.hooks import HookAborted
from crewai.hooks.dispatch import InterceptionPoint, clear_all, register, unregister
from crewai.lite_agent import LiteAgent

from shearpin import Budget, BudgetExceededError, LoopBreaker, LoopDetectedError, RunStoppedError
from shearpin.testing import endless, per_conversation, reply, tool_call, tool_calls
from shearpin_integrations.crewai import attach, attached
from tests.integrations.crewai.conftest import (
    MODES,
    MakeGuard,
    Search,
    Serve,
    a_crew,
    a_task,
    an_agent,
    first,
    llm,
    react_call,
    run_mode,
    thinking,
)


@pytest.mark.parametrize("mode", first(MODES))
def test_a_budget_stops_before_the_next_model_call(serve: Serve, guarded: MakeGuard, mode: str):
    server = serve(endless("search", {"q": "pins"}))
    pin, search = guarded(Budget(llm_calls=2)), Search()
    crew = attach(a_crew(llm(server), search), pin)
    with pytest.raises(BudgetExceededError) as stop:
        run_mode(crew, mode)
    assert isinstance(stop.value, HookAborted)
    assert len(server.requests) == 2
    assert (pin.traces[-1].status, pin.traces[-1].stop.error) == ("stopped", stop.value)
    assert [span.kind for span in pin.traces[-1].spans].count("llm") == 2


@pytest.mark.parametrize("mode", first(MODES))
def test_a_loop_stops_before_the_tool_call(serve: Serve, guarded: MakeGuard, mode: str):
    server = serve(endless("search", {"q": "pins"}))
    pin, search = guarded(LoopBreaker(threshold=3)), Search()
    crew = a_crew(llm(server), search)
    with pytest.raises(LoopDetectedError), attached(pin):
        run_mode(crew, mode)
    assert len(search.ran) == 3  # CrewAI's own breaker comes after five
    assert len(server.requests) <= 4
    assert len(pin.traces[-1].spans_of("tool")) == 3


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kickoff", "kickoff_async", "akickoff"])
def test_an_agent_alone_is_stopped(serve: Serve, guarded: MakeGuard, mode: str):
    server = serve(endless("search", {"q": "pins"}))
    pin, search = guarded(Budget(tool_calls=1)), Search()
    agent = attach(an_agent(llm(server), search), pin, user_id="u1")
    with pytest.raises(BudgetExceededError):
        agent.kickoff("Find pins.") if mode == "kickoff" else asyncio.run(getattr(agent, mode)("Find pins."))
    assert len(search.ran) == 1
    assert len(server.requests) == 2
    (trace,) = pin.traces
    assert (trace.name, trace.user_id, trace.input) == ("researcher", "u1", "Find pins.")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LiteAgent is deprecated")
@pytest.mark.parametrize("mode", ["kickoff", "kickoff_async"])
def test_a_lite_agent_is_stopped(serve: Serve, guarded: MakeGuard, mode: str):
    server = serve(lambda request: react_call("search", q=f"pins {len(request.messages)}"))
    pin, search = guarded(Budget(tool_calls=1)), Search()
    agent = LiteAgent(role="scout", goal="Find.", backstory="Old.", llm=llm(server), tools=[search])
    attach(agent, pin)
    with pytest.raises(BudgetExceededError):
        agent.kickoff("Find pins.") if mode == "kickoff" else asyncio.run(agent.kickoff_async("Find pins."))
    assert len(search.ran) == 1
    assert len(server.requests) == 2


@pytest.mark.parametrize("mode", first(["kickoff", "akickoff"]))
def test_a_tool_of_an_agent_that_thinks_aloud_is_stopped(serve: Serve, guarded: MakeGuard, mode: str):
    server = serve(lambda request: react_call("search", q=f"pins {len(request.messages)}"))
    pin, search = guarded(Budget(tool_calls=2)), Search()
    crew = attach(a_crew(thinking(server), search), pin)
    with pytest.raises(BudgetExceededError):
        run_mode(crew, mode)
    assert len(search.ran) == 2
    assert len(server.requests) == 3
    assert pin.traces[-1].steps == 3


@pytest.mark.slow
def test_a_tool_whose_result_is_the_answer_does_not_answer_with_its_refusal(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    pin, search = guarded(Budget(tool_calls=0)), Search(result_as_answer=True)
    with pytest.raises(BudgetExceededError):
        attach(a_crew(llm(server), search), pin).kickoff()
    assert (len(search.ran), len(server.requests)) == (0, 1)


@pytest.mark.slow
def test_a_task_in_a_thread_of_its_own_is_stopped(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    pin, agent = guarded(Budget(llm_calls=1)), an_agent(llm(server), Search())
    crew = attach(Crew(agents=[agent], tasks=[a_task(agent, async_execution=True)]), pin)
    with pytest.raises(BudgetExceededError):
        crew.kickoff()
    assert len(server.requests) == 1


@pytest.mark.slow
def test_a_task_with_a_time_limit_is_stopped(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    pin = guarded(Budget(llm_calls=1))
    crew = attach(a_crew(llm(server), Search(), max_execution_time=30), pin)
    with pytest.raises(BudgetExceededError):
        crew.kickoff()
    assert len(server.requests) == 1


@pytest.mark.parametrize("thinks_aloud", first([False, True]))
@pytest.mark.parametrize("mode", first(["kickoff", "akickoff"]))
def test_a_coworkers_stop_does_not_become_an_answer_for_its_manager(
    serve: Serve, guarded: MakeGuard, mode: str, thinks_aloud: bool
):
    work = {"task": "dig", "context": "pins", "coworker": "digger"}

    def script(request: Any) -> Any:
        boss = "boss" in str(request.messages[0])
        name, given = ("delegate_work_to_coworker", work) if boss else ("search", {"q": "pins"})
        return react_call(name, **given) if thinks_aloud else tool_call(name, given)

    server = serve(script)
    model = thinking(server) if thinks_aloud else llm(server)
    digger = an_agent(model, Search(), role="digger")
    boss = an_agent(model, role="boss", allow_delegation=True)
    crew = Crew(agents=[digger], tasks=[a_task(None)], manager_agent=boss, process=Process.hierarchical)
    pin = guarded(Budget(llm_calls=2))
    with pytest.raises(BudgetExceededError):
        run_mode(attach(crew, pin), mode)
    assert len(server.requests) == 2
    spans = {span.span_id: span for span in pin.traces[-1].spans}
    (inner,) = [span for span in spans.values() if span.kind == "agent" and span.name == "digger"]
    assert spans[inner.parent_id].kind == "tool"
    assert [span.agent for span in spans.values() if span.kind == "llm"] == ["boss", "digger"]


def test_of_parallel_tools_only_those_that_fit_run(serve: Serve, guarded: MakeGuard):
    asked = tool_calls([("search", {"q": str(number)}) for number in range(6)])
    server, search = serve(lambda _: asked), Search()
    pin = guarded(Budget(tool_calls=2))
    with pytest.raises(BudgetExceededError):
        attach(a_crew(llm(server), search), pin).kickoff()
    assert len(search.ran) == 2
    assert len(server.requests) == 1
    assert all(span.call_id for span in pin.traces[-1].spans_of("tool"))


def test_a_crew_can_be_started_again_after_a_stop(serve: Serve, guarded: MakeGuard):
    server = serve(per_conversation([tool_call("search", {"q": "pins"}), reply("done")]))
    pin = guarded(Budget(llm_calls=1))
    crew = a_crew(llm(server), Search())
    with pytest.raises(BudgetExceededError), attached(pin):
        crew.kickoff()
    assert crew.kickoff().raw == "done"  # the block is left: nobody watches
    assert [trace.llm_calls for trace in pin.traces] == [1]


@pytest.mark.slow
def test_a_crew_that_has_run_before_is_guarded(serve: Serve, guarded: MakeGuard):
    server = serve(per_conversation([tool_call("search", {"q": "pins"}), reply("done")]))
    crew = a_crew(llm(server), Search())
    crew.kickoff()
    pin = guarded(Budget(llm_calls=1))
    with pytest.raises(BudgetExceededError):
        attach(crew, pin).kickoff()
    assert len(server.requests) == 2 + 1


@pytest.mark.slow
def test_hooks_of_the_user_run_and_break_nothing(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    pin, seen = guarded(Budget(llm_calls=2)), list[Any]()

    def hook(ctx: Any) -> None:
        seen.append(ctx)
        raise ValueError("of the user's own")

    register(InterceptionPoint.PRE_MODEL_CALL, hook)
    try:
        with pytest.raises(BudgetExceededError):
            attach(a_crew(llm(server), Search()), pin).kickoff()
    finally:
        unregister(InterceptionPoint.PRE_MODEL_CALL, hook)
    assert len(seen) == 3
    assert len(server.requests) == 2


@pytest.mark.slow
def test_a_guard_outlives_the_clearing_of_all_hooks(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    pin = guarded(Budget(tool_calls=1))
    search = Search(body=lambda _: clear_all())
    with pytest.raises(BudgetExceededError):
        attach(a_crew(llm(server), search), pin).kickoff()
    assert len(search.ran) == 1


@pytest.mark.slow
def test_the_execution_ends_as_failed(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    pin, ends = guarded(Budget(llm_calls=1)), list[Any]()
    register(InterceptionPoint.EXECUTION_END, ends.append)
    try:
        with pytest.raises(BudgetExceededError) as stop:
            attach(a_crew(llm(server), Search()), pin).kickoff()
    finally:
        unregister(InterceptionPoint.EXECUTION_END, ends.append)
    (end,) = ends
    assert (end.status, end.error) == ("failed", stop.value)


@pytest.mark.slow
def test_a_stop_leaves_no_warnings_of_unpaired_events(serve: Serve, guarded: MakeGuard, capsys: Any):
    server = serve(endless("search", {"q": "pins"}))
    with pytest.raises(BudgetExceededError):
        attach(a_crew(llm(server), Search()), guarded(Budget(llm_calls=1))).kickoff()
    assert "mismatch" not in capsys.readouterr().out


@pytest.mark.slow
def test_what_was_done_before_the_stop_is_told(serve: Serve, guarded: MakeGuard):
    server = serve([reply("first"), reply("second")])
    agent = an_agent(llm(server))
    crew = Crew(agents=[agent], tasks=[a_task(agent, text) for text in ("one", "two", "three")])
    with pytest.raises(BudgetExceededError) as stop:
        attach(crew, guarded(Budget(llm_calls=2))).kickoff()
    assert [output.raw for output in stop.value.partial] == ["first", "second"]


@pytest.mark.slow
def test_an_operators_stop_ends_a_crew(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    pin = guarded()
    search = Search(body=lambda _: pin.active[0].stop("enough") and None)
    with pytest.raises(RunStoppedError, match="enough"):
        attach(a_crew(llm(server), search), pin).kickoff()
    assert len(server.requests) == 1


@pytest.mark.slow
def test_crews_in_threads_never_mix(serve: Serve, guarded: MakeGuard):
    server = serve(lambda request: tool_call("search", {"q": f"pins {len(request.messages)}"}))
    small, large = guarded(Budget(llm_calls=2)), guarded(Budget(llm_calls=5))
    stops: dict[Any, RunStoppedError] = {}

    def start(pin: Any) -> None:
        try:
            attach(a_crew(llm(server), Search()), pin).kickoff()
        except RunStoppedError as stop:
            stops[pin] = stop

    threads = [threading.Thread(target=start, args=(pin,)) for pin in (small, large)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {pin: pin.traces[-1].llm_calls for pin in stops} == {small: 2, large: 5}


def test_the_frameworks_own_errors_pass_unchanged(serve: Serve, guarded: MakeGuard):
    server = serve(lambda _: reply("never"))
    pin, agent = guarded(), an_agent(llm(server))

    def refuse(_: Any) -> Any:
        raise KeyError("mine")

    crew = Crew(agents=[agent], tasks=[Task(description="x", expected_output="y", agent=agent, callback=refuse)])
    with pytest.raises(KeyError):
        attach(crew, pin).kickoff()
    assert pin.traces[-1].status == "error"


@pytest.mark.slow
def test_the_users_context_survives(serve: Serve, guarded: MakeGuard):
    server = serve([reply("done")])
    mine: contextvars.ContextVar[str] = contextvars.ContextVar("mine", default="outside")
    agent = an_agent(llm(server))
    seen: list[str] = []
    task = a_task(agent, callback=lambda _: (seen.append(mine.get()), mine.set("from inside")))
    mine.set("from outside")
    attach(Crew(agents=[agent], tasks=[task]), guarded()).kickoff()
    assert seen == ["from outside"]
    assert mine.get() == "from inside"  # as without a guard


@pytest.mark.slow
@pytest.mark.parametrize("rule", [Budget(llm_calls=0), LoopBreaker(threshold=2)])
def test_a_stop_is_all_that_crewai_asks_of_an_abort(serve: Serve, guarded: MakeGuard, rule: Any):
    server = serve(endless("search", {"q": "pins"}))
    with pytest.raises(RunStoppedError) as stop:
        attach(a_crew(llm(server), Search()), guarded(rule)).kickoff()
    error: Any = stop.value
    assert isinstance(error, HookAborted)
    assert error.source is not None
    assert error.reason in str(error)
    assert type(pickle.loads(pickle.dumps(error))).__mro__[1] is RunStoppedError
