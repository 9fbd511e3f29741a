"""Laws that split a cluster among jobs."""

import numpy as np
import pytest

from tailbound_lab.simulate.cluster import Setting, run
from tailbound_lab.simulate.split import DOWN_AFTER, ByLatency, LateTable, Ours, fair_share


class FakeJob:
    """A job as a law sees it, with a latency and a rate that a test sets."""

    setting = Setting()
    busy = False

    def __init__(self, target=1, latency=None, rate=1.0):
        self.target = target
        self.latency = latency
        self._rate = rate

    def mean_latency(self):
        return self.latency

    def rate(self, seconds):
        return self._rate


@pytest.fixture(scope="module")
def table():
    return LateTable(Setting(), requests=1000)


def observed(law, jobs, cap, times):
    """Apply the law so many times; return the counts in the end."""
    for number in range(1, times + 1):
        for job, target in zip(jobs, law(10.0 * number, jobs, cap), strict=True):
            job.target = target
    return [job.target for job in jobs]


@pytest.mark.parametrize(("one_shot", "count"), [(False, 3), (True, 4)])
def test_latency_above_the_slo_adds_replicas_at_the_third_observation(one_shot, count):
    assert observed(ByLatency(one_shot=one_shot), [FakeJob(2, latency=1.44)], 10, 2) == [2]
    assert observed(ByLatency(one_shot=one_shot), [FakeJob(2, latency=1.44)], 10, 3) == [count]


@pytest.mark.parametrize(("one_shot", "count"), [(False, 7), (True, 2)])
def test_latency_below_the_slo_removes_replicas_after_ten_minutes(one_shot, count):
    assert observed(ByLatency(one_shot=one_shot), [FakeJob(8, latency=0.18)], 10, DOWN_AFTER - 1) == [8]
    assert observed(ByLatency(one_shot=one_shot), [FakeJob(8, latency=0.18)], 10, DOWN_AFTER) == [count]


def test_latency_laws_ask_for_no_more_than_the_cluster_has():
    jobs = [FakeJob(3, latency=7.2), FakeJob(3, latency=7.2)]
    assert observed(ByLatency(one_shot=True), jobs, 8, 3) == [5, 3]


def test_late_share_rises_with_the_rate_and_is_1_beyond_what_can_be_served(table):
    rates = np.linspace(0.0, 60.0, 200)
    for replicas in (1, 3, 7, 40):
        late = table.late(replicas, rates)
        assert late[0] == 0.0
        assert np.all(np.diff(late) >= 0.0)
    assert table.late(3, np.array([60.0])) == [1.0]
    assert table.late(0, np.array([1.0])) == [1.0]


def test_ours_gives_the_busy_job_what_it_needs_and_stays_within_the_cluster(table):
    jobs = [FakeJob(1, rate=24.0), FakeJob(1, rate=0.5), FakeJob(1, rate=0.5)]
    counts = observed(Ours(table, 0.99), jobs, 8, 20)
    assert counts[0] >= 5
    assert sum(counts) <= 8


def test_ours_moves_no_replica_between_equals(table):
    jobs = [FakeJob(rate=20.0), FakeJob(rate=20.0), FakeJob(rate=20.0)]
    law = Ours(table, 0.99)
    first = observed(law, jobs, 10, 1)
    assert observed(law, jobs, 10, 30) == first


def test_ours_has_fewer_violations_than_equal_shares_where_traffic_moves(table):
    counts = [[1300] * 20 + [100] * 20, [100] * 20 + [1300] * 20]
    equal = run(counts, 6, fair_share, replicas=3)
    ours = run(counts, 6, Ours(table, 0.99))
    assert ours.violations < equal.violations
