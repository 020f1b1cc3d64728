"""What the handler's events come to: the runs and spans of one guard."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Generator, Mapping, Sequence
from typing import Any
from uuid import UUID

from shearpin import EnforcementGapWarning, Guard, RunStoppedError, Span
from shearpin.adapter import HOOK, Place, ToldError
from shearpin_integrations.langchain.answering import answers_itself, is_hook, note_answers
from shearpin_integrations.langchain.approving import denied, native_answer
from shearpin_integrations.langchain.graphs import checkpoint_of, control_flow, is_sent, takers
from shearpin_integrations.langchain.keeping import keeper_here
from shearpin_integrations.langchain.mending import mend
from shearpin_integrations.langchain.reading import (
    advanced,
    holds_answer,
    messages_in,
    pending_calls,
    update_of,
)
from shearpin_integrations.langchain.roots import close_root, count_on, open_root
from shearpin_integrations.langchain.tracking import (
    Entry,
    Role,
    Root,
    end_elsewhere,
    guard_for,
    tracker_of,
)

UNSEEN = (
    "{}: an answer came but none of its calls reached Shearpin, so nothing was enforced; pass the handler as "
    "config={{'callbacks': [handler]}}, where calls below inherit it"
)
ALONE = (
    "{}: Shearpin's handler is given to this {} itself, so each of its calls is a run of its own and nothing adds up; "
    "pass the handler to the agent's or the chain's call: config={{'callbacks': [handler]}}"
)
LOST = (
    "{}: called in a thread that does not say which run it belongs to, while runs of this guard are live, and counted "
    "in a run of its own; if it belongs to one of them, start the thread with contextvars.copy_context().run"
)
_UNREAD = "unread"


class Recording:
    """The runs and spans of one guard, by LangChain's run ids. Every start may raise the stop."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard_for("ShearpinCallbackHandler({})", guard)
        self._tracker = tracker_of(guard)

    def __copy__(self) -> Recording:
        return type(self)(self.guard)

    def __deepcopy__(self, memo: object) -> Recording:  # LangChain copies configs and models with all they hold
        return type(self)(self.guard)

    # --- outermost calls ------------------------------------------------------------------------------------------

    def open(
        self,
        run_id: UUID,
        name: str,
        inputs: Any,
        metadata: Mapping[str, Any],
        tags: Sequence[str] | None,
        role: Role,
    ) -> Entry:
        """An outermost call begins."""
        root = open_root(self.guard, name, inputs, metadata, tags, keeper_here())
        entry = Entry(root, Place(root.run, root.run.span), role, name, inputs)
        self._tracker.begin(run_id, entry)
        return entry

    def close(self, run_id: UUID, entry: Entry, outputs: Any) -> None:
        """An outermost call answered."""
        root = entry.root
        self._tracker.close(root)
        unseen = entry.role == "run" and holds_answer(outputs) and not _saw_anything(root)
        if unseen:
            root.run.gap(UNSEEN.format(root.run.name))
        with self._telling_others(run_id):
            close_root(self._tracker, root, outputs)
        if unseen:  # last: a user may have made warnings errors
            warnings.warn(UNSEEN.format(root.run.name), EnforcementGapWarning, stacklevel=2)

    def abort(self, run_id: UUID, root: Root, error: BaseException) -> None:
        """An outermost call raised."""
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

    # --- nodes ----------------------------------------------------------------------------------------------------

    def start_node(self, run_id: UUID, name: str, parent: Entry, inputs: Any, metadata: Mapping[str, Any]) -> None:
        """A node of a graph is about to run."""
        root = parent.root
        if parent.role == "inside":  # only now it shows that this chain is a graph of its own
            self._promote(parent)
        if not is_sent(metadata):
            self.look_back(root, inputs)
            root.run.reached(inputs)
        fields: dict[str, Any] = {"input": inputs}
        if root.thread is not None:
            fields |= {"thread_id": root.thread, "checkpoint_id": checkpoint_of(metadata)}
        if is_hook(name):
            fields["attributes"] = {HOOK: True}
        span = root.run.start("node", name, parent=parent.place.span, **fields)
        entry = Entry(root, Place(root.run, span), "span", name)
        entry.answers_itself = answers_itself(name, metadata)
        entry.calls = [] if is_sent(metadata) else pending_calls(messages_in(inputs))
        self._tracker.add(run_id, entry)

    def end_node(self, entry: Entry, outputs: Any) -> None:
        """A node answered."""
        run = entry.root.run
        note_answers(entry, outputs)
        update = update_of(outputs)
        run.end(entry.place.span, output=update)
        run.reached(advanced(run.partial, update))

    def look_back(self, root: Root, state: Any) -> None:
        """What earlier runs of this thread have left in its messages concerns the first node, and torn threads all."""
        count_on(root, state)
        if root.torn is not False:  # `state` is this node's own copy; the checkpoint stays as it is
            root.torn = mend(state)

    def _promote(self, entry: Entry) -> None:
        run = entry.root.run
        span = run.start("agent", entry.name, parent=entry.place.span, input=entry.inputs)
        entry.place, entry.role, entry.inputs = Place(run, span), "span", None

    # --- calls ----------------------------------------------------------------------------------------------------

    def start_call(
        self,
        kind: str,
        name: str,
        run_id: UUID,
        parent_run_id: UUID | None,
        tags: list[str] | None,
        metadata: dict[str, Any] | None,
        fields: dict[str, Any],
    ) -> Entry | None:
        """A model, a tool or a retriever is about to be called."""
        if run_id in self._tracker.entries:
            return None
        entry = self._tracker.parent(parent_run_id)
        if entry is None:  # called by itself: a run of one call
            return self._start_alone(kind, name, run_id, parent_run_id, tags, metadata, fields)
        root = entry.root
        try:
            span = self._admitted(kind, name, entry, fields)
        except Exception as refusal:
            end_elsewhere(run_id, self._tracker, refusal)
            raise
        entry = Entry(root, Place(root.run, span), "span", name)
        self._tracker.add(run_id, entry)
        return entry

    def _admitted(self, kind: str, name: str, entry: Entry, fields: dict[str, Any]) -> Span:
        run, node = entry.root.run, entry.place.span
        if kind != "tool":
            return run.start(kind, name, parent=node, **fields)
        call = {"id": fields.get("call_id"), "name": name, "arguments": fields.get("input")}
        try:
            return run.start(kind, name, parent=node, native=native_answer(entry, call), **fields)
        except ToldError as told:
            entry.root.started_calls.add(call["id"] or "")  # it is answered for
            raise denied(told, name) from told.denial

    def _start_alone(
        self,
        kind: str,
        name: str,
        run_id: UUID,
        parent_run_id: UUID | None,
        tags: list[str] | None,
        metadata: dict[str, Any] | None,
        fields: dict[str, Any],
    ) -> Entry:
        entry = self.open(run_id, name, fields.get("input", fields.get("messages")), metadata or {}, tags, "call")
        root = entry.root
        try:
            if root.run.outermost and (gap := self._why_alone(kind, name, parent_run_id)):
                root.run.gap(gap)
                self._tracker.warn(gap)
            span = self._admitted(kind, name, entry, fields)
        except BaseException as refusal:  # nobody tells the end of a call that never started
            self._tracker.close(root)
            root.run.close(refusal)
            end_elsewhere(run_id, self._tracker, refusal)
            raise
        entry.place, entry.inputs = Place(root.run, span), None
        return entry

    def _why_alone(self, kind: str, name: str, parent_run_id: UUID | None) -> str | None:
        """Why a call has a run of its own though it may be inside another; None where there is nothing to suspect."""
        if parent_run_id is not None:  # it is inside something that was not told to us
            return ALONE.format(name, "model" if kind == "llm" else kind)
        foreign = threading.current_thread() is not threading.main_thread()
        around = foreign and any(entry.role == "run" for entry in list(self._tracker.entries.values()))
        return LOST.format(name) if around else None

    def start_unread(self, kind: str, run_id: UUID, parent_run_id: UUID | None, name: str | None) -> None:
        """Something starts that could not be read."""
        if kind != "chain":
            self.start_call(kind, name or _UNREAD, run_id, parent_run_id, None, None, {})
        elif run_id not in self._tracker.entries:
            parent = self._tracker.parent(parent_run_id)
            if parent is None:
                self.open(run_id, _UNREAD, None, {}, None, "run")
            else:
                parent.root.run.check()
                self._tracker.add(run_id, Entry(parent.root, parent.place, "inside"))

    def end_call(self, run_id: UUID, **fields: Any) -> None:
        """A call answered."""
        entry = self._tracker.remove(run_id)
        if entry is not None:
            entry.root.run.end(entry.place.span, **fields)
            if entry.role == "call":
                self.close(run_id, entry, entry.place.span.output)

    def fail_call(self, run_id: UUID, error: BaseException, **fields: Any) -> None:
        """A call raised."""
        entry = self._tracker.remove(run_id)
        if entry is not None:
            self.fail(entry, error, **fields)
            if entry.role == "call":
                self.abort(run_id, entry.root, error)

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


def _saw_anything(root: Root) -> bool:
    """Was anything started in this call, be it in an outermost call of its own, as alternatives of fallbacks are?"""
    own = root.run.span.span_id
    return any(span.parent_id == own for span in root.run.trace.spans)
