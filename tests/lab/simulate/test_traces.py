"""Traces: files in every format, generators, and what is wrong with them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.simulate import SimulationError, traces


@given(
    rates=st.lists(st.floats(0.0, 50.0), min_size=1, max_size=30),
    cv2=st.sampled_from([0.25, 1.0, 4.0, 16.0]),
    seed=st.integers(0, 1000),
)
def test_arrivals_ascend_and_none_comes_where_the_rate_is_zero(rates, cv2, seed):
    trace = traces.from_rates("some", rates, cv2=cv2, seed=seed)
    assert np.all(np.diff(trace.arrivals) >= 0.0)
    assert trace.duration == len(rates)
    counts = trace.counts()
    assert counts.sum() == len(trace.arrivals)
    assert all(counts[second] == 0 for second, rate in enumerate(rates) if rate == 0.0)


def test_the_rate_is_what_was_asked_for():
    trace = traces.from_rates("some", [100.0] * 200 + [300.0] * 200)
    assert trace.counts()[:200].mean() == pytest.approx(100.0, rel=0.03)
    assert trace.counts()[200:].mean() == pytest.approx(300.0, rel=0.03)


@pytest.mark.parametrize("cv2", [1.0, 4.0, 16.0])
def test_gaps_vary_as_much_as_asked(cv2):
    gaps = np.diff(traces.from_rates("some", [200.0] * 500, cv2=cv2).arrivals)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.15)


def test_the_same_seed_gives_the_same_arrivals_and_another_one_others():
    first, again, other = (traces.from_rates("some", [50.0] * 20, seed=seed) for seed in (1, 1, 2))
    assert first.arrivals.tolist() == again.arrivals.tolist() != other.arrivals.tolist()


@pytest.mark.parametrize("kind", traces.GENERATORS)
def test_every_generator_makes_a_trace_of_its_length(kind):
    trace = traces.generate(kind, 50.0, 1000)
    assert trace.duration == 1000
    assert 20.0 < trace.rate < 200.0


def test_the_generated_spike_is_shorter_than_a_start_up():
    levels = traces.spike(100.0, 1800)
    high = np.flatnonzero(levels > 100.0)
    assert len(high)
    assert max(len(run) for run in np.split(high, np.flatnonzero(np.diff(high) > 1) + 1)) < 10


def test_on_off_is_silent_between():
    counts = traces.generate("on-off", 50.0, 480).counts()
    assert counts[:300].min() > 0
    assert counts[300:].sum() == 0


def test_a_file_of_counts(tmp_path):
    file = tmp_path / "counts.txt"
    file.write_text("100\n0\n200\n")
    trace = traces.read(file)
    assert (trace.name, trace.duration) == ("counts", 3.0)
    assert trace.counts()[1] == 0


def test_a_csv_of_counts_may_have_a_header_and_more_columns(tmp_path):
    file = tmp_path / "counts.csv"
    file.write_text("second,requests\n0,0\n1,50\n")
    counts = traces.read(file).counts()
    assert counts[0] == 0
    assert counts[1] > 20


def test_a_file_of_dates_is_one_request_per_line(tmp_path):
    file = tmp_path / "azure.csv"
    file.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
        "2023-11-16 18:17:04.2299600,1,2\n"
    )
    assert traces.read(file).arrivals.tolist() == pytest.approx([0.0, 0.25])


@pytest.mark.parametrize(
    ("data", "arrivals"),
    [({"times": [3, 1, 1.5]}, [0.0, 0.5, 2.0]), ([1.25, 2.0], [0.0, 0.75])],
)
def test_json_of_times(tmp_path, data, arrivals):
    file = tmp_path / "live.json"
    file.write_text(json.dumps(data))
    assert traces.read(file).arrivals.tolist() == arrivals


@pytest.mark.parametrize("data", [{"counts": [0, 40]}, [0, 40]])
def test_json_of_counts(tmp_path, data):
    file = tmp_path / "counts.json"
    file.write_text(json.dumps(data))
    trace = traces.read(file)
    assert trace.duration == 2.0
    assert trace.counts()[0] == 0


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("a.txt", "", "is empty"),
        ("a.txt", "1\nmany\n", "line 2: 'many' must be a number of requests"),
        ("a.txt", "1\n-3\n", "line 2: '-3'"),
        ("a.csv", "TIMESTAMP\nnoon\n", "line 2: 'noon' must be a date"),
        ("a.csv", "TIMESTAMP\n2023-11-16 18:17:03+01:00\n", "line 2: .* without a zone"),
        ("a.csv", "x,TIMESTAMP\n5\n", "line 2: '' must be a date"),
        ("a.json", "{", "not JSON"),
        ("a.json", '{"rates": [1]}', "must be a list of numbers"),
        ("a.json", "[true]", "must be a list of numbers"),
        ("a.json", "[]", "must be a list of numbers"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path, name, text, rule):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(SimulationError, match=rule):
        traces.read(file)


def test_a_file_that_is_not_there_is_said_to_be(tmp_path):
    with pytest.raises(SimulationError, match="cannot be read: No such file"):
        traces.read(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("kind", "rate", "rule"), [("wave", 1.0, "must be one of"), ("step", 0.0, "above 0")]
)
def test_what_cannot_be_generated_is_refused(kind, rate, rule):
    with pytest.raises(SimulationError, match=rule):
        traces.generate(kind, rate, 60)
