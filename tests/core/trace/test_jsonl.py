import dataclasses
import itertools
import json
import os
import re
import tracemalloc
from contextlib import suppress
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shearpin.errors import BudgetExceededError, LoopDetectedError, RunStoppedError, TraceFormatError, printable
from shearpin.trace import DecisionSpan, Identity, LLMSpan, NodeSpan, Span, SpanError, Stop, ToolSpan, Trace, Usage
from shearpin.trace.jsonl import ids_beginning, list_traces
from shearpin.trace.lines import TraceLines
from shearpin.trace.plain import plain
from shearpin.trace.pool import Chain
from shearpin.trace.spans import new_span

# --- traces of every shape

TEXT = st.text(st.characters(categories=None), max_size=8) | st.characters(categories=None).map(lambda c: c * 70)
"""Any text: half surrogate pairs, line ends and control characters among it."""
INTEGERS = st.integers() | st.integers(-(10**4000), 10**4000)
ATOMS = st.none() | st.booleans() | INTEGERS | st.floats() | TEXT
KEYS = TEXT | st.sampled_from(["of", "$ref", "$body", "chain", "body", "json", "shearpin"])
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=8
)
DATA = VALUES.map(plain)
RECORDS = st.dictionaries(KEYS, DATA, max_size=4)
TIMES = st.integers(0, 2**63 - 1)
REFERENCE_LIKE = st.sampled_from([["body", 0], ["chain", 0, 0], ["json", 1], {"input": ["body", 0]}])
STATES = VALUES | REFERENCE_LIKE | st.fixed_dictionaries({"messages": st.lists(VALUES), "next": VALUES})

FINITE = st.floats(allow_nan=False, allow_infinity=False)
USAGES = st.builds(Usage, *[INTEGERS] * 7, cost_usd=st.none() | FINITE)
ERRORS = st.builds(SpanError, TEXT, TEXT, TEXT)
STATUSES = st.sampled_from(["ok", "error", "stopped", "paused", "cancelled", "unfinished"])
OUTCOME = {
    "start_ns": TIMES,
    "end_ns": st.none() | TIMES,
    "status": STATUSES,
    "agent": st.none() | TEXT,
    "step": INTEGERS,
    "error": st.none() | ERRORS,
    "attributes": RECORDS,
    "cumulative_cost_usd": st.none() | FINITE,
    "cumulative_tokens": INTEGERS,
}
OPTIONAL = {str: st.none() | TEXT, int: st.none() | INTEGERS, float: st.none() | FINITE}
LLM = {
    **dict.fromkeys(["provider", "request_model", "response_model", "price_source"], OPTIONAL[str]),
    **dict.fromkeys(["reply", "reasoning", "finish_reason", "response_id"], OPTIONAL[str]),
    **dict.fromkeys(["max_tokens", "seed", "time_to_first_token_ns"], OPTIONAL[int]),
    "temperature": OPTIONAL[float],
    "tool_calls": st.lists(RECORDS, max_size=3),
    "usage": st.none() | USAGES,
    "usage_estimated": st.booleans(),
}
DECISION = {
    "rule": TEXT,
    "verdict": st.sampled_from(["allow", "warn", "deny", "ask", "approved", "rejected", "stop", "nudge"]),
    "reason": TEXT,
    "facts": RECORDS,
    "touched": OPTIONAL[str],
}
OWN = {
    "llm": LLM,
    "embedding": LLM,
    "tool": {"call_id": OPTIONAL[str], "http_status": OPTIONAL[int], "retry": INTEGERS},
    "node": {"thread_id": OPTIONAL[str], "checkpoint_id": OPTIONAL[str]},
    "decision": DECISION,
    **{kind: {} for kind in ("agent", "step", "retriever", "handoff", "guardrail")},
}
IDENTITIES = st.builds(Identity, *[OPTIONAL[str]] * 8, st.lists(TEXT, max_size=3).map(tuple), RECORDS)
STOPS = st.builds(
    BudgetExceededError,
    unit=st.sampled_from(["usd", "tokens", "seconds"]),
    limit=FINITE,
    spent=FINITE,
    reserved=FINITE,
    estimate=st.none() | FINITE,
    key=OPTIONAL[str],
    in_flight=st.booleans(),
    subject=TEXT,
) | st.builds(LoopDetectedError, pattern=TEXT, calls=st.lists(TEXT), repeats=INTEGERS, onset=INTEGERS)


@st.composite
def spans(draw, trace: Trace, number: int) -> Span:
    kind = draw(st.sampled_from(sorted(OWN)))
    fields = draw(st.fixed_dictionaries({}, optional=OUTCOME | OWN[kind]))
    span = new_span(kind, span_id=f"{number:016x}", parent_id=draw(OPTIONAL[str]), name=draw(TEXT), **fields)
    if isinstance(span, LLMSpan):
        span.stored_input = trace.pool.chain(draw(st.lists(VALUES, max_size=4)))
        span.stored_tools = draw(st.none() | st.lists(VALUES, max_size=2).map(trace.pool.chain))
    else:
        span.stored_input = trace.pool.value(draw(STATES))
    span.stored_output = draw(STATES.map(trace.pool.value) | DATA)
    if isinstance(span, DecisionSpan):
        span.stored_input = {"kind": "node", "name": "refused", "input": span.stored_input}
    return span


