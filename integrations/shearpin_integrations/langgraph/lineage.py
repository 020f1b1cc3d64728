"""Which outermost call a piece of running LangChain code belongs to, where no handler of ours was passed in.

A guarded node sees only its own config, yet its rules count over the whole graph invocation. LangChain's configure
hook (public: `register_configure_hook`) puts one handler into every callback manager from the first guarded node on;
it notes who is whose parent, passes on what the other middlewares of a guarded agent ask models, and ends the guards'
runs with the outermost call, raising a stop that was swallowed.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Generator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook

from shearpin import Guard, RunStoppedError
from shearpin.adapter import Place
from shearpin_integrations.langchain.graphs import control_flow, goes_on
from shearpin_integrations.langchain.handler import GraphHandler, ShearpinCallbackHandler
from shearpin_integrations.langchain.keeping import Keeper, keeper_here
from shearpin_integrations.langchain.roots import close_root, guard_of, open_root
from shearpin_integrations.langchain.tracking import Entry, Root, tracker_of
from shearpin_integrations.langgraph.waiting import waiting


@dataclass(slots=True)
class _Call:
    """An outermost call: what was started in it, and the run of each guard that covers a part of it."""

    name: str
    inputs: Any
    metadata: dict[str, Any]
    tags: list[str]
    ids: set[UUID] = field(default_factory=set[UUID])
    roots: dict[int, Root] = field(default_factory=dict[int, Root])
    alive: weakref.ref[UUID] | None = None
    keeper: Keeper | None = None
    paused: bool = False
    agents: dict[str, Root] = field(default_factory=dict[str, Root])
    """The runs of guards that are the middleware of an agent, by the agent's place among the graphs."""
    asking: dict[UUID, ShearpinCallbackHandler] = field(default_factory=dict[UUID, ShearpinCallbackHandler])
    """Model calls of other middlewares, by run id."""


