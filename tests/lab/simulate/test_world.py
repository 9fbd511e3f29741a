"""Whole simulations: what goes in comes out, time is kept, and better is better."""

import math
from dataclasses import replace

import numpy as np
import pytest

from slo_autoscaler.config import Config
from slo_autoscaler.model import Observation
from tailbound_lab.simulate import traces
from tailbound_lab.simulate.baselines import Bounds
from tailbound_lab.simulate.function import Function, Routing, Service, View
from tailbound_lab.simulate.oracle import Oracle
from tailbound_lab.simulate.scalers import DecideScaler, Fixed
from tailbound_lab.simulate.traces import Trace
from tailbound_lab.simulate.world import Settings, run

FUNCTION = Function(Service.affine(0.02, 0.01, 32), slo_latency=0.2, start_up=10.0)
CONFIG = Config.parse(
    "{platform: {gateway_url: http://none}, prometheus: {url: http://none}, defaults: {max_replicas: 20}}",
    "test",
)


def ours(policy: str = "slo") -> DecideScaler:
    return DecideScaler(replace(CONFIG.target("f.openfaas-fn"), policy=policy), CONFIG.interval, 2.0)


class Plan:
    """Asks for given counts at given seconds, and keeps what it saw."""

    name, interval, phase = "plan", 1.0, 0.0

    def __init__(self, counts: dict[int, int]) -> None:
        self.counts = counts
        self.seen: list[Observation | None] = []
        self.available: list[int] = []
        self.concurrency: list[float] = []
        self.utilization: list[float | None] = []

    def scale(self, view: View, now: float) -> int | None:
        self.seen.append(view.observe())
        self.available.append(view.scale.available)
        self.concurrency.append(view.concurrency(10.0))
        self.utilization.append(view.utilization(10.0))
        return self.counts.get(int(now))


def steady(rate: float, seconds: int) -> Trace:
    return traces.generate("poisson", rate, seconds)


def test_the_same_arguments_give_the_same_outcome():
    trace = traces.generate("step", 60.0, 120)
    first, again = (run(trace, FUNCTION, ours()) for _ in range(2))
    assert first.attainment == again.attainment
    assert first.series.desired.tolist() == again.series.desired.tolist()


def test_a_lone_request_takes_what_a_batch_of_one_takes():
    outcome = run(Trace("one", np.array([5.5]), 10.0), FUNCTION, Fixed(1))
    assert (outcome.p50, outcome.p99) == (pytest.approx(0.03), pytest.approx(0.03))
    assert outcome.attainment == 1.0


def test_the_overhead_is_part_of_every_latency():
    outcome = run(Trace("one", np.array([5.5]), 10.0), replace(FUNCTION, overhead=0.005), Fixed(1))
    assert outcome.p50 == pytest.approx(0.035)


def test_every_request_is_counted_once_whatever_becomes_of_it():
    trace = steady(400.0, 60)
    outcome = run(trace, replace(FUNCTION, timeout=1.0), Plan({10: 3, 30: 1, 40: 4}), Settings(replicas=1))
    assert outcome.requests == len(trace.arrivals)
    assert outcome.series.arrivals.sum() == len(trace.arrivals)
    assert outcome.series.good.sum() == pytest.approx(outcome.attainment * outcome.requests)
    assert outcome.misses == outcome.requests - outcome.series.good.sum()
    assert math.isinf(outcome.p99), "more than one in a hundred was given up"


def test_replicas_are_paid_for_from_asking_and_serve_after_their_start_up():
    plan = Plan({5: 3, 30: 2})
    outcome = run(steady(10.0, 60), FUNCTION, plan, Settings(replicas=1))
    assert outcome.replica_seconds == 5 * 1 + 25 * 3 + 30 * 2
    assert outcome.series.ready.tolist() == [1.0] * 15 + [3.0] * 15 + [2.0] * 30
    assert (outcome.max_replicas, outcome.changes, outcome.reversals) == (3, 2, 0)


def test_what_is_starting_goes_first():
    outcome = run(steady(10.0, 40), FUNCTION, Plan({5: 4, 8: 2}), Settings(replicas=1))
    assert outcome.series.ready.tolist() == [1.0] * 15 + [2.0] * 25
    assert outcome.reversals == 1, "a turn within a start-up time"


def test_a_wish_beyond_the_bounds_is_cut():
    assert run(steady(10.0, 20), FUNCTION, Fixed(99), Settings(highest=4)).max_replicas == 4


