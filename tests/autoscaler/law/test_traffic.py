"""The law over hours of traffic, on a function that is a fluid."""

from dataclasses import replace
from itertools import pairwise
from math import sin
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.law.fluid import Function
from slo_autoscaler.law.platform import start_up
from slo_autoscaler.model import Decision, Reason
from support.builders import a_spec, remembering
from support.fuzzing import fuzzed


def budget_of(function: Function) -> float:
    memory, spec = function.memory, function.spec
    return memory.need.budget.remaining(spec.budget_period)


def peaks(every: float, length: float, high: float, base: float = 100.0):
    """Return the rate by the time: a peak begins at ``every`` seconds, and at each multiple."""
    return lambda now: high if now >= every and now % every < length else base


HOUR = 3600.0


@pytest.mark.parametrize("objective", [0.9, 0.9999])
@pytest.mark.parametrize("load", [1.04, 2.12, 12.6])
@pytest.mark.parametrize("capacity", [2.0, 100.0])
def test_a_steady_load_is_on_time_with_few_replicas_and_without_flapping(capacity, load, objective):
    function = Function(a_spec(max_replicas=100), int(load), capacity, objective=objective)
    counts = [function.replicas for _ in function.play(lambda _: capacity * load, HOUR)]
    ups = [after for before, after in pairwise(counts[12:]) if after > before]
    assert len(ups) <= 8, "up and down between two counts"
    assert function.late(since=60.0) <= 1.0 - objective
    assert function.replicas <= 1.2 * load + 1.0


@pytest.mark.parametrize("load", [1.2, 1.8, 2.3, 3.5, 4.5, 5.2])
def test_a_constant_rate_after_a_step_rests(load):
    function, random = Function(a_spec(max_replicas=20)), Random(1)
    list(function.play(lambda _: 20.0, 120.0))
    noisy = lambda _: 100.0 * load * (1.0 + 0.03 * random.gauss(0.0, 1.0))  # noqa: E731
    list(function.play(noisy, 180.0))
    counts = [function.replicas, *(function.replicas for _ in function.play(noisy, 900.0))]
    assert sum(before != after for before, after in pairwise(counts)) <= 3


@pytest.mark.parametrize("start_up", [60.0, 180.0])
def test_one_step_buys_replicas_for_itself_and_none_for_another_one(start_up):
    function = Function(a_spec(max_replicas=60, start_up_time=start_up), capacity=60.0, start_up=start_up)
    list(function.play(lambda _: 60.0, 60.0))
    list(function.play(lambda _: 400.0, 600.0))
    assert function.most <= 15


@pytest.mark.parametrize("times", [2.0, 8.0])
def test_an_exported_capacity_that_is_too_high_by_far_ends_in_enough_replicas(times):
    function = Function(a_spec(max_replicas=20))
    for _ in range(int(HOUR / 5.0)):
        function.step(350.0, lambda seen: replace(seen, capacity=times * seen.capacity, queue_mean=0.05))
    assert function.late(since=900.0) <= 0.01


moments = st.lists(st.tuples(st.floats(0.0, 900.0), st.floats(5.0, 120.0)), min_size=1, max_size=12)
"""(requests per second, seconds)."""


def contradicts(decision: Decision, before: int) -> bool:
    """Return whether count, reason and numbers of a decision do not fit together."""
    told, after = decision.inputs, before if decision.replicas is None else decision.replicas
    predicted, fewer, more = (told[name] for name in ("predicted", "predicted_fewer", "predicted_more"))
    allowed, worth, recommended = (told[name] for name in ("allowed", "worth", "recommended"))
    if predicted is None or fewer is None or more is None or not fewer >= predicted >= more:
        return predicted is not None
    if None in (allowed, worth, recommended):
        return True
    match decision.reason:
        case Reason.NOT_WORTH_A_REPLICA:
            return not (after < before and predicted > allowed and predicted - more <= 1.001 * worth)
        case Reason.LOAD_BELOW_CAPACITY | Reason.NO_TRAFFIC:
            return not (after < before and after >= recommended and predicted <= allowed)
        case Reason.LOAD_ABOVE_CAPACITY | Reason.STILL_LATE:
            return not before < after <= recommended
        case Reason.WITHIN_RANGE:
            return after != recommended
        case Reason.SCALE_DOWN_STABILIZED | Reason.FEWER_WERE_TOO_FEW:
            return not recommended < after
    return False


