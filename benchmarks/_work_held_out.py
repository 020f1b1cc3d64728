"""Honest work on which the breaker was not tuned. What shows a fault moves to `_work_tuned.py` before it is mended."""

from __future__ import annotations

import random
import string

from _loop_stories import (
    ACKS,
    NOUNS,
    Families,
    Move,
    Story,
    answer,
    args,
    failure,
    iso,
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
def filling_in_a_form(r: random.Random) -> Story:
    ack, moves = r.choice([None, "ok", True, ""]), []
    for i in range(r.randint(5, 30)):
        text = r.choice([f"value {i}", f"{phrase(r)} {i}"])
        moves += [Move("type", {"text": text}, ack), Move("press_key", {"key": "Tab"}, ack)]
    return Story(one(moves))


@families.add
def walking_and_looking(r: random.Random) -> Story:
    move = Move("move", {"direction": "forward"}, r.choice(["ok", True, None]))
    return Story(one([m for i in range(r.randint(5, 30)) for m in (move, Move("look", {}, f"{sentence(r, 4)} {i}"))]))


@families.add
def screenshot_and_undo(r: random.Random) -> Story:
    home, moves = {"image": token(r)}, []
    for i in range(r.randint(4, 20)):
        moves += [
            Move("click", {"x": r.randint(0, 999), "y": i}, "ok"),
            Move("screenshot", {}, {"image": token(r) + str(i)}),
        ]
        moves += [Move("undo", {}, "ok"), Move("screenshot", {}, home)]
    return Story(one(moves))


@families.add
def long_varied_work(r: random.Random) -> Story:
    names, moves = [tool(r) for _ in range(8)], []
    for i in range(r.randint(300, 900)):
        roll = r.random()
        result = answer(r, i) if roll < 0.6 else r.choice(ACKS) if roll < 0.85 else failure(r)
        moves.append(Move(r.choice(names), args(r), result))
    return Story(one(moves))


@families.add
def batch_verdicts(r: random.Random) -> Story:
    verdict, share = r.choice(["positive", "safe", "spam", {"label": "ham"}]), r.uniform(0.7, 1)
    other = "the other label"
    return Story(
        one(
            [
                Move("classify", {"text": sentence(r)}, verdict if r.random() < share else other)
                for _ in range(r.randint(10, 60))
            ]
        )
    )


@families.add
def checks_that_pass(r: random.Random) -> Story:
    fine = r.choice(
        ["no issues found", "All checks passed!", "0 errors", "clean", {"errors": [], "warnings": []}, "ok", True]
    )
    options = r.choice([{}, {"ruleset": "strict"}, {"fix": False}])
    return Story(
        one([Move("lint", {"path": f"src/{noun(r)}/m{i}.py"} | options, fine) for i in range(r.randint(8, 50))])
    )


@families.add
def looking_up_states(r: random.Random) -> Story:
    state = r.choice(["shipped", "active", "in stock", {"status": "open"}, True, "yes"])
    return Story(
        one(
            [
                Move("get_order", {"order_id": r.choice([i, f"ORD-{1000 + i}"]), "region": "eu"}, state)
                for i in range(r.randint(8, 40))
            ]
        )
    )


@families.add
def rate_limited_writes(r: random.Random) -> Story:
    ack, rest = r.choice([None, "ok", ""]), Move(r.choice(["sleep", "wait"]), {"seconds": 1}, None)
    return Story(one([m for i in range(r.randint(5, 30)) for m in (Move("append", {"row": [i, noun(r)]}, ack), rest)]))


@families.add
def first_free_date(r: random.Random) -> Story:
    hotel, moves = phrase(r), []
    for i in range(r.randint(1, 6)):
        days = [f"2026-0{1 + i}-{d:02d}" for d in range(1, r.randint(2, 9))]
        moves += [Move("availability", {"hotel": hotel, "date": day}, "no rooms available") for day in days[:-1]]
        moves += [Move("availability", {"hotel": hotel, "date": days[-1]}, f"{i + 1} rooms free")]
    return Story(one(moves))


@families.add
def several_jobs(r: random.Random) -> Story:
    left = {token(r): r.randint(1, 12) for _ in range(3)}
    moves = []
    while any(left.values()):
        job = r.choice([name for name, n in left.items() if n])
        left[job] -= 1
        moves.append(Move("status", {"job": job}, {"state": "running" if left[job] else "finished", "left": left[job]}))
    return Story(one(moves))


@families.add
def clocks_and_dice(r: random.Random) -> Story:
    moves = []
    for i in range(r.randint(6, 20)):
        moves += [
            Move("get_time", {}, r.choice([iso(i), {"time": iso(i)}])),
            Move("new_id", {}, uid(r)),
            Move("write", {"line": i}, "ok"),
        ]
    return Story(one(moves))


@families.add
def coding_in_a_shell(r: random.Random) -> Story:
    silent, moves = r.choice(["", "(no output)", "Tool ran without output or errors", "Process exited with code 0"]), []
    for i in range(r.randint(20, 80)):
        roll = r.random()
        command = (
            r.choice([f"mkdir -p {noun(r)}/{i}", f"sed -i s/{noun(r)}/{noun(r)}/ {noun(r)}.py"])
            if i % 3
            else "git add -A"
        )
        moves.append(
            Move("bash", {"command": command}, silent)
            if roll < 0.5
            else Move("bash", {"command": f"cat {noun(r)}.py"}, sentence(r, 80))
            if roll < 0.8
            else Move("bash", {"command": f"python {noun(r)}.py"}, f"Traceback: NameError: {noun(r)} {i}")
        )
    return Story(one(moves))


@families.add
def screening_names(r: random.Random) -> Story:
    clean = r.choice(["no match", "none", [], {"matches": []}, "not listed"])
    name = lambda: f"{token(r).strip(string.digits)}a {r.choice(NOUNS)}son"  # noqa: E731
    return Story(one([Move("screen", {"name": name(), "list": "sanctions"}, clean) for _ in range(r.randint(5, 40))]))


@families.add
def progress_with_plateaus(r: random.Random) -> Story:
    moves = []
    for i in range(r.randint(4, 15)):
        moves += [Move("status", {"id": 7}, {"percent": i * 5})] * r.randint(1, 2)
    return Story(one(moves))


@families.add
def trying_settings(r: random.Random) -> Story:
    moves = [
        Move(
            "train", {"model": "tree", "depth": d, "rate": rate}, {"score": round(r.choice([0.5, 0.5, r.random()]), 3)}
        )
        for d in range(1, 6)
        for rate in (0.1, 0.2, 0.5)
    ]
    r.shuffle(moves)
    return Story(one(moves))


@families.add
def applying_files(r: random.Random) -> Story:
    says = lambda: r.choice(["configured", "unchanged", "created"])  # noqa: E731
    return Story(
        one(
            [
                Move("apply", {"file": f"{noun(r)}/{i}.yaml", "namespace": "prod"}, says())
                for i in range(r.randint(5, 40))
            ]
        )
    )


@families.add
def tests_one_by_one(r: random.Random) -> Story:
    return Story(one([Move("run_test", {"name": f"test_{noun(r)}_{i}"}, "1 passed") for i in range(r.randint(5, 40))]))


@families.add
def transfers_of_money(r: random.Random) -> Story:
    return Story(
        one(
            [
                Move("transfer_to_account", {"iban": f"DE{r.getrandbits(60)}", "amount": r.randint(1, 99)}, "ok")
                for _ in range(r.randint(4, 20))
            ]
        )
    )


@families.add
def pages_of_a_scan(r: random.Random) -> Story:
    file = f"{noun(r)}.pdf"
    moves = [
        Move("find_table", {"file": file, "page": i}, "no table" if r.random() < 0.6 else f"table {i}")
        for i in range(r.randint(8, 30))
    ]
    return Story(one(moves))


@families.add
def mail_one_by_one(r: random.Random) -> Story:
    moves = []
    for i in range(r.randint(5, 20)):
        moves += [Move("get_user", {"id": i}, {"id": i, "mail": f"{token(r)}@example.com"})]
        moves += [
            Move(
                "send_mail",
                {"to": f"{token(r)}@example.com", "text": "the same newsletter"},
                r.choice(["sent", "queued"]),
            )
        ]
    return Story(one(moves))


@families.add
def chunks(r: random.Random) -> Story:
    return Story(
        one([Move("download", {"file": "big.bin", "offset": i * 4096}, token(r) * 50) for i in range(r.randint(5, 40))])
    )


@families.add
def labelling(r: random.Random) -> Story:
    return Story(
        one(
            [
                Move("label", {"mail": i, "label": r.choice(["spam", "ham"])}, "labelled")
                for i in range(r.randint(5, 60))
            ]
        )
    )


@families.add
def prices_that_agree(r: random.Random) -> Story:
    return Story(
        one(
            [
                Move("price", {"sku": f"A-{r.randint(1, 999)}", "shop": noun(r)}, r.choice(["9.99", "9.99", "19.99"]))
                for _ in range(r.randint(5, 40))
            ]
        )
    )


@families.add
def steps_of_a_migration(r: random.Random) -> Story:
    return Story(
        one(
            [
                Move("run_sql", {"sql": f"ALTER TABLE {noun(r)} ADD {noun(r)}_{i} int"}, "ALTER TABLE")
                for i in range(r.randint(5, 30))
            ]
        )
    )


@families.add
def lists_now_and_then(r: random.Random) -> Story:
    moves = []
    for i in range(r.randint(5, 15)):
        moves += [Move("ls", {"path": "."}, f"file 0 to {i}")]
        moves += [
            Move("write_file", {"path": f"{i}.txt", "content": sentence(r)}, "ok") for _ in range(r.randint(1, 3))
        ]
    return Story(one(moves))
