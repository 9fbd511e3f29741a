"""The chain from wish to action: its properties, and each reason of the closed list."""

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.allocate import allocate
from slo_autoscaler.law.base.budget import Budget
from slo_autoscaler.law.base.needs import Needs
from slo_autoscaler.law.decide import assess, claim, concluded, decide, raised
from slo_autoscaler.law.foresight.history import History
from slo_autoscaler.law.foresight.scenarios import Followed
from slo_autoscaler.law.memory import Memory, Refusal, TooFew
from slo_autoscaler.law.platform import noticed, start_up
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Reason, Scale
from slo_autoscaler.settings.schedule import Hold, ScheduleEntry
from slo_autoscaler.settings.spec import FurtherMetric, ScaleDown, ScaleUp
from slo_autoscaler.signals.record import Observation
from support.builders import a_spec, observations, remembering, scales, seen, specs
from support.fuzzing import fuzzed

EMPTY, ONE, TWO, FIVE = Scale(0, 0, waiting=0.0), Scale(1, 1), Scale(2, 2), Scale(5, 5)
LATER = 1000.0
"""Past every window that began at 0."""
GAPS = (
    None,
    Observation(),
    seen(sample_age=20.1),
    seen(rate=None),
    seen(up_replicas=None),
    seen(up_replicas=0.0),
)
resting = seen(rate=0.0, in_flight=0.0, up_replicas=20.0, attainment=None, samples=0.0)


def limits_of(spec, scale):
    lowest = max(1, spec.min_replicas if scale.min is None else scale.min)
    highest = max(lowest, spec.max_replicas if scale.max is None else scale.max)
    return (lowest, highest) if scale.cap is None else (min(lowest, scale.cap), min(highest, scale.cap))


# A story: what was seen at each reconcile, with the platform doing at once what it is told.
stories = st.lists(
    st.tuples(observations | st.sampled_from(GAPS), st.floats(0.5, 40)), min_size=1, max_size=12
)


def play(spec, scale, story, memory=None, now=0.0):
    """Yield (observation, scale before, decision, memory after, now) for each reconcile."""
    memory = memory or Memory.initial(scale, now)
    for observation, gap in story:
        now += gap
        decision, memory = decide(Situation(spec, observation or Observation(), scale, memory, now))
        yield observation, scale, decision, memory, now
        if decision.replicas is not None:
            scale = replace(scale, desired=decision.replicas, available=decision.replicas)


@fuzzed(40)
@given(specs, scales, stories)
def test_every_decision_of_a_story_keeps_the_rules(spec, scale, story):
    lowest, highest = limits_of(spec, scale)
    up_at, changed_at = -math.inf, -math.inf
    decisions = list(play(spec, scale, story))
    read_at_once = [replace(each[2], inputs=dict(each[2].inputs)) for each in play(spec, scale, story)]
    assert [each[2] for each in decisions] == read_at_once
    for observation, before, decision, _, now in decisions:
        assert all(value is None or math.isfinite(value) for value in decision.inputs.values())
        if observation in GAPS and before.desired:
            assert (decision.replicas, decision.reason) == (None, Reason.NO_DATA)
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
                else min(math.ceil(current / limits.max_factor), current - limits.max_step)
            )
            assert decision.replicas <= step if up else decision.replicas >= step
            assert now - (up_at if up else changed_at) >= limits.cooldown
            assert up or decision.replicas >= before.available - observation.up_replicas
        changed_at, up_at = now, now if up else up_at


@fuzzed(40)
@given(specs, scales, stories, observations, st.integers(0, 19))
def test_a_replica_that_is_not_seen_or_not_in_the_rates_counts_as_needed(
    spec, scale, story, observation, seen_replicas
):
    *_, (_, _, _, memory, now) = play(spec, scale, story)
    scale = replace(scale, desired=min(20, limits_of(spec, scale)[1]), available=20, cap=None)
    for partial in ({"up_replicas": float(seen_replicas)}, {"rated_replicas": float(seen_replicas)}):
        observation = replace(observation, **{"up_replicas": 20.0} | partial)
        decision, _ = decide(Situation(spec, observation, scale, memory, now + 5.0))
        assert decision.replicas is None or decision.replicas >= min(scale.desired, 20 - seen_replicas)


@fuzzed(100)
@given(specs, scales, st.lists(st.tuples(observations | st.just(resting) | st.none(), st.floats(0.5, 30))))
def test_zero_follows_only_a_whole_idle_period_of_positive_evidence(spec, scale, story):
    began = math.inf
    for observation, before, decision, _, now in play(spec, scale, story):
        evidence = observation is not None and observation.arrival_rate == observation.in_flight == 0.0
        began = min(began, now) if evidence and before.desired else math.inf
        if decision.reason is Reason.IDLE:
            assert not before.min
            assert now - began >= spec.scale_to_zero_after
        elif decision.replicas is not None:
            assert decision.replicas >= 1


