"""Honest work on which the breaker was tuned, drawn at random."""

from __future__ import annotations

import random
from collections.abc import Iterator

from _loop_stories import (
    ACKS,
    ACTS,
    EMPTIES,
    ERRORS,
    Families,
    Move,
    Story,
    answer,
    args,
    candidate,
    iso,
    missing,
    noun,
    one,
    phrase,
    sentence,
    token,
    tool,
    uid,
)

families = Families()


@families.add
def polling_with_progress(r: random.Random) -> Story:
    job, total = token(r), r.randint(8, 60)
    shape = r.choice(
        [
            lambda i: f"progress {100 * i // total}% ({i})",
            lambda i: {"state": "running", "done": i, "of": total},
            lambda i: f"pending {total - i}",
            lambda i: f"{i}/{total} complete",
            lambda i: f"ETA {(total - i) * 3}s",
        ]
    )
    return Story(one([Move("status", {"id": job}, shape(i)) for i in range(total)]))


@families.add
def paging(r: random.Random) -> Story:
    name, fixed = tool(r), args(r)
    return Story(one([Move(name, fixed | {"page": i}, answer(r, i)) for i in range(r.randint(5, 40))]))


@families.add
def reading_files(r: random.Random) -> Story:
    root = f"src/{noun(r)}"
    body = r.choice([lambda i: f"code {i}", lambda i: answer(r, i), lambda i: "" if r.random() < 0.3 else f"x = {i}"])
    return Story(one([Move("read", {"path": f"{root}/m{i}.py"}, body(i)) for i in range(r.randint(5, 60))]))


@families.add
def edit_and_test(r: random.Random) -> Story:
    left, moves = r.randint(4, 30), []
    for i in range(left):
        moves += [
            Move("edit", {"file": "a.py", "patch": f"p{i}"}, r.choice(ACKS)),
            Move("test", {}, f"{left - i} failed"),
        ]
    return Story(one(moves))


@families.add
def batch_writes(r: random.Random) -> Story:
    name, ack, key = tool(r, ACTS), r.choice(ACKS), r.choice(["row", "body", "text", "record"])
    body = r.choice(
        [lambda i: f"v{i}", lambda i: [i, i * i], lambda _: sentence(r), lambda i: {"id": i, "name": noun(r)}]
    )
    return Story(one([Move(name, {key: body(i), "table": "t1"}, ack) for i in range(r.randint(8, 80))]))


@families.add
def plan_read_now_and_then(r: random.Random) -> Story:
    moves = [Move(f"do_{noun(r)}", {"i": i}, f"r{i}") for i in range(30)]
    for at in (2, 12, 24):
        moves.insert(at, Move("read", {"path": "plan.md"}, "the plan: first this, then that"))
    return Story(one(moves))


@families.add
def calculator(r: random.Random) -> Story:
    def sums() -> Iterator[Move]:
        for _ in range(r.randint(10, 60)):
            a, b = r.randint(0, 5), r.randint(0, 5)
            yield Move("add", {"a": a, "b": b}, r.choice([a + b, str(a + b)]))

    seen: dict[str, int] = {}
    moves = [
        m
        for m in sums()
        if seen.setdefault(str(m.arguments), 0) < 3 and not seen.update({str(m.arguments): seen[str(m.arguments)] + 1})
    ]
    return Story(one(moves))


@families.add
def waiting_between_looks(r: random.Random) -> Story:
    wait = Move(
        r.choice(["wait", "sleep", "pause"]),
        {"s": r.randint(1, 60)},
        r.choice(["ok", None, "", "waited", "Slept 5 seconds", True]),
    )
    state = r.choice([lambda i: f"pending {i}", lambda i: f"{i * 3}%", lambda i: {"left": 99 - i}])
    return Story(one([m for i in range(r.randint(5, 30)) for m in (wait, Move("status", {"id": 1}, state(i)))]))


@families.add
def retry_then_success(r: random.Random) -> Story:
    moves = []
    for i in range(r.randint(1, 15)):
        call = args(r)
        moves += [Move("http", call, r.choice(ERRORS))] * r.randint(0, 2) + [Move("http", call, answer(r, i))]
    return Story(one(moves))


@families.add
def fan_out(r: random.Random) -> Story:
    name = tool(r)
    return Story(
        [[Move(name, {"id": j}, f"doc {i} {j}") for j in range(r.randint(2, 12))] for i in range(r.randint(1, 8))]
    )


