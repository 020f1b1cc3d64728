"""The tree in the terminal: what it tells of a run, how it is laid out, and that no trace can break out of it."""

import io
import itertools
import re
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shearpin.errors import RunStoppedError
from shearpin.trace import Identity, Span, SpanError, Stop, Trace, Usage
from shearpin.trace.spans import new_span
from shearpin.view.figures import brief, call_text, count, duration, money
from shearpin.view.terminal import print_trace, render
from shearpin.view.text import cells, clean, wrap

MS = 1_000_000
ESCAPE = re.compile(r"\x1b\[[\d;]*m")


class Recording:
    """Writes a trace as a run would: spans follow each other in time."""

    def __init__(self, name="support", **fields):
        self.now = 1_000 * MS
        self.ids = itertools.count(1)
        self.trace = Trace("4bf92f3577b34da6a3ce929d0e0e4736", name, started_ns=self.now, **fields)
        self.root = self.add("agent", name, None)

    def add(self, kind, name, parent: Span | None, ms=0, **fields) -> Span:
        span = new_span(
            kind,
            span_id=f"{next(self.ids):016x}",
            parent_id=parent.span_id if parent else None,
            name=name,
            start_ns=self.now,
            end_ns=self.now + ms * MS,
            **{"status": "ok"} | fields,
        )
        self.now += ms * MS
        self.trace.spans.append(span)
        self.trace.steps = max(self.trace.steps, span.step)
        return span

    def llm(self, parent=None, reply=None, usage=None, ms=800, **fields):
        span = self.add("llm", "chat", parent or self.root, ms, reply=reply, usage=usage, **fields)
        span.request_model = fields.get("request_model", "gpt-4o")
        self.trace.llm_calls += 1
        self.trace.usage.add(usage or Usage(cost_usd=0.0))
        return span

    def tool(self, parent=None, name="search", arguments=None, result=None, ms=100, **fields):
        self.trace.tool_calls += 1
        given = {"stored_input": arguments, "stored_output": result}
        return self.add("tool", name, parent or self.root, ms, **given | fields)

    def decide(self, verdict, reason, parent=None, rule="Budget", **fields):
        name = f"{rule}: {verdict}"
        return self.add("decision", name, parent or self.root, rule=rule, verdict=verdict, reason=reason, **fields)

    def stop(self, reason, call=None, parent=None, **fields):
        error = RunStoppedError(reason)
        decision = self.decide("stop", str(error), parent, stored_input=call, **fields)
        self.trace.stop = Stop(error, "Budget", decision.span_id)
        return self.end("stopped")

    def end(self, status="ok") -> Trace:
        self.root.status, self.root.end_ns = status, self.now
        self.trace.status, self.trace.ended_ns = status, self.now
        return self.trace


def usage(tokens_in=100, tokens_out=10, cost=0.0025, **fields):
    return Usage(tokens_in, tokens_out, cost_usd=cost, **fields)


def looping(steps: int, step_spans: bool = True) -> Recording:
    run = Recording("researcher")
    for number in range(1, steps + 1):
        parent = run.add("step", f"step {number}", run.root, step=number) if step_spans else run.root
        run.llm(parent, usage=usage(), step=number, ms=100)
        run.tool(parent, result=f"nothing on page {number}", step=number)
        if step_spans:
            parent.end_ns = run.now
    return run


def line_with(text: str, trace: Trace, **options) -> str:
    (line,) = [line for line in render(trace, **options).splitlines() if text in line]
    return line


def lines_with(text: str, trace: Trace, **options) -> list[str]:
    return [line for line in render(trace, **options).splitlines() if text in line]


# --- what the header tells


def test_the_header_tells_name_fate_and_totals():
    run = Recording()
    run.llm(usage=usage(3412, 218, 0.0075, cached_input_tokens=1024), step=1, ms=4310)
    run.tool(step=1, ms=0)

    first, second = render(run.end()).splitlines()[:2]

    assert first == "✓ ok  support"
    assert second == (
        "  $0.0075 · 4.31 s · 1 step · 1 model call · 1 tool call · 3,412 tokens in (1,024 cached) → 218 out"
    )


