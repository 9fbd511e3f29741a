"""The bound on goodput against the optimum of small cases, found by trying every schedule."""

from functools import cache
from itertools import accumulate, chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.simulate import SimulationError
from tailbound_lab.simulate.clairvoyant import Batches, Kind, most_on_time
from tailbound_lab.simulate.function import Service


def optimum(kinds, batches, workers):
    """The most requests on time, by search over all batches in all orders on all workers."""
    requests = [
        (arrived, arrived + kind.budget, number)
        for number, kind in enumerate(kinds)
        for arrived in kind.arrivals
    ]
    every = range(len(requests))
    groups = list(chain.from_iterable(combinations(every, size) for size in range(1, len(requests) + 1)))

    @cache
    def most(left, free):
        found = 0
        for group in groups:
            if not left.issuperset(group):
                continue
            for each in batches:
                fits = len(group) <= len(each.service.seconds)
                if not fits or any(requests[index][2] not in each.kinds for index in group):
                    continue
                start = max(free[0], *(requests[index][0] for index in group))
                end = start + each.service.seconds[len(group) - 1]
                if all(end <= requests[index][1] for index in group):
                    found = max(
                        found, len(group) + most(left.difference(group), tuple(sorted((*free[1:], end))))
                    )
        # The worker that is free first may also stay idle for good.
        return max(found, most(left, free[1:])) if len(free) > 1 else found

    return most(frozenset(every), (0,) * workers)


services = st.lists(st.integers(0, 2), min_size=1, max_size=3).map(
    lambda more: Service(tuple(map(float, accumulate(more, initial=1))))
)
arrivals = st.lists(st.integers(0, 9), max_size=3).map(lambda times: [float(time) for time in sorted(times)])
loads = st.lists(st.builds(Kind, arrivals, st.integers(1, 6).map(float)), min_size=1, max_size=2)


@given(kinds=loads, first=services, second=services, shared=st.booleans(), workers=st.integers(1, 2))
def test_bound_is_never_below_the_optimum(kinds, first, second, shared, workers):
    if shared or len(kinds) == 1:
        batches = [Batches(tuple(range(len(kinds))), first), Batches((0,), second)]
    else:
        batches = [Batches((0,), first), Batches((1,), second)]
    best = optimum(kinds, batches, workers)
    assert best <= most_on_time(kinds, batches, workers, 1.0) + 1e-9
    assert best <= most_on_time(kinds, batches, workers, 0.3) + 1e-9


SERVICE = Service.affine(2.0, 1.0, 8)


@pytest.mark.parametrize(
    ("arrivals", "budget", "workers", "most"),
    [
        ([0.0] * 10, 6.0, 1, 4),
        ([0.0] * 10, 6.0, 2, 8),
        ([0.0, 0.0, 10.0, 10.0], 6.0, 1, 4),
        ([0.0, 1.0, 2.0], 2.5, 1, 0),
        ([], 2.0, 1, 0),
    ],
    ids=["one batch", "two workers", "two batches", "too slow", "no traffic"],
)
def test_bound_of_cases_by_hand_is_the_optimum(arrivals, budget, workers, most):
    found = most_on_time([Kind(arrivals, budget)], [Batches((0,), SERVICE)], workers, 1.0)
    assert found == pytest.approx(most)


def test_batches_that_would_begin_later_are_not_counted():
    kinds, batches = [Kind([0.0, 10.0], 3.5)], [Batches((0,), SERVICE)]
    assert most_on_time(kinds, batches, 1, 1.0, until=10.0) == pytest.approx(1.0)


def test_prices_keep_two_workers_from_serving_the_rare_kind_twice():
    kinds = [Kind([float(time) for time in range(0, 200, 10)], 3.0), Kind([], 3.0)]
    batches = [Batches((0,), SERVICE), Batches((1,), SERVICE)]
    assert most_on_time(kinds, batches, 2, 1.0) == pytest.approx(20.0)


def test_grid_coarser_than_a_batch_is_refused():
    with pytest.raises(SimulationError, match="grid"):
        most_on_time([Kind([0.0], 9.0)], [Batches((0,), SERVICE)], 1, 3.5)
