"""Prometheus for the page: bounded, remembered for a while, and what goes wrong in words."""

import threading

import pytest

from autoscaler import doubles
from autoscaler.doubles import a_gateway
from slo_autoscaler.config import PrometheusConfig
from slo_autoscaler.errors import SourceError
from slo_autoscaler.web import reader as web_reader
from slo_autoscaler.web.charts import Grid
from slo_autoscaler.web.reader import Reader

AT = Grid(1000, 10, 3)
VECTOR = b'{"status": "success", "data": {"resultType": "vector", "result": []}}'


@pytest.fixture
def prometheus():
    with a_gateway() as double:
        double.faults["GET"] = doubles.status(200, VECTOR)
        yield double


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def reader(prometheus, clock):
    reader = Reader(PrometheusConfig(url=prometheus.url, timeout=1.0), lambda: clock[0])
    yield reader
    reader.close()


def test_an_answer_is_good_for_some_seconds(reader, prometheus, clock):
    assert reader.ranges({"a": "x", "b": "y"}, AT) == {"a": [], "b": []}
    reader.ranges({"a": "x", "b": "y"}, AT)
    assert len(prometheus.requests) == 2
    clock[0] += 6.0
    reader.ranges({"a": "x", "b": "y"}, AT)
    assert len(prometheus.requests) == 4


def test_other_questions_are_asked(reader, prometheus):
    reader.ranges({"a": "x"}, AT)
    reader.ranges({"a": "y"}, AT)
    reader.ranges({"a": "x"}, Grid(1010, 10, 3))
    reader.instants({"a": "x"})
    assert len(prometheus.requests) == 4


def test_only_so_many_answers_are_remembered(reader, monkeypatch):
    monkeypatch.setattr(web_reader, "MOST_KEPT", 3)
    for number in range(5):
        reader.instants({"a": f"x{number}"})
    assert len(reader._kept) == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (doubles.status(503), "503"),
        (doubles.garbage, "JSON"),
        (doubles.status(200, b'{"data": {"result": 3}}'), "wrong answer: expected a list"),
        (doubles.panic, "ConnectionError"),
    ],
)
def test_whatever_prometheus_does_is_one_line_with_its_address(reader, prometheus, fault, words):
    prometheus.faults["GET"] = fault
    with pytest.raises(SourceError, match=words) as caught:
        reader.ranges({"a": "x"}, AT)
    assert str(caught.value).startswith(prometheus.url)
    assert "\n" not in str(caught.value)


def test_one_that_hangs_is_given_up_after_the_timeout(prometheus):
    until = threading.Event()
    prometheus.faults["GET"] = doubles.hang(until)
    reader = Reader(PrometheusConfig(url=prometheus.url, timeout=0.2))
    with pytest.raises(SourceError, match=r"not answered within 0\.2 s|Timeout"):
        reader.ranges({"a": "x", "b": "y"}, AT)
    until.set()
    reader.close()


def test_a_failure_is_not_remembered_and_a_problem_is_told_in_words(reader, prometheus, clock):
    prometheus.faults["GET"] = doubles.status(503)
    assert "503" in reader.problem()
    prometheus.faults["GET"] = doubles.status(200, b'{"data": {"result": [5, "7"]}}')
    clock[0] += 6.0
    assert reader.problem() is None
    assert reader.now() == 7.0
