"""A model call that a framework announces and a wrapped client then makes is one call."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref

import pytest

from shearpin import Guard
from shearpin.adapter import Reply, announce
from shearpin.trace.ambient import claim


@pytest.fixture
def pin() -> Guard:
    return Guard()


def test_an_announced_call_is_claimed_once(pin):
    with pin.run("ask") as run:
        for _ in range(2):
            announce(run, run.start("llm", "m"))

        assert [claim(pin) for _ in range(4)] == [True, True, False, False]


def test_nothing_is_claimed_that_was_not_announced_to_this_guard(pin):
    with pin.run("ask") as run:
        assert not claim(pin)
        announce(run, run.start("llm", "m"))
        assert not claim(Guard())
        assert claim(pin)


@pytest.mark.parametrize("over", ["ended", "heard"])
def test_a_call_whose_request_has_been_made_is_not_claimed(pin, over):
    with pin.run("ask") as run:
        span = run.start("llm", "m")
        announce(run, span)
        if over == "ended":
            run.end(span, reply=Reply(text="hi"))
        else:
            run.first_token(span)

        assert not claim(pin)


async def test_an_announcement_reaches_the_tasks_and_threads_that_are_started_after_it(pin):
    async def ask() -> bool:
        return claim(pin)

    async with pin.run("ask") as run:
        for _ in range(2):
            announce(run, run.start("llm", "m"))

        assert await asyncio.create_task(ask())
        assert await asyncio.to_thread(claim, pin)
        assert not claim(pin)


def test_a_context_keeps_no_run_alive(pin):
    context = contextvars.copy_context()

    def ask() -> weakref.ref:
        with Guard().run("ask") as run:
            announce(run, run.start("llm", "m"))
            return weakref.ref(run)

    left = context.run(ask)
    gc.collect()

    assert left() is None
    assert not context.run(claim, pin)
