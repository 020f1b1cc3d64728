"""Putting a guard on a framework's object in one line.

An integration is a package named by an entry point, which is called after the package it integrates. Its module
``attaching`` has ``attach_to(agent, guard, *, service, **identity)``, which returns None for what it does not know, and
may have ``install_everywhere(guard)``.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, TypeVar

from shearpin.errors import EnforcementGapWarning
from shearpin.guards import Guard
from shearpin.importing import when_imported
from shearpin.rules.protocol import Rule
from shearpin.runs.wrapping import name_of, wrap

Agent = TypeVar("Agent")

GROUP = "shearpin.integrations"

_IDENTITY = tuple(name for name in inspect.signature(Guard.run).parameters if name not in ("self", "name", "input"))


def attach(agent: Agent, *rules: Rule | Guard, service: str | None = None, **identity: Any) -> Agent:
    """`agent` under these rules, or under a guard you have: use what is returned in its place.

    `agent` is a LangChain runnable, a LangGraph graph, a crew, a flow or an agent of CrewAI, an agent of the OpenAI
    Agents SDK, or a plain function. ``service`` names its runs; ``identity`` is what `Guard.run` takes (``session_id``,
    ``user_id``, ``env``, ...).

    Raises:
        TypeError: no integration knows such an object, there is no rule, or an option is unknown.
        MissingIntegrationError: an integration knows it, but the framework's package is absent or too old.
    """
    if not rules:
        raise TypeError("attach needs a rule or a guard: attach(agent, Budget(usd=0.50))")
    unknown = ", ".join(repr(name) for name in identity if name not in _IDENTITY)
    if unknown:
        raise TypeError(f"attach has no option {unknown}; it has 'service', {', '.join(map(repr, _IDENTITY))}")
    pin = rules[0] if len(rules) == 1 and isinstance(rules[0], Guard) else Guard(*rules)  # type: ignore[arg-type]
    for integration in _integrations_for(agent):
        attached = integration.attach_to(agent, pin, service=service, **identity)
        if attached is not None:
            return attached  # type: ignore[no-any-return]
    if callable(agent):
        name = service or name_of(agent)
        return wrap(agent, lambda arguments: pin.run(name, input=arguments, **identity))
    raise TypeError(
        f"attach: no installed integration knows {type(agent).__module__}.{type(agent).__qualname__}; "
        "it takes an agent, a graph or a runnable of a framework, or a function"
    )


def install(pin: Guard) -> None:
    """Put every framework under `pin`, imported by now or later, for the life of the process, with no code changed.

    It reaches calls that no handler was passed to. What a thread calls that the program started itself is reached too,
    but as runs of their own, each with its own budget: nothing ties such a thread to the run that started it unless
    it was started with ``contextvars.copy_context().run``.

    Raises TypeError for anything but a guard.
    """
    given: object = pin
    if not isinstance(given, Guard):
        raise TypeError(f"install takes a guard: install(Guard(Budget(usd=0.50))), not {given!r}")
    for entry in entry_points(group=GROUP):
        when_imported(entry.name, partial(_install, entry.name, entry.value, pin))


def _install(framework: str, package: str, pin: Guard) -> None:
    try:
        integration = import_module(f"{package}.attaching")
        if hasattr(integration, "install_everywhere"):
            integration.install_everywhere(pin)
    except ImportError as error:  # not in the middle of the user's own import
        warnings.warn(f"{framework} is not under guard: {error}", EnforcementGapWarning, stacklevel=2)


def _integrations_for(agent: object) -> Iterator[ModuleType]:
    """The integrations whose framework `agent` comes from, nearest class first; no other is even imported."""
    entries = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    families = dict.fromkeys(base.__module__.partition(".")[0] for base in type(agent).__mro__)
    for family in families:
        if family in entries:
            yield import_module(f"{entries[family]}.attaching")
