"""The Prometheus source: what goes wrong becomes one kind of error, at once; and the real program answers."""

import threading

import pytest

from autoscaler import doubles
from autoscaler.doubles import a_fleet, a_gateway, a_prometheus, free_port, until
from slo_autoscaler.errors import SourceError
from slo_autoscaler.sources import Settings as PrometheusSettings
from slo_autoscaler.sources.prometheus import PrometheusSource

VECTOR = b'{"status": "success", "data": {"resultType": "vector", "result": %s}}'


@pytest.fixture
def server():
    with a_gateway() as double:
        yield double


@pytest.fixture
def source(server):
    prometheus = PrometheusSource(PrometheusSettings(url=server.url, timeout=30.0))
    yield prometheus
    prometheus.close()


@pytest.fixture
def hasty(server):
    """The source where it is given up, and soon."""
    prometheus = PrometheusSource(PrometheusSettings(url=server.url, timeout=0.3))
    yield prometheus
    prometheus.close()


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (doubles.status(500), r"HTTP Status Code 500 \(b'injected'\)"),
        (doubles.status(503), "HTTP Status Code 503"),
        (doubles.status(422), "HTTP Status Code 422"),
        (doubles.garbage, "JSONDecodeError"),
        (doubles.panic, "ConnectionError"),
        (doubles.status(200, b"[]"), "TypeError"),
        (doubles.status(200, b'{"status": "success"}'), "KeyError"),
        (doubles.status(200, VECTOR % b"{}"), "wrong answer to .*: expected a list of series, got dict"),
        (doubles.status(200, VECTOR % b'[{"metric": {}}]'), "wrong answer to .*: expected a series"),
    ],
)
def test_a_wrong_answer_is_a_source_error_at_once(server, source, fault, what):
    server.faults["GET"] = fault
    with pytest.raises(SourceError, match=what):
        source.observe()
    assert len(server.requests) <= len(source._queries), "there are no retries"


def test_a_prometheus_that_does_not_answer_is_given_up(server, hasty):
    released = threading.Event()
    server.faults["GET"] = doubles.hang(released)
    with pytest.raises(SourceError, match=r"ReadTimeout|of \d+ queries not answered within 0\.3 s"):
        hasty.observe()
    released.set()


def test_answers_that_never_end_do_not_hold_the_caller(server, hasty):
    released = threading.Event()
    server.faults["GET"] = doubles.dribble(released)
    for _ in range(2):
        with pytest.raises(SourceError, match=r"queries not answered within 0\.3 s"):
            hasty.observe()
    assert len(server.requests) <= 4, "what is late has its thread, and no more are started"
    with pytest.raises(SourceError, match=r"no history within 0\.3 s"):
        hasty.history(30.0)
    released.set()


def test_a_history_is_how_long_ago_and_how_much(server, source):
    answers = {
        "time()": b'{"status": "success", "data": {"resultType": "scalar", "result": [1000.0, "1000.5"]}}',
        "rate": VECTOR
        % (
            b'[{"metric": {"function_name": "a.fn"}, "values": [[980.5, "3"], [990.5, "NaN"], [1001, "4"]]},'
            b' {"metric": {}, "values": [[990, "9"]]}]'
        ),
    }

    def answer(handler):
        doubles.status(200, answers["time()" if "time%28%29" in handler.path else "rate"])(handler)

    server.faults["GET"] = answer
    past = source.history(30.0)["a.fn"]
    assert past.rate == ((20.0, 3.0), (-0.5, 4.0))


@pytest.mark.parametrize(
    ("body", "what"),
    [(b"[]", "TypeError"), (VECTOR % b"[]", "IndexError"), (VECTOR % b'[1, "soon"]', "ValueError")],
)
def test_a_history_that_makes_no_sense_is_a_source_error(server, source, body, what):
    server.faults["GET"] = doubles.status(200, body)
    with pytest.raises(SourceError, match=what):
        source.history(30.0)


def test_a_prometheus_that_is_not_there_is_a_source_error():
    source = PrometheusSource(PrometheusSettings(url=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(SourceError, match="ConnectionError"):
        source.observe()
    source.close()


def test_an_empty_prometheus_has_no_observations(server, source):
    server.faults["GET"] = doubles.status(200, VECTOR % b"[]")
    assert source.observe() == {}


@pytest.mark.e2e
def test_the_real_prometheus_answers_every_signal_for_all_functions_at_once(tmp_path):
    with a_fleet(capacity=50.0) as one, a_fleet(capacity=70.0) as two, a_fleet(capacity=float("nan")) as idle:
        one.rate, one.good, two.rate = 100.0, 0.9, 100.0
        targets = {"busy.fn": [one.address, two.address], "idle.fn": [idle.address]}
        with a_prometheus(tmp_path, targets) as prometheus:
            config = PrometheusSettings(url=prometheus.url, scrape_interval=0.25, window=2.0)
            source = PrometheusSource(config)
            until(lambda: _samples(source) > 250, "both replicas are seen")
            busy, quiet = source.observe()["busy.fn"], source.observe()["idle.fn"]
            past = source.history(5.0)
            source.close()
    assert busy.capacity == 60.0
    assert (busy.slo_latency, busy.slo_objective, busy.up_replicas, busy.in_flight) == (0.1, 0.99, 2.0, 4.0)
    assert busy.rate == pytest.approx(200, rel=0.3)
    assert busy.attainment == pytest.approx(0.95, abs=0.02)
    assert busy.p50 is not None
    assert busy.p50 < 0.1 < (busy.p99 or 0.0)
    assert busy.in_flight_growth == 0.0
    assert busy.sample_age is not None
    assert busy.sample_age < 5.0
    # The range ends at a whole second, when the window may not have been full yet.
    assert 0.0 < past["busy.fn"].rate[-1][1] < 300.0
    assert all(-1.0 <= ago <= 6.0 for ago, _ in past["busy.fn"].rate)
    assert [ago for ago, _ in past["busy.fn"].rate] == sorted(
        (ago for ago, _ in past["busy.fn"].rate), reverse=True
    )
    # Idle is not absent: the rate is 0, and what has no value is None.
    assert (quiet.rate, quiet.capacity, quiet.p99, quiet.attainment) == (0.0, None, None, None)


def _samples(source: PrometheusSource) -> float:
    seen = source.observe().get("busy.fn")
    return (seen.samples or 0.0) if seen is not None else 0.0
