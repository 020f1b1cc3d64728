"""Where time and identity come from: the one place a test replaces to make a trace repeatable.

Callers go through the module (``source.mono_ns()``), so that ``shearpin.testing`` can swap what is behind the names.
"""

from __future__ import annotations

import os
import time

wall_ns = time.time_ns
"""Nanoseconds since the epoch; may jump when the machine's clock is set."""

mono_ns = time.perf_counter_ns
"""Nanoseconds that only ever grow: every duration is a difference of two of these."""


def new_trace_id() -> str:
    """32 hex digits, as W3C trace context wants; never all zero."""
    return os.urandom(16).hex()


def new_span_base() -> int:
    """Where a trace starts to number its spans: a random start makes them distinct across processes."""
    return int.from_bytes(os.urandom(8), "big") | 1


def span_id(number: int) -> str:
    """16 hex digits, never all zero (zero is invalid in OpenTelemetry)."""
    return f"{((number ^ _branch) & 0xFFFF_FFFF_FFFF_FFFF) or 1:016x}"


_branch = 0


def _begin_branch() -> None:
    """A forked child goes on with runs, and numbers, that its parent goes on with too."""
    global _branch  # noqa: PLW0603 - it is true of the process
    _branch = int.from_bytes(os.urandom(8), "big")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_branch)
