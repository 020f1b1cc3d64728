"""The callback handler: LangChain's and LangGraph's events as starts and ends of spans.

How a stop gets out: the handler raises in ``on_*_start``, before the body runs. That reaches the caller in every mode
only for a *synchronous* handler with ``raise_error`` (an async one is swallowed in sync calls) that runs *inline* (a
legacy LLM under `ainvoke` skips handlers that do not, as soon as another one does). Everything that swallows the
exception afterwards meets the latch: each later start raises it again, and so does the end of the outermost call.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from shearpin import EnforcementGapWarning, Guard, RunStoppedError
from shearpin.adapter import HOOK, Place, is_dict, raise_if_meant
from shearpin_integrations.langchain.carrying import carried_in, carry_in
from shearpin_integrations.langchain.graphs import checkpoint_of, control_flow, takers
from shearpin_integrations.langchain.mending import mended
from shearpin_integrations.langchain.reading import (
    advanced,
    answered_calls,
    holds_answer,
    read_cut,
    read_result,
    tool_arguments,
    tool_result,
    update_of,
)
from shearpin_integrations.langchain.roots import close_root, open_root
from shearpin_integrations.langchain.tracking import (
    Entry,
    Role,
    Root,
    end_elsewhere,
    take_admission,
    tracker_of,
)

_HOOKS = (".before_agent", ".before_model", ".after_model", ".after_agent")

UNSEEN = (
    "{}: an answer came but none of its calls reached Shearpin, so nothing was enforced; pass the handler as "
    "config={{'callbacks': [handler]}}, where calls below inherit it"
)

if TYPE_CHECKING:
    _Handler = BaseCallbackHandler
else:
    try:  # in newer versions only a handler of this class hears of pauses that nobody raised, as before a node
        from langgraph.callbacks import GraphCallbackHandler as _Handler
    except ImportError:
        _Handler = BaseCallbackHandler


def _harmless(event: Callable[..., None]) -> Callable[..., None]:
    """A bug of ours in an event costs a record, never the agent: with `raise_error` it would break the call."""

    @functools.wraps(event)
    def call(self: ShearpinCallbackHandler, *args: Any, **kwargs: Any) -> None:
        try:
            event(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - sorted out by the next line
            raise_if_meant(error, event.__name__)

    return call


class ShearpinCallbackHandler(_Handler):
    """Enforce a guard's rules on everything called with this handler in ``config["callbacks"]``.

    One handler may serve any number of concurrent calls. The config's ``metadata`` may hold ``session_id`` (the
    ``thread_id`` by default), ``user_id``, ``tenant``, ``team``, ``organization``, ``task_type``, ``version``, ``env``.
    """

    raise_error = True
    run_inline = True

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self._tracker = tracker_of(guard)

    # --- chains, graphs and their nodes ---------------------------------------------------------------------------

    @_harmless
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
        name = _name(serialized, kwargs)
        parent = self._tracker.parent(parent_run_id)
        if parent is None:
            self._open(run_id, name, inputs, facts, tags, role="run")
        elif facts.get("langgraph_node") == name != "__start__" and any(
            tag.startswith("graph:step:") for tag in tags or ()
        ):
            self._start_node(run_id, name, parent, inputs, facts)
        else:
            parent.root.run.check()
            self._tracker.add(run_id, Entry(parent.root, parent.place, "inside", name, inputs))

    @_harmless
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        entry = self._tracker.remove(run_id)
        if entry is None:
            return
        if entry.role == "run":
            self._close(run_id, entry, outputs)
        elif entry.role == "span":
            self.record_unstarted(entry, outputs)
            update = update_of(outputs)
            entry.root.run.end(entry.place.span, output=update)
            entry.root.run.reached(advanced(entry.root.run.partial, update))

    @_harmless
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        entry = self._tracker.remove(run_id)
        if entry is None:
            return
        if entry.role == "run":
            self._end(run_id, entry.root, error)
        elif entry.role == "span":
            self.fail(entry, error)

    @_harmless
    def on_interrupt(self, event: Any) -> None:
        """A graph pauses; told by newer versions of LangGraph."""
        entry = self._tracker.entries.get(event.run_id)
        if entry is not None:
            entry.root.paused = True

    # --- models ---------------------------------------------------------------------------------------------------

    @_harmless
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

    @_harmless
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
        self._end_call(run_id, reply=reply)
        if entry is not None and entry.root.thread is not None:
            carry_in(response, entry.root.run)

    @_harmless
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        entry = self._tracker.entries.get(run_id)
        pieces = entry.pieces if entry is not None else []
        self._fail_call(run_id, error, reply=read_cut(kwargs.get("response"), pieces))

    # --- tools and retrievers -------------------------------------------------------------------------------------

    @_harmless
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
        name = _name(serialized, kwargs)
        entry = self._start_call("tool", name, run_id, parent_run_id, tags, metadata, input=arguments, call_id=call_id)
        if entry is not None and call_id is not None:
            entry.root.started_calls.add(call_id)

    @_harmless
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._end_call(run_id, output=tool_result(output), status=_tool_status(output))

    @_harmless
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._fail_call(run_id, error)

    @_harmless
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
        self._start_call(
            "retriever", _name(serialized, kwargs), run_id, parent_run_id, tags, metadata, input={"query": query}
        )

    @_harmless
    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **kwargs: Any) -> None:
        self._end_call(run_id, output=list(documents))

    @_harmless
    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._fail_call(run_id, error)

    # --- inside: runs ---------------------------------------------------------------------------------------------

    def _open(
        self,
        run_id: UUID,
        name: str,
        inputs: Any,
        metadata: Mapping[str, Any],
        tags: Sequence[str] | None,
        role: Role,
    ) -> Entry:
        root = open_root(self.guard, name, inputs, metadata, tags)
        entry = Entry(root, Place(root.run, root.run.span), role, name, inputs)
        self._tracker.begin(run_id, entry)
        return entry

    def _close(self, run_id: UUID, entry: Entry, outputs: Any) -> None:
        root = entry.root
        self._tracker.close(root)
        unseen = entry.role == "run" and not root.children and holds_answer(outputs)
        if unseen:
            root.run.gap(UNSEEN.format(root.run.name))
        with self._telling_others(run_id):
            close_root(self._tracker, root, outputs)
        if unseen:  # last: a user may have made warnings errors
            warnings.warn(UNSEEN.format(root.run.name), EnforcementGapWarning, stacklevel=2)

    def _end(self, run_id: UUID, root: Root, error: BaseException) -> None:
        self._tracker.close(root)
        with self._telling_others(run_id):
            root.run.close(error)

    @contextlib.contextmanager
    def _telling_others(self, run_id: UUID) -> Generator[None]:
        try:
            yield
        except RunStoppedError as stop:
            end_elsewhere(run_id, self._tracker, stop)
            raise

    # --- inside: spans --------------------------------------------------------------------------------------------

    def _start_node(self, run_id: UUID, name: str, parent: Entry, inputs: Any, metadata: Mapping[str, Any]) -> None:
        root = parent.root
        root.children += 1
        if parent.role == "inside":  # only now it shows that this chain is a graph of its own
            self._promote(parent)
        sent = (metadata.get("langgraph_path") or ("",))[0] == "__pregel_push"  # its input is no state of the graph
        if not sent:
            if is_dict(inputs):
                self._look_back(root, inputs)
            root.run.reached(inputs)
        span = root.run.start(
            "node",
            name,
            parent=parent.place.span,
            input=inputs,
            thread_id=root.thread,
            checkpoint_id=checkpoint_of(metadata) if root.thread is not None else None,
            attributes={HOOK: True} if name.endswith(_HOOKS) else {},
        )
        self._tracker.add(run_id, Entry(root, Place(root.run, span), "span", name))

    def _look_back(self, root: Root, state: dict[str, Any]) -> None:
        """What earlier runs of this thread have left in its messages concerns the first node, and torn threads all."""
        if root.resuming and (carried := carried_in(state.get("messages") or ())) is not None:
            root.resuming = False  # paused in another process: there is no run in memory to go on with
            root.run.continue_from(carried)
        if root.torn is not False:
            root.torn = _mend(state)

    def _promote(self, entry: Entry) -> None:
        run = entry.root.run
        span = run.start("agent", entry.name, parent=entry.place.span, input=entry.inputs)
        entry.place, entry.role, entry.inputs = Place(run, span), "span", None

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
        facts: Mapping[str, Any] = metadata or {}
        params: Mapping[str, Any] = kwargs.get("invocation_params") or {}
        # Not params["model_name"]: a model chosen per call leaves the old name there.
        model = facts.get("ls_model_name") or params.get("model") or _name(serialized, kwargs)
        self._start_call(
            "llm",
            str(model),
            run_id,
            parent_run_id,
            tags,
            metadata,
            messages=messages,
            tools=params.get("tools") or params.get("functions") or (),
            provider=facts.get("ls_provider"),
            request_model=str(model),
            temperature=facts.get("ls_temperature"),
            max_tokens=facts.get("ls_max_tokens"),
            seed=params.get("seed"),
        )

    def _start_call(
        self,
        kind: str,
        name: str,
        run_id: UUID,
        parent_run_id: UUID | None,
        tags: list[str] | None,
        metadata: dict[str, Any] | None,
        **fields: Any,
    ) -> Entry | None:
        if run_id in self._tracker.entries:
            return None
        parent = self._tracker.parent(parent_run_id)
        role: Literal["call", "span"] = "span" if parent else "call"
        if parent is None:  # called by itself: a run of one call
            asked = fields.get("input", fields.get("messages"))
            parent = self._open(run_id, name, asked, metadata or {}, tags, role)
        root = parent.root
        root.children += 1
        try:
            span = take_admission(root.run, fields) if kind == "llm" else None
            span = span or root.run.start(kind, name, parent=parent.place.span, **fields)
        except BaseException as stop:
            if role == "call":  # nobody tells the end of a call that never started
                self._tracker.close(root)
                root.run.close(stop)
            if isinstance(stop, RunStoppedError):
                end_elsewhere(run_id, self._tracker, stop)
            raise
        entry = Entry(root, Place(root.run, span), role, name)
        self._tracker.add(run_id, entry)
        return entry

    def _end_call(self, run_id: UUID, **fields: Any) -> None:
        entry = self._tracker.remove(run_id)
        if entry is not None:
            entry.root.run.end(entry.place.span, **fields)
            if entry.role == "call":
                self._close(run_id, entry, entry.place.span.output)

    def _fail_call(self, run_id: UUID, error: BaseException, **fields: Any) -> None:
        entry = self._tracker.remove(run_id)
        if entry is not None:
            self.fail(entry, error, **fields)
            if entry.role == "call":
                self._end(run_id, entry.root, error)

    def fail(self, entry: Entry, error: BaseException, **fields: Any) -> None:
        """An action raised; LangGraph's own control flow is no failure."""
        run, span = entry.root.run, entry.place.span
        flow = control_flow(error)
        if flow == "interrupt":
            entry.root.paused = True
            run.fail(span, error, status="paused", **fields)
        elif flow == "command":
            try:
                if span.kind == "agent" and (named := takers(error)):
                    run.handoff(span.name, named, parent=span)
            finally:
                run.end(span, **fields)
        else:
            run.fail(span, error, **fields)

    def record_unstarted(self, entry: Entry, outputs: Any) -> None:
        """Calls that were answered without a start: of unknown tools, or by a middleware in the tool's place."""
        root = entry.root
        for message in answered_calls(outputs):
            if message.tool_call_id in root.started_calls:
                continue
            call = root.run.asked(message.tool_call_id)
            if call is None:
                continue
            root.started_calls.add(message.tool_call_id)
            span = root.run.start(
                "tool",
                str(call["name"]),
                parent=entry.place.span,
                input=call["arguments"],
                call_id=message.tool_call_id,
            )
            root.run.end(span, output=message.content, status=_tool_status(message))


def _mend(state: dict[str, Any]) -> bool:
    """Answer calls that an earlier stop left open. `state` is this node's own copy; the checkpoint stays as it is."""
    whole = mended(state.get("messages") or ())
    if whole is not None:
        state["messages"] = whole
    return whole is not None


def _name(serialized: Mapping[str, Any] | None, kwargs: Mapping[str, Any]) -> str:
    facts = serialized or {}
    return str(kwargs.get("name") or facts.get("name") or (facts.get("id") or ["run"])[-1])


def _tool_status(output: object) -> Any:
    return "error" if getattr(output, "status", None) == "error" else "ok"


class _Quiet(logging.Filter):
    """LangChain logs each exception of a handler as a warning; ours is the stop the user asked for."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "ShearpinCallbackHandler" not in record.getMessage()


logging.getLogger("langchain_core.callbacks.manager").addFilter(_Quiet())
