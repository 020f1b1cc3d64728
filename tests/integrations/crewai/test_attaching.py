"""What is under a guard, for how long, and how often it counts."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew
from crewai.flow.flow import Flow, start
from crewai.hooks.dispatch import InterceptionPoint, scoped_hooks

import shearpin
from shearpin import Budget, BudgetExceededError, EnforcementGapWarning, Guard
from shearpin.testing import endless, per_conversation, reply, tool_call
from shearpin_integrations.crewai import attach, attached
from tests.integrations.crewai.conftest import MakeGuard, Search, Serve, a_crew, a_task, an_agent, llm

ANSWERS = [tool_call("search", {"q": "pins"}), reply("done")]


def test_attach_gives_back_the_same_object_and_says_who_it_is_for(serve: Serve, guarded: MakeGuard):
    pin, crew = guarded(), a_crew(llm(serve([reply("done")])))
    assert attach(crew, pin, service="support", session_id="s1", user_id="u1", tags=["beta"]) is crew
    crew.kickoff(inputs={"topic": "pins"})
    (trace,) = pin.traces
    assert (trace.name, trace.session_id, trace.user_id, list(trace.tags)) == ("support", "s1", "u1", ["beta"])
    assert (trace.input, trace.output, trace.status) == ({"topic": "pins"}, "done", "ok")


@pytest.mark.slow
def test_one_line_puts_a_crew_under_rules(serve: Serve):
    server = serve(endless("search", {"q": "pins"}))
    crew = shearpin.attach(a_crew(llm(server), Search()), Budget(llm_calls=1), service="support", env="prod")
    with pytest.raises(BudgetExceededError) as stop:
        crew.kickoff()
    assert (stop.value.trace.name, stop.value.trace.env) == ("support", "prod")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "pin", "options", "hint"),
    [
        ("a crew", Guard(), {}, "attach takes a crew"),
        (None, Budget(usd=1), {}, r"Guard\(Budget"),
        (None, Guard(), {"sesion_id": "s1"}, "sesion_id"),
    ],
)
def test_what_cannot_be_attached_says_so(serve: Serve, target: Any, pin: Any, options: Any, hint: str):
    crew = target or a_crew(llm(serve([reply("done")])))
    with pytest.raises(TypeError, match=hint):
        attach(crew, pin, **options)


@pytest.mark.slow
def test_a_block_takes_a_guard(serve: Serve):
    with pytest.raises(TypeError, match=r"attached\(Guard"):
        attached(Budget(usd=1))  # type: ignore[arg-type]


def test_a_guard_reached_in_many_ways_counts_once(serve: Serve, guarded: MakeGuard):
    server = serve(per_conversation(ANSWERS))
    pin, search = guarded(), Search()
    crew = attach(attach(a_crew(llm(server), search), pin), pin)
    attach(crew.agents[0], pin)
    with attached(pin), attached(pin):
        crew.kickoff()
    (trace,) = pin.traces
    assert (trace.llm_calls, trace.tool_calls, len(trace.spans_of("agent"))) == (2, 1, 2)


@pytest.mark.slow
def test_two_guards_count_apart(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    outer, inner = guarded(), guarded(Budget(llm_calls=2))
    crew = attach(a_crew(llm(server), Search()), inner)
    with pytest.raises(BudgetExceededError), attached(outer):
        crew.kickoff()
    assert (outer.traces[-1].llm_calls, inner.traces[-1].llm_calls) == (2, 2)
    assert len(server.requests) == 2
    assert outer.traces[-1].stop is None


@pytest.mark.slow
@pytest.mark.parametrize("first", ["lenient", "strict"])
def test_what_one_guard_lets_in_and_another_refuses_is_not_made(serve: Serve, guarded: MakeGuard, first: str):
    server, search = serve(endless("search", {"q": "pins"})), Search()
    guards = {"lenient": guarded(), "strict": guarded(Budget(tool_calls=1))}
    outer, inner = guards.values() if first == "strict" else reversed(guards.values())
    with pytest.raises(BudgetExceededError), attached(outer), attached(inner):
        a_crew(llm(server), search).kickoff()
    assert len(search.ran) == 1
    statuses = [span.status for span in guards["lenient"].traces[-1].spans_of("tool")]
    assert statuses == (["ok", "cancelled"] if first == "lenient" else ["ok"])


@pytest.mark.slow
def test_every_item_of_a_list_is_a_run(serve: Serve, guarded: MakeGuard):
    server = serve(per_conversation(ANSWERS))
    pin = guarded(Budget(llm_calls=2))
    crew = attach(a_crew(llm(server), Search()), pin, session_id="s1")
    crew.kickoff_for_each([{"n": 1}, {"n": 2}])
    assert [(trace.llm_calls, trace.input, trace.session_id) for trace in pin.traces] == [
        (2, {"n": 1}, "s1"),
        (2, {"n": 2}, "s1"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kickoff_for_each", "kickoff_for_each_async", "akickoff_for_each"])
def test_within_a_run_a_list_has_one_budget(serve: Serve, guarded: MakeGuard, mode: str):
    server = serve(per_conversation(ANSWERS))
    pin = guarded(Budget(llm_calls=3))
    crew = attach(a_crew(llm(server), Search()), pin)

    def start() -> None:
        with pin.run("batch"):
            answer = getattr(crew, mode)([{"n": 1}, {"n": 2}])
            if asyncio.iscoroutine(answer):
                asyncio.run(answer)

    with pytest.raises(BudgetExceededError):
        start()
    assert len(server.requests) == 3
    (trace,) = pin.traces
    assert trace.name == "batch"
    assert [span.name for span in trace.spans_of("agent") if span.parent_id == trace.spans[0].span_id][:1] == ["crew"]


@pytest.mark.slow
def test_a_copy_is_under_the_guard_of_its_original(serve: Serve, guarded: MakeGuard):
    pin = guarded()
    attach(a_crew(llm(serve([reply("done")]))), pin).copy().kickoff()
    assert len(pin.traces) == 1


@pytest.mark.slow
def test_a_guard_does_not_show_in_what_a_crew_says_of_itself(serve: Serve):
    crew = a_crew(llm(serve([])))
    before = crew.model_dump_json(exclude={"agents", "tasks"})
    attach(crew, Guard())
    assert crew.model_dump_json(exclude={"agents", "tasks"}) == before
    assert not [name for name in vars(crew) if "shearpin" in name]


@pytest.mark.slow
def test_an_agent_brings_its_guard_into_a_crew_that_has_none(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    pin, crew = guarded(Budget(llm_calls=1)), a_crew(llm(server), Search())
    attach(crew.agents[0], pin, session_id="s1")
    with pytest.raises(BudgetExceededError):
        crew.kickoff()
    (trace,) = pin.traces
    assert (trace.name, trace.input, trace.session_id) == ("researcher", "Find out about pins.", "s1")
    assert len(trace.spans_of("agent")) == 1


@pytest.mark.slow
def test_a_model_called_by_itself_in_a_block_is_a_run(serve: Serve, guarded: MakeGuard):
    server, pin = serve(lambda _: reply("hello")), guarded(Budget(llm_calls=1))
    model = llm(server)
    with attached(pin):
        assert model.call("Hi") == "hello"
        assert model.call("Hi") == "hello"  # another run, with a budget of its own
    assert [(trace.name, trace.llm_calls, trace.output) for trace in pin.traces] == [("gpt-4o-mini", 1, "hello")] * 2
    with pytest.raises(BudgetExceededError), pin.run("both"), attached(pin):
        model.call("Hi")
        model.call("Hi")


@pytest.mark.slow
def test_a_task_started_by_itself_in_a_block_is_a_run(serve: Serve, guarded: MakeGuard):
    server, pin = serve(endless("search", {"q": "pins"})), guarded(Budget(llm_calls=2))
    agent = an_agent(llm(server), Search())
    with pytest.raises(BudgetExceededError), attached(pin):
        a_task(agent).execute_sync()
    assert (len(server.requests), pin.traces[-1].name) == (2, "Find out about pins.")


@pytest.mark.slow
def test_hooks_the_user_has_scoped_run_beside_ours(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    pin, seen = guarded(Budget(tool_calls=1)), list[Any]()
    for order in ("theirs outside", "theirs inside"):
        crew, hooks = a_crew(llm(server), Search()), {InterceptionPoint.PRE_TOOL_CALL: [seen.append]}
        blocks = (
            (scoped_hooks(hooks), attached(pin)) if order == "theirs outside" else (attached(pin), scoped_hooks(hooks))
        )
        with pytest.raises(BudgetExceededError), blocks[0], blocks[1]:
            crew.kickoff()
    assert len(seen) == 4
    assert [trace.tool_calls for trace in pin.traces] == [1, 1]


@pytest.mark.slow
def test_a_tool_the_user_denies_is_no_call(serve: Serve, guarded: MakeGuard):
    server, pin, search = serve(per_conversation(ANSWERS)), guarded(), Search()
    hooks = {
        InterceptionPoint.PRE_TOOL_CALL: [lambda _: False],
        InterceptionPoint.POST_TOOL_CALL: [lambda _: "Ask a person first."],
    }
    with scoped_hooks(hooks):
        attach(a_crew(llm(server), search), pin).kickoff()
    assert (search.ran, pin.traces[-1].tool_calls) == ([], 0)
    assert "Ask a person first." in str(server.requests[-1].messages[-1])


@pytest.mark.slow
def test_threads_a_program_starts_in_a_block_are_its_own_affair(serve: Serve, guarded: MakeGuard):
    server, pin = serve(lambda _: reply("done")), guarded()
    with attached(pin):
        thread = threading.Thread(target=a_crew(llm(server)).kickoff)
        thread.start()
        thread.join(20)
    assert pin.traces == []


@pytest.mark.slow
def test_installed_it_watches_the_whole_process(serve: Serve):
    server = serve(endless("search", {"q": "pins"}))
    program = f"""
