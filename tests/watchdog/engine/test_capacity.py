"""What workers sustain with the objective met, and what the front end and the cores leave of that."""

from dataclasses import dataclass
from random import Random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.engine.capacity import Capacity, CpuCost, Reading, Sustained, sustained
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.tuning import TUNING
from support.fuzzing import fuzzed
from watchdog.engine.queues import TABULAR, Law
from watchdog.engine.simulation import Part, Simulation

LARGE = 1e9
"""Batches so large that their own cost is nothing for each request."""
BUSY = Reading(10.0, 2.0, 100_000, 0)
"""After ten seconds: 20 us in the front end for each of 100,000 requests."""
SMALL = Reading(10.0, 2.0, 20_000, 10_000)
"""100 us for each of 20,000, in batches of 2: 33 us, and 133 us for each batch."""
FAST = 80_000.0
"""Requests per second: more than the front end of any test can do."""


def read(*readings: Reading) -> CpuCost:
    """Return what these readings teach."""
    cost = CpuCost()
    for reading in (Reading(0.0, 0.0, 0, 0), *readings):
        cost.read(reading)
    return cost


@pytest.mark.parametrize(
    ("cost", "rate", "size", "worker", "cpus", "bound"),
    [
        pytest.param(read(), 500.0, 8, 0.0, 1.0, 500, id="no reading: the workers alone"),
        pytest.param(read(BUSY), FAST, LARGE, 0.0, 8.0, 50_000, id="the CPU time of one thread"),
        pytest.param(read(BUSY), 30_000.0, LARGE, 0.0, 8.0, 30_000, id="never more than the workers'"),
        pytest.param(read(BUSY), FAST, LARGE, 0.0, 0.5, TUNING.busiest * 0.5 / 20e-6, id="half a core"),
        pytest.param(read(BUSY), FAST, 1024, 40e-6, 2.0, TUNING.busiest * 2 / 60e-6, id="shared"),
        pytest.param(read(), FAST, 1024, 40e-6, 1.0, TUNING.busiest / 40e-6, id="before any load"),
        pytest.param(read(SMALL), FAST, 2, 0.0, 8.0, 10_000, id="small batches"),
        pytest.param(read(SMALL), FAST, 40, 0.0, 8.0, 1 / 36.6667e-6, id="large ones after them"),
        pytest.param(
            read(Reading(10.0, 0.05, 0, 0), Reading(20.0, 0.102, 100, 0)),
            FAST,
            LARGE,
            0.0,
            8.0,
            50_000,
            id="a thousandth of its core: without what an idle one takes",
        ),
        pytest.param(
            read(Reading(0.5, 0.4, 10, 0), BUSY), FAST, LARGE, 0.0, 8.0, 50_000, id="close together"
        ),
        pytest.param(
            read(BUSY, Reading(20.0, 6.0, 200_000, 0)),
            FAST,
            LARGE,
            0.0,
            8.0,
            1 / 40e-6,
            id="the newest thousands",
        ),
    ],
)
def test_capacity_is_what_the_front_end_and_the_cores_leave(cost, rate, size, worker, cpus, bound):
    assert cost.bound(Sustained(rate, size, worker), cpus) == pytest.approx(bound, rel=0.01)


def test_front_end_under_little_load_does_not_outweigh_what_it_took_under_much():
    cost = read(BUSY, Reading(20.0, 2.05, 100_050, 0))  # 1 ms for each of 50
    assert cost.bound(Sustained(FAST, LARGE), 8.0) > 40_000


class Throttled:
    """One worker of a handler that takes 5 ms of CPU for each request, with a quota of 0.25 cores."""

    def __init__(self) -> None:
        self.random = Random(1)
        self.cost = CostModel(64)
        self.capacity = Capacity(self.cost, workers=1, slo_latency=1.0, objective=0.99, cpus=0.25)

    def serve(self, sizes: tuple[int, ...], *, busy: bool) -> float:
        """Serve batches of these sizes, which the quota stops always or one in ten times; the capacity."""
        for size in sizes:
            own = 0.005 * size
            stopped = busy or self.random.random() < 0.1
            waited = 3.0 * own * busy + stopped * self.random.uniform(0.0, 0.2)
            self.cost.learn_any(size, own + waited, own, waited)
        list(self.capacity.estimate())
        return self.capacity.requests_per_second()


def test_capacity_of_a_throttled_replica_stays_through_an_overload_and_after_it():
    replica = Throttled()
    before = replica.serve((1,) * 60 + (2,) * 20, busy=False)
    assert before == pytest.approx(TUNING.busiest * 0.25 / 0.005, rel=0.1)
    overload = [replica.serve((4, 8, 16, 32), busy=True) for _ in range(10)]
    after = [replica.serve((1,) * 100 + (2,) * 10, busy=False) for _ in range(16)]
    assert min(overload + after) > before / 2


