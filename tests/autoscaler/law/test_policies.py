"""What each policy wants without a prediction, and the properties that all have."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.latency import latency_at_objective, wilson
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.need import POLICIES, proportional, slo
from slo_autoscaler.law.platform import standing
from slo_autoscaler.law.replica import carries
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.traffic import outlook
from slo_autoscaler.model import Need, Reason, Scale
from slo_autoscaler.signals.record import Observation
from support.builders import a_spec, observations, remembering, scales, seen, specs
from support.fuzzing import fuzzed

ONE, TWO, FOUR = Scale(1, 1), Scale(2, 2), Scale(4, 4)
LATER = 1000.0
SPEC = a_spec(utilization_target=0.8)


def ask(policy, observation, scale=TWO, spec=SPEC, **memory):
    memory = remembering(Memory.initial(scale, 0.0), **memory)
    return asked(policy, Situation(spec, observation, scale, memory, LATER))


def asked(policy, at):
    """Return the count that the policy needs, or holds, and why."""
    stands, _ = standing(at)
    carried, _ = carries(at, stands)
    need, _ = policy(at, stands, carried, outlook(at, stands, carried))
    return need.count if isinstance(need, Need) else at.scale.desired, need.because


@fuzzed(50)
@given(specs, observations, scales, st.floats(1, 10), st.floats(1, 10))
def test_every_policy_gives_a_count_and_none_less_for_more_load(spec, observation, scale, more, slower):
    """Load is rate, what is in flight, and latency: each may only push upwards.

    For ``slo`` misses are left out: the same misses under more load are what the load explains, so that a
    replica is believed to do more.
    """
    arrivals = dict.fromkeys(("rate", "rate_now", "gateway_rate_now", "in_flight"), more)
    times = arrivals | {"p95": slower, "p99": slower}
    loaded = replace(
        observation,
        **{
            name: value * factor
            for name, factor in times.items()
            if (value := getattr(observation, name)) is not None
        },
    )
    for policy in [each.need for each in POLICIES.values()]:
        memory = Memory.initial(scale, 0.0)
        both = (observation, loaded)
        if policy is slo:
            both = tuple(replace(each, burn_short=None) for each in both)
        (before, _), (after, _) = (
            asked(policy, Situation(spec, each, scale, memory, LATER)) for each in both
        )
        assert isinstance(after, int)
        assert after >= before


@pytest.mark.parametrize(
    ("observation", "scale", "memory", "expected"),
    [
        (seen(p99=0.12), FOUR, {}, (6, Reason.LATENCY_ABOVE_TARGET)),
        (seen(p99=0.03), FOUR, {}, (2, Reason.LATENCY_BELOW_TARGET)),
        (seen(p99=0.03, attainment=0.9), FOUR, {}, (4, Reason.SCALE_DOWN_UNSAFE)),
        (seen(p95=0.03, attainment=0.95, samples=20.0), FOUR, {}, (4, Reason.SCALE_DOWN_UNSAFE)),
        (seen(p99=0.5), Scale(2, 0), {}, (2, Reason.SETTLING)),
        (seen(p99=0.5), TWO, {"scaled_at": LATER - 39.0}, (2, Reason.SETTLING)),
        (seen(p99=0.5), TWO, {"scaled_at": LATER - 45.0}, (13, Reason.LATENCY_ABOVE_TARGET)),
        (
            seen(p99=0.5),
            TWO,
            dict.fromkeys(("scaled_at", "scaled_up_at"), LATER - 45.0),
            (2, Reason.SETTLING),
        ),
        (seen(p95=0.5, samples=17.0), TWO, {}, (2, Reason.TOO_FEW_SAMPLES)),
        (seen(p95=0.5, samples=18.0), TWO, {}, (13, Reason.LATENCY_ABOVE_TARGET)),  # and two in flight
    ],
)
def test_proportional_is_the_law_of_the_hpa_and_holds_when_latency_says_nothing(
    observation, scale, memory, expected
):
    assert ask(proportional, observation, scale, **memory) == expected


def test_a_capacity_of_zero_holds_while_requests_come_and_one_replica_is_enough_without():
    assert ask(slo, seen(capacity=0.0), FOUR) == (4, Reason.WILL_NOT_HELP)
    assert ask(slo, seen(capacity=0.0, rate=0.0), FOUR) == (1, Reason.NO_TRAFFIC)


MISSED = {"capacity": None, "attainment": 0.9}


@pytest.mark.parametrize(
    ("changes", "memory", "expected"),
    [
        ({"p99": 0.17}, {}, (4, Reason.SLO_MISSED)),
        ({"p99": 5.0}, {}, (4, Reason.SLO_MISSED)),  # a doubling at most
        ({"p99": 0.11, "burn_short": 0.9}, {}, (3, Reason.LATENCY_ABOVE_TARGET)),  # it is over
        ({"p95": 0.03, "samples": 19.0}, {}, (2, Reason.SCALE_DOWN_UNSAFE)),
        ({"p99": 0.11, "attainment": 0.98, "samples": 100.0}, {}, (3, Reason.LATENCY_ABOVE_TARGET)),
    ],
)
def test_slo_sizes_by_latency_alone_until_a_capacity_is_learned(changes, memory, expected):
    assert ask(slo, seen(**MISSED | changes), **memory) == expected


def test_what_was_not_safe_a_moment_ago_is_not_given_back_now():
    spec = a_spec(policy="proportional", start_up_time=30.0)
    memory, quick = Memory.initial(FOUR, 0.0), seen(p99=0.03, up_replicas=4.0)
    for now in range(45, 65, 5):
        _, memory = decide(Situation(spec, replace(quick, attainment=0.9), FOUR, memory, float(now)))
    reached = None
    while reached is None:
        now += 5
        decision, memory = decide(Situation(spec, quick, FOUR, memory, float(now)))
        reached = decision.replicas
    assert (reached, now) == (2, 60 + 35)


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
