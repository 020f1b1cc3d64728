"""Signal handlers that raise, such as soft time limits, at any line of ours."""

import contextvars
import sys

import shearpin
from shearpin import Budget, Guard, LoopBreaker, Usage

ROOM = shearpin.__file__.rpartition("/")[0]
LIMIT = 10**9


class SoftLimitError(BaseException):
    pass


def interrupted(at, action):
    """Run `action`, and raise at the `at`-th line of ours; where that was, or None if there are not as many."""
    left, where = at, None

    def trace(frame, event, _):
        nonlocal left, where
        if not frame.f_code.co_filename.startswith(ROOM):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                sys.settrace(None)
                raise SoftLimitError
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except SoftLimitError:
        pass
    finally:
        sys.settrace(before)
    return where


def call_model(run):
    with run.llm(model="m", messages=[{"role": "user", "content": "x"}], max_tokens=100) as call:
        call.usage = Usage(1, 1)


def test_a_call_that_is_interrupted_anywhere_leaves_a_run_that_goes_on():
    pin = Guard(Budget(tokens=LIMIT), LoopBreaker())
    leaks = []
    with pin.run("warm") as run:
        call_model(run)
    at, where = 1, ""
    while where is not None:
        with pin.run("agent") as run:
            where = interrupted(at, lambda run=run: call_model(run))
            if LIMIT - run.remaining["tokens"] != run.usage.total_tokens:
                leaks.append(where)
            call_model(run)
        trace = pin.traces[-1]
        assert all(span.end_ns is not None for span in trace.spans), where
        assert (trace.status, trace.spans[-1].status, trace.stop) == ("ok", "ok", None), where
        assert trace.llm_calls in (1, 2), where
        at += 1

    assert at > 100
    assert (
        len(leaks) < at / 10
    )  # where a block is being left, or a sum is made: charged when the run ends, at the latest


def test_a_run_that_is_interrupted_anywhere_is_ended():
    pin = Guard(Budget(tokens=LIMIT), LoopBreaker())
    at, where, left = 1, "", []

    def work():
        with pin.run("agent") as run:
            call_model(run)

    while where is not None:
        where = contextvars.copy_context().run(interrupted, at, work)
        left += [where] if pin.active else []
        for run in pin.active:
            run.close()
        assert all(span.end_ns is not None for trace in pin.traces[-1:] for span in trace.spans), where
        at += 1

    assert len(left) < at / 50  # where the block is being left
