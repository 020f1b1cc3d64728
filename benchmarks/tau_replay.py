"""Recorded agent conversations replayed through LangGraph: honest work goes on, loops in it are stopped.

The model says what was recorded, the tools return what was recorded; everything between them is real.

    python benchmarks/tau_replay.py [FILE] [--quick] [--seed N] [--no-server]

FILE, or SHEARPIN_TAU_FILE, holds trajectories as tau-bench publishes them: JSON lines, gzipped or not, of
``task_id``, ``trial``, ``reward`` (1.0: solved) and ``traj`` (OpenAI chat messages with tool calls and results).
Every conversation is one run of a real agent; then it is held again, with calls of its own repeated from a random
place on. Exits with 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from _tau import Conversation, InProcess, Looped, Provider, looped, read, schemas, spoken, tools
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, before_model
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from shearpin import Budget, Guard, LoopBreaker, RunStoppedError, Trace, Usage
from shearpin_integrations.langgraph import ShearpinCallbackHandler

QUICK = 15
THRESHOLD = 3
TIMES = 12
PERIODS = {1: "one call repeated", 2: "two calls in turn"}


# --- replaying --------------------------------------------------------------------------------------------------------


def replay(
    conversation: Conversation, pin: Guard, model: BaseChatModel, known: Mapping[str, Mapping[str, Any]]
) -> Trace:
    """The conversation held again under `pin`: every message of the user is an invocation on one thread, in one run."""
    agent = create_agent(
        model,
        tools(conversation, known),
        system_prompt=conversation.system or None,
        middleware=[_end_after(len(conversation.said))],
        checkpointer=InMemorySaver(),
    )
    config: RunnableConfig = {
        "callbacks": [ShearpinCallbackHandler(pin)],
        "configurable": {"thread_id": conversation.name},
        "recursion_limit": 1_000,
    }
    run = pin.run(conversation.name)
    with suppress(RunStoppedError), run:
        for text in conversation.asked:
            agent.invoke({"messages": [{"role": "user", "content": text}]}, config)
    return run.trace


def _end_after(turns: int) -> AgentMiddleware[Any, Any]:
    """Some recordings end with a tool's answer: the model is not asked for what it never said."""

    @before_model(can_jump_to=["end"])
    def recorded(state: Any, _: Any) -> dict[str, Any] | None:
        return {"jump_to": "end"} if spoken(state["messages"]) >= turns else None

    return recorded


class Replayed(NamedTuple):
    """What was to be replayed, and what came of it."""

    conversation: Conversation
    trace: Trace


class Bench:
    """Replays under one guard, and notes which promises were broken."""

    def __init__(self, conversations: Sequence[Conversation], model: Callable[[Conversation], BaseChatModel]) -> None:
        self.conversations = conversations
        self.broken: list[str] = []
        self.total = Usage(cost_usd=0.0)
        self._model = model
        self._schemas = schemas(conversations)
        self._pin = Guard(LoopBreaker(threshold=THRESHOLD), Budget(usd=5, steps=60))

    def replay(self, conversation: Conversation) -> Trace:
        """One run of an agent."""
        trace = replay(conversation, self._pin, self._model(conversation), self._schemas)
        self.total.add(trace.usage)
        return trace

    def promise(self, kept: bool, what: str) -> None:
        """Remember a promise that was not kept."""
        if not kept:
            self.broken.append(what)


# --- as recorded ------------------------------------------------------------------------------------------------------


def replay_all(bench: Bench) -> list[Conversation]:
    """Every conversation as it was: none that was solved is stopped, and traces hold what was recorded.

    Returns those that were not stopped.
    """
    replays = [Replayed(conversation, bench.replay(conversation)) for conversation in bench.conversations]
    going = [each for each in replays if each.trace.stop is None]
    print_totals([each.trace for each in replays])
    for solved, word in ((True, "solved"), (False, "unsolved")):
        part = [each for each in replays if each.conversation.solved is solved]
        stopped = [each for each in part if each.trace.stop is not None]
        row(f"{word}, stopped", f"{len(stopped)} of {len(part)}")
        for each in stopped:
            print(f"    {each.conversation.name}: {why(each.trace)}")
            bench.promise(not solved, f"{each.conversation.name} was solved, and stopped")
    compare(bench, going)
    return [each.conversation for each in going]


def print_totals(traces: Sequence[Trace]) -> None:
    """What the runs took, all together."""
    usage = Usage(cost_usd=0.0)
    for trace in traces:
        usage.add(trace.usage)
    row("steps", f"{sum(trace.steps for trace in traces):,}")
    row("model calls", f"{sum(trace.llm_calls for trace in traces):,}")
    row("tool calls", f"{sum(trace.tool_calls for trace in traces):,}")
    row("tokens", f"{usage.input_tokens:,} in, {usage.output_tokens:,} out")
    row("cost", "unknown" if usage.cost_usd is None else f"${usage.cost_usd:,.2f}")


def why(trace: Trace) -> str:
    """Which rule stopped a run, where and why."""
    assert trace.stop is not None
    return f"{trace.stop.rule} after {trace.tool_calls} tool calls, {trace.steps} steps: {trace.stop.error}"


def compare(bench: Bench, going: Sequence[Replayed]) -> None:
    """Every fact of every conversation that was not stopped, as it was recorded and as it was traced."""
    wrong: dict[str, int] = {}
    for conversation, trace in going:
        want, got = recorded(conversation), traced(trace)
        for fact in want:
            same = want[fact] == got[fact]
            wrong[fact] = wrong.get(fact, 0) + (not same)
            bench.promise(same, f"{conversation.name}: {fact} not traced as recorded")
    for fact, count in wrong.items():
        row(f"{fact} traced as recorded", f"{len(going) - count} of {len(going)}")