def test_the_header_tells_whose_run_it_was():
    identity = Identity(session_id="s1", user_id="u1", tenant="acme", version="2.3", tags=("beta",))

    line = line_with("session", Recording(identity=identity).end())

    assert line == (
        "  trace 4bf92f3577b34da6a3ce929d0e0e4736 · session s1 · user u1 · tenant acme · version 2.3 · #beta"
    )


def test_the_header_tells_what_was_asked_and_answered():
    asked = {"messages": [{"role": "user", "content": "Where is it?"}]}

    shown = render(Recording(stored_input=asked, stored_output="In Bonn.").end())

    assert '  asked    user: "Where is it?"\n  answered "In Bonn."\n' in shown


@pytest.mark.parametrize("status", ["ok", "error", "stopped", "paused", "cancelled", "unfinished"])
def test_every_fate_has_its_word(status):
    word = {"error": "failed", "stopped": "STOPPED"}.get(status, status)

    assert word in render(Recording().end(status)).splitlines()[0]


def test_a_run_that_never_ended_is_shown_as_far_as_it_went():
    run = Recording()
    run.llm(step=1, status="unfinished").end_ns = None
    run.trace.spans[0].end_ns = None

    shown = render(run.trace)

    assert "◌ unfinished  support" in shown
    assert "no end" in shown
    assert line_with("llm", run.trace).endswith("…")


def test_a_run_without_spans_is_only_a_header():
    assert render(Trace("1", "empty", status="ok")).count("\n") == 3


# --- what a row tells


def test_children_hang_below_their_parents_in_start_order():
    run = Recording()
    node = run.add("node", "planner", run.root)
    run.llm(node, "first")
    agent = run.add("agent", "booker", node)
    run.tool(agent, "book")
    run.llm(run.root, "last")
    trace = run.end()
    trace.spans.reverse()

    rows = [re.sub(" +[0-9]+ ms$", "", line) for line in lines_with("─ ", trace)]

    assert rows == [
        "├─ node planner",
        '│  ├─ llm gpt-4o → "first"',
        "│  └─ agent booker",
        "│     └─ tool book() → null",
        '└─ llm gpt-4o → "last"',
    ]


def test_a_model_call_tells_what_it_asked_for():
    run = Recording()
    run.llm(tool_calls=[{"id": "1", "name": "search", "arguments": {"q": "refund", "limit": 5}}])
    run.llm(tool_calls=[{"name": "fetch", "arguments": '{"url": "x"}'}])

    shown = render(run.end())

    assert 'llm gpt-4o → search(q="refund", limit=5)' in shown
    assert 'llm gpt-4o → fetch(url="x")' in shown


def test_a_tool_call_tells_arguments_and_result():
    run = Recording()
    run.tool(name="find", arguments={"id": 4711}, result={"state": "paid", "items": [1, None, True]})

    assert 'tool find(id=4711) → {state: "paid", items: [1, null, true]}' in render(run.end())


def test_long_arguments_leave_room_for_the_result():
    run = Recording()
    run.tool(arguments={"q": "x" * 500}, result="found it")

    assert '…) → "found it"' in line_with("tool search", run.end(), width=72)


def test_what_is_unusual_stands_beside_the_name():
    run = Recording()
    run.tool(retry=2, result="ok")
    run.tool(name="pay", status="paused")
    run.llm(reply="and then", finish_reason="length")

    shown = render(run.end())

    assert 'tool search() retry 2 → "ok"' in shown
    assert "tool pay() paused" in shown
    assert 'llm gpt-4o ⚠ length → "and then"' in shown


def test_an_error_stands_below_its_call():
    run = Recording()
    run.tool(status="error", error=SpanError("TimeoutError", "no answer"), http_status=504)

    shown = render(run.end()).splitlines()
    (number,) = [number for number, line in enumerate(shown) if "tool search()" in line]

    assert shown[number + 1].strip() == "✗ HTTP 504 · TimeoutError: no answer"


def test_a_long_error_is_told_on_three_lines():
    run = Recording()
    run.tool(status="error", error=SpanError("TimeoutError", "東京 does not answer " * 20))
    run.tool(name="other")

    shown = render(run.end(), width=60).splitlines()
    below = [line for line in shown if "answer" in line]

    assert below[0].startswith("│    ✗ TimeoutError: 東京 does not answer ")
    assert [line[:5] for line in below] == ["│    "] * 3
    assert below[2].endswith("not …")
    assert "\x1b[1;31m✗ TimeoutError: \x1b[0m\x1b[31m東京" in render(run.trace, width=60, color=True)


