"""How an action gets in: at once, after calls in flight gave something back, after a person said yes, or not at all."""

from __future__ import annotations

import asyncio

from shearpin.rules.approval import Approver, aask, ask
from shearpin.rules.protocol import Question
from shearpin.runs.refusing import Refusal
from shearpin.runs.tree import Outbox, Tree
from shearpin.runs.waiting import on_event_loop
from shearpin.trace import Span, source


def enter(tree: Tree, span: Span, native: Approver | None = None) -> Span:
    """Admit `span` or raise the stop. In a thread it waits when only calls in flight are in the way.

    `native` is the framework's own way to ask a person. Raises `ToldError` for a denial that the model is told of,
    and whatever `native` raises in order to pause.
    """
    outbox: Outbox = []
    try:
        while (question := _attempt(tree, span, outbox)) is not None:
            tree.answered(span, question, ask(question.request, question.approver, native))
        if outbox:
            tree.tell(outbox)
        return span
    except BaseException:
        tree.withdraw(span)  # if a signal came when it was in
        raise


def _attempt(tree: Tree, span: Span, outbox: Outbox) -> Question | None:
    with tree.lock:
        refusals = tree.attempt(span, outbox)
        if not refusals:
            return None
        waits = not on_event_loop()
        if not tree.settings.enforce:
            tree.observe(span, refusals, outbox, waits=waits)
            return None
        if waits:
            refusals = _wait(tree, span, refusals, outbox)
        return tree.refuse(span, refusals) if refusals else None


def _wait(tree: Tree, span: Span, refusals: list[Refusal], outbox: Outbox) -> list[Refusal]:
    deadline = source.mono_ns() + tree.patience_ns(span, refusals[0])
    while refusals and (left := (deadline - source.mono_ns()) / 1e9) > 0:
        tree.waiters.threads += 1
        try:
            tree.changed.wait(left)
        finally:
            tree.waiters.threads -= 1
        refusals = tree.attempt(span, outbox)
        if refusals and not tree.patience_ns(span, refusals[0]):
            break
    return refusals


async def aenter(tree: Tree, span: Span, native: Approver | None = None) -> Span:
    """`enter` for a coroutine: waits without blocking the event loop, and leaks nothing when cancelled."""
    try:
        await _enter_waiting(tree, span, native)
    except BaseException:
        tree.withdraw(span)
        raise
    return span


async def _enter_waiting(tree: Tree, span: Span, native: Approver | None) -> None:
    outbox: Outbox = []
    deadline: int | None = None
    while True:
        with tree.lock:
            refusals = tree.attempt(span, outbox)
            if not refusals:
                break
            if not tree.settings.enforce:
                tree.observe(span, refusals, outbox, waits=True)
                break
            patience = tree.patience_ns(span, refusals[0])
            deadline = deadline or source.mono_ns() + patience
            left = (deadline - source.mono_ns()) / 1e9
            waits = patience > 0 and left > 0
            question = None if waits else tree.refuse(span, refusals)
            future = tree.waiters.add() if waits else None
        if future is not None:
            await _given_back(tree, future, left)
        elif question is not None:
            tree.answered(span, question, await aask(question.request, question.approver, native))
            deadline = None
        else:
            break
    tree.tell(outbox)


async def _given_back(tree: Tree, future: asyncio.Future[None], seconds: float) -> None:
    try:
        await asyncio.wait_for(future, seconds)
    except TimeoutError:
        return
    finally:
        tree.waiters.discard(future)
