"""What users hand in, as a trace keeps it: names, labels, prompts and limits.

An odd one is read as what it most likely means, rather than breaking the agent over a label.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

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


def model_name(value: object) -> str:
    """The name of a model: what its calls are priced by. Raises TypeError where there is none."""
    if not value:
        raise TypeError(f"model={value!r}: a model call needs the name of its model")
    return text(value)


def token_limit(value: object) -> int | None:
    """``max_tokens`` as a limit. What is not above zero, or not finite, or a bool, is none: some servers write -1.

    Raises TypeError for what is no number.
    """
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, float):
        value = math.ceil(value) if math.isfinite(value) else 0
    try:
        limit = operator.index(cast("int", value))
    except TypeError:
        raise TypeError(f"max_tokens={value!r}: must be a number of tokens, or None") from None
    return min(limit, LARGEST) if limit > 0 else None


def messages(prompt: Sequence[Any] | str | None) -> Sequence[Any]:
    """A prompt as the list of its messages: a text is the user's, any other object that is no list is one message."""
    if prompt is None:
        return ()
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return prompt if isinstance(prompt, Sequence) else [prompt]


def asked(arguments: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What a decorated function asks its model; an argument that means something else by its name is passed over."""
    named, tools = arguments.get("model"), arguments.get("tools")
    limit = None
    with suppress(TypeError):
        limit = token_limit(arguments.get("max_tokens"))
    return {
        "model": named if named and isinstance(named, str) else model,
        "messages": messages(arguments.get("messages")) or messages(arguments.get("prompt")),
        "max_tokens": limit,
        "tools": tools if isinstance(tools, list | tuple) else (),
    }