def recorded(conversation: Conversation) -> Mapping[str, Any]:
    """What a trace of this conversation has to hold."""
    said = list(enumerate(conversation.said, 1))
    return {
        "tool calls": decided([(step, c.id, c.name, c.given, c.result) for step, turn in said for c in turn.calls]),
        "replies": [(step, turn.text, [call.id for call in turn.calls]) for step, turn in said],
        "prompts": prompt(conversation),
        "counts": (len(said), len(said), len(conversation.calls)),
        "status": "ok",
    }


def traced(trace: Trace) -> Mapping[str, Any]:
    """The same facts, as a trace has them."""
    models, calls = trace.spans_of("llm"), trace.spans_of("tool")
    sent = models[-1].messages if models else []
    return {
        "tool calls": decided([(span.step, span.call_id, span.name, span.arguments, span.result) for span in calls]),
        "replies": [(span.step, span.reply or "", [call["id"] for call in span.tool_calls]) for span in models],
        "prompts": [(message["role"], message["content"] or "") for message in sent],
        "counts": (trace.steps, trace.llm_calls, trace.tool_calls),
        "status": trace.status,
    }


def decided(calls: Sequence[tuple[Any, ...]]) -> list[list[tuple[Any, ...]]]:
    """Calls by the step that asked for them, in order; those of one step run side by side, so theirs is their ids'."""
    return [sorted(together, key=itemgetter(1)) for _, together in groupby(calls, itemgetter(0))]


def prompt(conversation: Conversation) -> list[tuple[str, str]]:
    """What the model was sent when it spoke last: role and text of each message."""
    sent = [("system", conversation.system)] if conversation.system else []
    before = 0
    for turn in conversation.turns:
        if isinstance(turn, str):
            sent.append(("user", turn))
        else:
            before = len(sent)
            sent += [("assistant", turn.text), *(("tool", call.result) for call in turn.calls)]
    return sent[:before]


# --- with a loop in it ------------------------------------------------------------------------------------------------


def break_loops(bench: Bench, conversations: Sequence[Conversation], period: int, seed: int) -> None:
    """Every conversation that has the calls for it, with a loop of `period` calls: each of them is stopped in it."""
    stories = [
        story
        for conversation in conversations
        if (story := looped(conversation, period, TIMES, random.Random(f"{seed}/{period}/{conversation.name}")))  # noqa: S311
    ]
    late = [calls for story in stories if (calls := calls_after_onset(bench, story, period)) is not None]
    spread = f", {statistics.mean(late):.1f} calls after its onset, at most {max(late)}" if late else ""
    row(f"{PERIODS[period]} {TIMES} times, stopped", f"{len(late)} of {len(stories)}{spread}")


def calls_after_onset(bench: Bench, story: Looped, period: int) -> int | None:
    """How many calls of the loop were made before it was stopped; None when it was not, or too early."""
    name, trace = story.conversation.name, bench.replay(story.conversation)
    made = trace.tool_calls - story.before
    bench.promise(trace.stop is not None, f"{name}: not stopped")
    if trace.stop is None:
        return None
    in_time = trace.stop.rule == LoopBreaker.name and 0 <= made <= THRESHOLD * period
    bench.promise(in_time, f"{name}: stopped {made} calls after the loop began, by {why(trace)}")
    return made if made >= 0 else None


# --- all of it --------------------------------------------------------------------------------------------------------


def row(what: str, figures: str) -> None:
    """A line of the table."""
    print(f"{what:44} {figures}")


def measure(conversations: Sequence[Conversation], seed: int, provider: Provider | None) -> list[str]:
    """Print the table; the promises that were broken."""
    began = time.perf_counter()
    model = provider.model if provider else lambda conversation: InProcess(said=conversation.said)
    bench = Bench(conversations, model)
    row("conversations", f"{len(conversations)}, the model {'behind HTTP' if provider else 'in this process'}")
    going = replay_all(bench)
    for period in PERIODS:
        break_loops(bench, going, period, seed)
    if provider:
        check_bill(bench, provider)
    row("time", f"{time.perf_counter() - began:.0f} s")
    return bench.broken


def check_bill(bench: Bench, provider: Provider) -> None:
    """What the provider would have charged for, all runs together."""
    used = provider.server.usage
    billed, counted = (used.input, used.output), (bench.total.input_tokens, bench.total.output_tokens)
    row("tokens billed and counted, all runs", f"{sum(billed):,} and {sum(counted):,}")
    bench.promise(billed == counted, f"billed {billed}, counted {counted}")


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("SHEARPIN_TAU_FILE") or None
    parser.add_argument("file", nargs="?", type=Path, default=default, help="trajectories; or SHEARPIN_TAU_FILE")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} conversations")
    parser.add_argument("--seed", type=int, default=1, help="of the places where loops begin")
    parser.add_argument(
        "--server", action=argparse.BooleanOptionalAction, default=True, help="OpenAI's client over HTTP, or no network"
    )
    options = parser.parse_args(given)
    if options.file is not None and not options.file.is_file():
        parser.error(f"there is no file {options.file}")
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Replay, print, and say what was broken."""
    options = arguments(given)
    if options.file is None:
        print("skipped: no trajectories; give a file, or its name in SHEARPIN_TAU_FILE")
        return 0
    conversations = read(options.file)
    if options.quick:
        conversations = conversations[:: max(1, len(conversations) // QUICK)][:QUICK]
    with Provider() if options.server else nullcontext() as provider:
        broken = measure(conversations, options.seed, provider)
    for promise in broken:
        print(f"BROKEN: {promise}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
