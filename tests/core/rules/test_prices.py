"""What tokens cost: exact names only, every kind of token at its own rate."""

from __future__ import annotations

import threading
import timeit
from datetime import UTC, datetime
from typing import Any

import genai_prices
import pytest
from genai_prices import data, types
from hypothesis import given, settings
from hypothesis import strategies as st

from shearpin import Usage
from shearpin.rules import prices
from shearpin.rules.model_names import provider_id, spellings
from shearpin.rules.prices import Price, PriceBook, parse_price

BOOK = PriceBook(None)
MILLION = 1_000_000


def price_of(model: str, provider: str | None = None, book: PriceBook = BOOK) -> Price:
    price = book.find(model, provider)
    assert price is not None, model
    return price


def cost(model: str, usage: Usage, provider: str | None = None) -> float:
    return price_of(model, provider).cost(usage)


# --- names


@pytest.mark.parametrize(
    "model",
    ["gpt-4o", "GPT-4o", "gpt-4o-2024-08-06", "openai/gpt-4o", "openai:gpt-4o", "openrouter/openai/gpt-4o"],
)
def test_a_model_is_priced_by_its_exact_name_without_provider_or_date(model: str) -> None:
    assert cost(model, Usage(1000, 500)) == pytest.approx(0.0075, abs=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        "gpt-4o-mega",
        "gpt-4o-my-finetune",
        "my-gpt-4o",
        "my-org/gpt-4o",
        "ft:gpt-4o:acme::abc",
        "ft:gpt-4o-mini-2024-07-18:acme::abc",
        "gpt-4o-2024",
        "gpt-4o-2024-13-40",
        "gpt-4o-20240806-mine",
        "",
        "/",
        "openai/",
        "unknown",
        "claude-sonnet-4-5-mine",
        "gemini-2.5-pro-of-mine",
        "us.anthropic.claude-sonnet-4-5-mine-v1:0",
        "tunedModels/gemini-2.5-pro",
        "arn:aws:bedrock:us-east-1:1:application-inference-profile/claude-sonnet-4-5",
        "openai/" * 50_000 + "gpt-4o",
    ],
)
def test_no_looser_match_is_a_price(model: str) -> None:
    assert BOOK.find(model) is None


def test_an_older_edition_with_a_price_of_its_own_keeps_it() -> None:
    assert cost("gpt-4o-2024-05-13", Usage(1_000_000, 0)) == pytest.approx(5.0)


@pytest.mark.parametrize(
    "model",
    [
        "claude-sonnet-4-5",
        "claude-sonnet-4-5-20250929",
        "anthropic/claude-sonnet-4-5",
        "anthropic:claude-sonnet-4-5",
        "claude-sonnet-4-5@20250929",
        "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "arn:aws:bedrock:us-east-1::foundation-model/global.anthropic.claude-sonnet-4-5-20250929-v1:0",
    ],
)
def test_an_anthropic_model_is_found_by_its_usual_names(model: str) -> None:
    assert cost(model, Usage(1000, 1000)) == pytest.approx(0.018, abs=1e-12)


@pytest.mark.parametrize("region", ["", "us.", "eu.", "apac.", "jp.", "us-gov."])
def test_bedrock_costs_a_tenth_more_within_a_region(region: str) -> None:
    model = f"{region}anthropic.claude-sonnet-4-5-20250929-v1:0"

    assert cost(model, Usage(1000, 1000), "bedrock_converse") == pytest.approx(0.0198, abs=1e-12)


@pytest.mark.parametrize("model", ["models/gemini-2.5-flash", "publishers/google/models/gemini-2.5-flash"])
def test_google_s_addresses_name_a_model(model: str) -> None:
    assert cost(model, Usage(MILLION, 0), "google_vertexai") == pytest.approx(0.3)


# --- hosts


def test_the_framework_s_word_for_a_provider_is_understood() -> None:
    assert cost("gpt-4o", Usage(1000, 500), "azure") == pytest.approx(0.0075, rel=0.5)
    assert cost("gemini-2.5-pro", Usage(1_000_000, 0), "google_genai") > 0
    assert cost("gpt-4o", Usage(1000, 500), "a provider nobody knows") == pytest.approx(0.0075)


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("azure", "azure"),
        ("azure_openai", "azure"),
        ("azure.ai.openai", "azure"),
        ("bedrock", "aws"),
        ("aws.bedrock", "aws"),
        ("google_genai", "google"),
        ("google_vertexai", "google"),
        ("gcp.gemini", "google"),
        ("mistralai", "mistral"),
        ("mistral_ai", "mistral"),
        ("x_ai", "x-ai"),
        ("together_ai", "together"),
        ("OpenAI", "openai"),
        ("my-proxy", None),
        ("", None),
        (None, None),
    ],
)
def test_a_provider_has_one_id_whoever_names_it(word: str | None, known: str | None) -> None:
    assert provider_id(word) == known