import warnings; warnings.simplefilter("ignore")
import asyncio, contextlib, shearpin, threading
pin = shearpin.Guard(shearpin.Budget(llm_calls=2))
shearpin.install(pin)
from tests.integrations.crewai.conftest import a_crew, Search, llm
def crew():
    return a_crew(llm(type("", (), dict(base_url={server.base_url!r}))), Search())
def in_a_thread():
    with contextlib.suppress(shearpin.BudgetExceededError):
        crew().kickoff()
with contextlib.suppress(shearpin.BudgetExceededError):
    crew().kickoff()
with contextlib.suppress(shearpin.BudgetExceededError):
    asyncio.run(crew().akickoff())
thread = threading.Thread(target=in_a_thread); thread.start(); thread.join()
print([(trace.name, trace.status, trace.llm_calls) for trace in pin.traces])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip().splitlines()[-1:] == [str([("crew", "stopped", 2)] * 3)], done.stderr
    assert len(server.requests) == 6


class Elsewhere(Agent):
    """An agent that works with something else than CrewAI's models, as its adapters do."""

    def execute_task(self, *args: Any, **kwargs: Any) -> str:
        return "done"


@pytest.mark.slow
def test_a_guard_that_sees_no_call_says_so(serve: Serve, guarded: MakeGuard):
    pin = guarded()
    agent = Elsewhere(role="r", goal="g", backstory="b", llm=llm(serve([])))
    with pytest.warns(EnforcementGapWarning, match="none of its model calls"):
        attach(Crew(agents=[agent], tasks=[a_task(agent)]), pin).kickoff()
    assert "none of its model calls" in pin.traces[-1].gaps[0]


