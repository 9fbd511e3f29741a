"""The capacity that the front and the cores leave of the workers'."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.capacity import CpuCost, Reading

LARGE = 10**9
"""Batches so large that their own cost is nothing for each request."""


def learnt(*readings: tuple[float, float, float | None, float, int], batches: int = 0) -> CpuCost:
    cost = CpuCost()
    cost.read(Reading(0.0, 0.0, 0.0, 0.0, 0, 0))
    for reading in readings:
        cost.read(Reading(*reading, batches))
    return cost


def test_without_a_reading_the_workers_alone_decide():
    assert CpuCost().bound(500.0, LARGE, 2, 1.0) == 500.0


def test_one_thread_answers_no_more_than_its_cpu_time_for_each_request_allows():
    # 20 us in the front, and workers that wait for a device.
    cost = learnt((10.0, 2.0, 0.0, 10.0, 100_000))
    assert cost.bound(80_000.0, LARGE, 2, 8.0) == pytest.approx(50_000)
    assert cost.bound(30_000.0, LARGE, 2, 8.0) == 30_000


def test_front_and_workers_share_the_cores():
    # 20 us in the front; workers need 40 us at their best size and compute all of that time.
    cost = learnt((10.0, 2.0, 8.0, 8.0, 100_000))
    assert cost.bound(50_000.0, LARGE, 2, 2.0) == pytest.approx(2 / 60e-6)
    assert cost.bound(50_000.0, LARGE, 2, 4.0) == pytest.approx(50_000)


def test_what_small_batches_cost_is_not_expected_of_large_ones():
    # 100 us a request in batches of 2, so 33 us apart from the batch, and 133 us for each batch.
    cost = learnt((10.0, 2.0, 0.0, 10.0, 20_000), batches=10_000)
    assert cost.bound(80_000.0, 2, 2, 8.0) == pytest.approx(1 / 100e-6)
    assert cost.bound(80_000.0, 40, 2, 8.0) == pytest.approx(1 / (33.3333e-6 * 1.1), rel=1e-3)


def test_an_idle_front_says_nothing_since_scrapes_would_count_as_the_cost_of_requests():
    cost = learnt((10.0, 0.05, 0.0, 0.1, 50))
    assert cost.bound(3_000.0, LARGE, 2, 2.0) == 3_000


def test_what_was_learnt_under_load_stays_when_the_load_goes():
    cost = learnt((10.0, 2.0, 0.0, 10.0, 100_000), (20.0, 2.01, 0.0, 10.0, 100_010))
    assert cost.bound(80_000.0, LARGE, 2, 8.0) == pytest.approx(50_000)


def test_overload_that_is_refused_is_no_capacity():
    # All of a core, and a quarter of it for each 10,000 that were served: the rest went into refusals.
    cost = learnt((1.0, 1.0, 0.0, 1.0, 40_000))
    assert cost.bound(80_000.0, LARGE, 2, 8.0) == pytest.approx(40_000)


def test_readings_close_together_are_one():
    cost = learnt((0.5, 0.4, 0.0, 0.5, 10), (10.0, 2.0, 0.0, 10.0, 100_000))
    assert cost.bound(80_000.0, LARGE, 2, 8.0) == pytest.approx(50_000)


def test_a_replaced_worker_takes_its_cpu_time_along_and_that_reading_is_left_out():
    cost = learnt((10.0, 2.0, 8.0, 8.0, 100_000), (20.0, 4.0, 1.0, 16.0, 200_000))
    assert cost.bound(50_000.0, LARGE, 2, 2.0) == pytest.approx(2 / 60e-6)


def test_workers_whose_cpu_time_can_not_be_read_are_not_counted():
    cost = learnt((10.0, 2.0, None, 8.0, 100_000))
    assert cost.bound(50_000.0, LARGE, 2, 1.0) == pytest.approx(50_000)


def test_the_cost_follows_the_readings_by_half():
    cost = learnt((10.0, 2.0, 0.0, 10.0, 100_000), (20.0, 6.0, 0.0, 20.0, 200_000))
    assert cost.bound(80_000.0, LARGE, 2, 8.0) == pytest.approx(1 / 30e-6)


@given(
    capacity=st.just(0.0) | st.floats(0.001, 1e6),
    size=st.integers(1, 1024),
    workers=st.integers(1, 8),
    cpus=st.floats(0.1, 64),
    front=st.floats(0, 10),
    spent=st.floats(0, 20),
    busy=st.floats(0, 20),
    served=st.integers(0, 10**6),
)
def test_a_bound_only_ever_lowers_and_stays_positive(
    capacity: float,
    size: int,
    workers: int,
    cpus: float,
    front: float,
    spent: float,
    busy: float,
    served: int,
):
    bound = learnt((10.0, front, spent, busy, served)).bound(capacity, size, workers, cpus)
    assert 0.0 <= bound <= capacity
    assert bound > 0.0 or capacity == 0.0
