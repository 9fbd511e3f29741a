"""The virtual replicas of shadow mode, what they would have seen, and the score."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.model import Scale
from slo_autoscaler.shadow import Shadow, imagined
from support.builders import observations, scales, seen

REAL = Scale(desired=2, available=2, min=1, max=9)
START = 10.0


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 30)), max_size=30))
def test_serving_and_starting_replicas_add_up_to_the_target(story):
    shadow, now = Shadow.beside(REAL, 0.0), 0.0
    assert shadow.scale(REAL, now) == REAL
    for seconds, count in story:
        now += seconds
        before = shadow.scale(REAL, now)
        shadow = shadow.wanted(count, START, now)
        after = shadow.scale(REAL, now)
        assert after.desired == count
        assert after.available <= before.available, "nothing serves at once"
        assert after.available == min(before.available, count), "what serves stays as long as it may"
    assert shadow.scale(REAL, now + START).available == shadow.desired


OVERLOADED = seen(rate=190.0, in_flight_growth=60.0, in_flight=80.0, p99=0.4, attainment=0.6)


@pytest.mark.parametrize(
    ("observed", "count", "expected"),
    [
        # With more replicas latency falls and an overload is gone; with fewer what they cannot do is missed.
        (OVERLOADED, 4, {"p99": 0.2, "in_flight": 40.0, "attainment": 1.0, "up_replicas": 4.0}),
        (seen(rate=200.0), 1, {"attainment": 0.5, "p99": 0.18}),
        # What is missed for other reasons is missed in both worlds.
        (seen(rate=100.0, attainment=0.9), 5, {"attainment": 0.9}),
        # Without a capacity more replicas are no worse, and of fewer nothing is said.
        (seen(capacity=None, attainment=0.97), 3, {"attainment": 0.97}),
        (seen(capacity=None, attainment=0.97), 1, {"attainment": None}),
        # What the incumbent has missed says nothing of other replicas.
        (seen(burn_short=5.0, budget_remaining=0.1), 9, {"burn_short": None, "budget_remaining": None}),
        # A replica that the source does not see is not seen in the shadow either.
        (seen(up_replicas=1.0), 4, {"up_replicas": 3.0, "rated_replicas": None}),
        (seen(rated_replicas=2.0), 4, {"rated_replicas": 4.0}),
        (seen(rated_replicas=1.0, stalled=3.0), 1, {"rated_replicas": 1.0, "stalled": None}),
    ],
)
def test_imagined_observation_follows_the_ratio_of_replicas(observed, count, expected):
    there = imagined(observed, REAL, Scale(count, count))
    assert {name: getattr(there, name) for name in expected} == {
        name: value if value is None else pytest.approx(value) for name, value in expected.items()
    }


@given(observations, scales, scales)
def test_imagined_observation_keeps_its_invariants(observed, real, virtual):
    assert imagined(observed, real, real) is observed
    there = imagined(observed, real, virtual)
    assert there.arrival_rate == pytest.approx(observed.arrival_rate)
    for name in ("capacity", "slo_latency", "sample_age"):
        assert getattr(there, name) == getattr(observed, name)
    assert there.attainment is None or 0.0 <= there.attainment <= 1.0


def test_an_interval_is_scored_for_both():
    shadow = Shadow.beside(REAL, 0.0).wanted(3, 0.0, 0.0)
    overloaded = seen(rate=250.0, attainment=0.7)
    score = shadow.passed(overloaded, REAL, START, 20.0, 5.0).score
    assert (score.seconds, score.requests) == (5.0, 1250.0)
    assert (score.replica_seconds_incumbent, score.replica_seconds_shadow) == (10.0, 15.0)
    assert score.attained_incumbent == pytest.approx(875.0)
    assert score.attained_shadow == pytest.approx(1250.0)
    assert score.document()["replica_seconds_shadow"] == 15.0
    idle = Shadow.beside(REAL, 0.0).passed(seen(rate=0.0, attainment=None), REAL, START, 20.0, 5.0).score
    assert (idle.requests, idle.replica_seconds_incumbent) == (0.0, 10.0)


@pytest.mark.parametrize(
    ("observed", "now"),
    [(None, 5.0), (seen(rate=None), 5.0), (seen(attainment=None), 5.0), *((seen(), t) for t in (0, -5, 25))],
)
def test_an_interval_that_cannot_be_told_is_not_scored(observed, now):
    after = Shadow.beside(REAL, 0.0).passed(observed, REAL, START, 20.0, now)
    assert after.score == Shadow.beside(REAL, 0.0).score
    assert after.seen_at >= 0.0


def test_at_zero_a_request_wakes_it_and_only_a_request():
    asleep = Shadow.beside(REAL, 0.0).wanted(0, START, 0.0)
    assert asleep.passed(seen(rate=0.0), REAL, START, 20.0, 5.0).desired == 0
    assert asleep.passed(None, REAL, START, 20.0, 5.0).desired == 0
    awake = asleep.passed(seen(rate=3.0), REAL, START, 20.0, 5.0)
    assert (awake.desired, awake.scale(REAL, 5.0).available, awake.scale(REAL, 15.0).available) == (1, 0, 1)
