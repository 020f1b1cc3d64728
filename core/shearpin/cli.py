"""The ``shearpin`` command: a table of sub-commands, and what happens when one of them fails.

Exit codes: 0, or what the sub-command says; 2 for what cannot be done, with one line on stderr.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
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
        if sys.stdout is not None:
            sys.stdout.flush()
    except (ShearpinError, OSError) as error:
        if _output_failed(error) and getattr(error, "errno", None) in _NOBODY_READS:
            return 0
        _say(_sentence(error))
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


def _say(text: str) -> None:
    if sys.stderr is not None:  # it is closed: `2>&-`
        print(f"shearpin: {clean(text)}", file=sys.stderr)


def _sentence(error: Exception) -> str:
    if isinstance(error, MissingIntegrationError):
        return f"a package is missing; to install it: {error}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _output_failed(error: Exception) -> bool:
    """Could stdout not be written? Then the interpreter's last flush goes nowhere, instead of failing again."""
    if not isinstance(error, OSError) or error.filename is not None:
        return False
    with suppress(OSError, ValueError, AttributeError):  # a stdout that is no file has nothing to let go of
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


_NOBODY_READS = (errno.EPIPE, errno.EBADF, errno.EINVAL)
"""The reader has seen enough, as in `shearpin show … | head`, or stdout is closed; the last on Windows."""


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
    with _log_on_stderr():
        if arguments.list:
            print_list(list_traces(arguments.file), color=color)
            return 0
        trace_id = None if arguments.trace is None else _whole_id(arguments.file, arguments.trace)
        print_trace(Trace.load(arguments.file, trace_id), color=color, full=arguments.full)
        return 0


@contextmanager
def _log_on_stderr() -> Generator[None]:
    """What is said of a file that is read, as lines of this command."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: _say(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("shearpin")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _whole_id(path: Path, beginning: str) -> str:
    """The id of the one run of the file whose id begins like this."""
    from shearpin.trace.jsonl import ids_beginning

    ids = ids_beginning(path, beginning)
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


# --- run -----------------------------------------------------------------------------------------------


def _run_arguments(parser: ArgumentParser) -> None:
    from shearpin.launching.launch import declare

    declare(parser)


def _run(arguments: Namespace) -> int:
    from shearpin.launching.launch import launch

    return launch(arguments)


COMMANDS: tuple[Command, ...] = (
    Command("demo", "Run a guarded agent into its limit and show the trace.", _demo_arguments, _demo),
    Command("run", "Run an unchanged script or command with its agents under a guard.", _run_arguments, _run),
    Command(
        "show",
        "Print a run, by default the newest, as a tree with tokens and dollars.",
        _show_arguments,
        _show,
    ),
)

if __name__ == "__main__":
    sys.exit(main())
