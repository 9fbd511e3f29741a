"""The chain from wish to action: its properties, and each reason of the closed list."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.values import a_spec, observations, scales, seen, specs
from slo_autoscaler import decide as module
from slo_autoscaler.decide import CORRECTION_FLOOR, decide, unapplied
from slo_autoscaler.model import Observation, RateLimit, Reason, Scale, TargetState

TWO = Scale(desired=2, available=2)
FIVE = Scale(desired=5, available=5)
LATER = 1000.0
"""Past every window that began at 0."""


def at(spec, observation, scale, now=LATER, state=None):
    """Decide once, on a state that began long ago unless one is given."""
    return decide(spec, observation, scale, state or TargetState.initial(spec, scale, 0.0), now)


def limits_of(spec, scale):
    lowest = max(1, spec.min_replicas if scale.min is None else scale.min)
    highest = max(lowest, spec.max_replicas if scale.max is None else scale.max)
    return (lowest, highest) if scale.cap is None else (min(lowest, scale.cap), min(highest, scale.cap))


# A story: what was seen at each reconcile, with the platform doing at once what it is told.
stories = st.lists(st.tuples(observations, st.floats(0.5, 40)), min_size=1, max_size=12)


def play(spec, scale, story):
    """Yield (scale before, decision, state after, now) for each reconcile."""
    state, now = TargetState.initial(spec, scale, 0.0), 0.0
    for observation, gap in story:
        now += gap
        decision, state = decide(spec, observation, scale, state, now)
        yield scale, decision, state, now
        if decision.replicas is not None:
            scale = replace(scale, desired=decision.replicas, available=decision.replicas)


@given(specs, scales, stories)
def test_a_decided_count_lies_within_the_bounds_and_differs_from_the_current_one(spec, scale, story):
    lowest, highest = limits_of(spec, scale)
    for before, decision, _, _ in play(spec, scale, story):
        if decision.replicas is not None:
            assert lowest <= decision.replicas <= highest
            assert decision.replicas != before.desired


@given(specs, scales, stories)
def test_a_step_stays_within_the_rate_limits_unless_it_restores_the_bounds(spec, scale, story):
    for before, decision, _, _ in play(spec, scale, story):
        if decision.replicas is None or decision.reason in (Reason.BELOW_MINIMUM, Reason.ABOVE_MAXIMUM):
            continue
        now = before.desired
        assert decision.replicas <= max(math.floor(now * spec.up.max_factor), now + spec.up.max_step)
        assert decision.replicas >= min(math.ceil(now / spec.down.max_factor), now - spec.down.max_step)


@given(specs, scales, stories)
def test_nothing_scales_down_within_the_stabilisation_window_of_the_start_or_of_a_scale_up(
    spec, scale, story
):
    raised_at = 0.0
    for before, decision, _, now in play(spec, scale, story):
        if decision.replicas is None:
            continue
        if decision.replicas > before.desired:
            raised_at = now
        elif decision.reason is not Reason.ABOVE_MAXIMUM:
            assert now - raised_at >= spec.stabilisation_window


@given(specs, scales, stories)
def test_cooldowns_are_kept(spec, scale, story):
    up_at = any_at = -math.inf
    for before, decision, _, now in play(spec, scale, story):
        if decision.replicas is None:
            continue
        restores = decision.reason in (Reason.BELOW_MINIMUM, Reason.ABOVE_MAXIMUM)
        if decision.replicas > before.desired:
            assert restores or now - up_at >= spec.up.cooldown
            up_at = now
        else:
            assert restores or now - any_at >= spec.down.cooldown
        any_at = now


@given(specs, scales, stories)
def test_the_same_inputs_give_the_same_decision(spec, scale, story):
    assert list(play(spec, scale, story)) == list(play(spec, scale, story))


@given(specs, scales, stories)
def test_no_number_is_nan_or_infinite_and_the_correction_stays_in_range(spec, scale, story):
    for _, decision, state, _ in play(spec, scale, story):
        assert all(value is None or math.isfinite(value) for value in decision.inputs.values())
        assert CORRECTION_FLOOR <= state.correction <= 1.0


@given(
    specs,
    scales,
    stories,
    st.none() | st.just(Observation()) | observations.map(lambda o: replace(o, age=21.0)),
)
def test_without_data_everything_holds_and_afterwards_no_dip_follows(spec, scale, story, nothing):
    *_, (_, _, state, now) = play(spec, scale, story)
    held, state = decide(spec, nothing, scale, state, now + 300)
    assert (held.replicas, held.reason) == (None, Reason.NO_DATA)
    after, _ = decide(spec, seen(rate=0.0, in_flight=0.0), scale, state, now + 301)
    if spec.stabilisation_window > 1.0 and after.reason is not Reason.ABOVE_MAXIMUM:
        assert after.replicas is None or after.replicas > scale.desired


@given(st.integers(1, 5), st.floats(0, LATER))
def test_at_the_target_nothing_changes(replicas, now):
    scale = Scale(replicas, replicas)
    observation = seen(rate=75.0 * replicas, up_replicas=replicas)
    decision, _ = at(a_spec(), observation, scale, now)
    assert decision.replicas is None


@given(specs, observations, scales)
def test_a_function_that_opted_out_is_left_alone(spec, observation, scale):
    decision, _ = at(spec, observation, replace(scale, enabled=False))
    assert (decision.replicas, decision.reason) == (None, Reason.DISABLED)


@pytest.mark.parametrize(
    ("observation", "scale", "reason"),
    [
        (None, TWO, Reason.NO_DATA),
        (seen(age=None), TWO, Reason.NO_DATA),
        (seen(age=20.1), TWO, Reason.NO_DATA),
        (seen(rate=None), TWO, Reason.NO_DATA),
        (seen(up_replicas=0.0), TWO, Reason.NO_DATA),
        (seen(up_replicas=None), TWO, Reason.NO_DATA),
        (seen(slo_latency=None), TWO, Reason.NOT_MANAGED),
        (seen(slo_objective=None), TWO, Reason.NOT_MANAGED),
        (seen(), Scale(0, 0), Reason.SCALED_TO_ZERO),
        (seen(rate=140.0), TWO, Reason.WITHIN_RANGE),
        (seen(rate=720.0, up_replicas=10.0), Scale(10, 10, max=20), Reason.WITHIN_TOLERANCE),
        (seen(rate=1000.0), FIVE, Reason.AT_MAXIMUM),
        (seen(rate=1000.0), replace(FIVE, max=9, cap=5), Reason.PLATFORM_CAP),
        (seen(capacity=0.0), TWO, Reason.WILL_NOT_HELP),
        (seen(rate=1000.0, samples=10.0, in_flight=9.0), TWO, Reason.TOO_FEW_SAMPLES),
        (seen(rate=100.0, up_replicas=4.0), FIVE, Reason.PARTIAL_DATA),
        (seen(rate=100.0, up_replicas=5.0, attainment=0.9), FIVE, Reason.SLO_MISSED),
    ],
)
def test_a_hold_says_why(observation, scale, reason):
    decision, _ = at(a_spec(), observation, scale)
    assert (decision.replicas, decision.reason) == (None, reason)


@pytest.mark.parametrize(
    ("observation", "scale", "replicas", "reason"),
    [
        (seen(rate=300.0), TWO, 4, Reason.LOAD_ABOVE_CAPACITY),
        (seen(rate=140.0, in_flight=1000.0), TWO, 3, Reason.BACKLOG),
        (seen(rate=140.0, attainment=0.9), TWO, 3, Reason.SLO_MISSED),
        (seen(rate=150.0, in_flight_growth=150.0), TWO, 4, Reason.LOAD_ABOVE_CAPACITY),
        (seen(), replace(TWO, min=3), 3, Reason.BELOW_MINIMUM),
        (seen(), replace(FIVE, max=3), 3, Reason.ABOVE_MAXIMUM),
        (seen(), replace(FIVE, cap=4), 4, Reason.ABOVE_MAXIMUM),
        (seen(rate=230.0, up_replicas=5.0), FIVE, 3, Reason.LOAD_BELOW_CAPACITY),
        (seen(rate=0.0, in_flight=0.0, up_replicas=5.0), FIVE, 3, Reason.NO_TRAFFIC),
        (seen(rate=0.0, in_flight=None, up_replicas=2.0), TWO, 1, Reason.NO_TRAFFIC),
        (seen(rate=0.0, samples=0.0, in_flight=4000.0), Scale(1, 1), 3, Reason.BACKLOG),
    ],
)
def test_a_change_says_why(observation, scale, replicas, reason):
    decision, _ = at(a_spec(), observation, scale)
    assert (decision.replicas, decision.reason) == (replicas, reason)


def test_latency_decides_under_the_latency_policies():
    spec = a_spec(policy="proportional")
    up, _ = at(spec, seen(p99=0.12), TWO)
    assert (up.replicas, up.reason) == (3, Reason.LATENCY_ABOVE_TARGET)
    down, _ = at(spec, seen(p99=0.02, up_replicas=5.0), FIVE)
    assert (down.replicas, down.reason) == (3, Reason.LATENCY_BELOW_TARGET)
    fresh = TargetState.initial(spec, TWO, 0.0)
    assert at(spec, seen(p99=0.12), TWO, 1.0, fresh)[0].reason is Reason.SETTLING


def test_scaling_down_waits_for_the_stabilisation_window():
    spec, idle = a_spec(stabilisation_window=60.0), seen(rate=100.0, up_replicas=5.0)
    state = TargetState.initial(spec, FIVE, 0.0)
    decision, state = decide(spec, idle, FIVE, state, 59.0)
    assert (decision.replicas, decision.reason) == (None, Reason.SCALE_DOWN_STABILISED)
    decision, _ = decide(spec, idle, FIVE, state, 60.0)
    assert decision.replicas == 3


def test_scaling_down_stops_at_the_highest_recommendation_of_the_window():
    spec = a_spec()
    state = TargetState.initial(spec, FIVE, 0.0)
    _, state = decide(spec, seen(rate=310.0, up_replicas=5.0), FIVE, state, 30.0)
    _, state = decide(spec, seen(rate=100.0, up_replicas=5.0), FIVE, state, 45.0)
    decision, _ = decide(spec, seen(rate=100.0, up_replicas=5.0), FIVE, state, 61.0)
    assert decision.replicas == 4


@pytest.mark.parametrize(
    ("observation", "replicas"),
    [
        (seen(rate=100.0, p99=0.02, up_replicas=5.0, capacity=25.0), None),  # four of 25/s would be full
        (seen(rate=90.0, p99=0.02, up_replicas=5.0, capacity=25.0), 4),
        (seen(rate=100.0, p99=0.02, up_replicas=5.0, attainment=0.9), None),
        (seen(rate=100.0, p99=0.065, up_replicas=5.0, capacity=None), 4),  # five replicas' latency on four
    ],
)
def test_scaling_down_stops_at_the_fewest_replicas_that_are_predicted_to_meet_the_slo(observation, replicas):
    spec = a_spec(policy="proportional", utilisation_target=1.0, tolerance=0.0)
    if observation.capacity == 25.0 and replicas is None:
        observation = replace(observation, rate=101.0)
    decision, _ = at(spec, observation, FIVE)
    assert decision.replicas == replicas
    assert replicas is not None or decision.reason is Reason.SCALE_DOWN_UNSAFE


def test_without_capacity_and_latency_no_fewer_replicas_are_known_to_be_safe():
    assert (
        module._fewest_safe(
            seen(capacity=None, p99=None), FIVE, module.Outlook(1.0, 1.0, 1.0, missed=False, settled=True)
        )
        == 5
    )


def test_a_scale_up_cools_down():
    spec = a_spec(up=RateLimit(max_factor=1.0, max_step=1, cooldown=30.0))
    busy = seen(rate=1000.0)
    decision, state = at(spec, busy, TWO, 100.0)
    assert decision.replicas == 3
    three = Scale(3, 3)
    decision, state = decide(spec, busy, three, state, 129.0)
    assert (decision.replicas, decision.reason) == (None, Reason.COOLING_DOWN)
    decision, _ = decide(spec, busy, three, state, 130.0)
    assert decision.replicas == 4


def test_a_scale_down_cools_down_since_any_change():
    spec = a_spec(stabilisation_window=0.0, down=RateLimit(max_factor=1.0, max_step=1, cooldown=30.0))
    idle = seen(rate=0.0, in_flight=0.0, up_replicas=5.0)
    decision, state = at(spec, idle, FIVE, 100.0)
    assert decision.replicas == 4
    decision, _ = decide(spec, idle, Scale(4, 4), state, 129.0)
    assert (decision.replicas, decision.reason) == (None, Reason.COOLING_DOWN)


def test_a_platform_that_gives_less_is_named_with_both_numbers_and_asked_again_later():
    spec, busy = a_spec(max_replicas=20, cap_retry=300.0), seen(rate=700.0)
    decision, state = at(spec, busy, TWO, 100.0)
    assert decision.replicas == 6
    decision, state = decide(spec, busy, FIVE, state, 105.0)
    assert (decision.replicas, decision.reason) == (None, Reason.PLATFORM_CAP)
    assert (decision.inputs["asked"], decision.inputs["granted"]) == (6, 5)
    decision, state = decide(spec, busy, FIVE, state, 404.0)
    assert decision.reason is Reason.PLATFORM_CAP
    decision, _ = decide(spec, busy, FIVE, state, 405.0)
    assert decision.replicas == 9


def test_a_count_that_somebody_else_set_stands_for_one_stabilisation_window():
    spec, calm = a_spec(stabilisation_window=60.0), seen(rate=100.0, up_replicas=5.0)
    _, state = at(spec, calm, TWO, 1000.0)
    decision, state = decide(spec, calm, FIVE, state, 1005.0)
    assert decision.reason is Reason.SCALE_DOWN_STABILISED
    decision, _ = decide(spec, calm, FIVE, state, 1065.0)
    assert decision.replicas == 3


def test_the_start_up_time_is_learnt_from_scale_ups_and_moves_the_horizon():
    spec, busy = a_spec(start_up_time=10.0, rate_lag=15.0), seen(rate=300.0)
    decision, state = at(spec, busy, TWO, 100.0)
    assert decision.inputs["horizon"] == 25.0
    _, state = decide(spec, busy, Scale(4, 2), state, 105.0)
    _, state = decide(spec, busy, Scale(4, 4), state, 140.0)
    assert state.start_up_time == 40.0
    _, state = decide(spec, busy, Scale(4, 3), state, 200.0)
    decision, state = decide(spec, busy, Scale(4, 4), state, 220.0)
    assert state.start_up_time == 30.0
    assert decision.inputs["horizon"] == 45.0
    _, state = decide(spec, busy, Scale(4, 3), state, 300.0)
    for _ in range(5):
        _, state = decide(spec, busy, Scale(4, 3), state, 301.0)
        decision, state = decide(spec, busy, Scale(4, 4), state, 301.0)
    assert decision.inputs["horizon"] == 25.0, "never less than what is configured"


def test_misses_with_room_shrink_the_correction_once_a_settled_period_and_quiet_time_restores_it():
    spec, bad = a_spec(settle_time=40.0), seen(rate=100.0, attainment=0.9, up_replicas=5.0)
    state = TargetState.initial(spec, FIVE, 0.0)
    _, state = decide(spec, bad, FIVE, state, 39.0)
    assert state.correction == 1.0
    for now in (40.0, 45.0, 79.0):
        _, state = decide(spec, bad, FIVE, state, now)
        assert state.correction == pytest.approx(0.9)
    for period in range(2, 20):
        _, state = decide(spec, bad, FIVE, state, 40.0 * period)
    assert state.correction == CORRECTION_FLOOR
    _, state = decide(spec, seen(up_replicas=5.0), FIVE, state, 760.0 + module.CORRECTION_RECOVERY)
    assert state.correction == pytest.approx(1 - 0.5 * math.exp(-1))


def test_a_decision_that_was_not_carried_out_leaves_no_trace_but_what_was_learnt():
    spec = a_spec()
    before = TargetState.initial(spec, TWO, 0.0)
    decision, after = at(spec, seen(rate=300.0), TWO, 100.0, before)
    assert decision.replicas == 4
    undone = unapplied(before, after)
    assert (undone.asked, undone.scaled_at, undone.changed_at, undone.pending_since) == (
        None,
        None,
        0.0,
        None,
    )
    assert undone.rates == after.rates
    again, _ = decide(spec, seen(rate=300.0), TWO, undone, 105.0)
    assert again.replicas == 4


def test_a_restart_in_mid_peak_makes_no_dip():
    spec, first_look = a_spec(), seen(rate=0.0, in_flight=0.0, up_replicas=5.0)
    decision, _ = decide(spec, first_look, FIVE, TargetState.initial(spec, FIVE, 500.0), 500.0)
    assert (decision.replicas, decision.reason) == (None, Reason.SCALE_DOWN_STABILISED)
