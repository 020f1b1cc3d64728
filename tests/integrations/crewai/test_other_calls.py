"""Model calls that no agent's loop makes: plans, converters, guardrails, memory, and models of the user's own."""

from contextlib import nullcontext
from typing import Any

import pytest
from crewai import BaseLLM, Crew, PlanningConfig, Process
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.memory.unified_memory import Memory
from crewai.tasks.llm_guardrail import LLMGuardrail
from pydantic import BaseModel

from shearpin import Budget, BudgetExceededError, ToolDeniedError, ToolPolicy
from shearpin.testing import Tokens, endless, per_conversation, reply, tool_call
from shearpin_integrations.crewai import attach, attached
from tests.integrations.crewai.conftest import MakeGuard, Search, Serve, a_crew, a_task, an_agent, first, llm


class Fact(BaseModel):
    fact: str


def assert_recorded(pin: Any, server: Any) -> None:
    """The trace's totals are what the server has billed."""
    trace, billed = pin.traces[-1], server.usage
    assert trace.llm_calls == len(server.requests)
    used = trace.usage
    counted = (used.input_tokens, used.output_tokens, used.cached_input_tokens, used.reasoning_tokens)
    assert counted == (billed.input, billed.output, billed.cached, billed.reasoning)
    assert [span for span in trace.spans_of("llm") if span.usage_estimated] == []


# --- usage


def test_usage_is_what_the_server_says(serve: Serve, guarded: MakeGuard):
    usage = Tokens(1000, 500, cached=900, reasoning=300)
    server = serve([tool_call("search", {"q": "pins"}, usage=usage), reply("done", usage=usage)])
    pin = guarded()
    attach(a_crew(llm(server), Search()), pin).kickoff()
    assert_recorded(pin, server)
    assert pin.traces[-1].usage.cost_usd > 0


@pytest.mark.slow
def test_a_call_without_usage_is_charged_its_estimate(serve: Serve, guarded: MakeGuard):
    pin = guarded()
    attach(a_crew(llm(serve([reply("done", usage=None)]), max_tokens=100), role="r"), pin).kickoff()
    (call,) = pin.traces[-1].spans_of("llm")
    assert call.usage_estimated
    assert call.usage.output_tokens == 100


@pytest.mark.slow
def test_a_failed_request_costs_nothing(serve: Serve, guarded: MakeGuard):
    from shearpin.testing import error

    pin = guarded()
    crew = attach(a_crew(llm(serve(lambda _: error(500))), max_retry_limit=0), pin)
    with pytest.raises(Exception, match="server had an error"):
        crew.kickoff()
    (call, *_) = pin.traces[-1].spans_of("llm")
    assert (call.status, call.error.type, pin.traces[-1].usage.total_tokens) == ("error", "InternalServerError", 0)


# --- structured answers


@pytest.mark.slow
def test_a_structured_answer_is_counted_and_recorded(serve: Serve, guarded: MakeGuard):
    server = serve(lambda _: reply('{"fact": "Pins shear."}', usage=(100, 10)))
    agent = an_agent(llm(server))
    crew = Crew(agents=[agent], tasks=[a_task(agent, output_pydantic=Fact)])
    pin = guarded()
    assert attach(crew, pin).kickoff().pydantic == Fact(fact="Pins shear.")
    assert_recorded(pin, server)
    assert pin.traces[-1].output == {"fact": "Pins shear."}


@pytest.mark.slow
def test_an_answer_of_the_wrong_structure_is_billed_once(serve: Serve, guarded: MakeGuard):
    server = serve(lambda _: reply("no JSON at all", usage=(100, 10)))
    agent = an_agent(llm(server), max_retry_limit=0)
    crew = Crew(agents=[agent], tasks=[a_task(agent, output_pydantic=Fact)])
    pin = guarded(Budget(llm_calls=4))
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever CrewAI makes of it
        attach(crew, pin).kickoff()
    trace = pin.traces[-1]
    assert trace.llm_calls == len(server.requests) <= 4
    assert all(span.usage is not None and span.usage.input_tokens for span in trace.spans_of("llm"))


# --- plans


def planner(request: Any) -> Any:
    text = str(request.messages)
    functions = [tool["function"]["name"] for tool in request.tools]
    if "create_reasoning_plan" in functions:
        steps = [
            {"step_number": n, "description": f"step {n}", "tool_to_use": "search", "depends_on": []} for n in (1, 2)
        ]
        return tool_call("create_reasoning_plan", {"plan": "search twice", "steps": steps, "ready": True})
    if "response_format" in request.body:
        return reply(
            '{"step_completed_successfully": true, "key_information_learned": "x", "remaining_plan_still_valid": true,'
            '"needs_full_replan": false, "goal_already_achieved": false}'
        )
    if "search" in functions and request.turn == 0 and "step" in text:
        return tool_call("search", {"q": text[-20:]})
    return reply("done")


