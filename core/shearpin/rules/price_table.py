"""The price table bundled with the package ``genai-prices``, by exact names. Nothing here touches the network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from shearpin.rules.model_names import spellings

if TYPE_CHECKING:
    from genai_prices.types import MatchLogic, ModelInfo, Provider

T = TypeVar("T")

Rate = tuple[tuple[int, float], ...]
"""USD per token by the length of the prompt: (0, price), then (tokens above which it holds, price), rising."""

Listed = tuple[dict[str, Rate], float]
"""USD per token by what the token is, and USD per request."""

_THOUSAND, _MILLION = 1_000, 1_000_000
_FREE: Rate = ((0, 0.0),)
_RATES = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "output_reasoning_mtok": "reasoning",
    "input_image_mtok": "image_input",
    "output_image_mtok": "image_output",
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
}
"""The table's keys that count tokens `Usage` knows. A write to a cache is taken for the usual one of five minutes."""

_lock = threading.Lock()
_loaded: list[Table] = []


def load() -> Table:
    """The table, read on first use: the one place that imports ``genai_prices``.

    That import takes some tenths of a second: it brings pydantic and an HTTP client, for updates that are never started
    here. The package has no public way to its data alone.
    """
    with _lock:
        if not _loaded:
            import genai_prices
            from genai_prices.data import providers

            _loaded.append(Table(providers, genai_prices.__version__))
        return _loaded[0]


class Table:
    """Models by their exact names and hosts."""

    def __init__(self, providers: list[Provider], version: str) -> None:
        self.version = version
        self._providers = {provider.id: provider for provider in providers}
        self._hosts: dict[str, dict[str, ModelInfo]] = {}
        for provider in providers:
            for model in provider.models:
                for name in {model.id.lower(), *(name.lower() for name in _exact(model.match))}:
                    self._hosts.setdefault(name, {}).setdefault(provider.id, model)

    def rates(self, model: str, provider: str | None) -> Listed | None:
        """What a model costs now; None when the table has no price for its tokens."""
        now = datetime.now(UTC)
        return max(self._each(model, provider, lambda info: _listed(info, now)), key=_dearness, default=None)

    def context_window(self, model: str, provider: str | None) -> int | None:
        """How many tokens a model takes; the fewest where hosts differ and none was named."""
        return min(self._each(model, provider, lambda info: info.context_window), default=None)

    def _each(self, model: str, provider: str | None, read: Callable[[ModelInfo], T | None]) -> list[T]:
        """What `read` finds at the host that was named; if nothing, at the maker; if nothing, at every host."""
        names = list(spellings(model, provider))
        for host, name in names:
            for trusted in self._with_fallbacks(host):
                found = _known([self._hosts.get(name, {}).get(trusted)], read)
                if found:
                    return found
        for _, name in names:
            hosts = self._hosts.get(name, {})
            found = _known([hosts[host] for host in hosts if self._makes(host, name)], read) or _known(
                hosts.values(), read
            )
            if found:
                return found
        return []

    def _with_fallbacks(self, host: str | None) -> list[str]:
        """A host, and whose models it sells at their maker's price: Azure OpenAI's, for one."""
        provider = self._providers.get(host or "")
        return [] if provider is None else [provider.id, *(provider.fallback_model_providers or ())]

    def _makes(self, host: str, name: str) -> bool:
        """Whether the table takes `host` for the provider meant by the bare name of a model."""
        match = self._providers[host].model_match
        return match is not None and match.is_match(name)


def _known(infos: Iterable[ModelInfo | None], read: Callable[[ModelInfo], T | None]) -> list[T]:
    found = (read(info) for info in infos if info is not None)
    return [each for each in found if each is not None]


def _exact(match: MatchLogic) -> Iterator[str]:
    """The names a clause matches whole; a clause that must hold together with others names nothing by itself."""
    from genai_prices.types import ClauseEquals, ClauseOr

    if isinstance(match, ClauseEquals):
        yield match.equals
    elif isinstance(match, ClauseOr):
        for each in match.or_:
            yield from _exact(each)


def _listed(info: ModelInfo, now: datetime) -> Listed | None:
    """What a model costs now; None if that is not by tokens.

    An entry without any price is a model that is free there (``:free``), that is paid for in another way, or whose
    price is not known: only the first is taken at its word.
    """
    prices: dict[str, object] = vars(info.get_prices(now))
    if info.id.endswith(":free") and not any(value is not None for value in prices.values()):
        return {"input": _FREE, "output": _FREE}, 0.0
    rates = {name: _rate(prices[key]) for key, name in _RATES.items() if prices.get(key) is not None}
    if "input" not in rates:
        return None
    rates.setdefault("output", rates["input"])  # an embedding has no output; if it had, it would not be free
    return rates, _dollars(prices.get("requests_kcount") or 0) / _THOUSAND


def _rate(price: object) -> Rate:
    from genai_prices.types import TieredPrices

    if not isinstance(price, TieredPrices):
        return ((0, _dollars(price) / _MILLION),)
    return ((0, _dollars(price.base) / _MILLION), *((t.start, _dollars(t.price) / _MILLION) for t in price.tiers))


def _dollars(price: object) -> float:
    return float(str(price))


def _dearness(listed: Listed) -> float:
    """Dollars for a prompt four times as long as its reply, as agents have them, and the request."""
    rates, per_request = listed
    return 4000 * rates["input"][0][1] + 1000 * rates["output"][0][1] + per_request