@st.composite
def traces(draw) -> Trace:
    trace = Trace(draw(st.text("0123456789abcdef", min_size=32, max_size=32)), draw(TEXT), draw(IDENTITIES))
    trace.stored_input, trace.stored_output = (trace.pool.value(draw(STATES)) for _ in "io")
    trace.status, trace.started_ns, trace.ended_ns = draw(STATUSES), draw(TIMES), draw(st.none() | TIMES)
    trace.steps, trace.llm_calls, trace.tool_calls = draw(st.tuples(*[INTEGERS] * 3))
    trace.usage, trace.gaps = draw(USAGES), draw(st.lists(TEXT, max_size=2))
    trace.spans = [draw(spans(trace, number)) for number in range(draw(st.integers(0, 3)))]
    trace.stop = draw(st.none() | st.builds(Stop, STOPS, TEXT, TEXT))
    return trace


def told(value: object) -> object:
    """All that a part of a trace says, as plain data that can be compared."""
    if isinstance(value, Chain | list | tuple):
        return [told(item) for item in value]
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items()}
    if isinstance(value, RunStoppedError):
        return [type(value), str(value), told(value.as_dict())]
    if dataclasses.is_dataclass(value):
        columns = [column.name for column in dataclasses.fields(value) if column.name != "pool"]
        return [type(value), {name: told(getattr(value, name)) for name in columns}]
    return [type(value), value]


def whole(trace: Trace) -> bytes:
    return TraceLines(trace).finished()


def load(content: bytes, trace_id: str | None = None) -> Trace:
    path = Path(os.environ["SHEARPIN_TEST_FILE"])
    path.write_bytes(content)
    return Trace.load(path, trace_id)


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """Where `load` writes; not by argument, since hypothesis calls a test many times with one."""
    monkeypatch.setenv("SHEARPIN_TEST_FILE", str(tmp_path / "runs.jsonl"))
    return tmp_path / "runs.jsonl"


many = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

# --- what is written is read


@pytest.mark.slow
@many
@given(traces())
def test_a_trace_comes_out_as_it_went_in(trace):
    assert told(load(whole(trace))) == told(trace)


@pytest.mark.slow
@many
@given(traces())
def test_every_line_is_json_of_its_own_and_text_where_text_can_be(trace):
    for line in whole(trace).splitlines(keepends=True):
        assert line.endswith(b"\n")
        assert json.loads(line.decode("utf-8", "surrogatepass"))["of"] == trace.trace_id


@pytest.mark.slow
@many
@given(traces(), st.data())
def test_an_unfinished_trace_has_every_span_as_far_as_it_had_come(trace, data):
    lines = TraceLines(trace)
    open_spans = [span for span in trace.spans if data.draw(st.booleans())]
    first = Span("first", None, "agent", "first")
    trace.spans.insert(0, first)
    content = lines.started(first, {})
    for span in trace.spans[1:]:
        content += lines.started(span, span.attributes) if span in open_spans else lines.ended(span)

    loaded = load(content)

    assert (loaded.status, loaded.ended_ns, loaded.stop) == ("unfinished", None, None)
    assert told(loaded.identity) == told(trace.identity)
    ended = [span for span in trace.spans[1:] if span not in open_spans]
    assert [told(span) for span in loaded.spans if span.span_id in {s.span_id for s in ended}] == told(ended)
    for span in loaded.spans:
        if span.span_id in {s.span_id for s in open_spans} and span.kind != "decision":
            original = trace.spans[int(span.span_id, 16) + 1]
            assert (span.status, span.end_ns, span.error) == ("unfinished", None, None)
            assert told([span.stored_input, span.attributes, span.name, span.parent_id, span.start_ns]) == told(
                [original.stored_input, original.attributes, original.name, original.parent_id, original.start_ns]
            )


@pytest.mark.slow
@many
@given(traces(), st.data())
def test_a_file_cut_anywhere_loads_or_says_why_not(trace, data):
    content = whole(trace)
    cut = data.draw(st.integers(0, len(content) - 1))
    try:
        loaded = load(content[:cut])
    except TraceFormatError:
        assert content.find(b"\n") >= cut
    else:
        assert loaded.trace_id == trace.trace_id


@pytest.mark.slow
@many
@given(traces(), st.data())
def test_a_damaged_file_loads_or_says_why_not(trace, data):
    content = bytearray(whole(trace))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))

    with suppress(TraceFormatError):
        told(load(bytes(content)))


def test_two_halves_of_a_surrogate_pair_stay_two():
    trace = Trace("a" * 32, "\ud83d\ude00 is not \U0001f600; \ude00\ud83d")

    assert load(whole(trace)).name == trace.name


def test_half_a_surrogate_pair_leaves_the_file_readable_as_utf8():
    assert "\\ud83d" in whole(Trace("a" * 32, "half \ud83d")).decode()