def test_no_half_of_an_amount_is_told():
    reason = "the budget of $0.03 does not fit llm gpt-4o: it may need $0.006045"
    trace = Recording().stop(reason, {"kind": "llm", "name": "gpt-4o"})

    told = {lines_with("the budget", trace, width=width)[0].strip() for width in range(64, 76)}

    assert told == {reason, "the budget of $0.03 does not fit llm gpt-4o: it may need …"}


def test_an_error_that_passed_through_is_told_once():
    run = Recording()
    error = SpanError("ValueError", "no such account")
    node = run.add("node", "ledger", run.root, status="error", error=error)
    run.tool(node, status="error", error=error)
    run.root.error = error

    assert len(lines_with("✗ ValueError", run.end("error"))) == 1


def test_warnings_stand_below_what_they_touched():
    run = Recording()
    call = run.llm(reply="hm")
    run.tool(name="other")
    run.decide("warn", "70 % spent", touched=call.span_id)

    shown = [line.strip() for line in render(run.end()).splitlines()]
    (number,) = [number for number, line in enumerate(shown) if "llm gpt-4o" in line]

    assert shown[number + 1] == "│  └─ ⚠ warn Budget · 70 % spent"


@pytest.mark.parametrize("verdict", ["allow", "warn", "deny", "ask", "approved", "rejected", "nudge"])
def test_every_verdict_is_shown_with_its_reason(verdict):
    run = Recording()
    run.decide(verdict, "because", rule="ToolPolicy")

    assert f"{verdict} ToolPolicy · because" in render(run.end())


def test_figures_that_nothing_has_get_no_heading():
    run = Recording()
    run.decide("warn", "one")

    assert "time" not in render(run.end())


def test_steps_are_numbered_in_the_margin():
    margins = [line[:4] for line in render(looping(2, step_spans=False).end()).splitlines() if "─ " in line]

    assert margins == ["  1 ", "    ", "  2 ", "    "]


def test_a_parent_is_at_the_first_step_in_it():
    run = Recording()
    run.tool(name="open")
    node = run.add("node", "review", run.root, step=3)
    for step in (2, 3):
        run.llm(node, step=step)

    margins = [line[:4] for line in render(run.end()).splitlines() if "─ " in line]

    assert margins == ["    ", "  2 ", "    ", "  3 "]


def test_steps_that_are_spans_need_no_margin():
    assert "\n├─ step 1" in render(looping(2).end())


# --- figures


def test_figures_are_aligned_at_the_arrow_and_at_the_point():
    run = Recording()
    run.llm(usage=usage(5, 1_200, 0.000057))
    run.llm(usage=usage(41_024, 7, 12.5))
    run.llm(usage=usage(100, 10, 0.0025))
    rows = [line[60:] for line in render(run.end()).splitlines()[5:8]]

    assert len({row.index("→") for row in rows}) == 1
    assert len({row.index(".") for row in rows}) == 1


def test_parents_sum_up_what_is_below_them():
    run = Recording()
    agent = run.add("agent", "booker", run.root)
    run.llm(agent, usage=usage(100, 10, 0.002))
    run.llm(run.add("node", "plan", agent), usage=usage(50, 5, 0.001))

    assert "150 →  15  $0.003" in line_with("agent booker", run.end())


def test_a_call_without_price_makes_its_parents_unpriced():
    run = Recording()
    agent = run.add("agent", "booker", run.root)
    run.llm(agent, usage=usage())
    run.llm(agent, "hm", usage=usage(cost=None))
    trace = run.end()

    assert "unpriced" in line_with("agent booker", trace)
    assert "unpriced" in line_with('"hm"', trace)
    assert "  unpriced · " in render(trace).splitlines()[1]


def test_estimates_say_so():
    run = Recording()
    run.llm(usage=usage(480, 22, 0.0025), usage_estimated=True)

    assert "~480 → ~22  ~$0.0025" in line_with("llm", run.end())


