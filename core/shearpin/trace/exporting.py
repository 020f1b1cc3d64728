"""What an exporter is."""

from __future__ import annotations

from typing import Protocol

from shearpin.trace.model import Trace
from shearpin.trace.spans import Span


class Exporter(Protocol):
    """Hears of every span and every finished run.

    Called by the run under its lock, so each method only takes note and returns within microseconds; what it raises
    is logged and never reaches the agent.
    """

    def span_started(self, trace: Trace, span: Span) -> None:
        """`span` started; its outcome is not known yet."""
        ...

    def span_ended(self, trace: Trace, span: Span) -> None:
        """`span` ended and will not change any more."""
        ...

    def run_ended(self, trace: Trace) -> None:
        """The run ended, or was paused."""
        ...

    def close(self) -> None:
        """Deliver what is left."""
        ...
