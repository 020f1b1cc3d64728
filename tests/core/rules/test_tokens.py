import json
import statistics
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shearpin.rules import tokens

STORED = json.loads((Path(__file__).parent / "token_counts.json").read_text(encoding="utf-8"))
UNJUDGED = {"tiny", "repetition", "random words"}  # as in benchmarks/estimates.py
JUDGED = {
    family: rows for family, rows in STORED["texts"].items() if family not in UNJUDGED and "deceptive" not in family
}
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


# --- against the exact counts


@pytest.mark.parametrize("family", STORED["texts"])
def test_no_text_has_more_tokens_than_estimated(family):
    assert [text for text, *exact in STORED["texts"][family] if tokens.estimate_text(text) < max(exact)] == []


@pytest.mark.parametrize("family", JUDGED)
def test_half_of_the_texts_have_at_least_two_thirds_of_the_tokens_estimated(family):
    ratios = [tokens.estimate_text(text) / max(exact) for text, *exact in JUDGED[family]]

    assert statistics.median(ratios) <= 1.5


def test_a_tiny_text_is_reserved_a_few_tokens_more_than_it_has():
    assert max(tokens.estimate_text(text) - max(exact) for text, *exact in STORED["texts"]["tiny"]) <= 8


def test_whole_prompts_with_tools_are_neither_under_nor_far_above_the_documented_count():
    ratios = [
        (
            tokens.REPLY_OVERHEAD
            + sum(map(tokens.estimate_message, chat["messages"]))
            + tokens.estimate_tools(chat["tools"])
        )
        / max(exact)
        for chat, *exact in STORED["chats"]
    ]

    assert min(ratios) >= 1
    assert statistics.median(ratios) <= 1.5


# --- what holds for every text


@given(st.text(st.characters()))
def test_no_text_is_estimated_above_its_bytes(text):
    assert 0 <= tokens.estimate_text(text) <= len(text.encode("utf-8", "surrogatepass"))


@given(st.text(min_size=1))
def test_a_text_that_is_not_empty_costs_something(text):
    assert tokens.estimate_text(text) >= 1


@given(st.text(), st.text())
def test_two_texts_in_one_message_cost_about_what_they_cost_apart(left, right):
    apart = tokens.estimate_text(left) + tokens.estimate_text(right)

    assert tokens.estimate_text(f"{left}\n\n{right}") <= 1.5 * apart + 8  # rare signs are dearer in number


@pytest.mark.parametrize("text", ["The tide is high. ", "qx", "的", '{"a":"b"}', "er", "  \t\n", "👍", "Zürich"])
def test_an_estimate_grows_as_the_text_does(text):
    thousand, ten_thousand = (tokens.estimate_text(text * times) for times in (1_000, 10_000))

    assert 9.8 <= ten_thousand / thousand <= 10.2


def test_what_is_easy_in_words_is_not_cheap_without_end():
    assert tokens.estimate_text("er" * 500) >= 500


@pytest.mark.parametrize(
    ("signs", "count"),  # the larger of both counts, for a thousand
    [("&", 500), ("щ", 1000), ("м", 1000), ("真", 1000), ("뉊", 3000), ("\x1b", 1000), ("qx, ", 3000), ("1  ", 3000)],
)
def test_a_few_signs_over_and_over_are_not_taken_for_prose(signs, count):
    assert tokens.estimate_text(signs * 1_000) >= count


@pytest.mark.parametrize("text", ["The tide is high. ", '{"quay":"N-02"}', "мост ", "港口", "po ", "0v"])
def test_a_text_is_estimated_the_same_whatever_was_estimated_before(text):
    first = [tokens.estimate_text(text * times) for times in (1, 7, 90)]
    for number in range(3_000):
        tokens.estimate_text(f"{text}{number}" * 5)

    assert [tokens.estimate_text(text * times) for times in (1, 7, 90)] == first


def test_a_frequent_word_is_cheaper_than_its_letters_in_another_order():
    assert tokens.estimate_text("about " * 50) < tokens.estimate_text("botau " * 50)


# --- messages and tools


def test_a_message_costs_its_text_and_what_surrounds_it():
    said = "Is the berth free?"

    assert tokens.estimate_message({"role": "user", "content": said}) == 4 + tokens.estimate_text(said)


