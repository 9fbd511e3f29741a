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
from slo_autoscaler.law import decide as module
from slo_autoscaler.law.decide import CORRECTION_FLOOR, decide, unapplied
from slo_autoscaler.law.headroom import CREDIT, EXCESS, LONGEST, PEAK_SPAN, PLANNED, REGRET, Headroom
from slo_autoscaler.law.memory import TargetState
from slo_autoscaler.law.policies import TOLERANT_FROM, UP_TOLERANCE
from slo_autoscaler.law.recurrence import Recurrence
from slo_autoscaler.law.restart import LONGEST_START_UP
from slo_autoscaler.law.window import History, SlidingMax
from slo_autoscaler.model import Reason, Scale
from slo_autoscaler.signals import Observation
from slo_autoscaler.spec import ScaleDown, ScaleUp

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
        evidence = (
            observation is not None and observation.arrival_rate == 0.0 and observation.in_flight == 0.0
        )
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
    Case(Reason.NO_DATA, None, seen(sample_age=None)),
    Case(Reason.NO_DATA, None, seen(sample_age=20.1)),
    Case(Reason.NO_DATA, None, seen(rate=None)),
    Case(Reason.NO_DATA, None, seen(up_replicas=0.0)),
    Case(Reason.NO_DATA, None, seen(up_replicas=None)),
    Case(Reason.NOT_MANAGED, None, seen(slo_latency=None)),
    Case(Reason.NOT_MANAGED, None, seen(slo_objective=None)),
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
    Case(
        Reason.BUDGET_LOW,
        None,
        seen(up_replicas=5.0, budget_remaining=-0.1, attainment=0.98, samples=50.0),
        FIVE,
    ),
    # The objective is missed, and what it takes is there: the capacity's correction is next.
    Case(Reason.SLO_MISSED, None, seen(rate=100.0, up_replicas=5.0, attainment=0.9), FIVE, state=OVERSPENT),
    Case(Reason.WILL_NOT_HELP, None, seen(capacity=0.0)),
    Case(Reason.WILL_NOT_HELP, None, seen(attainment=0.9, service_time_single=0.11)),
    Case(Reason.WILL_NOT_HELP, None, SLOWER, state={"service_baseline": 0.05}),
    Case(Reason.WILL_NOT_HELP, None, replace(BURNING, service_time_single=0.11), state=SOME_TIME_AGO),
    Case(
        Reason.WILL_NOT_HELP, None, seen(p99=0.5, service_time_single=0.11), spec={"policy": "proportional"}
    ),
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
    Case(Reason.SLO_MISSED, 3, replace(SLOWER, rate=130.0), state={"service_baseline": 0.065} | OVERSPENT),
    Case(
        Reason.SLO_MISSED,
        3,
        replace(SLOWER, rate=130.0, queue_mean=0.01),
        state={"service_baseline": 0.05} | OVERSPENT,
    ),
    Case(Reason.SLO_MISSED, 3, seen(capacity=None, attainment=0.9, p99=0.11)),
    Case(Reason.BURN_RATE, 3, BURNING, state=SOME_TIME_AGO),
    Case(Reason.BURN_RATE, 4, replace(BURNING, rate=140.0), Scale(3, 3), state=SOME_TIME_AGO),
    Case(Reason.BURN_RATE, 3, replace(BURNING, p99=0.12), TWO, {"policy": "proportional"}, SOME_TIME_AGO),
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
    told = {
        "arrival_rate",
        "forecast",
        "capacity",
        "correction",
        "ready",
        "pending",
        "p95",
        "p99",
        "attainment",
    }
    assert told <= decision.inputs.keys()


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


def test_without_capacity_and_latency_no_fewer_replicas_are_known_to_be_safe():
    assert (
        module._fewest_safe(
            seen(capacity=None, p99=None),
            FIVE,
            module.Outlook(1.0, 1.0, 0.8, 1.0, missed=False, settled=True),
        )
        == 5
    )


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


def test_a_scale_down_cools_down_since_any_change():
    spec = a_spec(scale_down=ScaleDown(max_factor=1.0, max_step=1, cooldown=30.0, stabilization_window=0.0))
    idle = seen(rate=0.0, in_flight=0.0, up_replicas=5.0)
    decision, state = at(spec, idle, FIVE, 100.0)
    assert decision.replicas == 4
    decision, state = decide(spec, idle, Scale(4, 4), state, 129.0)
    assert (decision.replicas, decision.reason) == (None, Reason.COOLING_DOWN)
    decision, _ = decide(spec, idle, Scale(4, 4), state, 130.0)
    assert decision.replicas == 3


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
    _, state = decide(spec, busy, Scale(4, 3), state, 300.0)
    for _ in range(5):
        _, state = decide(spec, busy, Scale(4, 3), state, 301.0)
        decision, state = decide(spec, busy, Scale(4, 4), state, 301.0)
    assert decision.inputs["horizon"] == 25.0, "never less than what is configured"


