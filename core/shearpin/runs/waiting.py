"""Who waits for calls in flight: threads on the tree's condition, coroutines on a future of their own loop."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any
from weakref import WeakKeyDictionary


def on_event_loop() -> bool:
    """Is this code running on an event loop's thread, where blocking would stop the loop?"""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def owner_here() -> int:
    """What executes here, one thing after the other: the task, or the thread outside of tasks.

    A number of its own for each: what Python calls a task or a thread by, it gives to the next once that is over.
    """
    task = asyncio.current_task() if on_event_loop() else None
    if task is not None:
        return _tasks.setdefault(task, next(_numbers))
    if not hasattr(_thread, "number"):
        _thread.number = next(_numbers)
    return int(_thread.number)


_numbers = itertools.count(1)
_tasks: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
_thread = threading.local()


class Waiters:
    """Woken all together whenever something was given back; each then tries again."""

    __slots__ = ("_condition", "_futures", "threads")

    def __init__(self, condition: threading.Condition) -> None:
        self._condition = condition
        self.threads = 0
        """How many threads wait on the condition."""
        self._futures: set[asyncio.Future[None]] = set()

    def add(self) -> asyncio.Future[None]:
        """A future of the running loop that the next `wake` resolves. Called under the condition."""
        future = asyncio.get_running_loop().create_future()
        self._futures.add(future)
        return future

    def discard(self, future: asyncio.Future[None]) -> None:
        """This waiter is gone, however it ended."""
        with self._condition:
            self._futures.discard(future)

    def wake(self) -> None:
        """Called under the condition."""
        if self.threads:
            self._condition.notify_all()
        for future in self._futures:
            try:
                future.get_loop().call_soon_threadsafe(_resolve, future)
            except RuntimeError:  # its loop is closed: nobody waits there any more
                continue
        self._futures.clear()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
