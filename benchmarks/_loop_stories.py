"""Randomised runs, loops and honest work, for `loops.py`: names, texts, shapes, periods and noise are all drawn.

A story is a list of turns; a turn is a list of moves that one decision asked for at once. The families are in the
files beside this one, by whether the breaker was tuned on them.
"""

from __future__ import annotations

import random
import re
import string
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Turn = list["Move"]


@dataclass(slots=True)
class Move:
    """One action and what came of it. ``kind`` is tool, handoff or llm; ``agent`` who acts."""

    name: str
    arguments: Any = None
    result: Any = None
    error: tuple[str, str] | None = None
    kind: str = "tool"
    agent: str | None = None
    branch: str | None = None


@dataclass(slots=True)
class Story:
    """Turns, and for a loop the number of the move with which it begins."""

    turns: list[Turn]
    onset: int | None = None


Family = Callable[[random.Random], Story]


class Families(dict[str, Family]):
    """Ways to draw a story, by name."""

    def add(self, make: Family) -> Family:
        """Register a family under the name of its function."""
        self[make.__name__.replace("_", " ")] = make
        return make


# --- what stories are made of -------------------------------------------------------------------------------------

NOUNS = tuple(
    re.findall(
        r"\w+",
        "invoice refund policy contract shipment customer server database flight hotel recipe garden engine battery "
        "museum poem theorem virus protein galaxy tax pension visa passport camera lens guitar violin river bridge "
        "tunnel harbour market stock bond auction orchard vineyard castle harvest glacier desert comet planet "
        "algorithm compiler kernel thread socket packet router firewall ledger budget payroll audit patent "
        "statute verdict",
    )
)
VERBS = (
    "get",
    "fetch",
    "read",
    "find",
    "lookup",
    "query",
    "search",
    "list",
    "show",
    "check",
    "open",
    "load",
    "scan",
    "inspect",
    "describe",
)
ACTS = ("write", "save", "update", "insert", "append", "create", "put", "store", "send", "publish", "set", "add")
ACKS = [
    "ok",
    "OK",
    "done",
    "saved",
    True,
    None,
    "",
    "success",
    {"status": "ok"},
    {"ok": True},
    "Updated.",
    "created",
    "200 OK",
]
EMPTIES = [
    "none",
    "no results",
    "not found",
    [],
    {},
    "0 results",
    "nothing found",
    '{"results": []}',
    "No matches.",
    {"hits": [], "total": 0},
    "empty",
    "no data available",
]
ERRORS = [
    "ERROR 500",
    "409 conflict",
    "Error: permission denied",
    "503 Service Unavailable",
    "timeout",
    "connection refused",
    "Error: invalid request",
    "failed to open stream",
    "Internal server error",
    "ERR",
]
TALK = ("think", "log", "note", "reflect", "scratchpad")


def noun(r: random.Random) -> str:
    return r.choice(NOUNS)


def phrase(r: random.Random, low: int = 2, high: int = 5) -> str:
    return " ".join(r.sample(NOUNS, r.randint(low, high)))


def sentence(r: random.Random, words: int = 12) -> str:
    return " ".join(r.choice(NOUNS) for _ in range(words))


def tool(r: random.Random, verbs: Sequence[str] = VERBS) -> str:
    return f"{r.choice(verbs)}_{noun(r)}" if r.random() < 0.7 else r.choice(verbs)


def token(r: random.Random) -> str:
    return "".join(r.choices(string.ascii_lowercase + string.digits, k=r.randint(6, 12)))


def uid(r: random.Random) -> str:
    made = uuid.UUID(int=r.getrandbits(128), version=4)
    return str(made) if r.random() < 0.5 else made.hex


def value(r: random.Random) -> object:
    return r.choice([r.randint(1, 99), phrase(r), noun(r), True, None, [noun(r), noun(r)], {"a": noun(r)}, 2.5])


def args(r: random.Random, low: int = 1, high: int = 4) -> dict[str, Any]:
    return {"q": phrase(r)} | {f"{noun(r)}": value(r) for _ in range(r.randint(low, high) - 1)}


def answer(r: random.Random, fresh: object = "") -> object:
    """A real answer, never the same twice if `fresh` is not."""
    text = f"{sentence(r, r.randint(3, 30))} {fresh}"
    return r.choice([text, {"data": text, "n": r.randint(0, 9)}, [text]])


def failure(r: random.Random) -> object:
    return r.choice(EMPTIES + ERRORS)


def iso(n: int) -> str:
    return f"2026-03-{1 + n // 1440 % 28:02d}T{n // 60 % 24:02d}:{n % 60:02d}:07Z"


def talk(r: random.Random, i: int, name: str) -> Move:
    return Move(name, {"text": f"{sentence(r, 5)} {i}"}, r.choice(["", None, "noted"]))


def candidate(r: random.Random) -> tuple[str, Callable[[int], object]]:
    """The name of an argument, and things to look for under it."""
    root = noun(r)
    return r.choice(
        [
            ("path", lambda _: f"{root}/{noun(r)}/{noun(r)}_{token(r)}.py"),
            ("path", lambda i: f"{root}/m{i}.py"),
            ("url", lambda _: f"https://{root}.example/{noun(r)}/{token(r)}"),
            ("url", lambda i: f"https://{root}.example/page/{i}"),
            ("user", lambda _: f"{noun(r)}{token(r)}"),
            ("email", lambda i: f"{noun(r)}{i}@{root}.example"),
            ("order_id", lambda i: 1_000 + i),
        ]
    )


def missing(r: random.Random, *, echo: bool = False) -> Callable[[Any], tuple[Any, tuple[str, str] | None]]:
    """How a tool says that it has no such thing; with `echo`, at least in a way that tells it from a search."""
    plain = ["not found", {"error": "not found"}, "File not found", "user not found"]
    shapes: list[Callable[[Any], tuple[Any, tuple[str, str] | None]]] = [
        lambda x: (f"Error: {x} not found", None),
        lambda x: (f"{x}: No such file or directory", None),
        lambda x: ({"status": 404, "body": f"there is no {x}"}, None),
        lambda _: ("404 Not Found", None),
        lambda x: (None, ("FileNotFoundError", f"[Errno 2] No such file or directory: '{x}'")),
        lambda x: (None, ("KeyError", f"'{x}'")),
        lambda _: ("Error: does not exist", None),
    ]
    return r.choice(shapes if echo else [*shapes, lambda _: (r.choice(plain[:1]), None), lambda _: (plain[1], None)])


def one(moves: list[Move]) -> list[Turn]:
    return [[move] for move in moves]


def lead_in(r: random.Random, moves: list[Move]) -> Story:
    """Some honest work, then `moves`."""
    before = [Move(tool(r), args(r), answer(r, i)) for i in range(r.choice([0, 0, r.randint(1, 12)]))]
    return Story(one(before + moves), len(before) + 1)


LENGTH = 40
