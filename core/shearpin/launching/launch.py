"""The parent's side of `shearpin run`: it starts the command, waits, and says what was stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from shearpin.errors import ShearpinError, dollars, printable
from shearpin.launching.boot import EVENT_BOOTED, EVENT_RUN
from shearpin.launching.settings import VARIABLE, LaunchSettings

STOPPED = 75
"""The exit code when a run was stopped: sysexits' EX_TEMPFAIL, which schedulers take for "try again another time"."""
_CANNOT = 2
_UNITS: dict[str, type] = {
    "usd": float,
    "tokens": int,
    "llm-calls": int,
    "tool-calls": int,
    "steps": int,
    "seconds": float,
}
_SITE = Path(__file__).parent / "site"


def declare(parser: ArgumentParser) -> None:
    """The options of `shearpin run`."""
    for unit, kind in _UNITS.items():
        parser.add_argument(f"--budget-{unit}", type=kind, metavar="N", help=f"{unit.replace('-', ' ')} per run")
    parser.add_argument("--loop-threshold", type=int, metavar="N", help="stop a call that got the same answer N times")
    parser.add_argument("--deny", action="append", default=[], metavar="PATTERN", help="tools that are not called")
    parser.add_argument("--trace-file", type=Path, metavar="FILE", help="write the runs there, as JSON Lines")
    parser.add_argument("--observe", action="store_true", help="stop nothing, record what would have been stopped")
    parser.add_argument("-m", dest="module", nargs=REMAINDER, metavar="MODULE ...", help="run a module as a script")
    parser.add_argument("command", nargs=REMAINDER, metavar="SCRIPT ...", help="a script, -m module, or a command")


def launch(arguments: Namespace) -> int:
    """Run the command under the rules; its exit code, or 75 when a run was stopped.

    Raises ShearpinError for what cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="shearpin-") as folder:
        settings = _settings(arguments, Path(folder) / "report.jsonl")
        command = _command(["-m", *arguments.module] if arguments.module else arguments.command)
        return _result(settings, _wait(command, settings))


def _settings(arguments: Namespace, report: Path) -> LaunchSettings:
    units = [unit.replace("-", "_") for unit in _UNITS]
    given: dict[str, Any] = {unit: getattr(arguments, f"budget_{unit}") for unit in units}
    settings = LaunchSettings(
        str(report),
        {unit: limit for unit, limit in given.items() if limit is not None},
        arguments.loop_threshold,
        tuple(arguments.deny),
        str(arguments.trace_file.absolute()) if arguments.trace_file else None,
        arguments.observe,
    )
    try:
        if settings.rules():
            return settings
    except (TypeError, ValueError) as error:
        raise ShearpinError(str(error)) from None
    raise ShearpinError("run needs a rule, e.g. shearpin run --budget-usd 0.50 --loop-threshold 3 script.py")


def _command(given: Sequence[str]) -> list[str]:
    command = [*given[1:]] if given[:1] == ["--"] else [*given]
    if not command:
        raise ShearpinError("run needs a script or a command: shearpin run --budget-usd 0.50 script.py")
    first = command[0]
    if first == "-m" or (Path(first).is_file() and (first.endswith(".py") or not os.access(first, os.X_OK))):
        return [sys.executable, *command]
    if shutil.which(first) is None:
        raise ShearpinError(f"{first}: no such script or command")
    return command


def _wait(command: Sequence[str], settings: LaunchSettings) -> int:
    path = os.pathsep.join(filter(None, [str(_SITE), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path, VARIABLE: settings.as_json()})  # noqa: S603

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        process.send_signal(number)

    # Ctrl-C reaches the whole group by itself; the child decides what it means.
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    before[signal.SIGTERM] = signal.signal(signal.SIGTERM, pass_on)
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _result(settings: LaunchSettings, code: int) -> int:
    told = list(settings.told())
    runs = [facts for facts in told if facts["event"] == EVENT_RUN]
    stopped = [facts for facts in runs if facts["stop"]]
    for facts in stopped:
        calls = f"{facts['llm_calls']} model calls, {facts['tool_calls']} tool calls"
        cost = "" if facts["cost_usd"] is None else f"{dollars(facts['cost_usd'])}, "
        _say(f"{facts['name']}: {facts['stop']} ({cost}{calls})")
    if stopped and settings.trace_file:
        _say(f"to see it: shearpin show {settings.trace_file} --trace {stopped[-1]['trace_id'][:8]}")
    for gap in dict.fromkeys(gap for facts in runs for gap in facts["gaps"]):
        _say(f"gap: {gap}")
    if not any(facts["event"] == EVENT_BOOTED for facts in told):
        _say("nothing was guarded: no Python with Shearpin in it was started; install it where the command's Python is")
        return code or _CANNOT
    if not runs:
        _say("no run was seen: it guards LangChain, LangGraph, CrewAI and OpenAI Agents")
    return STOPPED if stopped else code


def _say(text: str) -> None:
    print(f"shearpin: {printable(text)}", file=sys.stderr)