def test_numbers_that_json_has_no_word_for_become_text():
    span = Span("1" * 16, None, "step", "odd", attributes={"nan": float("nan"), "inf": float("-inf"), "big": 10**5000})
    trace = Trace("a" * 32, "run", spans=[span])

    attributes = load(whole(trace)).spans[0].attributes

    assert attributes == {"nan": "nan", "inf": "-inf", "big": hex(10**5000)}


def test_a_float_that_is_no_number_stays_one_in_its_own_field():
    trace = Trace(
        "a" * 32, "run", spans=[new_span("llm", span_id="1", parent_id=None, name="m", temperature=float("inf"))]
    )

    assert load(whole(trace)).spans_of("llm")[0].temperature == float("inf")


def test_values_of_the_wrong_type_do_not_make_a_file_that_cannot_be_read():
    llm = LLMSpan("1" * 16, None, "llm", "m", temperature="0.5", max_tokens=10.0, reply=["part"], seed="x")  # type: ignore[arg-type]
    llm.usage = Usage(input_tokens=float("nan"), output_tokens="7")  # type: ignore[arg-type]
    tool = ToolSpan("2" * 16, None, "tool", "t", call_id=7, attributes={1: {2, 3}, "object": object})  # type: ignore[arg-type, dict-item]
    trace = Trace("a" * 32, "run", spans=[llm, tool])

    loaded = load(whole(trace))

    [call], [use] = loaded.spans_of("llm"), loaded.spans_of("tool")
    assert (call.temperature, call.max_tokens, call.reply, call.seed) == (0.5, 10, "['part']", None)
    assert call.usage == Usage(output_tokens=7)
    assert use.call_id == "7"
    assert use.attributes == {"1": [2, 3], "object": "<class 'object'>"}


def test_a_cycle_or_an_abyss_in_an_attribute_is_cut():
    cycle: dict[str, object] = {}
    cycle["self"] = cycle
    abyss: list[object] = []
    for _ in range(5000):
        abyss = [abyss]
    trace = Trace("a" * 32, "run", spans=[Span("1", None, "step", "s", attributes={"cycle": cycle, "abyss": abyss})])

    attributes = load(whole(trace)).spans[0].attributes

    assert attributes["cycle"] == {"self": "<cycle>"}
    assert "<too deep>" in str(attributes["abyss"])


def test_a_list_of_another_trace_is_written_out():
    other = Trace("b" * 32, "other")
    trace = Trace("a" * 32, "run", stored_input=other.pool.chain(["one", "two"]))

    assert load(whole(trace)).input == ["one", "two"]


def test_what_is_too_long_for_a_line_is_left_out_and_says_so(monkeypatch):
    monkeypatch.setattr("shearpin.trace.lines.LONGEST_VALUE", 100_000)
    trace = Trace("a" * 32, "run")
    long = "x" * 200_000
    messages = [{"role": "user", "content": long}, {"role": "user", "content": "short"}]
    span = LLMSpan("1" * 16, None, "llm", "m", stored_input=trace.pool.chain(messages), reply=long)
    span.tool_calls = [{"arguments": long}]
    trace.spans = [span, Span("2" * 16, None, "step", "s", stored_output=trace.pool.value([long]))]

    llm, step = load(whole(trace)).spans

    left_out = "<left out: 200,002 characters>"
    assert llm.messages == [{"role": "user", "content": left_out}, {"role": "user", "content": "short"}]
    assert (llm.reply, llm.tool_calls, step.output) == (left_out, [], [left_out])


# --- stops


def test_a_stop_is_an_error_of_its_class_with_its_facts():
    error = BudgetExceededError(unit="usd", limit=0.5, spent=0.48, estimate=0.05, subject="the call of gpt-4o")
    trace = Trace("a" * 32, "run", status="stopped", stop=Stop(error, "Budget", "1" * 16))

    stop = load(whole(trace)).stop

    assert type(stop.error) is BudgetExceededError
    assert (stop.error.as_dict(), str(stop.error)) == (error.as_dict(), str(error))
    assert (stop.rule, stop.span_id) == ("Budget", "1" * 16)


def test_a_stop_knows_the_trace_it_was_loaded_with():
    trace = Trace("a" * 32, "run", stop=Stop(RunStoppedError("by hand"), "operator", "1"))

    loaded = load(whole(trace))

    assert loaded.stop.error.trace is loaded
    assert str(loaded.stop.error) == "run stopped: by hand"


def test_a_stop_of_an_unknown_class_keeps_its_message():
    class TooRudeError(RunStoppedError):
        facts = ("word",)

        def __init__(self, word: str) -> None:
            self.word = word
            super().__init__(f"{word} was said")

    trace = Trace("a" * 32, "run", stop=Stop(TooRudeError("blast"), "Manners", "1"))

    error = load(whole(trace)).stop.error

    assert type(error) is RunStoppedError
    assert str(error) == "run stopped: blast was said"


