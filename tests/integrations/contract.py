"""What "supports a framework" means: the same behaviours, asserted in the same words, whatever the framework.

A framework's tests subclass `Contract` and say how an agent of that framework is made (`agent`); every test here then
runs against the framework itself, with its own client of a real server, in every mode it has.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from shearpin import (
    ApprovalRejectedError,
    Budget,
    BudgetExceededError,
    Guard,
    LoopBreaker,
    LoopDetectedError,
    RunStoppedError,
    ToolDeniedError,
    ToolPolicy,
    Trace,
    current_run,
)
from shearpin.testing import (
    Reply,
    Request,
    Script,
    ScriptedServer,
    Tokens,
    endless,
    error,
    reply,
    tool_call,
    tool_calls,
)
from shearpin_exporters.files import JSONLinesExporter

QUESTION = "What is a shear pin?"
USAGE = Tokens(1_000, 200, cached=400, reasoning=50)
PRICES = {"gpt-4o": {"input": 2.5, "output": 10.0, "cached_input": 1.25}}
COST = (600 * 2.5 + 400 * 1.25 + 200 * 10.0) / 1e6


@dataclass
class Tool:
    """A tool of one argument ``query``, and how often its body began and ended."""

    name: str
    body: Callable[[str], Any] = "found {}".format
    began: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def __call__(self, query: str) -> Any:
        self.began.append(query)
        answer = self.body(query)
        self.ended.append(query)
        return answer


@dataclass
class Agent:
    """An agent of some framework: `ask` runs it once, in the mode given, under `guard` or under none."""

    ask: Callable[..., Any]
    """``ask(mode, question, guard=..., times=1, **identity)`` gives the final answer's text."""


def conversation(request: Request) -> Reply:
    """Two rounds of tools, one call and then two at once, and an answer."""
    if request.turn == 0:
        return tool_call("search", {"query": "shear"}, usage=USAGE)
    if request.turn == 1:
        return tool_calls([("search", {"query": "pin"}), ("note", {"query": "breaks"})], usage=USAGE)
    return reply("It breaks first.", usage=USAGE)


def ever_new(tool: str) -> Script:
    """A model that never ends, and never asks for the same twice."""
    return lambda request: tool_call(tool, {"query": f"attempt number {request.turn}"}, usage=USAGE)


def outline(trace: Trace) -> list[tuple[Any, ...]]:
    """What every framework's trace of one conversation has in common, in the order of its starts."""
    return [
        (span.kind, span.name, span.step, span.status)
        for span in trace.spans
        if span.kind in ("llm", "tool", "handoff", "decision")
    ]


