"""What a simulated function's numbers mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.simulate import SimulationError
from tailbound_lab.simulate.function import Function, Service


def test_an_affine_service_time_has_every_size_up_to_the_largest():
    assert Service.affine(0.02, 0.01, 3).seconds == pytest.approx((0.03, 0.04, 0.05))


def test_capacity_counts_the_batch_ahead_and_the_own_one():
    # With one worker 2 x l(b) <= 200 ms: l(8) = 100 ms is the largest, 8 / 0.1 s = 80/s.
    assert Function(Service.affine(0.02, 0.01, 32), slo_latency=0.2001).capacity == pytest.approx(80.0)


def test_with_two_workers_the_batch_ahead_is_shared():
    # 1.5 x l(b) <= 200 ms: l(11) = 130 ms, 2 x 11 / 0.13 s.
    assert Function(Service.affine(0.02, 0.01, 32), 2, 0.2).capacity == pytest.approx(2 * 11 / 0.13)


def test_a_function_too_slow_for_its_slo_has_no_capacity():
    assert Function(Service.affine(0.15, 0.01, 32), slo_latency=0.2).capacity == 0.0


def test_the_best_size_is_the_smallest_power_of_two_that_is_nearly_as_good():
    assert Service.affine(0.0, 0.01, 32).best_size == 1, "batches do not pay"
    assert Service.affine(0.02, 0.01, 32).best_size == 32, (
        "and here they do: 32 is 3.1 % better than 16 and more"
    )
    assert Service.affine(0.02, 0.01, 20).best_size == 16, "2.2 % less than 20"
    assert Service.affine(0.1, 0.001, 20).best_size == 20, "the largest counts though it is no power of two"


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=40).map(sorted), st.floats(0.0, 2.0))
def test_what_is_within_a_time_takes_no_longer_and_the_next_size_does(times, seconds):
    service = Service(tuple(times))
    size = service.largest_within(seconds)
    assert size == 0 or service.seconds[size - 1] <= seconds
    assert size == len(times) or service.seconds[size] > seconds


@pytest.mark.parametrize(
    ("times", "rule"), [((), "at least that of one"), ((0.2, 0.1), "batch of 2"), ((0.0,), "batch of 1")]
)
def test_service_times_that_cannot_be_are_refused(times, rule):
    with pytest.raises(SimulationError, match=rule):
        Service(times)


@pytest.mark.parametrize(
    "wrong",
    [{"workers": 0}, {"slo_latency": 0.0}, {"slo_objective": 1.0}, {"start_up": -1.0}, {"timeout": 0.1}],
)
def test_a_function_that_cannot_be_is_refused_by_name(wrong):
    with pytest.raises(SimulationError, match=next(iter(wrong))):
        Function(Service((0.01,)), **wrong)