@pytest.mark.parametrize(
    "facts",
    [{}, {"unit": "usd"}, {"unit": 5, "limit": 1, "spent": 2}, {"unit": "usd", "limit": "1", "spent": 2}, {"x": 1}],
)
def test_a_stop_whose_facts_make_no_sense_keeps_its_message(facts):
    error = {"type": "BudgetExceededError", "message": "too much", "facts": facts}
    content = lines(run(), {"finished": {"name": "r", "stop": {"error": error, "rule": "B", "span_id": "1"}}})

    assert load(content).stop.error.reason == "too much"


@pytest.mark.parametrize("name", ["core_class", "Any", "ShearpinError", "EnforcementGapWarning", "__builtins__", ""])
def test_a_stop_is_never_of_a_class_that_is_no_stop(name):
    error = {"type": name, "message": "odd", "facts": {"reason": "odd"}}
    content = lines(run(), {"finished": {"name": "r", "stop": {"error": error, "rule": "B", "span_id": "1"}}})

    assert type(load(content).stop.error) is RunStoppedError


# --- size


def talk(turns: int) -> bytes:
    """A conversation: every prompt is the one before and two messages more."""
    trace = Trace("a" * 32, "talk")
    stream = TraceLines(trace)
    messages: list[dict[str, str]] = []
    content = b""
    for turn in range(turns):
        messages += [{"role": role, "content": f"{role} {turn} ".ljust(500, ".")} for role in ("user", "assistant")]
        span = LLMSpan(f"{turn:016x}", None, "llm", "m", stored_input=trace.pool.chain(messages))
        trace.spans.append(span)
        content += stream.started(span, {}) + stream.ended(span)
    return content + stream.finished()


def walk(steps: int) -> bytes:
    """A graph: every node gets the whole state, with a history that grows and a plan that stays."""
    trace = Trace("a" * 32, "walk")
    stream = TraceLines(trace)
    state = {"messages": [], "plan": {"text": "p" * 2000}, "notes": "n" * 2000}
    content = b""
    for step in range(steps):
        state["messages"] = [*state["messages"], {"role": "user", "content": f"{step} ".ljust(500, ".")}]
        span = NodeSpan(f"{step:016x}", None, "node", "n", stored_input=trace.pool.value({**state, "step": step}))
        span.stored_output = trace.pool.value({"messages": state["messages"][-1:]})
        trace.spans.append(span)
        content += stream.started(span, {}) + stream.ended(span)
    return content + stream.finished()


@pytest.mark.parametrize("history", [talk, walk])
def test_a_history_twice_as_long_takes_twice_the_room(history):
    short, long = len(history(250)), len(history(500))

    assert long / short <= 2.1
    assert long / 500 < 2500


def test_a_long_conversation_loads_shared():
    loaded = load(talk(500))

    assert len(loaded.pool.bodies) == 1000
    assert len(loaded.spans_of("llm")[-1].messages) == 1000


# --- a damaged file


def line(of: str, by: str, number: int, record: dict[str, object]) -> bytes:
    return json.dumps({"of": of, "by": by, "n": number} | record).encode() + b"\n"


def lines(*records: dict[str, object], of: str = "a", by: str = "b", first: int = 0) -> bytes:
    return b"".join(line(of, by, number, record) for number, record in enumerate(records, first))


def run(name: str = "r", **fields: object) -> dict[str, object]:
    return {"run": {"schema": 1, "name": name} | fields}


def ended(span_id: str = "1", kind: str = "step", **fields: object) -> dict[str, object]:
    return {"ended": {"span_id": span_id, "parent_id": None, "kind": kind, "name": "s"} | fields}


def pool(
    *bodies: object, links: tuple[tuple[int, int], ...] = (), first: tuple[int, int] = (0, 1)
) -> dict[str, object]:
    return {"pool": {"first": first, "bodies": bodies, "links": links}}


def test_lines_written_by_hand_load():
    content = lines(run(stored_input=["body", 0]), pool("hello", links=((0, 0),)), ended(stored_input=["chain", 1, 1]))

    trace = load(content)

    assert (trace.name, trace.input, trace.spans[0].input) == ("r", "hello", ["hello"])


def test_the_run_a_torn_last_line_belonged_to_loads_without_it():
    content = lines(run(), ended("1"), ended("2"))

    trace = load(content[:-10])

    assert [span.span_id for span in trace.spans] == ["1"]
    assert trace.gaps == []


def test_a_torn_line_in_the_middle_is_skipped_and_told():
    first, second, third = lines(run(), ended("1"), ended("2")).splitlines(keepends=True)

    trace = load(first + second[:-15] + b"\n" + third)

    assert [span.span_id for span in trace.spans] == ["2"]
    assert trace.gaps == ["records of this run that its file lacks, cut off or removed: 1"]


def test_a_line_behind_a_torn_one_is_not_lost():
    mine, other = lines(run("mine"), ended("1"), of="a"), lines(run("other"), ended("2"), of="c")

    content = mine[:-15] + other

    assert [span.span_id for span in load(content, "c").spans] == ["2"]
    assert load(content, "c").gaps == []
    assert load(content, "a").spans == []
    assert len(load(content, "a").gaps) == 1


def test_a_line_that_was_cut_and_written_again_is_no_gap():
    first, second = lines(run(), ended("1")).splitlines(keepends=True)

    trace = load(first + second[:-9] + b"\n" + second)

    assert [span.span_id for span in trace.spans] == ["1"]
    assert trace.gaps == []