def test_every_provider_id_is_one_of_the_table() -> None:
    assert {known for _, known in _provider_words()} <= {provider.id for provider in data.providers}


def _provider_words() -> list[tuple[str, str]]:
    from shearpin.rules import model_names

    return list(vars(model_names)["_WORDS"].items())


def test_the_host_that_is_named_sets_the_price() -> None:
    elsewhere = cost("openai/gpt-oss-120b", Usage(MILLION, 0))

    assert cost("openai/gpt-oss-120b", Usage(MILLION, 0), "groq") == pytest.approx(0.15)
    assert elsewhere != pytest.approx(0.15)


def test_a_model_its_host_does_not_list_costs_what_its_maker_asks() -> None:
    assert cost("llama-3.3-70b-versatile", Usage(MILLION, 0), "openai") == cost(
        "llama-3.3-70b-versatile", Usage(MILLION, 0), "groq"
    )


def test_the_dearest_host_counts_where_none_is_named_and_none_is_the_maker() -> None:
    name, hosts = _served_by_many_and_made_by_none()
    asked = [price.cost(Usage(4000, 1000)) for host in hosts if (price := BOOK.find(name, host)) is not None]

    assert len(set(asked)) > 1
    assert cost(name, Usage(4000, 1000)) == pytest.approx(max(asked))


def _served_by_many_and_made_by_none() -> tuple[str, list[str]]:
    named = {known for _, known in _provider_words()}
    hosts: dict[str, list[str]] = {}
    for provider in data.providers:
        for model in provider.models:
            hosts.setdefault(model.id.lower(), []).append(provider.id)
    for name, served in hosts.items():
        makers = [p for p in data.providers if p.model_match is not None and p.model_match.is_match(name)]
        prefixed = len(list(spellings(name, None))) > 1
        if len(served) > 1 and set(served) <= named and not makers and not prefixed:
            asked = {host: BOOK.find(name, host) for host in served}
            if len({price.cost(Usage(4000, 1000)) for price in asked.values() if price}) > 1:
                return name, served
    pytest.fail("the table has no such model any more")


def test_a_host_that_lists_a_paid_model_without_a_price_does_not_make_it_free() -> None:
    assert cost("gpt-4o", Usage(1000, 500), "github-copilot") == pytest.approx(0.0075)
    assert BOOK.find("gemma-3") is None


def test_only_a_model_that_is_called_free_is_free() -> None:
    assert cost("deepseek/deepseek-r1:free", Usage(MILLION, MILLION), "openrouter") == 0
    assert cost("deepseek/deepseek-r1:free", Usage(MILLION, MILLION)) == 0
    everything = (model for provider in data.providers for model in provider.models)
    free = {m.id for m in everything if (p := BOOK.find(m.id)) and p.cost(Usage(1000, 1000)) == 0}
    assert {name for name in free if not name.endswith(":free")} == set()


def test_what_is_not_paid_by_the_token_has_no_price() -> None:
    assert BOOK.find("mistral-ocr-latest", "mistral") is None
    assert BOOK.find("whisper-large-v3", "groq") is None


# --- kinds of tokens


def test_cached_tokens_cost_their_own_rate() -> None:
    assert cost("gpt-4o", Usage(1000, 500, cached_input_tokens=900)) == pytest.approx(0.006375, abs=1e-12)


def test_cached_tokens_cost_what_others_do_where_they_have_no_rate() -> None:
    assert "cached_input" not in price_of("gpt-4").rates
    assert cost("gpt-4", Usage(1000, 0, cached_input_tokens=900)) == pytest.approx(0.03, abs=1e-12)


def test_cache_writes_cost_their_own_rate() -> None:
    usage = Usage(1000, 100, cached_input_tokens=300, cache_write_tokens=200)
    assert cost("claude-sonnet-4-5", usage) == pytest.approx((500 * 3 + 300 * 0.3 + 200 * 3.75 + 100 * 15) / 1e6)


