"""Traces: arrivals at given rates, files in every format, generators, and what is wrong with them."""

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
    counts = trace.counts()
    assert np.all(np.diff(trace.arrivals) >= 0.0)
    assert (trace.duration, counts.sum()) == (len(rates), len(trace.arrivals))
    assert all(counts[second] == 0 for second, rate in enumerate(rates) if rate == 0.0)
    assert trace.arrivals.tolist() == traces.from_rates("some", rates, cv2=cv2, seed=seed).arrivals.tolist()


@pytest.mark.parametrize("cv2", [1.0, 4.0, 16.0])
def test_rate_and_variation_of_gaps_are_as_asked(cv2):
    trace = traces.from_rates("some", [200.0] * 500 + [400.0] * 500, cv2=cv2)
    assert trace.counts()[:500].mean() == pytest.approx(200.0, rel=0.06)
    assert trace.counts()[500:].mean() == pytest.approx(400.0, rel=0.06)
    gaps = np.diff(trace.arrivals[: trace.counts()[:500].sum()])
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.15)


@pytest.mark.parametrize(
    ("name", "text", "seconds"),
    [
        ("a.txt", "100\n0\n200\n", {0: True, 1: False, 2: True}),
        ("a.csv", "second,requests\n0,0\n1,50\n", {0: False, 1: True}),
        ("a.json", json.dumps({"counts": [0, 40]}), {0: False, 1: True}),
        ("a.json", "[0, 40]", {0: False, 1: True}),
    ],
    ids=["one on each line", "last column under a header", "JSON", "a JSON list"],
)
def test_file_of_counts(tmp_path, name, text, seconds):
    (tmp_path / name).write_text(text)
    trace = traces.read(tmp_path / name)
    assert (trace.name, trace.duration) == ("a", len(seconds))
    assert {second: count > 0 for second, count in enumerate(trace.counts())} == seconds


AZURE = "TIMESTAMP,Tokens\n2023-11-16 18:17:03.9799600,4808\n2023-11-16 18:17:04.2299600,1\n"


@pytest.mark.parametrize(
    ("name", "text", "arrivals"),
    [
        ("a.csv", AZURE, [0.0, 0.25]),
        ("a.csv", "TIMESTAMP\n5\n5.5\n", [0.0, 0.5]),
        ("a.json", json.dumps({"times": [3, 1, 1.5]}), [0.0, 0.5, 2.0]),
        ("a.json", "[1.25, 2.0]", [0.0, 0.75]),
    ],
    ids=["dates", "seconds", "JSON", "a JSON list with a fraction"],
)
def test_file_of_times_begins_with_the_first(tmp_path, name, text, arrivals):
    (tmp_path / name).write_text(text)
    assert traces.read(tmp_path / name).arrivals.tolist() == pytest.approx(arrivals)


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("a.txt", "", "a.txt"),
        ("a.txt", "1\nmany\n", "line 2: 'many'"),
        ("a.txt", "1\n-3\n", "line 2: '-3'"),
        ("a.csv", "TIMESTAMP\nnoon\n", "line 2: 'noon'"),
        ("a.csv", "TIMESTAMP\n2023-11-16 18:17:03+01:00\n", "line 2: .*zone"),
        *(("a.json", text, "a.json") for text in ("{", '{"rates": [1]}', "[true]", "[]")),
        ("a.json", f"[{'9' * 400}]", "a: "),
        ("a.txt", "1e12", "a: "),
        ("a.txt", b"\xff", "UTF-8"),
        ("a.txt", None, "cannot be read"),
    ],
)
def test_file_that_is_wrong_is_refused_with_its_place(tmp_path, name, text, named):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SimulationError, match=named):
        traces.read(tmp_path / name)
