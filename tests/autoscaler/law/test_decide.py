"""The chain from wish to action: its properties, and each reason of the closed list."""

import math
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler import values
from autoscaler.values import observations, scales, seen, specs
from slo_autoscaler.law.decide import CORRECTION_FLOOR, decide, unapplied
from slo_autoscaler.law.headroom import EXCESS, PEAK_SPAN, PLANNED, REGRET, Headroom
from slo_autoscaler.law.memory import TargetState
from slo_autoscaler.law.window import SlidingMax
from slo_autoscaler.model import Reason, Scale
from slo_autoscaler.signals import Observation
from slo_autoscaler.spec import ScaleUp

TWO = Scale(desired=2, available=2)
FIVE = Scale(desired=5, available=5)
LATER = 1000.0
"""Past every window that began at 0."""


def a_spec(**changes):
    """Return a spec for which no time between two decisions is a jump, so that a test may skip ahead."""
    return values.a_spec(**({"longest_gap": math.inf} | changes))


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
def test_every_decision_of_a_story_keeps_the_rules(spec, scale, story):
    lowest, highest = limits_of(spec, scale)
    raised_at, up_at, changed_at = 0.0, -math.inf, -math.inf
    decisions = list(play(spec, scale, story))
    assert decisions == list(play(spec, scale, story))
    for before, decision, state, now in decisions:
        assert all(value is None or math.isfinite(value) for value in decision.inputs.values())
        assert CORRECTION_FLOOR <= state.correction <= 1.0
        if decision.replicas is None:
            continue
        assert decision.replicas <= highest
        assert decision.reason is Reason.IDLE or lowest <= decision.replicas
        current, up = before.desired, decision.replicas > before.desired
        assert up or decision.replicas < current
        if decision.reason not in (Reason.BELOW_MINIMUM, Reason.ABOVE_MAXIMUM):
            limits = spec.scale_up if up else spec.scale_down
            step = (
                max(math.floor(current * limits.max_factor), current + limits.max_step)
                if up
                else (min(math.ceil(current / limits.max_factor), current - limits.max_step))
            )
            assert decision.replicas <= step if up else decision.replicas >= step
            assert now - (up_at if up else changed_at) >= limits.cooldown
            if not up and decision.reason is not Reason.IDLE:
                assert now - raised_at >= spec.scale_down.stabilization_window
                assert now - up_at >= spec.start_up_time
        changed_at = now
        if up:
            raised_at = up_at = now


resting = seen(rate=0.0, in_flight=0.0, up_replicas=20.0, attainment=None, samples=0.0)


@given(specs, scales, st.lists(st.tuples(observations | st.just(resting) | st.none(), st.floats(0.5, 30))))
def test_zero_follows_only_a_whole_idle_period_of_positive_evidence(spec, scale, story):
    """Every decision of the period was made on data that say 0, and none came after too long a gap."""
    began = 0.0
    last = 0.0
    for before, decision, _, now in play(spec, scale, story):
        observation = story[0][0]
        story = story[1:]
        evidence = observation is not None and observation.arrival_rate == observation.in_flight == 0.0
        if not evidence or before.desired == 0:
            began = math.inf
        elif now - last > spec.timing.longest_gap or began == math.inf:
            began = now
        last = now
        if decision.reason is Reason.IDLE:
            assert not before.min
            assert now - began >= spec.scale_to_zero_after
        elif decision.replicas is not None:
            assert decision.replicas >= 1


@given(specs, observations, scales, st.floats(1, 10))
def test_more_load_on_the_same_past_never_gets_fewer_replicas(spec, observation, scale, more):
    """Where the objective is met: whether a miss is the capacity's fault depends on the load itself."""
    spec = replace(spec, timing=replace(spec.timing, longest_gap=math.inf))
    observation = replace(observation, attainment=None)
    counts = [
        at(spec, loaded, scale)[0].replicas
        for loaded in (observation, replace(observation, rate=observation.rate * more))
    ]
    fewer, further = (scale.desired if count is None else count for count in counts)
    assert further >= fewer


