"""What machines get: /metrics, /healthz, /decisions, /api/v1/desired."""

import json
import socket
import threading
from contextlib import ExitStack, closing

import pytest
from prometheus_client import CollectorRegistry, Counter

from slo_autoscaler.show.web import Settings, server
from slo_autoscaler.show.web.listener import create_app
from slo_autoscaler.show.web.probes import CONNECTIONS, Probes
from slo_autoscaler.show.web.server import Server, listen
from support.serving import NAME, Told, a_decision, a_hold, get

ZERO = "text.openfaas-fn"


@pytest.fixture
def told():
    return Told(a_decision(), a_hold(), a_hold("vision.staging"), a_hold(ZERO))


@pytest.fixture
def web(told):
    registry = CollectorRegistry()
    Counter("some", "Some.", registry=registry).inc()
    server = Server(
        "web", create_app(registry, lambda: told.alive, told, {NAME: 3, ZERO: 0}.get), "127.0.0.1", 0
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def probes(told):
    probes = Probes("127.0.0.1", 0, lambda: told.alive)
    probes.start()
    yield probes
    probes.stop()


def connect(port, sent=b""):
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(sent)
    return connection


@pytest.mark.parametrize(
    ("path", "code", "kind", "words"),
    [
        ("/metrics?x=1", 200, "text/plain", "some_total 1.0"),
        ("/healthz", 200, "text/plain", "ok"),
        ("/nowhere", 404, "text/plain", "/metrics"),
        ("/decisions", 200, "application/json", "text.openfaas-fn"),
        ("/decisions?function=txt.openfaas-fn", 404, "application/json", "text.openfaas-fn"),
        ("/decisions?function=nothing-like-it", 404, "application/json", "nothing-like-it"),
        (f"/decisions?function={'vision' * 500}.openfaas-fn", 404, "application/json", "no decisions"),
        *[
            (f"/decisions?function={NAME}&last={last}", 400, "application/json", "last")
            for last in ("0", "-1", "x", "%C2%B2", "9" * 5000)
        ],
    ],
)
def test_an_address_answers_in_its_kind(web, path, code, kind, words):
    found, headers, body = get(f"http://127.0.0.1:{web.port}{path}")
    assert (found, headers["Content-Type"].partition(";")[0]) == (code, kind)
    assert words in body.decode()
    assert kind == "text/plain" or ("error" in json.loads(body)) == (code != 200)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("function=text.openfaas-fn", [("text.openfaas-fn", ["hold"])]),
        (f"function={NAME}&last=1", [(NAME, ["hold"])]),
        ("function=vision&last=5", [(NAME, ["up", "hold"]), ("vision.staging", ["hold"])]),
    ],
)
def test_decisions_are_the_last_ones_of_the_function_or_of_each_with_that_name(web, query, found):
    _, _, body = get(f"http://127.0.0.1:{web.port}/decisions?{query}")
    answers = json.loads(body)["found"]
    actions = [[decision["action"] for decision in each["decisions"]] for each in answers]
    assert list(zip((each["function_name"] for each in answers), actions, strict=True)) == found


def test_decisions_of_a_removed_function_are_found_by_its_short_name(web, told):
    told.gone = ["text.openfaas-fn"]
    _, _, body = get(f"http://127.0.0.1:{web.port}/decisions?function=text")
    assert [each["function_name"] for each in json.loads(body)["found"]] == told.gone


@pytest.mark.parametrize(
    ("name", "code", "answer"),
    [
        (NAME, 200, {"desired": 3}),
        (ZERO, 200, {"desired": 0}),
        ("vision.staging", 503, {"error"}),
        ("vision", 404, {"error"}),
        ("nothing-like-it", 404, {"error"}),
        ("", 404, {"error"}),
    ],
)
def test_desired_is_the_exported_count_and_an_error_where_there_is_none(web, name, code, answer):
    found, _, body = get(f"http://127.0.0.1:{web.port}/api/v1/desired/{name}")
    assert found == code
    document = json.loads(body)
    assert document == answer if code == 200 else set(document) == answer


def test_desired_of_a_loop_that_stands_still_is_503(web, told):
    told.alive = False
    assert get(f"http://127.0.0.1:{web.port}/api/v1/desired/{NAME}")[0] == 503


def test_healthz_is_503_when_the_loop_is_not_alive(web, probes, told):
    urls = [f"http://127.0.0.1:{each.port}/healthz" for each in (web, probes)]
    assert [get(url)[::2] for url in urls] == [(200, b"ok\n")] * 2
    told.alive = False
    assert [get(url)[0] for url in urls] == [503, 503]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_read_only_addresses_accept_only_get_and_head(web, probes, method):
    for each in (web, probes):
        status, headers, _ = get(f"http://127.0.0.1:{each.port}/healthz", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        assert get(f"http://127.0.0.1:{each.port}/healthz", "HEAD")[::2] == (200, b"")
    assert get(f"http://127.0.0.1:{web.port}/metrics", "HEAD")[::2] == (200, b"")


def test_requests_beside_many_have_a_bounded_number_of_threads(web):
    before = threading.active_count()
    with ExitStack() as held:
        for _ in range(server.CONNECTIONS - 10):
            held.enter_context(connect(web.port, b"GET /metrics HTTP/1.1\r\nX: "))
        assert get(f"http://127.0.0.1:{web.port}/decisions")[0] == 200
        assert threading.active_count() <= before


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\nX: ", b"GET /metrics HTTP/1.1\r\n\r\n"])
def test_metrics_are_answered_however_many_connections_are_held(web, said):
    with ExitStack() as held:
        for _ in range(4):
            for _ in range(server.CONNECTIONS):
                held.enter_context(connect(web.port, said))
            assert get(f"http://127.0.0.1:{web.port}/metrics")[0] == 200
            assert get(f"http://127.0.0.1:{web.port}/healthz")[0] == 200


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nX: "])
def test_a_probe_is_answered_however_many_connections_are_held(probes, said):
    url = f"http://127.0.0.1:{probes.port}/healthz"
    with ExitStack() as held:
        for _ in range(4):
            for _ in range(CONNECTIONS):
                held.enter_context(connect(probes.port, said))
            assert get(url)[0] == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_default_address_hears_ipv4_and_ipv6(address):
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with closing(listen(Settings().host, 0)) as listening:
        socket.create_connection((address, listening.getsockname()[1]), 10.0).close()


def test_default_address_without_ipv6_hears_ipv4(monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with closing(listen(Settings().host, 0)) as listening:
        socket.create_connection(("127.0.0.1", listening.getsockname()[1]), 10.0).close()
