"""Honest work of several agents and of models on which the breaker was not tuned, as `_work_held_out.py`."""

from __future__ import annotations

import random

from _loop_stories import NOUNS, Families, Move, Story, answer, args, one, phrase, sentence, tool

families = Families()


@families.add
def sub_agents_look_up_the_same(r: random.Random) -> Story:
    look, count = Move(tool(r), args(r), answer(r)), r.randint(4, 20)
    together = r.random() < 0.5
    moves = [
        Move(
            look.name,
            look.arguments,
            look.result,
            agent="worker" if together else f"worker-{i}",
            branch=f"b{i}" if together else None,
        )
        for i in range(count)
    ]
    rest = [Move(tool(r), args(r), answer(r, i), agent=m.agent, branch=m.branch) for i, m in enumerate(moves)]
    return Story([moves, rest] if together else one([m for pair in zip(moves, rest, strict=True) for m in pair]))


@families.add
def supervisor(r: random.Random) -> Story:
    workers, moves = r.sample(NOUNS, 3), []
    for i in range(r.randint(5, 20)):
        worker = r.choice(workers)
        moves.append(Move(f"boss -> {worker}", {"from": "boss", "to": worker, "reason": phrase(r)}, kind="handoff"))
        moves += [Move(tool(r), args(r), answer(r, i), agent=worker) for _ in range(r.randint(1, 3))]
        moves.append(Move(f"{worker} -> boss", {"from": worker, "to": "boss", "reason": "done"}, kind="handoff"))
    return Story(one(moves))


@families.add
def map_over_documents(r: random.Random) -> Story:
    reply = r.choice(["positive", "none", "I could not find any relevant information in this document."])
    ask = lambda: [{"role": "system", "content": "classify"}, {"role": "user", "content": sentence(r, 30)}]  # noqa: E731
    return Story(one([Move("model", ask(), reply, kind="llm") for _ in range(r.randint(5, 40))]))


@families.add
def same_set_with_new_answers(r: random.Random) -> Story:
    calls = [(f"{tool(r)}_{j}", args(r)) for j in range(r.randint(2, 6))]
    return Story([[Move(name, given, answer(r, i)) for name, given in calls] for i in range(r.randint(4, 12))])


@families.add
def writer_and_critic(r: random.Random) -> Story:
    moves = []
    for i in range(r.randint(3, 10)):
        for a, b in (("writer", "critic"), ("critic", "writer")):
            ask = [{"role": "user", "content": phrase(r)}]
            moves.append(Move("model", ask, f"{sentence(r, 60)} {i}", kind="llm", agent=a))
            moves.append(Move(f"{a} -> {b}", {"from": a, "to": b, "reason": "next round"}, kind="handoff"))
    return Story(one(moves))


@families.add
def agents_that_each_wait(r: random.Random) -> Story:
    moves = []
    for i in range(r.randint(5, 15)):
        for agent in ("a", "b", "c"):
            moves.append(Move("wait", {"s": 5}, "ok", agent=agent))
            moves.append(Move("status", {"id": agent}, f"{agent} {i}%", agent=agent))
    return Story(one(moves))


@families.add
def asking_for_a_few_samples(r: random.Random) -> Story:
    ask, reply = [{"role": "user", "content": phrase(r)}], r.choice(["42", sentence(r, 20)])
    return Story([[Move("model", ask, reply, kind="llm")] * r.randint(2, 9)])


@families.add
def nested_agents_in_turn(r: random.Random) -> Story:
    moves = []
    for i in range(r.randint(5, 20)):
        moves += [
            Move("load_rules", {}, "the rules", agent=f"reviewer {i}"),
            Move("review", {"file": f"{i}.py"}, answer(r, i), agent=f"reviewer {i}"),
        ]
    return Story(one(moves))
