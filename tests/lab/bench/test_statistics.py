"""What the generator's JSON means."""

import json

import pytest

from tailbound_lab.load.records import BenchError, Second, cdf, parse_run, recovery_seconds

QUANTILES = {"p50": 1.0, "p95": 2.0, "p99": None, "p999": None, "max": None}
RAW = {
    "generator": "c",
    "rate": 100,
    "seconds": 2,
    "sent": 200,
    "ok": 190,
    "good": 180,
    "stopped_early": False,
    "lagged": False,
    "cpu_s": 0.1,
    "statuses": {"200": 190, "timeout": 10},
    "latency_ms": QUANTILES,
    "ok_latency_ms": QUANTILES,
    "lag_ms": QUANTILES,
    "histogram": [[1.0, 100], [2.0, 90]],
    "per_second": [{"second": 0, "offered": 100, "ok": 95, "good": 90, "p99": None}],
}


def seconds(*goods):
    return [Second(index, 100, 100, good) for index, good in enumerate(goods)]


def test_attainment_is_of_all_sent_and_goodput_of_the_time_offered():
    run = parse_run(json.dumps(RAW))
    assert run.attainment == 0.9
    assert run.goodput == 90.0


def test_a_run_without_requests_attained_nothing():
    assert parse_run(json.dumps(RAW | {"sent": 0, "ok": 0, "good": 0})).attainment == 0.0


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps(RAW | {"rate": "fast"})])
def test_an_unreadable_answer_is_an_error_that_shows_it(text):
    with pytest.raises(BenchError, match="cannot be read"):
        parse_run(text)


def test_the_distribution_ends_below_one_by_what_was_never_answered():
    assert cdf([(1.0, 100), (2.0, 90)], 200) == [(1.0, 0.5), (2.0, 0.95)]


def test_recovery_counts_from_the_change_to_the_end_of_the_last_bad_second():
    assert recovery_seconds(seconds(100, 100, 50, 80, 100, 100), 2, 0.99) == 2


def test_a_change_that_does_no_harm_needs_no_recovery():
    assert recovery_seconds(seconds(50, 100, 100), 1, 0.99) == 0


def test_a_run_that_ends_badly_has_not_recovered():
    assert recovery_seconds(seconds(100, 50, 100, 50), 1, 0.99) is None
