"""Who executes: a call never waits for one that its own task or thread has open, and for every other it does."""

import asyncio
import threading

from shearpin.runs.waiting import owner_here


async def test_tasks_that_come_one_after_the_other_are_told_apart():
    async def who() -> int:
        assert owner_here() == owner_here()
        return owner_here()

    seen = [await asyncio.create_task(who()) for _ in range(100)]

    assert len(set(seen)) == 100


def test_so_are_threads():
    seen: list[int] = []
    for _ in range(50):
        thread = threading.Thread(target=lambda: seen.extend([owner_here(), owner_here()]))
        thread.start()
        thread.join()

    assert len(set(seen)) == 50
    assert seen[::2] == seen[1::2]
