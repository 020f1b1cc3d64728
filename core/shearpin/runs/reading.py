"""A response of which the caller is still reading: its bytes are heard on their way, its end is the end of the call.

Whatever a client makes of a response (events, a model, lines, nothing), it takes its bytes from `iter_bytes` and lets
go of it by `close`, or their async twins: public methods of HTTPX, which are put in front of here, for this response.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from shearpin.runs.hearing import Events, Heard
from shearpin.runs.run import Run
from shearpin.runs.trouble import raise_if_meant
from shearpin.trace import Span
from shearpin.trace.providers import read_reply
from shearpin.trace.reply import Reply


class ProviderError(Exception):
    """What a provider said went wrong in the middle of a stream."""


class Reading:
    """One model call while its response is read: ``streamed`` as events, or else as one body."""

    def __init__(self, run: Run, span: Span, response: Any, *, streamed: bool) -> None:  # noqa: ANN401 - HTTPX's
        self._run, self._span = run, span
        self._events = Events() if streamed else None
        self._heard = Heard()
        self._body: list[bytes] = []
        self._pulling = self._over = False
        for name, around in _AROUND.items():
            if hasattr(response, name):
                setattr(response, name, around(self, getattr(response, name)))
        # Of a stream that was neither read nor closed; at the end of the process the runs end what is open.
        weakref.finalize(response, self._left).atexit = False

    # --- in front of the response's own methods -------------------------------------------------------------------

    def iter_bytes(self, original: Callable[..., Iterator[bytes]]) -> Callable[..., Iterator[bytes]]:
        def iter_bytes(*args: Any, **kwargs: Any) -> Iterator[bytes]:
            pieces = original(*args, **kwargs)
            while (piece := self._next(pieces)) is not None:
                self._hear(piece)
                yield piece

        return iter_bytes

    def aiter_bytes(self, original: Callable[..., AsyncIterator[bytes]]) -> Callable[..., AsyncIterator[bytes]]:
        async def aiter_bytes(*args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
            pieces = original(*args, **kwargs)
            while (piece := await self._anext(pieces)) is not None:
                self._hear(piece)
                yield piece

        return aiter_bytes

    def close(self, original: Callable[[], None]) -> Callable[[], None]:
        def close() -> None:
            try:
                original()
            finally:
                self._left()

        return close

    def aclose(self, original: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
        async def aclose() -> None:
            try:
                await original()
            finally:
                self._left()

        return aclose

    def _next(self, pieces: Iterator[bytes]) -> bytes | None:
        self._pulling = True
        try:
            piece = next(pieces, None)
        except BaseException as error:
            self._broke(error)
            raise
        finally:
            self._pulling = False
        if piece is None:
            self._told_all()
        return piece

    async def _anext(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        self._pulling = True
        try:
            piece = await anext(pieces, None)
        except BaseException as error:
            self._broke(error)
            raise
        finally:
            self._pulling = False
        if piece is None:
            self._told_all()
        return piece

    # --- what comes, and how it ends ------------------------------------------------------------------------------

    def _hear(self, piece: bytes) -> None:
        if self._over:
            return
        if self._events is None:
            self._body.append(piece)
            return
        try:
            for event in self._events.take(piece):
                self._heard.take(event)
        except Exception as bug:  # noqa: BLE001 - ours, not the agent's
            raise_if_meant(bug, "reading of a stream")
        if self._heard.came:
            self._run.first_token(self._span)
        if (stop := self._run.stopped) is not None:  # a stopped run pulls nothing more out of a stream
            self._broke(stop)
            raise stop.with_traceback(None)

    def _told_all(self) -> None:
        """There is nothing more to read."""
        if self._heard.trouble is not None:
            self._broke(ProviderError(self._heard.trouble))
        else:
            self._end(self._reply(), "ok")

    def _left(self) -> None:
        """The caller, or the client when it had all it wanted, let go of the response."""
        if self._pulling:  # HTTPX itself, at the end of the body
            return
        if self._heard.finished or self._heard.trouble is not None:
            self._told_all()
        else:
            self._end(self._heard.reply() if self._heard.came else None, "cancelled")

    def _broke(self, error: BaseException) -> None:
        if not self._over:
            self._over = True
            self._run.fail(self._span, error, reply=self._heard.reply() if self._heard.came else None)

    def _end(self, reply: Reply | None, status: Any) -> None:  # noqa: ANN401 - a span's
        if not self._over:
            self._over = True
            self._run.end(self._span, reply=reply, status=status)

    def _reply(self) -> Reply | None:
        return self._heard.reply() if self._events is not None else read_body(b"".join(self._body))


def read_body(body: bytes) -> Reply | None:
    """The reply in a response's body; None for one that cannot be read, which is charged at its estimate."""
    try:
        return read_reply(json.loads(body))
    except ValueError:
        return None


_AROUND: dict[str, Callable[[Reading, Any], Any]] = {
    "iter_bytes": Reading.iter_bytes,
    "aiter_bytes": Reading.aiter_bytes,
    "close": Reading.close,
    "aclose": Reading.aclose,
}