def test_a_large_request_moves_to_the_next_tier_as_a_whole() -> None:
    assert cost("claude-sonnet-4-5", Usage(200_000, 0)) == pytest.approx(0.6)
    assert cost("claude-sonnet-4-5", Usage(250_000, 1000)) == pytest.approx(1.5 + 0.0225)


def test_reasoning_tokens_are_part_of_the_output() -> None:
    assert cost("gpt-4o", Usage(0, 500, reasoning_tokens=400)) == pytest.approx(0.005)


def test_reasoning_costs_its_own_rate_where_it_has_one() -> None:
    usage = Usage(1000, 500, reasoning_tokens=400)
    assert cost("sonar-deep-research", usage, "perplexity") == pytest.approx((1000 * 2 + 100 * 8 + 400 * 3) / 1e6)
    assert parse_price({"input": 1, "output": 2, "reasoning": 5}).cost(usage) == pytest.approx(0.0032)


def test_a_price_for_each_request_is_paid_once() -> None:
    assert cost("sonar-pro", Usage(1000, 100), "perplexity") == pytest.approx(0.003 + 0.0015 + 0.014)


def test_audio_and_image_tokens_cost_their_own_rate_or_that_of_text() -> None:
    own = parse_price({"input": 1, "output": 2, "audio": 10, "image": 5})
    assert own.cost(Usage(1000, 0, audio_tokens=100, image_tokens=200)) == pytest.approx((700 + 1000 + 1000) / 1e6)
    plain = parse_price({"input": 1, "output": 2})
    assert plain.cost(Usage(1000, 0, audio_tokens=100)) == pytest.approx(1000 / 1e6)


def test_listed_audio_and_image_rates_are_used() -> None:
    heard = Usage(1000, 0, audio_tokens=400)
    assert cost("gemini-2.5-flash", heard, "google") == pytest.approx((600 * 0.3 + 400 * 1) / 1e6)
    seen = Usage(1000, 0, image_tokens=400)
    assert cost("gpt-realtime", seen, "openai") == pytest.approx((600 * 4 + 400 * 5) / 1e6)
    spoken = Usage(0, 100, audio_tokens=100)
    assert cost("gpt-audio", spoken, "openai") == pytest.approx(100 * 64 / 1e6)


def test_an_estimate_is_charged_no_token_as_cached() -> None:
    price = price_of("claude-sonnet-4-5")

    assert price.cost(Usage(1000, 100)) >= price.cost(Usage(1000, 100, cached_input_tokens=500))
    assert price.cost(Usage(1000, 100)) == pytest.approx(1000 * 3e-6 + 100 * 15e-6, abs=1e-12)


# --- counts that cannot be


def test_contradicting_counts_never_raise_and_never_make_it_cheaper() -> None:
    whole = cost("gpt-4o", Usage(100, 100))
    assert cost("gpt-4o", Usage(100, 100, cached_input_tokens=10**9)) == pytest.approx(whole)
    assert cost("gpt-4o", Usage(100, 100, cached_input_tokens=60, cache_write_tokens=60)) == pytest.approx(whole)
    assert cost("gpt-4o", Usage(100, 100, reasoning_tokens=10**9)) == pytest.approx(whole)
    assert cost("gpt-4o", Usage(-5, -5)) == 0
    assert cost("gpt-4o", Usage(100, 100, -5, -5, -5, -5, -5)) == pytest.approx(whole)


COUNT = st.integers(-10, 10**12)


@settings(deadline=None)
@given(st.builds(Usage, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT))
def test_a_cost_is_between_all_at_the_cheapest_rate_and_all_at_the_dearest(usage: Usage) -> None:
    rates = {"input": 3, "output": 8, "cached_input": 1, "cache_write": 4, "reasoning": 9, "image": 5, "audio": 20}
    sent, made = max(0, usage.input_tokens), max(0, usage.output_tokens)

    found = parse_price(rates).cost(usage)

    assert (sent + 5 * made) / 1e6 * (1 - 1e-9) <= found <= (sent + made) * 20 / 1e6 * (1 + 1e-9)


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.data())
def test_every_listed_price_agrees_with_genai_prices_on_counts_that_can_be(sent: int, made: int, drawn: Any) -> None:
    provider, model = drawn.draw(st.sampled_from(LISTED))
    rates = price_of(model.id, provider.id).rates
    cached = drawn.draw(st.integers(0, sent)) if "cached_input" in rates else 0
    written = drawn.draw(st.integers(0, sent - cached)) if "cache_write" in rates else 0
    given_out = made if model.get_prices(NOW).output_mtok is not None else 0
    exact = model.calc_price(
        types.Usage(input_tokens=sent, output_tokens=given_out, cache_read_tokens=cached, cache_write_tokens=written),
        provider,
        genai_request_timestamp=NOW,
    )

    found = price_of(model.id, provider.id).cost(Usage(sent, given_out, cached, written))

    assert found == pytest.approx(float(exact.total_price), rel=1e-12, abs=1e-9)


