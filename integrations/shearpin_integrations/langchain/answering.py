"""Tool calls that were answered without a start.

A tool that the model made up, or in whose place a middleware or a node answers, was called as far as the model can
tell. But where the agent's own loop answers, nothing was: it rejects a call for a person, or it takes a call for the
structured answer that it had asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import ToolMessage

from shearpin_integrations.langchain.reading import answered_calls, is_a
from shearpin_integrations.langchain.tracking import Entry

_HOOKS = (".before_agent", ".before_model", ".after_model", ".after_agent")


def is_hook(node: str) -> bool:
    """Is this node one of a middleware's hooks?"""
    return node.endswith(_HOOKS)


def answers_itself(node: str, metadata: Mapping[str, Any]) -> bool:
    """Is this a node of LangChain's agent loop in which no tools are called?"""
    return is_hook(node) or (node == "model" and metadata.get("ls_integration") == "langchain_create_agent")


def note_answers(entry: Entry, outputs: Any, *, made: bool | None = None) -> None:
    """Note the calls that are answered in a node's update and did not start; may raise the stop.

    Where it is not said whether they were made, the node tells.
    """
    started, run = entry.root.started_calls, entry.root.run
    for message in answered_calls(outputs):
        call_id, status = message.tool_call_id, tool_status(message)
        call = run.asked(call_id) if call_id not in started else None
        if call is None:
            continue
        started.add(call_id)
        fields: dict[str, Any] = {"parent": entry.place.span, "input": call["arguments"], "call_id": call_id}
        if entry.answers_itself if made is None else not made:
            run.unmade(str(call["name"]), output=message.content, status=status, **fields)
        else:
            run.end(run.start("tool", str(call["name"]), **fields), output=message.content, status=status)


def tool_status(output: object) -> Any:
    """How a tool says that it went."""
    return "error" if is_a(output, ToolMessage) and output.status == "error" else "ok"
