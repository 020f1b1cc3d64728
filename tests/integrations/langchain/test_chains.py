"""Plain chains: whatever is composed, its run is one complete trace with the right counts."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from operator import itemgetter
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel, RunnablePassthrough, chain
from langchain_core.tools import StructuredTool, tool
from pydantic import BaseModel

from shearpin import Budget, BudgetExceededError, EnforcementGapWarning, Guard, Trace, current_run
from shearpin.runs import trouble
from shearpin.testing import Request, error, reply, tool_call
from shearpin.testing.script import Completion
from shearpin_integrations.langchain import ShearpinCallbackHandler
from tests.integrations.langchain.conftest import (
    MODES,
    PRICES,
    SYNC_MODES,
    Provider,
    acall,
    assert_complete,
    assert_nothing_left,
    call,
    counts,
    finished,
    only,
    outline,
    parent_of,
    watched,
)

PROMPT = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")])


def echo(request: Request) -> Completion:
    """A model that repeats what it was asked last."""
    return reply(f"re: {request.messages[-1]['content']}")


# --- chains -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_a_model_and_a_parser(provider: Provider, mode: str) -> None:
    answer = (PROMPT | provider.model(echo) | StrOutputParser()).with_config(run_name="answer")
    pin = Guard()

    got = call(mode, answer, {"question": "Why?"}, watched(pin))

    assert "".join(got) == "re: Why?"
    trace = finished(pin)
    assert outline(trace, "status") == ["agent answer ok", "  llm gpt-4o ok"]
    assert [message["content"] for message in only(trace, "llm").messages] == ["Be brief.", "Why?"]
    assert trace.output == "re: Why?"
    assert counts(trace) == (1, 1, 0)
    assert (trace.name, trace.status, trace.decisions, trace.gaps) == ("answer", "ok", [], [])


@pytest.mark.parametrize("mode", [mode for mode in MODES if "stream" not in mode])
def test_what_a_chain_was_asked_is_the_traces_input(provider: Provider, mode: str) -> None:
    pin = Guard()

    call(mode, PROMPT | provider.model(echo), {"question": "Why?"}, watched(pin))

    assert finished(pin).input == {"question": "Why?"}


@pytest.mark.parametrize("mode", MODES)
def test_a_bare_model_is_a_run_of_one_call(provider: Provider, mode: str) -> None:
    pin = Guard()

    call(mode, provider.model(echo), "Why?", watched(pin))

    trace = finished(pin)
    assert outline(trace) == ["agent gpt-4o", "  llm gpt-4o"]
    assert counts(trace) == (1, 1, 0)
    assert trace.input == [{"role": "user", "content": "Why?"}]
    assert trace.output["content"] == "re: Why?"


@pytest.mark.parametrize("mode", MODES)
def test_a_bare_tool_is_a_run_of_one_call(mode: str) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    adding = StructuredTool.from_function(add, name="add", description="Adds.")
    pin = Guard()

    call(mode, adding, {"a": 1, "b": 2}, watched(pin))

    trace = finished(pin)
    assert outline(trace) == ["agent add", "  tool add"]
    assert (trace.input, trace.output) == ({"a": 1, "b": 2}, 3)
    assert (trace.llm_calls, trace.tool_calls) == (0, 1)


class Shelf(BaseRetriever):
    """Finds a document for every word."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(f"About {word}.") for word in query.split()]


