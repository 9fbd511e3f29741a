"""What machines get: /metrics, /healthz, /decisions."""

import json

import pytest
from prometheus_client import CollectorRegistry, Counter

from page.serving import NAME, Told, a_decision, a_hold, get
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.web.listener import Web


@pytest.fixture
def told():
    return Told(a_decision(), a_hold(), a_hold("vision.staging"), a_hold("text.openfaas-fn"))


@pytest.fixture
def web(told):
    registry = CollectorRegistry()
    Counter("some", "Some.", registry=registry).inc()
    server = Web("127.0.0.1", 0, registry, lambda: told.alive, told)
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("path", "code", "kind", "words"),
    [
        ("/metrics?x=1", 200, "text/plain", "some_total 1.0"),
        ("/healthz", 200, "text/plain", "ok"),
        ("/nowhere", 404, "text/plain", "/metrics"),
        ("/decisions", 200, "application/json", "text.openfaas-fn"),
        ("/decisions?function=txt.openfaas-fn", 404, "application/json", "text.openfaas-fn"),
        ("/decisions?function=nothing-like-it", 404, "application/json", "nothing-like-it"),
        *[
            (f"/decisions?function={NAME}&last={last}", 400, "application/json", "last")
            for last in ("0", "-1", "x", "%C2%B2")
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


def test_healthz_is_503_when_the_loop_is_not_alive(web, told):
    told.alive = False
    assert get(f"http://127.0.0.1:{web.port}/healthz")[0] == 503


def test_a_taken_port_is_named_and_one_that_never_served_comes_back(web):
    def another(port):
        return Web("127.0.0.1", port, CollectorRegistry(), lambda: True, Told())

    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{web.port}: .*in use"):
        another(web.port)
    first = another(0)
    first.stop()
    another(first.port).stop()