def test_a_line_written_twice_counts_once():
    content = lines(run(), pool("hello"), ended("1", stored_input=["body", 0]))

    trace = load(content + content)

    assert len(trace.spans) == 1
    assert trace.gaps == []


def test_what_a_lost_record_held_is_marked_where_it_is_missing():
    begin, _, _, rest, end = lines(
        run(),
        pool({"role": "user", "content": "lost"}, links=((0, 0),)),
        ended("1", "llm", stored_input=["chain", 1, 1]),
        pool({"role": "user", "content": "kept"}, links=((1, 1),), first=(1, 2)),
        ended("2", "llm", stored_input=["chain", 2, 2]),
    ).splitlines(keepends=True)

    trace = load(begin + rest + end)

    assert [message["content"] for message in trace.spans_of("llm")[0].messages] == [
        "<lost: the file lacks the record that held it>",
        "kept",
    ]
    assert "2" in trace.gaps[0]


def test_a_trace_whose_first_line_is_lost_loads_by_its_id():
    content = lines(run("other"), of="c") + lines(ended("1"), first=1)

    trace = load(content, "a")

    assert (trace.name, trace.status, len(trace.spans)) == ("", "unfinished", 1)
    assert len(trace.gaps) == 1


def test_empty_lines_mean_nothing():
    content = lines(run(), ended("1"))

    assert len(load(b"\n" + content.replace(b"\n", b"\n\n \r\n")).spans) == 1


def test_damage_to_another_trace_does_not_matter():
    content = lines(run("mine"), ended("1")) + line("c", "b", 0, {"run": 5}) + line("c", "b", 7, {"odd": []})

    assert len(load(content, "a").spans) == 1


# --- several streams of one run


def test_a_run_that_was_resumed_elsewhere_is_one_trace():
    before = lines(
        run(started_ns=5),
        pool("asked"),
        ended("1", stored_input=["body", 0]),
        {"finished": {"name": "r", "status": "paused", "started_ns": 5, "ended_ns": 7}},
    )
    after = lines(run(started_ns=5), pool("answered"), ended("2", stored_input=["body", 0]), by="c")

    paused, resumed = load(before), load(before + after)

    assert (paused.status, paused.ended_ns) == ("paused", 7)
    assert (resumed.status, resumed.ended_ns) == ("unfinished", None)
    assert [span.input for span in resumed.spans] == ["asked", "answered"]


def test_a_late_record_of_a_run_does_not_make_it_unfinished():
    content = lines(run(), {"finished": {"name": "r", "status": "ok", "ended_ns": 7}}) + lines(
        run(), ended("2"), by="c"
    )

    trace = load(content)

    assert (trace.status, len(trace.spans)) == ("ok", 1)


def test_streams_of_one_run_have_bodies_of_their_own():
    one = lines(run(), pool("one", links=((0, 0),)), ended("1", stored_input=["chain", 1, 1]), by="x")
    two = lines(run(), pool("two", links=((0, 0),)), ended("2", stored_input=["chain", 1, 1]), by="y")
    mixed = itertools.chain(*zip(one.splitlines(keepends=True), two.splitlines(keepends=True), strict=True))

    assert [span.input for span in load(b"".join(mixed)).spans] == [["one"], ["two"]]


# --- several traces in a file


def test_the_run_that_started_last_is_loaded():
    content = b"".join(
        lines(run(name, started_ns=at), ended(name), of=name) for name, at in [("b", 2), ("c", 3), ("a", 1)]
    )

    assert load(content).trace_id == "c"
    assert [span.span_id for span in load(content).spans] == ["c"]


@pytest.mark.parametrize("trace_id", ["a", "b", "c"])
def test_a_run_is_loaded_by_its_id(trace_id):
    content = b"".join(lines(run(name), ended(name), of=name) for name in "abc")

    assert load(content, trace_id).name == trace_id


def test_an_id_that_is_not_there_is_an_error():
    with pytest.raises(TraceFormatError, match=r"runs\.jsonl: no trace nowhere"):
        load(lines(run()), "nowhere")


def test_the_list_tells_of_every_run_oldest_first(file):
    usage = {"input_tokens": 10, "cost_usd": 0.25}
    live = lines(run("live", started_ns=9), ended() | {"sums": {"steps": 2, "usage": usage}}, of="a")
    done = lines(
        run("done", started_ns=3), {"finished": {"name": "done", "started_ns": 3, "status": "ok", "steps": 4}}, of="b"
    )
    file.write_bytes(live + done)

    summaries = [dataclasses.astuple(summary) for summary in list_traces(file)]

    assert summaries == [("b", "done", "ok", 3, 4, 0.0), ("a", "live", "unfinished", 9, 2, 0.25)]


def test_an_unfinished_run_has_its_counts_so_far():
    trace = Trace("a" * 32, "run", steps=2, llm_calls=3, tool_calls=1, usage=Usage(10, 5, cost_usd=None))
    span = Span("1", None, "step", "s")

    loaded = load(TraceLines(trace).ended(span))

    assert (loaded.steps, loaded.llm_calls, loaded.tool_calls, loaded.usage) == (2, 3, 1, Usage(10, 5, cost_usd=None))


