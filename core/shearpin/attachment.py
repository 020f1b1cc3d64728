"""Putting a guard on a framework's object in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any, TypeVar

from shearpin.guards import Guard, guard
from shearpin.rules.protocol import Rule

Agent = TypeVar("Agent")

GROUP = "shearpin.integrations"


def attach(agent: Agent, *rules: Rule | Guard, service: str | None = None, **identity: Any) -> Agent:
    """`agent` under these rules, or under a guard you have: use what is returned in its place.

    `agent` is a LangChain runnable, a LangGraph graph, or a plain function. ``service`` names its runs; ``identity``
    is what `Guard.run` takes (``session_id``, ``user_id``, ``env``, ...).

    Raises:
        TypeError: no integration knows such an object.
        MissingIntegrationError: one does, but the framework's package is absent or too old.
    """
    pin = rules[0] if len(rules) == 1 and isinstance(rules[0], Guard) else Guard(*rules)  # type: ignore[arg-type]
    for integration in _integrations_for(agent):
        attached = integration(agent, pin, service=service, **identity)
        if attached is not None:
            return attached  # type: ignore[no-any-return]
    if callable(agent):
        return guard(pin)(agent)
    raise TypeError(f"attach: no installed integration knows {type(agent).__module__}.{type(agent).__qualname__}")


def install(pin: Guard) -> None:
    """Put every framework of this environment under `pin`, for the life of the process, with no code changed.

    It reaches calls that no handler was passed to, and raw threads. LangChain and LangGraph so far.
    """
    for entry in entry_points(group=GROUP):
        if find_spec(entry.name) is not None:
            integration = import_module(entry.value)
            if hasattr(integration, "install"):
                integration.install(pin)


def _integrations_for(agent: object) -> Iterator[Callable[..., Any]]:
    """The integrations whose framework `agent` comes from, nearest class first; no other is even imported.

    An entry point is named after the package it integrates.
    """
    entries = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    families = dict.fromkeys(base.__module__.partition(".")[0] for base in type(agent).__mro__)
    for family in families:
        if family in entries:
            yield import_module(entries[family]).attach
