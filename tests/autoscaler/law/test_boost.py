"""CPU above nominal: how much, how long, and that it teaches nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.base.calibration import Calibration
from slo_autoscaler.law.boost import boost, needless
from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.platform import stuck
from slo_autoscaler.law.replica import nominal as of_nominal
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Scale
from slo_autoscaler.settings.spec import Boost, Timing
from slo_autoscaler.signals.record import Observation, Of, signals_of
from support.builders import a_spec, observations, remembering, scales, seen
from support.fuzzing import fuzzed

SPEC = a_spec(boost=Boost(max_factor=3.0), max_replicas=30)
HELD = replace(SPEC, timing=Timing(settle_time=40.0, interval=5.0, rate_lag=10.0))
THREE = Scale(7, 3)


def nominal(at):
    """Return the situation as nominal replicas would show it."""
    return of_nominal(at, stuck(at.memory.platform, at.spec, at.now))


def situation(observation, scale=THREE, spec=SPEC):
    return Situation(spec, observation, scale, Memory.initial(scale, 0.0), 0.0)


@pytest.mark.parametrize(
    ("arriving", "factor", "needed"), [(290.0, 1.0, 3), (310.0, 1.0, 4), (600.0, 2.0, 6), (5000.0, 3.0, 50)]
)
def test_boost_covers_what_the_serving_replicas_lack_up_to_the_maximum(arriving, factor, needed):
    found = boost(situation(seen(direct_rate=arriving)), 1.0)
    assert (found.factor, found.needed, found.serving, found.starting) == (factor, needed, 3, 4)


def test_boost_counts_the_requests_that_wait_beyond_the_slo():
    assert boost(situation(seen(direct_rate=100.0, direct_in_flight=630.0)), 1.0).factor > 2.0


def test_boost_counts_no_request_for_each_replica_of_a_function_that_answers_less_than_one_within_the_slo():
    slow = seen(rate=2.5, direct_rate=2.5, capacity=1.0, slo_latency=0.5, direct_in_flight=3.0)
    assert boost(situation(slow), 1.0).factor == 1.0
    assert boost(situation(replace(slow, direct_in_flight=8.0)), 1.0).factor > 1.0


def test_boost_counts_no_streams_that_the_replicas_hold():
    streams = seen(direct_rate=100.0, direct_in_flight=630.0, concurrency=210.0)
    assert boost(situation(streams), 1.0).factor == 1.0


def test_boost_covers_what_a_capacity_lacks_that_is_measured_to_be_half():
    half = situation(seen(direct_rate=290.0))
    half = half.after(remembering(half.memory, calibration=Calibration(0.5)))
    assert boost(half, 1.0).needed == 6


def test_boost_follows_the_mean_rate_where_less_surely_arrives():
    assert boost(situation(seen(rate=600.0, direct_rate=450.0)), 1.0).factor == 2.0


def test_boost_follows_no_mean_rate_that_is_older_than_a_sample_may_be():
    spec = replace(SPEC, timing=replace(HELD.timing, max_age=20.0))
    at = situation(seen(rate=600.0, direct_rate=100.0), spec=spec)
    assert [boost(replace(at, now=now), 1.0).factor for now in (20.0, 20.1)] == [2.0, 1.0]


SLOW = seen(rate=250.0, direct_rate=250.0, direct_in_flight=200.0)
"""What three boosted replicas of a slower model show: arrivals within the capacity, and a queue."""


def factors(seconds, scale=THREE, observation=SLOW, **changes):
    """Return the factor in force each second, with a reconcile each 5 s after which the count stays."""
    spec, factor, in_force = replace(HELD, **changes), 1.0, []
    _, memory = decide(Situation(spec, seen(rate=250.0), scale, Memory.initial(scale, 0.0), 0.0))
    for now in range(1, seconds):
        at = Situation(spec, observation, scale, memory, float(now), boost=factor)
        if now % 5 == 0:
            memory = remembering(decide(at)[1], asked=None)
        factor = boost(nominal(replace(at, memory=memory)), factor).factor
        in_force.append(factor)
    return in_force


@fuzzed(300)
@given(observations, scales, st.floats(0.0, 500.0), st.floats(0.0, 500.0), st.floats(0.25, 4.0))
def test_needless_boost_is_none(observation, scale, rate, inside, calibrated):
    direct = replace(observation, direct_rate=rate, direct_in_flight=inside)
    at = situation(direct, scale, HELD)
    at = nominal(at.after(remembering(at.memory, calibration=Calibration(calibrated))))
    if needless(observation, scale, at.memory, rate, inside):
        assert boost(at, 1.0).factor == 1.0


def test_needless_is_a_boost_of_replicas_that_serve_with_room_and_none_while_one_is_in_the_windows():
    memory = Memory.initial(THREE, 0.0)
    assert needless(seen(), THREE, memory, 200.0, 50.0)
    assert not needless(seen(), THREE, remembering(memory, boosts=((0.0, 2.0),)), 200.0, 50.0)


def test_boost_that_bridges_nothing_ends_until_the_capacity_counts_again():
    in_force = factors(120, Scale(3, 3))
    ended = in_force.index(1.0)
    again = next(second for second in range(ended, 118) if in_force[second] > 1.0)
    assert TUNING.boost_alone <= ended <= TUNING.boost_alone + 6.0
    assert HELD.timing.settle_time <= again - ended <= HELD.timing.settle_time + 6.0


def test_boost_lasts_while_replicas_start():
    assert min(factors(60, Scale(5, 3), start_up_time=120.0)) > 1.0


def test_boost_beside_a_replica_that_never_starts_bridges_nothing():
    assert 1.0 in factors(90, Scale(4, 3))


def test_boost_lasts_where_more_replicas_are_needed_than_there_may_be():
    busy = seen(rate=500.0, direct_rate=500.0)
    assert min(factors(120, Scale(3, 3), busy, max_replicas=3)) == 1.75


def test_boost_by_more_than_the_arrivals_explain_ends_also_where_no_replica_can_start():
    slower = seen(rate=330.0, direct_rate=330.0, direct_in_flight=330.0)
    in_force = factors(120, Scale(3, 3), slower, max_replicas=3)
    assert in_force[:30].count(1.0) == 0
    assert 1.0 in in_force


def test_boost_ends_in_steps():
    assert boost(situation(seen(direct_rate=0.0)), 3.0).factor == 3.0 - TUNING.boost_grain


@pytest.mark.parametrize("observation", [Observation(), seen(capacity=None), seen(capacity=0.0)])
def test_no_boost_begins_without_a_known_capacity(observation):
    assert boost(situation(replace(observation, direct_rate=900.0)), 1.0).factor == 1.0


@fuzzed(200)
@given(observations, scales, st.floats(1.0, 4.0), st.floats(1.0, 5.0))
def test_boost_is_between_nominal_and_the_maximum(observation, scale, most, before):
    spec = a_spec(boost=Boost(max_factor=most))
    assert 1.0 <= boost(situation(observation, scale, spec), before).factor <= most


@fuzzed(60)
@given(
    st.lists(
        st.tuples(observations, st.floats(0.5, 10), st.floats(0.1, 2.0), st.floats(0.001, 0.025)), max_size=12
    )
)
def test_what_a_replica_gains_by_its_boost_teaches_nothing(story):
    scale = Scale(3, 3)
    _, memory = decide(Situation(HELD, seen(), scale, Memory.initial(scale, 0.0), 0.0))
    calibration, now, faster = memory.replica.calibration, 0.0, memory
    for observation, gap, speed, service_time in story:
        now += gap
        as_before = replace(observation, capacity=100.0, concurrency=None, service_time_single=0.025)
        decision, memory = decide(Situation(HELD, as_before, scale, memory, now, boost=2.0))
        boosted = replace(as_before, capacity=speed * 100.0, service_time_single=service_time)
        same, faster = decide(Situation(HELD, boosted, scale, faster, now, boost=2.0))
        assert decision.replicas == same.replicas
        assert memory.replica.calibration == calibration
    assert memory == faster


@pytest.mark.parametrize("boosts", [(), ((10.0, 2.0),)], ids=["nominal", "boosted"])
def test_lateness_is_compared_with_the_prediction_unless_a_boost_is_in_the_windows(boosts):
    learned = tuple({"capacity": 100.0}.get(name) for name in signals_of(Of.REPLICA))
    settled = remembering(Memory.initial(THREE, 0.0), overloaded_at=-1e6, boosts=boosts, nominal=learned)
    _, memory = decide(Situation(HELD, seen(rate=250.0, burn_short=9.0), THREE, settled, 20.0))
    assert (memory.replica.calibration == settled.replica.calibration) == bool(boosts)


def test_what_boosted_replicas_export_does_not_count():
    memory = nominal(situation(seen(concurrency=40.0), spec=HELD)).memory
    exports = seen(capacity=250.0, concurrency=120.0, service_time_single=0.01)
    during = nominal(Situation(HELD, exports, THREE, memory, 5.0, boost=3.0)).seen
    assert (during.capacity, during.concurrency, during.service_time_single) == (100.0, 40.0, 0.025)


def test_capacity_that_falls_after_a_boost_counts_at_once_and_one_that_rises_only_outside_of_the_windows():
    memory, held = nominal(situation(seen(), spec=HELD)).memory, []
    for now, capacity, factor in (
        (5.0, 50.0, 2.0),
        (10.0, 50.0, 1.0),
        (15.0, 150.0, 1.0),
        (45.1, 150.0, 1.0),
    ):
        at = nominal(Situation(HELD, seen(capacity=capacity), THREE, memory, now, boost=factor))
        memory = at.memory
        held.append(at.seen.capacity)
    assert held == [100.0, 50.0, 50.0, 150.0]


def test_boost_at_the_maximum_count_pauses_once_an_hour_for_the_capacity_of_nominal_replicas():
    busy = seen(rate=500.0, direct_rate=500.0)
    in_force = factors(int(TUNING.boost_longest) + 120, Scale(3, 3), busy, max_replicas=3)
    pause = in_force.index(1.0)
    assert pause >= TUNING.boost_longest
    assert in_force[-1] == in_force[0]


def test_capacity_counts_again_once_the_boost_has_left_the_windows():
    memory = remembering(Memory.initial(THREE, 0.0), boosts=((10.0, 2.0),))
    during = nominal(Situation(HELD, seen(capacity=300.0), THREE, memory, 50.0))
    after = nominal(Situation(HELD, seen(capacity=110.0), THREE, memory, 50.1))
    assert (during.seen.capacity, after.seen.capacity) == (None, 110.0)


def test_boost_that_only_a_label_allows_keeps_the_capacity_from_before():
    spec = replace(a_spec(), timing=Timing(settle_time=40.0, interval=5.0, rate_lag=10.0))
    _, memory = decide(Situation(spec, seen(capacity=100.0), THREE, Memory.initial(THREE, 0.0), 0.0))
    _, memory = decide(Situation(spec, Observation(), THREE, memory, 2.0))
    faster = Situation(spec, seen(capacity=300.0), THREE, memory, 5.0, boost=3.0)
    assert nominal(faster).seen.capacity == 100.0
