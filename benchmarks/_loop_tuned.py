"""Loops on which the breaker was tuned, drawn at random."""

from __future__ import annotations

import random

from _loop_stories import (
    ACKS,
    ACTS,
    ERRORS,
    LENGTH,
    NOUNS,
    TALK,
    Families,
    Move,
    Story,
    answer,
    args,
    candidate,
    failure,
    iso,
    lead_in,
    missing,
    noun,
    one,
    phrase,
    sentence,
    talk,
    token,
    tool,
    uid,
)

families = Families()


@families.add
def same_call(r: random.Random) -> Story:
    move = Move(tool(r), args(r), r.choice([failure(r), answer(r), r.choice(ACKS)]))
    return Story(one([move] * LENGTH), 1)


@families.add
def key_order(r: random.Random) -> Story:
    name, given, result = tool(r), args(r, 3, 6), failure(r)
    moves = []
    for _ in range(LENGTH):
        items = list(given.items())
        r.shuffle(items)
        moves.append(Move(name, dict(items), result))
    return Story(one(moves), 1)


@families.add
def white_space_and_case(r: random.Random) -> Story:
    name, text, result = tool(r), phrase(r), failure(r)

    def vary() -> str:
        words = [r.choice([str.upper, str.title, str.lower])(word) for word in text.split()]
        return r.choice(["", " ", "\n"]) + r.choice([" ", "  ", "\t"]).join(words) + r.choice(["", " "])

    return Story(one([Move(name, {"q": vary(), "n": 3}, result) for _ in range(LENGTH)]), 1)


@families.add
def word_order(r: random.Random) -> Story:
    name, words, result = tool(r), phrase(r, 3, 6).split(), failure(r)
    return Story(one([Move(name, {"q": " ".join(r.sample(words, len(words)))}, result) for _ in range(LENGTH)]), 1)


@families.add
def cycle(r: random.Random) -> Story:
    calls = [
        Move(f"{tool(r)}_{i}", args(r), r.choice([answer(r), r.choice(ACKS), failure(r)]))
        for i in range(r.randint(2, 6))
    ]
    return lead_in(r, calls * 10)


@families.add
def with_lead_in(r: random.Random) -> Story:
    before = [Move(tool(r), args(r), answer(r, i)) for i in range(r.randint(1, 30))]
    return Story(one(before + [Move(tool(r), args(r), failure(r))] * 20), len(before) + 1)


@families.add
def noise_between(r: random.Random) -> Story:
    move, share, name = Move(tool(r), args(r), failure(r)), r.uniform(0.2, 0.6), r.choice(TALK)
    return Story(one([talk(r, i, name) if r.random() < share else move for i in range(LENGTH)]), 1)


@families.add
def counter_drifts(r: random.Random) -> Story:
    name, fixed, key, result = (
        tool(r),
        args(r),
        r.choice(["page", "offset", "n", "cursor", "attempt", "start"]),
        failure(r),
    )
    step = r.choice([1, 1, 10, 50])
    return lead_in(r, [Move(name, fixed | {key: i * step}, result) for i in range(LENGTH)])


@families.add
def time_drifts(r: random.Random) -> Story:
    name, fixed, result, start = tool(r), args(r), failure(r), r.randint(16 * 10**8, 19 * 10**8)
    when = r.choice([lambda i: start + i, lambda i: (start + i) * 1000, lambda i: start + i + 0.25, iso])
    return lead_in(
        r, [Move(name, fixed | {r.choice(["ts", "timestamp", "at"]): when(i)}, result) for i in range(LENGTH)]
    )


@families.add
def id_drifts(r: random.Random) -> Story:
    name, fixed, result, key = (
        tool(r, ACTS),
        args(r),
        r.choice(ERRORS),
        r.choice(["request_id", "id", "trace", "nonce"]),
    )
    return lead_in(r, [Move(name, fixed | {key: uid(r)}, result) for _ in range(LENGTH)])


@families.add
def drifts_with_any_answer(r: random.Random) -> Story:
    name, fixed, key, start = tool(r), args(r), f"{noun(r)}x", 17 * 10**8
    tick = r.choice([lambda i: i, lambda i: start + i * i, iso, lambda _: uid(r)])
    result = r.choice([phrase(r), {noun(r): noun(r)}, f"{noun(r)} {r.randint(1, 9)}"])
    return lead_in(r, [Move(name, fixed | {key: tick(i)}, result) for i in range(LENGTH)])


