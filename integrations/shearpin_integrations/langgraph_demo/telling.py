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

from shearpin import Budget, LoopBreaker, Trace
from shearpin_exporters.files import JSONLinesExporter
from shearpin_integrations.langgraph_demo.playing import Played, Unguarded, play, play_unguarded
from shearpin_integrations.langgraph_demo.scripted import CONTEXT_WINDOW
from shearpin_integrations.langgraph_demo.stories import MODEL, STORIES, Story

__all__ = ["tell_all"]

_WIDEST = 100
_LIMIT_THAT_PEOPLE_SET = 25


def tell_all(*, live: bool, out: Path) -> list[str]:
    """Play and print every story; returns what did not happen as told."""
    path = _fresh(out)
    exporter = JSONLinesExporter(path)
    _introduce(live=live)
    played: list[Played] = []
    problems: list[str] = []
    for number, story in enumerate(STORIES, 1):
        _announce(number, story)
        done = play(story, exporter, live=live)
        problems += [f"{story.name}: {problem}" for problem in _tell(done)]
        played.append(done)
        if done.failed:  # a wrong key, no network: the others would fare no better
            break
    exporter.close()
    problems += [f"{done.story.name}: {problem}" for done in played for problem in _misfiled(done.trace, path)]
    _conclude(path, played, problems, live=live)
    return problems


def _fresh(out: Path) -> Path:
    """A file that is not there yet: what an earlier demo left stays as it is."""
    names = ("runs.jsonl", *(f"runs-{number}.jsonl" for number in range(2, 10_000)))
    return next(out / name for name in names if not (out / name).exists())


def _tell(done: Played) -> Iterator[str]:
    """The trace, and the comparison where there is one; yields what is wrong."""
    done.trace.print()
    yield from done.problems
    if done.served is not None and done.story.name in _COMPARISONS:
        yield from _COMPARISONS[done.story.name](done, done.served)


def _misfiled(trace: Trace, path: Path) -> Iterator[str]:
    filed = Trace.load(path, trace.trace_id)
    if (filed.status, filed.usage, len(filed.spans)) != (trace.status, trace.usage, len(trace.spans)):
        yield "the trace in the file is another one"


# --- around the traces


def _introduce(*, live: bool) -> None:
    most = sum(story.usd for story in STORIES)
    scripted = (
        "The model is played by a server on this machine that speaks OpenAI's API: nothing leaves the machine, nothing "
        f"is billed. Dollars are {MODEL}'s list price for the tokens that the server counted."
    )
    real = f"The model is {MODEL}, on your OpenAI account; their budgets keep all of them together below ${most:.2f}."
    _paragraph(real if live else scripted)
    _paragraph("Each is called as any other, with a handler that holds its rules:")
    _write('    agent.invoke(question, config={"callbacks": [ShearpinCallbackHandler(pin)]})')


def _announce(number: int, story: Story) -> None:
    _heading(f"{number}/{len(STORIES)}  {story.title}")
    _paragraph(story.text)
    _write(f"    pin = Guard({', '.join(map(_code, story.rules))})", "")


def _code(rule: Budget | LoopBreaker) -> str:
    if isinstance(rule, LoopBreaker):
        return f"LoopBreaker(threshold={rule.threshold})"
    return f"Budget({', '.join(f'{unit}={limit:.2f}' for unit, limit in rule.limits.items())})"


def _conclude(path: Path, played: Sequence[Played], problems: Sequence[str], *, live: bool) -> None:
    shown = _harmless(shlex.quote(str(path)))
    command = f"{_command()} show {shown}"
    _heading("Where to look")
    _paragraph(f"The traces, with every prompt, reply, call and decision, are in {shown}:")
    _write(f"    {command} --list")
    for done in played:
        if done.trace.stop is not None:
            _write(f"    {command} --trace {done.trace.trace_id[:8]}  # {done.story.name}")
    _write("")
    for problem in problems:
        _paragraph(_harmless(f"NOT AS TOLD: {problem}."))
    if not problems:
        counted = "" if live else "; the model server answered exactly the calls that the traces have"
        _paragraph(f"Checked: every run ended as told, and none cost more than its budget{counted}.")