def test_capacity_is_unknown_if_requests_are_late_by_batches_that_vary_and_0_if_one_alone_takes_too_long():
    for often, expected in ((4, "nan"), (1, "0.0")):
        cost = CostModel(1)
        capacity = Capacity(cost, workers=1, slo_latency=0.1, objective=0.999, cpus=1.0)
        for run in range(24):
            cost.learn_any(1, 0.5 if run % often == 0 else 0.05)
        list(capacity.estimate())
        assert str(capacity.requests_per_second()) == expected


def test_same_curve_is_not_searched_again():
    replica = Throttled()
    replica.serve((1,) * 60, busy=False)
    replica.cost.learn_any(1, 0.006, 0.005, 0.001)
    assert not list(replica.capacity.estimate())
    replica.capacity.resize(2, 0.5)
    assert list(replica.capacity.estimate())


def test_requests_that_a_quota_stops_are_late_in_the_search_where_the_target_is_shorter_than_its_period():
    model = LatencyModel(4)
    for size in (1, 2, 4) * 8:
        model.observe(size, 0.010 * size, 0.010 * size)
    strict, loose = (sustained([(1.0, model)], 1, slo, 0.99, 0.25).rate for slo in (0.08, 2.0))
    assert 0.0 < strict < 0.6 * loose
    assert loose < 25.0


def test_cores_bound_the_rate_by_cpu_time_where_the_times_of_batches_show_a_quota_instead():
    model = LatencyModel(64)
    for size, seconds in ((1, 0.070), (2, 0.034), (4, 0.068)) * 8:  # a quota stopped single requests
        model.observe(size, seconds, 0.017 * size)
    fastest = sustained([(1.0, model)], 8, 1.0, 0.99)
    assert read().bound(fastest, 0.25) == pytest.approx(TUNING.busiest * 0.25 / 0.017, rel=0.01)


@given(
    rate=st.just(0.0) | st.floats(0.001, 1e6),
    size=st.floats(1, 1024),
    cpus=st.floats(0.1, 64),
    front=st.floats(0, 10),
    served=st.integers(0, 10**6),
    worker=st.just(0.0) | st.floats(1e-9, 100),
)
def test_bound_only_lowers_the_rate_and_stays_positive(rate, size, cpus, front, served, worker):
    bound = read(Reading(10.0, front, served, 0)).bound(Sustained(rate, size, worker), cpus)
    assert 0.0 <= bound <= rate
    assert bound > 0.0 or rate == 0.0


@dataclass(frozen=True)
class Known:
    """A latency model that knows its law."""

    predict: Law
    deviations: tuple[float, ...] = tuple(NormalDist(1.0, 0.03).quantiles(100))
    best_size: int = 256

    def predict_mean(self, size: float) -> float:
        """Return the seconds of the law."""
        return self.predict(int(size))

    def predict_cpu(self, size: float) -> float:
        """Return that it is unknown."""
        return 0.0


def line(constant: float, each: float, spread: float = 0.0, best_size: int = 256) -> Known:
    """l(b) = constant + each x b, evenly from 1 - spread of it to 1 + spread."""
    deviations = tuple(1.0 + spread * (step / 10 - 1.0) for step in range(21))
    return Known(lambda size: constant + each * size, deviations, best_size)


ONE_SLOW_RUN = Known(lambda _: 0.01, (*[1.0] * 199, 11.0), best_size=1)

LINES = st.builds(line, st.floats(0, 0.5), st.floats(0.001, 0.3), st.floats(0, 0.5), st.integers(1, 256))


@fuzzed(30)
@given(
    st.lists(LINES, min_size=1, max_size=3), st.integers(1, 16), st.floats(0.5, 20.0), st.floats(0.5, 0.999)
)
def test_workers_sustain_no_more_than_their_throughput(models, workers, slo, objective):
    rate, size, _ = sustained([(1 / len(models), model) for model in models], workers, slo, objective)
    least = sum(model.predict(model.best_size) / model.best_size for model in models) / len(models)
    assert 0 <= rate * least <= workers
    assert 1 <= size <= max(model.best_size for model in models)