@fuzzed(100)
@given(specs, observations, scales, st.floats(1, 10))
def test_more_load_on_the_same_past_gets_at_most_one_replica_fewer(spec, observation, scale, more):
    # Where most may be late, no replica more is worth it in any overload. Of few requests chance explains
    # more than of many: one replica.
    objective = max(0.9, observation.slo_objective)
    observation = replace(observation, rate_now=None, gateway_rate_now=None, slo_objective=objective)
    counts = [
        decide(Situation(spec, loaded, scale, Memory.initial(scale, 0.0), LATER))[0].replicas
        for loaded in (observation, replace(observation, rate=observation.rate * more))
    ]
    fewer, further = (scale.desired if count is None else count for count in counts)
    assert further >= fewer - 1


@fuzzed(20)
@given(specs, observations, scales, st.floats(0.1, 1e3))
def test_a_steady_load_ends_in_a_count_that_stays(spec, observation, scale, capacity):
    spec = replace(spec, policy="slo", scale_to_zero_after=None)
    unknown = dict.fromkeys(("rate_now", "gateway_rate_now", "in_flight_growth", "service_time_single"))
    steady = replace(
        observation, capacity=capacity, burn_short=0.0, in_flight=0.0, up_replicas=30.0, **unknown
    )
    *_, (_, scale, _, memory, now) = play(spec, scale, [(steady, 20.0)] * 60)
    counts = {scale.desired for _, scale, *_ in play(spec, scale, [(steady, 20.0)] * 10, memory, now)}
    assert len(counts) <= 2


@fuzzed(40)
@given(specs, scales, stories, observations, st.floats(-1e6, 1e6))
def test_a_clock_that_jumps_neither_fails_nor_breaks_a_bound(spec, scale, story, observation, jump):
    *_, (_, before, _, memory, now) = play(spec, scale, story)
    for _ in range(3):
        decision, memory = decide(Situation(spec, observation or Observation(), before, memory, now + jump))
        assert (
            decision.reason is Reason.IDLE
            or decision.replicas is None
            or (limits_of(spec, before)[0] <= decision.replicas <= limits_of(spec, before)[1])
        )


@fuzzed(40)
@given(specs, scales, stories, st.sampled_from(GAPS), st.floats(1.0, 4000.0))
def test_a_gap_is_no_time_in_which_less_was_enough(spec, scale, story, nothing, gap):
    *_, (_, _, _, memory, now) = play(spec, scale, story)
    scale = replace(scale, desired=max(1, limits_of(spec, scale)[1]), available=1)
    _, held = decide(Situation(spec, nothing or Observation(), scale, memory, now + gap))
    assert held.step.needs == memory.step.needs
    assert held.traffic.history == memory.traffic.history
    assert held.need.budget == memory.need.budget
    decision, _ = decide(Situation(spec, resting, scale, held, now + gap + 5.0))
    longest = max(start_up(memory.platform, spec), spec.scale_down.stabilization_window)
    most = memory.step.needs.highest(longest - 2.0 * spec.timing.interval)
    assert decision.replicas is None or decision.replicas >= min(most, scale.desired)


@pytest.mark.parametrize(("window", "longest"), [(0.0, 80.0), (60.0, 80.0), (120.0, 120.0)])
def test_decide_fewer_are_enough_waits_for_the_window_or_one_start_up_as_reported(window, longest):
    down = ScaleDown(stabilization_window=window)
    spec, scale = a_spec(start_up_time=10.0, max_replicas=20, scale_down=down), Scale(10, 10)
    calm = seen(rate=100.0, up_replicas=10.0, rated_replicas=10.0, process_start_up=80.0)
    memory, held = Memory.initial(scale, 0.0), 0.0
    while (found := decide(Situation(spec, calm, scale, memory, held)))[0].replicas is None:
        _, memory = found
        held += spec.timing.interval
    assert longest <= held <= longest + 2.0 * spec.timing.interval


