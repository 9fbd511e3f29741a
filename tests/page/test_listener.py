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


def ask(web, path):
    status, headers, body = get(f"http://127.0.0.1:{web.port}{path}")
    return status, headers["Content-Type"].partition(";")[0], body


def test_metrics_are_those_of_the_registry(web):
    status, kind, body = ask(web, "/metrics?x=1")
    assert (status, kind) == (200, "text/plain")
    assert b"some_total 1.0" in body


@pytest.mark.parametrize(("alive", "code"), [(True, 200), (False, 503)])
def test_healthz_is_200_while_the_loop_is_alive_and_then_503(web, told, alive, code):
    told.alive = alive
    assert ask(web, "/healthz")[0] == code
    assert ask(web, "/nowhere")[0] == 404


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("function=text.openfaas-fn", [("text.openfaas-fn", ["hold"])]),
        (f"function={NAME}&last=1", [(NAME, ["hold"])]),
        ("function=vision&last=5", [(NAME, ["up", "hold"]), ("vision.staging", ["hold"])]),
    ],
)
def test_decisions_are_the_last_ones_of_the_function_or_of_each_with_that_name(web, query, found):
    status, kind, body = ask(web, f"/decisions?{query}")
    assert (status, kind) == (200, "application/json")
    answers = json.loads(body)["found"]
    assert [
        (each["function_name"], [decision["action"] for decision in each["decisions"]]) for each in answers
    ] == found


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("", 200, "text.openfaas-fn"),
        ("?function=txt.openfaas-fn", 404, "text.openfaas-fn"),
        ("?function=nothing-like-it", 404, "nothing-like-it"),
        *[(f"?function={NAME}&last={last}", 400, "last") for last in ("0", "-1", "x", "%C2%B2")],
    ],
)
def test_decisions_without_a_function_are_the_names_and_a_wrong_question_is_refused(web, query, code, words):
    status, _, body = ask(web, f"/decisions{query}")
    assert (status, words in body.decode()) == (code, True)
    assert ("error" in json.loads(body)) == (code != 200)


def test_a_taken_port_is_named_and_one_that_never_served_comes_back(web):
    def another(port):
        return Web("127.0.0.1", port, CollectorRegistry(), lambda: True, Told())

    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{web.port}: .*in use"):
        another(web.port)
    first = another(0)
    first.stop()
    another(first.port).stop()
