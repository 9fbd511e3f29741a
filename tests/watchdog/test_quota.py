import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.quota import MAX_AUTO_WORKERS, SHRINK_SECONDS, Asked, Cores, Held, Use, slowdown

CPUS = st.floats(0.05, 64.0)
CORES = st.builds(Cores, CPUS, st.integers(1, 8), st.integers(1, 16))
BUSY = st.floats(0.01, 100.0)


@given(CPUS, st.none() | st.integers(1, 64), st.none() | st.integers(1, 64))
def test_counts_keep_what_was_asked_and_auto_fits_the_cpus(cpus, workers, threads):
    counts = Asked(workers, threads).counts(cpus)
    assert counts[0] == workers if workers else 1 <= counts[0] <= max(1, min(MAX_AUTO_WORKERS, cpus + 0.5))
    assert counts[1] == threads if threads else counts[1] == 1 or counts[0] * counts[1] <= cpus


@given(st.lists(st.tuples(st.floats(0.0, 20.0), CPUS), min_size=1))
def test_held_cpus_grow_at_once_and_are_read_within_the_last_seconds(steps):
    held, now, readings = Held(), 0.0, []
    for passed, cpus in steps:
        now += passed
        readings.append((now, cpus))
        result = held.read(cpus, now)
        assert result >= cpus
        assert result == max(read for at, read in readings if at > now - SHRINK_SECONDS)


def test_quota_that_changes_every_second_changes_no_count():
    held = Held()
    counts = [Asked(None, None).counts(held.read((3.0, 0.5)[second % 2], second)) for second in range(60)]
    assert set(counts) == {(3, 1)}


@given(CORES, CORES, BUSY, st.floats(0.0, 4.0))
def test_batches_change_by_no_more_than_the_cpus_of_a_worker(before, after, seconds, cores):
    factor = slowdown(before, after, Use(1.0, seconds, seconds * cores))
    ratio = before.each / after.each
    if ratio < 1.0:
        assert ratio * (1 - 1e-9) <= factor <= 1.0
    else:
        assert factor >= 1.0
        assert factor == 1.0 or factor == pytest.approx(cores / after.each)


ONE, TWO = Use(1.0, 1.0, 0.5), Use(1.0, 2.0, 1.5)
"""One worker, slowed to half a core; two, that share one and a half."""


@pytest.mark.parametrize(
    ("before", "after", "use", "factor"),
    [
        pytest.param(Cores(0.5, 1, 1), Cores(0.75, 1, 1), ONE, 2 / 3, id="in proportion"),
        pytest.param(Cores(0.5, 1, 1), Cores(2.0, 1, 1), ONE, 1 / 2, id="one thread uses one core"),
        pytest.param(Cores(0.5, 1, 2), Cores(2.0, 1, 2), ONE, 1 / 4, id="two use two"),
        pytest.param(Cores(0.5, 1, 1), Cores(1.5, 2, 1), ONE, 2 / 3, id="shared with one more worker"),
        pytest.param(Cores(1.5, 2, 1), Cores(0.5, 2, 1), TWO, 3.0, id="lowered under load"),
        pytest.param(Cores(1.5, 2, 1), Cores(0.5, 2, 1), Use(1.0, 0.5, 0.4), 1.0, id="lowered in a lull"),
        pytest.param(Cores(1.0, 1, 1), Cores(3.0, 1, 1), Use(1.0, 1.0, 0.1), 1.0, id="it waits for a device"),
        pytest.param(
            Cores(0.5, 1, 1), Cores(1.5, 1, 1), Use(1.0, 0.1, 0.1), 1.0, id="short batches use a core"
        ),
        pytest.param(Cores(0.5, 1, 1), Cores(1.5, 1, 1), Use(1.0, 0.0, 0.0), 1.0, id="nothing ran"),
    ],
)
def test_change_of_the_quota_changes_the_time_of_a_batch(before, after, use, factor):
    assert slowdown(before, after, use) == pytest.approx(factor)