@fuzzed(40)
@given(specs, scales, stories, st.floats(0, 1e4), st.sampled_from([math.inf, 0.0, 2.0]))
def test_what_is_read_directly_only_raises_and_teaches_nothing_but_the_need(spec, scale, story, rate, free):
    lowest, highest = limits_of(spec, scale)
    for observation, before, _, memory, now in play(spec, scale, story):
        if observation is None:
            continue
        found = raised(Situation(spec, replace(observation, direct_rate=rate), before, memory, now), free)
        if found is None:
            continue
        decision, after = found
        _, taken = noticed(memory.platform, spec, before, now)
        assert before.desired < decision.replicas <= highest
        assert decision.replicas <= max(lowest, taken.desired + free)
        assert rate > observation.capacity * before.desired
        unlike = {"too_few": None, "asked": None, "scaled_at": None, "scaled_up_at": None, "needs": Needs()}
        unlike |= {"idle_since": None}
        assert remembering(after, **unlike) == remembering(memory, **unlike)


def test_a_step_that_is_read_directly_is_followed_once():
    spec, calm = a_spec(max_replicas=20), seen(rate=100.0, up_replicas=2.0)
    memory = Memory.initial(TWO, 0.0)
    for now in (5.0, 10.0):
        decision, memory = decide(Situation(spec, calm, TWO, memory, now))
        assert decision.replicas is None
    step = replace(calm, direct_rate=450.0)
    decision, memory = raised(Situation(spec, step, TWO, memory, 11.0), math.inf)
    assert decision.reason is Reason.LOAD_ABOVE_CAPACITY
    assert decision.replicas >= 5
    # The platform's list may still be the old one.
    for now in (12.0, 13.0, 14.0):
        assert raised(Situation(spec, step, TWO, memory, now), math.inf) is None
    # No scrape has seen it yet: what was added is kept for a start-up.
    assert decide(Situation(spec, calm, Scale(decision.replicas, 2), memory, 15.0))[0].replicas is None


def test_decide_more_wait_than_are_answered_within_the_slo_keeps_every_replica():
    """As on a node: bursts of 350/s that have passed soon, and none of a third one's is late so far."""
    replica = {"capacity": 150.0, "slo_latency": 1.0, "service_time_single": 0.035, "burn_short": 0.2}
    calm, burst = (seen(rate=rate, up_replicas=3.0, **replica) for rate in (20.0, 350.0))
    waiting = replace(burst, rate=200.0, rate_now=350.0, queue_length=900.0)
    learned = [calm] * 12 + [burst] * 4 + [calm] * 12 + [burst] * 4 + [calm] * 12
    *_, (_, _, _, memory, now) = play(a_spec(min_replicas=3), Scale(3, 3), [(each, 5.0) for each in learned])
    story = [(each, 5.0) for each in [waiting] * 3 + [calm] * 6]
    decisions = [each for _, _, each, _, _ in play(a_spec(), Scale(3, 3), story, memory, now)]
    assert [each.replicas for each in decisions[:3]] == [None] * 3
    assert 2 in [each.replicas for each in decisions[3:]]


def test_one_observation_after_a_gap_is_not_enough_to_give_back_a_replica():
    busy, calm = seen(rate=450.0, up_replicas=5.0), seen(rate=50.0, up_replicas=5.0)
    story = [(busy, 5.0)] * 10 + [(None, 5.0)] * 5 + [(calm, 5.0)] * 3
    counts = [scale.desired for _, scale, *_ in play(a_spec(), FIVE, [*story, *[(calm, 5.0)] * 3])]
    assert counts[:18] == [5] * 18
    assert counts[-1] < 5


@dataclass
class Case:
    """One decision at ``LATER``: why, and to which count (None: hold)."""

    reason: Reason
    replicas: int | None
    observation: Observation | None
    scale: Scale = TWO
    spec: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    """What differs from a memory in which nothing has happened for long."""
    share: int | None = None
    by_hand: str = ""

    def wish(self):
        spec = a_spec(**{"longest_gap": math.inf} | self.spec)
        memory = remembering(Memory.initial(self.scale, 0.0), needs=Needs())
        memory = remembering(memory, **self.memory)
        seen = self.observation or Observation()
        return assess(Situation(spec, seen, self.scale, memory, LATER, MOMENT, self.by_hand))

    def decide(self):
        return concluded(self.wish(), self.share)

    def claim(self):
        return claim(self.wish())


MOMENT = datetime(2026, 11, 30, 8, 30, tzinfo=UTC)
AFTER = MOMENT + timedelta(minutes=1)
BY_HAND = "from 2 to 5 by kubectl"


def planned(least=None, most=None):
    entry = ScheduleEntry(cron="0 8 * * *", duration=3600.0, min_replicas=least, max_replicas=most)
    return {"schedule": (entry,)}


def on_hold(scale, replicas=None, until=AFTER, most=None):
    return replace(scale, hold=Hold(until=until, replicas=replicas, max_replicas=most, reason="freeze"))


