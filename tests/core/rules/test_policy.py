"""Tools that may be called, may not, and may when a person says so."""

import asyncio
import copy
import os
import pickle
import pty
import subprocess
import sys
import threading
import time

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
)
from shearpin.adapter import ToldError
from shearpin.rules.approval import read_answer
from shearpin.rules.patterns import ToolRequest


def verdicts(trace) -> list[tuple[str, str]]:
    return [(decision.verdict, decision.facts.get("tool", "")) for decision in trace.decisions]


def called(pin: Guard, *calls: tuple[str, dict]) -> list[str]:
    """What of `calls` ran, in a run of their own; a denial is passed over."""
    ran: list[str] = []
    with pin.run("agent") as run:
        for name, arguments in calls:
            try:
                with run.tool(name, arguments) as call:
                    ran.append(name)
                    call.result = "done"
            except (ToolDeniedError, ApprovalRejectedError):
                if run.stopped:
                    raise
    return ran


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "tool", "arguments", "matches"),
    [
        ("delete_*", "delete_user", {}, True),
        ("delete_*", "Delete_user", {}, False),
        ("delete_*", "undelete_user", {}, False),
        ("shell(command=rm *)", "shell", {"command": "rm -rf /"}, True),
        ("shell(command=rm *)", "shell", {"command": "ls"}, False),
        ("shell(command=rm *)", "shell", {}, False),
        ("shell(command=rm *)", "shell", "no arguments by name", True),
        ("pay(amount=1??*, to=*@evil.com)", "pay", {"amount": 100, "to": "a@evil.com"}, True),
        ("pay(amount=1??*, to=*@evil.com)", "pay", {"amount": 10, "to": "a@evil.com"}, False),
        ("write(text=a, b*)", "write", {"text": "a, bc"}, True),
        ("query(sql=*;*DROP*)", "query", {"sql": "select 1;\nDROP TABLE x"}, True),
        ("set(flags=[[]true*)", "set", {"flags": [True, False]}, True),
        ("run()", "run", {"any": 1}, True),
        ("*", "anything", None, True),
    ],
)
def test_a_pattern_names_tools_and_may_name_their_arguments(pattern, tool, arguments, matches):
    verdict, _ = ToolPolicy(deny=[pattern]).judge(ToolRequest(tool, arguments))

    assert (verdict == "deny") is matches


def test_a_function_decides_what_text_cannot():
    policy = ToolPolicy(deny=lambda call: call.tool == "refund" and call.arguments["amount"] > 100)

    assert policy.judge(ToolRequest("refund", {"amount": 500}))[0] == "deny"
    assert policy.judge(ToolRequest("refund", {"amount": 50}))[0] == "allow"


def test_deny_wins_over_ask_and_ask_over_allow():
    policy = ToolPolicy(allow=["*_file", "ls"], deny=["delete_*"], ask=["write_*"])

    told = {name: policy.judge(ToolRequest(name, {}))[0] for name in ("ls", "write_file", "delete_file", "mail")}

    assert told == {"ls": "allow", "write_file": "ask", "delete_file": "deny", "mail": "deny"}


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({}, ValueError, "needs a pattern"),
        ({"deny": 5}, TypeError, "deny=5"),
        ({"deny": {"a": 1}}, TypeError, "list of patterns"),
        ({"ask": [None]}, TypeError, "ask=\\[None\\]"),
        ({"deny": ["refund("]}, ValueError, "refund"),
        ({"deny": ["refund(amount)"]}, ValueError, "in brackets come arguments"),
        ({"deny": [""]}, ValueError, "must look like"),
        ({"deny": ["x"], "on_deny": "ask"}, ValueError, "'stop' or 'tell'"),
        ({"ask": ["x"], "approver": "me"}, TypeError, "approver='me'"),
    ],
)
def test_what_is_no_policy_is_refused_with_a_word_of_what_is(options, error, says):
    with pytest.raises(error, match=says):
        ToolPolicy(**options)


# --- denied


