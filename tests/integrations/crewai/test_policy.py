"""A policy inside CrewAI: denied before the tool, told to the model, asked of a person."""

import asyncio
import threading
from contextlib import nullcontext
from typing import Any

import pytest
from crewai import Crew, Process
from crewai.lite_agent import LiteAgent

from shearpin import ApprovalRejectedError, LoopBreaker, LoopDetectedError, ToolDeniedError, ToolPolicy, Trace
from shearpin.testing import Request, endless, per_conversation, reply, tool_call, tool_calls
from shearpin_integrations.crewai import attach, attached
from tests.integrations.crewai.conftest import (
    MakeGuard,
    Search,
    Serve,
    a_crew,
    a_task,
    an_agent,
    first,
    llm,
    react_answer,
    react_call,
    run_mode,
    thinking,
    wait_until,
)

DENIED = "The call of search was denied and did not run: denied by the policy. Do not repeat it."
NATIVE = [tool_call("search", {"q": "pins"}), reply("I was not allowed to.")]
TELLING = ToolPolicy(deny=["search"], on_deny="tell")


def aloud(request: Request) -> Any:
    if "Observation: " in str(request.messages[1:]):
        return react_answer("I was not allowed to.")
    return react_call("search", q="pins")


def verdicts(trace: Trace) -> list[tuple[str, Any]]:
    return [(decision.verdict, decision.facts.get("tool")) for decision in trace.decisions]


