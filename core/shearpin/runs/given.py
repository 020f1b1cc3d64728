"""What users hand in, as a trace keeps it: names, labels and limits.

An odd one is read as what it most likely means, rather than breaking the agent over a label.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any, cast

from shearpin.trace.plain import made_as
from shearpin.trace.usage import LARGEST


def text(value: object) -> str:
    """A name, whatever it was given as."""
    return str.__str__(value) if isinstance(value, str) else str(value)


def label(value: object) -> str | None:
    """A name that may be missing."""
    return None if value is None else text(value)


def labels(values: Iterable[object] | str | None) -> tuple[str, ...]:
    """Any number of names; a single one may come without a list around it."""
    if values is None:
        return ()
    if isinstance(values, str) or not isinstance(values, Iterable):
        return (text(values),)
    return tuple(map(text, values))


def facts(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The user's own facts, by name. Raises TypeError for what has no names."""
    try:
        return {text(key): value for key, value in dict(metadata or {}).items()}
    except (TypeError, ValueError):
        raise TypeError(f"metadata={metadata!r}: must be a mapping from names") from None


def model_name(value: object) -> str:
    """The name of a model: what its calls are priced by. Raises TypeError where there is none."""
    if not value:
        raise TypeError(f"model={value!r}: a model call needs the name of its model")
    return text(value)


def asked_limit(value: object) -> int | None:
    """``max_tokens`` as a user gives it. Raises TypeError for what is no number."""
    if value is not None and not hasattr(type(value), "__index__") and not made_as(value, float):
        raise TypeError(f"max_tokens={value!r}: must be a number of tokens, or None")
    return token_limit(value)


def token_limit(value: object) -> int | None:
    """``max_tokens`` as a limit. What is not above zero, not finite, a bool or no number is none: some write -1."""
    if value is None or value is True or value is False:
        return None
    try:
        limit = math.ceil(value) if made_as(value, float) else operator.index(cast("int", value))
    except Exception:  # noqa: BLE001 - no number, not a number, infinite, or code of its own
        return None
    return min(limit, LARGEST) if limit > 0 else None
