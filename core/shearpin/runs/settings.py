"""What a guard hands to each of its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shearpin.rules.prices import PriceBook
from shearpin.rules.protocol import Rule
from shearpin.runs.charging import Terms
from shearpin.trace.exporting import Exporter

if TYPE_CHECKING:
    from shearpin.runs.tree import Tree


@dataclass(frozen=True, slots=True)
class Settings:
    """The rules and where the record goes, and whom to tell of a run's start and end."""

    rules: Sequence[Rule]
    exporters: Sequence[Exporter]
    prices: PriceBook
    enforce: bool
    on_start: Callable[[Any], None]
    on_end: Callable[[Tree], None]
    terms: Terms = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", Terms.of(self.rules))
