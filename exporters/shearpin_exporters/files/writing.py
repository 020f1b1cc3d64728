"""Makes lines of what runs tell and appends them to a file, on a thread of its own.

An agent only appends to a queue. One thread for each writer makes lines of what is there and appends them, whole lines
in one ``write()`` each, so that any number of writers, threads and processes share a file. What has been written
survives a kill of the process; at an exit of the interpreter the rest is written too.

Memory is bounded and an agent never waits for the disk. Beyond `BACKLOG` events (they come faster than one thread
encodes them) it encodes two for each that it adds, some dozen microseconds. Beyond `UNWRITTEN` bytes (the disk takes
nothing) events are given up and counted in ``lost``. Runs that are live then are written anew, with all that is known
of them, once the disk works again: only runs that ended meanwhile are gone.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shearpin import Trace
from shearpin.adapter import TraceLines
from shearpin_exporters.files.appending import LineFile

__all__ = ["BACKLOG", "UNWRITTEN", "Event", "Writer"]

BACKLOG = 100_000
"""Events that may wait to be encoded."""
UNWRITTEN = 1 << 26
"""Bytes that may wait to be written."""

_BATCH_EVENTS = 256
_BATCH_BYTES = 1 << 20
_HELP_SECONDS = 0.05
_RETRY_SECONDS = 1.0
_EXIT_SECONDS = 1.0
_ENDED_KEPT = 32

Event = tuple[Callable[..., bytes], Trace, tuple[Any, ...]]
"""A method of `TraceLines`, the trace it is about, and its arguments."""
_logger = logging.getLogger("shearpin")


class Writer:
    """Writes the events it is told, in their order. Raises OSError if `path` cannot be written."""

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)
        self._deserted = False
        self.lost = 0
        self.begin_anew()
        _writers.add(self)

    def begin_anew(self) -> None:
        """With nothing to write: when new, and in a forked child, whose parent writes what there was."""
        self._queue: deque[Event] = deque()
        self._ready: deque[bytes] = deque()
        self._encoded = self._written = 0
        self._live: dict[Trace, TraceLines] = {}
        self._ended: OrderedDict[Trace, TraceLines] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._retry_at: float | None = None
        self._starting = threading.RLock()
        self._encoding, self._writing = threading.Lock(), threading.Lock()
        self._asleep = threading.Lock()  # held while there is nothing to do; releasing it wakes the thread
        self._asleep.acquire()

    def flush(self, *, patience: float = -1) -> bool:
        """Write what there is, now; False if the disk did not take it, or not in `patience` seconds (-1: for ever)."""
        done = self._drain(force=True, patience=patience)
        self._over()
        return done

    def close(self) -> None:
        """Write what there is, and let go of the thread and the file; whoever tells more takes them up again."""
        thread, self._thread = self._thread, None
        self._wake()
        self.finish()
        if thread is not None:
            thread.join(_EXIT_SECONDS)
        with self._encoding:
            self._forget()
        with self._writing:
            self._file.close()

    def desert(self) -> None:
        """Nobody tells any more: end once all is written. Waits for nothing, as the garbage collector may call it."""
        self._deserted = True
        self._over()
        self._wake()

    def _over(self) -> bool:
        """Is all written, and nobody there to tell more? Then nothing holds this, and so the file, any longer."""
        over = self._deserted and not self._queue and not self._ready
        if over:
            _writers.discard(self)
        return over

    # --- on the agent's thread --------------------------------------------------------------------------------

    def note(self, event: Event) -> None:
        """Have `event` written."""
        self._queue.append(event)
        if self._thread is None:
            self._start()
        if len(self._queue) > BACKLOG:
            self._encode(2, patience=_HELP_SECONDS)
        if self._asleep.locked():
            self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # another thread was faster
            self._asleep.release()

    def _start(self) -> None:
        if _exiting:  # a thread might not run any more
            self.flush(patience=_EXIT_SECONDS)
            return
        with self._starting:
            if self._thread is None:
                _at_exit_of_child(os.getpid())
                self._thread = threading.Thread(target=self._work, name="shearpin-jsonl", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # there are too many; the next event tries again
                    self._thread = None

    # --- on a thread of its own -------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._thread is threading.current_thread():
            self._asleep.acquire(timeout=_RETRY_SECONDS if self._ready else -1)
            try:
                self._drain()
            except Exception:
                _logger.warning("an error while traces were written to %s", self._file.path, exc_info=True)
            if self._over():
                return

    def _drain(self, *, force: bool = False, patience: float = -1) -> bool:
        """Encode and write until nothing is left; False if something is."""
        while self._write(force=force, patience=patience):
            self._follow_file(patience)
            if not self._encode(_BATCH_EVENTS, patience=patience):
                return self._write(force=force, patience=patience)  # or wait for the thread that does
        return False

    def _encode(self, events: int, *, patience: float) -> bool:
        """Make lines of the oldest events; False if there are none."""
        left = events
        with _held(self._encoding, patience) as mine:
            enough = self._encoded + _BATCH_BYTES
            while mine and self._queue and left and self._encoded < enough:
                self._encode_first()
                left -= 1
        return left < events

    def _encode_first(self) -> None:
        what, trace, arguments = self._queue[0]
        if self._encoded - self._written > UNWRITTEN:
            self._give_up()
            return
        try:
            lines = what(self._stream(trace, ends=what is TraceLines.finished), *arguments)
        except Exception:
            _logger.warning("an event of %r could not be written", trace, exc_info=True)
            self._give_up()
            return
        except BaseException:  # an interrupt: the event is still there, what was made of it is not
            self._forget()
            raise
        if lines:
            self._ready.append(lines)
            self._encoded += len(lines)
        self._queue.popleft()

    def _stream(self, trace: Trace, *, ends: bool) -> TraceLines:
        stream = self._live.get(trace) or self._ended.get(trace)
        if stream is None:
            stream = self._live[trace] = TraceLines(trace)
        if ends and trace in self._live:  # kept a while: a paused run may go on
            self._ended[trace] = self._live.pop(trace)
            if len(self._ended) > _ENDED_KEPT:
                self._ended.popitem(last=False)
        return stream

    def _give_up(self) -> None:
        self.lost += 1
        self._forget()
        self._queue.popleft()

    def _forget(self) -> None:
        """Begin every run anew at its next event."""
        self._live.clear()
        self._ended.clear()

    def _follow_file(self, patience: float) -> None:
        """Where the file was moved away, begin a new one, and in it every run that goes on."""
        with _held(self._encoding, patience) as mine, _held(self._writing, patience) as mine_too:
            if mine and mine_too and not self._ready and self._file.renew():
                self._forget()

    def _write(self, *, force: bool, patience: float) -> bool:
        """Write the lines there are; False if some are left."""
        with _held(self._writing, patience) as mine:
            if not mine or (self._retry_at is not None and not force and time.monotonic() < self._retry_at):
                return False
            try:
                while self._ready:
                    self._write_batch()
            except OSError as error:
                if self._retry_at is None:
                    _logger.warning("traces cannot be written to %s, trying again: %s", self._file.path, error)
                self._retry_at = time.monotonic() + _RETRY_SECONDS
                return False
            self._retry_at = None
            return True

    def _write_batch(self) -> None:
        batch = [self._ready[0]]
        size = len(batch[0])
        while size < _BATCH_BYTES and len(batch) < len(self._ready):
            batch.append(self._ready[len(batch)])
            size += len(batch[-1])
        written = self._file.append(b"".join(batch))
        self._written += written
        for lines in batch:
            if written < len(lines):
                self._ready[0] = lines[written:]
                return
            written -= len(self._ready.popleft())

    def finish(self) -> None:
        """Write what there is, as long as the disk takes it, and do without the thread."""
        self._thread, before = None, -1
        while not (done := self.flush(patience=_EXIT_SECONDS)) and before < self._written:
            before = self._written
        if not done:
            left = len(self._queue) + sum(lines.count(b"\n") for lines in list(self._ready))
            _logger.warning("%d records of traces were not written to %s", left, self._file.path)


@contextmanager
def _held(lock: threading.Lock, patience: float) -> Generator[bool]:
    """Hold `lock`, unless somebody else does for `patience` seconds (-1: for ever); yields whether."""
    mine = lock.acquire(timeout=patience)
    try:
        yield mine
    finally:
        if mine:
            lock.release()


# --- every writer of this process -------------------------------------------------------------------------

_writers: set[Writer] = set()
"""Those whose exporter is there, or that still have something to write."""
_exiting = False


def _flush_all() -> None:
    for writer in list(_writers):
        writer.flush(patience=_EXIT_SECONDS)


def _at_exit() -> None:
    global _exiting  # noqa: PLW0603 - it is true of the process
    _exiting = True
    for writer in list(_writers):
        writer.finish()


@functools.cache
def _at_exit_of_child(_process: int) -> None:
    """Children of `multiprocessing` end without `atexit`, with finalizers of their own."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing import util

        util.Finalize(None, _at_exit, exitpriority=0)


def _in_forked_child() -> None:
    for writer in list(_writers):
        writer.begin_anew()


TraceLines.before_reading(_flush_all)
# Before any run is: `atexit` goes backwards, so runs that are ended at exit end before this.
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
