"""How well `LoopBreaker` tells loops from work: recall, false stops, and how late a loop is stopped.

    python benchmarks/loops.py [--quick] [--seed N] [--families tuned|held-out|all] [--eval FILE] [--trajectories FILE]

Each family is drawn many times at random. ``--eval`` adds a file of sequences, one JSON object a line (``name``,
``is_loop``, ``calls``), as it stands and with its names and texts replaced at random. ``--trajectories`` adds recorded
conversations (OpenAI messages with a ``reward``): nothing that succeeded may be stopped.
"""
# ruff: noqa: S311 - chance, not secrecy

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _agents_held_out
import _loop_cost
import _loop_held_out
import _loop_tuned
import _work_held_out
import _work_tuned
from _loop_stories import Family, Move, Story, noun

from shearpin.errors import LoopDetectedError
from shearpin.rules.loop import LoopBreaker, LoopWatch
from shearpin.trace import LLMSpan, Span, ToolSpan
from shearpin.trace.spans import SpanError

LOOPS = _loop_tuned.families | _loop_held_out.families
HONEST_HELD_OUT = _work_held_out.families | _agents_held_out.families
WORK = _work_tuned.families | HONEST_HELD_OUT
HELD_OUT = _loop_held_out.families.keys() | HONEST_HELD_OUT.keys()


class Player:
    """Feeds moves to a watch as a run would: every call of a turn starts before any of them ends."""

    def __init__(self, rule: LoopBreaker, seed: int = 0) -> None:
        self.watch: LoopWatch = rule.watch(None)  # type: ignore[arg-type] - a loop shows in the calls alone
        self.random = random.Random(seed)
        self.count = self.step = 0
        self.branches: dict[str, Span] = {}

    def play(self, turns: Iterable[list[Move]]) -> tuple[int, LoopDetectedError] | None:
        """The number of the refused move and the refusal, or None."""
        for turn in turns:
            self.step += 1
            started: list[tuple[Span, Move]] = []
            for move in turn:
                span = self.span(move)
                refusal = self.watch.check(span)
                if refusal is not None:
                    return self.count, refusal
                self.watch.admit(span)
                started.append((span, move))
            self.random.shuffle(started)
            for span, move in started:
                self.end(span, move)
        return None

    def span(self, move: Move) -> Span:
        self.count += 1
        kind = {"tool": ToolSpan, "llm": LLMSpan}.get(move.kind, Span)
        parent = self.branch(move.branch, move.agent) if move.branch else None
        fields: dict[str, Any] = {"agent": move.agent, "step": self.step, "stored_input": move.arguments}
        return kind(str(self.count), parent, move.kind, move.name, **fields)  # type: ignore[arg-type]

    def branch(self, name: str, agent: str | None) -> str:
        if name not in self.branches:
            self.branches[name] = Span(name, None, "agent", agent or name, agent=agent)
            self.watch.admit(self.branches[name])
        return name

    def end(self, span: Span, move: Move) -> None:
        span.status = "error" if move.error else "ok"
        if move.error:
            span.error = SpanError(*move.error)
        if isinstance(span, LLMSpan):
            span.reply = move.result
        else:
            span.stored_output = move.result
        (self.watch.release if move.error else self.watch.settle)(span)


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What became of many stories of one kind."""

    played: int = 0
    early: int = 0
    """Stopped before their loop began: a false stop, whatever the story is."""
    delays: list[int] = field(default_factory=list)
    """For the others that were stopped, the calls made since the loop began."""
    example: str = ""

    def add(self, story: Story, stop: tuple[int, LoopDetectedError] | None) -> None:
        self.played += 1
        if stop is None:
            return
        delay = stop[0] - (story.onset or 1)
        self.early += delay <= 0
        self.delays += [delay] if delay > 0 else []
        self.example = self.example or str(stop[1])

    @property
    def share(self) -> float:
        return len(self.delays) / self.played

    @property
    def after(self) -> str:
        return f"median {statistics.median(self.delays):.0f} calls after the onset" if self.delays else ""


def tally(stories: Iterable[Story], rule: LoopBreaker) -> Tally:
    """Play every story from its beginning."""
    result = Tally()
    for seed, story in enumerate(stories):
        result.add(story, Player(rule, seed).play(story.turns))
    return result


def table(families: dict[str, Family], draws: int, seed: int, rule: LoopBreaker, *, loops: bool) -> float:
    """Print a line for each family; the mean share of stopped stories over all of them."""
    shares: list[float] = []
    for name, make in families.items():
        result = tally((make(random.Random(f"{seed}/{name}/{i}")) for i in range(draws)), rule)
        share = result.share if loops else result.share + result.early / draws
        shares.append(share)
        wrong = result.early or share != loops
        origin = "held out" if name in HELD_OUT else "tuned"
        print(f"  {origin:8} {name:34} {share:7.1%}  {result.after if loops else ''}{'  <--' if wrong else ''}")
        if wrong and result.example:
            print(f"           e.g. {result.example}")
    return statistics.fmean(shares)


def pick(families: dict[str, Family], which: str) -> dict[str, Family]:
    """The families that were tuned on, those that were not, or all."""
    wanted = {"tuned": [False], "held-out": [True], "all": [False, True]}[which]
    return {name: make for name, make in families.items() if (name in HELD_OUT) in wanted}


# --- a file of sequences ------------------------------------------------------------------------------------------


def evaluate(path: Path, draws: int, seed: int, rule: LoopBreaker) -> None:
    """Print how the sequences of a file fare, as they stand and in other words."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    loops, work = ([line["calls"] for line in lines if line["is_loop"] is kind] for kind in (True, False))

    def stories(sequences: list[Any], times: int) -> Iterator[Story]:
        for i, calls in itertools.product(range(times), sequences):
            told = renamed(calls, random.Random(f"{seed}/{i}")) if times > 1 else calls
            yield Story([[Move(c["tool"], c["arguments"], c["result"])] for c in told], 1)

    print()
    for title, times in (("as it stands", 1), ("renamed at random", draws)):
        caught, false = tally(stories(loops, times), rule), tally(stories(work, times), rule)
        print(
            f"{path.name} {title}: {len(caught.delays)} of {caught.played} loops, {caught.after}; "
            f"{len(false.delays)} of {false.played} false stops"
        )


