"""What a paused run takes along, so that another process can go on with it: its counts, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from shearpin.runs.tree import Tree
from shearpin.trace import Span, Trace, Usage
from shearpin.trace.plain import Plain


class Carried(BaseModel):
    """The counts of a run at one moment. Read back from where a user's data lies, so it is checked."""

    model_config = ConfigDict(extra="forbid")

    trace_id: str
    steps: NonNegativeInt
    llm_calls: NonNegativeInt
    tool_calls: NonNegativeInt
    seconds: Annotated[FiniteFloat, Field(ge=0)]
    input_tokens: NonNegativeInt
    output_tokens: NonNegativeInt
    cached_input_tokens: NonNegativeInt
    cache_write_tokens: NonNegativeInt
    reasoning_tokens: NonNegativeInt
    image_tokens: NonNegativeInt
    audio_tokens: NonNegativeInt
    cost_usd: Annotated[FiniteFloat, Field(ge=0)] | None
    owed: list[str]
    """Ids of tool calls that the last model decision asked for and that have not started."""

    @classmethod
    def of(cls, trace: Trace, seconds: float, owed: list[str]) -> Carried:
        """What `trace` amounts to after `seconds`."""
        return cls(
            trace_id=trace.trace_id,
            steps=trace.steps,
            llm_calls=trace.llm_calls,
            tool_calls=trace.tool_calls,
            seconds=seconds,
            owed=owed,
            **{name: getattr(trace.usage, name) for name in Usage.__slots__},
        )

    @classmethod
    def read(cls, data: Plain) -> Carried | None:
        """The counts in `data`; None when it holds none."""
        try:
            return cls.model_validate(data)
        except ValidationError:
            return None

    def add_to(self, trace: Trace, since: Carried | None) -> None:
        """Let `trace` go on from here; of it, `since` is counted already."""
        more = self._beyond(since) if since is not None else self
        trace.steps += more.steps
        trace.llm_calls += more.llm_calls
        trace.tool_calls += more.tool_calls
        trace.usage.add(Usage(**{name: getattr(more, name) for name in Usage.__slots__}))

    def seconds_since(self, since: Carried | None) -> float:
        """How much longer the run was active."""
        return max(self.seconds - (since.seconds if since is not None else 0), 0)

    def _beyond(self, since: Carried) -> Carried:
        counts = {name: value for name, value in self if isinstance(value, int | float)}
        more = {name: max(value - (getattr(since, name) or 0), 0) for name, value in counts.items()}
        return self.model_copy(update=more)


def carry(tree: Tree) -> Plain:
    """The counts of a run so far."""
    with tree.lock:
        return Carried.of(tree.trace, tree.journal.clock.elapsed_seconds(), tree.steps.owed).model_dump()


def continue_from(
    tree: Tree, root: Span, data: Plain, answered: Sequence[Mapping[str, Any]], since: Plain = None
) -> None:
    """Let `tree` count on from `data`: no model was called here yet. `answered` are the tool calls made there.

    `since` is what the tree amounted to when it was paused here itself, before others went on with it.
    """
    carried = Carried.read(data)
    if carried is None or carried.trace_id == tree.trace.trace_id:
        return
    past = [tree.journal.new("tool", call["name"], root, {"input": call["input"]}) for call in answered]
    for span, call in zip(past, answered, strict=True):
        span.stored_output, span.status = tree.trace.pool.value(call["output"]), "ok"
    counted = Carried.read(since)
    with tree.lock:
        root.attributes["continues"] = carried.trace_id
        carried.add_to(tree.trace, counted)
        tree.steps.owe(carried.owed)
        tree.journal.clock.add(carried.seconds_since(counted))
        tree.watch()
        for span in past:
            for _, watch in tree.watches:
                watch.recall(span)