@given(specs, observations, scales, st.floats(0.1, 1e3))
def test_a_steady_load_moves_the_count_one_way_and_then_not_at_all(spec, observation, scale, capacity):
    spec = replace(spec, policy="slo", scale_to_zero_after=None, utilization_limit=spec.utilization_target)
    steady = replace(
        observation, capacity=capacity, attainment=1.0, in_flight=0.0, in_flight_growth=None, up_replicas=30.0
    )
    # A newest rate is of a load that changes, and a budget that burns makes room with time.
    steady = replace(steady, rate_now=None, gateway_rate_now=None, burn_short=0.0)
    counts = [scale.desired]
    for before, decision, _, _ in play(spec, scale, [(steady, 20.0)] * 80):
        counts.append(before.desired if decision.replicas is None else decision.replicas)
    assert counts in (sorted(counts), sorted(counts, reverse=True))
    assert len(set(counts[-10:])) == 1


moments = st.lists(st.tuples(observations, st.integers(1, 20)), min_size=1, max_size=8)


@given(specs, scales, moments, observations, st.integers(-(10**6), -1) | st.integers(21, 10**6))
def test_a_clock_that_jumps_changes_no_decision(spec, scale, story, observation, jump):
    spec = replace(spec, scale_to_zero_after=None)
    # Whole seconds, so that the sums are exact; a line's mean is not.
    with patch("slo_autoscaler.law.forecast.trend", return_value=None):
        *_, (_, _, state, now) = play(spec, scale, story)
        standing, _ = decide(spec, observation, scale, state, now)
        jumped, after = decide(spec, observation, scale, state, now + jump)
    assert (jumped.replicas, jumped.reason) == (standing.replicas, standing.reason)
    assert after.decided_at == now + jump


@given(
    specs,
    scales,
    stories,
    st.none() | st.just(Observation()) | observations.map(lambda o: replace(o, sample_age=21.0)),
)
def test_without_data_everything_holds_and_afterwards_no_dip_follows(spec, scale, story, nothing):
    *_, (_, _, state, now) = play(spec, scale, story)
    held, state = decide(spec, nothing, scale, state, now + 300)
    assert (held.replicas, held.reason) == (None, Reason.NO_DATA)
    after, _ = decide(spec, seen(rate=0.0, in_flight=0.0), scale, state, now + 301)
    if spec.scale_down.stabilization_window > 1.0 and after.reason is not Reason.ABOVE_MAXIMUM:
        assert after.replicas is None or after.replicas > scale.desired


@dataclass
class Case:
    """One decision at ``LATER``: why, and to which count (None: hold)."""

    reason: Reason
    replicas: int | None
    observation: Observation | None
    scale: Scale = TWO
    spec: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    """What differs from a state in which nothing has happened for long."""
    lately: tuple[float, int] | None = None
    """(when, how many): a recommendation of the past."""

    def decide(self):
        spec = a_spec(**self.spec)
        state = replace(TargetState.initial(spec, self.scale, 0.0), **self.state)
        if self.lately is not None:
            state = replace(state, recommendations=state.recommendations.push(*self.lately))
        return at(spec, self.observation, self.scale, state=state)[0]


ONE = Scale(1, 1)
SLOWER = seen(rate=100.0, attainment=0.9, service_mean=0.09, queue_mean=0.001)
BURNING = seen(rate=140.0, attainment=0.8, burn_short=20.0)
SOME_TIME_AGO = {"changed_at": LATER - 25.0}
OVERSPENT = {"headroom": Headroom(overspent=1.2 * EXCESS, mean_rate=100.0), "seen_at": LATER - 1.0}
REGRETTED = {
    "headroom": Headroom(
        regret=REGRET / 2.0 + PLANNED * LATER,
        mean_rate=100.0,
        peaks=SlidingMax(PEAK_SPAN).push(LATER - 600.0, 280.0),
    )
}
"""The rate window of 20 s holds only what was since; the window of attainment does not."""

