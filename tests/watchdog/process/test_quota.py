import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.process.quota import MAX_AUTO_WORKERS, SHRINK_SECONDS, Asked, Held

CPUS = st.floats(0.05, 64.0)


@given(CPUS, st.none() | st.integers(1, 64), st.none() | st.integers(1, 64))
def test_counts_keep_what_was_asked_and_auto_fits_the_cpus(cpus, workers, threads):
    counts = Asked(workers, threads).counts(cpus)
    assert counts[0] == workers if workers else 1 <= counts[0] <= max(1, min(MAX_AUTO_WORKERS, cpus + 0.5))
    assert counts[1] == threads if threads else counts[1] == 1 or counts[0] * counts[1] <= cpus


@pytest.mark.parametrize(("cpus", "counts"), [(0.5, (1, 1)), (1.4, (1, 1)), (1.5, (2, 1)), (8.0, (4, 2))])
def test_auto_rounds_workers_to_the_nearest_and_threads_down(cpus, counts):
    assert Asked(None, None).counts(cpus) == counts


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
