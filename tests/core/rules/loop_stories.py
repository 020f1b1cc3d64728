"""Short runs for the loop breaker: sixteen sorts of loop and more, and work that only looks like one."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import cycle, islice
from typing import Any

from shearpin import Guard, LoopBreaker, LoopDetectedError
from shearpin.runs.run import Run

Move = tuple[str, Any, Any]
"""A tool, its arguments, and what comes back; an exception is raised."""
LENGTH = 60


def call(run: Run, move: Move) -> None:
    """Make one move in a run."""
    name, arguments, result = move
    with suppress(ValueError), run.tool(name, arguments) as made:
        if isinstance(result, Exception):
            raise result
        made.result = result


def play(moves: Iterable[Move], rule: LoopBreaker | None = None) -> tuple[int, LoopDetectedError | None]:
    """How many moves are made, and what ended them."""
    made = 0
    try:
        with Guard(rule or LoopBreaker()).run("agent") as run:
            for move in moves:
                call(run, move)
                made += 1
    except LoopDetectedError as error:
        return made, error
    return made, None


def stopped_after(moves: Iterable[Move], rule: LoopBreaker | None = None) -> int | None:
    """How many moves are made before the run is stopped; None if it is not."""
    made, error = play(islice(moves, LENGTH), rule)
    return made if error else None


def each(*makes: Callable[[int], Move]) -> list[Move]:
    """Moves made from their number, by the functions in turn."""
    return [make(i) for i, make in zip(range(LENGTH), cycle(makes), strict=False)]


def words(i: int) -> str:
    """A text that shares no word with the one for any other number."""
    return " ".join("".join(random.Random(f"{i}/{j}").choices("abcdefghijklmnopqrstuvwxyz", k=9)) for j in range(3))  # noqa: S311 - chance, not secrecy


def uid(i: int) -> str:
    """A random id."""
    return str(uuid.UUID(int=random.Random(i).getrandbits(128), version=4))  # noqa: S311 - chance, not secrecy


READ: Move = ("read", {"path": "a"}, "A")
WRITE: Move = ("write", {"path": "a"}, "ok")
SAME: Move = ("search", {"q": "x"}, "none")
THERE: Move = ("edit", {"old": "x", "new": "y"}, "ok")
BACK: Move = ("edit", {"old": "y", "new": "x"}, "ok")
PERMUTED = ["refund policy eu", "policy refund eu", "eu refund policy", "refund eu policy"]
SPACED = ["python asyncio", "python asyncio ", "Python asyncio", " python \n asyncio", "PYTHON\tasyncio"]


def report(i: int) -> Move:
    """Honest work: a new call, a new answer."""
    return "do", {"i": i}, f"report {i}"


def time_of(i: int) -> str:
    """A clock."""
    return f"2026-01-02T03:04:{i:02d}Z"


def path(i: int) -> str:
    """A file that nobody would guess."""
    return f"src/{words(i).replace(' ', '/')}.py"


LOOPS: dict[str, tuple[int, Iterable[Move]]] = {
    "the same call": (3, each(lambda _: SAME)),
    "keys in any order": (3, cycle([("get", {"q": "x", "n": 5}, "none"), ("get", {"n": 5, "q": "x"}, "none")])),
    "white space and case": (3, each(lambda i: ("search", {"q": SPACED[i % 5]}, "none"))),
    "words in any order": (3, each(lambda i: ("search", {"q": PERMUTED[i % 4]}, "no results"))),
    "two calls in turn": (6, cycle([READ, WRITE])),
    "a cycle of three": (9, cycle([(name, {}, f"answer of {name}") for name in "abc"])),
    "a cycle of six": (18, cycle([(name, {}, f"answer of {name}") for name in "abcdef"])),
    "a counter that drifts": (9, each(lambda i: ("search", {"q": "x", "page": i}, "no results"))),
    "a counter that drifts, any answer": (9, each(lambda i: ("search", {"q": "x", "round": i}, "blue"))),
    "a cursor that drifts": (6, each(lambda i: ("search", {"q": "x", "cursor": i}, "no results"))),
    "a clock that drifts": (6, each(lambda i: ("get", {"url": "u", "ts": 1_700_000_000 + i}, "ERROR 500"))),
    "an id that drifts": (6, each(lambda i: ("create", {"name": "a", "request_id": uid(i)}, "409 conflict"))),
    "a number within a text": (6, each(lambda i: ("get", {"url": f"https://h/a?try={i}"}, "ERROR 500"))),
    "a page that never turns": (9, each(lambda i: ("list", {"of": "all", "page": i}, "the same rows " * 30))),
    "one question in many words": (12, each(lambda i: ("search", {"q": f"{words(i)} refund"}, "no results"))),
    "the same error": (3, each(lambda _: ("get", {"url": "u"}, "ERROR 500"))),
    "errors with times and ids": (3, each(lambda i: ("get", {}, f"timeout at {time_of(i)}, request {uid(i)}"))),
    "errors that count": (3, each(lambda i: ("get", {}, ValueError(f"no route (attempt {i})")))),
    "answers that say when": (3, each(lambda i: ("job", {}, {"state": "up", "checked_at": time_of(i)}))),
    "tests that take their time": (3, each(lambda i: ("test", {}, f"3 failed, 9 passed in 0.{i}1s"))),
    "edit and undo": (6, cycle([THERE, BACK])),
    "hand-over tools": (
        6,
        each(*(lambda i, to=to: (f"transfer_to_{to}", {"reason": f"help {i}"}, "ok") for to in "ab")),
    ),
    "thinking in between": (5, each(lambda i: ("think", {"t": f"hm {i}"}, ""), lambda _: SAME, lambda _: SAME)),
    "after honest work": (9, [*map(report, range(6)), *[READ] * 20]),
    "amid honest work": (9, each(lambda _: READ, report, report)),
    "a tool that does not exist": (3, each(lambda _: ("nope", {"a": 1}, "Error: unknown tool"))),
    "such a tool, called anyhow": (9, each(lambda i: ("nope", {"a": words(i)}, "no such tool: nope"))),
    "a button that toggles": (8, each(lambda _: ("click", {}, "ok"), lambda i: ("look", {}, f"state {i // 2 % 2}"))),
    "edits that change no test": (
        7,
        each(lambda i: ("edit", {"patch": words(i)}, "ok"), lambda _: ("test", {}, "7 failed")),
    ),
    "a tool that is down": (9, each(lambda i: ("search", {"q": words(i)}, "503 Service Unavailable"))),
    "pages that are not there": (9, each(lambda i: ("get", {"of": "all", "page": i}, f"Error: page {i} not found"))),
    "guessing file names": (36, each(lambda i: ("open", {"path": path(i)}, f"Error: file {path(i)} not found"))),
    "guessing files by number": (36, each(lambda i: ("open", {"path": f"m{i}.py"}, "no such file or directory"))),
    "guessing users": (36, each(lambda i: ("get_user", {"user": words(i)}, {"status": 404, "user": words(i)}))),
    "nothing but the date": (3, each(lambda _: ("get_current_date", {}, "2026-03-01"))),
}
"""How many moves are made of each, and its moves."""

WORK: dict[str, Iterable[Move]] = {
    "polling with progress": each(lambda i: ("status", {"id": 1}, f"progress {i}%")),
    "polling a countdown": each(lambda i: ("status", {"id": 1}, f"pending {LENGTH - i}")),
    "polling a countdown in seconds": each(lambda i: ("status", {"id": 1}, f"not ready, try again in {LENGTH - i}s")),
    "paging": each(lambda i: ("list", {"page": i}, f"items {i}0 to {i}9")),
    "reading files": each(lambda i: ("read", {"path": f"src/m{i}.py"}, f"code {i}")),
    "reading empty files": each(lambda i: ("read", {"path": f"src/m{i}.py"}, "")),
    "editing and testing": each(lambda i: ("edit", {"patch": i}, "ok"), lambda i: ("test", {}, f"{LENGTH - i} failed")),
    "writing rows": each(lambda i: ("append", {"table": "t", "row": [f"v{i}"]}, "ok")),
    "writing rows in silence": each(lambda i: ("append", {"table": "t", "row": i}, None)),
    "reading the plan again": each(lambda i: READ if i in (1, 11, 21) else report(i)),
    "sums that happen to agree": each(lambda i: ("add", {"a": i, "b": LENGTH - i}, str(LENGTH))),
    "waiting between looks": each(lambda _: ("wait", {"s": 5}, "ok"), lambda i: ("status", {}, f"pending {i}")),
    "waiting between writes": each(lambda _: ("sleep", {"s": 5}, None), lambda i: ("put", {"row": i}, None)),
    "two failures, then success": each(lambda i: ("get", {"u": i // 3}, f"page {i}" if i % 3 == 2 else "ERROR 500")),
    "ten subjects in vain": each(lambda i: ("search", {"q": words(i)}, "no results" if i % 11 else f"found {i}")),
    "screening names": each(lambda i: ("screen", {"name": words(i), "list": "eu"}, "no match")),
    "verdicts": each(lambda i: ("classify", {"text": words(i)}, "harmless")),
    "checks that pass": each(lambda i: ("lint", {"path": f"src/m{i}.py", "fix": False}, "no errors found")),
    "filling in a form": each(lambda i: ("type", {"text": f"v{i}"}, "ok"), lambda _: ("press", {"key": "tab"}, "ok")),
    "walking and looking": each(lambda _: ("move", {"to": "north"}, "ok"), lambda i: ("look", {}, f"tree {i}")),
    "clicking, looking, undoing": each(
        lambda _: ("click", {"x": 1}, "ok"),
        lambda i: ("shot", {}, f"page {i}"),
        lambda _: ("undo", {}, "ok"),
        lambda _: ("shot", {}, "home"),
    ),
    "a shell without output": each(lambda i: ("bash", {"command": f"mkdir {words(i)}"}, "(no output)")),
    "transfers of money": each(lambda i: ("transfer_to_account", {"iban": f"DE{i}", "amount": i}, "ok")),
    "patches that do not fit": [("patch", {"diff": words(i) * 200}, "patch failed") for i in range(8)],
    "a clock between other work": each(lambda i: ("now", {}, time_of(i)), report),
    "a number that is its argument": [("square", i, i) for i in range(399, 399 + LENGTH)],
    "a code that is its argument": [("look_up", {"code": i}, {"code": i}) for i in range(399, 399 + LENGTH)],
    "prices that look like a status": each(lambda i: ("look_up", {"article": words(i)}, 499)),
    "thirty files that are not there": each(lambda i: ("open", {"path": path(i)}, f"Error: {path(i)} not found"))[:30],
    "thirty files of one name": each(lambda i: ("open", {"path": f"m{i}.py"}, "Error: file not found"))[:30],
    "thirty dead links": each(lambda i: ("get", {"url": f"http://x/{i}"}, {"status": 404, "body": f"no {i}"}))[:30],
    "thirty links, all alike dead": each(lambda i: ("get", {"url": f"http://x/{words(i)}"}, "404 Not Found"))[:30],
    "thirty users that are gone": each(lambda i: ("get_user", {"name": f"u{i}"}, "user not found"))[:30],
    "thirty folders that are closed": each(lambda i: ("ls", {"path": path(i)}, f"Error: {path(i)}: forbidden"))[:30],
    "a word in many files": each(lambda i: ("grep", {"for": "todo", "path": path(i)}, "no matches")),
    "a word in numbered files": each(lambda i: ("grep", {"for": "todo", "path": f"src/m{i}.py"}, "no matches")),
    "one command for many files": each(lambda i: ("bash", {"command": f"grep todo {path(i)}"}, "no matches")),
    "one query for many names": each(lambda i: ("db", {"query": f"select a where b = '{words(i)}'"}, [])),
    "a clock that tells its zone": each(
        lambda i: ("get_time", {}, {"timestamp": 17 * 10**8 + i, "zone": "Europe/Rome"})
    ),
    "a clock in one word": each(lambda i: ("getCurrentTime", {}, {"ts": 17 * 10**8 + i, "zone": "Europe/Rome"})),
    "the date between other work": each(lambda _: ("get_current_date", {}, "2026-03-01"), report),
    "fresh ids": each(lambda i: ("new_request_id", {}, {"request_id": uid(i)})),
    "an id and nothing else": each(lambda i: ("submit", {}, {"request_id": uid(i)})),
    "throwing dice": each(lambda i: ("roll_dice", {"sides": 6}, i // 5 % 6 + 1)),
    "measuring how long it takes": each(lambda i: ("ping", {"host": "h"}, f"{i}.5 ms")),
    "a price from time to time": each(lambda i: ("get_quote", {"of": "X"}, {"price": 5, "as_of": time_of(i)})),
    "one event after another": each(lambda i: ("next_event", {}, f"{time_of(i)} door opened")),
    "a table of numbers": each(lambda i: ("next", {}, {"1": "a", "2": i})),
}