HOLDS = [
    Case(Reason.DISABLED, None, seen(), replace(TWO, enabled=False)),
    Case(Reason.NO_DATA, None, None),
    Case(Reason.NO_DATA, None, seen(sample_age=20.1)),
    Case(Reason.NO_DATA, None, seen(rate=None)),
    Case(Reason.NO_DATA, None, seen(up_replicas=0.0)),
    Case(Reason.NOT_MANAGED, None, seen(slo_latency=None)),
    Case(Reason.SCALED_TO_ZERO, None, seen(), Scale(0, 0)),
    Case(Reason.WITHIN_RANGE, None, seen(rate=140.0)),
    Case(Reason.WITHIN_RANGE, None, seen(rate=140.0, attainment=0.9, burn_short=0.9)),  # it is over
    Case(Reason.WITHIN_TOLERANCE, None, seen(rate=720.0, up_replicas=10.0), Scale(10, 10, max=20)),
    Case(Reason.AT_MAXIMUM, None, seen(rate=1000.0), FIVE),
    Case(Reason.PLATFORM_CAP, None, seen(rate=1000.0), replace(FIVE, max=9, cap=5)),
    Case(Reason.TOO_FEW_SAMPLES, None, seen(rate=1000.0, samples=10.0, in_flight=9.0)),
    Case(Reason.PARTIAL_DATA, None, seen(rate=100.0, up_replicas=4.0), FIVE),
    Case(Reason.SETTLING, None, seen(p99=0.12), TWO, {"policy": "proportional"}, SOME_TIME_AGO),
    Case(
        Reason.COOLING_DOWN,
        None,
        seen(rate=1000.0),
        spec={"scale_up": ScaleUp(2.0, 4, 30.0)},
        state={"scaled_up_at": LATER - 29.0},
    ),
    Case(Reason.SCALE_DOWN_STABILIZED, None, seen(rate=100.0, up_replicas=5.0), FIVE, lately=(950.0, 5)),
    Case(
        Reason.SCALE_DOWN_STABILIZED,
        None,
        seen(rate=100.0, up_replicas=5.0),
        FIVE,
        state={"start_up_time": 120.0, "scaled_up_at": LATER - 119.0},
    ),
    Case(Reason.SCALE_DOWN_UNSAFE, None, seen(attainment=0.95, samples=20.0, up_replicas=5.0), FIVE),
    Case(
        Reason.BUDGET_LOW,
        None,
        seen(rate=100.0, up_replicas=5.0, budget_remaining=0.25),
        FIVE,
        lately=(LATER - 74.0, 5),
    ),
    # The objective is missed, and what it takes is there: the capacity's correction is next.
    Case(Reason.SLO_MISSED, None, seen(rate=100.0, up_replicas=5.0, attainment=0.9), FIVE, state=OVERSPENT),
    # Successes are quick: what misses are errors, and replicas do not mend those.
    Case(Reason.SETTLING, None, replace(BURNING, capacity=None, p99=0.04), state=SOME_TIME_AGO),
    Case(Reason.WILL_NOT_HELP, None, seen(capacity=0.0)),
    Case(Reason.WILL_NOT_HELP, None, seen(attainment=0.9, service_time_single=0.11)),
    Case(Reason.WILL_NOT_HELP, None, SLOWER, state={"service_baseline": 0.05}),
]
CHANGES = [
    Case(Reason.LOAD_ABOVE_CAPACITY, 4, seen(rate=300.0)),
    Case(Reason.LOAD_ABOVE_CAPACITY, 4, seen(rate=300.0, samples=18.0)),  # and two in flight: just enough
    Case(Reason.LOAD_ABOVE_CAPACITY, 4, seen(rate=150.0, in_flight_growth=150.0)),
    # Slow execution is no reason to leave load without replicas.
    Case(Reason.LOAD_ABOVE_CAPACITY, 4, replace(SLOWER, rate=300.0), state={"service_baseline": 0.05}),
    Case(Reason.BACKLOG, 3, seen(rate=140.0, in_flight=6000.0)),
    Case(Reason.BACKLOG, 3, seen(rate=0.0, samples=0.0, in_flight=16000.0), ONE),
    # 280/s came in within the hour, and half as much as may be is regretted: ready for 100 + (280 - 100) / 2.
    Case(
        Reason.RECENT_PEAK, 2, seen(), ONE, {"utilization_target": 1.0, "utilization_limit": 1.0}, REGRETTED
    ),
    Case(Reason.SLO_MISSED, 3, seen(rate=130.0, attainment=0.9), state=OVERSPENT),
    Case(Reason.SLO_MISSED, 3, seen(capacity=None, attainment=0.9, p99=0.11)),
    Case(Reason.BURN_RATE, 3, BURNING, state=SOME_TIME_AGO),
    Case(Reason.LATENCY_ABOVE_TARGET, 3, seen(p99=0.12), spec={"policy": "proportional"}),
    Case(Reason.BELOW_MINIMUM, 3, seen(), replace(TWO, min=3)),
    Case(Reason.ABOVE_MAXIMUM, 3, seen(), replace(FIVE, max=3)),
    Case(Reason.ABOVE_MAXIMUM, 4, seen(), replace(FIVE, cap=4)),
    Case(Reason.LOAD_BELOW_CAPACITY, 3, seen(rate=230.0, up_replicas=5.0), FIVE),
    Case(Reason.LATENCY_BELOW_TARGET, 3, seen(p99=0.02, up_replicas=5.0), FIVE, {"policy": "proportional"}),
    Case(Reason.NO_TRAFFIC, 3, seen(rate=0.0, in_flight=0.0, up_replicas=5.0), FIVE),
    Case(Reason.NO_TRAFFIC, 1, seen(rate=0.0, in_flight=None, up_replicas=2.0)),
    Case(Reason.IDLE, 0, resting, ONE, {"scale_to_zero_after": 900.0}, {"idle_since": 100.0}),
]