def _command() -> str:
    """How the reader started this, and so can start it again."""
    started, found = Path(sys.argv[0]), shutil.which("shearpin")
    if started.stem != "shearpin" or (found and started.exists() and started.samefile(found)):
        return "shearpin"
    return shlex.quote(str(started))


# --- what a stop saved


def _compare_loop(done: Played, served: int) -> Iterator[str]:
    limited = play_unguarded(done.story, _LIMIT_THAT_PEOPLE_SET)
    unlimited = play_unguarded(done.story)
    spent = done.trace.usage.cost_usd or 0.0
    rows = [("stopped by", "model calls", "cost"), ("Shearpin's LoopBreaker", str(served), f"${spent:.2f}")]
    rows += [(_ending(run), str(run.served), f"${run.usd:.2f}") for run in (limited, unlimited)]
    _paragraph("The same agent without Shearpin, really run, on servers of its own:", before=True)
    _table(rows)
    some, most = (_saved(spent, run) for run in (limited, unlimited))
    never = unlimited.limit and not isinstance(unlimited.ended_by, GraphRecursionError)
    own = f" LangGraph's own limit for this agent, {unlimited.limit:,} steps, was never reached." if never else ""
    _paragraph(
        f"So the stop saved {some} where recursion_limit is {limited.limit}, and {most} where it is not set.{own}"
    )
    if not isinstance(limited.ended_by, GraphRecursionError):
        yield f"without Shearpin it should have reached LangGraph's limit, and ended with {limited.ended_by!r}"
    if not served < limited.served <= unlimited.served:
        yield f"the stop saved nothing: {served} model calls, and {limited.served} without it"


def _saved(spent: float, free: Unguarded) -> str:
    """The difference of the amounts as they are printed."""
    return f"${round(free.usd, 2) - round(spent, 2):.2f}"


def _ending(run: Unguarded) -> str:
    if isinstance(run.ended_by, GraphRecursionError):
        return f"LangGraph's recursion_limit={run.limit}"
    if getattr(run.ended_by, "code", None) == "context_length_exceeded":
        return f"the server: {MODEL} takes no more than {CONTEXT_WINDOW:,} tokens"
    return type(run.ended_by).__name__


def _compare_fan_out(done: Played, served: int) -> Iterator[str]:
    free = play_unguarded(done.story)
    spent = done.trace.usage.cost_usd or 0.0
    _paragraph(
        f"The server saw {served} calls, ${spent:.2f}. The same graph without Shearpin, really run, on a server of its "
        f"own: {free.served} calls, ${free.usd:.2f}. So the stop saved {free.served - served} calls, which were never "
        f"sent, and {_saved(spent, free)}.",
        before=True,
    )
    if not served < free.served:
        yield "no call was refused"


_COMPARISONS: dict[str, Callable[[Played, int], Iterator[str]]] = {
    "warranty": _compare_loop,
    "contract": _compare_fan_out,
}


# --- lines


def _width() -> int:
    return min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)


def _heading(text: str) -> None:
    line = f"== {text} ".ljust(_width(), "=")
    _write("", f"\x1b[1m{line}\x1b[0m" if _wants_color() else line)


def _wants_color() -> bool:
    """As the traces decide it."""
    if os.environ.get("NO_COLOR"):
        return False
    forced = os.environ.get("FORCE_COLOR", "0") not in ("", "0")
    return forced or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


def _paragraph(text: str, *, before: bool = False) -> None:
    _write(*([""] if before else []), _filled(text))


def _filled(text: str) -> str:
    return textwrap.fill(text, _width(), break_on_hyphens=False, break_long_words=False)  # a path stays whole


def _harmless(text: str) -> str:
    """Text that is not ours, with what a terminal would obey spelled out."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _table(rows: Sequence[tuple[str, str, str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for what, calls, cost in rows:
        _write(f"    {what:<{widths[0]}}  {calls:>{widths[1]}}  {cost:>{widths[2]}}")


def _write(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
