"""What Prometheus sees of a simulation: the same numbers that the real one computes."""

import shutil
import subprocess
from math import nan

import numpy as np
import pytest

from batching_watchdog.engine.streams import Steady
from slo_autoscaler.signals.record import SIGNALS
from tailbound_lab.simulate import scrape
from tailbound_lab.simulate.function import Exports, Function, Service
from tailbound_lab.simulate.scrape import Scrapes

FUNCTION = Function(Service.affine(0.02, 0.01, 8), slo_latency=0.2)
EXPORTS = Exports(Steady(FUNCTION.capacity, nan), 0.03)

SERIES = {
    "from_zero": ([5, 10, 15, 20], [0, 10, 20, 30], 22),
    "since_long": ([5, 10, 15, 20], [100, 110, 120, 130], 22),
    "uneven": ([5, 10, 15, 20], [7, 7, 50, 51], 21),
    "ended": ([5, 10], [40, 60], 24),
    "begun": ([15, 20], [3, 33], 23),
}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_rates_and_slopes_are_those_of_prometheus(tmp_path):
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


@pytest.mark.parametrize(
    ("share", "bounds", "counts", "expected"),
    [
        (0.5, [0.1, 0.2, 0.4], [0.0, 10.0, 0.0, 0.0], pytest.approx(0.15)),
        (0.9, [0.1, 0.2, 0.4], [5.0, 0.0, 5.0, 0.0], pytest.approx(0.36)),
        (0.99, [0.1, 0.2], [1.0, 0.0, 9.0], 0.2),
        (0.5, [0.1], [0.0, 0.0], None),
    ],
    ids=["on the line through its bucket", "in a later bucket", "beyond the last bound", "of nothing"],
)
def test_quantile_is_histogram_quantile(share, bounds, counts, expected):
    assert scrape.quantile(share, np.array(bounds), np.array(counts)) == expected


def scraped(rows, *targets):
    """Scrapes every 5 s of (total, good) rows."""
    scrapes = Scrapes(FUNCTION, 30.0, 20.0, 40.0)
    for tick, (total, good) in enumerate(rows):
        row = np.zeros(scrapes.columns)
        row[scrape.TOTAL], row[scrape.GOOD], row[scrape.BUCKETS] = total, good, good
        for target in targets:
            scrapes.record(target, 5.0 * tick, row, inside=3.0, queued=1.0, exports=EXPORTS)
        scrapes.record_gateway(5.0 * tick, 60.0 * tick)
    return scrapes


def test_scraped_function_has_every_signal_but_those_that_the_simulation_leaves_out():
    of_streams = {"concurrency", "interval_p99", "slo_interval"}
    added_by_the_world = {"direct_rate", "direct_in_flight"}
    none = {"rate_window", "stalled", "budget_remaining", "service_mean", "sampled_at", "scrape_ratio"}
    seen = scraped([(100 + 50.0 * tick, 99 + 49.0 * tick) for tick in range(9)], 1).observe(42.0)
    unseen = {name for name in SIGNALS if getattr(seen, name) is None}
    assert unseen == of_streams | added_by_the_world | none


def test_function_that_answers_is_seen_as_a_scraper_sees_it():
    seen = scraped([(100 + 50.0 * tick, 99 + 49.0 * tick) for tick in range(9)], 1).observe(42.0)
    rates = (seen.rate, seen.gateway_rate, seen.attainment, seen.samples, seen.capacity)
    assert rates == pytest.approx((10.0, 12.0, 0.98, 300.0, FUNCTION.capacity))
    assert (seen.in_flight, seen.in_flight_growth) == (3.0, 0.0)
    assert (seen.up_replicas, seen.sample_age) == (1.0, 2.0)


def test_capacity_and_concurrency_are_the_median_replicas_once_they_are_known():
    scrapes = Scrapes(FUNCTION, 30.0, 20.0, 40.0)
    for target, steady in enumerate((Steady(nan, nan), Steady(2.0, 20.0), Steady(4.0, 40.0))):
        exports = Exports(steady, nan)
        scrapes.record(target, 0.0, np.zeros(scrapes.columns), inside=0.0, queued=0.0, exports=exports)
        seen = scrapes.observe(1.0)
        expected = [(None, None), (2.0, 20.0), (3.0, 30.0)]
        assert (seen.capacity, seen.concurrency) == expected[target]


def test_rate_now_is_of_the_newest_scrapes():
    scrapes, row = Scrapes(FUNCTION, 30.0, 20.0, 40.0), np.zeros(64)
    for tick, (done, inside) in enumerate(((0, 0), (10, 0), (20, 10), (30, 10), (80, 10))):
        row[scrape.TOTAL] = done
        scrapes.record(1, 5.0 * tick, row[: scrapes.columns], inside=inside, queued=0.0, exports=EXPORTS)
    seen = scrapes.observe(21.0)
    assert seen.rate_now == pytest.approx(10.0), "50 in 5 s, and inside are as many as before"
    assert seen.in_flight_growth > 0.0


def test_replica_that_has_gone_stays_in_the_rate_and_leaves_the_gauges():
    scrapes = scraped([(100.0 + 50.0 * tick, 0.0) for tick in range(5)], 1, 2)
    scrapes.gone(2)
    seen = scrapes.observe(22.0)
    assert (seen.in_flight, seen.up_replicas, seen.rate) == (3.0, 1.0, pytest.approx(20.0))


def test_peaks_are_each_replicas_own_over_the_span():
    scrapes = Scrapes(FUNCTION, 30.0, 20.0, 60.0)
    for now, (inside, queued) in enumerate(((9.0, 7.0), (5.0, 1.0), (4.0, 3.0))):
        scrapes.record(
            1, 20.0 * now, np.zeros(scrapes.columns), inside=inside, queued=queued, exports=EXPORTS
        )
        scrapes.record(2, 20.0 * now, np.zeros(scrapes.columns), inside=0.0, queued=0.0, exports=EXPORTS)
    assert scrapes.peaks(41.0, 60.0) == [(7.0, 4.0), (0.0, 0.0)]
    assert scrapes.peaks(41.0, 30.0) == [(3.0, 4.0), (0.0, 0.0)]
    scrapes.gone(2)
    assert scrapes.peaks(41.0, 30.0) == [(3.0, 4.0)]
