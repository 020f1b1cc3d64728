"""What `shearpin run` hands to the processes it starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shearpin.rules.budget import Budget
from shearpin.rules.loop import LoopBreaker
from shearpin.rules.policy import ToolPolicy
from shearpin.rules.protocol import Rule

VARIABLE = "SHEARPIN_RUN"


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """The rules, where traces go, and the file in which everybody reports."""

    report: str
    budget: dict[str, float] = field(default_factory=dict[str, float])
    loop_threshold: int | None = None
    deny: tuple[str, ...] = ()
    trace_file: str | None = None
    observe: bool = False

    def rules(self) -> list[Rule]:
        """The rules; raises ValueError and TypeError as they do."""
        rules: list[Rule] = []
        if self.budget:
            limits: dict[str, Any] = dict(self.budget)
            rules.append(Budget(**limits))
        if self.loop_threshold is not None:
            rules.append(LoopBreaker(threshold=self.loop_threshold))
        if self.deny:
            rules.append(ToolPolicy(deny=list(self.deny)))
        return rules

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> LaunchSettings | None:
        """What this process was started with; None where it was not."""
        text = os.environ.get(VARIABLE)
        if not text:
            return None
        facts = json.loads(text)
        return cls(**facts | {"deny": tuple(facts["deny"])})

    def tell(self, **facts: object) -> None:
        """Add a line to the report; several processes may."""
        with Path(self.report).open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts, default=str) + "\n")

    def told(self) -> Iterator[dict[str, Any]]:
        """What was reported so far."""
        path = Path(self.report)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        yield from map(json.loads, lines)
