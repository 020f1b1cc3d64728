"""`shearpin.attach` and `shearpin.install` for LangChain, and so for LangGraph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.tracers.context import register_configure_hook

from shearpin import Guard
from shearpin_integrations.langchain.handler import ShearpinCallbackHandler


def attach_to(
    agent: Any,
    guard: Guard,
    *,
    service: str | None = None,
    tags: Sequence[str] | str = (),
    metadata: Mapping[str, Any] | None = None,
    **identity: Any,
) -> Any:
    """A runnable that calls `agent` with the handler in every call's own config; None for anything else.

    Not ``with_config``: a graph of older LangGraph versions drops bound callbacks when the call brings its own.
    """
    runnable: Any = agent
    if not isinstance(agent, Runnable):
        return None
    handler = ShearpinCallbackHandler(guard)
    facts = {**(metadata or {}), "service": service, **identity}
    given = {key: value for key, value in facts.items() if value is not None}
    labels = [tags] if isinstance(tags, str) else list(tags)

    def add(config: RunnableConfig) -> RunnableConfig:
        told = {**given, **(config.get("metadata") or {})}
        return {"callbacks": _with(config.get("callbacks"), handler), "metadata": told, "tags": labels}

    return RunnableBinding[Any, Any](bound=runnable, config={}, config_factories=[add])


def install_everywhere(guard: Guard) -> None:
    """Put a handler into every callback manager of this process, raw threads included, for the process's life."""
    handler = ShearpinCallbackHandler(guard)
    # A value set here would be seen in this context only; the default is seen in every thread.
    register_configure_hook(ContextVar("shearpin_installed", default=handler), inheritable=True)


def _with(callbacks: Any, handler: ShearpinCallbackHandler) -> Any:
    """Only what is missing: the binding merges this into the callbacks there are."""
    present = callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks or []
    return [] if handler in present else [handler]
