"""A stop gets out, and nothing starts after it."""

import pytest
from crewai.hooks import HookAborted

from shearpin import Budget, BudgetExceededError, LoopBreaker, LoopDetectedError, RunStoppedError
from shearpin.testing import endless, per_conversation, reply, tool_call
from shearpin_integrations.crewai import attach, attached
from tests.integrations.crewai.conftest import MODES, MakeGuard, Search, Serve, a_crew, llm, run_mode


def test_a_crew_under_a_guard_answers_and_is_recorded(serve: Serve, guarded: MakeGuard):
    server = serve(per_conversation([tool_call("search", {"q": "pins"}), reply("A pin shears first.")]))
    pin, search = guarded(), Search()
    answer = attach(a_crew(llm(server), search), pin, session_id="s1").kickoff()
    assert answer.raw == "A pin shears first."
    (trace,) = pin.traces
    for s in trace.spans: print(s.kind, s.name, s.agent, s.step, s.status, s.parent_id, getattr(s,'call_id',None), s.input, s.output)
    assert (trace.status, trace.session_id, trace.steps, trace.llm_calls, trace.tool_calls) == ("ok", "s1", 2, 2, 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_stops_before_the_next_model_call(serve: Serve, guarded: MakeGuard, mode: str):
    server = serve(endless("search", {"q": "pins"}))
    pin, search = guarded(Budget(llm_calls=2)), Search()
    crew = attach(a_crew(llm(server), search), pin)
    with pytest.raises(BudgetExceededError) as stop:
        run_mode(crew, mode)
    assert isinstance(stop.value, HookAborted)
    assert len(server.requests) == 2
    assert pin.traces[-1].status == "stopped"
    assert pin.traces[-1].stop.error is stop.value


@pytest.mark.parametrize("mode", MODES)
def test_a_loop_stops_before_the_tool_call(serve: Serve, guarded: MakeGuard, mode: str):
    server = serve(endless("search", {"q": "pins"}))
    pin, search = guarded(LoopBreaker(threshold=3)), Search()
    crew = a_crew(llm(server), search)
    with pytest.raises(LoopDetectedError), attached(pin):
        run_mode(crew, mode)
    assert len(search.ran) == 3