def test_a_denied_call_stops_the_run_before_it_starts():
    pin = Guard(ToolPolicy(deny=["delete_*"]))

    with pytest.raises(ToolDeniedError, match="tool delete_user is denied by the policy") as stop:
        called(pin, ("search", {}), ("delete_user", {"id": 7}))

    trace = pin.traces[-1]
    assert (stop.value.tool, stop.value.arguments, stop.value.rule) == ("delete_user", {"id": 7}, "deny delete_*")
    assert (trace.status, trace.stop.error, trace.tool_calls) == ("stopped", stop.value, 1)
    assert verdicts(trace) == [("allow", "search"), ("deny", "delete_user"), ("stop", "delete_user")]
    assert trace.decisions[1].input == {"kind": "tool", "name": "delete_user", "input": {"id": 7}}


def test_what_is_allowed_is_decided_beside_the_call():
    pin = Guard(ToolPolicy(allow=["search"]))

    called(pin, ("search", {}))

    (tool,) = pin.traces[-1].spans_of("tool")
    assert [decision.touched for decision in pin.traces[-1].decisions] == [tool.span_id]


@pytest.mark.parametrize("kind", [ToolDeniedError, ApprovalRejectedError])
def test_a_denial_survives_pickling_and_copying(kind):
    facts = {"rule": "deny x"} if kind is ToolDeniedError else {"approver": "eve"}
    error = kind(tool="pay", arguments={"to": ["a", 1]}, reason="no", **facts)

    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(twin), str(twin), twin.as_dict()) == (kind, str(error), error.as_dict())


def test_a_told_denial_leaves_the_run_going_on():
    pin = Guard(ToolPolicy(deny=["delete_*"], on_deny="tell"))

    ran = called(pin, ("delete_user", {}), ("search", {}))

    trace = pin.traces[-1]
    assert (ran, trace.status, trace.stop, trace.tool_calls) == (["search"], "ok", None, 1)
    assert verdicts(trace) == [("deny", "delete_user"), ("allow", "search")]


def test_a_denial_that_nobody_can_be_told_stops_the_run():
    pin = Guard(ToolPolicy(deny=["delete"], on_deny="tell"))
    with pytest.raises(ToolDeniedError) as stop, pin.run("agent") as run:
        try:
            run.start("tool", "delete", input={"name": "x"})
        except ToldError as told:
            raise run.halt(told) from None

    (trace,) = pin.traces
    assert (trace.status, trace.stop.error, trace.stop.rule) == ("stopped", stop.value, "ToolPolicy")
    assert [decision.verdict for decision in trace.decisions] == ["deny", "stop"]


def test_a_decorated_tool_answers_with_the_denial():
    pin = Guard(ToolPolicy(deny=["delete"], on_deny="tell"))
    ran = []

    @pin.tool
    def delete(path):
        ran.append(path)

    with pin.run("agent"):
        said = delete("/")

    assert said == "The call of delete was denied and did not run: denied by the policy. Do not repeat it."
    assert ran == []


async def test_so_do_coroutines_and_generators():
    pin = Guard(ToolPolicy(deny=["*"], on_deny="tell"))

    @pin.tool
    async def one():
        raise AssertionError

    @pin.tool
    def several():
        yield 1

    @pin.tool
    async def later():
        yield 1

    async with pin.run("agent"):
        said = [await one(), *several(), *[item async for item in later()]]

    assert all(text.startswith("The call of ") for text in said)
    assert len(said) == 3


def test_a_call_that_is_denied_again_and_again_is_a_loop():
    pin = Guard(ToolPolicy(deny=["delete"], on_deny="tell"), LoopBreaker())

    with pytest.raises(LoopDetectedError):
        called(pin, *[("delete", {"path": "/"})] * 10)

    assert verdicts(pin.traces[-1])[:-1] == [("deny", "delete")] * 3


def test_a_broken_predicate_stops_the_run():
    pin = Guard(ToolPolicy(deny=lambda call: call.arguments["amount"] > 1))

    with pytest.raises(RunStoppedError, match="internal error in ToolPolicy: KeyError") as stop:
        called(pin, ("refund", {}))

    assert isinstance(stop.value.__cause__, KeyError)