def test_a_tool_uses_the_space_of_the_figures_it_has_not():
    run = Recording()
    run.llm(usage=usage())
    run.tool(result="long " * 30)

    assert cells(line_with("tool search", run.end()).partition("…")[0]) > 85


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (0.0075, "$0.0075"),
        (0.011, "$0.011"),
        (0.1 + 0.2, "$0.30"),
        (0.5, "$0.50"),
        (12.345, "$12.35"),
        (3e-5, "$0.00003"),
        (0, "$0.00"),
        (1e-9, "<$0.000001"),
        (-0.5, "-$0.50"),
        (None, "unpriced"),
        (float("nan"), "$nan"),
    ],
)
def test_money_has_enough_digits(usd, shown):
    assert money(usd) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (999_999, "999,999"),
        (1_000_000, "1.00M"),
        (10**15, "1,000,000,000.00M"),
        (10**400, ">1,000,000,000,000,000"),
        (-(10**400), "->1,000,000,000,000,000"),
        (2 * (10**4300 - 1), ">1,000,000,000,000,000"),
    ],
    ids=range(7),
)
def test_a_count_of_any_size_is_short(number, shown):
    assert count(number) == shown


def test_a_program_without_stdout_prints_nowhere(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)

    Recording().end().print()


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (0, "0 ms"),
        (0.4, "400 µs"),
        (98, "98 ms"),
        (999.9, "1.00 s"),
        (4310, "4.31 s"),
        (10_021, "10.0 s"),
        (125_000, "2m 05s"),
        (7_260_000, "2h 01m"),
        (-5, "-5.0 ms"),
    ],
)
def test_durations_have_three_digits(ms, shown):
    assert duration(int(ms * MS)) == shown


# --- why a run was stopped


def test_a_stop_tells_what_was_refused_why_where_and_what_was_spent():
    run = Recording()
    agent = run.add("agent", "billing", run.root)
    run.llm(agent, usage=usage(2523, 98, 0.0073), step=1)
    call = {"kind": "tool", "name": "refund", "input": {"order": 4711}}

    shown = render(run.stop("the budget of $0.01 is used up", call, agent, step=2))

    assert shown.startswith(" ✋ STOPPED   support\n")
    assert "✋ STOP  Budget refused tool refund(order=4711)" in shown
    assert shown.partition("┃")[2].splitlines() == [
        "  ✋ STOPPED by Budget",
        "┃ why      the budget of $0.01 is used up",
        "┃ refused  tool refund(order=4711), which would have been tool call 1",
        "┃ where    support / billing · step 2",
        "┃ spent    $0.0073 · 1 model call · 0 tool calls · 2,523 tokens in → 98 out",
    ]


def test_the_reason_of_a_stop_is_never_cut():
    reason = f"loop: {'a' * 50} -> {'b' * 50} came 3 times, and nothing changed"

    told = "".join(line[11:] for line in lines_with("┃", Recording().stop(reason), width=40))

    assert reason.replace(" ", "") in told.replace(" ", "")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({"kind": "llm", "name": "gpt-4o", "input": None}, "llm gpt-4o, which would have been model call 3"),
        ({"kind": "tool", "name": "pay", "input": None}, "tool pay(), which would have been tool call 2"),
        ({"kind": "handoff", "name": "billing"}, "handoff billing"),
    ],
)
def test_a_stop_tells_which_call_it_would_have_been(call, told):
    run = Recording()
    run.llm()
    run.llm()
    run.tool()

    assert line_with("┃ refused", run.stop("enough", call)) == f"┃ refused  {told}"


def test_a_stop_is_told_where_it_happened_and_not_by_what_it_passed_through():
    run = Recording()
    passed = {"status": "stopped", "error": SpanError("BudgetExceededError", "run stopped: no money left")}
    run.root.error = passed["error"]
    node = run.add("node", "tools", run.root, **passed)
    agent = run.add("agent", "booker", node, **passed)

    shown = render(run.stop("no money left", {"kind": "llm", "name": "gpt-4o"}, agent))

    assert shown.count("no money left") == 2
    assert re.findall(r"─ (.*?) *(?: \d ms)?$", shown, re.MULTILINE) == [
        "node tools",
        "agent booker",
        " ✋ STOP  Budget refused llm gpt-4o",
    ]


