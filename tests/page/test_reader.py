"""Prometheus for the page: bounded, remembered for a while, and its failures in words."""

import pytest

from slo_autoscaler.errors import SourceError
from slo_autoscaler.show.web import reader as web_reader
from slo_autoscaler.show.web.charts import Grid
from slo_autoscaler.show.web.reader import Reader
from slo_autoscaler.signals.source import Settings as PrometheusSettings
from support import doubles
from support.doubles import an_empty_prometheus
from support.serving import a_quiet_prometheus, an_alert

AT = Grid(1000, 10, 3)


@pytest.fixture
def prometheus():
    with an_empty_prometheus() as double:
        yield double


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def reader(prometheus, clock):
    reader = Reader(PrometheusSettings(url=prometheus.url, timeout=20.0), lambda: clock[0])
    yield reader
    reader.close()


def test_an_answer_is_kept_for_some_seconds_by_its_queries_and_grid(reader, prometheus, clock):
    assert reader.ranges({"a": "x", "b": "y"}, AT) == {"a": [], "b": []}
    reader.ranges({"a": "x", "b": "y"}, AT)
    assert len(prometheus.requests) == 2
    clock[0] += web_reader.KEPT
    reader.ranges({"a": "x", "b": "y"}, AT)
    assert len(prometheus.requests) == 4
    reader.ranges({"a": "x"}, AT)
    reader.ranges({"a": "x"}, Grid(1010, 10, 3))
    reader.instants({"a": "x"})
    assert len(prometheus.requests) == 7


def test_slow_answer_is_kept_from_its_arrival(reader, prometheus, clock):
    def answer(request):
        clock[0] += web_reader.KEPT
        doubles.status(200, doubles.NO_SERIES)(request)

    prometheus.faults["GET"] = answer
    for _ in range(2):
        reader.instants({"a": "x"})
    assert len(prometheus.requests) == 1


def test_only_so_many_answers_are_kept(reader, prometheus, monkeypatch):
    monkeypatch.setattr(web_reader, "MAX_KEPT", 3)
    for number in [0, 1, 2, 3, 3, 0]:
        reader.instants({"a": f"x{number}"})
    assert len(prometheus.requests) == 5, "the newest are kept, the oldest is not"


def test_a_failure_is_not_kept(reader, prometheus):
    prometheus.faults["GET"] = doubles.garbage
    with pytest.raises(SourceError, match=prometheus.url):
        reader.ranges({"a": "x"}, AT)
    prometheus.faults["GET"] = doubles.status(200, doubles.NO_SERIES)
    assert reader.ranges({"a": "x"}, AT) == {"a": []}


def test_a_problem_ends_with_its_cause(reader, prometheus, clock):
    prometheus.faults["GET"] = doubles.status(503)
    assert "503" in reader.health().problem
    prometheus.faults["GET"] = doubles.status(
        200, b'{"data": {"result": [{"metric": {}, "value": [5, "7"]}]}}'
    )
    assert reader.now() == 7.0
    clock[0] += web_reader.KEPT
    assert reader.health().problem is None


def test_prometheus_that_lists_no_alerts_answers_all_the_same(reader, prometheus):
    now = b'{"data": {"result": [{"metric": {}, "value": [5, "7"]}]}}'
    prometheus.faults = {"GET /api/v1/query": doubles.status(200, now), "GET": doubles.status(404)}
    health = reader.health()
    assert health.problem is None
    assert "404" in health.no_alerts


def test_health_has_the_alerts_of_the_shipped_rules_that_fire_here():
    pending, foreign, mute = (
        an_alert() | {"state": "pending"},
        an_alert(product="x"),
        an_alert(severity="none"),
    )
    ours, theirs = an_alert(cluster="eu"), an_alert(cluster="us")
    with a_quiet_prometheus(pending, foreign, mute, ours, theirs) as prometheus:
        reader = Reader(PrometheusSettings(url=prometheus.url, timeout=20.0, matchers={"cluster": "eu"}))
        (alert,) = reader.health().alerts
        reader.close()
    assert (alert.labels["cluster"], alert.value) == ("eu", 14.5)
