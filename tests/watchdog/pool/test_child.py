import asyncio

import pytest

from batching_watchdog.pool.child import BACKOFF_SECONDS, STABLE_SECONDS, Backoff, Tasks


def test_every_short_life_lengthens_the_wait_up_to_the_longest():
    backoff = Backoff()
    waits = [backoff.after(0.1) for _ in range(len(BACKOFF_SECONDS) + 2)]
    assert waits == [*BACKOFF_SECONDS, BACKOFF_SECONDS[-1], BACKOFF_SECONDS[-1]]


def test_a_long_life_forgets_what_went_before():
    backoff = Backoff()
    for _ in range(4):
        backoff.after(0.1)
    assert [backoff.after(STABLE_SECONDS + 1), backoff.after(0.1)] == list(BACKOFF_SECONDS[:2])


def test_the_first_task_that_fails_ends_the_whole_and_a_cancelled_one_does_not():
    async def fail(text: str) -> None:
        raise ValueError(text)

    async def run() -> None:
        tasks = Tasks()
        failed = tasks.failed
        tasks.spawn(asyncio.sleep(60), "sleeps")
        await tasks.cancel()
        assert not failed.done()
        tasks.spawn(fail("first"), "fails")
        tasks.spawn(fail("second"), "fails too")
        with pytest.raises(ValueError, match="first"):
            await failed

    asyncio.run(run())