def test_a_stop_that_came_from_another_run_is_told_by_its_error():
    run = Recording()
    error = SpanError("RunStoppedError", "run stopped: by its parent")
    run.add("node", "tools", run.root, status="stopped", error=error)

    assert len(lines_with("✗ RunStoppedError: run stopped: by its parent", run.end("stopped"))) == 1


def fan_out(before: int, after: int) -> Trace:
    """So many branches that made their call, one that was stopped before it, and so many that were cut off."""
    run = Recording("contract")
    for number in range(before):
        run.llm(run.add("node", f"review_{number}", run.root), usage=usage())
    error = SpanError("BudgetExceededError", "run stopped: no money left")
    nodes = [run.add("node", "review", run.root, 5, status="stopped", error=error) for _ in range(after + 1)]
    return run.stop("no money left", {"kind": "llm", "name": "gpt-4o"}, nodes[after // 2])


@pytest.mark.parametrize("before", [2, 6, 30])
def test_siblings_that_were_stopped_before_they_did_anything_are_told_in_one_line(before):
    shown = render(fan_out(before, 13)).splitlines()

    (number,) = [
        number for number, line in enumerate(shown) if "13 more nodes, stopped before their first call" in line
    ]
    assert shown[number].startswith("└─ … 13")
    assert len([line for line in shown if "node review " in line]) == 1
    assert not [line for line in shown if "✗" in line]


def test_all_of_them_are_told_when_all_is_asked_for():
    assert len(lines_with("node review stopped", fan_out(2, 13), full=True)) == 13


def test_one_sibling_that_was_stopped_before_it_did_anything_says_so_itself():
    assert len(lines_with("node review stopped", fan_out(2, 1))) == 1


def test_siblings_that_were_stopped_after_a_call_are_shown_with_it():
    trace = fan_out(2, 13)
    cut_off = [span for span in trace.spans if span.name == "review"][-1]
    trace.spans.append(
        new_span("tool", span_id="t", parent_id=cut_off.span_id, name="read", start_ns=cut_off.start_ns, status="ok")
    )

    assert len(lines_with("node review stopped", trace)) == 1
    assert "… 12 more nodes, stopped before their first call" in render(trace)


def test_a_stop_is_told_also_of_a_run_whose_process_died_then():
    run = Recording()
    run.decide("stop", "budget reached")

    assert "STOPPED by Budget" in render(run.trace)


def test_what_is_only_observed_is_no_stop():
    run = Recording()
    call = {"kind": "llm", "name": "gpt-4o", "input": None}
    run.decide("stop", "budget reached", facts={"observed": True}, stored_input=call)

    shown = render(run.end())

    assert "STOP" not in shown
    assert "✋ would stop Budget refused llm gpt-4o" in shown
    assert "┃ ✋ Budget only observes: enforced, it would have stopped here" in shown


def test_a_failure_tells_its_error_and_where_it_began():
    run = Recording()
    error = SpanError("OperationalError", "database is locked")
    agent = run.add("agent", "ledger", run.root, status="error", error=error)
    run.tool(agent, "post", status="error", error=error, step=2)
    run.root.error = error

    assert lines_with("┃", run.end("error")) == [
        "┃ ✗ FAILED",
        "┃ why      OperationalError: database is locked",
        "┃ where    support / ledger / post · step 2",
        "┃ spent    $0.00 · 0 model calls · 1 tool call · 0 tokens in → 0 out",
    ]


def test_an_unfinished_run_tells_why_that_may_be_and_how_far_it_came():
    run = Recording()
    call = run.tool(run.add("node", "plan", run.root, step=2), "fetch", status="unfinished", step=2)
    run.root.end_ns = call.end_ns = None

    assert lines_with("┃", run.trace) == [
        "┃ ◌ UNFINISHED",
        "┃ why      its end was never recorded: it is still running, or its process was killed",
        "┃ where    support / plan / fetch · step 2",
        "┃ spent    $0.00 · 0 model calls · 1 tool call · 0 tokens in → 0 out",
    ]


def test_gaps_are_told():
    run = Recording()
    run.trace.gaps += [f"call {number} had no price" for number in range(12)]

    shown = lines_with("┃", run.end())

    assert shown[:2] == ["┃ ⚠ NOT COVERED", "┃ gap      call 0 had no price"]
    assert shown[-1] == "┃          … 2 more gaps"


# --- long runs


def test_repeated_steps_are_told_in_one_line_with_their_sum():
    trace = looping(40).end()

    (line,) = lines_with("more", trace)

    assert "├─ … 32 more steps " in line
    assert line.endswith("3,200 → 320  $0.08    6.40 s")
    assert [step for step in range(1, 41) if re.search(rf"step {step}\b", render(trace))] == [1, 2, 3, *range(36, 41)]


def test_steps_without_spans_of_their_own_are_folded_too():
    trace = looping(40, step_spans=False).end()

    assert "… 32 more steps" in render(trace)
    assert render(trace).count("tool search") == 8


def test_nothing_is_folded_when_all_is_asked_for():
    assert render(looping(40).end(), full=True).count("tool search") == 40


def test_short_runs_are_not_folded():
    assert "more" not in render(looping(12).end())


def test_where_something_happened_is_not_folded():
    run = looping(40)
    tools = run.trace.spans_of("tool")
    tools[19].error, tools[19].status = SpanError("ConnectError", "refused"), "error"
    run.decide("stop", "loop", run.trace.spans_of("step")[24], "LoopBreaker")

    shown = render(run.end("stopped"))

    assert "✗ ConnectError: refused" in shown
    assert "✋ STOP  LoopBreaker" in shown
    assert re.findall(r"… \d+ more steps", shown) == ["… 16 more steps", "… 4 more steps", "… 10 more steps"]


def test_a_fold_counts_the_errors_in_it():
    run = looping(60)
    for tool in run.trace.spans_of("tool"):
        tool.error, tool.status = SpanError("ConnectError", "refused"), "error"

    assert "… 51 more steps · 51 errors" in render(run.end())


def polling(times: int, **fields) -> Recording:
    run = Recording("poller")
    for _ in range(times):
        run.tool(name="status", arguments={"id": 7}, result="pending", **fields)
    return run


def test_repeated_calls_are_told_in_one_line():
    run = polling(9)
    run.tool(name="status", arguments={"id": 7}, result="done")

    assert [line[3:].split("  ")[0] for line in lines_with("─ ", run.end())] == [
        'tool status(id=7) → "pending"',
        "… 8 more tool calls that look the same",
        'tool status(id=7) → "done"',
    ]
    assert line_with("more", run.end()).endswith("800 ms")


def test_repeated_calls_of_one_step_are_told_in_one_line():
    run = polling(1, step=1)
    for retry in range(6):
        error = SpanError("TimeoutError", "no answer")
        run.tool(name="pay", status="error", error=error, retry=retry, step=2)

    assert "… 5 more tool calls that look the same · 5 errors" in render(run.end())


def test_repeated_steps_are_told_in_one_line():
    run = Recording()
    for step in range(1, 6):
        run.llm(tool_calls=[{"name": "status"}], usage=usage(), step=step)
        run.tool(name="status", result="pending", step=step)

    assert "100 →  10" in line_with("llm", run.end())
    assert line_with("4 more steps that look the same", run.end()).endswith("400 →  40  $0.01    3.60 s")


def test_three_times_the_same_is_shown():
    assert "more" not in render(polling(3).end())


def test_the_same_answer_to_another_question_is_another_call():
    run = Recording()
    for number in range(9):
        run.llm(reply="yes", stored_input=[{"role": "user", "content": f"is {number} a number?"}])

    assert len(lines_with("llm", run.end())) == 9


def test_a_stop_is_not_taken_for_a_repetition():
    run = Recording()
    for _ in range(9):
        run.decide("stop", "no money", facts={"observed": True})

    assert len(lines_with("✋ would stop", run.end())) == 9


def test_a_step_of_many_calls_is_folded_too():
    run = Recording()
    for number in range(300):
        run.tool(arguments={"page": number}, step=1)
    run.llm(step=2)

    assert "… 292 more tool calls" in render(run.end())


# --- broken, hostile and huge traces


@pytest.mark.parametrize("parents", [["b", "a", None], ["c", "a", "b"], ["a", "b", "c"], ["x", "y", "z"]])
def test_every_span_is_shown_once_whatever_its_parent(parents):
    spans = [new_span("tool", span_id=i, parent_id=p, name=f"t_{i}") for i, p in zip("abc", parents, strict=True)]

    shown = render(Trace("1", "run", status="ok", spans=spans))

    assert [shown.count(f"t_{name}") for name in "abc"] == [1, 1, 1]


def test_spans_with_the_same_id_are_shown_once_each():
    spans = [new_span("tool", span_id="a", parent_id="a", name=f"t_{number}") for number in range(9)]

    assert render(Trace("1", "run", status="ok", spans=spans)).count("t_") == 9


def test_a_decision_may_touch_its_own_parent_or_nothing_known():
    run = Recording()
    decision = run.decide("warn", "one")
    run.decide("warn", "two", touched=decision.span_id, parent=decision)
    run.decide("warn", "three", touched="gone")
    decision.touched = decision.span_id

    assert len(lines_with("⚠ warn", run.end())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("full", [True, False])
def test_ten_thousand_spans_a_thousand_deep_are_shown(full):
    spans = [
        new_span("agent", span_id=str(i), parent_id=str(i - 1) if i % 1000 else None, name=f"a{i}", start_ns=i)
        for i in range(10_000)
    ]
    began = time.perf_counter()

    shown = render(Trace("1", "deep", spans=spans), full=full)

    assert "└999 agent a9999" in shown
    assert max(map(cells, shown.splitlines())) <= 100
    assert time.perf_counter() - began < 20


PIECES = ["\x1b[2J", "\x1b]0;t\x07", "\x9b31m", "\u202e", "\u2066", "\u200b", "\u200d", "\ufeff", "\r\n", "\t", "\x00"]
PIECES += [
    "\u2028",
    "\ud800",
    "\U000e0041",
    "\ufe0f",
    "\u3164",
    "é",
    "e\u0301",
    "\u0301" * 9,
    "東京",
    "👩‍🚀",
    "❤️",
    "שלום",
    "│ ✋",
]
anything = st.lists(st.sampled_from(PIECES) | st.characters(), max_size=4).map("".join)
values = st.recursive(
    anything | st.none() | st.floats(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(anything, inner, max_size=2),
    max_leaves=3,
)


@st.composite
def hostile_traces(draw):
    run = Recording(
        draw(anything),
        identity=Identity(session_id=draw(anything), user_id=draw(anything), tags=(draw(anything),)),
        stored_input=draw(values),
        gaps=[draw(anything)],
    )
    run.trace.trace_id = draw(anything)
    error = SpanError(draw(anything), draw(anything))
    run.llm(reply=draw(anything), usage=usage(10**15, 1, draw(st.floats() | st.none())), request_model=draw(anything))
    run.llm(tool_calls=[{"name": draw(values), "arguments": draw(values)}, {}], finish_reason=draw(anything))
    run.tool(None, draw(anything), draw(values), draw(values), status="ok")
    run.tool(None, draw(anything), draw(values), status="error", error=error)
    run.add("retriever", draw(anything), run.root, stored_input=draw(values), stored_output=draw(values))
    run.decide(draw(anything), draw(anything), rule=draw(anything))
    call = {"kind": draw(values), "name": draw(values), "input": draw(values)}
    run.decide("stop", draw(anything), stored_input=draw(st.sampled_from([call, call | {"kind": "tool"}])))
    return run.end(draw(st.sampled_from(["error", "stopped"])))


@given(hostile_traces(), st.sampled_from([1, 33, 72, 100, 140]), st.sampled_from(["utf-8", "ascii", "cp1252"]))
@settings(max_examples=60, deadline=None)
def test_no_text_moves_the_cursor_hides_or_widens_anything(trace, width, encoding):
    shown = render(trace, width=width, encoding=encoding)

    shown.encode(encoding)
    unseen = {char for char in shown if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")}
    assert unseen <= {"\n", "\u200e"}
    assert max(cells(line) for line in shown.replace("\u200e", "").splitlines()) <= max(width, 24)
    assert len(shown.splitlines()) == len(render(trace, width=width, encoding=encoding, color=True).splitlines())


@given(hostile_traces())
@settings(max_examples=30, deadline=None)
def test_colours_are_the_only_escapes(trace):
    without = ESCAPE.sub("", render(trace, color=True))

    assert [line.rstrip() for line in without.split("\n")] == render(trace).split("\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("evil\u202egnp.exe", r"evil\u202egnp.exe"),
        ("in\u200bvisible\ufeff", r"in\u200bvisible\ufeff"),
        ("one\r\n\r\n  two", "one ↵ two"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("\ud800", r"\ud800"),
        ("no\u00a0break\tat", "no break at"),
        ("e\u0301", "é"),
        ("❤️ 👩‍🚀", "❤ 👩🚀"),
        ("e" + "\u0323" * 5, "ẹ" + "\u0323" * 3 + r"\u0323"),
        ("\u0301", r"\u0301"),
        ("👍🏽", "👍"),
        ("a\u1161\u11a8b", r"a\u1161\u11a8b"),
        ("\u1112\u1161\u11ab", "한"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text, shown):
    assert clean(text) == shown


def test_wide_characters_take_two_columns():
    assert [cells(text) for text in ("ab", "東京", "✋", "⚠", "e\u0323\u0301")] == [2, 4, 2, 1, 1]


def test_figures_stay_in_place_after_text_from_right_to_left():
    run = Recording()
    run.llm(reply="שלום", usage=usage())

    assert 'שלום"\u200e  ' in line_with("llm", run.end())


@given(st.text("ab c東", max_size=60), st.integers(2, 20))
def test_wrapped_text_is_whole_and_fits(text, width):
    lines = wrap(text, width)

    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cells(line) <= width for line in lines)


def test_an_excerpt_of_something_huge_is_made_at_once():
    deep: object = "end"
    for _ in range(100_000):
        deep = [deep]

    assert brief(deep) == "[[[[[[…]]]]]]"
    assert len(brief(["x" * 10_000_000] * 1_000)) < 1_000
    assert len(call_text("f", {str(number): number for number in range(100_000)})) < 1_000


# --- where it is printed


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _usual_environment(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def printed(file, **options) -> str:
    print_trace(looping(2).end(), file=file, **options)
    return file.getvalue()


def test_a_terminal_gets_colours_and_a_file_none():
    assert "\x1b[" in printed(Terminal())
    assert "\x1b[" not in printed(io.StringIO())


@pytest.mark.parametrize(
    ("variables", "file", "coloured"),
    [
        ({"NO_COLOR": "1"}, Terminal(), False),
        ({"NO_COLOR": ""}, Terminal(), True),
        ({"TERM": "dumb"}, Terminal(), False),
        ({"FORCE_COLOR": "1"}, io.StringIO(), True),
        ({"FORCE_COLOR": "0"}, io.StringIO(), False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, Terminal(), False),
    ],
)
def test_the_environment_decides_about_colours(monkeypatch, variables, file, coloured):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert ("\x1b[" in printed(file)) is coloured


def test_the_caller_decides_before_the_environment(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    assert "\x1b[" in printed(io.StringIO(), color=True)


def test_it_is_as_wide_as_the_terminal_within_reason(monkeypatch):
    monkeypatch.setenv("COLUMNS", "64")
    assert max(cells(line) for line in printed(io.StringIO()).splitlines()) == 64
    monkeypatch.setenv("COLUMNS", "900")
    assert max(cells(line) for line in printed(io.StringIO()).splitlines()) == 140


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_a_terminal_that_cannot_draw_gets_ascii(encoding):
    run = Recording()
    run.llm(reply="Füße → 東京")
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)

    print_trace(run.stop("enough"), file=file)

    file.seek(0)
    assert '|- llm gpt-4o -> "F\\xfc\\xdfe -> \\u6771\\u4eac"' in (shown := file.read())
    assert "# !! STOPPED by Budget" in shown.replace("#  ", "# ")


def test_columns_go_where_there_is_no_room_for_them():
    trace = looping(1).end()

    assert line_with("time", trace, width=72).split() == ["tokens", "in", "→", "out", "cost", "time"]
    assert line_with("time", trace, width=50).split() == ["cost", "time"]
    assert line_with("time", trace, width=30).split() == ["time"]


def test_a_trace_prints_itself(capsys):
    looping(2).end().print()

    assert "├─ step 1" in capsys.readouterr().out