SLEEPY, RESTED = {"scale_to_zero_after": 900.0}, {"idle_since": 0.0}
COOLING = {"scale_up": ScaleUp(2.0, 4, 30.0)}
QUEUE = FurtherMetric(name="queue", query="sum(depth)", target=10.0)
MEMORY = FurtherMetric(name="memory", query="sum(memory)", target=1e9)
ALSO = {"also": (QUEUE, MEMORY)}
PROPORTIONAL = {"policy": "proportional"}
LEARNING = seen(capacity=None, attainment=0.9, p99=0.11)
SLOW = seen(rate=150.0, burn_short=20.0, queue_mean=0.001)
WAITING = seen(rate=50.0, burn_short=5.0, queue_mean=0.05, up_replicas=5.0)
OVERSPENT = {"budget": Budget(3600.0, served=1e5, spent=2e5)}
NEEDED = {"needs": Needs(995.0, ((990.0, 5),)), "seen_at": 995.0}
JUMPED = {
    "history": History(followed=Followed().plus([*[(150.0, 150.0)] * 99, (150.0, 900.0)], nothing=1.0)),
    "seen_at": 995.0,
}

CALM, NINE = seen(rate=90.0, up_replicas=9.0), Scale(9, 9, max=9)
SERVING_LATELY = {"late_since": 100.0, "scaled_up_at": LATER - 210.0}
WITHOUT_ROOM = Scale(5, 3, unschedulable=2)
WAITING_LONG = {"pending": ((0.0, True),) * 2, "available": 3}