def test_loading_one_run_of_many_keeps_only_that_one(file):
    with file.open("wb") as out:
        for number in range(200):
            text = f"{number} " * 30_000
            out.write(lines(run(), pool(text), ended("1", stored_input=["body", 0]), of=f"trace {number}"))
    Trace.load(file)
    tracemalloc.start()
    try:
        Trace.load(file, "trace 7")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2_000_000


# --- files that are none

UNREADABLE = "records of this run that cannot be read"


def refused(content: bytes, trace_id: str | None = None) -> str:
    with pytest.raises(TraceFormatError) as caught:
        load(content, trace_id)
    assert list_traces_or_error() is not None
    return str(caught.value).removeprefix(os.environ["SHEARPIN_TEST_FILE"])


def list_traces_or_error() -> object:
    try:
        return list_traces(Path(os.environ["SHEARPIN_TEST_FILE"]))
    except TraceFormatError as error:
        return error


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"\x00" * 5000,
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        b"null",
        b"[]",
        b'{"id": 1}\n{"id": 2}\n',
        b'{"resourceSpans": []}\n',
        b"of,by,n\n1,2,3\n",
        b"\xff\xfe{\x00}\x00",
        b"[" * 1_000_000,
        b'{"of":' * 1_000_000,
    ],
    ids=lambda content: f"{content[:12]!r}, {len(content)} bytes",
)
def test_a_file_of_another_kind_is_refused_at_its_first_line(content):
    assert re.match(r", line [13]: ", refused(content))


BRACKETS = 1_000_000


@pytest.mark.parametrize(
    "value",
    [
        "[" * BRACKETS + "]" * BRACKETS,
        '{"a":' * BRACKETS + "1" + "}" * BRACKETS,
        "[" * 200 + "]" * 200,
        "9" * 5000,
        "1e999",
        "NaN",
        "-Infinity",
    ],
    ids=lambda value: f"{value[:12]}, {len(value)} characters",
)
def test_values_beyond_all_bounds_are_left_out_and_told(value):
    record = f'{{"of":"a","by":"b","n":1,"pool":{{"first":[0,1],"links":[],"bodies":[{value}]}}}}\n'

    trace = load(lines(run()) + record.encode() + lines(ended(stored_input=["body", 0]), first=2))

    assert trace.spans[0].input["content"] == "<lost: the file lacks the record that held it>"
    assert trace.gaps[0].startswith(f"{UNREADABLE}: 1; the first is line 2: ")


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"run": {"schema": 2, "name": "r"}}, "newer version of Shearpin (schema 2, this one reads 1)"),
        ({"run": {"schema": "1", "name": "r"}}, "without a schema version"),
        ({"run": {"name": "r"}}, "without a schema version"),
        ({"run": None}, "valid dictionary"),
        (run(name=None), "name"),
        (run(started_ns="yesterday"), "started_ns"),
        (run(started_ns=-1), "started_ns"),
        (run(started_ns=10**400), "started_ns"),
        (run(identity=["me"]), "identity"),
        (run(identity={"tags": "beta"}), "identity.tags"),
        (run(identity={"user_id": 5}), "identity.user_id"),
    ],
    ids=str,
)
def test_a_run_whose_first_record_has_the_wrong_shape_is_refused(record, complaint):
    content = lines(record, ended())

    for message in (refused(content), refused(content, "a")):
        assert message.startswith(", line 1: ")
        assert complaint in message


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"run": None}, "valid dictionary"),
        ({"what": {}}, "unknown kind of record: what"),
        ({"ended": None}, "valid dictionary"),
        ({"ended": []}, "valid dictionary"),
        ({"ended": {}}, "span_id"),
        ({"ended": {"span_id": "1", "parent_id": None, "name": "n"}}, "kind"),
        (ended(kind="oracle"), "kind"),
        (ended(kind=["llm"]), "kind"),
        (ended(span_id=5), "span_id"),
        (ended(start_ns="noon"), "start_ns"),
        (ended(end_ns=2**63), "out of range"),
        (ended(start_ns=-1), "out of range"),
        (ended(status="fine"), "status"),
        (ended(attributes=[]), "attributes"),
        (ended(error="boom"), "error"),
        (ended(error={"type": "E"}), "error.message"),
        (ended(kind="llm", usage={"input_tokens": "many"}), "usage.input_tokens"),
        (ended(kind="llm", tool_calls=["search"]), "tool_calls.0"),
        (ended(kind="decision", verdict="maybe"), "verdict"),
        (ended(stored_input=["body", 0]), "body 0"),
        (ended(stored_input=["body", -1]), "body -1"),
        (ended(stored_input=["body", "0"]), "no reference"),
        (ended(stored_input=["body"]), "no reference"),
        (ended(stored_input=[1, 2]), "no reference"),
        (ended(stored_input=["chain", 1, 1]), "node 1"),
        (ended(stored_input=["chain", 0, 5]), "a list of 0, not of 5"),
        (ended(stored_input={"deep": {"er": ["chain", 10**12, 1]}}), "node 1000000000000"),
        (pool("a", links=((1, 0),)), "node 1"),
        (pool("a", links=((2, 0), (1, 0))), "node 2"),
        (pool("a", links=((-1, 0),)), "node -1"),
        (pool("a", links=((0, 1),)), "body 1"),
        (pool("a", links=((0, -1),)), "body -1"),
        (pool("a", first=(5, 1)), "bodies from 5"),
        (pool("a", first=(0, 0)), "nodes from 0"),
        ({"pool": {"first": [0, 1], "bodies": {}, "links": []}}, "bodies"),
        ({"pool": {"first": [0, 1], "bodies": [], "links": [[0]]}}, "links.0"),
        ({"pool": {"bodies": [], "links": []}}, "first"),
        ({"finished": {}}, "name"),
        ({"finished": {"name": "r", "steps": "two"}}, "steps"),
        ({"finished": {"name": "r", "stop": {}}}, "stop.error"),
        ({"finished": {"name": "r", "gaps": "none"}}, "gaps"),
        (ended() | {"sums": 5}, ":"),
        (ended() | {"sums": {"usage": {"cost_usd": "free"}}}, "usage.cost_usd"),
    ],
    ids=str,
)
def test_a_record_of_the_wrong_shape_is_left_out_and_told(record, complaint):
    trace = load(lines(run(), record, ended("good"), ended("better")))

    assert [span.span_id for span in trace.spans][-2:] == ["good", "better"]
    (gap,) = trace.gaps
    assert gap.startswith(f"{UNREADABLE}: 1; the first is line 2: ")
    assert complaint in gap