def test_a_sudden_rate_is_half_believed_at_first_and_wholly_when_it_lasts():
    # Intervals of 5 s: the newest of a steady 100/s is within 18/s of it, four standard deviations.
    spec, state, forecasts = a_spec(rate_lag=10.0), None, []
    for number, newest in enumerate((117.0, 119.0, 100.0, 200.0, 200.0)):
        decision, state = at(spec, seen(rate_now=newest), TWO, LATER + 5.0 * number, state)
        forecasts.append(decision.inputs["forecast"])
    assert forecasts == [100.0, 109.5, 100.0, 150.0, 200.0]


def test_a_sudden_rate_is_wholly_believed_when_it_is_work_that_goes_on():
    spec, state = a_spec(rate_lag=10.0), TargetState.initial(a_spec(), TWO, 0.0)
    for now in range(0, 100, 5):
        load = 100.0 if now < 60 else 0.0
        _, state = decide(spec, seen(rate=load, rate_now=load), TWO, state, float(now))
    decision, _ = decide(spec, seen(rate=10.0, rate_now=100.0), TWO, state, 100.0)
    assert decision.inputs["forecast"] == 100.0


def test_misses_with_room_shrink_the_correction_once_a_settled_period_and_quiet_time_restores_it():
    spec = a_spec(settle_time=40.0)
    bad = seen(rate=100.0, attainment=0.9, burn_short=10.0, up_replicas=5.0)
    state = TargetState.initial(spec, FIVE, 0.0)
    _, state = decide(spec, bad, FIVE, state, 20.0)
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


@pytest.mark.parametrize(
    "not_its_fault",
    [
        {"burn_short": 0.5},  # the misses are over
        {"service_mean": 0.09, "queue_mean": 0.001},  # execution has become slower
        {"capacity": None},
        {"rate": 501.0},
        {"attainment": 0.98, "samples": 100.0},  # chance
    ],
)
def test_misses_that_are_not_the_capacitys_fault_do_not_shrink_the_correction(not_its_fault):
    bad = replace(seen(rate=100.0, attainment=0.9, up_replicas=5.0), **not_its_fault)
    state = replace(TargetState.initial(a_spec(), FIVE, 0.0), service_baseline=0.05)
    assert at(a_spec(), bad, FIVE, state=state)[1].correction == 1.0


def test_time_without_data_restores_no_correction():
    spec = a_spec(longest_gap=20.0)
    state = replace(TargetState.initial(spec, FIVE, 0.0), correction=0.5)
    for now in range(5, 3600, 5):
        _, state = decide(spec, None, FIVE, state, float(now))
    _, state = decide(spec, seen(up_replicas=5.0), FIVE, state, 3600.0)
    assert state.correction == pytest.approx(0.5, abs=0.04)


def test_a_decision_that_was_not_carried_out_leaves_no_trace_but_what_was_learned():
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


def test_panic_adds_one_and_waits_until_the_rate_window_shows_what_came_of_it():
    spec = a_spec(rate_lag=10.0, max_replicas=20)
    state, scale, ups = TargetState.initial(spec, TWO, 0.0), TWO, []
    for now in range(5, 65, 5):
        decision, state = decide(spec, replace(BURNING, rate=130.0), scale, state, float(now))
        if decision.replicas is not None:
            ups.append((now, decision.replicas, decision.reason))
            scale = Scale(decision.replicas, decision.replicas)
    assert ups == [(25, 3, Reason.BURN_RATE), (50, 4, Reason.BURN_RATE)]


def test_misses_that_the_head_room_is_for_are_not_the_capacitys_fault():
    bad = seen(rate=140.0, attainment=0.9, burn_short=2.0, up_replicas=5.0)
    in_hand = {"headroom": Headroom(overspent=-CREDIT, mean_rate=140.0), "seen_at": LATER - 5.0}
    for headroom, corrected in ((in_hand, 1.0), (OVERSPENT, 0.9)):
        state = replace(TargetState.initial(a_spec(), FIVE, 0.0), **headroom)
        decision, state = at(a_spec(), bad, FIVE, state=state)
        assert state.correction == pytest.approx(corrected)
        assert decision.reason is (Reason.SLO_MISSED if corrected < 1.0 else Reason.SCALE_DOWN_UNSAFE)


