"""What tokens cost: exact names only, every kind of token at its own rate."""

from __future__ import annotations

import pytest

from shearpin import Usage
from shearpin.rules.prices import PriceBook, parse_price

BOOK = PriceBook(None)


def cost(model: str, usage: Usage, provider: str | None = None) -> float:
    price = BOOK.find(model, provider)
    assert price is not None, model
    return price.cost(usage)


@pytest.mark.parametrize(
    "model",
    ["gpt-4o", "GPT-4o", "gpt-4o-2024-08-06", "openai/gpt-4o", "openai:gpt-4o", "openrouter/openai/gpt-4o"],
)
def test_a_model_is_priced_by_its_exact_name_without_provider_or_date(model: str) -> None:
    assert cost(model, Usage(1000, 500)) == pytest.approx(0.0075, abs=1e-12)


@pytest.mark.parametrize(
    "model", ["gpt-4o-mega", "my-gpt-4o", "ft:gpt-4o:acme::abc", "gpt-4o-2024", "", "unknown", "claude-sonnet-4-5-mine"]
)
def test_no_looser_match_is_a_price(model: str) -> None:
    assert BOOK.find(model) is None


def test_an_older_edition_with_a_price_of_its_own_keeps_it() -> None:
    assert cost("gpt-4o-2024-05-13", Usage(1_000_000, 0)) == pytest.approx(5.0)


@pytest.mark.parametrize(
    "model",
    ["claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "anthropic/claude-sonnet-4-5", "claude-sonnet-4-5@20250929"],
)
def test_an_anthropic_model_is_found_by_its_usual_names(model: str) -> None:
    assert cost(model, Usage(1000, 1000)) == pytest.approx(0.018, abs=1e-12)


def test_the_framework_s_word_for_a_provider_is_understood() -> None:
    assert cost("gpt-4o", Usage(1000, 500), "azure") == pytest.approx(0.0075, rel=0.5)
    assert cost("gemini-2.5-pro", Usage(1_000_000, 0), "google_genai") > 0
    assert cost("gpt-4o", Usage(1000, 500), "a provider nobody knows") == pytest.approx(0.0075)


def test_cached_tokens_cost_their_own_rate() -> None:
    assert cost("gpt-4o", Usage(1000, 500, cached_input_tokens=900)) == pytest.approx(0.006375, abs=1e-12)


def test_cache_writes_cost_their_own_rate() -> None:
    usage = Usage(1000, 100, cached_input_tokens=300, cache_write_tokens=200)
    assert cost("claude-sonnet-4-5", usage) == pytest.approx((500 * 3 + 300 * 0.3 + 200 * 3.75 + 100 * 15) / 1e6)


def test_a_large_request_moves_to_the_next_tier_as_a_whole() -> None:
    assert cost("claude-sonnet-4-5", Usage(200_000, 0)) == pytest.approx(0.6)
    assert cost("claude-sonnet-4-5", Usage(250_000, 1000)) == pytest.approx(1.5 + 0.0225)


def test_reasoning_tokens_are_part_of_the_output() -> None:
    assert cost("gpt-4o", Usage(0, 500, reasoning_tokens=400)) == pytest.approx(0.005)


def test_audio_and_image_tokens_cost_their_own_rate_or_that_of_text() -> None:
    own = parse_price({"input": 1, "output": 2, "audio": 10, "image": 5})
    assert own.cost(Usage(1000, 0, audio_tokens=100, image_tokens=200)) == pytest.approx((700 + 1000 + 1000) / 1e6)
    plain = parse_price({"input": 1, "output": 2})
    assert plain.cost(Usage(1000, 0, audio_tokens=100)) == pytest.approx(1000 / 1e6)


def test_contradicting_counts_never_raise_and_never_make_it_cheaper() -> None:
    whole = cost("gpt-4o", Usage(100, 100))
    assert cost("gpt-4o", Usage(100, 100, cached_input_tokens=10**9)) <= whole
    assert cost("gpt-4o", Usage(100, 100, cached_input_tokens=10**9)) >= 100 * 1.25e-6
    assert cost("gpt-4o", Usage(100, 100, reasoning_tokens=10**9)) == pytest.approx(whole)
    assert cost("gpt-4o", Usage(-5, -5)) == 0


def test_the_user_s_own_price_comes_first() -> None:
    book = PriceBook({"gpt-4o": {"input": 1, "output": 1}, "Local": {"input": 0, "output": 0}})
    own = book.find("openai/gpt-4o-2024-08-06")
    assert own is not None
    assert (own.source, own.cost(Usage(1_000_000, 1_000_000))) == ("override", 2.0)
    free = book.find("local")
    assert free is not None
    assert free.cost(Usage(100, 100)) == 0


def test_a_listed_price_tells_its_source_and_version() -> None:
    price = BOOK.find("gpt-4o")
    assert price is not None
    assert price.source == "genai-prices"
    assert price.version[0].isdigit()


def test_the_context_window_is_known_where_the_table_knows_it() -> None:
    assert BOOK.limits("gpt-4o").context_window == 128_000
    assert BOOK.limits("nobody's").context_window is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"input": 1}, "needs 'output'"),
        ({"input": 1, "output": -1}, "output=-1"),
        ({"input": 1, "output": float("nan")}, "output=nan"),
        ({"input": "1", "output": 1}, "input='1'"),
        ({"input": 1, "output": 1, "cached": 1}, "unknown price 'cached'"),
    ],
)
def test_a_bad_price_is_one_clear_error(given: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PriceBook({"my-model": given})
