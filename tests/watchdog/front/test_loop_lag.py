"""When a request came in, if the loop was too busy to read it at once."""

import pytest

from batching_watchdog.front.loop_lag import IDLE_SECONDS, READS_PER_POLL, LoopLag


class Loop:
    """Turns of a loop that the test takes, on a clock that it moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon = []
        self.polls = 0
        self.lag = LoopLag(self, lambda: self.now, self._poll)

    def call_soon(self, callback):
        self.soon.append(callback)

    def turn(self, *reads: float, then_waits: float = 0.0) -> list[float]:
        """One turn that reads after each of these times; when its reads came in."""
        came = []
        for seconds in reads:
            self.now += seconds
            came.append(self.lag.came_at(self.now))
        while self.soon:
            self.soon.pop()()
        self.now += then_waits
        return came

    def _poll(self) -> None:
        self.polls += 1


@pytest.mark.parametrize(("pause", "came"), [(IDLE_SECONDS / 2, 100.0), (IDLE_SECONDS * 2, 100.051)])
def test_all_that_a_busy_loop_reads_may_have_come_at_the_beginning_of_its_last_turn(pause, came):
    loop = Loop()
    assert loop.turn(0.0, 0.050, then_waits=pause) == [100.0, 100.0]
    assert loop.turn(0.0, 0.001, 0.001) == [pytest.approx(came)] * 3


def test_backlog_is_forgotten_when_the_loop_has_had_to_wait():
    loop = Loop()
    loop.turn(0.0, 0.050)
    loop.turn(0.0, then_waits=0.001)
    assert loop.turn(0.0) == [loop.now]


def test_workers_are_polled_between_reads():
    loop = Loop()
    for _ in range(3 * READS_PER_POLL):
        loop.lag.read_done()
    assert loop.polls == 3
