"""The virtual replicas of shadow mode, what they would have seen, and the score."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.platform import start_up
from slo_autoscaler.law.shadow import Shadow, imagined
from slo_autoscaler.model import Scale
from support.builders import a_spec, observations, scales, seen

REAL = Scale(desired=2, available=2, min=1, max=9)
START = 10.0
SPEC = a_spec(start_up_time=START, longest_gap=20.0, window=30.0)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 30)), max_size=30))
def test_serving_and_starting_replicas_add_up_to_the_target(story):
    shadow, now = Shadow.beside(REAL, 0.0), 0.0
    assert shadow.scale(REAL, now) == REAL
    for seconds, count in story:
        now += seconds
        before = shadow.scale(REAL, now)
        shadow = shadow.wanted(count, SPEC, now)
        after = shadow.scale(REAL, now)
        assert after.desired == count
        assert after.available <= before.available, "nothing serves at once"
        assert after.available == min(before.available, count), "what serves stays as long as it may"
    assert shadow.scale(REAL, now + START).available == shadow.desired


OVERLOADED = seen(rate=190.0, in_flight_growth=60.0, in_flight=80.0, p99=0.4, attainment=0.6)


@pytest.mark.parametrize(
    ("observed", "count", "expected"),
    [
        # With more replicas latency falls.
        (OVERLOADED, 4, {"p99": 0.2, "in_flight": 40.0, "attainment": 0.9, "up_replicas": 4.0}),
        (seen(rate=200.0), 1, {"p99": 0.18}),
        (seen(rate=200.0), 2, {"p99": 0.09, "attainment": 0.9}),
        # What the incumbent has missed says nothing of other replicas.
        (seen(burn_short=5.0, budget_remaining=0.1), 9, {"burn_short": None, "budget_remaining": None}),
        # A replica that the source does not see is not seen in the shadow either.
        (seen(up_replicas=1.0), 4, {"up_replicas": 3.0, "rated_replicas": None}),
        (seen(rated_replicas=2.0), 4, {"rated_replicas": 4.0}),
        (seen(rated_replicas=1.0, stalled=3.0), 1, {"rated_replicas": 1.0, "stalled": None}),
    ],
)
def test_imagined_observation_follows_the_ratio_of_replicas(observed, count, expected):
    there = imagined(observed, REAL, Scale(count, count), 0.9)
    assert {name: getattr(there, name) for name in expected} == {
        name: value if value is None else pytest.approx(value) for name, value in expected.items()
    }


@given(observations, scales, scales)
def test_imagined_observation_keeps_its_invariants(observed, real, virtual):
    assert imagined(observed, real, real, observed.attainment) == observed
    there = imagined(observed, real, virtual, 0.7)
    assert there.arrival_rate == pytest.approx(observed.arrival_rate)
    for name in ("capacity", "slo_latency", "sample_age"):
        assert getattr(there, name) == getattr(observed, name)


def story(*intervals, shadow=None):
    """Return the shadow after intervals of 5 s, each (rate, samples, share of them within the SLO)."""
    shadow = shadow or Shadow.beside(REAL, 0.0)
    for index, (rate, samples, share) in enumerate(intervals, 1):
        observed = seen(rate=rate, samples=samples, attainment=share)
        shadow = shadow.passed(observed, REAL, SPEC, 5.0 * index)
    return shadow


def test_an_interval_is_scored_for_both():
    shadow = replace(Shadow.beside(REAL, 0.0), desired=4)
    score = story((250.0, 7500.0, 0.7), shadow=shadow).score
    assert (score.seconds, score.requests) == (5.0, 1250.0)
    assert (score.replica_seconds_incumbent, score.replica_seconds_shadow) == (10.0, 20.0)
    assert score.attained_incumbent == pytest.approx(875.0)
    assert score.attained_shadow > 875.0
    assert score.document()["replica_seconds_shadow"] == 20.0
    idle = story((0.0, 0.0, None)).score
    assert (idle.requests, idle.replica_seconds_incumbent) == (0.0, 10.0)


@pytest.mark.parametrize(
    ("observed", "count", "low", "high"),
    [
        # Fewer are late with more replicas, and what fewer cannot do is late.
        (OVERLOADED, 5, 0.65, 1.0),
        (seen(rate=200.0), 1, 0.5, 0.7),
        # The same number misses the same; what is missed for other reasons is missed in both worlds.
        (seen(rate=100.0, attainment=0.9), 2, 0.9, 0.9),
        (seen(rate=100.0, attainment=0.9), 5, 0.9, 0.9),
        # Without a capacity more replicas are no worse, and of fewer nothing is said.
        (seen(capacity=None, attainment=0.97), 3, 0.97, 0.97),
        (seen(capacity=None, attainment=0.97), 1, None, None),
    ],
)
def test_shadow_attains_more_with_more_replicas(observed, count, low, high):
    shadow = replace(Shadow.beside(REAL, 0.0), desired=count)
    for now in range(5, 20, 5):
        observed = replace(observed, samples=30.0 * observed.arrival_rate)
        shadow = shadow.passed(observed, REAL, SPEC, float(now))
    attained = shadow.attained(observed, 30.0)
    assert attained is low is None or low - 1e-3 <= attained <= high + 1e-3


def test_requests_that_wait_are_late_in_both_worlds_before_they_are_answered():
    shadow = Shadow.beside(REAL, 0.0)
    for now in range(5, 35, 5):
        shadow = shadow.passed(seen(in_flight=20.0 + 10.0 * now), REAL, SPEC, float(now))
    assert shadow.attained(seen(), 30.0) == pytest.approx(1.0 - 250.0 / 3000.0)
    assert shadow.score.attained_incumbent == shadow.score.requests, "it is measured"


def test_misses_of_a_burst_count_once_whatever_the_load_while_they_are_in_the_window():
    """5 s of 100/s, all late, and then nothing, or as many or more on time."""
    burst = [(100.0, 500.0, 0.0)]
    for rate in (0.0, 100.0, 900.0):
        after = [
            (rate, 500.0 + 5.0 * rate * index, 5.0 * rate * index / (500.0 + 5.0 * rate * index))
            for index in range(1, 6)
        ]
        quiet = [(rate, 30.0 * rate, 1.0 if rate else None)] * 3
        shadow = story(*burst, *after, *quiet)
        assert shadow.score.attained_incumbent == pytest.approx(
            shadow.score.requests - 500.0 + shadow.missed[0]
        )


@given(st.lists(st.tuples(observations, scales, st.integers(0, 9), st.floats(0, 30)), max_size=20))
def test_scores_never_fall_and_no_more_attain_than_are_requested(intervals):
    shadow, now = Shadow.beside(REAL, 0.0), 0.0
    for observed, real, count, seconds in intervals:
        before, now = shadow.score, now + seconds
        shadow = shadow.passed(observed, real, SPEC, now).wanted(count, SPEC, now)
        for name in ("requests", "attained_incumbent", "attained_shadow"):
            assert getattr(shadow.score, name) >= getattr(before, name)
        for name in ("attained_incumbent", "attained_shadow"):
            assert getattr(shadow.score, name) <= shadow.score.requests * (1 + 1e-9)
        attained = shadow.attained(observed, 30.0)
        assert attained is None or 0.0 <= attained <= 1.0


def test_start_up_of_virtual_replicas_is_that_which_real_ones_show():
    """The process reports 4 s of it, and the platform takes 35 s; then one more is requested at once."""
    shadow, observed = Shadow.beside(REAL, 0.0), seen(process_start_up=4.0)
    for now in range(5, 60, 5):
        real = Scale(4, 3) if now >= 40 else Scale(3, 2)
        shadow = shadow.passed(observed, real, SPEC, float(now))
    shadow = shadow.wanted(6, SPEC, 60.0)
    assert [shadow.scale(real, now).available for now in (89.0, 96.0)] == [shadow.desired - 4, 6]
    assert start_up(shadow.taught(Memory.initial(REAL, 0.0)).platform, SPEC) == pytest.approx(35.0)


@pytest.mark.parametrize(
    ("observed", "now"),
    [(None, 5.0), (seen(rate=None), 5.0), (seen(attainment=None), 5.0), *((seen(), t) for t in (0, -5, 25))],
)
def test_an_interval_that_cannot_be_told_is_not_scored(observed, now):
    after = Shadow.beside(REAL, 0.0).passed(observed, REAL, SPEC, now)
    assert after.score == Shadow.beside(REAL, 0.0).score
    assert after.seen_at >= 0.0


def test_at_zero_a_request_wakes_it_and_only_a_request():
    asleep = Shadow.beside(REAL, 0.0).wanted(0, SPEC, 0.0)
    assert asleep.passed(seen(rate=0.0), REAL, SPEC, 5.0).desired == 0
    assert asleep.passed(None, REAL, SPEC, 5.0).desired == 0
    awake = asleep.passed(seen(rate=3.0), REAL, SPEC, 5.0)
    assert (awake.desired, awake.scale(REAL, 5.0).available, awake.scale(REAL, 15.0).available) == (1, 0, 1)