HOLDS = [
    Case(Reason.AT_MINIMUM, None, seen(rate=10.0), replace(TWO, min=2)),
    Case(Reason.DISABLED, None, seen(), replace(TWO, mode="off")),
    *(Case(Reason.NO_DATA, None, nothing) for nothing in GAPS),
    Case(Reason.NOT_MANAGED, None, seen(slo_latency=None)),
    Case(Reason.NOT_MANAGED, None, seen(slo_objective=None)),
    Case(Reason.SCALED_TO_ZERO, None, seen(), Scale(0, 0)),
    Case(Reason.SCALED_TO_ZERO, None, resting, EMPTY),
    Case(Reason.SCALED_TO_ZERO, None, None, EMPTY),
    Case(Reason.HELD, None, None, on_hold(replace(EMPTY, waiting=3.0))),
    Case(Reason.WITHIN_RANGE, None, seen(rate=150.0)),
    Case(Reason.WITHIN_TOLERANCE, None, seen(p99=0.085), TWO, PROPORTIONAL),
    Case(Reason.AT_MAXIMUM, None, seen(rate=1000.0), FIVE),
    Case(Reason.AT_MAXIMUM, None, seen(rate=1000.0), FIVE, share=9),
    Case(Reason.PLATFORM_CAP, None, seen(rate=1000.0), replace(FIVE, max=9, cap=5)),
    Case(
        Reason.PLATFORM_CAP,
        None,
        seen(rate=1000.0),
        FIVE,
        {"max_replicas": 9},
        {"refusal": Refusal(9, 5, 2e3)},
    ),
    Case(Reason.AT_MAXIMUM, None, seen(rate=1000.0), FIVE, share=5),
    Case(Reason.FLEET_FULL, None, seen(rate=1000.0), FIVE, {"max_replicas": 9}, share=5),
    Case(Reason.UNSCHEDULABLE, None, seen(rate=1000.0, up_replicas=3.0), WITHOUT_ROOM, memory=WAITING_LONG),
    Case(Reason.UNSCHEDULABLE, None, seen(rate=400.0, up_replicas=3.0), WITHOUT_ROOM, memory=WAITING_LONG),
    Case(Reason.TOO_FEW_SAMPLES, None, seen(p99=None), TWO, PROPORTIONAL),
    Case(Reason.TOO_FEW_SAMPLES, None, seen(p95=0.5, samples=5.0), TWO, PROPORTIONAL),
    Case(Reason.PARTIAL_DATA, None, seen(rate=50.0, up_replicas=1.0), FIVE),
    Case(Reason.PARTIAL_DATA, None, seen(rate=50.0, up_replicas=5.0, rated_replicas=1.0), FIVE),
    Case(Reason.SETTLING, None, seen(p99=0.12), TWO, PROPORTIONAL, {"scaled_at": LATER - 30.0}),
    Case(Reason.SETTLING, None, LEARNING, memory={"scaled_at": LATER - 30.0}),
    Case(
        Reason.COOLING_DOWN,
        None,
        seen(rate=1000.0),
        TWO,
        {"scale_up": ScaleUp(2.0, 4, 30.0)},
        {"scaled_up_at": 971.0},
    ),
    Case(
        Reason.COOLING_DOWN,
        None,
        seen(rate=50.0, up_replicas=5.0),
        FIVE,
        {"scale_down": ScaleDown(2.0, 1, 30.0)},
        {"scaled_at": 971.0},
    ),
    Case(Reason.SCALE_DOWN_STABILIZED, None, seen(rate=50.0, up_replicas=5.0), FIVE, {}, NEEDED),
    Case(Reason.SCALE_DOWN_UNSAFE, None, WAITING, FIVE),
    # The last replicas have not served for long enough.
    Case(Reason.SCALE_DOWN_UNSAFE, None, WAITING, FIVE, {"max_replicas": 9}, SERVING_LATELY),
    Case(
        Reason.FEWER_WERE_TOO_FEW,
        None,
        seen(rate=90.0, up_replicas=5.0),
        FIVE,
        memory={"too_few": TooFew(18.0, 2e3, 600.0)},
    ),
    Case(
        Reason.SCALE_DOWN_UNSAFE, None, seen(p99=0.02, attainment=0.95, up_replicas=5.0), FIVE, PROPORTIONAL
    ),
    Case(Reason.FURTHER_METRIC, None, seen(rate=50.0, up_replicas=5.0, further=(41.0, 1e9)), FIVE, ALSO),
    Case(Reason.FURTHER_METRIC, None, replace(resting, further=(0.5, 0.0)), ONE, ALSO | SLEEPY, RESTED),
    Case(Reason.FURTHER_METRIC_UNKNOWN, None, seen(rate=50.0, up_replicas=5.0, further=(1.0,)), FIVE, ALSO),
    Case(Reason.FURTHER_METRIC_UNKNOWN, None, resting, ONE, ALSO | SLEEPY, RESTED),
    Case(Reason.AT_MAXIMUM, None, seen(further=(999.0, 0.0)), FIVE, ALSO),
    Case(Reason.SCHEDULED, None, seen(rate=50.0, up_replicas=5.0), FIVE, planned(5, 9)),
    Case(Reason.SCHEDULED, None, seen(rate=1000.0), FIVE, planned(most=5)),
    Case(Reason.SCHEDULED, None, seen(rate=1000.0), Scale(3, 3, min=4), planned(most=3)),
    Case(
        Reason.SCHEDULED,
        None,
        resting,
        ONE,
        planned(1) | {"scale_to_zero_after": 9.0},
        {"idle_since": 0.0},
    ),
    Case(Reason.AT_MAXIMUM, None, seen(rate=1000.0), replace(FIVE, schedule=()), planned(8, 9)),
    Case(Reason.NO_DATA, None, None, FIVE, planned(most=3)),
    Case(Reason.DISABLED, None, seen(), replace(TWO, mode="off"), planned(5)),
    *(Case(Reason.HELD, None, each, on_hold(TWO)) for each in (seen(rate=1000.0), resting, *GAPS)),
    Case(Reason.HELD, None, seen(rate=1000.0), on_hold(TWO, 2), planned(5), share=1),
    Case(Reason.HELD, None, seen(), on_hold(Scale(0, 0))),
    Case(Reason.DISABLED, None, seen(), on_hold(replace(TWO, mode="off"), 5)),
    *(Case(Reason.SET_BY_HAND, None, each, FIVE, by_hand=BY_HAND) for each in (seen(rate=1000.0), resting)),
    Case(Reason.WILL_NOT_HELP, None, seen(capacity=0.0)),
    Case(Reason.WILL_NOT_HELP, None, SLOW),
    Case(Reason.WILL_NOT_HELP, None, replace(LEARNING, p99=0.09)),
]
CHANGES = [
    Case(Reason.REQUESTS_WAIT, 1, None, replace(EMPTY, waiting=3.0)),
    Case(Reason.REQUESTS_WAIT, 3, resting, replace(EMPTY, waiting=3.0), {"min_replicas": 3}),
    Case(Reason.REQUESTS_WAIT, 1, resting, replace(EMPTY, waiting=3.0), COOLING, {"scaled_up_at": 990.0}),
    # The last replica still serves, and had a request.
    Case(Reason.REQUESTS_WAIT, 1, seen(rate=1.0, up_replicas=1.0), replace(EMPTY, available=1)),
    Case(Reason.REQUESTS_WAIT, 1, replace(resting, in_flight=1.0), replace(EMPTY, available=1)),
    Case(Reason.SCHEDULED, 3, resting, EMPTY, planned(3)),
    Case(Reason.SCHEDULED, 3, resting, replace(EMPTY, waiting=3.0), planned(3)),
    Case(Reason.LOAD_ABOVE_CAPACITY, 5, seen(rate=300.0)),
    Case(Reason.LOAD_ABOVE_CAPACITY, 5, seen(rate=300.0, in_flight=300.0)),  # what waits needs less
    Case(Reason.LOAD_ABOVE_CAPACITY, 5, seen(rate=150.0, in_flight_growth=150.0)),
    Case(Reason.LOAD_ABOVE_CAPACITY, 5, seen(rate=0.3, capacity=0.1, samples=3.0, in_flight=1.0)),
    Case(Reason.LOAD_ABOVE_CAPACITY, 5, replace(SLOW, rate=300.0)),  # slow ones do not hide a load
    Case(Reason.STILL_LATE, 6, WAITING, FIVE, {"max_replicas": 9}, {"late_since": 100.0}),
    Case(Reason.PEAK_EXPECTED, 3, seen(rate=165.0), memory=OVERSPENT | {"seen_at": 995.0}),
    Case(Reason.SLO_MISSED, 3, LEARNING),
    Case(Reason.LATENCY_ABOVE_TARGET, 3, seen(p99=0.12), TWO, PROPORTIONAL),
    Case(Reason.BELOW_MINIMUM, 3, seen(), replace(TWO, min=3)),
    Case(Reason.BELOW_MINIMUM, 5, seen(rate=1000.0), replace(TWO, min=3)),
    Case(Reason.ABOVE_MAXIMUM, 3, seen(), replace(FIVE, max=3)),
    Case(Reason.ABOVE_MAXIMUM, 4, seen(), replace(FIVE, cap=4)),
    Case(Reason.FURTHER_METRIC, 4, seen(further=(31.0, 3e9)), TWO, ALSO),
    Case(Reason.FURTHER_METRIC, 3, seen(further=(None, 3e9)), TWO, ALSO),
    Case(Reason.LOAD_ABOVE_CAPACITY, 5, seen(rate=300.0, further=(1.0,)), TWO, ALSO),
    Case(Reason.IDLE, 0, replace(resting, further=(0.0, 0.0)), ONE, ALSO | SLEEPY, RESTED),
    *(Case(Reason.SCHEDULED, 8, each, TWO, planned(8)) for each in (seen(), resting, *GAPS)),
    Case(Reason.SCHEDULED, 3, None, Scale(0, 0), planned(3)),
    Case(Reason.SCHEDULED, 1, None, Scale(0, 0), planned(3), {"refusal": Refusal(3, 0, 2e3)}),
    Case(Reason.SCHEDULED, 2, seen(rate=1000.0), FIVE, planned(most=2)),
    Case(Reason.SCHEDULED, 4, seen(), replace(TWO, cap=4), planned(8)),
    *(Case(Reason.HELD, 7, each, on_hold(TWO, 7)) for each in (seen(), resting, *GAPS)),
    *(Case(Reason.HELD, 1, each, on_hold(FIVE, 1), by_hand=BY_HAND) for each in (seen(rate=1000.0), None)),
    Case(Reason.LOAD_ABOVE_CAPACITY, 5, seen(rate=300.0), on_hold(TWO, until=MOMENT)),
    Case(Reason.SCHEDULED, 3, seen(rate=1000.0), on_hold(TWO, most=3), planned(20, 20)),
    Case(Reason.HELD, 3, seen(), on_hold(FIVE, most=3), planned(20)),
    Case(Reason.LOAD_ABOVE_CAPACITY, 5, seen(rate=300.0), on_hold(TWO, most=9)),
    Case(Reason.FLEET_FULL, 4, seen(rate=1000.0), FIVE, share=4),
    Case(Reason.LOAD_BELOW_CAPACITY, 3, seen(rate=90.0, up_replicas=5.0), FIVE),
    Case(Reason.LOAD_BELOW_CAPACITY, 4, seen(rate=50.0, up_replicas=2.0), FIVE),
    Case(Reason.LOAD_BELOW_CAPACITY, 6, CALM, NINE, memory={"too_few": TooFew(18.0, 2e3, 600.0)}),
    Case(Reason.LOAD_BELOW_CAPACITY, 7, CALM, NINE, memory=NEEDED | {"needs": Needs(995.0, ((990.0, 7),))}),
    Case(Reason.NOT_WORTH_A_REPLICA, 3, seen(rate=150.0, up_replicas=5.0), FIVE, memory=JUMPED | OVERSPENT),
    Case(Reason.LATENCY_BELOW_TARGET, 3, seen(p99=0.02, up_replicas=5.0), FIVE, PROPORTIONAL),
    Case(Reason.NO_TRAFFIC, 3, seen(rate=0.0, in_flight=0.0, up_replicas=5.0), FIVE),
    Case(Reason.NO_TRAFFIC, 1, seen(rate=0.0, in_flight=None, up_replicas=2.0)),
    Case(Reason.IDLE, 0, resting, ONE, {"scale_to_zero_after": 900.0}, {"idle_since": 100.0}),
]


