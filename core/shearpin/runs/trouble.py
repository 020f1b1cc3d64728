"""Exceptions as data, and exceptions that must not reach the agent."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable

from shearpin.errors import EnforcementGapWarning, RunStoppedError, ShearpinError, ToldError, passes_through
from shearpin.trace import SpanError

logger = logging.getLogger("shearpin")

STRICT = os.environ.get("SHEARPIN_STRICT") == "1"
"""Set by our own tests: an internal bug is raised. For users it is logged, and the agent goes on."""

_MESSAGE = 10_000


def quietly(action: Callable[..., object], *arguments: object) -> None:
    """Run an exporter's or a callback's code: what it raises is logged, never raised into the agent."""
    try:
        action(*arguments)
    except Exception:
        if STRICT:
            raise
        logger.warning("ignored an error outside the agent", exc_info=True)


def raise_if_meant(error: Exception, where: str) -> None:
    """What came out of an adapter's own code in `where`: raise it if it was meant to get out.

    That is a stop, a denial, the framework's own way to pause, or a warning the user made an error. Anything else is
    a bug of ours: it costs a record, never the agent.
    """
    if STRICT or isinstance(error, ShearpinError | ToldError | EnforcementGapWarning) or passes_through(error):
        raise error
    logger.warning("an error in Shearpin's %s was ignored: this call is not recorded", where, exc_info=error)


def describe_error(error: BaseException) -> SpanError:
    """An exception as the trace keeps it; its own text may be hostile or broken."""
    try:
        message = str(error)[:_MESSAGE]
    except Exception:  # noqa: BLE001 - a broken __str__ must not break the agent
        message = "<no message: its __str__ failed>"
    return SpanError(type(error).__name__, message, _traceback(error))


def _traceback(error: BaseException) -> str:
    try:
        if isinstance(error, RunStoppedError):  # raised by us: where from says nothing
            return ""
        return "".join(traceback.format_exception(error, limit=-20, chain=False))
    except Exception:  # noqa: BLE001 - formatting calls the error's own code
        return ""
