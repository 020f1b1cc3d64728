"""What happens in every Python that `shearpin run` starts: the guard is installed, and its runs are reported."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from types import TracebackType

from shearpin.attachment import install
from shearpin.errors import RunStoppedError
from shearpin.guards import Guard
from shearpin.launching.settings import LaunchSettings
from shearpin.trace import Span, Trace
from shearpin.trace.exporting import Exporter

EVENT_BOOTED, EVENT_RUN = "booted", "run"


def boot() -> None:
    """Put this process's frameworks under the guard that the environment describes; without one do nothing."""
    settings = LaunchSettings.from_environment()
    if settings is None:
        return
    exporters: list[Exporter] = [Reporter(settings)]
    if settings.trace_file:
        (entry,) = entry_points(group="shearpin.exporters", name="files")
        exporters.append(entry.load().JSONLinesExporter(settings.trace_file))
    install(Guard(*settings.rules(), exporters=exporters, mode="observe" if settings.observe else "enforce"))
    settings.tell(event=EVENT_BOOTED)
    sys.excepthook = _brief


class Reporter:
    """Tells whoever started the process how its runs ended."""

    def __init__(self, settings: LaunchSettings) -> None:
        self._settings = settings

    def span_started(self, trace: Trace, span: Span) -> None:
        """Not told."""

    def span_ended(self, trace: Trace, span: Span) -> None:
        """Not told."""

    def run_ended(self, trace: Trace) -> None:
        self._settings.tell(
            event=EVENT_RUN,
            name=trace.name,
            trace_id=trace.trace_id,
            status=trace.status,
            stop=str(trace.stop.error) if trace.stop else None,
            cost_usd=trace.usage.cost_usd,
            llm_calls=trace.llm_calls,
            tool_calls=trace.tool_calls,
            gaps=trace.gaps,
        )

    def close(self) -> None:
        """Every line was written at once."""


_usual = sys.excepthook


def _brief(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """A stop nobody caught is told by `shearpin run`, in a line."""
    if not isinstance(error, RunStoppedError):
        _usual(kind, error, where)
