"""Guardrails in the trace: no hook tells of them, so they are read from what a run came to, when it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from shearpin.adapter import Run

_RESULTS = (
    "input_guardrail_results",
    "output_guardrail_results",
    "tool_input_guardrail_results",
    "tool_output_guardrail_results",
)


def results_of(outcome: Any, prefix: str = "") -> list[Any]:
    """The guardrails' results in a run's result or state, or in what an error says of its run."""
    found = [result for name in _RESULTS for result in getattr(outcome, prefix + name, None) or ()]
    tripped = getattr(outcome, "guardrail_result", None)
    return found if tripped is None else [*found, tripped]


def name_of(result: Any) -> str:
    """What the guardrail is called."""
    guardrail = result.guardrail
    return str(guardrail.get_name() if hasattr(guardrail, "get_name") else type(guardrail).__name__)


def record(run: Run, results: Iterable[Any], known: Counter[str]) -> None:
    """One instant span each, but for the first ones that are `known`: what it found, and whether it ended the run."""
    for result in results:
        name = name_of(result)
        if known[name]:
            known[name] -= 1
            continue
        tripped = getattr(result.output, "tripwire_triggered", None)
        span = run.start("guardrail", name, parent=run.span)
        output, facts = result.output.output_info, {"tripped": tripped}
        run.end(span, output=output, status="error" if tripped else "ok", attributes=facts)
