"""What a provider answered, whatever types it has: it is recorded in ours, and charged."""

from contextlib import nullcontext, suppress
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from math import inf, nan
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shearpin import Budget, BudgetExceededError, Guard, Usage
from shearpin.adapter import Reply
from shearpin.trace import LLMSpan
from shearpin.trace.usage import LARGEST, usage_told

PRICES = {"m": {"input": 0, "output": 1_000_000}}  # a dollar for each token of output
USED = {"prompt_tokens": 3, "completion_tokens": 2}


class Finish(StrEnum):
    STOP = "stop"


class Hostile:
    """An object whose every answer is an error."""

    def _refuse(self, *_):
        raise RuntimeError("no")

    __getattr__ = __str__ = __repr__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __int__ = __float__ = _refuse


ODD = [5, -1.5, nan, True, b"x", [1], ["a", None], {"a": 1}, {1: {2}}, object, Hostile, "huge", Finish.STOP]


def real(value):
    """A value of a test's parameters: pytest asks these too much to have the worst among them."""
    return value() if value in (Hostile, object) else 10**5000 if value == "huge" else value


def ask(response=None, usage=None, max_tokens=4, error=None) -> tuple[LLMSpan, float]:
    """One call of a model, estimated at four dollars: its span, and what the budget counts as spent or held."""
    pin = Guard(Budget(usd=100_000), prices=PRICES)
    raised = nullcontext() if error is None else suppress(type(error))
    with raised, pin.run("ask") as run, run.llm(model="m", messages="hi", max_tokens=max_tokens) as call:
        call.response, call.usage = response, usage
        if error is not None:
            raise error
    return pin.traces[-1].spans_of("llm")[0], 100_000 - run.remaining["usd"]


def answer(message=None, **fields) -> dict[str, object]:
    return {"choices": [{"message": {"content": "hi"} | (message or {}), "finish_reason": "stop"}]} | fields


def usage_as_ours(sent, made):
    return {"usage": Usage(sent, made)}


def usage_as_told(sent, made):
    return {"response": answer(usage={"prompt_tokens": sent, "completion_tokens": made})}


def assert_typed(span: LLMSpan) -> None:
    for text in (span.reply, span.reasoning, span.finish_reason, span.response_id, span.response_model):
        assert text is None or type(text) is str
    for call in span.tool_calls:
        assert set(call) == {"id", "name", "arguments"}
        assert all(call[key] is None or type(call[key]) is str for key in ("id", "name"))
    if span.usage is not None:
        *counts, cost = (getattr(span.usage, name) for name in Usage.__slots__)
        assert all(isinstance(count, int) and 0 <= count <= LARGEST for count in counts)
        assert cost is None or (type(cost) is float and 0 <= cost < inf)


# --- replies


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("field", ["text", "reasoning", "finish_reason", "response_id", "response_model"])
def test_a_field_of_any_type_becomes_a_text(field, value):
    span, spent = ask(Reply(**{"text": "hi", field: real(value)}))

    assert_typed(span)
    assert spent == span.usage.cost_usd >= 4  # the estimate, and nothing is held any more


@pytest.mark.parametrize("value", ODD)
def test_tool_calls_of_any_type_are_dicts_of_ours(value):
    value = real(value)
    span, spent = ask(Reply(tool_calls=[{"id": value, "name": value, "arguments": value, "more": 1}, value]))

    assert_typed(span)
    assert len(span.tool_calls) in (1, 2)  # the second where it is a dict
    assert spent == span.usage.cost_usd >= 4


@pytest.mark.parametrize("value", ODD)
def test_tool_calls_that_are_no_list_are_none(value):
    span, spent = ask(Reply(text="hi", tool_calls=real(value)))

    assert_typed(span)
    assert spent == 4


def test_what_already_is_a_text_stays_that_text():
    span, _ = ask(Reply("hi", [{"id": "1", "name": "f", "arguments": {"q": 1}}], finish_reason=Finish.STOP))

    assert (span.reply, span.finish_reason) == ("hi", "stop")
    assert span.tool_calls == [{"id": "1", "name": "f", "arguments": {"q": 1}}]


def test_arguments_are_a_copy_of_what_the_provider_handed_out():
    arguments = {"q": "refund"}
    span, _ = ask({"content": [{"type": "tool_use", "id": "1", "name": "f", "input": arguments}]})

    arguments["q"] = "changed"

    assert span.tool_calls[0]["arguments"] == {"q": "refund"}


@pytest.mark.parametrize("usage", [{}, {"usage": USED}])
def test_content_in_parts_is_their_text(usage):
    span, spent = ask(answer({"content": [{"type": "text", "text": "h"}, {"type": "image"}, "i"]}, **usage))

    assert span.reply == "hi"
    assert spent == (2 if usage else 4)


