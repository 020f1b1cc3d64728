"""Streams, which start when they are iterated, and flows, which start crews."""

import asyncio
import contextlib
from typing import Any

import pytest
from crewai.flow.async_feedback.types import HumanFeedbackPending
from crewai.flow.flow import Flow, listen, start
from crewai.flow.human_feedback import human_feedback
from crewai.flow.persistence import persist
from pydantic import BaseModel

from shearpin import Budget, BudgetExceededError, current_run
from shearpin.testing import endless, per_conversation, reply, tool_call
from shearpin_integrations.crewai import attach, attached
from tests.integrations.crewai.conftest import MakeGuard, Search, Serve, a_crew, an_agent, first, llm

# --- streams


def test_a_stream_is_guarded_where_it_is_iterated(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    pin = guarded(Budget(llm_calls=2))
    with attached(pin):
        stream = a_crew(llm(server, stream=True), Search(), crew={"stream": True}).kickoff()
    assert server.requests == []
    with pytest.raises(BudgetExceededError):
        list(stream)
    assert len(server.requests) == 2
    assert [trace.status for trace in pin.traces] == ["stopped"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kickoff_async", "akickoff"])
def test_an_async_stream_is_guarded(serve: Serve, guarded: MakeGuard, mode: str):
    server = serve(endless("search", {"q": "pins"}))
    pin = guarded(Budget(llm_calls=2))
    crew = attach(a_crew(llm(server, stream=True), Search(), crew={"stream": True}), pin)

    async def consume() -> None:
        async for _ in await getattr(crew, mode)():
            pass

    with pytest.raises(BudgetExceededError):
        asyncio.run(consume())
    assert len(server.requests) == 2


@pytest.mark.slow
def test_a_stream_tells_its_usage_and_its_first_token(serve: Serve, guarded: MakeGuard):
    server = serve([reply("A pin shears first.", chunk_delay=0.01)])
    pin = guarded()
    stream = attach(a_crew(llm(server, stream=True), crew={"stream": True}), pin).kickoff()
    assert "".join(chunk.content for chunk in stream if chunk.content)
    (call,) = pin.traces[-1].spans_of("llm")
    assert (call.usage.input_tokens, call.usage.output_tokens) == (server.usage.input, server.usage.output)
    assert call.time_to_first_token_ns
    assert call.reply == "A pin shears first."


# --- flows


class Digging(Flow):
    crews: Any = None

    @start()
    def dig(self) -> str:
        return self.crews[0].kickoff().raw

    @listen(dig)
    async def sift(self, _: str) -> str:
        return (await self.crews[1].akickoff()).raw


def a_flow(server: Any, kind: Any = Digging, **options: Any) -> Any:
    flow = kind(**options)
    flow.crews = [a_crew(llm(server), Search(), crew={"name": name}) for name in ("one", "two")]
    return flow


@pytest.mark.parametrize("mode", first(["kickoff", "kickoff_async", "akickoff"]))
def test_a_flow_is_one_run_with_all_its_crews(serve: Serve, guarded: MakeGuard, mode: str):
    server = serve(per_conversation([tool_call("search", {"q": "pins"}), reply("done")]))
    pin = guarded(Budget(llm_calls=3))
    flow = attach(a_flow(server), pin, session_id="s1")
    with pytest.raises(BudgetExceededError):
        flow.kickoff() if mode == "kickoff" else asyncio.run(getattr(flow, mode)())
    assert len(server.requests) == 3
    (trace,) = pin.traces
    kinds = {span.span_id: (span.kind, span.name) for span in trace.spans}
    lineage = [(span.name, kinds[span.parent_id]) for span in trace.spans_of("agent") if span.parent_id]
    assert lineage[0] == ("one", ("node", "dig"))
    assert ("two", ("node", "sift")) in lineage
    assert (trace.name, trace.steps, trace.session_id) == ("Digging", 3, "s1")


@pytest.mark.slow
def test_a_flow_on_an_event_loop_as_in_a_notebook_raises_the_stop_itself(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    flow = attach(a_flow(server), guarded(Budget(llm_calls=1)))

    async def cell() -> None:
        flow.kickoff()

    with pytest.raises(BudgetExceededError):
        asyncio.run(cell())
    assert len(server.requests) == 1


@pytest.mark.slow
def test_a_flow_that_swallows_the_stop_still_raises_it(serve: Serve, guarded: MakeGuard):
    class Stubborn(Flow):
        crews: Any = None

        @start()
        def dig(self) -> str:
            for crew in self.crews:
                with contextlib.suppress(Exception):
                    crew.kickoff()
            return "all is well"

    server = serve(endless("search", {"q": "pins"}))
    pin = guarded(Budget(llm_calls=1))
    with pytest.raises(BudgetExceededError):
        attach(a_flow(server, Stubborn), pin).kickoff()
    assert len(server.requests) == 1


@pytest.mark.slow
def test_methods_side_by_side_keep_their_places(serve: Serve, guarded: MakeGuard):
    class Both(Flow):
        crews: Any = None

        @start()
        def left(self) -> str:
            return self.crews[0].kickoff().raw

        @start()
        def right(self) -> str:
            return self.crews[1].kickoff().raw

    server = serve(per_conversation([tool_call("search", {"q": "pins"}, delay=0.05), reply("done")]))
    pin = guarded()
    attach(a_flow(server, Both), pin).kickoff()
    (trace,) = pin.traces
    spans = {span.span_id: span for span in trace.spans}
    parents = {span.name: spans[span.parent_id].name for span in trace.spans_of("agent") if span.name in ("one", "two")}
    assert parents == {"one": "left", "two": "right"}
    assert trace.steps == 4


@pytest.mark.slow
def test_an_agent_in_a_flow_is_stopped(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    agent = an_agent(llm(server), Search())

    class Asking(Flow):
        @start()
        async def ask(self) -> Any:
            return await agent.kickoff_async("Find pins.")

        @listen(ask)
        def again(self) -> Any:
            return agent.kickoff("Find pins.")

    with pytest.raises(BudgetExceededError), attached(guarded(Budget(llm_calls=1))):
        Asking().kickoff()
    assert len(server.requests) == 1


class Notes(BaseModel):
    id: str = "notes"
    found: str = ""


@pytest.mark.slow
def test_a_persisted_flow_is_guarded_and_its_state_told(serve: Serve, guarded: MakeGuard):
    @persist()
    class Noting(Flow[Notes]):
        @start()
        def first(self) -> None:
            self.state.found = "a pin"

        @listen(first)
        def second(self) -> Any:
            return crew.kickoff()

    server = serve(endless("search", {"q": "pins"}))
    crew = a_crew(llm(server), Search())
    pin = guarded(Budget(llm_calls=1))
    with pytest.raises(BudgetExceededError) as stop:
        attach(Noting(), pin).kickoff()
    assert stop.value.partial["found"] == "a pin"
    assert pin.traces[-1].steps == 1


@pytest.mark.slow
def test_a_run_around_and_a_run_inside_make_one_tree(serve: Serve, guarded: MakeGuard):
    server = serve(per_conversation([tool_call("search", {"q": "pins"}), reply("done")]))
    pin = guarded()

    def body(_: str) -> str:
        with pin.run("inside") as run, run.step("think"):
            return str(current_run() is run)

    with pin.run("outside"):
        attach(a_crew(llm(server), Search(body=body)), pin).kickoff()
    (trace,) = pin.traces
    spans = {span.span_id: span for span in trace.spans}
    (inside,) = [span for span in trace.spans if span.name == "inside"]
    assert spans[inside.parent_id].kind == "tool"
    assert spans[inside.parent_id].output == "True"


@pytest.mark.slow
def test_a_crew_in_a_tool_is_part_of_the_tool(serve: Serve, guarded: MakeGuard):
    server = serve(per_conversation([tool_call("search", {"q": "pins"}), reply("done")]))
    pin, inner = guarded(Budget(llm_calls=3)), a_crew(llm(server), Search(), crew={"name": "inner"})
    outer = a_crew(llm(server), Search(body=lambda _: inner.kickoff().raw))
    with pytest.raises(BudgetExceededError):
        attach(outer, pin).kickoff()
    assert len(server.requests) == 3
    spans = {span.span_id: span for span in pin.traces[-1].spans}
    (crew,) = [span for span in spans.values() if span.name == "inner"]
    assert spans[crew.parent_id].kind == "tool"


# --- flows that wait for a person


class AskLater:
    """Asks nobody now: the flow waits, as behind a web form."""

    def request_feedback(self, context: Any, flow: Any) -> str:
        raise HumanFeedbackPending(context=context)


class Reviewed(Flow):
    crews: Any = None

    @start()
    @human_feedback(message="Is it right?", provider=AskLater())
    def dig(self) -> str:
        return self.crews[0].kickoff().raw

    @listen(dig)
    def sift(self, _: Any) -> str:
        return self.crews[1].kickoff().raw


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_flow_that_waited_for_a_person_counts_on(serve: Serve, guarded: MakeGuard, elsewhere: bool):
    server = serve(per_conversation([tool_call("search", {"q": "pins"}), reply("done")]))
    pin = guarded(Budget(llm_calls=3))
    pending = attach(a_flow(server, Reviewed), pin).kickoff()
    assert [(trace.status, trace.llm_calls) for trace in pin.traces] == [("paused", 2)]
    later = guarded(Budget(llm_calls=3)) if elsewhere else pin
    flow = Reviewed.from_pending(pending.context.flow_id)
    flow.crews = a_flow(server, Reviewed).crews
    with pytest.raises(BudgetExceededError):
        attach(flow, later).resume("It is.")
    assert len(server.requests) == 3
    assert [(trace.status, trace.llm_calls) for trace in later.traces] == [("stopped", 3)]


@pytest.mark.slow
def test_a_flow_goes_on_after_a_person_answered(serve: Serve, guarded: MakeGuard):
    server, pin = serve(lambda _: reply("done")), guarded()
    pending = attach(a_flow(server, Reviewed), pin).kickoff()
    flow = attach(Reviewed.from_pending(pending.context.flow_id), pin)
    flow.crews = a_flow(server, Reviewed).crews
    asyncio.run(flow.resume_async("It is."))
    (trace,) = pin.traces
    assert (trace.status, trace.llm_calls, trace.output) == ("ok", 2, "done")