@fuzzed(60)
@given(moments, st.sampled_from([0.9, 0.99, 0.999]), st.sampled_from([5.0, 60.0]))
def test_a_decision_never_contradicts_the_numbers_that_it_tells(levels, objective, start_up):
    function = Function(
        a_spec(max_replicas=50, start_up_time=start_up), objective=objective, start_up=start_up
    )
    for rate, seconds in levels:
        for _ in range(int(seconds / 5.0)):
            before = function.replicas
            decision = function.step(rate)
            assert not contradicts(decision, before), (decision.reason, dict(decision.inputs))


def test_a_spike_every_half_hour_ends_within_the_budget():
    function = Function(a_spec(max_replicas=20), replicas=2)
    list(function.play(peaks(0.5 * HOUR, 10.0, 400.0), 4 * HOUR))
    assert function.late(since=2 * HOUR) <= 0.01


def test_the_account_shows_what_is_overspent():
    function = Function(a_spec(max_replicas=20), replicas=2, objective=0.999)
    list(function.play(peaks(0.5 * HOUR, 10.0, 400.0), 0.6 * HOUR))
    assert budget_of(function) < -1.0, "16 times the budget of half an hour"


def test_a_peak_that_comes_every_hour_is_prepared_for_after_it_has_come_twice():
    function = Function(a_spec(max_replicas=20), replicas=2)
    rates = peaks(HOUR, 300.0, 400.0)
    list(function.play(rates, 3 * HOUR))
    assert function.scale.available >= 3
    list(function.play(rates, 300.0))
    assert function.late(since=3 * HOUR) <= 0.0101


def test_between_two_peaks_their_replicas_are_given_back():
    function = Function(a_spec(max_replicas=20), replicas=2)
    list(function.play(peaks(0.5 * HOUR, 60.0, 400.0), 2.4 * HOUR))
    assert function.replicas <= 2


def test_without_traffic_the_replicas_go_to_the_minimum_or_the_decision_says_for_what_they_stay():
    function = Function(a_spec(max_replicas=20, start_up_time=30.0), start_up=30.0)
    stays = {Reason.PEAK_EXPECTED, Reason.SCALE_DOWN_STABILIZED, Reason.FEWER_WERE_TOO_FEW}
    for _ in range(6):
        list(function.play(lambda _: 450.0, 60.0))
        list(function.play(lambda _: 0.0, 20.0))  # past the window of rates
        held = [function.step(0.0) for _ in range(8)]
        assert all(d.reason in stays for d in held if d.replicas is None and d.inputs["desired"] > 1)
    list(function.play(lambda _: 0.0, HOUR))
    assert function.replicas == 1


def test_after_a_burst_out_of_nothing_its_replicas_are_given_back_and_until_then_a_peak_is_the_reason():
    """The burst overspends the budget of the hour many times."""
    function = Function(a_spec(max_replicas=5), capacity=40.0)
    list(function.play(lambda _: 0.0, 600.0))
    list(function.play(lambda _: 450.0, 90.0))
    assert budget_of(function) < -5.0
    list(function.play(lambda _: 0.0, 20.0))  # past the window of rates
    stays = {Reason.PEAK_EXPECTED, Reason.SCALE_DOWN_STABILIZED}
    assert {d.reason for d in function.play(lambda _: 0.0, 300.0) if d.replicas is None} <= stays
    list(function.play(lambda _: 0.0, 600.0))
    assert function.replicas == 1


