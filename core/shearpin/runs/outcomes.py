"""How a call or a run went, told from the error that left it."""

from __future__ import annotations

import asyncio

from shearpin.errors import RunStoppedError
from shearpin.trace.plain import made_as
from shearpin.trace.spans import SpanStatus
from shearpin.trace.usage import field_of

_OK = range(200, 300)


def status_of(error: BaseException | None) -> SpanStatus:
    """What the trace says of something that `error` left."""
    if error is None:
        return "ok"
    if made_as(error, RunStoppedError):
        return "stopped"
    return "cancelled" if interrupted(error) else "error"


def interrupted(error: BaseException) -> bool:
    """Did the caller give up, rather than the code fail? Then what was sent may have been served all the same."""
    return made_as(error, asyncio.CancelledError) or not made_as(error, Exception)


def http_status(error: BaseException) -> int | None:
    """The status of the answer that made a request fail. Never raises."""
    told = (field_of(source, "status_code") for source in (field_of(error, "response"), error))
    return next((int.__index__(status) for status in told if made_as(status, int)), None)


def provider_answered(error: BaseException) -> bool:
    """A client that chokes on a good answer has still been billed for it. Never raises."""
    return field_of(error, "completion") is not None or http_status(error) in _OK
