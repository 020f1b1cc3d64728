"""How a paused run reaches another process: in the checkpoint that its graph waits at.

A checkpoint keeps the writes of tasks that are not done yet. The counts of a paused run are kept among them, as a write
of a task that the graph does not have: it never looks at it, whatever its state is like, and it goes when the
checkpoint goes. `BaseCheckpointSaver` is LangGraph's public interface for that; which saver a call uses, no public hook
tells, but the call itself, which is on the stack when it begins.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shearpin import Guard
from shearpin_integrations.langchain.graphs import GraphCall, call_of_graph

_log = logging.getLogger(__name__)

_CHANNEL, _TASK = "__shearpin__", "shearpin-"
_CHANGED_BY_HAND = ("update", "fork")
"""How checkpoints come about between a pause and what resumes it."""


@dataclass(slots=True)
class Keeper:
    """Where a call of a graph keeps its thread."""

    call: GraphCall
    saver: Any
    config: dict[str, Any]
    looked: bool = False
    found: Any = None

    @property
    def reachable(self) -> bool:
        """May the saver be called here? Many of those for an event loop block it for ever, or raise."""
        memory = sys.modules.get("langgraph.checkpoint.memory")
        return not self.call.awaited or (memory is not None and isinstance(self.saver, memory.InMemorySaver))

    def waits(self) -> bool:
        """Does the graph wait at one of its breakpoints? Older versions of LangGraph tell no handler of that."""
        return self.call.has_breakpoints and bool(self._try(lambda: self.call.graph.get_state(self.config).next))

    def keep(self, guard: Guard, counts: object) -> None:
        """Keep these counts of the guard's run with the checkpoint that the thread is at."""
        self._try(lambda: self._keep(guard, counts))

    def _keep(self, guard: Guard, counts: object) -> None:
        found = self.saver.get_tuple(self.config)
        if found is not None:
            # Savers ignore what a task wrote that had written before.
            task = f"{_TASK}{len(list(_kept_in(found))):09}"
            self.saver.put_writes(found.config, [(_channel(guard), counts)], task)

    def look(self) -> None:
        """Find what is kept, before the call that begins moves the thread on."""
        if not self.looked:
            self.looked, self.found = True, self._try(self._look)

    def _look(self) -> Any:
        found = self.saver.get_tuple(self.config)
        while found is not None and not any(_kept_in(found)):
            by_hand = found.metadata.get("source") in _CHANGED_BY_HAND and found.parent_config
            found = self.saver.get_tuple(found.parent_config) if by_hand else None
        return found

    def kept(self, guard: Guard) -> tuple[Any, Mapping[str, Any]] | None:
        """The counts that the guard's run was paused with, and the state it was paused in; None where it was not."""
        self.look()
        if self.found is None:
            return None
        kept, place = dict(_kept_in(self.found)), _place(guard)  # the last of each
        alike = [value for channel, value in kept.items() if channel.startswith(place)]
        counts = kept.get(_channel(guard), alike[-1] if alike else None)  # its limits may be others by now
        return None if counts is None else (counts, self.found.checkpoint["channel_values"])

    def _try(self, work: Any) -> Any:
        """A saver that fails costs the record, never the run."""
        try:
            return work() if self.reachable else None
        except Exception:  # noqa: BLE001 - whatever the user's saver raises
            _log.warning("Shearpin could not use the checkpointer %s", type(self.saver).__name__, exc_info=True)
            return None


def keeper_here() -> Keeper | None:
    """Where the graph keeps its thread whose call begins right now; None where none begins, or it keeps nothing."""
    call = call_of_graph()
    if call is None:
        return None
    given: Mapping[str, Any] = call.config.get("configurable") or {}
    saver = given.get("__pregel_checkpointer") or call.graph.checkpointer
    if not hasattr(saver, "put_writes") or given.get("thread_id") is None:
        return None
    own = {key: value for key, value in given.items() if not key.startswith("__pregel_")}
    thread = {"thread_id": str(given["thread_id"]), "checkpoint_ns": ""}
    return Keeper(call, saver, {"configurable": {**own, **thread}})


def _kept_in(found: Any) -> Iterator[tuple[str, Any]]:
    """What is kept of runs in a checkpoint, by channel, oldest first."""
    kept = [
        write for write in found.pending_writes or () if write[0].startswith(_TASK) and write[1].startswith(_CHANNEL)
    ]
    return ((channel, value) for _, channel, value in sorted(kept, key=lambda write: write[0]))


def _place(guard: Guard) -> str:
    return f"{_CHANNEL}{vars(guard).get(PLACE, '')}/"


def _channel(guard: Guard) -> str:
    """What the counts are kept under: guards that watch different nodes, or different limits, count for themselves."""
    return _place(guard) + hashlib.blake2s(repr(guard.rules).encode("utf-8", "replace"), digest_size=8).hexdigest()


PLACE = "_langchain_place"
"""The attribute of a guard that was made for one node, with the node's name."""
