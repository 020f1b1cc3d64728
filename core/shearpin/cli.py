"""The ``shearpin`` command: a table of sub-commands, and what happens when one of them fails.

Exit codes: 0, or what the sub-command says; 2 for what cannot be done, with one line on stderr.
"""

from __future__ import annotations

import importlib
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import shearpin
from shearpin.errors import MissingIntegrationError, ShearpinError, TraceFormatError
from shearpin.trace import Trace
from shearpin.view.text import clean

CANNOT = 2
INTERRUPTED = 130


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(clean(message))  # it quotes names of files, which a shell's * takes from anyone


@dataclass(frozen=True, slots=True)
class Command:
    """A sub-command: `arguments` declares what it takes, `run` does it and returns the exit code."""

    name: str
    help: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``shearpin`` with `argv`, by default the process's own arguments; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if "run" not in arguments:
        parser.print_help()
        return CANNOT
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough: `shearpin show … | head`
        _let_go_of_stdout()
        return 0
    except (ShearpinError, OSError) as error:
        print(f"shearpin: {clean(_sentence(error))}", file=sys.stderr)
        return CANNOT
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser() -> ArgumentParser:
    parser = _Parser("shearpin", description="Stops LLM agents that run away, and shows why.")
    parser.add_argument("--version", action="version", version=f"shearpin {shearpin.__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.help, description=command.help)
        command.arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _sentence(error: Exception) -> str:
    if isinstance(error, MissingIntegrationError):
        return f"a package is missing; to install it: {error}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _let_go_of_stdout() -> None:
    """Let the interpreter's last flush go nowhere instead of failing again."""
    with suppress(OSError, ValueError):  # a stdout that is no file has nothing to let go of
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- show ----------------------------------------------------------------------------------------------


def _show_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a JSON Lines file of traces")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--trace", metavar="ID", help="the run to show, by the beginning of its id")
    which.add_argument("--list", action="store_true", help="list the runs of the file instead")
    parser.add_argument("--full", action="store_true", help="show every step of long runs")
    parser.add_argument("--no-color", action="store_true", help="no colours, as with NO_COLOR=1")


def _show(arguments: Namespace) -> int:
    from shearpin.trace.jsonl import list_traces
    from shearpin.view.listing import print_list
    from shearpin.view.terminal import print_trace

    color = False if arguments.no_color else None
    if arguments.list:
        print_list(list_traces(arguments.file), color=color)
        return 0
    trace_id = None if arguments.trace is None else _whole_id(arguments.file, arguments.trace)
    print_trace(Trace.load(arguments.file, trace_id), color=color, full=arguments.full)
    return 0


def _whole_id(path: Path, beginning: str) -> str:
    """The id of the one run of the file whose id begins like this."""
    from shearpin.trace.jsonl import list_traces

    ids = {run.trace_id for run in list_traces(path) if run.trace_id.startswith(beginning)}
    if beginning in ids or not ids:
        return beginning  # loading it says best what is wrong with an id that is not there
    if len(ids) > 1:
        raise TraceFormatError(f"{path}: {len(ids)} traces begin with {beginning}; give more of the id")
    return ids.pop()


# --- demo ----------------------------------------------------------------------------------------------

_DEMO = "shearpin_integrations.langgraph_demo"


def _demo_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--live", action="store_true", help="with a real model instead of the scripted one")
    folder = Path("shearpin-demo")
    parser.add_argument("--out", type=Path, default=folder, metavar="DIR", help="where the trace goes (%(default)s)")


def _demo(arguments: Namespace) -> int:
    # By name, since the core knows no integration.
    try:
        demo = importlib.import_module(_DEMO)
    except ModuleNotFoundError as missing:
        if missing.name not in (_DEMO, _DEMO.partition(".")[0]):
            raise
        raise ShearpinError(f"this installation has no demo: there is no module {_DEMO}") from missing
    code: int = demo.main(live=arguments.live, out=arguments.out)
    return code


COMMANDS: tuple[Command, ...] = (
    Command("demo", "Run a guarded agent into its limit and show the trace.", _demo_arguments, _demo),
    Command(
        "show",
        "Print a run, by default the newest, as a tree with tokens and dollars.",
        _show_arguments,
        _show,
    ),
)

if __name__ == "__main__":
    sys.exit(main())