@pytest.mark.slow
def test_a_flow_without_models_is_no_gap(guarded: MakeGuard):
    class Plain(Flow):
        @start()
        def add(self) -> int:
            return 2

    pin = guarded()
    assert attach(Plain(), pin).kickoff() == 2
    assert (pin.traces[-1].gaps, pin.traces[-1].steps) == ([], 0)


@pytest.mark.slow
def test_an_agents_task_by_itself_in_a_block_is_a_run(serve: Serve, guarded: MakeGuard):
    server, pin = serve(endless("search", {"q": "pins"})), guarded(Budget(llm_calls=2))
    agent = an_agent(llm(server), Search())
    with pytest.raises(BudgetExceededError), attached(pin):
        agent.execute_task(a_task(agent))
    assert (len(server.requests), pin.traces[-1].name) == (2, "researcher")


@pytest.mark.slow
def test_a_crewai_that_cannot_be_stopped_is_refused(tmp_path: Path):
    old = tmp_path / "crewai-1.15.10.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: crewai\nVersion: 1.15.10\n", encoding="utf-8")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import shearpin_integrations.crewai"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert 'MissingIntegrationError: pip install "crewai>=1.15.20,<1.16"' in done.stderr
    assert "crewai 1.15.10 is installed" in done.stderr
