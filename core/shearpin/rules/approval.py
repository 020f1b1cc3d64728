"""Asking a person: who is asked, and how the answer is read. Whatever is not a clear yes is a no."""

from __future__ import annotations

import asyncio
import inspect
import select
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias, cast

from shearpin.errors import printable
from shearpin.rules.patterns import ToolRequest
from shearpin.trace.plain import is_list, is_tuple

TERMINAL_SECONDS = 120.0
"""How long a question in the terminal waits for its answer; then the call is rejected."""

_YES = frozenset(["y", "yes", "approve", "approved", "accept", "allow", "ok", "true"])
_SHOWN = 2_000


@dataclass(frozen=True, slots=True)
class ApprovalRequest(ToolRequest):
    """A tool call that waits for a person. ``reason`` is the pattern that asks; ``run`` the name of the run."""

    reason: str = ""
    run: str = ""
    trace_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as a framework's own pause shows it to its user interface."""
        names = ("tool", "arguments", "call_id", "agent", "reason", "run", "trace_id")
        return {"type": "approval"} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, by whom, and after how many seconds."""

    approved: bool
    approver: str
    reason: str = ""
    waited_seconds: float = field(default=0.0, compare=False)


Approver: TypeAlias = Callable[[ApprovalRequest], object]


def ask(request: ApprovalRequest, approver: Approver | None, native: Approver | None) -> Answer:
    """The answer of `approver`, else of the framework's own way (whose pause passes through), else of the terminal."""
    with _Inquiry(approver, native) as inquiry:
        given = inquiry.put(request)
        inquiry.given = _resolved(given) if inspect.isawaitable(given) else given
    return inquiry.answer


async def aask(request: ApprovalRequest, approver: Approver | None, native: Approver | None) -> Answer:
    """`ask` for a coroutine: an approver that is one is awaited, the terminal does not block the event loop."""
    with _Inquiry(approver, native) as inquiry:
        if inquiry.put is ask_in_terminal:
            given = await asyncio.to_thread(inquiry.put, request)
        else:
            given = inquiry.put(request)
        inquiry.given = await given if inspect.isawaitable(given) else given
    return inquiry.answer


class _Inquiry:
    """A question while it is put: to whom, since when, and what was said; an approver that fails has said no."""

    def __init__(self, approver: Approver | None, native: Approver | None) -> None:
        self.put = approver or native or ask_in_terminal
        self.given: object = None
        self._native = approver is None and native is not None
        self._who = "" if self._native else _name_of(self.put)
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> bool:
        failed = isinstance(error, Exception) and not self._native
        if failed:
            self.given = False, f"asking failed: {type(error).__name__}: {error}"
        return failed

    @property
    def answer(self) -> Answer:
        return read_answer(self.given, self._who, time.monotonic() - self._began)


def _name_of(approver: Approver) -> str:
    return "terminal" if approver is ask_in_terminal else getattr(approver, "__name__", type(approver).__name__)


def _resolved(waiting: Awaitable[object]) -> object:
    """An async approver's answer where nothing can be awaited: it gets an event loop and a thread of its own."""

    async def answer() -> object:
        return await asyncio.wait_for(waiting, TERMINAL_SECONDS)

    box: list[object] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            box.append(asyncio.run(answer()))
        except Exception as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=work, name="shearpin-approver", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return box[0]


def read_answer(given: object, who: str, waited: float = 0.0) -> Answer:
    """What a person or a user interface answered.

    True, False, a word, a pair of one of these and a reason, or a mapping with ``approved`` (or LangChain's ``type``,
    or a list of these under ``decisions``), ``reason`` (or ``message``) and ``approver``.
    """
    if isinstance(given, Answer):
        return given
    if (is_list(given) or is_tuple(given)) and given:
        verdict, *rest = given
        first = read_answer(verdict, who, waited)
        said = str(rest[0]) if rest and isinstance(rest[0], str) else first.reason
        return Answer(first.approved, first.approver, said, waited)
    if isinstance(given, Mapping):
        return _read_mapping(cast("Mapping[str, object]", given), who, waited)
    if isinstance(given, str):
        approved = given.strip().lower() in _YES
        return Answer(approved, who, "" if approved else given.strip(), waited)
    if isinstance(given, bool):
        return Answer(given, who, "", waited)
    said = "no answer" if given is None else f"the answer was neither yes nor no: {given!r:.100}"
    return Answer(approved=False, approver=who, reason=said, waited_seconds=waited)


def _read_mapping(given: Mapping[str, object], who: str, waited: float) -> Answer:
    decisions = given.get("decisions")
    if is_list(decisions) and len(decisions) == 1:
        return read_answer(decisions[0], who, waited)
    approved = given.get("approved", given.get("type"))
    reason, approver = given.get("reason", given.get("message")), given.get("approver")
    verdict = read_answer(approved, who, waited)
    said = reason if isinstance(reason, str) else verdict.reason
    return Answer(verdict.approved, approver if isinstance(approver, str) else who, said, waited)


# --- the terminal -------------------------------------------------------------------------------------------------

_one_at_a_time = threading.Lock()


def ask_in_terminal(request: ApprovalRequest) -> object:
    """Ask whoever sits at the terminal; no answer in time, or nobody there, is a no."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
        return False, "nobody to ask: there is no terminal; give ToolPolicy(approver=...) a function that asks"
    with _one_at_a_time:
        shown = printable(f"{request.arguments}")[:_SHOWN]
        sys.stderr.write(
            f"\nApproval needed ({printable(request.reason)}), run {printable(request.run)}:\n"
            f"  {printable(request.tool)}  {shown}\n"
            f"Run it? [y/N] (no in {TERMINAL_SECONDS:.0f} s) "
        )
        sys.stderr.flush()
        with suppress(OSError, ValueError):
            ready, _, _ = select.select([sys.stdin], [], [], TERMINAL_SECONDS)
            if ready:
                return sys.stdin.readline() or False
        sys.stderr.write("no answer, rejected\n")
        return False, f"no answer in {TERMINAL_SECONDS:.0f} s"