@pytest.mark.parametrize("effort", first(["low", "medium", "high"]))
def test_an_agent_that_plans_is_counted_and_stopped(serve: Serve, guarded: MakeGuard, effort: str):
    server = serve(planner)
    crew = a_crew(llm(server), Search(), planning_config=PlanningConfig(reasoning_effort=effort))
    pin = guarded()
    with attached(pin):
        crew.kickoff()
    assert_recorded(pin, server)
    assert len(server.requests) > 2
    for limit in (1, 2, 3):
        server.reset()
        with pytest.raises(BudgetExceededError), attached(guarded(Budget(llm_calls=limit))):
            crew.copy().kickoff()
        assert len(server.requests) == limit


@pytest.mark.slow
@pytest.mark.parametrize("on_deny", ["stop", "tell"])
def test_the_tools_of_a_plan_are_under_a_policy(serve: Serve, guarded: MakeGuard, on_deny: Any):
    server, search = serve(planner), Search()
    pin = guarded(ToolPolicy(deny=["search"], on_deny=on_deny))
    crew = attach(a_crew(llm(server), search, planning_config=PlanningConfig(reasoning_effort="low")), pin)
    with pytest.raises(ToolDeniedError) if on_deny == "stop" else nullcontext():
        crew.kickoff()
    assert search.ran == []
    told = "The call of search was denied and did not run" in str([request.messages for request in server.requests])
    assert (told, pin.traces[-1].tool_calls) == (on_deny == "tell", 0)


@pytest.mark.slow
def test_a_crew_that_plans_is_stopped(serve: Serve, guarded: MakeGuard):
    server = serve(lambda _: reply('{"list_of_plans_per_task": [{"task_number": 1, "task": "x", "plan": "y"}]}'))
    agent = an_agent(llm(server))
    crew = Crew(agents=[agent], tasks=[a_task(agent)], planning=True, planning_llm=llm(server))
    with pytest.raises(BudgetExceededError):
        attach(crew, guarded(Budget(llm_calls=1))).kickoff()
    assert len(server.requests) == 1


# --- guardrails


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 2])
def test_a_guardrails_model_is_counted_and_stopped(serve: Serve, guarded: MakeGuard, limit: int):
    server = serve(
        lambda request: reply(
            '{"valid": false, "feedback": "too short"}' if "guardrail" in str(request.messages).lower() else "A pin."
        )
    )
    agent = an_agent(llm(server))
    task = a_task(agent, guardrail=LLMGuardrail(description="It must be long.", llm=llm(server)))
    pin = guarded(Budget(llm_calls=limit))
    with pytest.raises(BudgetExceededError):
        attach(Crew(agents=[agent], tasks=[task]), pin).kickoff()
    assert len(server.requests) == limit
    assert pin.traces[-1].spans_of("guardrail")


@pytest.mark.slow
def test_a_guardrail_that_is_a_function_is_a_span(serve: Serve, guarded: MakeGuard):
    server, pin = serve([reply("short"), reply("A long answer.")]), guarded()
    agent = an_agent(llm(server))

    def long_enough(output: Any):
        return (True, output.raw) if len(output.raw) > 6 else (False, "too short")

    task = a_task(agent, guardrail=long_enough)
    attach(Crew(agents=[agent], tasks=[task]), pin).kickoff()
    assert [span.output["success"] for span in pin.traces[-1].spans_of("guardrail")] == [False, True]
    assert pin.traces[-1].steps == 2


# --- memory


@pytest.mark.slow  # it starts a vector database
def test_memory_is_counted_and_stopped(serve: Serve, guarded: MakeGuard, tmp_path: Any):
    server = serve(lambda _: reply("A pin."))
    memory = Memory(llm=llm(server), storage=str(tmp_path), embedder=lambda texts: [[0.1] * 8 for _ in texts])
    agent = an_agent(llm(server))
    pin = guarded()
    attach(Crew(agents=[agent], tasks=[a_task(agent)], memory=memory), pin).kickoff()
    assert pin.traces[-1].llm_calls == len(server.requests) > 1
    searches = pin.traces[-1].spans_of("retriever")
    assert searches
    server.reset()
    with pytest.raises(BudgetExceededError), attached(guarded(Budget(llm_calls=1))):
        Crew(agents=[agent], tasks=[a_task(agent)], memory=memory).kickoff()
    assert len(server.requests) == 1


# --- models of the user's own