@pytest.mark.parametrize(("each", "workers"), [(0.01, 2), (0.001, 1)])
def test_workers_sustain_less_for_a_higher_objective_and_where_batches_vary_more(each, workers):
    rates = [
        sustained([(1.0, line(0.02, each))], workers, 0.1, target).rate for target in (0.9, 0.97, 0.99, 0.999)
    ]
    assert rates == sorted(rates, reverse=True)
    rates = [
        sustained([(1.0, line(0.02, each, vary))], workers, 0.1, 0.99).rate for vary in (0.0, 0.2, 0.5, 0.9)
    ]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("model", "low", "high"),
    [
        pytest.param(line(0.08, 0.03), 0, 0, id="one request takes the SLO"),
        pytest.param(line(0.01, 0.0, best_size=1), 70, 90, id="one at a time, 100 without a wait"),
        pytest.param(ONE_SLOW_RUN, 5, 90, id="one run of 200 too slow, which no replica changes"),
    ],
)
def test_sustained_rate_by_hand(model, low, high):
    assert low <= sustained([(1.0, model)], 1, 0.1, 0.99).rate <= high


@pytest.mark.parametrize(
    ("law", "workers", "slo", "objective"),
    [
        pytest.param(lambda size: 0.020 + 0.010 * size, 1, 0.1, 0.9, id="8 fit, one worker"),
        pytest.param(lambda size: 0.032 + 0.002 * size, 2, 0.1, 0.99, id="34 fit, two workers"),
        pytest.param(lambda size: 0.03 * size, 4, 0.1, 0.99, id="3 fit, four workers"),
        pytest.param(lambda size: 20 * TABULAR(size), 3, 0.4, 0.99, id="tabular"),
    ],
)
def test_rate_learned_at_a_third_of_it_meets_the_objective_and_twice_that_does_not(
    law, workers, slo, objective
):
    guess = sustained([(1.0, Known(law))], workers, slo, objective).rate
    simulation = Simulation(law, workers=workers, slo_latency=slo)
    simulation.run(guess / 3, min(60, 5_000 / guess))
    rate = sustained([(1.0, simulation.model)], workers, slo, objective).rate
    assert rate > guess / 3
    simulation.run(rate, 2)  # learns batches larger than those so far
    assert simulation.run(rate, 8_000 / rate).attainment() >= objective
    assert simulation.run(2 * rate, 4_000 / rate).attainment() < objective


@pytest.mark.parametrize("seconds", [2, 4, 8])
def test_rate_of_a_mix_that_a_model_pads_is_never_more_than_its_separate_batches_allow(seconds):
    lengths = (10, 50, 400, 900)
    simulation = Simulation(
        TABULAR,
        workers=1,
        slo_latency=1.0,
        mix=[Part(1.0, length=length) for length in lengths],
        by_lengths=lambda lengths: 0.02 + 0.00001 * len(lengths) * max(lengths),
    )
    for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) * 4:  # example() is a short one
        simulation.cost.learn_any(size, 0.02 + 0.00001 * size * lengths[0])
    simulation.run(60, seconds)
    rate = sustained(simulation.cost.mix, 1, 1.0, 0.99).rate
    assert 0 < rate <= 1 / (0.00001 * sum(lengths) / len(lengths))


@pytest.mark.parametrize("workers", [1, 2])
def test_rate_of_short_and_long_requests_that_a_model_pads_meets_the_objective_and_twice_that_does_not(
    workers,
):
    simulation = Simulation(
        TABULAR,
        workers=workers,
        mix=[Part(share, length=length) for share, length in ((0.6, 8), (0.3, 200), (0.1, 2000))],
        by_lengths=lambda lengths: 0.0005 + 0.000003 * len(lengths) * max(lengths),
    )
    simulation.run(250 * workers, 6)
    simulation.run(1500 * workers, 1)  # of what is late in the end most is long, which must not count as more
    rate = sustained(simulation.cost.mix, workers, 0.1, 0.99).rate
    assert rate > 300 * workers
    assert simulation.run(rate, 6).attainment() >= 0.99
    assert simulation.run(2 * rate, 3).attainment() < 0.99


@pytest.mark.parametrize(
    ("told", "each"),
    [
        pytest.param((0.001, 0.1), 0.0505, id="cheap in large batches, dear in small ones"),
        pytest.param((0.0, 0.1), 0.05, id="unknown of those in large batches"),
        pytest.param((0.0, 0.0), 0.0, id="unknown"),
    ],
)
def test_cpu_time_of_each_request_is_the_mean_over_pools_whatever_the_sizes_of_their_batches(told, each):
    short, long = LatencyModel(32), LatencyModel(32)
    for _ in range(8):
        for size in (1, 8, 32):
            short.observe(size, 0.010, told[0] * size)
        for size in (1, 2):
            long.observe(size, 0.1 * size, told[1] * size)
    result = sustained([(0.5, short), (0.5, long)], 4, 0.5, 0.99)
    assert result.cpu_seconds == pytest.approx(each, rel=0.02)