def test_what_follows_a_bad_record_is_read_as_far_as_it_can_be():
    trace = load(
        lines(
            run(),
            pool("a", first=(5, 1)),
            ended("1", stored_input=["body", 0]),
            ended("2", kind="oracle"),
            {"finished": {"name": "r", "status": "ok", "ended_ns": 7, "steps": 3}},
        )
    )

    assert (trace.status, trace.steps, [span.span_id for span in trace.spans]) == ("ok", 3, ["1"])
    assert trace.spans[0].input["content"] == "<lost: the file lacks the record that held it>"
    assert trace.gaps[0].startswith(f"{UNREADABLE}: 2; the first is line 2: bodies from 5")


# --- a shared file in which one run is bad

BAD_RUNS = {
    "a bad tag": lines(run("bad", started_ns=9, identity={"tags": [2024]}), ended(), of="bad"),
    "no name": lines(run(None, started_ns=9), ended(), of="bad"),  # type: ignore[arg-type]
    "another schema": lines({"run": {"schema": 99, "name": "bad"}}, {"what": 5}, of="bad"),
    "too many digits": b'{"of":"bad","by":"b","n":0,"run":{"schema":1,"name":"bad","started_ns":%s}}\n' % (b"9" * 5000),
}


@pytest.fixture(params=BAD_RUNS)
def shared(request, file):
    """A file of two good runs, and a bad one between them that started last."""
    good = [lines(run(name, started_ns=at), ended(), of=name) for name, at in [("first", 1), ("second", 2)]]
    file.write_bytes(good[0] + BAD_RUNS[request.param] + good[1])
    return file


def test_a_bad_run_is_left_out_of_the_list(shared, caplog):
    assert [summary.name for summary in list_traces(shared)] == ["first", "second"]

    (record,) = caplog.records
    assert record.getMessage().startswith(f"{shared}: unreadable lines left out: 1; the first is line 3: ")


@pytest.mark.parametrize("head", [b"started by cron\n", b"\xef\xbb\xbf", b"\0" * 100, b"a\n\nb\n"])
def test_what_others_have_written_at_the_head_of_a_file_hides_no_run(head):
    written = lines(run("first", started_ns=1), ended(), of="first") + lines(run("second", started_ns=2), of="second")

    assert load(head + written).name == "second"
    assert [span.span_id for span in load(head + written, "first").spans] == ["1"]


@pytest.mark.parametrize("messages", [0.5, "text", {"role": "user"}])
def test_a_model_call_whose_messages_are_no_list_is_left_out_and_told(messages):
    trace = load(lines(run(), ended("1", "llm", stored_input=messages), ended("2", "llm")))

    assert [span.messages for span in trace.spans_of("llm")] == [[]]
    assert "messages or tools that are no list" in trace.gaps[0]


def test_a_bad_run_is_not_the_one_that_started_last(shared, caplog):
    assert Trace.load(shared).name == "second"

    assert "unreadable lines left out: 1; the first is line 3: " in caplog.text


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_runs_beside_a_bad_one_load_by_their_id_and_know_nothing_of_it(shared, name, caplog):
    trace = Trace.load(shared, name)

    assert (trace.name, trace.gaps, caplog.records) == (name, [], [])


def test_a_bad_run_that_is_asked_for_says_what_is_wrong(shared):
    with pytest.raises(TraceFormatError, match=r"runs\.jsonl, line 3: "):
        Trace.load(shared, "bad")


