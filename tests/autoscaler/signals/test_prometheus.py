"""The Prometheus source: what goes wrong becomes one kind of error, at once; and the real program answers."""

import json
import threading
import time
from urllib.parse import parse_qs, unquote_plus, urlsplit

import pytest

from slo_autoscaler.errors import SourceError
from slo_autoscaler.settings.spec import GatewaySlos, Slo
from slo_autoscaler.signals.prometheus import RECONCILES_BETWEEN, PrometheusSource
from slo_autoscaler.signals.record import Observation, Recorded
from slo_autoscaler.signals.source import Settings as PrometheusSettings
from support import doubles
from support.doubles import a_fleet, a_gateway, a_prometheus
from support.waits import until

VECTOR = b'{"status": "success", "data": {"resultType": "vector", "result": %s}}'


@pytest.fixture
def server():
    with a_gateway() as double:
        yield double


@pytest.fixture
def source(server, keep):
    return keep(PrometheusSource(PrometheusSettings(url=server.url, timeout=30.0)))


@pytest.fixture
def hasty(server, keep):
    """The source where it is given up, and soon."""
    return keep(PrometheusSource(PrometheusSettings(url=server.url, timeout=0.3)))


@pytest.mark.parametrize(
    "fault",
    [
        *(doubles.status(status) for status in (500, 503, 422)),
        doubles.garbage,
        doubles.panic,
        doubles.status(200, b"[]"),
        doubles.status(200, b'{"status": "success"}'),
        doubles.status(200, VECTOR % b"{}"),
        doubles.status(200, VECTOR % b'[{"metric": {}}]'),
        doubles.status(200, VECTOR % b'[{"metric": null, "value": [1, "2"]}]'),
        doubles.status(200, VECTOR % b'[{"metric": {"function_name": "a.fn"}, "value": [1, "many"]}]'),
        doubles.status(200, b'{"status": "error"}'),
        doubles.half(VECTOR % b"[]"),
    ],
)
def test_observe_wrong_answer_is_a_source_error_without_retries(server, source, fault):
    asked = []

    def recorded(request):
        asked.append(request.path)
        fault(request)

    server.faults["GET"] = recorded
    with pytest.raises(SourceError, match=server.url):
        source.observe()
    assert asked
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("body", [b"<html>Log in</html>", b"", b"{}", b"[]", b"null"])
def test_observe_answer_of_another_server_names_the_setting(server, source, body):
    server.faults["GET"] = doubles.status(200, body)
    with pytest.raises(SourceError, match=r"prometheus\.url"):
        source.observe()


SERIES = VECTOR % b'[{"metric": {"function_name": "a.fn"}, "value": [1, "2"]}]'


@pytest.mark.parametrize(
    ("warnings", "rated"),
    [
        (b"", 2.0),
        (b', "warnings":["PromQL info: metric might not be a counter"]', 2.0),
        (b', "warnings":["PromQL info: a", "receive series from store-1: connection refused"]', 0.0),
        (b',"isPartial":false', 2.0),
        (b',"isPartial":true', 0.0),
    ],
)
def test_observe_answer_that_lacks_a_store_rates_no_replica(server, source, warnings, rated):
    server.faults["GET"] = doubles.status(200, SERIES.removesuffix(b"}") + warnings + b"}")
    assert source.observe()["a.fn"].rated_replicas == rated


@pytest.mark.e2e
@pytest.mark.parametrize("other_address", [False, True], ids=["one address", "two addresses"])
def test_rate_of_a_replica_that_two_jobs_scrape_is_counted_once_and_the_log_names_both(
    tmp_path, caplog, other_address
):
    with a_fleet() as fleet:
        fleet.rate, fleet.started = 100.0, 1700000000.0
        addresses = [fleet.address] * 2
        if other_address:
            fleet.identity = 0.25
            addresses[1] = addresses[1].replace("127.0.0.1", "localhost")
        jobs = [
            {
                "job_name": name,
                "static_configs": [{"targets": [address], "labels": {"function_name": "busy.fn"}}],
            }
            for name, address in zip(("first-job", "second-job"), addresses, strict=True)
        ]
        with a_prometheus(tmp_path, {}, jobs) as prometheus:
            source = PrometheusSource(
                PrometheusSettings(url=prometheus.url, scrape_interval=0.25, window=2.0)
            )
            until(lambda: len(_past(source)) > 20, "five seconds of its past")
            assert _replicas(source) == (2.0, 1.0)
            past = _past(source)
            source.close()
    (warning,) = [each.getMessage() for each in caplog.records if "busy.fn" in each.getMessage()]
    assert "first-job" in warning
    assert "second-job" in warning
    assert max(rate for _, rate in past) < 150.0
    assert min(ago for ago, _ in past) >= 0.0


@pytest.mark.parametrize("fault", [doubles.hang, doubles.dribble])
def test_observe_answers_that_do_not_end_are_given_up_and_do_not_pile_up(server, hasty, fault):
    released = threading.Event()
    server.faults["GET"] = fault(released)
    for _ in range(2):
        with pytest.raises(SourceError):
            hasty.observe()
    assert fault is doubles.hang or len(server.requests) <= 4
    with pytest.raises(SourceError):
        hasty.history(30.0)
    with pytest.raises(SourceError):
        hasty.earlier([3600.0, 86400.0], 60.0)
    released.set()


