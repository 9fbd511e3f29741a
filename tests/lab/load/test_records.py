"""What records, samples, replica counts and the generator's report mean."""

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.load.records import (
    BROKEN,
    NO_CONNECTION,
    TIMED_OUT,
    BenchError,
    Change,
    Comparison,
    Ledger,
    Point,
    Record,
    Sample,
    changes,
    highest_replicas,
    milliseconds,
    parse_run,
    per_second,
    percent,
    percentile,
    recent,
    reduce,
    replica_seconds,
    reversals,
    scale_downs,
    start_ups,
    summarize,
)

statuses = st.sampled_from([200, 204, 429, 500, 502, 503, 504, NO_CONNECTION, TIMED_OUT, BROKEN])
records = st.lists(st.builds(Record, st.floats(0, 59.9), st.floats(0, 12), statuses), max_size=80)
counts = st.lists(st.tuples(st.floats(0, 60), st.integers(0, 5)), max_size=40).map(sorted)


@given(records, st.floats(0.001, 10))
def test_every_request_has_one_outcome_and_the_seconds_add_up_to_the_whole(found, slo):
    whole, seconds, ledger = summarize(found, slo), per_second(found, slo, 60), Ledger(slo)
    outcomes = ("good", "slow", "refused", "failed", "lost")
    assert whole.sent == len(found) == sum(getattr(whole, name) for name in outcomes)
    assert len(seconds) == 60
    for name in ("sent", *outcomes):
        assert sum(getattr(second, name) for second in seconds) == getattr(whole, name)
    for record in found:
        ledger.add(record)
    assert (ledger.good, ledger.lost, ledger.attainment) == (whole.good, whole.lost, whole.attainment)
    if found:
        assert (whole.attainment >= 0.99 - 1e-12) == (whole.p99 <= slo)


@pytest.mark.parametrize(
    ("latency", "status", "outcome"),
    [
        (0.1, 200, "good"),
        (0.1, 299, "good"),
        (0.1001, 200, "slow"),
        (0.01, 300, "failed"),
        (0.01, 199, "failed"),
        (0.01, 429, "refused"),
        (0.01, 503, "refused"),
        (10.0, TIMED_OUT, "lost"),
    ],
)
def test_only_a_2xx_within_the_slo_is_good_and_a_miss_without_answer_is_infinite(latency, status, outcome):
    summary = summarize([Record(0, latency, status)], 0.1)
    assert getattr(summary, outcome) == 1
    assert summary.p50 == (latency if outcome in ("good", "slow") else math.inf)


def test_without_requests_there_is_no_attainment_and_no_percentile():
    summary = summarize([], 0.1)
    assert (summary.attainment, summary.p50, summary.p99) == (None, None, None)
    assert (milliseconds(None), milliseconds(math.inf), milliseconds(0.1)) == (None, None, 100.0)


def test_share_of_all_but_a_few_never_reads_as_all():
    assert [percent(share) for share in (0.99999, 1.0, None)] == ["99.99%", "100.00%", "-"]


@given(st.lists(st.floats(0, 100), min_size=1).map(sorted), st.floats(0.001, 1))
def test_at_least_the_share_lies_at_or_below_its_percentile(values, share):
    found = percentile(values, share)
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values)


@given(records, st.floats(0, 60))
def test_the_recent_records_are_those_that_ended_since_the_moment(found, since):
    found = sorted(found, key=lambda record: record.scheduled + record.latency)
    expected = [record for record in found if record.scheduled + record.latency >= since]
    assert recent(found, since)[::-1] == expected


@given(counts)
def test_replica_seconds_lie_between_the_lowest_and_highest_count_for_the_whole_run(found):
    total = replica_seconds(found, 60.0)
    if found:
        low, *_, high = sorted([count for _, count in found] * 2)
        assert low * 60 - 1e-6 <= total <= high * 60 + 1e-6
    else:
        assert total is None


