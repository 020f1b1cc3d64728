"""Denials and approvals in LangGraph's own ways: a tool message for the model, and an interrupt for a person.

A node that is interrupted runs again from its start when it is resumed. So the calls of one node are asked about
together, before the body of any of them has begun: what was approved, and what needed no approval, then runs once.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tools import ToolException

from shearpin.adapter import ApprovalRequest, ToldError, is_dict, is_list
from shearpin_integrations.langchain.tracking import Entry

Native: TypeAlias = Callable[[ApprovalRequest], object]

_lock = threading.Lock()


def native_answer(entry: Entry, call: Mapping[str, Any]) -> Native | None:
    """How LangGraph asks about `call`, a tool call in the node `entry`; None where it cannot. Raises its interrupt."""
    interrupt = _interrupt()
    if interrupt is None:
        return None
    with _lock:  # parallel tools of a node wait for the one that asks
        if entry.answers is None:
            requests = entry.root.run.questions(entry.calls or [call], parent=entry.place.span)
            entry.answers = _spread(interrupt(_payload(requests)), requests) if requests else {}
    answers = entry.answers

    def answer(request: ApprovalRequest) -> object:
        return answers.get(request.call_id)

    return answer


def _interrupt() -> Any:
    """LangGraph's `interrupt` where one can be resumed: in a node of a graph that saves checkpoints."""
    types = sys.modules.get("langgraph.types")
    configurable = (var_child_runnable_config.get() or {}).get("configurable") or {}
    resumable = configurable.get("__pregel_checkpointer") and configurable.get("__pregel_scratchpad")
    return types.interrupt if types is not None and resumable else None


def _payload(requests: Sequence[ApprovalRequest]) -> dict[str, Any]:
    if len(requests) == 1:
        return requests[0].as_dict()
    return {"type": "approval", "requests": [request.as_dict() for request in requests]}


def _spread(answer: Any, requests: Sequence[ApprovalRequest]) -> dict[str | None, object]:
    """One answer for all, one for each in their order, or answers by call id; whoever is left out is not approved."""
    ids = [request.call_id for request in requests]
    given: Any = answer.get("decisions", answer) if is_dict(answer) else answer
    if is_list(given) and len(requests) > 1:
        return dict(zip(ids, given, strict=False))
    if is_dict(given) and any(call_id in given for call_id in ids):
        by_id: dict[Any, object] = given
        return {call_id: by_id.get(call_id) for call_id in ids}
    return dict.fromkeys(ids, given)


class DeniedCallError(ToldError, ToolException):
    """A denial that the model is told of. In LangGraph it is also what `ToolNode` tells the model of by default."""

    def __init__(self, told: ToldError, tool: str) -> None:
        super().__init__(told.denial, tool)
        self.message = told.text


def denied(told: ToldError, tool: str) -> Exception:
    """`told` as the exception that LangGraph's `ToolNode` answers the model with, as it does for bad arguments."""
    nodes = sys.modules.get("langgraph.prebuilt.tool_node")
    base: type[Exception] | None = getattr(nodes, "ToolInvocationError", None)
    kind = DeniedCallError if base is None else _mixed(base)
    return kind(told, tool)


def _mixed(base: type[Exception]) -> type[DeniedCallError]:
    return _kinds.setdefault(base, type("DeniedCallError", (DeniedCallError, base), {}))


_kinds: dict[type[Exception], type[DeniedCallError]] = {}
