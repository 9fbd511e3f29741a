"""When a request came in, if the loop was too busy to read it at once."""

import asyncio
from collections.abc import Callable

from batching_watchdog.front.loop_lag import LOOK_EVERY, Turns


class Loop:
    """Turns that the test takes, on a clock that it moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Callable[[], None]] = []
        self.looks = 0
        self.turns = Turns(self, lambda: self.now, self._look)  # type: ignore[arg-type] # call_soon is all it uses

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def end_turn(self) -> None:
        while self.soon:
            self.soon.pop()()

    def read(self, after: float = 0.0) -> float:
        self.now += after
        return self.turns.came_at(self.now)

    def _look(self) -> None:
        self.looks += 1


def test_what_a_waiting_loop_reads_came_just_now():
    loop = Loop()
    assert loop.read() == 100.0
    loop.end_turn()
    assert loop.read(after=5.0) == 105.0


def test_what_a_busy_loop_reads_may_have_come_at_the_beginning_of_its_last_turn():
    loop = Loop()
    began = loop.read()
    loop.read(after=0.050)
    loop.end_turn()
    assert loop.read() == began


def test_all_that_is_read_in_a_turn_may_have_come_at_the_same_time():
    loop = Loop()
    began = loop.read()
    loop.now += 0.050
    loop.end_turn()
    loop.read()
    assert [loop.read(after=0.001) for _ in range(5)] == [began] * 5


def test_a_backlog_is_forgotten_when_the_loop_has_had_to_wait():
    loop = Loop()
    loop.read()
    loop.now += 0.050
    loop.end_turn()
    loop.read()
    loop.end_turn()
    assert loop.read(after=0.001) == loop.now


def test_what_can_not_wait_is_looked_at_between_reads():
    loop = Loop()
    for _ in range(3 * LOOK_EVERY):
        loop.turns.read_done()
    assert loop.looks == 3


def test_a_real_loop_that_was_held_up_dates_back_what_came_meanwhile():
    async def run() -> None:
        loop = asyncio.get_running_loop()
        turns = Turns(loop, loop.time, lambda: None)
        first = turns.came_at(loop.time())
        while loop.time() < first + 0.02:
            pass
        seen: list[float] = []
        loop.call_soon(lambda: loop.call_soon(lambda: seen.append(turns.came_at(loop.time()))))
        await asyncio.sleep(0.1)
        assert seen == [first]

    asyncio.run(run())