class Silent(BaseLLM):
    """A custom model that tells CrewAI nothing of its calls."""

    asked: list[Any] = []  # noqa: RUF012 - pydantic copies defaults
    answers: Any = None

    def call(self, messages: Any, tools: Any = None, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(messages)
        return self.answers(len(self.asked)) if self.answers else "done"

    def supports_function_calling(self) -> bool:
        return False

    async def acall(self, messages: Any, tools: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self.call(messages, tools, *args, **kwargs)


class Telling(Silent):
    """One that does, as the documentation shows."""

    def call(self, messages: Any, tools: Any = None, *args: Any, **kwargs: Any) -> Any:
        from crewai.events.types.llm_events import LLMCallType
        from crewai.llms.base_llm import llm_call_context

        with llm_call_context():
            self._emit_call_started_event(messages, tools)
            answer = super().call(messages, tools)
            self._emit_call_completed_event(
                answer, LLMCallType.LLM_CALL, usage={"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
            )
            return answer


@pytest.mark.parametrize("kind", first([Silent, Telling]))
@pytest.mark.parametrize("way", first(["attach", "attached"]))
def test_a_model_of_the_users_own_is_counted_and_stopped(guarded: MakeGuard, kind: Any, way: str):
    model = kind(model="mine")
    pin, crew = guarded(Budget(llm_calls=2)), a_crew(model)
    tasks = [a_task(crew.agents[0]) for _ in range(4)]
    crew = Crew(agents=crew.agents, tasks=tasks)
    with pytest.raises(BudgetExceededError):
        if way == "attach":
            attach(crew, pin).kickoff()
        else:
            with attached(pin):
                crew.kickoff()
    assert len(model.asked) == 2
    calls = pin.traces[-1].spans_of("llm")
    assert [(call.request_model, call.reply, call.messages[0]["role"]) for call in calls] == [
        ("mine", "done", "system")
    ] * 2
    assert [call.usage.input_tokens == 10 for call in calls] == [kind is Telling] * 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Silent, Telling])
def test_what_crewai_asks_a_model_of_the_users_own_directly_is_stopped(guarded: MakeGuard, kind: Any):
    model = kind(model="mine", answers=lambda _: "no JSON at all")
    agent = an_agent(model, max_retry_limit=0)
    crew = Crew(agents=[agent], tasks=[a_task(agent, output_pydantic=Fact)])
    with pytest.raises(BudgetExceededError):
        attach(crew, guarded(Budget(llm_calls=2))).kickoff()
    assert len(model.asked) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Silent, Telling])
def test_a_failing_model_of_the_users_own_is_recorded_as_such(guarded: MakeGuard, kind: Any):
    def fail(_: int) -> str:
        raise ConnectionError("no line")

    pin = guarded()
    with pytest.raises(ConnectionError):
        attach(a_crew(kind(model="mine", answers=fail), max_retry_limit=0), pin).kickoff()
    assert {call.status for call in pin.traces[-1].spans_of("llm")} == {"error"}


@pytest.mark.slow
def test_a_model_of_the_users_own_does_without_a_guard(guarded: MakeGuard):
    model = Silent(model="mine")
    attach(a_crew(model), guarded()).kickoff()
    assert a_crew(model).kickoff().raw == "done"


@pytest.mark.slow
def test_a_model_asked_by_a_tool_is_stopped(serve: Serve, guarded: MakeGuard):
    server = serve(endless("search", {"q": "pins"}))
    model = llm(server)
    crew = a_crew(model, Search(body=model.call))
    with pytest.raises(BudgetExceededError):
        attach(crew, guarded(Budget(llm_calls=2))).kickoff()
    assert len(server.requests) == 2


@pytest.mark.slow
def test_a_manager_of_crewais_own_making_is_counted(serve: Serve, guarded: MakeGuard):
    server = serve(per_conversation([reply("done")]))
    agent, pin = an_agent(llm(server)), guarded()
    crew = Crew(agents=[agent], tasks=[a_task(None)], manager_llm=llm(server), process=Process.hierarchical)
    attach(crew, pin).kickoff()
    assert_recorded(pin, server)


@pytest.mark.slow  # it starts a vector database
@pytest.mark.filterwarnings("ignore")  # of which any warning, as an error, leaves CrewAI without knowledge, silently
def test_knowledge_is_counted_and_its_embeddings_are_said_to_be_unseen(serve: Serve, guarded: MakeGuard):
    server, pin = serve(lambda _: reply("pins")), guarded()
    options = {"api_key": "any", "api_base": server.base_url, "model_name": "text-embedding-3-small"}
    knowledge: dict[str, Any] = {
        "knowledge_sources": [StringKnowledgeSource(content="Pins shear first.")],
        "embedder": {"provider": "openai", "config": options},
    }
    attach(a_crew(llm(server), crew=knowledge), pin).kickoff()
    (search,) = pin.traces[-1].spans_of("retriever")
    assert (search.name, search.output["query"]) == ("knowledge", "pins")
    assert pin.traces[-1].llm_calls == server.count("/v1/chat/completions")
    assert "embedding calls" in pin.traces[-1].gaps[0]
