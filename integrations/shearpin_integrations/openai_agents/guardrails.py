"""Guardrails in the trace: no hook tells of them, so they are read from what a run came to, when it ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shearpin.adapter import Run

_RESULTS = (
    "input_guardrail_results",
    "output_guardrail_results",
    "tool_input_guardrail_results",
    "tool_output_guardrail_results",
)


def results_of(outcome: Any) -> list[Any]:
    """The guardrails' results in a run's result, or in what an error says of its run."""
    found = [result for name in _RESULTS for result in getattr(outcome, name, None) or ()]
    tripped = getattr(outcome, "guardrail_result", None)
    return found if tripped is None else [*found, tripped]


def record(run: Run, results: Iterable[Any]) -> None:
    """One instant span each: what it found, and whether it ended the run."""
    for result in results:
        guardrail, output = result.guardrail, result.output
        name = guardrail.get_name() if hasattr(guardrail, "get_name") else type(guardrail).__name__
        tripped = getattr(output, "tripwire_triggered", None)
        span = run.start("guardrail", str(name), parent=run.span)
        run.end(span, output=output.output_info, status="error" if tripped else "ok", attributes={"tripped": tripped})