def test_an_empty_message_costs_what_surrounds_it():
    assert tokens.estimate_message({"role": "assistant", "content": None}) == tokens.MESSAGE_OVERHEAD


def test_a_name_costs_a_token_more_than_its_text():
    named = tokens.estimate_message({"role": "user", "content": "", "name": "anna"})

    assert named == tokens.MESSAGE_OVERHEAD + 1 + tokens.estimate_text("anna")


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": "https://harbour.example/a.png"}}, tokens.IMAGE_TOKENS),
        ({"type": "image_url", "image_url": {"url": "a", "detail": "low"}}, tokens.LOW_DETAIL_IMAGE_TOKENS),
        ({"type": "input_image", "image_url": "data:image/png;base64," + "A" * 90_000}, tokens.IMAGE_TOKENS),
        ({"type": "image", "source": {"type": "base64", "data": "A" * 90_000}}, tokens.IMAGE_TOKENS),
        ({"type": "input_audio", "input_audio": {"data": "A" * 160_000, "format": "mp3"}}, 300),
        ({"type": "input_audio", "input_audio": {"id": "audio-1"}}, tokens.AUDIO_TOKENS),
        ({"type": "file", "file": {"file_id": "file-1"}}, tokens.FILE_TOKENS),
        ({"type": "file", "file": {"file_data": "A" * 320_000}}, 15_000),
    ],
)
def test_what_is_no_text_counts_by_its_kind_and_not_as_base64(part, expected):
    sent = tokens.estimate_message({"role": "user", "content": [part]})

    assert expected <= sent - tokens.MESSAGE_OVERHEAD <= expected + 2


def test_parts_of_text_cost_about_what_they_cost_as_one():
    parts = [{"type": "text", "text": "Is the berth free?"}, {"type": "text", "text": "And the next one?"}]
    as_one = tokens.estimate_message({"role": "user", "content": "Is the berth free? And the next one?"})

    assert as_one <= tokens.estimate_message({"role": "user", "content": parts}) <= as_one + 6


def test_tool_calls_cost_the_same_nested_or_flat_written_or_parsed():
    flat = {"id": "call_1", "name": "book", "arguments": {"quay": "N-02", "nights": 5}}
    written = flat | {"arguments": json.dumps(flat["arguments"])}
    nested = {"id": "call_1", "function": {"name": "book", "arguments": written["arguments"]}}

    costs = {tokens.estimate_message({"role": "assistant", "tool_calls": [call]}) for call in (flat, written, nested)}

    assert len(costs) == 1
    assert costs.pop() > tokens.MESSAGE_OVERHEAD + tokens.CALL_OVERHEAD


def test_the_content_of_a_tool_result_counts():
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "free " * 100}]}

    assert tokens.estimate_message({"role": "user", "content": [result]}) >= 100


def test_tools_cost_the_same_flat_or_in_the_shape_of_openai():
    flat = {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}

    assert tokens.estimate_tools([flat]) == tokens.estimate_tools([{"type": "function", "function": flat}]) > 12
    assert tokens.estimate_tools([flat, flat]) == 2 * tokens.estimate_tools([flat])
    assert tokens.estimate_tools([]) == 0


@given(PLAIN, PLAIN, PLAIN)
def test_no_plain_data_raises(content, calls, name):
    message = {"role": "user", "content": content, "tool_calls": calls, "name": name}

    assert tokens.estimate_message(message) >= tokens.MESSAGE_OVERHEAD
    assert tokens.estimate_tools([{"type": "function", "function": content}, {"name": name}]) >= 0


def in_itself():
    round_and_round = ["free"]
    round_and_round.append(round_and_round)
    return round_and_round


def in_each_other(levels, nested):
    for _ in range(levels):
        nested = {"type": "tool_result", "content": [nested]}
    return [nested]


@pytest.mark.parametrize(
    "content",
    [in_itself(), {("a", 1): "free"}, "free \ud800", float("nan"), in_each_other(sys.getrecursionlimit() * 2, "free")],
)
def test_not_even_what_no_provider_would_take_raises(content):
    assert tokens.estimate_message({"role": "user", "content": content}) > tokens.MESSAGE_OVERHEAD
    assert tokens.estimate_tools([{"name": "free", "parameters": content}]) > 0