@families.add
def errors_with_volatile_details(r: random.Random) -> Story:
    name, fixed = tool(r), args(r)
    shape = r.choice(
        [
            lambda i: f"Error: upstream timed out at {iso(i)}",
            lambda _: f"request {uid(r)} failed",
            lambda i: f"Connection refused (attempt {i})",
            lambda i: f"503 unavailable, request id req_{token(r)}{i}",
            lambda i: {"error": "rate limited", "request_id": uid(r), "timestamp": 1_700_000_000 + i},
            lambda i: f"Error #{i}: no such host",
            lambda i: f"timeout after {1000 + i} ms",
        ]
    )
    return lead_in(r, [Move(name, fixed, shape(i)) for i in range(LENGTH)])


@families.add
def edit_and_undo(r: random.Random) -> Story:
    name, file, a, b, ack = (
        r.choice(["edit", "replace", "patch"]),
        f"src/{noun(r)}.py",
        phrase(r),
        phrase(r),
        r.choice(ACKS),
    )
    there, back = {"file": file, "old": a, "new": b}, {"file": file, "old": b, "new": a}
    return lead_in(r, [Move(name, there, ack), Move(name, back, ack)] * 20)


@families.add
def transfer_tools(r: random.Random) -> Story:
    agents, text, ack = (
        r.sample(NOUNS, r.randint(2, 3)),
        sentence(r, 5),
        r.choice(["transferred", "ok", "Transfer successful", None]),
    )
    return lead_in(
        r, [Move(f"transfer_to_{agents[i % len(agents)]}", {"reason": f"{text} {i}"}, ack) for i in range(LENGTH)]
    )


@families.add
def unknown_tool(r: random.Random) -> Story:
    name, given = tool(r), args(r)
    error = ("ToolNotFound", f"unknown tool {name}")
    move = (
        Move(name, given, None, error) if r.random() < 0.5 else Move(name, given, f"Error: {name} is not a valid tool")
    )
    return lead_in(r, [move] * LENGTH)


@families.add
def parallel_set(r: random.Random) -> Story:
    calls = [Move(f"{tool(r)}_{i}", args(r), r.choice([answer(r), failure(r)])) for i in range(r.randint(2, 5))]
    return Story([r.sample(calls, len(calls)) for _ in range(12)], 1)


@families.add
def same_text(r: random.Random) -> Story:
    text = sentence(r, r.randint(5, 60))
    says = lambda: r.choice([text, text.upper(), f" {text}\n"])  # noqa: E731
    question, moves, messages = phrase(r), [], []
    for _ in range(LENGTH):
        said = says()
        moves.append(Move("model", [{"role": "user", "content": question}, *messages], said, kind="llm"))
        messages = [*messages, {"role": "assistant", "content": said}]
    return Story(one(moves), 1)


@families.add
def polling_a_dead_job(r: random.Random) -> Story:
    job, state = token(r), r.choice(["pending", "queued", "running", "initialising"])
    key = r.choice(["checked_at", "timestamp", "fetched_at"])
    moves = [Move("job_status", {"job": job}, {"job": job, "state": state, key: iso(i)}) for i in range(LENGTH)]
    if r.random() < 0.5:
        moves = [move for status in moves for move in (Move("wait", {"seconds": 5}, r.choice(["ok", None])), status)]
    return lead_in(r, moves)


@families.add
def unknown_tool_with_any_arguments(r: random.Random) -> Story:
    name = tool(r)
    shape = r.choice(
        [f"Error: tool {name} not found", f"Unknown tool: {name}", f"{name} is not a valid tool, try one of [search]"]
    )
    return lead_in(r, [Move(name, args(r), shape) for _ in range(LENGTH)])


@families.add
def tests_that_take_their_time(r: random.Random) -> Story:
    failed, passed = r.randint(1, 5), r.randint(5, 50)
    shape = r.choice(
        [
            lambda: f"{failed} failed, {passed} passed in {r.uniform(0.1, 3):.2f}s",
            lambda: f"FAIL example.com/{passed} {r.uniform(0.1, 3):.3f}s",
            lambda: f"Finished in {r.uniform(0.1, 3):.1f} seconds, {passed} examples, {failed} pending",
        ]
    )
    return lead_in(r, [Move("bash", {"command": "make test"}, shape()) for _ in range(LENGTH)])


@families.add
def guessing_for_ever(r: random.Random) -> Story:
    name, key, call, says = tool(r), *candidate(r), missing(r, echo=True)
    return lead_in(r, [Move(name, {key: thing}, *says(thing)) for thing in map(call, range(2 * LENGTH))])


@families.add
def a_service_that_is_down(r: random.Random) -> Story:
    name, error = tool(r), r.choice(ERRORS)
    return lead_in(r, [Move(name, {"q": phrase(r)}, error) for _ in range(LENGTH)])


@families.add
def the_date_again_and_again(r: random.Random) -> Story:
    return lead_in(r, [Move(r.choice(["today", "get_date"]), {}, iso(0)[:10])] * LENGTH)