def test_requests_wait_while_there_is_no_replica():
    plan = Plan({0: 0, 3: 1})
    outcome = run(Trace("few", np.array([1.0, 20.0]), 30.0), FUNCTION, plan, Settings(replicas=1))
    assert outcome.attainment == 0.5
    assert outcome.p99 == pytest.approx(12.03), "from 1 s to the start-up's end at 13 s, and the batch"


def test_what_is_waiting_when_a_replica_goes_is_still_served():
    outcome = run(steady(150.0, 30), FUNCTION, Plan({20: 1}), Settings(replicas=3))
    assert math.isfinite(outcome.p99)
    assert outcome.requests == len(steady(150.0, 30).arrivals)


def test_a_fleet_at_its_capacity_meets_the_slo_and_at_twice_that_keeps_half():
    capacity = FUNCTION.capacity
    assert run(steady(4 * capacity * 0.8, 120), FUNCTION, Fixed(4), Settings(replicas=4)).attainment > 0.99
    twice = run(steady(8 * capacity, 120), FUNCTION, Fixed(4), Settings(replicas=4))
    assert 0.45 < twice.attainment < 0.7


def test_least_loaded_routing_loses_less_than_random():
    trace = steady(4.0 * FUNCTION.capacity, 120)
    random, least = (
        run(trace, replace(FUNCTION, routing=routing), Fixed(4), Settings(replicas=4)) for routing in Routing
    )
    assert least.attainment > random.attainment


def test_with_one_replica_routing_makes_no_difference():
    trace = steady(70.0, 60)
    random, least = (
        run(trace, replace(FUNCTION, routing=routing), Fixed(1), Settings(replicas=1)) for routing in Routing
    )
    assert random.attainment == least.attainment
    assert random.p99 == least.p99


def test_observations_are_as_old_as_the_last_scrape_and_miss_what_is_new():
    plan = Plan({11: 2})
    run(steady(50.0, 60), FUNCTION, plan, Settings(replicas=1))
    assert [seen.age for seen in plan.seen[:7] if seen] == [0, 1, 2, 3, 4, 0, 1]
    seen = plan.seen[24]
    assert seen is not None
    assert (plan.available[24], seen.up_replicas) == (2, 1.0), "ready since 21 s, scraped at 25 s"
    last = plan.seen[59]
    assert last is not None
    assert last.rate == pytest.approx(50.0, rel=0.2)
    assert last.gateway_rate == pytest.approx(50.0, rel=0.2)


def test_concurrency_follows_littles_law_and_utilization_the_batches():
    trace = Trace("even", np.arange(600) * 0.1 + 0.05, 60.0)
    plan = Plan({})
    run(trace, FUNCTION, plan, Settings(replicas=1))
    # Ten requests per second, each alone for 30 ms.
    assert plan.concurrency[30] == pytest.approx(0.3)
    assert plan.utilization[30] == pytest.approx(0.3)


def test_policy_slo_meets_its_objective_where_the_oracle_does_and_never_turns_within_a_start_up():
    trace = traces.generate("ramp", 60.0, 600)
    known = run(trace, FUNCTION, Oracle(trace, FUNCTION, 0.8, Bounds(1, 20)))
    outcome = run(trace, FUNCTION, ours())
    assert known.attainment >= 0.99
    assert outcome.attainment >= 0.99
    assert outcome.reversals == 0
    assert outcome.max_replicas > 3


@pytest.mark.parametrize("policy", ["slo", "proportional"])
def test_an_overload_is_ended(policy):
    outcome = run(steady(200.0, 400), FUNCTION, ours(policy), Settings(replicas=1))
    late = outcome.series.good[300:].sum() / outcome.series.arrivals[300:].sum()
    assert late > 0.97


def test_the_oracle_has_replicas_ready_when_they_are_needed():
    trace = traces.from_rates("step", [40.0] * 60 + [300.0] * 60 + [40.0] * 60)
    outcome = run(trace, FUNCTION, Oracle(trace, FUNCTION, 0.8, Bounds(1, 20)))
    assert outcome.attainment > 0.99
    assert outcome.series.ready[61] >= 5
    assert outcome.series.ready[40] == 1
    assert outcome.series.ready[-1] == 1


def test_progress_is_told_up_to_the_end():
    told: list[float] = []
    run(steady(5.0, 30), FUNCTION, Fixed(1), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