def test_observing_records_what_would_have_been_denied_and_asks_nobody():
    asked = []
    pin = Guard(ToolPolicy(deny=["delete"], ask=["pay"], approver=asked.append), mode="observe")

    ran = called(pin, ("delete", {}), ("pay", {}), ("delete", {}))

    assert (ran, asked) == (["delete", "pay", "delete"], [])
    observed = [decision.verdict for decision in pin.traces[-1].decisions if decision.facts.get("observed")]
    assert observed == ["deny", "ask", "deny"]


# --- asked


@pytest.mark.parametrize("answer", [True, "yes", (True, "fine"), {"approved": True}, {"type": "approve"}])
def test_an_approved_call_runs_once(answer):
    asked = []

    def approver(request):
        asked.append((request.tool, request.arguments, request.reason, request.run))
        return answer

    pin = Guard(ToolPolicy(ask=["pay"], approver=approver))

    assert called(pin, ("pay", {"to": "eve"})) == ["pay"]
    assert asked == [("pay", {"to": "eve"}, "ask pay", "agent")]
    ask, approved = pin.traces[-1].decisions
    (tool,) = pin.traces[-1].spans_of("tool")
    assert (ask.verdict, approved.verdict, approved.touched) == ("ask", "approved", tool.span_id)
    assert approved.facts["approver"] == "approver"
    assert approved.facts["waited_seconds"] >= 0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (False, "rejected"),
        ((False, "not today"), "not today"),
        ({"approved": False, "reason": "no", "approver": "eve"}, "no"),
        ({"decisions": [{"type": "reject", "message": "never"}]}, "never"),
        ("maybe", "maybe"),
        (None, "no answer"),
        (1, "the answer was neither yes nor no: 1"),
        ({"approved": 1}, "the answer was neither yes nor no: 1"),
        ([], "the answer was neither yes nor no: []"),
    ],
)
def test_whatever_is_no_clear_yes_is_a_no(answer, reason):
    pin = Guard(ToolPolicy(ask=["pay"], approver=lambda _: answer))

    with pytest.raises(ApprovalRejectedError) as stop:
        called(pin, ("pay", {}))

    assert stop.value.reason == reason
    assert stop.value.approver in ("<lambda>", "eve")
    assert verdicts(pin.traces[-1]) == [("ask", "pay"), ("rejected", "pay"), ("stop", "pay")]


def test_an_approver_that_fails_has_not_approved():
    def approver(request):
        raise OSError("the pager is down")

    with pytest.raises(ApprovalRejectedError, match="asking failed: OSError: the pager is down"):
        called(Guard(ToolPolicy(ask=["pay"], approver=approver)), ("pay", {}))


async def aapprove(request):
    await asyncio.sleep(0)
    return True, "looked at it"


def test_an_async_approver_is_asked_from_plain_code_too():
    assert called(Guard(ToolPolicy(ask=["pay"], approver=aapprove)), ("pay", {})) == ["pay"]


async def test_an_async_approver_is_awaited_and_holds_nobody_up():
    pin = Guard(ToolPolicy(ask=["pay"], approver=aapprove))
    async with pin.run("agent") as run, run.tool("pay", {}) as call:
        call.result = 1
    with pin.run("agent") as run, run.tool("pay", {}) as call:  # a sync block on the event loop
        call.result = 1

    assert [trace.tool_calls for trace in pin.traces] == [1, 1]


def test_nobody_is_asked_about_what_a_budget_refuses():
    asked = []
    pin = Guard(
        ToolPolicy(ask=["pay"], approver=lambda request: bool(asked.append(request)) or True), Budget(tool_calls=1)
    )

    with pytest.raises(BudgetExceededError):
        called(pin, ("pay", {}), ("pay", {}))

    assert len(asked) == 1


def test_a_budget_used_up_while_a_person_thinks_refuses_what_was_approved():
    pin = Guard(ToolPolicy(ask=["pay"], approver=lambda _: use_up() or True), Budget(tool_calls=1))

    def use_up():
        with run.tool("other"):
            pass

    with pytest.raises(BudgetExceededError), pin.run("agent") as run, run.tool("pay"):
        pass

    assert [span.name for span in pin.traces[-1].spans_of("tool")] == ["other"]