NOW = datetime.now(UTC)
NAMED = {known for _, known in _provider_words()}
CHANGING = {"deepseek"}  # prices by the time of the day
LISTED = [
    (provider, model)
    for provider in data.providers
    for model in provider.models
    if provider.id in NAMED - CHANGING and BOOK.find(model.id, provider.id) is not None
    if model.get_prices(NOW).input_mtok is not None
]


def test_most_of_what_the_table_sells_by_the_token_is_priced() -> None:
    assert len(LISTED) > 1000


# --- the user's own


def test_the_user_s_own_price_comes_first() -> None:
    book = PriceBook({"gpt-4o": {"input": 1, "output": 1}, "Local": {"input": 0, "output": 0}})
    own = price_of("openai/gpt-4o-2024-08-06", None, book)
    assert (own.source, own.cost(Usage(1_000_000, 1_000_000))) == ("override", 2.0)
    assert price_of("local", None, book).cost(Usage(100, 100)) == 0
    assert price_of("gpt-4o-mini", None, book).source == "genai-prices"


def test_the_user_s_price_of_one_edition_is_not_that_of_the_model() -> None:
    book = PriceBook({"gpt-4o-2024-08-06": {"input": 1, "output": 1}})

    assert price_of("gpt-4o", None, book).source == "genai-prices"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"input": 1}, "needs 'output'"),
        ({}, "needs 'input'"),
        ({"input": 1, "output": -1}, "output=-1"),
        ({"input": 1, "output": float("nan")}, "output=nan"),
        ({"input": 1, "output": float("inf")}, "output=inf"),
        ({"input": 10**400, "output": 1}, "input=1000"),
        ({"input": "1", "output": 1}, "input='1'"),
        ({"input": True, "output": 1}, "input=True"),
        ({"input": 1, "output": 1, "cached": 1}, "unknown price 'cached'.*cached_input"),
        (2.5, "2.5 is no price"),
    ],
)
def test_a_bad_price_is_one_clear_error(given: Any, says: str) -> None:
    with pytest.raises(ValueError, match=f"my-model.*{says}"):
        PriceBook({"my-model": given})
    with pytest.raises(ValueError, match=says):
        parse_price(given)


# --- the book


def test_a_listed_price_tells_its_source_and_version() -> None:
    price = price_of("gpt-4o")

    assert (price.source, price.version) == ("genai-prices", genai_prices.__version__)
    assert parse_price({"input": 1, "output": 1}).version == ""


def test_the_context_window_is_known_where_the_table_knows_it() -> None:
    assert BOOK.context_window("gpt-4o") == 128_000
    assert BOOK.context_window("nobody's") is None


def test_the_user_s_price_changes_no_limit() -> None:
    assert PriceBook({"gpt-4o": {"input": 1, "output": 1}}).context_window("gpt-4o") == 128_000


def test_a_price_that_was_found_is_found_again_at_once() -> None:
    book = PriceBook()
    first = price_of("gpt-4o-2024-08-06", "openai", book)

    assert price_of("gpt-4o-2024-08-06", "openai", book) is first
    assert min(timeit.repeat(lambda: book.find("gpt-4o-2024-08-06", "openai"), number=1000)) < 0.005


def test_any_number_of_names_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "_KEPT_ANSWERS", 10)
    book = PriceBook()

    for number in range(100):
        assert book.find(f"nobody-{number}") is None

    assert len(vars(book)["_answers"]) <= 10


def test_threads_get_one_answer() -> None:
    book = PriceBook({"mine": {"input": 1, "output": 1}})
    asked = ["gpt-4o", "mine", "claude-sonnet-4-5", "nobody's", "gemini-2.5-pro"] * 40
    got: list[list[float | None]] = []

    def ask() -> None:
        got.append([price.cost(Usage(1000, 10)) if (price := book.find(model)) else None for model in asked])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(got) == 8
    assert all(answers == got[0] for answers in got)


def test_the_table_is_not_read_for_a_price_of_the_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices.price_table, "load", lambda: pytest.fail("read the table"))

    assert price_of("mine", None, PriceBook({"mine": {"input": 1, "output": 1}})).source == "override"
