"""How a call or a run went, told from the error that left it."""

from __future__ import annotations

import asyncio

from shearpin.errors import RunStoppedError
from shearpin.trace.spans import SpanStatus

_OK = range(200, 300)


def status_of(error: BaseException | None) -> SpanStatus:
    """What the trace says of something that `error` left."""
    if error is None:
        return "ok"
    if isinstance(error, RunStoppedError):
        return "stopped"
    return "cancelled" if interrupted(error) else "error"


def interrupted(error: BaseException) -> bool:
    """Did the caller give up, rather than the code fail? Then what was sent may have been served all the same."""
    return isinstance(error, asyncio.CancelledError) or not isinstance(error, Exception)


def http_status(error: BaseException) -> int | None:
    """The status of the answer that made a request fail."""
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def provider_answered(error: BaseException) -> bool:
    """A client that chokes on a good answer has still been billed for it."""
    return getattr(error, "completion", None) is not None or http_status(error) in _OK