@pytest.mark.parametrize("case", [*HOLDS, *CHANGES], ids=lambda case: case.reason)
def test_a_decision_says_why_and_from_which_numbers(case):
    decision = case.decide()
    assert (decision.replicas, decision.reason) == (case.replicas, case.reason)
    assert {"arrival_rate", "forecast", "capacity", "ready", "p99", "attainment"} <= decision.inputs.keys()


def test_every_reason_of_the_closed_list_is_reached():
    assert {case.reason for case in [*HOLDS, *CHANGES]} == set(Reason)


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
        (seen(rate=101.0, p99=0.02, up_replicas=5.0, capacity=25.0), None),  # four of 25/s would be full
        (seen(rate=90.0, p99=0.02, up_replicas=5.0, capacity=25.0), 4),
        (seen(rate=100.0, p99=0.02, up_replicas=5.0, attainment=0.9), None),
        (seen(rate=100.0, p99=0.065, up_replicas=5.0, capacity=None), 4),  # five replicas' latency on four
    ],
)
def test_scaling_down_stops_at_the_fewest_replicas_that_are_predicted_to_meet_the_slo(observation, replicas):
    spec = a_spec(policy="proportional", utilization_target=1.0, tolerance=0.0)
    decision, _ = at(spec, observation, FIVE)
    assert decision.replicas == replicas
    assert replicas is not None or decision.reason is Reason.SCALE_DOWN_UNSAFE


@pytest.mark.parametrize("jump", [0.0, -3600.0])
def test_a_scale_up_cools_down_no_longer_though_the_clock_goes_back(jump):
    spec = a_spec(scale_up=ScaleUp(max_factor=1.0, max_step=1, cooldown=30.0))
    busy, three = seen(rate=1000.0), Scale(3, 3)
    decision, state = at(spec, busy, TWO, 100.0)
    assert decision.replicas == 3
    for now in (100.0, 129.0):
        decision, state = decide(spec, busy, three, state, now + jump)
        assert (decision.replicas, decision.reason) == (None, Reason.COOLING_DOWN)
    decision, _ = decide(spec, busy, three, state, 130.0 + jump)
    assert decision.replicas == 4


def test_a_platform_that_gives_less_is_named_with_both_numbers_and_asked_again_later():
    spec, busy = a_spec(max_replicas=20, cap_retry=300.0, utilization_limit=0.8), seen(rate=700.0)
    decision, state = at(spec, busy, TWO, 100.0)
    assert decision.replicas == 6
    decision, state = decide(spec, busy, FIVE, state, 105.0)
    assert (decision.replicas, decision.reason) == (None, Reason.PLATFORM_CAP)
    assert (decision.inputs["requested"], decision.inputs["granted"]) == (6, 5)
    decision, state = decide(spec, busy, FIVE, state, 404.0)
    assert decision.reason is Reason.PLATFORM_CAP
    decision, _ = decide(spec, busy, FIVE, state, 405.0)
    assert decision.replicas == 9