def test_the_ids_of_a_file_are_told_also_of_runs_that_cannot_be_read(shared):
    assert ids_beginning(shared, "") == {"first", "second", "bad"}
    assert ids_beginning(shared, "b") == {"bad"}


@pytest.mark.parametrize(
    "odd", [b'{"of": "a"}\n', b'{"of": 5, "by": "b"}\n', b'[{"of": "a"}]\n', b'"' + b"x" * 200_000]
)
def test_a_line_that_is_nobodys_is_left_out_and_logged(file, caplog, monkeypatch, odd):
    monkeypatch.setattr("shearpin.trace.jsonl._LONGEST_LINE", 100_000)
    file.write_bytes(lines(run("good")) + odd.strip() + b"\n" + lines(ended(), first=1))

    trace, listed = Trace.load(file), list_traces(file)

    assert (trace.name, len(trace.spans), trace.gaps) == ("good", 1, [])
    assert [summary.name for summary in listed] == ["good"]
    assert [record.getMessage().count("line 2: ") for record in caplog.records] == [1, 1]


def test_a_file_in_which_nothing_can_be_read_says_why_not(file):
    file.write_bytes(BAD_RUNS["a bad tag"] + BAD_RUNS["no name"])

    for read in (Trace.load, list_traces):
        with pytest.raises(TraceFormatError, match=r"line 1: identity\.tags\.0"):
            read(file)


def test_what_is_logged_can_be_printed(tmp_path, caplog):
    path = tmp_path / "runs\x1b[2J.jsonl"
    path.write_bytes(lines(run()) + b'{"of": 5}\n')

    Trace.load(path)

    assert caplog.records[0].getMessage().isprintable()


# --- values of any type

ANYTHING = VALUES | st.sampled_from(
    [b"x", (1,), {1}, {None: {2: 3}}, object, Decimal("NaN"), 10**5000, "\ud800", StrEnum]
)
FIELDS = [OUTCOME, *OWN.values()]


@many
@given(st.dictionaries(st.sampled_from(sorted({name for fields in FIELDS for name in fields})), ANYTHING), ANYTHING)
def test_a_span_of_any_types_can_be_read_again(fields, name):
    kind = next((kind for kind in OWN if fields.keys() <= (OUTCOME | OWN[kind]).keys()), "llm")
    known = {name for name in fields if name in OUTCOME | OWN[kind]} - {"start_ns", "end_ns"}
    span = new_span(kind, span_id="1", parent_id=None, name=name, **{name: fields[name] for name in known})

    loaded = load(whole(Trace("a" * 32, "run", spans=[span])))

    assert ([type(span) for span in loaded.spans], loaded.gaps) == ([type(span)], [])


@many
@given(ANYTHING, st.builds(Identity, *[ANYTHING] * 10), ANYTHING, st.lists(ANYTHING, max_size=2), ANYTHING)
def test_a_run_of_any_types_can_be_read_again(name, identity, count, gaps, status):
    trace = Trace("a" * 32, name, identity, status=status, steps=count, usage=Usage(count, cost_usd=count), gaps=gaps)

    loaded = load(whole(trace))

    assert type(loaded.name) is str
    assert all(type(tag) is str for tag in loaded.tags)
    assert [summary.trace_id for summary in list_traces(Path(os.environ["SHEARPIN_TEST_FILE"]))] == [trace.trace_id]


def test_absurd_numbers_of_lines_cost_nothing():
    content = line("a", "b", 10**17, run()) + line("a", "b", 10**17 + 5, pool("x", first=(10**17, 10**17)))

    assert load(content).gaps == [f"records of this run that its file lacks, cut off or removed: {10**17 + 4}"]


def test_a_line_without_end_is_read_no_further_than_it_may_be_long(file, monkeypatch):
    monkeypatch.setattr("shearpin.trace.jsonl._LONGEST_LINE", 100_000)
    file.write_bytes(lines(run()) + b'{"of":' + b" " * 5_000_000)
    Trace.load(file)
    tracemalloc.start()
    try:
        Trace.load(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1_000_000


def test_a_path_that_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in [
        tmp_path,
        tmp_path / "pipe",
        tmp_path / "absent",
        tmp_path / "absent" / "x",
        Path(os.devnull),
        "nul\0",
    ]:
        with pytest.raises(TraceFormatError, match=re.escape(printable(str(path)))):
            Trace.load(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(file):
    file.write_bytes(lines(run()))
    file.chmod(0)

    with pytest.raises(TraceFormatError, match="Permission denied"):
        Trace.load(file)


def test_user_data_that_looks_like_a_record_is_data():
    fake = line("a", "b", 0, run("fake")).decode()
    trace = Trace("a" * 32, "real", stored_input={"of": "a", "by": "b", "n": 0, "run": {"schema": 99}})
    trace.spans = [Span("1", None, "step", fake, attributes={"x": {"of": "a" * 32, "by": "x", "n": 7, "run": fake}})]

    loaded = load(whole(trace))

    assert (loaded.name, loaded.input, loaded.spans[0].name) == ("real", trace.input, fake)
    assert loaded.spans[0].attributes == trace.spans[0].attributes