def test_a_run_stopped_while_a_person_thinks_does_not_go_on():
    pin = Guard(ToolPolicy(ask=["pay"], approver=lambda _: run.stop("enough") and True))

    with pytest.raises(RunStoppedError, match="enough"), pin.run("agent") as run, run.tool("pay"):
        raise AssertionError


def test_a_person_who_thinks_holds_no_other_call_up():
    thinking, go_on = threading.Event(), threading.Event()

    def approver(request):
        thinking.set()
        return go_on.wait(10)

    pin = Guard(ToolPolicy(ask=["pay"], approver=approver))
    with pin.run("agent") as run:

        def pay():
            with run.tool("pay"):
                pass

        thread = threading.Thread(target=pay)
        thread.start()
        assert thinking.wait(10)
        with run.tool("search"):
            go_on.set()
        thread.join(10)

    assert sorted(span.name for span in pin.traces[-1].spans_of("tool")) == ["pay", "search"]


def test_a_rejection_may_be_told_too():
    pin = Guard(ToolPolicy(ask=["pay"], approver=lambda _: (False, "too dear"), on_deny="tell"))

    assert called(pin, ("pay", {}), ("search", {})) == ["search"]
    assert verdicts(pin.traces[-1]) == [("ask", "pay"), ("rejected", "pay"), ("allow", "search")]


# --- the terminal


ASKS = """
import asyncio
from shearpin import Guard, ToolPolicy
from shearpin.rules import approval

approval.TERMINAL_SECONDS = 0.3
pin = Guard(ToolPolicy(ask=["*pay"], on_deny="tell"))

@pin.tool
def pay(to):
    print("paid")

@pin.tool
async def apay(to):
    print("paid")

async def main():
    ticks = asyncio.create_task(asyncio.sleep(0.1))
    await apay("eve")
    print("loop went on", ticks.done())

pin.run("agent").__enter__()
WHAT
print(pin.active[0].trace.decisions[-1].reason)
"""


def at_a_terminal(what: str, typed: str) -> str:
    """What a person sees of a script that asks, and who types `typed`."""
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-c", ASKS.replace("WHAT", what)]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as script:
        os.close(terminal)
        seen = b""
        try:
            while chunk := os.read(keyboard, 1000):
                seen += chunk
                if b"[y/N]" in chunk and typed:
                    time.sleep(0.2)
                    os.write(keyboard, typed.encode())
        except OSError:  # what Linux says at the end of a terminal
            pass
        finally:
            os.close(keyboard)
    assert script.returncode == 0, seen.decode()
    return seen.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("typed", "paid", "reason"),
    [("y\n", True, "approved"), ("YES\n", True, "approved"), ("n\n", False, ": n\n"), ("", False, "no answer in 0 s")],
)
def test_without_an_approver_the_terminal_asks(typed, paid, reason):
    seen = at_a_terminal("pay('\\x1b[2Jeve')", typed)

    assert "Approval needed (ask *pay), run agent:\n  pay  {'to': '\\x1b[2Jeve'}\n" in seen
    assert ("paid" in seen, reason in seen) == (paid, True)
    assert "\x1b" not in seen


def test_a_question_in_the_terminal_does_not_hold_the_event_loop_up():
    assert "paid\nloop went on True\n" in at_a_terminal("asyncio.run(main())", "y\n")


def test_where_there_is_no_terminal_nobody_approves(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)

    with pytest.raises(ApprovalRejectedError, match="there is no terminal; give ToolPolicy\\(approver="):
        called(Guard(ToolPolicy(ask=["pay"])), ("pay", {}))


def test_a_true_in_a_mapping_of_another_sort_is_no_yes():
    assert not read_answer({"approve_everything": True}, "ui").approved
    assert not read_answer({"decisions": [{"type": "approve"}, {"type": "approve"}]}, "ui").approved
