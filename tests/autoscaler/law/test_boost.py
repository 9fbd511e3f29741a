"""CPU above nominal: how much, how long, and that it teaches nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.boost import boost, nominal
from slo_autoscaler.law.calibration import Calibration
from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Scale
from slo_autoscaler.signals import Observation
from slo_autoscaler.spec import Boost, Timing
from support.builders import a_spec, observations, scales, seen
from support.fuzzing import fuzzed

SPEC = a_spec(boost=Boost(max_factor=3.0), max_replicas=30)
HELD = replace(SPEC, timing=Timing(settle_time=40.0, interval=5.0, rate_lag=10.0))
THREE = Scale(7, 3)


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


def test_boost_counts_no_streams_that_the_replicas_hold():
    streams = seen(direct_rate=100.0, direct_in_flight=630.0, concurrency=210.0)
    assert boost(situation(streams), 1.0).factor == 1.0


def test_boost_covers_what_a_capacity_lacks_that_is_measured_to_be_half():
    half = situation(seen(direct_rate=290.0))
    half = half.after(replace(half.memory, calibration=Calibration(0.5)))
    assert boost(half, 1.0).needed == 6


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
    calibration, now, faster = memory.calibration, 0.0, memory
    for observation, gap, speed, service_time in story:
        now += gap
        as_before = replace(observation, capacity=100.0, concurrency=None, service_time_single=0.025)
        decision, memory = decide(Situation(HELD, as_before, scale, memory, now, boost=2.0))
        boosted = replace(as_before, capacity=speed * 100.0, service_time_single=service_time)
        same, faster = decide(Situation(HELD, boosted, scale, faster, now, boost=2.0))
        assert decision.replicas == same.replicas
        assert memory.calibration == calibration
    assert memory == faster


@pytest.mark.parametrize("boosts", [(), ((10.0, 2.0),)], ids=["nominal", "boosted"])
def test_lateness_is_compared_with_the_prediction_unless_a_boost_is_in_the_windows(boosts):
    settled = replace(
        Memory.initial(THREE, 0.0), overloaded_at=-1e6, boosts=boosts, nominal=(100.0, None, None)
    )
    _, memory = decide(Situation(HELD, seen(rate=250.0, burn_short=9.0), THREE, settled, 20.0))
    assert (memory.calibration == settled.calibration) == bool(boosts)


def before(**measured):
    """Return the memory of 3 replicas with nominal CPU that have ``measured`` this, else 100/s."""
    return nominal(Situation(HELD, seen(**measured), THREE, Memory.initial(THREE, 0.0), 0.0)).memory


def boosted(memory, by, now, **measured):
    """Return what ``nominal`` makes of them, boosted by a factor."""
    return nominal(Situation(HELD, seen(**measured), THREE, memory, now, boost=by))


def test_capacity_that_was_too_low_rises_during_a_boost_to_what_its_cpu_does_not_explain():
    assert 250.0 <= boosted(before(), 2.0, 5.0, capacity=600.0).seen.capacity <= 300.0


def test_capacity_near_the_slo_rises_during_a_boost_by_the_service_time_from_before():
    memory = before(capacity=0.25, service_time_single=0.07)
    during = boosted(memory, 3.0, 5.0, capacity=21.0, service_time_single=0.023)
    assert 0.7 <= during.seen.capacity <= 0.8


def test_boost_that_has_fallen_explains_less_once_the_higher_one_has_left_the_windows():
    high = boosted(before(), 3.0, 5.0, capacity=300.0)
    low = boosted(high.memory, 1.25, 40.0, capacity=200.0)
    later = boosted(low.memory, 1.25, 45.1, capacity=200.0)
    assert low.seen.capacity == 100.0
    assert 140.0 <= later.seen.capacity <= 160.0


def test_streams_that_boosted_replicas_hold_do_not_count():
    during = boosted(before(concurrency=40.0), 3.0, 5.0, concurrency=120.0, capacity=200.0)
    assert during.seen.concurrency == 40.0


def test_capacity_counts_again_once_the_boost_has_left_the_windows():
    memory = replace(Memory.initial(THREE, 0.0), boosts=((10.0, 2.0),))
    during = nominal(Situation(HELD, seen(capacity=300.0), THREE, memory, 50.0))
    after = nominal(Situation(HELD, seen(capacity=110.0), THREE, memory, 50.1))
    assert (during.seen.capacity, after.seen.capacity) == (None, 110.0)


def test_boost_that_only_a_label_allows_keeps_the_capacity_from_before():
    spec = replace(a_spec(), timing=Timing(settle_time=40.0, interval=5.0, rate_lag=10.0))
    _, memory = decide(Situation(spec, seen(capacity=100.0), THREE, Memory.initial(THREE, 0.0), 0.0))
    _, memory = decide(Situation(spec, Observation(), THREE, memory, 2.0))
    faster = Situation(spec, seen(capacity=300.0), THREE, memory, 5.0, boost=3.0)
    assert nominal(faster).seen.capacity == 100.0
