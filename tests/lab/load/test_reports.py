"""What the generator's report and replica counts over a run mean."""

import json
from datetime import UTC, datetime

import pytest

from tailbound_lab.load.records import (
    BenchError,
    Change,
    Point,
    Second,
    cdf,
    changes,
    parse_run,
    recovery_seconds,
    replica_seconds,
    reversals,
    scale_downs,
    start_ups,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
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


def test_attainment_is_of_all_sent_and_goodput_of_the_time_offered():
    run = parse_run(json.dumps(RAW))
    assert (run.attainment, run.goodput, run.per_second[0].attainment) == (0.9, 90.0, 0.9)
    assert parse_run(json.dumps(RAW | {"sent": 0, "ok": 0, "good": 0})).attainment == 0.0


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps(RAW | {"rate": "fast"})])
def test_report_that_cannot_be_read_is_an_error(text):
    with pytest.raises(BenchError):
        parse_run(text)


def test_distribution_ends_below_one_by_what_was_never_answered():
    assert cdf([(1.0, 100), (2.0, 90)], 200) == [(1.0, 0.5), (2.0, 0.95)]


@pytest.mark.parametrize(
    ("goods", "changed", "recovered"),
    [
        ((100, 100, 50, 80, 100, 100), 2, 2),
        ((50, 100, 100), 1, 0),
        ((100, 50, 100, 50), 1, None),
    ],
    ids=["after the last bad second", "no harm", "ends badly"],
)
def test_recovery_counts_from_the_change_to_the_end_of_the_last_bad_second(goods, changed, recovered):
    seconds = [Second(index, 100, 100, good) for index, good in enumerate(goods)]
    assert recovery_seconds(seconds, changed, 0.99) == recovered


def test_replica_seconds_hold_each_count_within_the_run():
    assert replica_seconds([(-1, 1), (4, 3), (8, 2), (30, 5)], 10) == 4 * 1 + 4 * 3 + 2 * 2
    assert replica_seconds([(-2, 1), (-1, 2)], 10) == 20
    assert replica_seconds([], 10) is None


def test_changes_are_read_from_a_log_with_other_lines_and_other_times():
    lines = [
        "2026-01-01T11:59:59.000+00:00 replicas: 1 -> 9",
        "2026-01-01T12:00:01.500+00:00 replicas: 1 -> 3",
        "2026-01-01T12:00:02.000+00:00 replicas are fine",
        "2026-01-01T12:00:04.000+00:00 replicas: 0 -> 1: requests are held",
        "2026-01-01T12:00:11.000+00:00 replicas: 3 -> 1",
    ]
    assert changes(lines, NOON, 10) == [Change(1.5, 1, 3), Change(4, 0, 1)]


@pytest.mark.parametrize(("within", "count"), [(1, 0), (2, 1), (16, 2)])
def test_reversal_is_a_change_of_direction_soon_after_the_change_before(within, count):
    up, more, down, late = Change(1, 1, 2), Change(2, 2, 4), Change(4, 4, 3), Change(20, 3, 5)
    assert reversals([up, more, down, late], within) == count


def test_scale_down_lowers_the_count_in_the_given_time():
    assert scale_downs([Change(1, 5, 4), Change(2, 4, 5), Change(3, 5, 1), Change(9, 3, 2)], 2, 8) == 1


@pytest.mark.parametrize(
    ("points", "took"),
    [
        ([Point(0, 1, 1), Point(5, 1, 1)], []),
        ([Point(0, 1, 1), Point(2, 3, 1), Point(3.5, 3, 2), Point(5, 3, 3)], [1.5, 3]),
        ([Point(0, 0, 0), Point(2, 1, 0), Point(3, 1, 1)], [1]),
        ([Point(0, 1, 1), Point(1, 2, 1), Point(2, 1, 1), Point(6, 2, 1), Point(7, 2, 2)], [1]),
        ([Point(0, 1, 1), Point(1, 2, 1), Point(2, 1, 1), Point(3, 1, 2)], []),
        ([Point(0, 2, 2), Point(1, 2, 1), Point(2, 2, 2)], []),
    ],
    ids=[
        "there from the beginning",
        "two",
        "from zero",
        "taken back and wanted again",
        "came unwanted",
        "crashed",
    ],
)
def test_start_up_lasts_from_wanting_a_replica_to_having_it(points, took):
    assert start_ups(points) == took