@pytest.mark.parametrize("mode", MODES)
def test_a_bare_retriever_is_a_run_of_its_own(mode: str) -> None:
    pin = Guard()

    call(mode, Shelf(), "pins bolts", watched(pin))

    trace = finished(pin)
    assert outline(trace) == ["agent Shelf", "  retriever Shelf"]
    assert trace.output == [
        {"content": "About pins.", "metadata": {}},
        {"content": "About bolts.", "metadata": {}},
    ]
    assert counts(trace) == (0, 0, 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_retriever_chain_shows_its_documents_and_what_the_model_made_of_them(provider: Provider, mode: str) -> None:
    def join(documents: list[Document]) -> str:
        return " ".join(document.page_content for document in documents)

    prompt = ChatPromptTemplate.from_template("{context} {question}")
    parts = {"context": Shelf() | join, "question": RunnablePassthrough()}
    pin = Guard()

    call(mode, parts | prompt | provider.model(echo) | StrOutputParser(), "pins", watched(pin))

    trace = finished(pin)
    assert outline(trace) == ["agent RunnableSequence", "  retriever Shelf", "  llm gpt-4o"]
    assert only(trace, "retriever").output == [{"content": "About pins.", "metadata": {}}]
    assert only(trace, "llm").messages == [{"role": "user", "content": "About pins. pins"}]
    assert counts(trace) == (1, 1, 0)


@pytest.mark.parametrize("mode", MODES)
def test_parallel_branches_are_calls_of_one_run(provider: Provider, mode: str) -> None:
    ask = provider.model(echo) | StrOutputParser()
    both = RunnableParallel(first=itemgetter("a") | ask, second=itemgetter("b") | ask)
    pin = Guard()

    call(mode, both, {"a": "one", "b": "two"}, watched(pin))

    trace = finished(pin)
    assert sorted(span.reply for span in trace.spans_of("llm")) == ["re: one", "re: two"]
    assert {span.parent_id for span in trace.spans_of("llm")} == {trace.spans[0].span_id}
    assert counts(trace) == (2, 2, 0)
    assert sorted(span.step for span in trace.spans_of("llm")) == [1, 2]


@pytest.mark.parametrize("mode", MODES)
def test_calls_made_inside_a_lambda_belong_to_its_chain(provider: Provider, mode: str) -> None:
    model = provider.model(echo)

    def twice(question: str) -> str:
        return str(model.invoke(str(model.invoke(question).content)).content)

    async def atwice(question: str) -> str:
        first = await model.ainvoke(question)
        return str((await model.ainvoke(str(first.content))).content)

    pin = Guard()

    call(mode, RunnableLambda(twice, atwice, name="twice"), "Why?", watched(pin))

    trace = finished(pin)
    assert outline(trace, "step") == ["agent twice 0", "  llm gpt-4o 1", "  llm gpt-4o 2"]
    assert (trace.output, counts(trace)) == ("re: re: Why?", (2, 2, 0))


class Weather(BaseModel):
    """What the weather is."""

    city: str
    degrees: int


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of OpenAI's own client, about its own stream
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_is_one_model_call_and_no_tool_call(provider: Provider, method: str, mode: str) -> None:
    facts = {"city": "Oslo", "degrees": 7}
    said = tool_call("Weather", facts) if method == "function_calling" else reply(Weather(**facts).model_dump_json())
    asking = provider.model([said]).with_structured_output(Weather, method=method)
    pin = Guard()

    got = call(mode, asking, "Oslo?", watched(pin))

    assert (got[-1] if "stream" in mode else got) == Weather(**facts)
    trace = finished(pin)
    span = only(trace, "llm")
    assert counts(trace) == (1, 1, 0)
    assert trace.output == facts
    if method == "function_calling":
        assert [offered["function"]["name"] for offered in span.tools] == ["Weather"]
        assert [(asked["name"], asked["arguments"]) for asked in span.tool_calls] == [("Weather", facts)]
    else:
        assert (span.tool_calls, span.reply) == ([], '{"city":"Oslo","degrees":7}')


@pytest.mark.parametrize("method", ["batch", "abatch"])
def test_each_item_of_a_batch_is_a_run_of_its_own(provider: Provider, method: str) -> None:
    answer = PROMPT | provider.model(echo) | StrOutputParser()
    questions = [{"question": word} for word in ("one", "two", "three")]
    pin = Guard(Budget(llm_calls=1))

    if method == "batch":
        got = answer.batch(questions, watched(pin))
    else:
        got = asyncio.run(answer.abatch(questions, watched(pin)))

    assert got == ["re: one", "re: two", "re: three"]
    assert sorted(trace.input["question"] for trace in pin.traces) == ["one", "three", "two"]
    assert len({trace.trace_id for trace in pin.traces}) == 3
    for trace in pin.traces:
        assert_complete(trace)
        assert trace.output == f"re: {trace.input['question']}"
        assert counts(trace) == (1, 1, 0)
    assert_nothing_left(pin)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_inside_a_chain_belongs_to_the_chain(provider: Provider, mode: str) -> None:
    answer = RunnableLambda(lambda text: text.split()) | provider.model(echo).map()
    pin = Guard()

    call(mode, answer, "one two three", watched(pin))

    trace = finished(pin)
    assert counts(trace) == (3, 3, 0)
    assert sorted(span.reply for span in trace.spans_of("llm")) == ["re: one", "re: three", "re: two"]


@pytest.mark.parametrize("mode", ["stream", "astream"])
def test_a_streamed_chain_ends_with_its_stream(provider: Provider, mode: str) -> None:
    model = provider.model([reply("one two three", chunks=3)])
    pin = Guard()

    got = call(mode, PROMPT | model | StrOutputParser(), {"question": "Count."}, watched(pin))

    assert "".join(got) == "one two three"
    assert len([piece for piece in got if piece]) == 3
    trace = finished(pin)
    assert trace.output == "one two three"
    assert only(trace, "llm").time_to_first_token_ns > 0
    assert trace.usage.total_tokens == sum(provider.server.usage[:2])


@pytest.mark.parametrize("mode", MODES)
def test_a_call_that_fails_and_is_tried_again_is_counted_as_often_as_it_was_made(provider: Provider, mode: str) -> None:
    model = provider.model([error(503), error(503), reply("at last")])
    again = model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    pin = Guard(prices=PRICES)

    if "stream" in mode:
        with pytest.raises(Exception, match="overloaded"):  # LangChain does not try a stream again
            call(mode, again, "Why?", watched(pin))
    else:
        call(mode, again, "Why?", watched(pin))

    trace = finished(pin)
    assert trace.llm_calls == provider.server.count("/v1/chat/completions")
    assert [span.status for span in trace.spans_of("llm")][:1] == ["error"]
    assert trace.usage.total_tokens == sum(provider.server.usage[:2])


@pytest.mark.parametrize("mode", [mode for mode in MODES if "stream" not in mode])
def test_a_fallback_is_a_call_of_the_same_run(provider: Provider, mode: str) -> None:
    server = provider.serve(lambda request: error(503) if request.model == "gpt-4o" else reply("Hello"))
    model = provider.model(server).with_fallbacks([provider.model(server, "gpt-4o-mini")])
    pin = Guard(prices=PRICES)

    call(mode, PROMPT | model | StrOutputParser(), {"question": "Why?"}, watched(pin))

    trace = finished(pin)
    assert [(span.name, span.status) for span in trace.spans_of("llm")] == [
        ("gpt-4o", "error"),
        ("gpt-4o-mini", "ok"),
    ]
    assert (counts(trace), trace.status) == ((2, 2, 0), "ok")
    assert trace.usage.total_tokens == sum(server.usage[:2])


@pytest.mark.parametrize("mode", [mode for mode in MODES if "stream" not in mode])
def test_a_model_with_fallbacks_called_by_itself_is_seen(provider: Provider, mode: str) -> None:
    """Its alternatives look like outermost calls of their own; these tests run with warnings as errors."""
    server = provider.serve(lambda request: error(503) if request.model == "gpt-4o" else reply("Hello"))
    model = provider.model(server).with_fallbacks([provider.model(server, "gpt-4o-mini")])
    pin = Guard(prices=PRICES)

    answer = call(mode, model, "Why?", watched(pin))

    trace = finished(pin)
    assert (answer.content, trace.gaps, trace.llm_calls) == ("Hello", [], 2)


# --- inside a run of the guard's own ----------------------------------------------------------------------------------


def in_a_run(mode: str, pin: Guard, runnable: Runnable[Any, Any], value: Any, config: Any = None) -> None:
    """Call `runnable` within ``pin.run``, opened the way that fits `mode`."""
    if mode in SYNC_MODES:
        with pin.run("work"):
            call(mode, runnable, value, config)
        return

    async def main() -> None:
        async with pin.run("work"):
            await acall(mode, runnable, value, config)

    asyncio.run(main())


@pytest.mark.parametrize("mode", MODES)
def test_a_chain_inside_a_run_is_its_child(provider: Provider, mode: str) -> None:
    answer = (PROMPT | provider.model(echo) | StrOutputParser()).with_config(run_name="answer")
    pin = Guard()

    in_a_run(mode, pin, answer, {"question": "Why?"}, watched(pin))

    trace = finished(pin)
    assert outline(trace, "agent") == ["agent work work", "  agent answer answer", "    llm gpt-4o answer"]
    assert counts(trace) == (1, 1, 0)
    assert trace.spans[1].output == "re: Why?"


@pytest.mark.parametrize("mode", MODES)
def test_all_runs_inside_a_run_spend_from_one_budget(provider: Provider, mode: str) -> None:
    model = provider.model(echo)
    pin = Guard(Budget(llm_calls=2))

    def ask() -> None:
        with pytest.raises(BudgetExceededError), pin.run("work"):
            for _ in range(5):
                call(mode, model, "Why?", watched(pin))

    async def aask() -> None:
        with pytest.raises(BudgetExceededError):
            async with pin.run("work"):
                for _ in range(5):
                    await acall(mode, model, "Why?", watched(pin))

    ask() if mode in SYNC_MODES else asyncio.run(aask())

    trace = finished(pin)
    assert (provider.server.served, counts(trace), trace.status) == (2, (2, 2, 0), "stopped")


def test_a_run_opened_in_another_thread_with_the_context_is_a_child(provider: Provider) -> None:
    model = provider.model(echo)
    pin = Guard()

    with pin.run("work"), ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(copy_context().run, model.invoke, "Why?", watched(pin)).result()

    trace = finished(pin)
    assert outline(trace) == ["agent work", *["  agent gpt-4o", "    llm gpt-4o"] * 2]


@pytest.mark.parametrize("mode", MODES)
def test_decorated_functions_and_blocks_inside_a_chain_join_its_trace(provider: Provider, mode: str) -> None:
    model = provider.model(echo)
    pin = Guard()

    @pin.tool
    def look_up(word: str) -> str:
        return f"{word}!"

    def work(question: str) -> str:
        with pin.run("inner") as run:
            assert current_run() is run
            with run.tool("measure", {"of": question}) as measured:
                measured.result = len(question)
        return str(model.invoke(look_up(question)).content)

    async def awork(question: str) -> str:
        async with pin.run("inner") as run:
            assert current_run() is run
            async with run.tool("measure", {"of": question}) as measured:
                measured.result = len(question)
        return str((await model.ainvoke(look_up(question))).content)

    call(mode, RunnableLambda(work, awork, name="work"), "Why", watched(pin))

    trace = finished(pin)
    assert outline(trace) == [
        "agent work",
        "  agent inner",
        "    tool measure",
        "  tool look_up",
        "  llm gpt-4o",
    ]
    assert trace.spans_of("tool")[0].result == 3
    assert trace.spans_of("tool")[1].arguments == {"word": "Why"}
    assert counts(trace)[1:] == (1, 2)


def test_two_guards_record_one_call_each_for_itself(provider: Provider) -> None:
    first, second = Guard(), Guard()
    config = {"callbacks": [ShearpinCallbackHandler(first), ShearpinCallbackHandler(second)]}

    (PROMPT | provider.model(echo)).invoke({"question": "Why?"}, config)

    assert outline(finished(first)) == outline(finished(second)) == ["agent RunnableSequence", "  llm gpt-4o"]


@pytest.mark.parametrize("mode", MODES)
def test_a_guard_that_is_reached_twice_counts_once(provider: Provider, mode: str) -> None:
    pin = Guard(Budget(llm_calls=1))
    handler = ShearpinCallbackHandler(pin)
    model = provider.model(echo, callbacks=[handler])
    answer = (PROMPT | model).with_config(callbacks=[ShearpinCallbackHandler(pin)])

    call(mode, answer, {"question": "Why?"}, {"callbacks": [handler, ShearpinCallbackHandler(pin)]})

    assert counts(finished(pin)) == (1, 1, 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_handler_on_the_model_alone_watches_the_model_alone(provider: Provider, mode: str) -> None:
    pin = Guard()
    model = provider.model(echo, callbacks=[ShearpinCallbackHandler(pin)])

    with pytest.warns(EnforcementGapWarning, match="given to this model itself"):
        call(mode, PROMPT | model | StrOutputParser(), {"question": "Why?"})

    trace = finished(pin)
    assert outline(trace) == ["agent gpt-4o", "  llm gpt-4o"]
    assert "each of its calls is a run of its own" in trace.gaps[0]


def test_concurrent_runs_of_one_handler_do_not_mix(provider: Provider) -> None:
    answer = PROMPT | provider.model(echo) | StrOutputParser()
    pin = Guard(Budget(llm_calls=1))
    config = watched(pin)
    gate = threading.Barrier(8)

    def ask(number: int) -> str:
        gate.wait()
        return answer.invoke({"question": f"q{number}"}, config)

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(ask, range(8)))

    assert got == [f"re: q{number}" for number in range(8)]
    assert len(pin.traces) == 8
    for trace in pin.traces:
        assert_complete(trace)
        assert counts(trace) == (1, 1, 0)
        assert trace.output == f"re: {trace.input['question']}"
    assert_nothing_left(pin)


# --- what a run leaves behind -----------------------------------------------------------------------------------------


def test_a_guard_nobody_holds_any_more_is_let_go(provider: Provider) -> None:
    model = provider.model(echo)
    pin = Guard()
    model.invoke("Why?", watched(pin))
    gone = weakref.ref(pin)

    del pin
    gc.collect()

    assert gone() is None


# --- observing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_observing_stops_nothing_and_records_the_stop_once(provider: Provider, mode: str) -> None:
    answer = RunnableLambda(lambda text: text.split()) | provider.model(echo).map() | RunnableLambda(len)
    pin = Guard(Budget(llm_calls=2, warn_at=1.0), mode="observe")

    got = call(mode, answer, "one two three four five", watched(pin))

    assert (got if isinstance(got, int) else got[-1]) == 5
    trace = finished(pin)
    assert (trace.status, trace.stop, counts(trace)) == ("ok", None, (5, 5, 0))
    (decision,) = [decision for decision in trace.decisions if decision.verdict == "stop"]
    assert decision.facts["observed"] is True
    assert (decision.rule, decision.facts["unit"], decision.facts["spent"]) == ("Budget", "llm_calls", 2)
    pin.raise_if_stopped()


# --- exporters --------------------------------------------------------------------------------------------------------


class Broken:
    """An exporter that fails at everything."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def span_started(self, trace: Trace, span: Any) -> None:
        self._fail("span_started")

    def span_ended(self, trace: Trace, span: Any) -> None:
        self._fail("span_ended")

    def run_ended(self, trace: Trace) -> None:
        self._fail("run_ended")

    def close(self) -> None:
        self._fail("close")

    def _fail(self, what: str) -> None:
        self.asked.append(what)
        raise RuntimeError(f"{what} is broken")


@pytest.fixture
def as_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bugs outside the agent are logged, as they are for everyone but our own tests."""
    monkeypatch.setattr(trouble, "STRICT", False)


@pytest.mark.usefixtures("as_for_users")
@pytest.mark.parametrize("mode", MODES)
def test_a_broken_exporter_changes_nothing_for_the_chain(provider: Provider, mode: str) -> None:
    exporter = Broken()
    pin = Guard(exporters=[exporter])

    got = call(mode, PROMPT | provider.model(echo) | StrOutputParser(), {"question": "Why?"}, watched(pin))

    assert "".join(got) == "re: Why?"
    assert set(exporter.asked) == {"span_started", "span_ended", "run_ended"}
    assert counts(finished(pin)) == (1, 1, 0)


@pytest.mark.usefixtures("as_for_users")
@pytest.mark.parametrize("mode", MODES)
def test_a_broken_exporter_does_not_stand_in_the_way_of_a_stop(provider: Provider, mode: str) -> None:
    pin = Guard(Budget(llm_calls=0), exporters=[Broken()])

    with pytest.raises(BudgetExceededError):
        call(mode, PROMPT | provider.model(echo), {"question": "Why?"}, watched(pin))

    assert (finished(pin).status, provider.server.count()) == ("stopped", 0)


def test_a_chain_function_decorated_by_langchain_is_a_run(provider: Provider) -> None:
    model = provider.model(echo)

    @chain
    def answer(question: str) -> Any:
        return model.invoke(question)

    pin = Guard()
    answer.invoke("Why?", watched(pin))

    trace = finished(pin)
    assert outline(trace) == ["agent answer", "  llm gpt-4o"]
    assert parent_of(trace, only(trace, "llm")) is trace.spans[0]


def test_a_tool_that_calls_a_model_is_the_models_parent(provider: Provider) -> None:
    model = provider.model(echo)

    @tool
    def ask(question: str) -> str:
        """Asks."""
        return str(model.invoke(question).content)

    pin = Guard()
    ask.invoke({"question": "Why?"}, watched(pin))

    assert outline(finished(pin)) == ["agent ask", "  tool ask", "    llm gpt-4o"]
