"""What records, samples and replica counts mean."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.load.records import (
    BROKEN,
    NO_CONNECTION,
    TIMED_OUT,
    Comparison,
    Ledger,
    Record,
    Sample,
    highest_replicas,
    per_second,
    percent,
    percentile,
    reduce,
    replica_seconds,
    summarize,
)

statuses = st.sampled_from([200, 204, 429, 500, 502, 503, 504, NO_CONNECTION, TIMED_OUT, BROKEN])
records = st.lists(st.builds(Record, st.floats(0, 59.9), st.floats(0, 12), statuses), max_size=80)
counts = st.lists(st.tuples(st.floats(0, 60), st.integers(0, 5)), max_size=40).map(sorted)


@given(records, st.floats(0.001, 10))
def test_summary_counts_each_request_once_and_seconds_add_up_to_it(found, slo):
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
def test_summary_of_a_request_names_its_outcome_and_takes_a_miss_as_infinite(latency, status, outcome):
    summary = summarize([Record(0, latency, status)], 0.1)
    assert getattr(summary, outcome) == 1
    assert summary.p50 == (latency if outcome in ("good", "slow") else math.inf)


def test_summary_without_requests_has_no_attainment_and_no_percentile():
    summary = summarize([], 0.1)
    assert (summary.attainment, summary.p50, summary.p99) == (None, None, None)


def test_percent_is_never_rounded_up():
    assert [percent(share) for share in (0.99999, 1.0, None)] == ["99.99%", "100.00%", "-"]


@given(st.lists(st.floats(0, 100), min_size=1).map(sorted), st.floats(0.001, 1))
def test_percentile_has_its_share_at_or_below_it(values, share):
    found = percentile(values, share)
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values)


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
def test_comparison_is_met_at_the_objective_and_never_without_requests(good, bad, met):
    ledger = Ledger(0.1, [Record(0, 0.02, 200)] * good + [Record(0, 0.5, 504)] * bad)
    track = reduce(ledger, 10)
    assert Comparison("tabular", 0.1, 0.99, (), track).met is met
    assert dict(track.statuses) == {status: n for status, n in ((200, good), (504, bad)) if n}
