"""The capacity that the front and the cores leave of the workers'."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.engine.capacity import BUSIEST, EVERY, FIRST, CpuCost, Reading

LARGE = 10**9
"""Batches so large that their own cost is nothing for each request."""


def learned(*readings: tuple[float, float, int], batches: int = 0, worker: float = 0.0) -> CpuCost:
    """From readings of (now, front, served), and ``worker`` seconds of CPU time for each request."""
    cost = CpuCost(1024)
    if worker:
        for size in (1, 2, 4):
            cost.observe(size, size * worker)
    cost.read(Reading(0.0, 0.0, 0, 0))
    for reading in readings:
        cost.read(Reading(*reading, batches))
    return cost


def test_without_a_reading_the_workers_alone_decide():
    assert CpuCost(8).bound(500.0, 8, 1.0) == 500.0


def test_one_thread_answers_no_more_than_its_cpu_time_for_each_request_allows():
    # 20 us in the front, and workers that wait for a device.
    cost = learned((10.0, 2.0, 100_000))
    assert cost.bound(80_000.0, LARGE, 8.0) == pytest.approx(50_000)
    assert cost.bound(30_000.0, LARGE, 8.0) == 30_000


def test_front_and_workers_share_the_cores():
    # 20 us in the front, and 40 us in a worker.
    cost = learned((10.0, 2.0, 100_000), worker=40e-6)
    assert cost.bound(50_000.0, 1024, 2.0) == pytest.approx(BUSIEST * 2 / 60e-6, rel=0.005)
    assert cost.bound(50_000.0, 1024, 8.0) == pytest.approx(1 / 20e-6, rel=0.005)


def test_what_the_workers_compute_counts_before_there_is_any_load():
    assert learned(worker=40e-6).bound(50_000.0, 1024, 1.0) == pytest.approx(BUSIEST / 40e-6)


def test_workers_that_tell_no_cpu_time_leave_the_cores_to_the_front():
    cost = learned((10.0, 2.0, 100_000))
    assert cost.bound(80_000.0, LARGE, 2.0) == pytest.approx(50_000)
    assert cost.bound(80_000.0, LARGE, 0.5) == pytest.approx(BUSIEST * 0.5 / 20e-6)


def test_of_a_large_batch_the_cost_is_what_it_took_and_not_that_of_as_many_small_ones():
    cost = CpuCost(64)
    for size in (1, 2, 4, 64):
        cost.observe(size, 0.001 + 0.0001 * size)
    assert cost.bound(1e6, 64, 1.0) == pytest.approx(BUSIEST * 64 / 0.0074)
    assert cost.bound(1e6, 4, 1.0) == pytest.approx(BUSIEST * 4 / 0.0014)


def test_small_batches_under_load_leave_what_large_ones_cost():
    cost = CpuCost(64)
    for size in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(8):
            cost.observe(size, 0.001 + 0.0001 * size)
    for _ in range(10 * FIRST):
        cost.observe(3, 0.0013)
    assert cost.bound(1e6, 64, 1.0) == pytest.approx(BUSIEST * 64 / 0.0074, rel=0.01)


def test_a_model_that_computes_twice_as_much_is_followed_though_one_batch_in_several_counts():
    cost = CpuCost(8)
    for _ in range(FIRST):
        cost.observe(8, 0.008)
    for _ in range(32 * EVERY):
        cost.observe(8, 0.016)
    assert cost.bound(1e6, 8, 1.0) == pytest.approx(BUSIEST * 8 / 0.016, rel=0.01)


def test_what_small_batches_cost_is_not_expected_of_large_ones():
    # 100 us a request in batches of 2, so 33 us apart from the batch, and 133 us for each batch.
    cost = learned((10.0, 2.0, 20_000), batches=10_000)
    assert cost.bound(80_000.0, 2, 8.0) == pytest.approx(1 / 100e-6)
    assert cost.bound(80_000.0, 40, 8.0) == pytest.approx(1 / (33.3333e-6 * 1.1), rel=1e-3)


def test_an_idle_front_says_nothing_since_scrapes_would_count_as_the_cost_of_requests():
    cost = learned((10.0, 0.05, 50))
    assert cost.bound(3_000.0, LARGE, 2.0) == 3_000


def test_what_was_learned_under_load_stays_when_the_load_goes():
    cost = learned((10.0, 2.0, 100_000), (20.0, 2.01, 100_010))
    assert cost.bound(80_000.0, LARGE, 8.0) == pytest.approx(50_000)


def test_overload_that_is_refused_is_no_capacity():
    # All of a core, and a quarter of it for each 10,000 that were served: the rest went into refusals.
    cost = learned((1.0, 1.0, 40_000))
    assert cost.bound(80_000.0, LARGE, 8.0) == pytest.approx(40_000)


def test_readings_close_together_are_one():
    cost = learned((0.5, 0.4, 10), (10.0, 2.0, 100_000))
    assert cost.bound(80_000.0, LARGE, 8.0) == pytest.approx(50_000)


def test_the_cost_follows_the_readings_by_half():
    cost = learned((10.0, 2.0, 100_000), (20.0, 6.0, 200_000))
    assert cost.bound(80_000.0, LARGE, 8.0) == pytest.approx(1 / 30e-6)


@given(
    capacity=st.just(0.0) | st.floats(0.001, 1e6),
    size=st.integers(1, 1024),
    cpus=st.floats(0.1, 64),
    front=st.floats(0, 10),
    served=st.integers(0, 10**6),
    batches=st.lists(st.tuples(st.integers(1, 1024), st.floats(1e-9, 100)), max_size=20),
)
def test_a_bound_only_ever_lowers_and_stays_positive(
    capacity: float, size: int, cpus: float, front: float, served: int, batches: list[tuple[int, float]]
):
    cost = learned((10.0, front, served))
    for count, seconds in batches:
        cost.observe(count, seconds)
    bound = cost.bound(capacity, size, cpus)
    assert 0.0 <= bound <= capacity
    assert bound > 0.0 or capacity == 0.0