def renamed(calls: list[dict[str, Any]], r: random.Random) -> list[dict[str, Any]]:
    """The same sequence in other words: every word of a name or an argument becomes another one throughout."""
    kept = {"transfer", "to", "think", "wait", "status"}
    names: dict[str, str] = {}
    shift = r.randint(0, 50)

    def word(found: re.Match[str]) -> str:
        text = found[0]
        if text.lower() in kept:
            return text
        new = names.setdefault(text.lower(), f"{noun(r)}{'xyz'[len(names) % 3]}{chr(97 + len(names) % 26)}")
        return new.title() if text.istitle() else new

    def change(value: Any, *, words: bool) -> Any:
        if isinstance(value, str):
            return re.sub(r"[A-Za-z]{2,}", word, value) if words and len(value) < 200 else value
        if isinstance(value, dict):
            return {change(key, words=True): change(item, words=words) for key, item in value.items()}
        if isinstance(value, list):
            return [change(item, words=words) for item in value]
        return value + shift if isinstance(value, int) and not isinstance(value, bool) else value

    return [
        {"tool": change(c["tool"], words=True), "arguments": change(c["arguments"], words=True), "result": c["result"]}
        for c in calls
    ]


# --- recorded conversations -----------------------------------------------------------------------------------------


def trajectories(path: Path, rule: LoopBreaker) -> int:
    """Print which recorded conversations are stopped; how many of those that had succeeded."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        runs = [json.loads(line) for line in file]
    stopped: dict[bool, int] = {True: 0, False: 0}
    for run in runs:
        stop = Player(rule).play(conversation(run["traj"]))
        if stop is not None:
            stopped[run["reward"] == 1.0] += 1
            print(f"  task {run['task_id']} trial {run['trial']} reward {run['reward']} at move {stop[0]}: {stop[1]}")
    solved = sum(run["reward"] == 1.0 for run in runs)
    print(f"{path.name}: stopped {stopped[True]} of {solved} solved, {stopped[False]} of {len(runs) - solved} unsolved")
    return stopped[True]


def conversation(messages: list[dict[str, Any]]) -> Iterator[list[Move]]:
    results = {}
    for i, message in enumerate(messages):
        if message["role"] == "tool":
            results.setdefault(message["tool_call_id"], []).append((i, message["content"]))
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        calls = message.get("tool_calls") or []
        if not calls:
            yield [Move("model", messages[:i], message.get("content"), kind="llm", agent="a")]
        moves = []
        for call in calls:
            answer = next((text for at, text in results.get(call["id"], ()) if at > i), None)
            moves.append(Move(call["function"]["name"], json.loads(call["function"]["arguments"]), answer, agent="a"))
        if moves:
            yield moves


# --- time -----------------------------------------------------------------------------------------------------------


def timing(rule: LoopBreaker, lengths: Iterable[int]) -> None:
    print("\ntime of check + admit + settle, small arguments")
    for length in lengths:
        watch: LoopWatch = rule.watch(None)  # type: ignore[arg-type]
        spans = [
            ToolSpan(
                str(i),
                None,
                "tool",
                f"tool_{i % 7}",
                stored_input={"q": f"the thing {i}", "n": 5},
                stored_output=f"result {i}",
            )
            for i in range(length)
        ]
        begun = time.process_time()
        for span in spans:
            assert watch.check(span) is None
            watch.admit(span)
            watch.settle(span)
        print(f"  {length:7} calls  {(time.process_time() - begun) / length * 1e6:6.1f} us each")


def main() -> int:
    """Print everything; 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draws", type=int, default=200, help="stories drawn from each family")
    parser.add_argument("--quick", action="store_true", help="few draws, for a run under ten seconds")
    parser.add_argument("--families", choices=["tuned", "held-out", "all"], default="all")
    parser.add_argument("--eval", type=Path, help="sequences, one JSON object a line")
    parser.add_argument("--trajectories", type=Path, help="recorded conversations, JSON lines, may be gzipped")
    options = parser.parse_args()
    draws, rule = 20 if options.quick else options.draws, LoopBreaker()
    loops, work = pick(LOOPS, options.families), pick(WORK, options.families)
    print(f"loops: {len(loops)} families, {draws} of each")
    recall = table(loops, draws, options.seed, rule, loops=True)
    print(f"\nhonest work: {len(work)} families, {draws} of each")
    false = table(work, draws, options.seed, rule, loops=False)
    print(f"\nrecall {recall:.1%}, false stops {false:.2%} ({options.families}, seed {options.seed})")
    if options.eval:
        evaluate(options.eval, draws, options.seed, rule)
    solved = trajectories(options.trajectories, rule) if options.trajectories else 0
    timing(rule, (1_000, 10_000) if options.quick else (1_000, 10_000, 100_000))
    _loop_cost.report(rule, 4 if options.quick else 20)
    return int(recall < 0.95 or false > 0.01 or solved > 0)


if __name__ == "__main__":
    sys.exit(main())
