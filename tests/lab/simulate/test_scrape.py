"""What Prometheus sees of a simulation: the same numbers that the real one computes."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tailbound_lab.simulate import scrape
from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.scrape import Scrapes

FUNCTION = Function(Service.affine(0.02, 0.01, 8), slo_latency=0.2)

SERIES = {
    "from_zero": ([5, 10, 15, 20], [0, 10, 20, 30], 22),
    "since_long": ([5, 10, 15, 20], [100, 110, 120, 130], 22),
    "uneven": ([5, 10, 15, 20], [7, 7, 50, 51], 21),
    "ended": ([5, 10], [40, 60], 24),
    "begun": ([15, 20], [3, 33], 23),
}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_rates_and_slopes_are_those_of_prometheus(tmp_path: Path):
    tests = []
    for name, (times, values, now) in SERIES.items():
        at = dict(zip(times, values, strict=True))
        recorded = " ".join(str(at.get(second, "_")) for second in range(0, 21, 5))
        counters = [np.array([float(value)]) for value in values]
        ours = {
            "rate": float(scrape.rate(times, counters, now, 20.0)[0]),
            "deriv": scrape.slope(times, values),
        }
        tests += [
            f"- interval: 5s\n  input_series: [{{series: {name}, values: '{recorded}'}}]\n"
            f"  promql_expr_test: [{{expr: 'abs({law}({name}[20s]) - {value!r}) < bool 1e-9',"
            f" eval_time: {now}s,"
            f" exp_samples: [{{labels: '{{}}', value: 1}}]}}]\n"
            for law, value in ours.items()
        ]
    file = tmp_path / "tests.yml"
    file.write_text("evaluation_interval: 5s\ntests:\n" + "".join(tests))
    told = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


def test_a_quantile_lies_on_the_line_through_its_bucket():
    bounds = np.array([0.1, 0.2, 0.4])
    assert scrape.quantile(0.5, bounds, np.array([0.0, 10.0, 0.0, 0.0])) == pytest.approx(0.15)
    assert scrape.quantile(0.9, bounds, np.array([5.0, 0.0, 5.0, 0.0])) == pytest.approx(0.36)


def test_a_quantile_beyond_the_last_bound_is_that_bound():
    assert scrape.quantile(0.99, np.array([0.1, 0.2]), np.array([1.0, 0.0, 9.0])) == 0.2


def test_there_is_no_quantile_of_nothing():
    assert scrape.quantile(0.5, np.array([0.1]), np.zeros(2)) is None


def test_one_edge_lies_at_the_slo():
    assert 0.3 in scrape.edges(0.3)


def a_row(scrapes: Scrapes, total: float, good: float) -> np.ndarray:
    row = np.zeros(scrapes.columns)
    row[scrape.TOTAL], row[scrape.GOOD] = total, good
    row[scrape.BUCKETS] = good
    return row


def test_before_any_scrape_there_is_no_observation():
    assert Scrapes(FUNCTION, 30.0, 20.0, 40.0).observe(3.0) is None


def test_a_function_that_answers_is_seen_as_a_scraper_sees_it():
    scrapes = Scrapes(FUNCTION, 30.0, 20.0, 40.0)
    for tick in range(9):
        now = 5.0 * tick
        scrapes.record(1, now, a_row(scrapes, 100 + 50.0 * tick, 99 + 49.0 * tick), 3.0, 1.0)
        scrapes.record_gateway(now, 60.0 * tick)
    seen = scrapes.observe(42.0)
    assert seen is not None
    assert seen.rate == pytest.approx(10.0)
    assert seen.gateway_rate == pytest.approx(12.0)
    assert seen.attainment == pytest.approx(0.98)
    assert seen.samples == pytest.approx(300.0)
    assert (seen.in_flight, seen.queue_length, seen.in_flight_growth) == (3.0, 1.0, 0.0)
    assert (seen.up_replicas, seen.age) == (1.0, 2.0)
    assert seen.capacity == pytest.approx(FUNCTION.capacity)


def test_what_a_new_replica_did_before_its_first_scrape_is_not_in_the_rate():
    scrapes = Scrapes(FUNCTION, 30.0, 20.0, 40.0)
    scrapes.record(1, 5.0, a_row(scrapes, 500.0, 500.0), 0.0, 0.0)
    seen = scrapes.observe(7.0)
    assert seen is not None
    assert (seen.rate, seen.samples, seen.attainment) == (None, None, None)
    scrapes.record(1, 10.0, a_row(scrapes, 550.0, 550.0), 0.0, 0.0)
    seen = scrapes.observe(12.0)
    assert seen is not None
    assert seen.rate is not None
    assert seen.rate < 10.0, "two samples are not extrapolated to a window of four"


def test_a_replica_that_has_gone_stays_in_the_rate_and_leaves_the_gauges():
    scrapes = Scrapes(FUNCTION, 30.0, 20.0, 40.0)
    for tick in range(5):
        for target in (1, 2):
            scrapes.record(target, 5.0 * tick, a_row(scrapes, 100.0 + 50.0 * tick, 0.0), 4.0, 0.0)
    scrapes.gone(2)
    seen = scrapes.observe(22.0)
    assert seen is not None
    assert (seen.in_flight, seen.up_replicas) == (4.0, 1.0)
    assert seen.rate == pytest.approx(20.0)


def test_without_traffic_there_is_a_rate_of_zero_and_no_attainment():
    scrapes = Scrapes(FUNCTION, 30.0, 20.0, 40.0)
    for tick in range(5):
        scrapes.record(1, 5.0 * tick, a_row(scrapes, 7.0, 7.0), 0.0, 0.0)
    seen = scrapes.observe(22.0)
    assert seen is not None
    assert (seen.rate, seen.attainment, seen.p99) == (0.0, None, None)
