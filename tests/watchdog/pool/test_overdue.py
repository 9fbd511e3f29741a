from collections.abc import Mapping

import pytest

from batching_watchdog.config import Config
from batching_watchdog.pool.overdue import GRACE_SECONDS, LEAST_SECONDS, PERIOD, TIMES, Kill, Overdue, Work

USUAL = 0.02
"""Seconds that the work of these tests should take."""


class Workers:
    """Workers ``a`` and ``b``, looked at every ``PERIOD`` seconds."""

    def __init__(self, **environment: str) -> None:
        times = {"slo_latency": "200ms", "exec_timeout": "10s", "load_timeout": "60s", **environment}
        self.overdue: Overdue[str] = Overdue(Config.from_env(times, cpus=1.0))
        self.now = 0.0

    def look(self, works: Mapping[str, Work], *, queued: bool = True) -> list[Kill[str]]:
        self.now += PERIOD
        return self.overdue.look(works, ["a", "b"], self.now, queued=queued)

    def run(self, seconds: float, works: Mapping[str, Work], *, queued: bool = True) -> list[Kill[str]]:
        """Look for ``seconds`` while the workers are at this work; return the kills."""
        rounds = range(round(seconds / PERIOD))
        return [kill for _ in rounds for kill in self.look(works, queued=queued)]


def work(number: int = 5, *, seconds: float = USUAL, untried: bool = False) -> Work:
    return Work(number, True, seconds, untried)


IDLE = Work(5, False, 0.0, False)


def test_first_work_may_take_as_long_as_loading_until_one_has_ended():
    workers = Workers()
    assert workers.run(59.0, {"a": work(0), "b": work(0)}) == []
    kills = workers.run(2.0, {"a": work(0), "b": work(0)})
    assert {kill.limit for kill in kills} == {60.0}
    assert "load_timeout" in kills[0].setting


@pytest.mark.parametrize(("took", "limit"), [(3.0, 30.0), (0.0, 10.0)])
def test_first_work_of_a_later_worker_has_ten_times_the_longest_one_and_at_least_exec_timeout(took, limit):
    workers = Workers()
    workers.run(took + PERIOD, {"a": work(0), "b": IDLE})
    workers.look({"a": work(1), "b": IDLE})
    kills = workers.run(60.0, {"a": IDLE, "b": work(0)})
    assert kills[0].limit == pytest.approx(limit)
    assert kills[0].seconds == pytest.approx(limit, abs=PERIOD)


@pytest.mark.parametrize(
    ("other", "queued", "untried", "limit"),
    [
        pytest.param(work(), True, False, LEAST_SECONDS, id="no worker serves and requests wait"),
        pytest.param(work(), False, False, 10.0, id="none waits"),
        pytest.param(IDLE, True, False, 10.0, id="another serves"),
        pytest.param(work(), True, True, 5.0, id="it may compile as the first one did"),
    ],
)
def test_worker_is_ended_early_only_where_others_need_it(other, queued, untried, limit):
    workers = Workers()
    workers.run(0.5 + PERIOD, {"a": work(0), "b": IDLE})
    workers.look({"a": IDLE, "b": IDLE})
    kills = workers.run(limit - PERIOD, {"a": work(untried=untried), "b": other}, queued=queued)
    assert [kill for kill in kills if kill.worker == "a"] == []
    kills = workers.run(3 * PERIOD, {"a": work(untried=untried), "b": other}, queued=queued)
    assert [kill.limit for kill in kills if kill.worker == "a"] == [limit]


@pytest.mark.parametrize(
    ("environment", "seconds", "due"),
    [({}, 0.5, TIMES * 0.5), ({"slo_latency": "400ms"}, USUAL, TIMES * 0.4), ({}, 100.0, 10.0)],
)
def test_long_work_and_a_slow_target_give_more_time_up_to_exec_timeout(environment, seconds, due):
    workers = Workers(**environment)
    both = {"a": work(seconds=seconds), "b": work(seconds=seconds)}
    workers.run(due, both, queued=False)
    assert not workers.overdue.all
    workers.run(3 * PERIOD, both, queued=False)
    assert workers.overdue.all


def test_worker_is_overdue_while_others_serve():
    workers = Workers()
    workers.run(LEAST_SECONDS, {"a": work(), "b": IDLE})
    assert workers.overdue.workers == set()
    workers.run(2 * PERIOD, {"a": work(), "b": IDLE})
    assert workers.overdue.workers == {"a"}


@pytest.mark.parametrize("other", [IDLE, work(6)])
def test_replica_with_a_worker_that_goes_on_is_not_overdue(other):
    workers = Workers()
    workers.run(5.0, {"a": work(), "b": work()})
    assert workers.overdue.all
    workers.look({"a": work(), "b": other})
    assert not workers.overdue.all


def test_time_in_which_the_watchdog_itself_stood_still_counts_for_no_worker():
    workers = Workers()
    workers.look({"a": work(), "b": work()})
    workers.now += 3600.0
    assert workers.look({"a": work(), "b": work()}) == []


def test_worker_that_does_not_end_is_killed():
    workers = Workers()
    kills = workers.run(12.0, {"a": work(), "b": IDLE})
    told, killed, *_ = kills
    assert (told.at_once, killed.at_once) == (False, True)
    assert killed.seconds == pytest.approx(told.seconds + GRACE_SECONDS)


def test_stream_that_joins_while_a_step_hangs_waits_for_it_and_gives_it_no_more_time():
    workers = Workers()
    workers.run(1.5, {"a": work(0), "b": work(0)})
    workers.run(1.5, {"a": work(), "b": work()})
    joined = work(untried=True)._replace(starting=1)
    assert workers.run(1.5, {"a": joined, "b": work()}, queued=False)[0].limit == LEAST_SECONDS
