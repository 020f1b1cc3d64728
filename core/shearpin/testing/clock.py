"""Time and ids under a test's control, so that a whole trace can be compared with the one expected.

They stand in for what `shearpin.trace.source` gives to everything in this process; other clocks, and whoever
sleeps, are untouched. They nest, but two threads cannot each have their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count

from shearpin.trace import source

_START_NS = 1_800_000_000_000_000_000
_BOOT_NS = 1_000_000_000


class FakeClock:
    """A clock that moves only when told; it starts at 2027-01-15 08:00 UTC.

    >>> clock = FakeClock()
    >>> clock.advance(1.5)
    >>> clock.now_ns
    1800000001500000000
    """

    def __init__(self, start_ns: int = _START_NS) -> None:
        self._start_ns = start_ns
        self._elapsed_ns = 0
        self._lock = threading.Lock()

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return self.wall_ns()

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds}")
        with self._lock:
            self._elapsed_ns += round(seconds * 1_000_000_000)

    def wall_ns(self) -> int:
        return self._start_ns + self._elapsed_ns

    def mono_ns(self) -> int:
        """Counted from another zero than `wall_ns`, as on a real machine: who mixes the two is found out."""
        return _BOOT_NS + self._elapsed_ns


@contextmanager
def fake_clock(start_ns: int = _START_NS) -> Generator[FakeClock]:
    """Let Shearpin read a `FakeClock` until the block ends.

    >>> with fake_clock() as clock:
    ...     before = source.mono_ns()
    ...     clock.advance(0.25)
    ...     source.mono_ns() - before
    250000000
    """
    clock = FakeClock(start_ns)
    with _swapped(wall_ns=clock.wall_ns, mono_ns=clock.mono_ns):
        yield clock


@contextmanager
def deterministic_ids() -> Generator[None]:
    """Number traces 1, 2, 3… and the spans of the n-th base from n * 2**32 + 1, until the block ends.

    >>> with deterministic_ids():
    ...     source.new_trace_id(), source.span_id(source.new_span_base())
    ('00000000000000000000000000000001', '0000000100000001')
    """
    traces, bases = count(1), count(1)
    with _swapped(
        new_trace_id=lambda: f"{next(traces):032x}",
        new_span_base=lambda: (next(bases) << 32) | 1,
    ):
        yield


@contextmanager
def _swapped(**replacements: Callable[[], int] | Callable[[], str]) -> Generator[None]:
    originals = {name: getattr(source, name) for name in replacements}
    _put(replacements)
    try:
        yield
    finally:
        _put(originals)


def _put(attributes: dict[str, Callable[[], int] | Callable[[], str]]) -> None:
    for name, value in attributes.items():
        setattr(source, name, value)