@pytest.mark.e2e
def test_the_real_prometheus_answers_every_signal_for_all_functions_at_once(tmp_path):
    with a_fleet(capacity=50.0) as one, a_fleet(capacity=70.0) as two, a_fleet(capacity=float("nan")) as idle:
        one.rate, one.good, two.rate = 100.0, 0.9, 100.0
        targets = {"busy.fn": [one.address, two.address], "idle.fn": [idle.address]}
        with a_prometheus(tmp_path, targets) as prometheus:
            config = PrometheusSettings(url=prometheus.url, scrape_interval=0.25, window=2.0)
            source = PrometheusSource(config)
            looked = []
            # On a busy machine a scrape may be late.
            until(lambda: looked.append(source.observe()) or _is_whole(looked[-1]), "both replicas are seen")
            busy, quiet = looked[-1]["busy.fn"], looked[-1]["idle.fn"]
            past = source.history(5.0)
            source.close()
    assert (busy.slo_latency, busy.in_flight) == (0.1, 4.0)
    # Weighted by the requests of each class, so a sum of shares.
    assert busy.slo_objective == pytest.approx(0.99)
    assert (busy.rate or 0.0) > 50.0
    assert busy.attainment == pytest.approx(0.95, abs=0.04)
    assert busy.p95 is not None
    assert max(busy.p95, 0.1) < (busy.p99 or 0.0)
    assert busy.in_flight_growth == 0.0
    assert busy.sample_age is not None
    assert busy.stalled == 0.0
    assert (busy.sampled_at or 0.0) == pytest.approx(time.time(), abs=60.0)
    assert past["busy.fn"].rate[-1][1] > 0.0
    ages = [ago for ago, _ in past["busy.fn"].rate]
    assert ages == sorted(ages, reverse=True)
    # Idle is not absent: the rate is 0, and what has no value is None.
    assert (quiet.rate, quiet.capacity, quiet.p99, quiet.attainment) == (0.0, None, None, None)


@pytest.mark.e2e
def test_count_before_the_first_scrape_of_a_new_replica_is_load(tmp_path):
    with a_fleet() as fleet:
        fleet.counts, fleet.started = [900.0, 100.0], time.time()
        with a_prometheus(tmp_path, {"busy.fn": [fleet.address]}) as prometheus:
            # As if it scraped seldom: the windows hold the whole life of the replica.
            spans = {"scrape_interval": 60.0, "window": 240.0, "max_age": 240.0}
            source = PrometheusSource(PrometheusSettings(url=prometheus.url, **spans))
            until(lambda: "busy.fn" in source.observe(), "it is scraped")
            seen = source.observe()["busy.fn"]
            source.close()
    assert seen.rate * 240.0 == pytest.approx(1000.0, rel=0.1)


def _replicas(source: PrometheusSource) -> tuple[float | None, float | None]:
    seen = source.observe().get("busy.fn", Observation())
    return seen.in_flight, seen.up_replicas


def _past(source: PrometheusSource) -> tuple[tuple[float, float], ...]:
    return source.history(10.0).get("busy.fn", Recorded()).rate


def _is_whole(seen: dict[str, Observation]) -> bool:
    busy = seen.get("busy.fn", Observation())
    replicas = (busy.capacity, busy.up_replicas, busy.rated_replicas)
    return (busy.samples or 0.0) > 250 and replicas == (60.0, 2.0, 2.0)


def test_observe_queries_soon_again_for_what_changes_slowly_and_had_no_answer(server, source):
    asked = corrected(server, {})
    for _ in range(RECONCILES_BETWEEN // 4):
        source.observe()
    assert sum("slo_autoscaler_desired_replicas" in query for query in asked) > 1


def test_earlier_range_around_a_moment_of_late_ends_now(server, source):
    ends = []

    def answer(request):
        ends.extend(parse_qs(urlsplit(request.path).query).get("end", ()))
        doubles.status(200, VECTOR % b'[{"metric": {}, "value": [5000, "5000"]}]')(request)

    server.faults["GET"] = answer
    source.earlier([600.0], 3600.0)
    assert [float(end) for end in ends] == [5000.0]


def corrected(server, corrections, **answers):
    """Answer the query of corrections with these, another by its part, others with nothing; return all."""
    asked = []

    def answer(request):
        query = unquote_plus(request.path)
        asked.append(query)
        series = [
            {"metric": {"function_name": name}, "value": [5000, str(value)]}
            for name, value in corrections.items()
        ]
        result = series if "watchdog_identity" in query else []
        result = next((answers[part] for part in answers if part in query), result)
        doubles.status(200, VECTOR % json.dumps(result).encode())(request)

    server.faults["GET"] = answer
    return asked


@pytest.mark.parametrize(("count", "named"), [(10, True), (11, False)])
def test_observe_names_functions_with_new_replicas_while_they_are_few(server, source, count, named):
    asked = corrected(server, {f"new{number}.fn": 1 for number in range(count)})
    source.observe()
    assert any("new0[.]fn" in query for query in asked) is named


def test_earlier_of_a_gateway_that_two_jobs_scrape_counts_each_request_once(server, keep):
    settings, slos = PrometheusSettings(url=server.url, timeout=30.0), GatewaySlos({"a.fn": Slo(0.25, 0.9)})
    source = keep(PrometheusSource(settings, slos))
    corrected(
        server,
        {"/gateways": -2},
        query_range=[{"metric": {"function_name": "a.fn"}, "value": [4400, "100"]}],
        **{"=vector(time())": [{"metric": {}, "value": [5000, "5000"]}]},
    )
    source.observe()
    assert source.earlier([600.0], 60.0) == {"a.fn": {600.0: ((0.0, 50.0),)}}
