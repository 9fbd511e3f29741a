"""The capacity that the front and the cores leave of the workers'."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.engine.capacity import BUSIEST, EVERY, FIRST, CpuCost, Reading

LARGE = 10**9
"""Batches so large that their own cost is nothing for each request."""
BUSY = (10.0, 2.0, 100_000)
"""After ten seconds: 20 us in the front for each of 100,000 requests."""
SMALL = (10.0, 2.0, 20_000)
"""100 us for each of 20,000."""


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


FAST = 80_000.0
"""Requests per second: more than the front of any test can do."""


@pytest.mark.parametrize(
    ("cost", "capacity", "size", "cpus", "bound"),
    [
        pytest.param(CpuCost(8), 500.0, 8, 1.0, 500, id="no reading: the workers alone"),
        pytest.param(learned(BUSY), FAST, LARGE, 8.0, 50_000, id="the CPU time of one thread"),
        pytest.param(learned(BUSY), 30_000.0, LARGE, 8.0, 30_000, id="never more than the workers'"),
        pytest.param(learned(BUSY), FAST, LARGE, 0.5, BUSIEST * 0.5 / 20e-6, id="half a core"),
        # 20 us in the front, and 40 us in a worker.
        pytest.param(learned(BUSY, worker=40e-6), FAST, 1024, 2.0, BUSIEST * 2 / 60e-6, id="shared cores"),
        pytest.param(learned(BUSY, worker=40e-6), FAST, 1024, 8.0, 50_000, id="many cores"),
        pytest.param(learned(worker=40e-6), FAST, 1024, 1.0, BUSIEST / 40e-6, id="before any load"),
        # 100 us a request in batches of 2, so 33 us apart from the batch, and 133 us for each batch.
        pytest.param(learned(SMALL, batches=10_000), FAST, 2, 8.0, 10_000, id="small batches"),
        pytest.param(
            learned(SMALL, batches=10_000), FAST, 40, 8.0, 1 / 36.6667e-6, id="large ones after them"
        ),
        pytest.param(learned((10.0, 0.05, 50)), 3_000.0, LARGE, 2.0, 3_000, id="idle: scrapes would count"),
        pytest.param(learned(BUSY, (20.0, 2.01, 100_010)), FAST, LARGE, 8.0, 50_000, id="idle after a load"),
        # All of a core, and a quarter of it for each 10,000 that were served: the rest went into refusals.
        pytest.param(learned((1.0, 1.0, 40_000)), FAST, LARGE, 8.0, 40_000, id="overload that is refused"),
        pytest.param(learned((0.5, 0.4, 10), BUSY), FAST, LARGE, 8.0, 50_000, id="readings close together"),
        pytest.param(learned(BUSY, (20.0, 6.0, 200_000)), FAST, LARGE, 8.0, 1 / 30e-6, id="followed by half"),
    ],
)
def test_capacity_is_what_the_front_and_the_cores_leave(
    cost: CpuCost, capacity: float, size: int, cpus: float, bound: float
):
    assert cost.bound(capacity, size, cpus) == pytest.approx(bound, rel=0.005)


def test_the_cost_of_a_size_is_what_it_took_and_small_batches_under_load_leave_that():
    cost = CpuCost(64)
    for size in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(8):
            cost.observe(size, 0.001 + 0.0001 * size)
    assert cost.bound(1e6, 4, 1.0) == pytest.approx(BUSIEST * 4 / 0.0014)
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