@pytest.mark.parametrize("case", [*HOLDS, *CHANGES], ids=lambda case: case.reason)
def test_a_decision_says_why_and_from_which_numbers(case):
    decision = case.decide()
    assert (decision.replicas, decision.reason) == (case.replicas, case.reason)
    assert {"arrival_rate", "predicted", "allowed", "ready", "p99"} <= decision.inputs.keys()


@pytest.mark.parametrize(
    ("case", "detail"),
    [
        (Case(Reason.HELD, None, seen(), on_hold(TWO)), "until 2026-11-30 08:31 UTC: freeze"),
        (Case(Reason.HELD, 7, seen(), on_hold(TWO, 7)), "until 2026-11-30 08:31 UTC: freeze"),
        (Case(Reason.HELD, 3, seen(), on_hold(FIVE, most=3)), "at most 3 until 2026-11-30 08:31 UTC: freeze"),
        (Case(Reason.SET_BY_HAND, None, seen(), FIVE, by_hand=BY_HAND), BY_HAND),
        (Case(Reason.WITHIN_RANGE, None, seen(rate=150.0)), ""),
        (
            Case(Reason.FURTHER_METRIC, 4, seen(further=(31.0, 3e9)), TWO, ALSO),
            "queue is 31, 10 for each replica",
        ),
    ],
)
def test_decision_has_the_words_of_its_hold_or_metric(case, detail):
    assert case.decide().detail == detail


