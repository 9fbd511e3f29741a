"""What records and samples say: outcomes, percentiles, replica-seconds, results."""

import json
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
    percentile,
    recent,
    reduce,
    result,
    summarize,
)

statuses = st.sampled_from([200, 204, 429, 500, 502, 503, 504, NO_CONNECTION, TIMED_OUT, BROKEN])
records = st.lists(st.builds(Record, st.floats(0, 59.9), st.floats(0, 12), statuses), max_size=80)
samples = st.lists(
    st.builds(Sample, st.floats(0, 60), st.none() | st.integers(0, 5).map(float)), max_size=40
).map(lambda found: sorted(found, key=lambda sample: sample.seconds))


@given(records, st.floats(0.001, 10))
def test_every_request_has_exactly_one_outcome(found, slo):
    summary = summarize(found, slo)
    assert summary.sent == len(found)
    assert summary.sent == (summary.good + summary.slow + summary.refused + summary.failed + summary.lost)


@given(records.filter(bool), st.floats(0.001, 10))
def test_attainment_reaches_99_percent_exactly_when_p99_is_within_the_slo(found, slo):
    summary = summarize(found, slo)
    assert (summary.attainment >= 0.99 - 1e-12) == (summary.p99 <= slo)


@given(records, st.floats(0.001, 10))
def test_the_seconds_add_up_to_the_whole(found, slo):
    seconds = per_second(found, slo, 60)
    assert len(seconds) == 60
    for name in ("sent", "good", "slow", "refused", "failed", "lost"):
        assert sum(getattr(second, name) for second in seconds) == getattr(summarize(found, slo), name)


def test_a_miss_counts_as_an_endless_latency():
    summary = summarize([Record(0, 0.01, 200), Record(0, 0.001, 503), Record(0, 10.0, TIMED_OUT)], 0.1)
    assert summary.p50 == math.inf
    assert (summary.good, summary.refused, summary.lost) == (1, 1, 1)


def test_a_late_answer_is_slow_and_one_exactly_at_the_slo_is_good():
    summary = summarize([Record(0, 0.1, 200), Record(0, 0.1001, 200)], 0.1)
    assert (summary.good, summary.slow) == (1, 1)


def test_without_requests_there_is_no_attainment_and_no_percentile():
    summary = summarize([], 0.1)
    assert (summary.attainment, summary.p50, summary.p99) == (None, None, None)


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.001, 1))
def test_at_least_the_share_lies_at_or_below_its_percentile(values, share):
    values.sort()
    found = percentile(values, share)
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values)


@given(records, st.floats(0, 60))
def test_the_recent_records_are_those_that_ended_since_the_moment(found, since):
    found = sorted(found, key=lambda record: record.scheduled + record.latency)
    expected = [record for record in found if record.scheduled + record.latency >= since]
    assert recent(found, since)[::-1] == expected


@given(records, st.floats(0.001, 10))
def test_a_ledger_counts_as_the_summary_does(found, slo):
    ledger = Ledger(slo)
    for record in found:
        ledger.add(record)
    summary = summarize(found, slo)
    assert (ledger.good, ledger.lost, ledger.attainment) == (summary.good, summary.lost, summary.attainment)


@given(samples)
def test_replica_seconds_lie_between_the_lowest_and_highest_count_for_the_whole_run(found):
    counts = [sample.replicas for sample in found if sample.replicas is not None]
    total = reduce(Ledger(0.1, samples=found), 60.0).replica_seconds
    if not counts:
        assert total is None
    else:
        assert min(counts) * 60 - 1e-6 <= total <= max(counts) * 60 + 1e-6


def test_replica_seconds_hold_the_last_count_through_a_gap():
    found = [Sample(0, 1), Sample(10, 3), Sample(15, None), Sample(20, 2)]
    assert reduce(Ledger(0.1, samples=found), 30).replica_seconds == 10 * 1 + 10 * 3 + 10 * 2


def comparison(*, objective=0.99, good=99, bad=1):
    ledger = Ledger(0.1, [Record(i / 10, 0.02, 200) for i in range(good)], [Sample(0, 1), Sample(5, 4)])
    ledger.records += [Record(i / 10, 0.5, 504) for i in range(bad)]
    track = reduce(ledger, 10)
    return Comparison("tabular", 0.1, objective, (10.0,) * 10, track)


def test_the_slo_is_met_at_the_objective_and_missed_below_it():
    assert comparison().met
    assert not comparison(bad=2).met


def test_a_function_without_requests_has_not_met_its_slo():
    assert not comparison(good=0, bad=0).met


def test_a_result_is_one_line_of_strict_json_with_the_promised_fields():
    line = json.loads(json.dumps(result(comparison(bad=3)), allow_nan=False))
    assert line["function"] == "tabular"
    assert line["replica_seconds"] == 25
    assert line["p99_ms"] is None  # reached by misses
    assert line["p50_ms"] == 20
    assert line["baseline_attainment"] is None
    assert line["statuses"] == {"200": 99, "504": 3}


@pytest.mark.parametrize(("found", "expected"), [([], None), ([Sample(0, None), Sample(1, 3)], 3)])
def test_the_highest_count_ignores_gaps(found, expected):
    assert highest_replicas(reduce(Ledger(0.1, [], found), 2)) == expected


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "good"), (299, "good"), (300, "failed"), (199, "failed"), (429, "refused"), (503, "refused")],
)
def test_only_a_2xx_is_an_answer(status, outcome):
    summary = summarize([Record(0.0, 0.01, status)], 0.1)
    assert getattr(summary, outcome) == 1
