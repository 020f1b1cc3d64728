"""`shearpin.attach` for LangGraph: LangChain's, which a compiled graph is one of."""

from __future__ import annotations

from typing import Any

from langgraph.graph import StateGraph

from shearpin import Guard
from shearpin_integrations.langchain import attaching


def attach_to(agent: Any, guard: Guard, **options: Any) -> Any:
    """A runnable that calls the graph under `guard`; a TypeError for one that is not compiled yet."""
    if isinstance(agent, StateGraph):
        raise TypeError("attach takes a compiled graph, not its builder: attach(builder.compile(), ...)")
    return attaching.attach_to(agent, guard, **options)