class Contract:
    """The behaviours. Subclasses say what the framework is."""

    modes: ClassVar[Sequence[str]] = ("sync", "async", "stream")
    passes_through: ClassVar[type[BaseException]] = RunStoppedError
    """The framework's own class, which a stop is an instance of too."""
    polls: ClassVar[int] = 5
    """How often in a row the framework lets one call be made anew."""

    def agent(self, server: ScriptedServer, tools: Sequence[Tool], *, model: str = "gpt-4o") -> Agent:
        """An agent of the framework under test."""
        raise NotImplementedError

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        if "mode" in metafunc.fixturenames:
            metafunc.parametrize("mode", cls.modes)

    # --- fixtures -------------------------------------------------------------------------------------------------

    @pytest.fixture
    def serve(self) -> Iterator[Callable[..., ScriptedServer]]:
        servers: list[ScriptedServer] = []

        def start(script: Any, **options: Any) -> ScriptedServer:
            servers.append(ScriptedServer(script, **options))
            return servers[-1]

        yield start
        for server in servers:
            server.close()

    # --- stops ----------------------------------------------------------------------------------------------------

    def test_a_budget_stops_before_the_call_that_would_exceed_it(self, serve, mode):
        server, search = serve(ever_new("search")), Tool("search")
        pin = Guard(Budget(llm_calls=3))

        with pytest.raises(BudgetExceededError) as stop:
            self.agent(server, [search]).ask(mode, QUESTION, guard=pin)

        assert (server.served, len(search.ended)) == (3, 3)
        assert isinstance(stop.value, self.passes_through)
        (trace,) = pin.traces
        assert stop.value is trace.stop.error
        assert stop.value.trace is trace
        assert (trace.status, trace.llm_calls, trace.tool_calls, trace.steps) == ("stopped", 3, 3, 3)

    def test_a_tool_over_budget_never_begins(self, serve, mode):
        server, search = serve(ever_new("search")), Tool("search")

        with pytest.raises(BudgetExceededError, match="2 tool calls per run is used up"):
            self.agent(server, [search]).ask(mode, QUESTION, guard=Guard(Budget(tool_calls=2)))

        assert (len(search.began), server.served) == (2, 3)

    def test_dollars_are_counted_and_limited(self, serve, mode):
        server = serve(ever_new("search"))
        pin = Guard(Budget(usd=3 * COST, expected_output_tokens=10), prices=PRICES)

        with pytest.raises(BudgetExceededError) as stop:
            self.agent(server, [Tool("search")]).ask(mode, QUESTION, guard=pin)

        assert (stop.value.unit, server.served) == ("usd", 3)
        assert pin.traces[-1].usage.cost_usd == pytest.approx(3 * COST)

    def test_a_model_without_a_price_is_refused_before_its_first_call(self, serve, mode):
        server = serve([reply("never")])
        pin = Guard(Budget(usd=1.0))

        with pytest.raises(BudgetExceededError) as stop:
            self.agent(server, [], model="nobody-knows-me").ask(mode, QUESTION, guard=pin)

        assert (stop.value.estimate, server.served) == (None, 0)

    def test_a_loop_is_stopped_before_it_goes_on(self, serve, mode):
        server, search = serve(endless("search", {"query": "shear"})), Tool("search", lambda _: "nothing found")

        with pytest.raises(LoopDetectedError) as stop:
            self.agent(server, [search]).ask(mode, QUESTION, guard=Guard(LoopBreaker()))

        assert len(search.began) <= 3
        assert server.served <= 4
        assert "search" in stop.value.calls[0]

    def test_polling_that_gets_somewhere_goes_on(self, serve, mode):
        states = iter(range(0, 101, 20))
        poll = Tool("poll", lambda _: f"{next(states)} % done")
        server = serve([*[tool_call("poll", {"query": "job 7"})] * self.polls, reply("Done.")])
        pin = Guard(LoopBreaker())

        answer = self.agent(server, [poll]).ask(mode, QUESTION, guard=pin)

        assert ("Done." in answer, len(poll.ended), pin.traces[-1].status) == (True, self.polls, "ok")

    def test_after_a_stop_nothing_more_is_called(self, serve, mode):
        server, search = serve(ever_new("search")), Tool("search")
        pin = Guard(Budget(llm_calls=1))
        with pytest.raises(RunStoppedError):
            self.agent(server, [search]).ask(mode, QUESTION, guard=pin)
        before = (server.served, len(search.began))

        time.sleep(0.1)

        assert (server.served, len(search.began), pin.active) == (*before, [])
        with pytest.raises(BudgetExceededError):
            pin.raise_if_stopped()

    def test_the_same_agent_runs_afresh_after_a_stop(self, serve, mode):
        server = serve(conversation)
        agent, pin = self.agent(server, [Tool("search"), Tool("note")]), Guard(Budget(llm_calls=1))
        with pytest.raises(RunStoppedError):
            agent.ask(mode, QUESTION, guard=pin)

        more = Guard(Budget(llm_calls=3))
        assert "It breaks first." in agent.ask(mode, QUESTION, guard=more)
        assert [trace.status for trace in (*pin.traces, *more.traces)] == ["stopped", "ok"]

    def test_of_parallel_tools_no_more_run_than_the_budget_has(self, serve, mode):
        many = [("search", {"query": f"subject {number}"}) for number in range(5)]
        server, search = serve([tool_calls(many), reply("end")], repeat_last=True), Tool("search")

        with pytest.raises(BudgetExceededError):
            self.agent(server, [search]).ask(mode, QUESTION, guard=Guard(Budget(tool_calls=2)))

        assert len(search.began) <= 2
        assert server.served == 1

    def test_a_stop_inside_a_tool_gets_out(self, serve, mode):
        pin = Guard(Budget(tool_calls=2))

        def dig(query: str) -> str:
            run = current_run()
            for number in range(5):
                with run.tool("shovel", {"number": number}):
                    pass
            return "a hole"

        server = serve(endless("dig", {"query": "here"}))
        with pytest.raises(BudgetExceededError) as stop:
            self.agent(server, [Tool("dig", dig)]).ask(mode, QUESTION, guard=pin)

        assert stop.value is pin.traces[-1].stop.error
        assert server.served == 1
        assert [span.name for span in pin.traces[-1].spans_of("tool")] == ["dig", "shovel"]

    # --- the trace ------------------------------------------------------------------------------------------------

    def test_one_conversation_has_one_outline_everywhere(self, serve, mode):
        pin = Guard(Budget(llm_calls=10))

        self.agent(serve(conversation), [Tool("search"), Tool("note")]).ask(mode, QUESTION, guard=pin)

        (trace,) = pin.traces
        first, second, third, *rest = [row for row in outline(trace) if row[0] in ("llm", "tool")]
        assert (first, second, third) == (
            ("llm", "gpt-4o", 1, "ok"),
            ("tool", "search", 1, "ok"),
            ("llm", "gpt-4o", 2, "ok"),
        )
        assert sorted(rest[:2]) == [("tool", "note", 2, "ok"), ("tool", "search", 2, "ok")]
        assert rest[2:] == [("llm", "gpt-4o", 3, "ok")]
        assert (trace.status, trace.steps, trace.llm_calls, trace.tool_calls) == ("ok", 3, 3, 3)
        assert trace.decisions == []

    def test_usage_is_the_servers_own_count(self, serve, mode):
        server, pin = serve(conversation), Guard(Budget(usd=1.0), prices=PRICES)

        self.agent(server, [Tool("search"), Tool("note")]).ask(mode, QUESTION, guard=pin)

        usage, served = pin.traces[-1].usage, server.usage
        assert (usage.input_tokens, usage.output_tokens) == (served.input, served.output)
        assert (usage.cached_input_tokens, usage.reasoning_tokens) == (served.cached, served.reasoning)
        assert usage.cost_usd == pytest.approx(3 * COST)

    def test_calls_are_recorded_in_full(self, serve, mode):
        pin = Guard(LoopBreaker())

        answer = self.agent(serve(conversation), [Tool("search"), Tool("note")]).ask(mode, QUESTION, guard=pin)

        trace = pin.traces[-1]
        asking, _, last = trace.spans_of("llm")
        assert "It breaks first." in answer
        assert last.reply == "It breaks first."
        assert any(QUESTION in str(message["content"]) for message in asking.messages)
        assert [(call["name"], call["arguments"]) for call in asking.tool_calls] == [("search", {"query": "shear"})]
        assert (asking.request_model, asking.finish_reason, last.finish_reason) == ("gpt-4o", "tool_calls", "stop")
        assert {tool["name"] if "name" in tool else tool["function"]["name"] for tool in asking.tools} == {
            "search",
            "note",
        }
        assert asking.usage.reasoning_tokens == 50
        tools = {span.arguments["query"]: span for span in trace.spans_of("tool")}
        assert {query: (span.name, span.result) for query, span in tools.items()} == {
            "shear": ("search", "found shear"),
            "pin": ("search", "found pin"),
            "breaks": ("note", "found breaks"),
        }
        assert tools["shear"].call_id == asking.tool_calls[0]["id"]
        assert all(span.end_ns >= span.start_ns > 0 for span in trace.spans)
        assert "It breaks first." in str(trace.output)

    def test_identity_reaches_the_trace(self, serve, mode):
        pin = Guard(Budget(llm_calls=5))

        self.agent(serve([reply("hi")]), []).ask(mode, QUESTION, guard=pin, session_id="s1", user_id="u1")

        assert (pin.traces[-1].session_id, pin.traces[-1].user_id) == ("s1", "u1")

    def test_a_file_holds_what_the_trace_holds(self, serve, mode, tmp_path):
        pin = Guard(LoopBreaker(), exporters=[JSONLinesExporter(tmp_path / "runs.jsonl")])

        self.agent(serve(conversation), [Tool("search"), Tool("note")]).ask(mode, QUESTION, guard=pin)

        loaded = Trace.load(tmp_path / "runs.jsonl")
        assert outline(loaded) == outline(pin.traces[-1])
        assert loaded.usage == pin.traces[-1].usage

    # --- never in the way -----------------------------------------------------------------------------------------

    def test_observing_changes_nothing(self, serve, mode):
        server, search = serve(conversation), Tool("search")
        pin = Guard(Budget(llm_calls=1), mode="observe")

        answer = self.agent(server, [search, Tool("note")]).ask(mode, QUESTION, guard=pin)

        assert ("It breaks first." in answer, server.served, len(search.ended)) == (True, 3, 2)
        (observed,) = [decision for decision in pin.traces[-1].decisions if decision.verdict == "stop"]
        assert observed.facts["observed"] is True
        assert pin.traces[-1].status == "ok"

    def test_an_exporter_that_fails_changes_nothing(self, serve, mode, monkeypatch):
        monkeypatch.setattr("shearpin.runs.trouble.STRICT", False)

        class Broken:
            def span_started(self, *_):
                raise OSError("disk full")

            span_ended = run_ended = span_started

        pin = Guard(Budget(llm_calls=9), exporters=[Broken()])

        answer = self.agent(serve(conversation), [Tool("search"), Tool("note")]).ask(mode, QUESTION, guard=pin)

        assert "It breaks first." in answer

    def test_the_frameworks_own_errors_pass_unchanged(self, serve, mode):
        agent = self.agent(serve([error(400, "no such thing")], repeat_last=True), [])
        pin = Guard(Budget(llm_calls=9))
        raised = []
        for guard in (None, pin):
            with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is without a guard
                agent.ask(mode, QUESTION, guard=guard)
            raised.append((type(caught.value).__name__, str(caught.value)))

        bare, guarded = raised
        assert guarded == bare
        assert pin.traces[-1].status == "error"
        assert pin.active == []

    # --- ways of being there --------------------------------------------------------------------------------------

    def test_a_guard_reached_twice_counts_once(self, serve, mode):
        pin = Guard(Budget(llm_calls=3))

        self.agent(serve(conversation), [Tool("search"), Tool("note")]).ask(mode, QUESTION, guard=pin, times=2)

        assert (len(pin.traces), pin.traces[-1].llm_calls, pin.traces[-1].tool_calls) == (1, 3, 3)

    def test_runs_of_one_guard_at_the_same_time_do_not_mix(self, serve, mode):
        pin, agent = Guard(Budget(llm_calls=3)), self.agent(serve(conversation), [Tool("search"), Tool("note")])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: agent.ask(mode, f"{QUESTION} {number}", guard=pin), range(4)))

        assert [(trace.status, trace.llm_calls, trace.tool_calls) for trace in pin.traces] == [("ok", 3, 3)] * 4
        assert len({trace.trace_id for trace in pin.traces}) == 4

    def test_inside_a_run_it_is_a_part_of_that_run(self, serve, mode):
        pin, agent = Guard(Budget(llm_calls=4)), self.agent(serve(conversation), [Tool("search"), Tool("note")])

        with pytest.raises(BudgetExceededError), pin.run("all") as run:
            agent.ask(mode, QUESTION, guard=pin)
            agent.ask(mode, QUESTION, guard=pin)

        assert run.trace.llm_calls == 4
        assert [trace.name for trace in pin.traces] == ["all"]

    def test_a_run_inside_of_a_tool_is_a_part_of_the_agents_run(self, serve, mode):
        pin = Guard(Budget(tool_calls=20))

        def delegate(query: str) -> str:
            with pin.run("helper") as run, run.tool("inner", {"query": query}):
                pass
            return "helped"

        self.agent(serve([tool_call("delegate", {"query": "x"}), reply("end")]), [Tool("delegate", delegate)]).ask(
            mode, QUESTION, guard=pin
        )

        (trace,) = pin.traces
        inner = next(span for span in trace.spans if span.name == "inner")
        assert trace.tool_calls == 2
        assert inner.agent == "helper"

    # --- policies -------------------------------------------------------------------------------------------------

    def test_a_denied_tool_never_begins_and_the_run_stops(self, serve, mode):
        server, note = serve(conversation), Tool("note")
        pin = Guard(ToolPolicy(deny=["note"]))

        with pytest.raises(ToolDeniedError) as stop:
            self.agent(server, [Tool("search"), note]).ask(mode, QUESTION, guard=pin)

        assert (note.began, server.served) == ([], 2)
        assert (stop.value.tool, stop.value.arguments) == ("note", {"query": "breaks"})
        assert isinstance(stop.value, self.passes_through)

    def test_a_told_denial_is_the_tools_answer(self, serve, mode):
        server, note = serve(conversation), Tool("note")
        pin = Guard(ToolPolicy(deny=["note"], on_deny="tell"))

        answer = self.agent(server, [Tool("search"), note]).ask(mode, QUESTION, guard=pin)

        trace = pin.traces[-1]
        assert ("It breaks first." in answer, note.began, server.served) == (True, [], 3)
        assert "The call of note was denied and did not run" in str(trace.spans_of("llm")[-1].messages)
        assert (trace.status, trace.tool_calls, trace.steps) == ("ok", 2, 3)
        assert [d.verdict for d in trace.decisions if d.facts.get("tool") == "note"] == ["deny"]

    def test_an_approver_is_asked_and_an_approved_call_runs_once(self, serve, mode):
        asked: list[Any] = []
        note = Tool("note")
        pin = Guard(ToolPolicy(ask=["note"], approver=lambda request: not asked.append(request.arguments)))

        self.agent(serve(conversation), [Tool("search"), note]).ask(mode, QUESTION, guard=pin)

        assert (asked, note.ended) == ([{"query": "breaks"}], ["breaks"])
        assert [d.verdict for d in pin.traces[-1].decisions if d.facts.get("tool") == "note"] == ["ask", "approved"]

    def test_a_rejected_call_never_begins(self, serve, mode):
        async def approver(request):
            await asyncio.sleep(0)
            return False, "not now"

        note = Tool("note")

        with pytest.raises(ApprovalRejectedError, match="tool note was not approved by approver: not now"):
            self.agent(serve(conversation), [Tool("search"), note]).ask(
                mode, QUESTION, guard=Guard(ToolPolicy(ask=["note"], approver=approver))
            )

        assert note.began == []

    # --- nothing stays --------------------------------------------------------------------------------------------

    def test_no_thread_of_ours_stays(self, serve, mode):
        before = set(threading.enumerate())
        server = serve(conversation)

        self.agent(server, [Tool("search"), Tool("note")]).ask(mode, QUESTION, guard=Guard(LoopBreaker()))
        server.close()

        new = {thread.name for thread in set(threading.enumerate()) - before}
        assert {name for name in new if "shearpin" in name.lower()} == set()