def test_replica_seconds_hold_each_count_within_the_run_and_through_a_gap():
    assert replica_seconds([(-1, 1), (4, 3), (8, 2), (30, 5)], 10) == 4 * 1 + 4 * 3 + 2 * 2
    assert replica_seconds([(-2, 1), (-1, 2)], 10) == 20
    track = reduce(Ledger(0.1, samples=[Sample(0, 1), Sample(10, 3), Sample(15, None), Sample(20, 2)]), 30)
    assert (track.replica_seconds, highest_replicas(track)) == (10 * 1 + 10 * 3 + 10 * 2, 3)
    assert highest_replicas(reduce(Ledger(0.1), 30)) is None


@pytest.mark.parametrize(("good", "bad", "met"), [(99, 1, True), (99, 2, False), (0, 0, False)])
def test_the_slo_is_met_at_the_objective_and_never_without_requests(good, bad, met):
    ledger = Ledger(0.1, [Record(0, 0.02, 200)] * good + [Record(0, 0.5, 504)] * bad)
    track = reduce(ledger, 10)
    assert Comparison("tabular", 0.1, 0.99, (), track).met is met
    assert dict(track.statuses) == {status: n for status, n in ((200, good), (504, bad)) if n}


def test_changes_are_read_from_a_log_with_other_lines_and_other_times():
    lines = [
        "2026-01-01T11:59:59.000+00:00 replicas: 1 -> 9",
        "2026-01-01T12:00:01.500+00:00 replicas: 1 -> 3",
        "2026-01-01T12:00:02.000+00:00 replicas are fine",
        "2026-01-01T12:00:04.000+00:00 replicas: 0 -> 1: requests are held",
        "2026-01-01T12:00:11.000+00:00 replicas: 3 -> 1",
    ]
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert changes(lines, noon, 10) == [Change(1.5, 1, 3), Change(4, 0, 1)]


@pytest.mark.parametrize(("within", "count"), [(1, 0), (2, 1), (16, 2)])
def test_reversal_is_a_change_of_direction_soon_after_the_change_before(within, count):
    changed = [Change(1, 1, 2), Change(2, 2, 4), Change(4, 4, 3), Change(20, 3, 5)]
    assert reversals(changed, within) == count
    assert [scale_downs(changed, 2, end) for end in (3, 4)] == [0, 1]


@pytest.mark.parametrize(
    ("points", "took"),
    [
        ([Point(0, 1, 1), Point(5, 1, 1)], []),
        ([Point(0, 1, 1), Point(2, 3, 1), Point(3.5, 3, 2), Point(5, 3, 3)], [1.5, 3]),
        ([Point(0, 1, 1), Point(1, 2, 1), Point(2, 1, 1), Point(6, 2, 1), Point(7, 2, 2)], [1]),
        ([Point(0, 1, 1), Point(1, 2, 1), Point(2, 1, 1), Point(3, 1, 2)], []),
        ([Point(0, 2, 2), Point(1, 2, 1), Point(2, 2, 2)], []),
    ],
    ids=["from the beginning", "two", "taken back and wanted again", "came unwanted", "crashed"],
)
def test_start_up_lasts_from_wanting_a_replica_to_having_it(points, took):
    assert start_ups(points) == took


RAW = {
    "rate": 100,
    "seconds": 2,
    "sent": 200,
    "ok": 190,
    "good": 180,
    "cpu_s": 0.1,
    "stopped_early": False,
    "lagged": False,
    "statuses": {"200": 190},
    "latency_ms": {},
    "lag_ms": {},
    "messages": [{"sent": 200, "good": 180}],
}


def test_attainment_is_of_all_sent_and_goodput_of_the_time_offered():
    run = parse_run(json.dumps(RAW))
    assert (run.attainment, run.goodput) == (0.9, 90.0)
    assert parse_run(json.dumps(RAW | {"sent": 0, "ok": 0, "good": 0})).attainment == 0.0


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps(RAW | {"other": 1})])
def test_report_that_cannot_be_read_is_an_error(text):
    with pytest.raises(BenchError):
        parse_run(text)