@families.add
def many_topics_few_hits(r: random.Random) -> Story:
    name, nothing, moves = tool(r), r.choice(EMPTIES), []
    for i in range(r.randint(3, 10)):
        moves += [Move(name, {"q": phrase(r, 1, 4)}, nothing) for _ in range(r.randint(0, 6))]
        moves += [Move(name, {"q": phrase(r)}, answer(r, i))]
    return Story(one(moves))


@families.add
def inserts_that_say_so(r: random.Random) -> Story:
    says = r.choice(
        [
            "1 row inserted",
            "INSERT 0 1",
            "Row added.",
            "Message queued for delivery.",
            {"inserted": 1},
            "Wrote 12 bytes",
        ]
    )
    return Story(
        one([Move("execute", {"sql": f"INTO t: values ({i}, '{noun(r)}')"}, says) for i in range(r.randint(8, 40))])
    )


@families.add
def scrolling_and_reading(r: random.Random) -> Story:
    scroll = Move("scroll", {"direction": "down"}, r.choice(["Scrolled down", "ok", None, "scrolled 500 px"]))
    return Story(
        one([m for i in range(r.randint(5, 30)) for m in (scroll, Move("read_page", {}, f"{sentence(r, 50)} {i}"))])
    )


@families.add
def twenty_questions(r: random.Random) -> Story:
    return Story(
        one([Move("ask", {"question": f"Is it a {noun(r)} or {noun(r)}?"}, r.choice(["yes", "no"])) for _ in range(20)])
    )


@families.add
def most_of_a_list_is_missing(r: random.Random) -> Story:
    name, key, call, says, share = tool(r), *candidate(r), missing(r), r.choice([0, 0.1, 0.3])
    moves = []
    for i in range(r.randint(9, 30)):
        thing = call(i)
        gone = r.random() >= share
        moves.append(Move(name, {key: thing}, *says(thing)) if gone else Move(name, {key: thing}, answer(r, i)))
    return Story(one(moves))


@families.add
def a_word_in_many_places(r: random.Random) -> Story:
    (key, call), nothing = candidate(r), r.choice(["no matches", [], {"matches": []}, "0 results", "none"])
    word, share = noun(r), r.choice([0, 0.1, 0.3])
    moves = []
    for i in range(r.randint(9, 60)):
        given = {"pattern": word, key: call(i)} if r.random() < 0.8 else {"command": f"grep {word} {call(i)}"}
        moves.append(Move("grep", given, nothing if r.random() >= share else answer(r, i)))
    return Story(one(moves))


@families.add
def numbers_of_all_sizes(r: random.Random) -> Story:
    start, size = r.choice([195, 390, 495, 590]), r.randint(20, 60)
    told = r.choice([lambda i: i, str, lambda i: {"id": i}, lambda i: {"code": i}, lambda i: f"code: {i}"])
    given = r.choice([lambda i: i, lambda i: {"n": i}, lambda i: {"code": i, "in": "eu"}, lambda i: {"q": f"no {i}"}])
    name = tool(r)
    return Story(one([Move(name, given(start + i), told(start + i)) for i in range(size)]))


@families.add
def one_number_for_all(r: random.Random) -> Story:
    number, name = r.choice([200, 404, 499, 500]), tool(r)
    return Story(one([Move(name, {"article": phrase(r)}, number) for _ in range(r.randint(9, 40))]))


@families.add
def tools_that_tell_the_time(r: random.Random) -> Story:
    name = r.choice(["now", "get_time", "getCurrentDate", "current_datetime", "time__get_current_time"])
    told = r.choice(
        [
            lambda i: {"timestamp": 17 * 10**8 + 60 * i, "zone": "Europe/Rome"},
            lambda i: f"The time is {iso(i)} in Rome.",
            lambda i: iso(i)[:10],
        ]
    )
    alone = "T" in str(told(0)) or "stamp" in str(told(0))
    moves = []
    for i in range(r.randint(9, 20)):
        moves += [Move(name, {}, told(i)), *([] if alone else [Move(tool(r), args(r), answer(r, i))])]
    return Story(one(moves))


@families.add
def tools_that_give_out_what_is_next(r: random.Random) -> Story:
    name, told = r.choice(
        [
            ("next_event", lambda i: f"{iso(i)} door opened"),
            ("new_request_id", lambda _: {"request_id": uid(r)}),
            ("get_quote", lambda i: {"price": 5, "as_of": iso(i)}),
            ("roll_dice", lambda _: r.randint(1, 2)),
            ("ping", lambda _: f"{r.uniform(1, 99):.3f} ms"),
            ("next_page", lambda i: {"request_id": uid(r), "items": [], "left": 99 - i}),
        ]
    )
    return Story(one([Move(name, {"of": "x"}, told(i)) for i in range(r.randint(9, 40))]))