def test_a_ramp_to_rates_never_seen_is_followed_before_it_exceeds_the_replicas():
    function = Function(a_spec(max_replicas=20, start_up_time=30.0), capacity=170.0, start_up=30.0)
    list(function.play(lambda _: 30.0, 60.0))
    list(function.play(lambda now: 30.0 + 2.0 * (now - 60.0), 150.0))
    assert function.late(since=60.0) <= 0.02


def test_an_overload_after_a_calm_hour_is_not_taken_for_less_than_it_is():
    """However much less was late than predicted: that told of loads below the goodput."""
    function = Function(a_spec(max_replicas=50), replicas=3, objective=0.95)
    list(function.play(lambda _: 200.0, HOUR))
    list(function.play(lambda _: 1000.0, 120.0))
    assert function.scale.available >= 10


def test_one_of_ten_replicas_that_never_serves_blocks_no_other():
    function = Function(a_spec(max_replicas=20), replicas=10, broken=1)
    list(function.play(lambda _: 1500.0, 120.0))
    assert function.replicas > 15
    assert function.late(since=60.0) <= 0.02
    assert start_up(function.memory.platform, function.spec) <= 2 * function.start_up, "it never started"


def test_what_a_redeployment_takes_away_during_a_ramp_is_asked_for_again_at_once():
    function = Function(a_spec(max_replicas=20), replicas=2)
    list(function.play(lambda now: 100.0 + now, 200.0))
    function.set(1)
    decisions = list(function.play(lambda _: 300.0, 15.0))
    assert function.replicas >= 3
    assert all(decision.reason is not Reason.PLATFORM_CAP for decision in decisions)


def test_reconciles_without_data_keep_no_replica_that_is_not_needed():
    function = Function(a_spec(max_replicas=20), replicas=20)
    for number in range(240):
        gap = number % 11 == 0
        decision = function.step(200.0, lambda o, gap=gap: None if gap else o)
        assert not gap or (decision.replicas, decision.reason) == (None, Reason.NO_DATA)
    assert function.replicas <= 4


def test_a_ramp_is_seen_that_grows_by_a_third_in_one_start_up():
    spec = a_spec(max_replicas=60, start_up_time=60.0)
    function = Function(spec, replicas=4, start_up=60.0)
    list(function.play(lambda _: 200.0, 600.0))
    list(function.play(lambda now: 200.0 * 1.35 ** ((now - 600.0) / 60.0), 480.0))
    assert function.late(since=840.0) <= 0.03


def test_a_slow_function_is_scaled_at_the_first_observation():
    function = Function(a_spec(), replicas=1, capacity=0.1)
    decision = function.step(0.3)
    assert decision.replicas is not None
    assert decision.replicas >= 3


def test_a_peak_of_the_day_before_is_prepared_for_where_the_days_are_alike():
    def rates(now: float) -> float:
        return 400.0 if 2 * HOUR <= now < 2 * HOUR + 300.0 else 100.0 + 40.0 * sin(now / 500.0)

    function = Function(a_spec(max_replicas=20), replicas=2)
    list(function.play(rates, HOUR))
    minutes = [(60.0 * number, rates(60.0 * number - 30.0)) for number in range(1, 240)]
    history = function.memory.traffic.history.with_past([minutes])
    function.memory = remembering(function.memory, history=history)
    list(function.play(rates, HOUR))
    assert function.scale.available >= 3
    list(function.play(rates, 300.0))
    assert function.late(since=2 * HOUR) <= 0.015


@pytest.mark.parametrize("claimed", [1.3, 2.0])
def test_an_exported_capacity_that_is_too_high_is_corrected_where_many_requests_fit_into_the_slo(claimed):
    function = Function(a_spec(max_replicas=40), replicas=6, capacity=1000.0)
    for _ in range(int(HOUR / 5.0)):
        function.step(5300.0, lambda seen: replace(seen, capacity=claimed * seen.capacity))
    assert function.late(since=0.5 * HOUR) <= 0.01
    assert function.replicas <= 8
