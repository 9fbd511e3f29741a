"""What each policy wants, and the properties that every policy in the registry has."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.values import a_spec, observations, scales, seen, specs
from slo_autoscaler.law.confidence import wilson
from slo_autoscaler.law.memory import Outlook
from slo_autoscaler.law.policies import (
    POLICIES,
    doubtful,
    latency_at_objective,
    missed,
    proportional,
    slo,
)
from slo_autoscaler.model import Reason, Scale
from slo_autoscaler.signals import Observation

CALM = Outlook(forecast=100.0, horizon=10.0, utilization=0.8, correction=1.0, missed=False, settled=True)
ONE, TWO = Scale(1, 1), Scale(desired=2, available=2)

outlooks = st.builds(
    Outlook,
    forecast=st.floats(0, 1e4),
    horizon=st.floats(0.1, 100),
    utilization=st.floats(0.1, 1),
    standing=st.sampled_from([0.0, 500.0]),
    correction=st.floats(0.5, 1),
    missed=st.booleans(),
    settled=st.booleans(),
    burning=st.booleans(),
    futile=st.booleans(),
)


@given(specs, observations, scales, outlooks, st.floats(1, 10), st.floats(1, 10))
def test_every_policy_gives_a_finite_count_and_none_less_for_more_load(
    spec, observation, scale, outlook, more, slower
):
    """Load is rate, what is in flight, and latency: each may only push upwards."""
    heavier = replace(outlook, forecast=outlook.forecast * more)
    loaded = replace(
        observation,
        in_flight=None if observation.in_flight is None else observation.in_flight * more,
        p95=None if observation.p95 is None else observation.p95 * slower,
        p99=None if observation.p99 is None else observation.p99 * slower,
    )
    for policy in [each.recommend for each in POLICIES.values()]:
        before, after = (
            policy(spec, *load) for load in ((observation, scale, outlook), (loaded, scale, heavier))
        )
        assert isinstance(after.replicas, int)
        assert after.raw is None or math.isfinite(after.raw)
        assert after.replicas >= before.replicas


@given(specs, observations, scales, outlooks, st.floats(0.1, 1e3))
def test_a_missed_objective_never_makes_slo_want_less(spec, observation, scale, outlook, capacity):
    observation = replace(observation, capacity=capacity)
    fine = slo(spec, observation, scale, replace(outlook, missed=False))
    bad = slo(spec, observation, scale, replace(outlook, missed=True, settled=True))
    assert bad.replicas >= min(fine.replicas, scale.desired)
    assert bad.replicas >= scale.desired


def calm(**changes):
    return replace(CALM, **changes)


FOUR, FIVE = Scale(4, 4), Scale(5, 5)
MISSED = calm(missed=True)
SLO = {
    "by forecast and usable capacity": (seen(), TWO, calm(forecast=330.0), 5, Reason.LOAD_ABOVE_CAPACITY),
    "by the corrected capacity": (seen(), ONE, calm(correction=0.5), 3, Reason.LOAD_ABOVE_CAPACITY),
    "pending replicas count: one shortage is answered once": (
        seen(),
        Scale(desired=5, available=2),
        calm(forecast=390.0),
        5,
        Reason.BACKLOG,
    ),
    "less for less load": (seen(), FIVE, CALM, 2, Reason.LOAD_BELOW_CAPACITY),
    "more for a backlog that the rate does not show": (seen(in_flight=520.0), TWO, CALM, 2, Reason.BACKLOG),
    "unless the rate shows it": (seen(in_flight=520.0), ONE, CALM, 2, Reason.LOAD_ABOVE_CAPACITY),
    "a backlog alone": (seen(in_flight=520.0), ONE, calm(forecast=70.0), 1, Reason.BACKLOG),
    "one more for misses at the count it thinks right": (seen(), TWO, MISSED, 3, Reason.SLO_MISSED),
    "no fewer for misses with more than it thinks right": (seen(), FOUR, MISSED, 4, Reason.SLO_MISSED),
    "none for misses from before the last change": (
        seen(),
        TWO,
        calm(missed=True, settled=False),
        2,
        Reason.BACKLOG,
    ),
    "as it is when not even one request fits": (seen(capacity=0.0), TWO, MISSED, 2, Reason.WILL_NOT_HELP),
} | {
    f"by latency alone, {p99}, while no capacity is learned": (
        seen(capacity=None, p99=p99),
        TWO,
        MISSED,
        replicas,
        Reason.SLO_MISSED,
    )
    for p99, replicas in ((0.05, 3), (0.11, 3), (0.17, 4), (5.0, 4), (None, 3))
}
"""What is seen, the scale and the outlook; how many and why."""


@pytest.mark.parametrize(("observation", "scale", "outlook", "replicas", "reason"), SLO.values(), ids=SLO)
def test_slo_by_hand(observation, scale, outlook, replicas, reason):
    wish = slo(a_spec(utilization_target=0.8), observation, scale, outlook)
    assert (wish.replicas, wish.reason) == (replicas, reason)


@pytest.mark.parametrize(
    ("scale", "settled", "p99", "replicas", "reason"),
    [
        (FOUR, True, 0.12, 6, Reason.LATENCY_ABOVE_TARGET),
        (FOUR, True, 0.03, 2, Reason.LATENCY_BELOW_TARGET),
        (Scale(2, 0), True, 0.5, 2, Reason.SETTLING),
        (TWO, False, 0.5, 2, Reason.SETTLING),
        (TWO, True, None, 2, Reason.TOO_FEW_SAMPLES),
    ],
)
def test_proportional_is_the_law_of_the_hpa_and_holds_when_latency_says_nothing(
    scale, settled, p99, replicas, reason
):
    wish = proportional(a_spec(utilization_target=0.8), seen(p99=p99), scale, calm(settled=settled))
    assert (wish.replicas, wish.reason) == (replicas, reason)
    if replicas != scale.desired:
        assert wish.raw == pytest.approx(4 * p99 / 0.08)


@pytest.mark.parametrize(
    ("objective", "samples", "latency"),
    [
        *((0.999, None, 3.0), (0.99, None, 3.0), (0.95, None, 2.0), (None, None, 3.0)),
        *((0.99, 100.0, 3.0), (0.99, 99.0, 2.0)),  # of few requests p99 would be the slowest
    ],
)
def test_latency_is_the_quantile_nearest_to_the_objective_that_enough_requests_tell(
    objective, samples, latency
):
    observation = Observation(p95=2.0, p99=3.0, slo_objective=objective, samples=samples)
    assert latency_at_objective(observation) == latency


@pytest.mark.parametrize(
    ("attainment", "samples", "expected"),
    [
        (0.95, 20, False),  # one miss in twenty is chance
        (0.98, 100, False),
        (0.98, 1000, True),
        (1.0, 1000, False),
        (0.0, 19, False),
        (0.0, 20, True),
        (None, 100, False),
    ],
)
def test_an_objective_is_missed_when_chance_does_not_explain_it(attainment, samples, expected):
    assert missed(a_spec(min_samples=20), seen(attainment=attainment, samples=samples)) is expected


@given(specs, observations)
def test_what_is_missed_is_doubtful_too(spec, observation):
    assert doubtful(observation) or not missed(spec, observation)


@pytest.mark.parametrize(
    ("share", "samples", "lower", "upper"),
    [
        # The score interval at 1.96 standard errors, as statsmodels and R's prop.test (uncorrected) give it.
        (0.5, 10, 0.2366, 0.7634),
        (0.0, 10, 0.0, 0.2775),
        (1.0, 10, 0.7225, 1.0),
        (0.95, 100, 0.8882, 0.9785),
        (1.0, 300, 0.9874, 1.0),
    ],
)
def test_wilsons_bounds_are_those_of_the_tables(share, samples, lower, upper):
    assert wilson(share, samples, 1.96) == pytest.approx((lower, upper), abs=1e-4)