@pytest.mark.parametrize("model", [7, {"a": 1}, Hostile])
def test_a_model_that_is_no_name_is_priced_as_the_one_that_was_asked_for(model):
    span, spent = ask(answer(model=real(model), usage=USED))

    assert_typed(span)
    assert spent == 2


@pytest.mark.parametrize("response", [Hostile, answer({"tool_calls": 7}), {"choices": 7}])
def test_a_reply_that_cannot_be_read_is_charged_at_the_estimate(response):
    assert ask(real(response))[1] == 4


# --- usage


@pytest.mark.parametrize("cost", [nan, inf, -inf, -3, "dear", [1], Decimal("NaN"), "huge", Hostile])
def test_a_cost_that_is_no_amount_is_unknown_and_priced_by_us(cost):
    span, spent = ask(usage=Usage(input_tokens=1, output_tokens=3, cost_usd=real(cost)))

    assert_typed(span)
    assert (span.usage.cost_usd, spent) == (3, 3)


@pytest.mark.parametrize("cost", [2, True + 1, Decimal(2), Fraction(2), "2"])
def test_a_cost_of_another_type_is_that_cost(cost):
    span, spent = ask(usage=Usage(input_tokens=1, output_tokens=3, cost_usd=real(cost)))

    assert_typed(span)
    assert (span.usage.cost_usd, spent) == (2, 2)


@pytest.mark.parametrize("count", [-20, nan, inf, None, "many", [3], Decimal("NaN"), Hostile])
@pytest.mark.parametrize("way", [usage_as_ours, usage_as_told])
def test_a_side_that_is_no_count_is_charged_at_the_estimate(count, way):
    (made, spent), (sent, cost) = (
        (getattr(span.usage, side), cost)
        for side, (span, cost) in {
            "output_tokens": ask(**way(1, real(count))),
            "input_tokens": ask(**way(real(count), 1)),
        }.items()
    )

    assert (made, spent) == (4, 4)
    assert (sent, cost) == (9, 1)  # "hi", and what surrounds it


@pytest.mark.parametrize("count", [-20, nan, inf, None, "many", [3], Hostile])
def test_any_other_count_that_is_none_is_zero(count):
    span, spent = ask(usage=Usage(1, 1, *[real(count)] * 5))

    assert_typed(span)
    assert spent == 1


@pytest.mark.parametrize("count", [3, 3.0, 3.9, Decimal(3), Fraction(7, 2), "3"])
def test_a_count_of_another_type_is_that_count(count):
    span, spent = ask(usage=Usage(input_tokens=1, output_tokens=real(count)))

    assert_typed(span)
    assert (span.usage.output_tokens, spent) == (3, 3)


def test_a_count_without_bounds_is_the_largest_there_is():
    pin = Guard(Budget(usd=10), prices=PRICES)

    with pytest.raises(BudgetExceededError), pin.run("ask") as run:
        for _ in range(2):
            with run.llm(model="m", messages="hi", max_tokens=4) as call:
                call.usage = Usage(input_tokens=1, output_tokens=10**5000)

    assert pin.traces[-1].usage.output_tokens == LARGEST