@fuzzed(40)
@given(specs, scales, stories, st.none() | st.integers(1, 9))
def test_hold_teaches_what_the_same_time_without_it_teaches(spec, scale, story, replicas):
    for observation, before, _, memory, now in play(spec, scale, story):
        at = Situation(spec, observation or Observation(), before, memory, now, MOMENT)
        held = replace(at, scale=on_hold(before, replicas))
        assert assess(held).at.memory == assess(at).at.memory


@given(specs, scales, stories, st.none() | st.integers(1, 9), st.sampled_from([None, 0, 3]))
def test_hold_gives_its_count_whatever_is_observed(spec, scale, story, replicas, share):
    count = min(replicas or scale.desired, scale.cap or math.inf)
    memory = Memory.initial(scale, 0.0)
    for observation, _ in story:
        at = Situation(spec, observation or Observation(), on_hold(scale, replicas), memory, 5.0, MOMENT)
        decision = concluded(assess(at), share if count == scale.desired else None)
        assert (decision.replicas or scale.desired) == count


def test_every_reason_of_the_closed_list_is_reached():
    of_the_controller = {Reason.SCALE_CHANGED}
    assert {case.reason for case in [*HOLDS, *CHANGES]} == set(Reason) - of_the_controller


IDLING = a_spec(scale_to_zero_after=60.0, longest_gap=20.0)


def rest(seconds, scale=ONE, *, spec=IDLING, memory=None, begin=0.0):
    """Decide every 5 s on a function that rests; return the last decision, its time and the memory."""
    for step in play(spec, scale, [(resting, 5.0)] * int(seconds / 5.0), memory, begin):
        _, _, decision, after, now = step
        if decision.replicas is not None:
            break
    return decision, now, after


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
    spec, memory, begin, reached = replace(IDLING, **changes), None, 0.0, [scale.desired]
    while scale.desired and len(reached) < 9:
        decision, begin, memory = rest(600.0, scale, spec=spec, memory=memory, begin=begin)
        if decision.replicas is None:
            break
        scale = replace(scale, desired=decision.replicas, available=decision.replicas)
        reached.append(decision.replicas)
    assert reached == counts


def test_a_platform_that_does_not_give_zero_is_asked_again_after_another_period():
    _, now, memory = rest(600.0)
    decision, again, _ = rest(600.0, memory=memory, begin=now)
    assert decision.reason is Reason.IDLE
    assert again - now >= 60.0


@pytest.mark.parametrize("partial", [{"up_replicas": 1.0}, {"rated_replicas": 1.0}])
def test_a_replica_that_is_not_seen_is_no_evidence_of_idleness(partial):
    *_, (_, _, _, memory, _) = play(IDLING, TWO, [(replace(resting, **partial), 5.0)] * 20)
    assert memory.traffic.idle_since is None


