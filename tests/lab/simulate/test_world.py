"""Whole simulations: what goes in comes out, time is kept, and better is better."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from slo_autoscaler.config import Config
from tailbound_lab.simulate import traces
from tailbound_lab.simulate.baselines import Bounds, Oracle
from tailbound_lab.simulate.function import (
    LEARNING_SECONDS,
    Function,
    Routing,
    Service,
    Steps,
    Streaming,
)
from tailbound_lab.simulate.scalers import DecideScaler
from tailbound_lab.simulate.traces import Trace
from tailbound_lab.simulate.world import Settings, run

FUNCTION = Function(Service.affine(0.02, 0.01, 32), slo_latency=0.2, start_up=10.0)
ONE = Settings(replicas=1)
CONFIG = Config.parse(
    "{platform: {gateway_url: http://none}, prometheus: {url: http://none}, defaults: {max_replicas: 20}}",
    "test",
)


def ours(policy="slo"):
    return DecideScaler(replace(CONFIG.target("f.openfaas-fn"), policy=policy), CONFIG.interval, 2.0)


class Plan:
    """Asks for given counts at given seconds, and keeps what it saw."""

    name, interval, phase = "plan", 1.0, 0.0

    def __init__(self, counts):
        self.counts = counts
        self.seen, self.available, self.concurrency, self.utilization = [], [], [], []

    def scale(self, view, now):
        self.seen.append(view.observe())
        self.available.append(view.scale.available)
        self.concurrency.append(view.concurrency(10.0))
        self.utilization.append(view.utilization(10.0))
        return self.counts.get(int(now))


def steady(rate, seconds):
    return traces.generate("poisson", rate, seconds)


def test_lone_request_takes_a_batch_of_one_and_the_overhead():
    overhead = 0.005
    outcome = run(Trace("one", np.array([5.5]), 10.0), replace(FUNCTION, overhead=overhead), Plan({}), ONE)
    assert (outcome.p50, outcome.p99) == (pytest.approx(0.03 + overhead), pytest.approx(0.03 + overhead))
    assert outcome.attainment == 1.0


def test_every_request_is_counted_once_whatever_becomes_of_it():
    trace = steady(400.0, 60)
    outcome = run(trace, replace(FUNCTION, timeout=1.0), Plan({10: 3, 30: 1, 40: 4}), ONE)
    assert outcome.requests == outcome.series.arrivals.sum() == len(trace.arrivals)
    assert outcome.series.good.sum() == pytest.approx(outcome.attainment * outcome.requests)
    assert math.isinf(outcome.p99), "more than one in a hundred timed out"


@pytest.mark.parametrize(
    ("counts", "ready", "cost", "changes", "reversals"),
    [
        ({5: 3, 30: 2}, [1.0] * 15 + [3.0] * 15 + [2.0] * 10, 5 * 1 + 25 * 3 + 10 * 2, 2, 0),
        ({5: 4, 8: 2}, [1.0] * 15 + [2.0] * 25, 5 * 1 + 3 * 4 + 32 * 2, 2, 1),
        ({5: 4, 15: 2}, [1.0] * 15 + [2.0] * 25, 5 * 1 + 10 * 4 + 25 * 2, 2, 0),
        ({5: 99}, [1.0] * 15 + [70.0] * 25, 5 * 1 + 35 * 70, 1, 0),
    ],
    ids=["paid from asking, ready later", "what is starting goes first", "a start-up later", "bounds"],
)
def test_replicas_come_and_go(counts, ready, cost, changes, reversals):
    outcome = run(steady(10.0, 40), FUNCTION, Plan(counts), Settings(replicas=1, highest=70))
    assert outcome.series.ready.tolist() == ready
    assert (outcome.replica_seconds, outcome.changes, outcome.reversals) == (cost, changes, reversals)
    assert outcome.max_replicas == max(outcome.series.desired)


@pytest.mark.parametrize(
    ("counts", "ready"),
    [
        ({5: 5}, [2.0] * 15 + [4.0] * 25),
        ({5: 1}, [2.0] * 5 + [1.0] * 35),
    ],
    ids=["more", "never the only one"],
)
def test_crash_looping_replica_is_paid_for_and_never_ready(counts, ready):
    outcome = run(steady(10.0, 40), FUNCTION, Plan(counts), Settings(replicas=3, crash_looping=1))
    assert outcome.series.ready.tolist() == ready
    assert outcome.series.desired[0] == 3


def test_missed_scrapes_of_one_replica_in_four_leave_gaps_that_others_do_not_share():
    plan = Plan({})
    run(steady(50.0, 120), FUNCTION, plan, Settings(replicas=3, missed_scrape_every=4))
    up = [None if seen is None else seen.up_replicas for seen in plan.seen]
    assert up[40:60] == [2.0] * 15 + [3.0] * 5
    assert plan.seen[100].rate == pytest.approx(50.0, rel=0.3), "a gap is extrapolated over"


def test_requests_wait_while_there_is_no_replica():
    outcome = run(Trace("few", np.array([1.0, 20.0]), 30.0), FUNCTION, Plan({0: 0, 3: 1}), ONE)
    assert outcome.attainment == 0.5
    assert outcome.p99 == pytest.approx(12.03), "from 1 s to the start-up's end at 13 s, and the batch"


@pytest.mark.parametrize(("load", "least", "most"), [(0.8, 0.99, 1.0), (2.0, 0.45, 0.7)])
def test_fleet_below_its_capacity_meets_the_slo_and_at_twice_that_keeps_half(load, least, most):
    trace = steady(4 * load * FUNCTION.capacity, 120)
    assert least < run(trace, FUNCTION, Plan({}), Settings(replicas=4)).attainment <= most


def test_least_loaded_routing_loses_less_than_random():
    trace = steady(4 * FUNCTION.capacity, 120)
    functions = [replace(FUNCTION, routing=routing) for routing in (Routing.RANDOM, Routing.LEAST_LOADED)]
    random, least = (run(trace, function, Plan({}), Settings(replicas=4)) for function in functions)
    assert least.attainment > random.attainment


def test_observation_is_as_old_as_the_last_scrape_and_misses_what_is_new():
    plan = Plan({11: 2})
    run(steady(50.0, 60), FUNCTION, plan, ONE)
    assert [seen.sample_age for seen in plan.seen[:7] if seen] == [0, 1, 2, 3, 4, 0, 1]
    assert (plan.available[24], plan.seen[24].up_replicas) == (2, 1.0), "ready since 21 s, scraped at 25 s"
    assert plan.seen[59].rate == pytest.approx(50.0, rel=0.2)
    assert plan.seen[59].gateway_rate == pytest.approx(50.0, rel=0.2)


def test_concurrency_follows_littles_law_and_utilization_the_batches():
    plan = Plan({})
    run(Trace("even", np.arange(600) * 0.1 + 0.05, 60.0), FUNCTION, plan, ONE)
    # Ten requests per second, each alone for 30 ms.
    assert (plan.concurrency[30], plan.utilization[30]) == (pytest.approx(0.3), pytest.approx(0.3))


def test_demand_of_streams_counts_when_they_arrive():
    streams = Streaming(start=0.005, interval=0.2, fewest=1000, most=1000)
    function = Function(Service.affine(0.09, 0.0, 64), slo_latency=2.0, timeout=300.0, streaming=streams)
    plan = Plan({})
    run(steady(3.0, 60), function, plan, ONE)
    seen = plan.seen[-1]
    assert (seen.rate, seen.capacity) == (0.0, None), "none has ended"
    assert seen.arrival_rate == pytest.approx(3.0, abs=1.0)


def test_fleet_that_streams_meets_the_slo_below_its_capacity_and_not_at_twice_that():
    streams = Streaming(start=0.005, interval=0.05, fewest=5, most=40)
    function = Function(Service.affine(0.01, 0.002, 16), slo_latency=0.5, streaming=streams)
    few, many = (run(steady(load * function.capacity, 60), function, Plan({}), ONE) for load in (0.5, 2.0))
    assert few.attainment > 0.99
    assert 0.3 < many.attainment < 0.8
    assert few.requests == len(steady(0.5 * function.capacity, 60).arrivals)


def test_slo_policy_meets_the_objective_where_the_oracle_does_without_a_reversal():
    trace = traces.generate("ramp", 60.0, 300)
    oracle = run(trace, FUNCTION, Oracle(trace, FUNCTION, 0.8, Bounds(1, 20)))
    outcome = run(trace, FUNCTION, ours())
    assert min(oracle.attainment, outcome.attainment) >= 0.99
    assert (outcome.reversals, outcome.max_replicas > 3) == (0, True)


def test_slow_function_at_a_constant_rate_seldom_changes_its_count():
    """Two requests are under way at a time; a replica serves one at a time."""
    slow = Function(Service((8.0,)), slo_latency=25.0, start_up=10.0)
    outcome = run(steady(0.1, 3600), slow, ours())
    assert outcome.attainment >= 0.98
    assert outcome.replica_seconds <= 3.5 * 3600
    assert outcome.changes <= 30


@pytest.mark.parametrize("policy", ["slo", "proportional"])
def test_overload_is_ended(policy):
    outcome = run(steady(200.0, 400), FUNCTION, ours(policy), ONE)
    assert outcome.series.good[300:].sum() / outcome.series.arrivals[300:].sum() > 0.97


class Boosting(Plan):
    """Asks for twice the CPU in the seconds from 10 to 20."""

    factor = 1.0

    def scale(self, view, now):
        self.factor = 2.0 if 10.0 <= now < 20.0 else 1.0
        return super().scale(view, now)


def test_boosted_replica_serves_more_for_the_cpu_that_it_is_given():
    trace = steady(1.5 * FUNCTION.capacity, 30)
    nominal, boosted = (run(trace, FUNCTION, plan, ONE) for plan in (Plan({}), Boosting({})))
    assert boosted.attainment > nominal.attainment
    assert (nominal.cpu_seconds, boosted.cpu_seconds) == (30.0, 40.0)


def test_boost_is_cut_when_the_idle_cpus_of_the_node_end():
    node = Steps(2.0, ((13.0, 1.5), (16.0, 1.0)))
    outcome = run(steady(1.0, 30), FUNCTION, Boosting({}), replace(ONE, node_cpus=node))
    assert outcome.cpu_seconds == 30.0 + 2 * 1.0 + 3 * 0.5, "in force from 11 s on"


def exported(plan):
    """Return the capacity and the service time that were scraped each second, as multiples of the nominal."""
    return [
        (seen.capacity / FUNCTION.capacity, 0.03 / seen.service_time_single) if seen else None
        for seen in plan.seen
    ]


@pytest.mark.parametrize(
    ("plan", "speed", "factor"),
    [(Plan({}), Steps(1.0, ((11.0, 0.5), (20.0, 1.0))), 0.5), (Boosting({}), Steps(1.0), 2.0)],
    ids=["slower", "boosted"],
)
def test_exports_follow_the_speed_of_a_replica_once_it_has_learned(plan, speed, factor):
    run(steady(5.0, 60), replace(FUNCTION, speed=speed), plan, ONE)
    ratios = exported(plan)
    # In force from 11 s to 20 or 21 s; scraped every 5 s.
    learned = math.ceil((11.0 + LEARNING_SECONDS) / 5.0) * 5
    assert {ratios[learned - 1], ratios[learned + 10]} == {(1.0, 1.0)}
    capacity, service_time = ratios[learned]
    assert service_time == pytest.approx(factor)
    assert (capacity > 1.5) if factor > 1.0 else (capacity < 0.6)


def test_replica_that_starts_exports_at_once_the_speed_that_its_example_shows():
    plan = Plan({3: 2})
    run(steady(5.0, 30), replace(FUNCTION, speed=Steps(1.0, ((8.0, 0.5),))), plan, ONE)
    ratios = [service_time for _, service_time in filter(None, exported(plan))]
    # Of two replicas the median is the mean of both service times.
    assert (ratios[14], ratios[15], ratios[20]) == (1.0, pytest.approx(2 / 3), 0.5)


def test_oracle_knows_the_speed():
    slow = replace(FUNCTION, speed=Steps(1.0, ((100.0, 0.5),)))
    outcome = run(trace := steady(100.0, 200), slow, Oracle(trace, slow, 0.8, Bounds(1, 20)))
    assert outcome.attainment >= 0.99
    assert outcome.series.desired[150] >= 2 * outcome.series.desired[50] - 1


def test_streams_of_a_slower_model_export_a_lower_capacity():
    streams = Streaming(start=0.005, interval=0.05, fewest=5, most=40)
    function = Function(Service.affine(0.01, 0.002, 16), slo_latency=0.5, streaming=streams)
    plan, slow = Plan({}), replace(function, speed=Steps(1.0, ((60.0, 0.5),)))
    run(steady(0.3 * function.capacity, 120), slow, plan, ONE)
    assert plan.seen[110].capacity < 0.75 * plan.seen[55].capacity


def test_boost_is_in_force_after_the_delay_of_the_platform():
    trace = steady(1.5 * FUNCTION.capacity, 30)
    outcome = run(trace, FUNCTION, Boosting({}), replace(ONE, boost_delay=8.0))
    assert outcome.cpu_seconds == 40.0
    assert np.array_equal(outcome.series.good[:15], run(trace, FUNCTION, Plan({}), ONE).series.good[:15])


class Factors(DecideScaler):
    """Ours with boosts up to three times the CPU, and the factor of each second."""

    def __init__(self, **bounds):
        spec = CONFIG.target("f.openfaas-fn")
        spec = replace(spec, boost=replace(spec.boost, max_factor=3.0), **bounds)
        super().__init__(spec, CONFIG.interval, 2.0, direct_interval=1.0)
        self.factors = []

    def scale(self, view, now):
        wanted = super().scale(view, now)
        self.factors.append(self.factor)
        return wanted

    def changes(self, begin, end):
        return sum(before != after for before, after in pairwise(self.factors[begin:end]))


ENCODER = Function(Service.affine(0.03, 0.015, 32), slo_latency=0.2)


def within(outcome, begin, end):
    return outcome.series.good[begin:end].sum() / outcome.series.arrivals[begin:end].sum()


@pytest.mark.parametrize(
    "node", [Steps(math.inf), Steps(0.0)], ids=["idle CPU", "none: a boost in name only"]
)
def test_slower_model_is_met_by_replicas_although_a_boost_hides_it(node):
    slow = replace(ENCODER, speed=Steps(1.0, ((100.0, 0.5),)))
    scaler = Factors()
    outcome = run(steady(60.0, 300), slow, scaler, Settings(node_cpus=node))
    assert within(outcome, 200, 300) >= 0.98


@pytest.mark.parametrize(
    ("rate", "speed"), [(160.0, 1.0), (100.0, 0.5)], ids=["too few replicas", "slower model"]
)
def test_boost_at_the_maximum_count_is_steady(rate, speed):
    busy = replace(ENCODER, speed=Steps(1.0, ((60.0, speed),)))
    scaler = Factors(max_replicas=3)
    outcome = run(steady(rate, 460), busy, scaler, Settings(highest=3))
    assert scaler.changes(160, 460) <= 10
    assert within(outcome, 160, 460) >= 0.98


def test_errors_are_misses_and_cost_no_replicas():
    trace = steady(100.0, 900)
    clean, failing = (run(trace, replace(FUNCTION, errors=share), ours()) for share in (0.0, 0.02))
    assert failing.attainment == pytest.approx(clean.attainment - 0.02, abs=0.005)
    assert failing.replica_seconds == pytest.approx(clean.replica_seconds, rel=0.03)