@pytest.mark.parametrize("count", [nan, inf, -inf, -7, "many", None, [1], Hostile])
def test_a_provider_that_tells_no_counts_is_charged_at_the_estimate(count):
    assert ask(answer(usage={"prompt_tokens": real(count), "completion_tokens": real(count)}))[1] == 4


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        ({"completion_tokens": 5}, (9, 5)),
        ({"prompt_tokens": 5}, (5, 4)),
        ({"total_tokens": 1_000_000}, (9, 999_991)),
        ({"total_tokens": 7}, (3, 4)),
        ({"total_tokens": 3}, (0, 3)),
        ({"prompt_tokens": 20, "total_tokens": 50}, (20, 30)),
        ({"completion_tokens": 20, "total_tokens": 50}, (30, 20)),
        (
            {"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623},
            (20, 603),
        ),  # and thoughts, as Gemini has
        ({"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 0}, (20, 8)),
        ({"prompt_tokens": 20, "completion_tokens": 0, "total_tokens": 20}, (20, 0)),
        ({"input_tokens": 20, "cache_read_input_tokens": 5, "output_tokens": 8}, (25, 8)),
        ({"input_tokens": None, "cache_read_input_tokens": 5, "output_tokens": 8}, (9, 8)),
    ],
)
def test_what_a_usage_leaves_out_is_told_by_its_total_or_else_charged_at_the_estimate(told, counted):
    span, spent = ask(answer(usage=told))

    assert (span.usage.input_tokens, span.usage.output_tokens) == counted
    assert spent == min(counted[1], 100_000)


@pytest.mark.parametrize("limit", [{"tokens": 100_000}, {"input_tokens": 100_000}])
@pytest.mark.parametrize("usage", [{"completion_tokens": 5}, {"prompt_tokens": -1, "completion_tokens": 5}])
def test_a_provider_that_never_tells_the_input_spends_the_budget_all_the_same(limit, usage):
    pin = Guard(Budget(**limit))
    made = []

    with pytest.raises(BudgetExceededError), pin.run("ask") as run:
        for _ in range(200):
            with run.llm(model="m", messages="word " * 20_000, max_tokens=10) as call:
                made.append(1)
                call.response = answer(usage=usage)

    assert len(made) == 3


# --- a cost that is stated


def test_a_cost_that_is_stated_without_tokens_is_the_cost():
    span, spent = ask(usage=Usage(cost_usd=0.5))

    assert (span.usage.cost_usd, spent) == (0.5, 0.5)
    assert (span.usage.input_tokens, span.usage.output_tokens) == (9, 4)  # which nobody told
    assert span.price_source is None


def test_a_call_that_is_stated_to_have_cost_nothing_cost_nothing():
    span, spent = ask(usage=Usage(cost_usd=0))

    assert (span.usage.cost_usd, spent) == (0, 0)


def test_a_cost_that_is_stated_wins_and_the_tokens_are_those_of_the_answer():
    span, spent = ask(answer(usage=USED), Usage(cost_usd=0.5))

    assert (span.usage, spent) == (Usage(input_tokens=3, output_tokens=2, cost_usd=0.5), 0.5)


def test_a_usage_that_states_its_tokens_wins_whole():
    span, spent = ask(answer(usage=USED), Usage(input_tokens=7, output_tokens=1))

    assert (span.usage, spent) == (Usage(input_tokens=7, output_tokens=1, cost_usd=1), 1)


@pytest.mark.parametrize("reserve", ["expected", "max"])
def test_the_trace_and_every_budget_count_the_same_for_a_call_that_told_nothing(reserve):
    pin = Guard(Budget(output_tokens=10**6, reserve=reserve), Budget(output_tokens=10**7, expected_output_tokens=900))

    with pin.run("ask") as run, run.llm(model="gpt-4o", messages="hi"):
        held = 10**6 - run.remaining["output_tokens"]

    assert 10**6 - run.remaining["output_tokens"] == pin.traces[-1].usage.output_tokens >= held


def test_a_usage_handed_in_again_is_priced_anew():
    used = Usage(input_tokens=1, output_tokens=3)
    pin = Guard(prices=PRICES | {"dear": {"input": 0, "output": 2_000_000}})

    with pin.run("ask") as run:
        for model in ("m", "dear"):
            with run.llm(model=model, messages="hi") as call:
                call.usage = used

    assert [span.usage.cost_usd for span in pin.traces[-1].spans_of("llm")] == [3, 6]
    assert used == Usage(input_tokens=1, output_tokens=3)


@pytest.mark.parametrize("usage", [SimpleNamespace(**USED), USED])
def test_the_usage_of_a_provider_is_read(usage):
    assert usage_told(usage) == Usage(input_tokens=3, output_tokens=2)


@pytest.mark.parametrize("usage", [None, *ODD])
def test_what_is_no_usage_tells_none(usage):
    assert usage_told(real(usage)) in (None, Usage())


@given(st.lists(st.integers() | st.floats() | st.none() | st.text(max_size=3) | st.booleans(), min_size=8, max_size=8))
def test_a_usage_of_anything_can_be_counted_with(values):
    span = LLMSpan("1", None, "llm", "m")

    Reply(usage=Usage(*values)).write_to(span)

    assert_typed(span)


def test_a_limit_without_bounds_is_charged_as_the_largest_there_is():
    pin = Guard()

    with pin.run("ask") as run, run.llm(model="m", messages="hi", max_tokens=10**5000):
        pass

    assert pin.traces[-1].usage.output_tokens == LARGEST


# --- calls that failed after an answer


@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls"])
def test_a_call_that_failed_after_the_whole_answer_is_charged_at_the_estimate(finish):
    whole = {"choices": [{"message": {"content": "hi"}, "finish_reason": finish}]}

    span, _ = ask(whole, error=ValueError("the parser choked"))

    assert (span.status, span.was_cut) == ("error", False)
    assert span.usage.cost_usd == 4


def test_a_stream_that_was_cut_is_charged_what_came():
    span, _ = ask("hi", max_tokens=500, error=ValueError("the connection broke"))

    assert span.was_cut
    assert 0 < span.usage.cost_usd < 10


def test_an_answer_that_is_whole_was_not_cut():
    span, _ = ask("hi")

    assert not span.was_cut
