"""The time of one run tree."""

from __future__ import annotations

from shearpin.trace import source


class Clock:
    """Wall time that never runs backwards within a trace, and how long the run was active."""

    __slots__ = ("_active_ns", "_mono", "_offset", "_running")

    def __init__(self) -> None:
        self._active_ns = 0
        self.start()

    def start(self) -> None:
        """The run begins, or goes on after a pause."""
        self._mono = source.mono_ns()
        self._offset = source.wall_ns() - self._mono
        self._running = True

    def stop(self) -> None:
        """The run ended or is paused: time spent so does not count."""
        self._active_ns += source.mono_ns() - self._mono
        self._running = False

    def add(self, seconds: float) -> None:
        """The run was active elsewhere before."""
        self._active_ns += int(seconds * 1e9)

    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return self._offset + source.mono_ns()

    def elapsed_seconds(self) -> float:
        """Seconds the run was active."""
        running = source.mono_ns() - self._mono if self._running else 0
        return (self._active_ns + running) / 1e9
