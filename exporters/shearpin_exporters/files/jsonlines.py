"""Traces as JSON Lines: `shearpin_exporters.files.writing` says how they come to the disk."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from shearpin import Span, Trace
from shearpin.adapter import TraceLines
from shearpin_exporters.files.writing import Writer

__all__ = ["JSONLinesExporter"]


class JSONLinesExporter:
    """Writes every run to a file of JSON Lines as its spans start and end; `Trace.load` reads it.

    After a kill in the middle of a run the file loads, and the run is ``unfinished``. The file is made for its owner
    alone, missing folders too; one that exists keeps its mode and is appended to. When it is moved away or deleted,
    as by log rotation, a new one is begun. An exporter that nobody holds any more is closed once all is written.

    Raises:
        OSError: `path` cannot be written: no permission, a folder, a device.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._writer = Writer(Path(path).absolute())
        self._note = self._writer.note
        weakref.finalize(self, self._writer.desert).atexit = False  # what is held to the end is written then

    @property
    def lost(self) -> int:
        """The events that the disk would not take in time."""
        return self._writer.lost

    def span_started(self, trace: Trace, span: Span) -> None:
        """Take note of `span`."""
        self._note((TraceLines.started, trace, (span, span.attributes.copy())))

    def span_ended(self, trace: Trace, span: Span) -> None:
        """Take note of how `span` ended."""
        self._note((TraceLines.ended, trace, (span,)))

    def run_ended(self, trace: Trace) -> None:
        """Take note that the run is over, or paused."""
        self._note((TraceLines.finished, trace, ()))

    def flush(self) -> bool:
        """Write what there is, now; False if the disk did not take it."""
        return self._writer.flush()

    def close(self) -> None:
        """Write what there is, and let go of the thread and the file; whoever tells more takes them up again."""
        self._writer.close()
