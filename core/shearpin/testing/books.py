"""What a server counts.

Everything is entered before the bytes that let a client know: a client that has its answer finds it counted.
"""

from __future__ import annotations

import threading
from collections import Counter, deque

from shearpin.testing.request import Request
from shearpin.testing.script import NO_TOKENS, Tokens


class Books:
    """Exact under any number of threads; remembers the last `keep` requests, counts all of them."""

    def __init__(self, keep: int | None) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._requests: deque[Request] = deque(maxlen=keep)
        self._open: dict[int, Request] = {}
        self._clear()

    def _clear(self) -> None:
        self._requests.clear()
        self._received: Counter[str] = Counter()
        self._answered: Counter[tuple[str, int]] = Counter()
        self._asked = 0
        self._usage = NO_TOKENS
        self._disconnects = 0
        self._peak = len(self._open)

    def reset(self) -> None:
        with self._changed:
            self._clear()

    def enter(self, request: Request) -> None:
        with self._changed:
            self._requests.append(request)
            self._received[request.path] += 1
            self._open[id(request)] = request
            self._peak = max(self._peak, len(self._open))

    def number(self, request: Request) -> None:
        """The request reaches the script: it gets the next index."""
        with self._changed:
            request.index = self._asked
            self._asked += 1

    def answer(self, request: Request, status: int, tokens: Tokens = NO_TOKENS) -> None:
        with self._changed:
            self._answered[request.path, status] += 1
            self._usage = Tokens(*map(sum, zip(self._usage, tokens, strict=True)))

    def leave(self, request: Request, *, disconnected: bool = False) -> None:
        """Nothing more is done for the request; saying so twice changes nothing."""
        with self._changed:
            self._open.pop(id(request), None)
            self._disconnects += disconnected
            if not self._open:
                self._changed.notify_all()

    def wait_idle(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, seconds)

    def count(self, path: str | None, status: int | None) -> int:
        with self._changed:
            if status is None:
                return sum(times for where, times in self._received.items() if path in (None, where))
            return sum(
                times
                for (where, answered), times in self._answered.items()
                if path in (None, where) and answered == status
            )

    def requests(self) -> list[Request]:
        with self._changed:
            return list(self._requests)

    @property
    def usage(self) -> Tokens:
        return self._usage

    @property
    def disconnects(self) -> int:
        return self._disconnects

    @property
    def in_flight(self) -> int:
        return len(self._open)

    @property
    def peak_in_flight(self) -> int:
        return self._peak
