"""The callback handler: LangChain's and LangGraph's events as starts and ends of spans.

How a stop gets out: the handler raises in ``on_*_start``, before the body runs. That reaches the caller in every mode
only for a *synchronous* handler with ``raise_error`` (an async one is swallowed in sync calls) that runs *inline* (a
legacy LLM under `ainvoke` skips handlers that do not, as soon as another one does). Everything that swallows the
exception afterwards meets the latch: each later start raises it again, and so does the end of the outermost call.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from shearpin.adapter import announce, is_dict, raise_if_meant
from shearpin_integrations.langchain.answering import tool_status
from shearpin_integrations.langchain.carrying import carry_in
from shearpin_integrations.langchain.graphs import control_flow
from shearpin_integrations.langchain.reading import (
    called,
    model_call,
    read_cut,
    read_result,
    tool_arguments,
    tool_result,
)
from shearpin_integrations.langchain.recording import Recording
from shearpin_integrations.langchain.roots import meet_graph
from shearpin_integrations.langchain.tracking import Entry

if TYPE_CHECKING:
    GraphHandler = BaseCallbackHandler
else:
    try:  # in newer versions only a handler of this class hears of pauses that nobody raised, as before a node
        from langgraph.callbacks import GraphCallbackHandler as GraphHandler
    except ImportError:
        GraphHandler = BaseCallbackHandler


def _harmless(event: Callable[..., None], gate: str | None = None) -> Callable[..., None]:
    """A bug of ours in an event costs a record, never the agent: with `raise_error` it would break the call.

    Where the event lets a call in, `gate` is its kind: then the rules are asked without what could not be read.
    """

    @functools.wraps(event)
    def call(self: ShearpinCallbackHandler, *args: Any, **kwargs: Any) -> None:
        try:
            event(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - sorted out by the next line
            raise_if_meant(error, event.__name__)
            if gate is not None:
                name = args[0].get("name") if args and is_dict(args[0]) else None
                self.start_unread(gate, kwargs["run_id"], kwargs.get("parent_run_id"), name)

    return call


def _gate(kind: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return functools.partial(_harmless, gate=kind)


class ShearpinCallbackHandler(Recording, GraphHandler):
    """Enforce a guard's rules on everything called with this handler in ``config["callbacks"]``.

    One handler may serve any number of concurrent calls. The config's ``metadata`` may hold ``session_id`` (the
    ``thread_id`` by default), ``user_id``, ``tenant``, ``team``, ``organization``, ``task_type``, ``version``, ``env``.
    """

    raise_error = True
    run_inline = True

    # --- chains, graphs and their nodes ---------------------------------------------------------------------------

    @_gate("chain")
    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if run_id in self._tracker.entries:
            return
        facts = metadata or {}
        name = called(serialized, kwargs)
        parent = self._tracker.parent(parent_run_id)
        if parent is None:
            self.open(run_id, name, inputs, facts, tags, "run")
        elif facts.get("langgraph_node") == name != "__start__" and _is_step(tags):
            self.start_node(run_id, name, parent, inputs, facts)
        else:
            parent.root.run.check()
            meet_graph(parent.root)
            self._tracker.add(run_id, Entry(parent.root, parent.place, "inside", name, inputs))

    @_harmless
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        entry = self._tracker.remove(run_id)
        if entry is None:
            return
        if entry.role == "run":
            self.close(run_id, entry, outputs)
        elif entry.role == "span":
            self.end_node(entry, outputs)

    @_harmless
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        entry = self._tracker.remove(run_id)
        if entry is None:
            return
        if entry.role == "run":
            self.abort(run_id, entry.root, error)
        elif entry.role == "span":
            self.fail(entry, error)
            if control_flow(error) == "interrupt":
                self._tracker.paused(run_id, error)

    @_harmless
    def on_interrupt(self, event: Any) -> None:
        """A graph pauses; told by newer versions of LangGraph."""
        entry = self._tracker.entries.get(event.run_id)
        if entry is not None:
            entry.root.paused = True

    # --- models ---------------------------------------------------------------------------------------------------

    @_gate("llm")
    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._start_model(serialized, messages[0] if messages else [], run_id, parent_run_id, tags, metadata, kwargs)

    @_gate("llm")
    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        prompt = [{"role": "user", "content": text} for text in prompts]
        self._start_model(serialized, prompt, run_id, parent_run_id, tags, metadata, kwargs)

    @_harmless
    def on_llm_new_token(self, token: str, *, run_id: UUID, **kwargs: Any) -> None:
        entry = self._tracker.entries.get(run_id)
        if entry is not None:
            entry.root.run.first_token(entry.place.span)
            entry.pieces.append(str(token))
            entry.root.run.check()  # a stopped run pulls nothing more out of a stream

    @_harmless
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        entry = self._tracker.entries.get(run_id)
        reply = read_result(response)
        if entry is not None and reply is not None:  # an id that is asked for anew is a new call
            entry.root.started_calls.difference_update(call["id"] for call in reply.tool_calls)
        self.end_call(run_id, reply=reply)
        if entry is not None and entry.root.thread is not None:
            carry_in(response, entry.root.run)

    @_harmless
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        entry = self._tracker.entries.get(run_id)
        pieces = entry.pieces if entry is not None else []
        self.fail_call(run_id, error, reply=read_cut(kwargs.get("response"), pieces))

    # --- tools and retrievers -------------------------------------------------------------------------------------

    @_gate("tool")
    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        call_id = kwargs.get("tool_call_id")
        arguments = tool_arguments(inputs, input_str)
        name = called(serialized, kwargs)
        fields = {"input": arguments, "call_id": call_id}
        entry = self.start_call("tool", name, run_id, parent_run_id, tags, metadata, fields)
        if entry is not None and call_id is not None:
            entry.root.started_calls.add(call_id)

    @_harmless
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        entry = self._tracker.entries.get(run_id)
        call_id = getattr(entry.place.span, "call_id", None) if entry is not None else None
        self.end_call(run_id, output=tool_result(output, call_id), status=tool_status(output))

    @_harmless
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.fail_call(run_id, error)

    @_gate("retriever")
    def on_retriever_start(
        self,
        serialized: dict[str, Any],
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        fields = {"input": {"query": query}}
        self.start_call("retriever", called(serialized, kwargs), run_id, parent_run_id, tags, metadata, fields)

    @_harmless
    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **kwargs: Any) -> None:
        self.end_call(run_id, output=list(documents))

    @_harmless
    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.fail_call(run_id, error)

    def _start_model(
        self,
        serialized: dict[str, Any],
        messages: Sequence[Any],
        run_id: UUID,
        parent_run_id: UUID | None,
        tags: list[str] | None,
        metadata: dict[str, Any] | None,
        kwargs: Mapping[str, Any],
    ) -> None:
        fields = model_call(serialized, messages, metadata, kwargs)
        entry = self.start_call("llm", fields["request_model"], run_id, parent_run_id, tags, metadata, fields)
        if entry is not None:  # inline, so this is the context in which LangChain's model now calls its client
            announce(entry.root.run, entry.place.span)


def _is_step(tags: Sequence[str] | None) -> bool:
    return any(tag.startswith("graph:step:") for tag in tags or ())


class _Quiet(logging.Filter):
    """LangChain logs each exception of a handler as a warning; ours is the stop the user asked for."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(next(iter(record.args or ()), "")).startswith("Shearpin")


logging.getLogger("langchain_core.callbacks.manager").addFilter(_Quiet())
