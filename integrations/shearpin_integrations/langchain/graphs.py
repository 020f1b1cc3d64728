"""What LangGraph adds to LangChain's events, told by its objects' shapes: it is not imported before its user does."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeGuard

from shearpin.adapter import is_dict, is_list, register_pass_through


def _errors() -> Any:
    return sys.modules.get("langgraph.errors")


def know_langgraph() -> None:
    """Once LangGraph is there, a stop is also its pass-through exception: its retries and handlers let that by."""
    if (errors := _errors()) is not None:
        register_pass_through(errors.GraphBubbleUp)


def control_flow(error: BaseException) -> str | None:
    errors = _errors()
    if errors is None or not isinstance(error, errors.GraphBubbleUp):
        return None
    if isinstance(error, errors.GraphInterrupt):
        return "interrupt"
    return "command" if isinstance(error, errors.ParentCommand) else None


def takers(error: BaseException) -> str:
    """Whom a command to the parent graph hands over to: a name, a `Send`, or several; nobody if it only updates."""
    goto: Any = getattr(error.args[0], "goto", None) or []
    several: list[Any] = goto if is_list(goto) else [goto]
    return ", ".join(str(getattr(taker, "node", taker)) for taker in several)


def is_command(value: object) -> TypeGuard[Any]:
    """A `Command`, told by its class: a state may have fields of the same names, and a mock has every one."""
    types = sys.modules.get("langgraph.types")
    return types is not None and issubclass(type(value), types.Command)


def answers_pause(inputs: object) -> bool:
    """Is this input the answer to a pause?"""
    return is_command(inputs) and inputs.resume is not None


def goes_on(inputs: object) -> bool:
    """Does a graph with this input go on with what its thread has come to?"""
    return inputs is None or answers_pause(inputs)


def is_sent(metadata: Mapping[str, Any]) -> bool:
    """Did a `Send` start this node? Then its input is no state of the graph."""
    return bool((metadata.get("langgraph_path") or ("",))[0] == "__pregel_push")


def checkpoint_of(metadata: Mapping[str, Any], config: Any = None) -> str | None:
    """The checkpoint that the starting node was called from; None where the graph saves none.

    LangGraph tells callbacks the thread but not the checkpoint (``metadata["checkpoint_id"]`` is the one a user asked
    to go on from, for every node after it). It is in the node's config.
    """
    given: dict[str, Any] = config or {}
    known: Any = given.get("configurable") or _configurable_with("checkpoint_map")
    if known.get("__pregel_checkpointer") is None:
        return None
    checkpoints: Any = known.get("checkpoint_map") or {}
    found: str | None = checkpoints.get(str(metadata.get("langgraph_checkpoint_ns") or "").rpartition("|")[0])
    return found


@dataclass(slots=True)
class GraphCall:
    """A call of a graph that begins. ``awaited`` tells that it runs on an event loop."""

    graph: Any
    config: Mapping[str, Any]
    awaited: bool
    has_breakpoints: bool


_TELLING = ("langchain_core.callbacks", "shearpin_integrations.")


def call_of_graph() -> GraphCall | None:
    """The call of a graph that a handler is told of right now: the local variables of whoever tells it."""
    pregel = sys.modules.get("langgraph.pregel")
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_TELLING):
        frame = frame.f_back
    known: Mapping[str, Any] = frame.f_locals if frame is not None else {}
    graph: Any = known.get("self")
    config: object = known.get("config")
    if frame is None or pregel is None or not isinstance(graph, pregel.Pregel) or not is_dict(config):
        return None
    pauses = known.get("interrupt_before"), known.get("interrupt_after")
    has_breakpoints = bool(any(pauses) or graph.interrupt_before_nodes or graph.interrupt_after_nodes)
    return GraphCall(graph, config, bool(frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR), has_breakpoints)


def with_own_thread(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """LangGraph before 1.2.3 notes its first thread in the metadata bound to a graph, and tells that ever after."""
    own = _configurable_with("thread_id").get("thread_id") if "thread_id" in metadata else None
    return {**metadata, "thread_id": own} if own else metadata


def _configurable_with(key: str) -> Mapping[str, Any]:
    """The ``configurable`` of the config of whoever calls back: a local variable of it, which no public hook has."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        config: object = frame.f_locals.get("config")
        known: object = config.get("configurable") if is_dict(config) else None
        if is_dict(known) and key in known:
            return known
        frame = frame.f_back
    return {}