class ShearpinLineage(GraphHandler):
    """Parents and roots of everything that goes on in LangChain."""

    raise_error = True
    run_inline = True

    def __init__(self) -> None:
        self._calls: dict[UUID, _Call] = {}
        self._lock = threading.Lock()

    def call_of(self, run_id: UUID | None) -> _Call | None:
        """The outermost call that `run_id` is in."""
        return self._calls.get(run_id) if run_id is not None else None

    def root_in(self, call: _Call, guard: Guard) -> Root:
        """The guard's run for this call, opened at its first use."""
        with self._lock:
            root = call.roots.get(id(guard))
            if root is None:
                root = call.roots[id(guard)] = open_root(
                    guard, call.name, call.inputs, call.metadata, call.tags, call.keeper
                )
            return root

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
        self._enter(run_id, parent_run_id, str(kwargs.get("name") or "run"), inputs, metadata, tags)

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
        self._enter(run_id, parent_run_id, str((serialized or {}).get("name")), inputs or input_str, metadata, tags)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Another middleware of an agent may ask a model in a node of its own, or around the one that covers."""
        call = self.call_of(parent_run_id)
        root = call.agents.get(agent_in(metadata)) if call is not None else None
        if call is None or root is None or parent_run_id is None:
            return
        tracker, handler = tracker_of(guard_of(root)), ShearpinCallbackHandler(guard_of(root))
        if parent_run_id in tracker.entries:
            return
        tracker.add(parent_run_id, Entry(root, Place(root.run, root.run.span), "inside"))
        facts = {"run_id": run_id, "parent_run_id": parent_run_id, "metadata": metadata, **kwargs}
        try:
            handler.on_chat_model_start(serialized, messages, **facts)
            call.asking[run_id] = handler
        finally:
            tracker.remove(parent_run_id)

    def on_llm_new_token(self, token: Any, *, parent_run_id: UUID | None = None, **kwargs: Any) -> None:
        call = self.call_of(parent_run_id)
        if call is not None and (handler := call.asking.get(kwargs["run_id"])) is not None:
            handler.on_llm_new_token(token, **kwargs)

    def on_llm_end(self, response: Any, *, parent_run_id: UUID | None = None, **kwargs: Any) -> None:
        call = self.call_of(parent_run_id)
        if call is not None and (handler := call.asking.pop(kwargs["run_id"], None)) is not None:
            handler.on_llm_end(response, **kwargs)

    def on_llm_error(self, error: BaseException, *, parent_run_id: UUID | None = None, **kwargs: Any) -> None:
        call = self.call_of(parent_run_id)
        if call is not None and (handler := call.asking.pop(kwargs["run_id"], None)) is not None:
            handler.on_llm_error(error, **kwargs)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any) -> None:
        with contextlib.ExitStack() as closing:  # every one, though the first may raise its stop
            for root in self._leave(run_id, parent_run_id):
                tracker = tracker_of(guard_of(root))
                tracker.close(root)
                closing.callback(close_root, tracker, root, outputs)

    def on_chain_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        if control_flow(error) == "interrupt":
            self._pause(run_id)
        with contextlib.ExitStack() as closing:
            for root in self._leave(run_id, parent_run_id):
                tracker_of(guard_of(root)).close(root)
                closing.callback(root.run.close, error)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.on_chain_end(output, run_id=run_id, **kwargs)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.on_chain_error(error, run_id=run_id, **kwargs)

    def on_interrupt(self, event: Any) -> None:
        """A graph pauses; told by newer versions of LangGraph."""
        self._pause(event.run_id)

    def _pause(self, run_id: UUID | None) -> None:
        call = self.call_of(run_id)
        if call is not None:
            call.paused = True

    def _enter(
        self,
        run_id: UUID,
        parent_run_id: UUID | None,
        name: str,
        inputs: Any,
        metadata: dict[str, Any] | None,
        tags: list[str] | None,
    ) -> None:
        call = self.call_of(parent_run_id)
        if call is None:
            call = _Call(name, inputs, metadata or {}, tags or [])
            # LangChain may break a call off without a word; its run id lives as long as the call does.
            call.alive = weakref.ref(run_id, functools.partial(self._abandon, call))
        if call.keeper is None and (keeper := keeper_here()) is not None:
            call.keeper = keeper
            if goes_on(call.inputs):
                keeper.look()
        own = UUID(int=run_id.int)  # an equal one: ours must not keep theirs alive
        call.ids.add(own)
        self._calls[own] = call

    def _abandon(self, call: _Call, _: object) -> None:
        for left in list(call.ids):
            self._calls.pop(left, None)
        for root in list(call.roots.values()):
            with contextlib.suppress(RunStoppedError):  # there is nobody to raise to
                root.run.close(status="cancelled")

    def _leave(self, run_id: UUID, parent_run_id: UUID | None) -> list[Root]:
        """Forget `run_id`; the runs to close, if it was an outermost call."""
        call = self._calls.pop(run_id, None)
        if call is None:
            return []
        call.ids.discard(run_id)
        if parent_run_id is not None:
            return []
        call.alive = None
        for left in list(call.ids):  # a cancelled tool tells no end
            self._calls.pop(left, None)
        for root in call.roots.values():  # what paused need not be what they cover
            root.paused = root.paused or call.paused
        return list(call.roots.values())


_lineage = ShearpinLineage()
_registered = threading.Event()


def agent_in(metadata: Mapping[str, Any] | None) -> str:
    """Which agent a node belongs to: the place of its graph among the graphs of one call."""
    return str((metadata or {}).get("langgraph_checkpoint_ns") or "").rpartition("|")[0]


def watch_lineage() -> None:
    """Begin to note who is whose parent: called when the first node is guarded."""
    if not _registered.is_set():
        _registered.set()
        # The default reaches every thread, where a value set here would only reach this context.
        register_configure_hook(ContextVar("shearpin_lineage", default=_lineage), inheritable=True)


@dataclass(slots=True)
class Cover:
    """A stretch of running code that a guard covers: what is called in it is seen by the guard's handler.

    ``new`` tells that it was not covered before, by a handler of the guard's that its caller passed in.
    """

    entry: Entry
    handler: ShearpinCallbackHandler
    new: bool


@contextlib.contextmanager
def covered(guard: Guard, config: Any = None, *, agent: bool = False) -> Generator[Cover | None]:
    """Cover the code of this block, in the run of the outermost call. None outside of LangChain: nothing to cover.

    ``agent`` says that the guard is meant to cover all of the agent that this code belongs to.
    """
    managers = _managers(config)
    ids = {manager.parent_run_id for manager in managers if manager.parent_run_id is not None}
    tracker = tracker_of(guard)
    handler = ShearpinCallbackHandler(guard)
    seen = next((entry for run_id in ids if (entry := tracker.entries.get(run_id))), None)
    call = next((call for run_id in ids if (call := _lineage.call_of(run_id))), None)
    if seen is not None or call is None:
        with waiting(guard, managers):
            yield Cover(seen, handler, new=False) if seen is not None else None
        return
    root = _lineage.root_in(call, guard)
    if agent:
        call.agents[agent_in((config or var_child_runnable_config.get() or {}).get("metadata"))] = root
    entry = Entry(root, Place(root.run, root.run.span), "inside")
    for run_id in ids:
        tracker.add(run_id, entry)
    for manager in managers:  # made for this node alone: nobody else calls back through it
        manager.add_handler(handler, inherit=True)
    try:
        with waiting(guard, managers):
            yield Cover(entry, handler, new=True)
    finally:
        for manager in managers:
            manager.remove_handler(handler)
        for run_id in ids:
            tracker.remove(run_id)


def _managers(config: Any) -> list[BaseCallbackManager]:
    """The callback managers through which this code calls back: of the config it was given, and the ambient one."""
    sources = (config, var_child_runnable_config.get())
    found = [(source or {}).get("callbacks") for source in sources]
    unique = {id(manager): manager for manager in found if isinstance(manager, BaseCallbackManager)}
    return list(unique.values())