@pytest.mark.parametrize("mode", first(["kickoff", "akickoff"]))
@pytest.mark.parametrize("thinks_aloud", first([False, True]))
def test_a_told_denial_is_the_tools_result_and_the_crew_goes_on(
    serve: Serve, guarded: MakeGuard, mode: str, thinks_aloud: bool
):
    server = serve(aloud if thinks_aloud else per_conversation(NATIVE))
    pin, search = guarded(TELLING), Search()
    crew = attach(a_crew(thinking(server) if thinks_aloud else llm(server), search), pin)
    assert run_mode(crew, mode).raw == "I was not allowed to."
    assert (search.ran, len(server.requests)) == ([], 2)
    assert DENIED in str(server.requests[-1].messages)
    trace = pin.traces[-1]
    assert (trace.status, trace.steps, trace.spans_of("tool")) == ("ok", 2, [])
    assert verdicts(trace) == [("deny", "search")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:LiteAgent is deprecated")
def test_a_lite_agent_is_told(serve: Serve, guarded: MakeGuard):
    server, pin, search = serve(aloud), guarded(TELLING), Search()
    agent = LiteAgent(role="lite", goal="g", backstory="b", llm=thinking(server), tools=[search])
    assert attach(agent, pin).kickoff("Find pins.").raw == "I was not allowed to."
    assert (search.ran, DENIED in str(server.requests[-1].messages)) == ([], True)


@pytest.mark.slow
def test_a_tool_whose_result_is_the_answer_answers_with_its_denial(serve: Serve, guarded: MakeGuard):
    server, pin, search = serve(NATIVE), guarded(TELLING), Search(result_as_answer=True)
    assert attach(a_crew(llm(server), search), pin).kickoff().raw == DENIED
    assert (search.ran, len(server.requests), pin.traces[-1].status) == ([], 1, "ok")


@pytest.mark.slow
def test_a_tool_whose_result_is_the_answer_does_not_answer_one_that_thinks_aloud(serve: Serve, guarded: MakeGuard):
    server, pin, search = serve(aloud), guarded(TELLING), Search(result_as_answer=True)
    assert attach(a_crew(thinking(server), search), pin).kickoff().raw == "I was not allowed to."
    assert (search.ran, len(server.requests)) == ([], 2)


@pytest.mark.slow
def test_of_parallel_calls_only_the_denied_one_is_answered_so(serve: Serve, guarded: MakeGuard):
    calls = [("search", {"q": "pins"}), ("search", {"q": "secrets"}), ("search", {"q": "shears"})]
    server = serve([tool_calls(calls), reply("done")])
    pin, search = guarded(ToolPolicy(deny=["search(q=secrets)"], on_deny="tell")), Search()
    attach(a_crew(llm(server), search), pin).kickoff()
    assert sorted(search.ran) == ["pins", "shears"]
    results = [message["content"] for message in server.requests[-1].messages if message["role"] == "tool"]
    assert results == ["found pins", DENIED, "found shears"]
    assert pin.traces[-1].tool_calls == 2


@pytest.mark.slow
def test_a_model_that_repeats_what_it_was_denied_is_in_a_loop(serve: Serve, guarded: MakeGuard):
    server, pin = serve(endless("search", {"q": "pins"})), guarded(TELLING, LoopBreaker(threshold=3))
    with pytest.raises(LoopDetectedError):
        attach(a_crew(llm(server), Search()), pin).kickoff()
    assert (pin.traces[-1].status, len(server.requests)) == ("stopped", 4)


@pytest.mark.slow
def test_what_one_guard_lets_in_and_another_denies_is_not_made(serve: Serve, guarded: MakeGuard):
    server, lenient, strict, search = serve(per_conversation(NATIVE)), guarded(), guarded(TELLING), Search()
    with attached(strict), attached(lenient):
        a_crew(llm(server), search).kickoff()
    assert search.ran == []
    assert [span.status for span in lenient.traces[-1].spans_of("tool")] == ["cancelled"]
    assert strict.traces[-1].spans_of("tool") == []


# --- a manager and its coworkers


def a_hierarchy(server: Any, *, thinks_aloud: bool, search: Search) -> Crew:
    model = thinking(server) if thinks_aloud else llm(server)
    digger = an_agent(model, search, role="digger")
    boss = an_agent(model, role="boss", allow_delegation=True)
    return Crew(agents=[digger], tasks=[a_task(None)], manager_agent=boss, process=Process.hierarchical)


@pytest.mark.slow
@pytest.mark.parametrize("thinks_aloud", [False, True])
@pytest.mark.parametrize("denied", ["delegate_work_to_coworker", "search"])
def test_a_manager_and_its_coworker_are_told(serve: Serve, guarded: MakeGuard, thinks_aloud: bool, denied: str):
    work = {"task": "dig", "context": "pins", "coworker": "digger"}

    def script(request: Request) -> Any:
        said = str(request.messages[1:])
        if "Observation: " in said or any(message["role"] == "tool" for message in request.messages):
            return react_answer("enough") if thinks_aloud else reply("enough")
        boss = "boss" in str(request.messages[0])
        name, given = ("delegate_work_to_coworker", work) if boss else ("search", {"q": "pins"})
        return react_call(name, **given) if thinks_aloud else tool_call(name, given)

    server, search = serve(script), Search()
    pin = guarded(ToolPolicy(deny=[denied], on_deny="tell"))
    assert attach(a_hierarchy(server, thinks_aloud=thinks_aloud, search=search), pin).kickoff().raw == "enough"
    assert search.ran == []
    asked = [span.agent for span in pin.traces[-1].spans_of("llm")]
    assert asked == (["boss", "boss"] if denied != "search" else ["boss", "digger", "digger", "boss"])
    assert ("deny", denied) in verdicts(pin.traces[-1])
    assert f"The call of {denied} was denied" in str([request.messages for request in server.requests])


@pytest.mark.slow
@pytest.mark.parametrize("denied", ["delegate_work_to_coworker", "search"])
def test_a_denial_stops_a_manager_too(serve: Serve, guarded: MakeGuard, denied: str):
    work = {"task": "dig", "context": "pins", "coworker": "digger"}

    def script(request: Request) -> Any:
        boss = "boss" in str(request.messages[0])
        return tool_call("delegate_work_to_coworker", work) if boss else tool_call("search", {"q": "pins"})

    server, search = serve(script), Search()
    pin = guarded(ToolPolicy(deny=[denied]))
    with pytest.raises(ToolDeniedError):
        attach(a_hierarchy(server, thinks_aloud=False, search=search), pin).kickoff()
    assert (search.ran, len(server.requests)) == ([], 1 if denied != "search" else 2)


# --- asking a person


@pytest.mark.parametrize("mode", first(["kickoff", "akickoff"]))
@pytest.mark.parametrize("thinks_aloud", first([False, True]))
@pytest.mark.parametrize("yes", first([False, True]))
def test_a_person_is_asked_before_the_tool_runs(
    serve: Serve, guarded: MakeGuard, mode: str, thinks_aloud: bool, yes: bool
):
    asked: list[Any] = []

    async def person(request: Any) -> Any:
        await asyncio.sleep(0)
        asked.append((request.tool, request.arguments, request.agent, search.ran.copy()))
        return yes, "because"

    server, search = serve(aloud if thinks_aloud else per_conversation(NATIVE)), Search()
    pin = guarded(ToolPolicy(ask=["search"], approver=person))
    crew = attach(a_crew(thinking(server) if thinks_aloud else llm(server), search), pin)
    if yes:
        run_mode(crew, mode)
    else:
        with pytest.raises(ApprovalRejectedError, match="because"):
            run_mode(crew, mode)
    assert asked == [("search", {"q": "pins"}, "researcher", [])]
    assert (search.ran, len(server.requests)) == ((["pins"], 2) if yes else ([], 1))


@pytest.mark.slow
def test_a_rejected_call_may_be_told(serve: Serve, guarded: MakeGuard):
    server, search = serve(per_conversation(NATIVE)), Search()
    pin = guarded(ToolPolicy(ask=["search"], approver=lambda _: (False, "too dear"), on_deny="tell"))
    attach(a_crew(llm(server), search), pin).kickoff()
    assert search.ran == []
    assert "The call of search was denied and did not run: too dear." in str(server.requests[-1].messages)


@pytest.mark.slow
def test_nobody_there_to_ask_is_a_no(serve: Serve, guarded: MakeGuard):
    server, search = serve(per_conversation(NATIVE)), Search()
    with pytest.raises(ApprovalRejectedError, match="nobody to ask"):
        attach(a_crew(llm(server), search), guarded(ToolPolicy(ask=["search"]))).kickoff()
    assert search.ran == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kickoff", "akickoff"])
def test_parallel_calls_may_ask_at_once(serve: Serve, guarded: MakeGuard, mode: str):
    both = threading.Barrier(2, timeout=10)

    def person(_: Any) -> bool:
        both.wait()
        return True

    server = serve([tool_calls([("search", {"q": "pins"}), ("search", {"q": "shears"})]), reply("done")])
    search = Search()
    run_mode(attach(a_crew(llm(server), search), guarded(ToolPolicy(ask=["search"], approver=person))), mode)
    assert sorted(search.ran) == ["pins", "shears"]


@pytest.mark.slow
@pytest.mark.parametrize("thinks_aloud", [False, True])
def test_a_person_who_thinks_does_not_hold_up_the_event_loop(serve: Serve, guarded: MakeGuard, thinks_aloud: bool):
    ticks = 0

    def person(_: Any) -> bool:
        before = ticks
        wait_until(lambda: ticks > before + 3)
        return True

    async def main() -> None:
        nonlocal ticks
        model = thinking(server) if thinks_aloud else llm(server)
        going = asyncio.create_task(attach(a_crew(model, search), pin).akickoff())
        while not going.done():
            ticks += 1
            await asyncio.sleep(0.01)
        await going

    server, search = serve(aloud if thinks_aloud else per_conversation(NATIVE)), Search()
    pin = guarded(ToolPolicy(ask=["search"], approver=person))
    asyncio.run(main())
    assert search.ran == ["pins"]


@pytest.mark.slow
@pytest.mark.parametrize("on_deny", ["stop", "tell"])
def test_every_try_of_a_tool_that_thinks_aloud_is_asked_for(serve: Serve, guarded: MakeGuard, on_deny: Any):
    def fail(_: str) -> str:
        raise LookupError("no such pin")

    answers = iter([True, False])
    server, search = serve(lambda _: react_call("search", q="pins")), Search(body=fail)
    pin = guarded(ToolPolicy(ask=["search"], approver=lambda _: next(answers), on_deny=on_deny))
    with pytest.raises(ApprovalRejectedError):
        attach(a_crew(thinking(server), search), pin).kickoff()
    assert len(pin.traces[-1].spans_of("tool")) == 1
    assert len(server.requests) == 1


# --- functions that a model calls by itself


@pytest.mark.slow
@pytest.mark.parametrize("around", [False, True])
def test_a_function_that_a_model_calls_by_itself_can_be_denied(serve: Serve, guarded: MakeGuard, around: bool):
    server, pin, ran = serve([tool_call("search", {"q": "pins"})]), guarded(TELLING), list[str]()
    tool = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
    with attached(pin), pin.run("all") if around else nullcontext():
        answer = llm(server).call("Find pins.", tools=[tool], available_functions={"search": ran.append})
    assert (ran, answer) == ([], "")
    assert ("deny", "search") in [pair for trace in pin.traces for pair in verdicts(trace)]
    assert [span.kind for trace in pin.traces for span in trace.spans_of("tool")] == []


@pytest.mark.slow
def test_a_tool_that_asks_a_model_with_functions_of_its_own_is_no_error(serve: Serve, guarded: MakeGuard):
    def body(_: str) -> str:
        inner.call("Dig.", tools=[tool], available_functions={"dig": lambda: "dirt"})
        return "found"

    tool = {"type": "function", "function": {"name": "dig", "parameters": {"type": "object"}}}
    inner, server = llm(serve([tool_call("dig", {})])), serve(per_conversation(NATIVE))
    pin = guarded(ToolPolicy(deny=["dig"], on_deny="tell"))
    attach(a_crew(llm(server), Search(body=body)), pin).kickoff()
    assert [(span.name, span.status) for span in pin.traces[-1].spans_of("tool")] == [("search", "ok")]