def test_a_load_at_the_edge_of_two_counts_is_not_followed_unless_it_rises():
    spec = a_spec(utilization_target=0.8, utilization_limit=0.8, max_replicas=20)
    few, many = Scale(TOLERANT_FROM - 1, TOLERANT_FROM - 1), Scale(TOLERANT_FROM, TOLERANT_FROM)
    edge = 80.0 * TOLERANT_FROM * (1.0 + UP_TOLERANCE)
    decision, state = at(spec, seen(rate=edge, up_replicas=4.0), many)
    assert (decision.replicas, decision.reason) == (None, Reason.WITHIN_TOLERANCE)
    assert at(spec, seen(rate=edge + 1.0, up_replicas=4.0), many)[0].replicas == TOLERANT_FROM + 1
    assert at(spec, seen(rate=80.0 * few.desired + 1.0, up_replicas=3.0), few)[0].replicas == TOLERANT_FROM
    whole = a_spec(utilization_target=1.0, utilization_limit=1.0, max_replicas=20)
    fuller = at(whole, seen(rate=100.0 * TOLERANT_FROM + 1.0, up_replicas=4.0), many)[0]
    assert fuller.replicas == TOLERANT_FROM + 1, "nothing is left that would cover it"
    rising = replace(state, rates=History(60.0))
    for ago in range(30, 0, -5):
        rising = replace(rising, rates=rising.rates.push(LATER - ago, 322.0 - 9.0 * ago))
    decision, _ = at(spec, seen(rate=322.0, up_replicas=4.0), many, state=rising)
    assert (decision.replicas, decision.reason) == (TOLERANT_FROM + 1, Reason.LOAD_ABOVE_CAPACITY)


def test_panic_ends_where_capacity_cannot_be_what_is_wrong():
    # 140/s on replicas of 100/s, four fifths of it planned with: twice what that takes is 3.5.
    spec = a_spec(max_replicas=20)
    state = replace(TargetState.initial(spec, Scale(4, 4), 0.0), **OVERSPENT)
    decision, _ = at(spec, replace(BURNING, up_replicas=4.0), Scale(4, 4), state=state)
    assert (decision.replicas, decision.reason) == (None, Reason.SLO_MISSED)


def test_no_panic_while_replicas_are_starting():
    state = replace(TargetState.initial(a_spec(), TWO, 0.0), pending_since=900.0)
    decision, _ = at(a_spec(), BURNING, Scale(3, 2), state=state)
    assert decision.replicas is None


def test_little_budget_makes_scaling_down_slower_and_much_does_not():
    held_for = {}
    for budget in (None, 1.0, 0.5, 0.25, 0.0, -3.0):
        spec, calm = a_spec(), seen(up_replicas=5.0, budget_remaining=budget)
        state, now = TargetState.initial(spec, FIVE, 0.0), 0.0
        decision = None
        while decision is None or decision.replicas is None:
            now += 5.0
            decision, state = decide(spec, calm, FIVE, state, now)
        held_for[budget] = now
    assert held_for == {None: 60.0, 1.0: 60.0, 0.5: 60.0, 0.25: 75.0, 0.0: 90.0, -3.0: 90.0}


def test_peaks_at_known_times_need_no_longer_window():
    spec, calm = a_spec(), seen(up_replicas=5.0, budget_remaining=0.0)
    rhythm = Recurrence((-1700.0, -1100.0, -500.0, 100.0))
    state = replace(
        TargetState.initial(spec, FIVE, 100.0), headroom=Headroom(regret=LONGEST, recurrence=rhythm)
    )
    decision, state = decide(spec, calm, FIVE, state, 125.0)
    assert (decision.replicas, decision.reason) == (None, Reason.SCALE_DOWN_STABILIZED)
    decision, _ = decide(spec, calm, FIVE, state, 155.0)
    assert (decision.replicas, decision.reason) == (3, Reason.LOAD_BELOW_CAPACITY)


def test_a_peak_that_is_due_is_made_ready_for_while_nothing_comes_in():
    def on(begun):
        rhythm = Recurrence(tuple(begun - 300.0 * ago for ago in (3, 2, 1, 0)))
        headroom = replace(REGRETTED["headroom"], regret=3600.0, recurrence=rhythm)
        state = replace(TargetState.initial(a_spec(), ONE, 0.0), headroom=headroom)
        decision, _ = at(a_spec(), resting, ONE, state=state)
        return decision

    assert on(begun=LATER - 150.0).replicas is None
    ready = on(begun=LATER - 290.0)
    assert (ready.replicas, ready.reason) == (3, Reason.RECENT_PEAK)


IDLING = a_spec(scale_to_zero_after=60.0, longest_gap=20.0)


def rest(seconds, scale=ONE, *, spec=IDLING, state=None, begin=0.0, observation=resting):
    """Decide every 5 s on a function that rests; return the last decision, its time and the state."""
    state = state or TargetState.initial(spec, scale, begin)
    decision, now = None, begin
    while now < begin + seconds and (decision is None or decision.replicas is None):
        now += 5.0
        decision, state = decide(spec, observation, scale, state, now)
    return decision, now, state


