"""Loops on which the breaker was not tuned. What shows a fault moves to `_loop_tuned.py` before it is mended."""

from __future__ import annotations

import json
import random
from typing import Any

from _loop_stories import (
    ACKS,
    EMPTIES,
    ERRORS,
    LENGTH,
    NOUNS,
    TALK,
    Families,
    Move,
    Story,
    answer,
    args,
    failure,
    iso,
    lead_in,
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
def handoffs_with_any_text(r: random.Random) -> Story:
    agents = r.sample(NOUNS, r.randint(2, 4))
    pairs = [(agents[i % len(agents)], agents[(i + 1) % len(agents)]) for i in range(LENGTH)]
    return lead_in(
        r,
        [
            Move(f"{a} -> {b}", {"from": a, "to": b, "reason": sentence(r, r.randint(1, 15))}, kind="handoff")
            for a, b in pairs
        ],
    )


@families.add
def cycle_with_noise(r: random.Random) -> Story:
    calls = [
        Move(f"{tool(r)}_{i}", args(r), r.choice([answer(r), r.choice(ACKS), failure(r)]))
        for i in range(r.randint(2, 3))
    ]
    name, moves = r.choice(TALK), []
    for i in range(15):
        moves += [*calls, talk(r, i, name)]
    return lead_in(r, moves)


@families.add
def counter_in_the_text(r: random.Random) -> Story:
    name, text, result = tool(r), phrase(r, 2, 4), r.choice(ERRORS + EMPTIES)
    shape = r.choice(
        [
            lambda i: {"q": f"{text} {i}"},
            lambda i: {"url": f"https://{noun_}.example/{text.split()[0]}?nonce={1_700_000_000 + i}"},
            lambda i: {"filter": {"text": text, "page": {"number": i}}},
            lambda i: {"command": f"run {text} --try={i}"},
        ]
    )
    noun_ = noun(r)
    return lead_in(r, [Move(name, shape(i), result) for i in range(LENGTH)])


@families.add
def raised_errors(r: random.Random) -> Story:
    kind = r.choice(["TimeoutError", "HTTPError", "ValueError", "ConnectionError"])
    text = sentence(r, 4)
    shape = r.choice(
        [
            lambda _: f"{text} (trace id {uid(r)})",
            lambda i: f"{text} at 10:{i:02d}:11.{i:03d}",
            lambda i: f"{text} attempt={i}",
            lambda i: f"{text} [pid {4000 + i}]",
            lambda _: text,
        ]
    )
    name, given = tool(r), args(r)
    return lead_in(r, [Move(name, given, None, (kind, shape(i))) for i in range(LENGTH)])


@families.add
def filler_words(r: random.Random) -> Story:
    name, words, result = tool(r), phrase(r, 2, 4).split(), r.choice(EMPTIES)
    moves = []
    for _ in range(LENGTH):
        kept = r.sample(words, len(words))
        moves.append(Move(name, {"query": " ".join([*r.sample(["the", "a", "please", "of", "in"], 2), *kept])}, result))
    return lead_in(r, moves)


@families.add
def slow_loop_amid_work(r: random.Random) -> Story:
    call, gap = Move(tool(r), args(r), r.choice([failure(r), answer(r)])), r.randint(1, 4)
    moves = [call if i % (gap + 1) == 0 else Move(f"do_{noun(r)}", args(r), answer(r, i)) for i in range(60)]
    return lead_in(r, moves)


@families.add
def one_of_two_agents(r: random.Random) -> Story:
    stuck = Move(tool(r), args(r), failure(r), agent="a")
    moves = [stuck if r.random() < 0.4 else Move(tool(r), args(r), answer(r, i), agent="b") for i in range(60)]
    return Story(one(moves), 1)


@families.add
def edit_and_failing_test(r: random.Random) -> Story:
    file, verdict = f"src/{noun(r)}.py", f"{r.randint(1, 9)} failed, {r.randint(1, 99)} passed"
    edit = lambda i: Move("edit", {"file": file, "patch": f"{sentence(r, 6)} {i}"}, r.choice(["ok", "done"]))  # noqa: E731
    return Story(one([m for i in range(20) for m in (edit(i), Move("run_tests", {}, verdict))]), 1)


@families.add
def two_drifts_in_turn(r: random.Random) -> Story:
    a, b, fa, fb = tool(r) + "_a", tool(r) + "_b", args(r), args(r)
    ra, rb = r.choice(ERRORS), r.choice(ERRORS)
    moves = [m for i in range(20) for m in (Move(a, fa | {"page": i}, ra), Move(b, fb | {"ts": 17 * 10**8 + i}, rb))]
    return lead_in(r, moves)


@families.add
def empty_answers_that_echo(r: random.Random) -> Story:
    name, fixed = tool(r), args(r)
    shape = r.choice(
        [
            lambda i: f"no results on page {i}",
            lambda i: {"page": i, "items": []},
            lambda i: json.dumps({"items": [], "offset": i}),
            lambda i: f"Error: page {i} is out of range",
        ]
    )
    return lead_in(r, [Move(name, fixed | {"page": i}, shape(i)) for i in range(LENGTH)])


@families.add
def text_after_continue(r: random.Random) -> Story:
    text, nudge = sentence(r, r.randint(8, 40)), r.choice(["continue", "Please go on.", "Invalid format: use a tool."])
    messages, moves = [{"role": "user", "content": phrase(r)}], []
    for _ in range(LENGTH):
        moves.append(Move("model", list(messages), text, kind="llm"))
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": nudge}]
    return Story(one(moves), 1)


@families.add
def delegation(r: random.Random) -> Story:
    task, inner = phrase(r), Move(tool(r), args(r), failure(r), agent="worker")
    outer = Move("ask_worker", {"task": task}, "I could not find it.", agent="boss")
    return Story(one([inner, outer] * 20), 1)


@families.add
def nested_keys_shuffled(r: random.Random) -> Story:
    inner, outer = args(r, 3, 5), args(r, 2, 4)

    def shuffled() -> dict[str, Any]:
        pairs, within = list(outer.items()), list(inner.items())
        r.shuffle(pairs)
        r.shuffle(within)
        return dict(pairs) | {"options": dict(within), "list": [dict(within), 1]}

    name, result = tool(r), r.choice([answer(r), failure(r)])
    return lead_in(r, [Move(name, shuffled(), result) for _ in range(LENGTH)])


@families.add
def page_that_never_turns(r: random.Random) -> Story:
    name, fixed, key = tool(r), args(r), r.choice(["page", "offset", "from", "skip"])
    page = [{"title": phrase(r), "n": i} for i in range(12)]
    return lead_in(r, [Move(name, fixed | {key: i}, page) for i in range(LENGTH)])


@families.add
def one_question_in_other_words(r: random.Random) -> Story:
    name, subject, result = tool(r), noun(r), r.choice([r.choice(EMPTIES), sentence(r, 60)])
    return lead_in(
        r, [Move(name, {"query": f"{phrase(r, 1, 3)} {subject} {phrase(r, 1, 2)}"}, result) for _ in range(LENGTH)]
    )


@families.add
def retry_with_backoff(r: random.Random) -> Story:
    call, moves = Move(tool(r), args(r), r.choice(ERRORS)), []
    for i in range(20):
        moves += [
            call,
            Move(r.choice(["sleep", "wait"]), {"seconds": 2**i}, r.choice(["ok", None, f"waited {2**i} seconds"])),
        ]
    return lead_in(r, moves)


@families.add
def large_content_again(r: random.Random) -> Story:
    return lead_in(r, [Move("write_file", {"path": "o", "content": sentence(r, 5_000)}, r.choice(ACKS))] * 10)


@families.add
def agents_that_ask_each_other(r: random.Random) -> Story:
    a, b = r.sample(NOUNS, 2)
    moves = [
        Move(f"ask_{b}", {"question": phrase(r, 3, 3)}, f"You should ask {a}.", agent=a),
        Move(f"ask_{a}", {"question": phrase(r, 3, 3)}, f"That is for {b}.", agent=b),
    ]
    return lead_in(r, moves * 20)


@families.add
def button_that_toggles(r: random.Random) -> Story:
    click, states = Move("click", {"selector": f"#{noun(r)}"}, r.choice(["ok", "Clicked", None])), [token(r), token(r)]
    return lead_in(r, [m for i in range(20) for m in (click, Move("screenshot", {}, {"image": states[i % 2]}))])


@families.add
def error_page(r: random.Random) -> Story:
    page = "<html><h1>502 Bad Gateway</h1><p>Server error, request ID: {}</p><p>{}</p>" + "<!-- padding -->" * 20
    return lead_in(r, [Move("open", {}, page.format(uid(r), iso(i))) for i in range(LENGTH)])


@families.add
def child_after_child(r: random.Random) -> Story:
    inner = Move(tool(r), args(r), r.choice([failure(r), answer(r)]), agent="child")
    return Story(
        one([Move(inner.name, inner.arguments, inner.result, agent="child", branch=f"b{i}") for i in range(20)]), 1
    )


@families.add
def answer_with_its_own_time(r: random.Random) -> Story:
    name, given, hits = tool(r), args(r), [phrase(r)]
    shape = r.choice(
        [
            lambda i: {"hits": hits, "took": i + 3},
            lambda _: {"hits": hits, "request_id": uid(r)},
            lambda i: f"[{iso(i)}] {hits[0]}",
            lambda i: {"data": hits, "generated_at": 17 * 10**8 + i},
        ]
    )
    return lead_in(r, [Move(name, given, shape(i)) for i in range(LENGTH)])


@families.add
def asking_the_user_again(r: random.Random) -> Story:
    question, answers = f"What is the {noun(r)}?", r.choice(["I do not know.", "As I said, I cannot tell.", "No idea"])
    return lead_in(r, [Move("ask_user", {"question": question}, answers) for _ in range(LENGTH)])


@families.add
def search_and_open(r: random.Random) -> Story:
    hits = [{"title": phrase(r), "url": f"https://{noun(r)}.example/{i}"} for i in range(5)]
    search, page = Move("search", {"q": phrase(r)}, hits), Move("open", {"url": hits[0]["url"]}, sentence(r, 200))
    musing = r.random() < 0.5
    moves = []
    for i in range(15):
        moves += [search, *([talk(r, i, "think")] if musing else []), page]
    return lead_in(r, moves)


@families.add
def opaque_cursor(r: random.Random) -> Story:
    name, fixed, page = tool(r), args(r), r.choice([{"items": [], "next": "more"}, {"rows": [], "has_more": True}])
    return lead_in(r, [Move(name, fixed | {"cursor": token(r) + token(r)}, page) for _ in range(LENGTH)])


@families.add
def two_hosts_that_fail(r: random.Random) -> Story:
    hosts = [f"https://{noun(r)}.example/v{i}" for i in (1, 2)]
    moves = [
        Move("http_get", {"url": hosts[i % 2]}, {"status": 503, "request_id": uid(r), "body": "unavailable"})
        for i in range(LENGTH)
    ]
    return lead_in(r, moves)


@families.add
def plan_act_reflect(r: random.Random) -> Story:
    act, moves = Move(tool(r), args(r), None, ("RuntimeError", phrase(r))), []
    for i in range(15):
        moves += [talk(r, i, "think"), act, talk(r, i, "reflect")]
    return lead_in(r, moves)


@families.add
def said_twice_and_thought(r: random.Random) -> Story:
    text, question, moves = sentence(r, 20), phrase(r), []
    for i in range(20):
        moves += [Move("model", [{"role": "user", "content": question}], text, kind="llm"), talk(r, i, "log")]
    return Story(one(moves), 1)
