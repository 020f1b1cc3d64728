"""The text of an error: safe to print anywhere, with money told in one way. Its facts stay what they were."""

import copy
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shearpin import Budget, Guard, RunStoppedError
from shearpin.errors import (
    BudgetExceededError,
    LoopDetectedError,
    MissingIntegrationError,
    ShearpinError,
    TraceFormatError,
    amount,
    dollars,
    printable,
)

EVIL = "evil\x1b]0;pwned\x07\x1b[2J\u202egpj.\ud800\x9b1m\u2028end"


def over_budget(subject: str) -> BudgetExceededError:
    return BudgetExceededError(unit="tool_calls", limit=0, spent=0, subject=subject)


ERRORS = [
    ShearpinError(EVIL),
    RunStoppedError(EVIL),
    over_budget(EVIL),
    BudgetExceededError(unit="usd", limit=1, spent=0, estimate=None, subject=EVIL),
    LoopDetectedError(pattern=EVIL, calls=[EVIL, EVIL], repeats=3, onset=1, unchanged=EVIL),
    TraceFormatError(EVIL),
    MissingIntegrationError(EVIL),
]
KINDS = [type(error).__name__ for error in ERRORS]


@pytest.mark.parametrize("error", ERRORS, ids=KINDS)
def test_an_error_can_be_printed_whatever_it_is_about(error):
    text = str(error)

    assert text.isprintable()
    assert text.encode()
    assert r"evil\x1b]0;pwned\x07\x1b[2J\u202egpj.\ud800\x9b1m\u2028end" in text


@pytest.mark.parametrize("error", ERRORS, ids=KINDS)
def test_a_copy_of_an_error_prints_alike(error):
    assert str(copy.copy(error)) == str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_facts_stay_as_they_are():
    assert over_budget(EVIL).subject == EVIL
    assert LoopDetectedError(pattern="p", calls=[EVIL], repeats=3, onset=1).calls == [EVIL]
    assert RunStoppedError(EVIL).reason == EVIL


@pytest.mark.parametrize("name", [EVIL, "x\ud800"])
def test_a_stop_over_a_tool_of_any_name_is_printed_by_python_too(name):
    code = f"""
from shearpin import Budget, Guard
with Guard(Budget(tool_calls=0)).run("r") as run, run.tool({name!a}): pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)

    assert b"BudgetExceededError: run stopped: the budget of" in done.stderr
    assert b"\x1b" not in done.stderr


def test_the_decision_that_records_a_stop_tells_it_alike():
    pin = Guard(Budget(tool_calls=0))

    with pytest.raises(RunStoppedError) as caught, pin.run("r") as run, run.tool(EVIL):
        pass

    (decision,) = caught.value.trace.decisions
    assert decision.reason == str(caught.value)
    assert decision.input["name"] == EVIL


@given(st.text(st.characters(categories=None)))
def test_printable_text_is_printable(text):
    assert printable(text).isprintable()


@pytest.mark.parametrize("text", ["plain", "naïve café", "検索", "⚠ ✋ 🙂", "a \\ b", ""])
def test_text_that_is_plainly_visible_stays_as_it_is(text):
    assert printable(text) == text


def test_a_space_of_any_width_is_a_space():
    assert printable("a\u00a0b\u3000c") == "a b c"


# --- money


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (0, "$0.00"),
        (1, "$1.00"),
        (1.0, "$1.00"),
        (0.3, "$0.30"),
        (0.1 + 0.2, "$0.30"),
        (0.10000000000000005, "$0.10"),
        (0.1 + 0.7, "$0.80"),
        (1 - 1e-16, "$1.00"),
        (0.0075, "$0.0075"),
        (0.006045, "$0.006045"),
        (8.000004, "$8.000004"),
        (12.345, "$12.345"),
        (1234.5, "$1,234.50"),
        (0.00003125, "$0.000031"),
        (1.5e-9, "$0.0000000015"),
        (5.5e-17, "$0.00"),
        (-0.5, "-$0.50"),
        (2.5e15, "$2.5e+15"),
        (float("inf"), "$inf"),
    ],
)
def test_money_has_cents_and_as_many_digits_more_as_matter(usd, shown):
    assert dollars(usd) == amount(usd, "usd") == shown


def test_every_sum_in_a_message_is_told_alike():
    error = BudgetExceededError(unit="usd", limit=1, spent=0.1 + 0.2, reserved=0.7, estimate=0.0042, subject="llm m")

    assert str(error) == (
        "run stopped: the budget of $1.00 per run does not fit llm m: "
        "$0.30 spent, $0.70 held by calls in flight, it may need $0.0042"
    )