def test_an_idle_function_is_put_to_sleep_after_the_period():
    decision, now, _ = rest(600.0)
    assert (decision.replicas, decision.reason, now) == (0, Reason.IDLE, 65.0)


def test_a_gap_in_the_data_a_request_and_a_jump_of_the_clock_begin_the_idle_period_anew():
    for broken in (None, seen(rate=0.1), replace(resting, in_flight=1.0), replace(resting, in_flight=None)):
        _, now, state = rest(50.0)
        _, state = decide(IDLING, broken, ONE, state, now + 5.0)
        decision, now, _ = rest(600.0, state=state, begin=now + 5.0)
        assert now >= 50.0 + 5.0 + 60.0
        assert decision.reason is Reason.IDLE
    _, now, state = rest(50.0)
    decision, woken, _ = rest(600.0, state=state, begin=now + 3600.0)
    assert woken - (now + 3600.0) == 65.0
    assert decision.reason is Reason.IDLE


def test_a_replica_that_is_not_seen_is_no_evidence_of_idleness():
    decision, _, state = rest(600.0, Scale(2, 2, min=0), observation=replace(resting, up_replicas=1.0))
    assert decision.replicas is None
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


def test_a_function_that_was_woken_is_judged_as_any_other():
    _, now, state = rest(600.0)
    decision, state = decide(IDLING, None, Scale(0, 0), state, now + 5.0)
    assert decision.reason is Reason.SCALED_TO_ZERO
    decision, state = decide(IDLING, seen(rate=150.0, up_replicas=1.0), ONE, state, now + 10.0)
    assert decision.reason is Reason.LOAD_ABOVE_CAPACITY
    assert decision.replicas >= 2


def test_an_outage_is_not_learned_as_a_start_up_time():
    state = replace(TargetState.initial(a_spec(), TWO, 0.0), pending_since=0.0)
    _, state = at(a_spec(), seen(), TWO, 1e6, state)
    assert state.start_up_time == LONGEST_START_UP


def test_the_usual_service_time_is_learned_slowly_and_only_while_the_objective_is_met():
    spec, usual = a_spec(), seen(service_mean=0.02)
    state = TargetState.initial(spec, TWO, 0.0)
    _, state = decide(spec, replace(usual, samples=3.0), TWO, state, 5.0)
    assert state.service_baseline is None, "not from a handful"
    _, state = decide(spec, usual, TWO, state, 10.0)
    assert state.service_baseline == 0.02
    _, state = decide(spec, replace(usual, service_mean=0.04), TWO, state, 10.0 + module.BASELINE_MEMORY)
    assert state.service_baseline == pytest.approx(0.04 - 0.02 * math.exp(-1))
    learned = state.service_baseline
    _, state = decide(spec, replace(usual, service_mean=0.2, attainment=0.5), TWO, state, 2000.0)
    assert state.service_baseline == learned


def test_without_a_capacity_no_replica_gets_what_was_once_too_much_for_one():
    spec, four = a_spec(), Scale(4, 4)
    beyond = seen(rate=300.0, capacity=None, attainment=0.5, p99=0.5, up_replicas=4.0)
    _, state = at(spec, beyond, four)
    assert state.knee == 75.0
    well = seen(rate=310.0, capacity=None, p99=0.02, up_replicas=5.0)
    decision, state = decide(spec, well, FIVE, state, LATER + 100.0)
    assert (decision.replicas, decision.reason) == (None, Reason.SCALE_DOWN_UNSAFE)
    _, state = decide(spec, well, FIVE, state, LATER + 101.0)
    decision, _ = decide(spec, well, FIVE, state, LATER + 3600.0)
    assert decision.replicas == 4, "it is tried again after an hour"


@pytest.mark.parametrize(
    "unlike",
    [
        {"p99": 0.09},
        {"burn_short": 0.5},
        {"attainment": 1.0},
        {"rate": 0.0, "in_flight": 5.0},
        {"service_time_single": 0.2},
    ],
)
def test_misses_that_are_not_too_much_load_teach_no_knee(unlike):
    observation = replace(seen(rate=300.0, capacity=None, attainment=0.5, p99=0.5), **unlike)
    assert at(a_spec(), observation, FIVE)[1].knee is None


def test_what_a_replica_does_within_the_slo_raises_its_knee():
    state = replace(TargetState.initial(a_spec(), TWO, 0.0), knee=10.0)
    assert at(a_spec(), seen(rate=100.0, p99=0.05), TWO, state=state)[1].knee == 50.0
