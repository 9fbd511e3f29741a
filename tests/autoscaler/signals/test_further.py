"""Further metrics beside a source's own observations: found, not found, or wrong."""

import json
import threading

import pytest

from slo_autoscaler.errors import SourceError
from slo_autoscaler.settings.spec import FurtherMetric, FurtherMetrics
from slo_autoscaler.signals.further import WithFurther, values
from slo_autoscaler.signals.queries import read
from slo_autoscaler.signals.record import Observation
from slo_autoscaler.signals.source import Settings
from support import doubles
from support.doubles import a_gateway, a_prometheus
from support.waits import until

QUEUE, MEMORY = (FurtherMetric(name=name, query=name, target=1.0) for name in ("queue", "memory"))
METRICS = FurtherMetrics({"a.fn": (QUEUE, MEMORY)}, (MEMORY,))


def answer(*series):
    return {"status": "success", "data": {"resultType": "vector", "result": list(series)}}


def one(value, **labels):
    return {"metric": labels, "value": [1.0, str(value)]}


class Inner:
    """A source of two functions, or of an error."""

    def __init__(self):
        self.error = None

    def observe(self):
        if self.error is not None:
            raise self.error
        return {"a.fn": Observation(rate=1.0), "b.fn": Observation(rate=2.0)}


@pytest.fixture
def server():
    with a_gateway() as double:
        yield double


@pytest.fixture
def further(server, keep):
    """Return the source, and what Prometheus answers to each query."""
    answers = {}

    def told(request):
        query = request.path.partition("query=")[2].partition("&")[0]
        found = answers.get(query, answer())
        found(request) if callable(found) else doubles.status(200, json.dumps(found).encode())(request)

    server.faults["GET"] = told
    return keep(WithFurther(Inner(), Settings(url=server.url, timeout=30.0), METRICS)), answers


def test_observe_adds_the_metrics_of_each_function_in_their_order(further):
    source, answers = further
    answers["queue"] = answer(one(40))
    answers["memory"] = answer(one(3, function_name="a.fn"), one(5, function_name="b.fn"))
    seen = source.observe()
    assert (seen["a.fn"].further, seen["b.fn"].further) == ((40.0, 3.0), (5.0,))
    assert (seen["a.fn"].rate, seen["b.fn"].rate) == (1.0, 2.0)


def test_observe_query_of_a_users_has_its_own_matchers_alone(server, keep):
    asked = []

    def recorded(request):
        asked.append(request.path)
        doubles.status(200, json.dumps(answer()).encode())(request)

    server.faults["GET"] = recorded
    depth = FurtherMetric(name="depth", query="up", target=1.0)
    settings = Settings(url=server.url, timeout=30.0, matchers={"cluster": "eu"})
    keep(WithFurther(Inner(), settings, FurtherMetrics({}, (depth,)))).observe()
    assert [path.partition("query=")[2].partition("&")[0] for path in asked] == ["up"]


@pytest.mark.parametrize(
    "fault", [doubles.status(400), doubles.garbage, doubles.panic, answer(), answer(one("NaN"))]
)
def test_observe_wrong_answer_makes_its_metric_alone_unknown(further, fault):
    source, answers = further
    answers |= {"queue": fault, "memory": answer(one(3))}
    seen = source.observe()
    assert (seen["a.fn"].further, seen["b.fn"].further) == ((None, 3.0), (3.0,))


def test_observe_metric_that_is_late_is_unknown(server, keep):
    released = threading.Event()
    server.faults["GET"] = doubles.hang(released)
    source = keep(WithFurther(Inner(), Settings(url=server.url, timeout=0.3), METRICS))
    assert source.observe()["a.fn"].further == (None, None)
    released.set()


@pytest.mark.parametrize("part", [{"warnings": ["store-1: connection refused"]}, {"isPartial": True}])
def test_observe_partial_answer_to_a_metric_rates_no_replica_of_its_functions(server, part, keep):
    found = json.dumps({**answer(one(3)), **part}, separators=(",", ":")).encode()
    server.faults["GET"] = doubles.status(200, found)
    settings = Settings(url=server.url, timeout=30.0)
    seen = keep(WithFurther(Inner(), settings, FurtherMetrics({"a.fn": (QUEUE,)}))).observe()
    assert (seen["a.fn"].further, seen["a.fn"].rated_replicas) == ((3.0,), 0.0)
    assert seen["b.fn"].rated_replicas is None


def test_observe_lasting_failure_is_logged_once_and_so_is_its_end(further, caplog):
    source, answers = further
    answers |= {"queue": doubles.status(400), "memory": answer(one(3))}
    source.observe()
    source.observe()
    assert len(caplog.records) == 1
    answers["queue"] = answer(one(1))
    source.observe()
    assert len(caplog.records) == 2


def test_observe_error_of_the_source_is_the_sources(server, keep):
    inner = Inner()
    inner.error = SourceError("down")
    source = keep(WithFurther(inner, Settings(url=server.url, timeout=30.0), METRICS))
    with pytest.raises(SourceError, match="down"):
        source.observe()


@pytest.mark.parametrize("result", [[one(1), one(2)], [one(1, pod="a"), one(2, pod="b")]])
def test_values_answer_without_one_value_is_a_source_error(result):
    with pytest.raises(SourceError):
        values(read(result))


@pytest.mark.e2e
def test_observe_prometheus_answers_queries_as_users_write_them(tmp_path, keep):
    texts = "vector(7)", "sum(up)", "sum by (function_name) (up) * 40", "sum(", "up"
    metrics = FurtherMetrics(others=tuple(FurtherMetric(name=text, query=text, target=1.0) for text in texts))
    targets = {"a.fn": ["127.0.0.1:1"], "b.fn": ["127.0.0.1:2"]}
    with a_prometheus(tmp_path, targets) as prometheus:
        source = keep(WithFurther(Inner(), Settings(url=prometheus.url, timeout=30.0), metrics))
        expected = (7.0, 0.0, 0.0, None, 0.0)
        until(lambda: {each.further for each in source.observe().values()} == {expected}, "both are scraped")