def test_a_count_that_somebody_else_set_stands_for_one_stabilization_window():
    spec, calm = a_spec(), seen(rate=100.0, up_replicas=5.0)
    _, state = at(spec, calm, TWO, 1000.0)
    decision, state = decide(spec, calm, FIVE, state, 1005.0)
    assert decision.reason is Reason.SCALE_DOWN_STABILIZED
    decision, _ = decide(spec, calm, FIVE, state, 1065.0)
    assert decision.replicas == 3


def test_the_start_up_time_is_learned_from_scale_ups_and_moves_the_horizon():
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


def test_misses_with_room_shrink_the_correction_once_a_settled_period_and_quiet_time_restores_it():
    spec = a_spec(settle_time=40.0)
    bad = seen(rate=100.0, attainment=0.9, burn_short=10.0, up_replicas=5.0)
    state = TargetState.initial(spec, FIVE, 0.0)
    _, state = decide(spec, bad, FIVE, state, 20.0)
    _, state = decide(spec, bad, FIVE, state, 39.0)
    assert state.correction == 1.0
    for now in (40.0, 79.0):
        _, state = decide(spec, bad, FIVE, state, now)
        assert state.correction == pytest.approx(0.9)
    _, state = decide(spec, seen(up_replicas=5.0), FIVE, state, 500.0)
    assert 0.95 < state.correction < 1.0


def test_a_decision_that_was_not_carried_out_leaves_no_trace_but_what_was_learned():
    spec = a_spec()
    before = TargetState.initial(spec, TWO, 0.0)
    decision, after = at(spec, seen(rate=300.0), TWO, 100.0, before)
    assert decision.replicas == 4
    undone = unapplied(before, after)
    assert (undone.asked, undone.scaled_at, undone.changed_at) == (None, None, 0.0)
    assert undone.rates == after.rates
    again, _ = decide(spec, seen(rate=300.0), TWO, undone, 105.0)
    assert again.replicas == 4


IDLING = a_spec(scale_to_zero_after=60.0, longest_gap=20.0)


def rest(seconds, scale=ONE, *, spec=IDLING, state=None, begin=0.0, observation=resting):
    """Decide every 5 s on a function that rests; return the last decision, its time and the state."""
    state = state or TargetState.initial(spec, scale, begin)
    decision, now = None, begin
    while now < begin + seconds and (decision is None or decision.replicas is None):
        now += 5.0
        decision, state = decide(spec, observation, scale, state, now)
    return decision, now, state


def test_a_replica_that_is_not_seen_is_no_evidence_of_idleness():
    _, _, state = rest(600.0, Scale(2, 2, min=0), observation=replace(resting, up_replicas=1.0))
    assert state.idle_since is None


@pytest.mark.parametrize(
    ("scale", "changes", "counts"),
    [
        (FIVE, {}, [5, 3, 2, 1, 0]),  # within the rate limits
        (replace(TWO, min=0), {}, [2, 1, 0]),
        (replace(TWO, min=1), {}, [2, 1]),  # a label that asks for replicas forbids it
        (replace(TWO, min=2), {}, [2]),
        (replace(TWO, min=2, zero_after=60.0), {}, [2, 1, 0]),  # unless one asks for zero
        (TWO, {"scale_to_zero_after": None}, [2, 1]),
    ],
)
def test_an_idle_function_goes_to_zero_if_key_and_labels_allow(scale, changes, counts):
    spec, state, begin, reached = replace(IDLING, **changes), None, 0.0, [scale.desired]
    while scale.desired and len(reached) < 9:
        decision, begin, state = rest(600.0, scale, spec=spec, state=state, begin=begin)
        if decision.replicas is None:
            break
        scale = replace(scale, desired=decision.replicas, available=decision.replicas)
        reached.append(decision.replicas)
    assert reached == counts


def test_a_platform_that_does_not_give_zero_is_asked_again_after_another_period():
    _, now, state = rest(600.0)
    decision, again, _ = rest(600.0, state=state, begin=now)
    assert decision.reason is Reason.IDLE
    assert again - now >= 60.0
