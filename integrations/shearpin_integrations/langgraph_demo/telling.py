"""The demo as it is printed: each story, its trace, and what the stop saved."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from langgraph.errors import GraphRecursionError

from shearpin import Budget, LoopBreaker
from shearpin_exporters.files import JSONLinesExporter
from shearpin_integrations.langgraph_demo.playing import Played, Unguarded, play, play_unguarded
from shearpin_integrations.langgraph_demo.scripted import CONTEXT_WINDOW
from shearpin_integrations.langgraph_demo.stories import MODEL, STORIES, Story

__all__ = ["tell_all"]

_WIDEST = 100
_STEPS_PEOPLE_SET = 25


def tell_all(*, live: bool, out: Path) -> list[str]:
    """Play and print every story; what did not happen as told."""
    path = _fresh(out)
    exporter = JSONLinesExporter(path)
    _introduce(live=live)
    played: list[Played] = []
    problems: list[str] = []
    for number, story in enumerate(STORIES, 1):
        _announce(number, story)
        done = play(story, exporter, live=live)
        done.trace.print()
        found = list(done.problems)
        if not live and story.name in _COMPARED:
            found += _COMPARED[story.name](done)
        problems += [f"{story.name}: {problem}" for problem in found]
        played.append(done)
    exporter.close()
    _conclude(path, played, problems)
    return problems


def _fresh(out: Path) -> Path:
    """A file that is not there yet: what an earlier demo left stays as it is."""
    names = ("runs.jsonl", *(f"runs-{number}.jsonl" for number in range(2, 10_000)))
    return next(out / name for name in names if not (out / name).exists())


# --- around the traces


def _introduce(*, live: bool) -> None:
    most = sum(rule.usd or 0.0 for story in STORIES for rule in story.rules if isinstance(rule, Budget))
    scripted = (
        "The model is played by a server on this machine that speaks OpenAI's API: nothing leaves the machine, nothing "
        f"is billed. Dollars are {MODEL}'s list price for the tokens that the server counted."
    )
    real = f"The model is {MODEL}, on your OpenAI account; budgets keep all of it below ${most:.2f}."
    _write("Four real agents, built with LangChain and LangGraph. Shearpin guards them, and stops two.")
    _paragraph(real if live else scripted)


def _announce(number: int, story: Story) -> None:
    _heading(f"{number}/{len(STORIES)}  {story.title}")
    _paragraph(story.text)
    _write(f"    Guard({', '.join(map(_code, story.rules))})", "")


def _code(rule: Budget | LoopBreaker) -> str:
    if isinstance(rule, LoopBreaker):
        return f"LoopBreaker(threshold={rule.threshold})"
    return f"Budget({', '.join(f'{unit}={limit:.2f}' for unit, limit in rule.limits.items())})"


def _conclude(path: Path, played: Sequence[Played], problems: Sequence[str]) -> None:
    _heading("Where to look")
    shown = shlex.quote(str(path))
    command = f"{_command()} show {shown}"
    _paragraph(f"The traces of all runs, with every prompt, reply, call and decision, are in {shown}:")
    _write(f"    {command} --list")
    for done in played:
        if done.story.stopped_by is not None:
            _write(f"    {command} --trace {done.trace.trace_id[:8]} --full    # {done.story.name}")
    _write("")
    for problem in problems:
        _paragraph(f"NOT AS TOLD: {problem}.")
    if not problems:
        _write("Everything happened as told.")


def _command() -> str:
    """How the reader started this, and so can start it again."""
    started = Path(sys.argv[0])
    if started.name != "shearpin":
        return "shearpin"
    found = shutil.which("shearpin")
    return "shearpin" if found and Path(found).samefile(started) else shlex.quote(str(started))


# --- what a stop saved


def _compare_loop(done: Played) -> Iterator[str]:
    limited = play_unguarded(done.story, _STEPS_PEOPLE_SET)
    unlimited = play_unguarded(done.story)
    spent = done.trace.usage.cost_usd or 0.0
    _paragraph("The same agent without Shearpin, run again on a server of its own:", before=True)
    rows = [("stopped by", "model calls", "cost"), ("Shearpin's LoopBreaker", f"{done.served}", f"${spent:.2f}")]
    rows += [(_ending(each), f"{each.served}", f"${each.usd:.2f}") for each in (limited, unlimited)]
    _table(rows)
    more = unlimited.served - (done.served or 0)
    _paragraph(f"The stop came {more} model calls and ${unlimited.usd - spent:.2f} earlier.", before=True)
    if not isinstance(limited.ended_by, GraphRecursionError):
        yield f"without Shearpin it should have reached LangGraph's limit, and ended with {limited.ended_by!r}"
    if unlimited.served <= done.trace.llm_calls:
        yield f"without Shearpin it made no more than {unlimited.served} model calls"


def _ending(run: Unguarded) -> str:
    if isinstance(run.ended_by, GraphRecursionError):
        return f"LangGraph's recursion_limit={run.limit}"
    full = getattr(run.ended_by, "code", None) == "context_length_exceeded"
    end = f"the model, full at {CONTEXT_WINDOW:,} tokens" if full else f"{type(run.ended_by).__name__}"
    return f"{end} (LangGraph's default limit is {run.limit:,} steps)"


def _compare_fan_out(done: Played) -> Iterator[str]:
    free = play_unguarded(done.story)
    refused = free.served - (done.served or 0)
    _paragraph(
        f"The server saw {done.served} calls: {refused} of {free.served} were refused before they were sent. Without "
        f"Shearpin, the same graph on a server of its own: {free.served} calls, ${free.usd:.2f}.",
        before=True,
    )
    if refused <= 0:
        yield "no call was refused"


_COMPARED: dict[str, Callable[[Played], Iterator[str]]] = {
    "warranty": _compare_loop,
    "contract": _compare_fan_out,
}


# --- lines


def _width() -> int:
    return min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)


def _heading(text: str) -> None:
    line = f"== {text} ".ljust(_width(), "=")
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    _write("", line if plain else f"\x1b[1m{line}\x1b[0m", "")


def _paragraph(text: str, *, before: bool = False) -> None:
    _write(*([""] if before else []), textwrap.fill(text, _width()))


def _table(rows: Sequence[tuple[str, str, str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for what, calls, cost in rows:
        _write(f"    {what:<{widths[0]}}  {calls:>{widths[1]}}  {cost:>{widths[2]}}")


def _write(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