def test_a_stale_read_of_an_own_write_neither_scales_down_nor_is_a_refusal():
    spec, memory, now = a_spec(max_replicas=20), Memory.initial(Scale(4, 4), 0.0), 0.0
    asked, memory = decide(Situation(spec, seen(rate=700.0), Scale(4, 4), memory, 5.0))
    assert asked.replicas == 8
    for desired in (8, 4, 8, 8):
        now += 5.0
        decision, memory = decide(Situation(spec, seen(rate=700.0), Scale(desired, 4), memory, 5.0 + now))
        assert decision.replicas is None or decision.replicas >= 8
        assert memory.platform.refusal is None


@pytest.mark.parametrize(
    ("case", "lowest", "wanted"),
    [
        (Case(Reason.LOAD_ABOVE_CAPACITY, 5, seen(rate=300.0)), 1, 5),  # no more than its maximum
        (Case(Reason.BELOW_MINIMUM, 3, seen(rate=10.0), replace(TWO, min=3)), 3, 3),
        (Case(Reason.LOAD_BELOW_CAPACITY, 3, seen(rate=90.0, up_replicas=5.0), FIVE), 1, 3),
        (Case(Reason.PARTIAL_DATA, None, seen(rate=90.0, up_replicas=1.0), FIVE), 1, 5),  # until it goes down
        (Case(Reason.NO_DATA, None, None, FIVE), 5, 5),
        (Case(Reason.IDLE, 0, resting, ONE, {"scale_to_zero_after": 900.0}, {"idle_since": 100.0}), 0, 0),
    ],
)
def test_a_share_is_claimed_for_what_is_wanted_within_the_bounds(case, lowest, wanted):
    claimed = case.claim()
    assert (claimed.lowest, claimed.wanted, claimed.current) == (lowest, wanted, case.scale.desired)


QUEUED = Case(Reason.FURTHER_METRIC, 10, seen(rate=0.0, in_flight=0.0, further=(100.0,)), TWO, ALSO)


def test_claim_for_a_further_metric_is_worth_a_replicas_capacity_up_to_the_need():
    claimed = QUEUED.claim()
    gains = [claimed.rate * (claimed.late(count) - claimed.late(count + 1)) for count in range(12)]
    assert gains == pytest.approx([QUEUED.observation.capacity] * 10 + [0.0] * 2)


def test_claims_for_further_metrics_share_a_full_fleet_by_priority():
    claimed = QUEUED.claim()
    claims = {"a": claimed, "b": replace(claimed, priority=2.0)}
    assert allocate(claims, claimed.wanted + 2) == {"a": 2, "b": claimed.wanted}


def test_a_function_without_a_prediction_claims_by_the_rate_that_came_in():
    claimed = Case(Reason.LATENCY_ABOVE_TARGET, 3, seen(p99=0.12), TWO, PROPORTIONAL).claim()
    assert claimed.rate * (claimed.late(2) - claimed.late(3)) > 1.0


def test_decide_rate_over_a_longer_window_does_not_delay_zero():
    spec, memory = a_spec(scale_to_zero_after=30.0), Memory.initial(ONE, 0.0)
    slow = replace(resting, rate=0.02, rate_now=0.0, rate_window=300.0)
    for now in (5.0, 20.0, 36.0):
        decision, memory = decide(Situation(spec, slow, ONE, memory, now))
    assert (decision.replicas, decision.reason) == (0, Reason.IDLE)


@pytest.mark.parametrize(
    ("observation", "known"), [(resting, False), (seen(rate=50.0, up_replicas=1.0), True)]
)
def test_decide_spending_window_has_a_number_once_there_were_requests(observation, known):
    *_, (_, _, decision, _, _) = play(a_spec(), ONE, [(observation, 5.0)] * 3)
    assert (decision.inputs["unspent"] is not None) is known


def test_claim_counts_the_replicas_that_do_not_come_up():
    waiting = Case(
        Reason.UNSCHEDULABLE, None, seen(rate=1000.0, up_replicas=3.0), WITHOUT_ROOM, memory=WAITING_LONG
    )
    assert waiting.claim().stuck == 2


def test_raised_policy_that_sizes_by_latency_alone_gets_nothing_between_reconciles():
    at = Situation(a_spec(policy="proportional"), seen(direct_rate=1e4), TWO, Memory.initial(TWO, 0.0), 5.0)
    assert raised(at, math.inf) is None
    assert raised(replace(at, spec=a_spec()), math.inf) is not None
