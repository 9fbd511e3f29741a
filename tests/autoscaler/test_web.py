"""What /metrics and /healthz answer."""

import json
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from slo_autoscaler.errors import ConfigError
from slo_autoscaler.web.listener import Web


class Decided:
    def functions(self):
        return ["vision.openfaas-fn", "vision.staging", "text.openfaas-fn"]

    def decisions(self, function_name, last):
        return {"function_name": function_name, "decisions": list(range(last))}


@pytest.fixture
def alive():
    return [True]


@pytest.fixture
def web(alive):
    registry = CollectorRegistry()
    Counter("some", "Some.", registry=registry).inc()
    server = Web("127.0.0.1", 0, registry, lambda: alive[0], Decided())
    server.start()
    yield server
    server.stop()


def get(web, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{web.port}{path}", timeout=5) as answer:
        return answer.status, answer.headers["Content-Type"], answer.read()


def test_metrics_are_those_of_the_registry(web):
    status, content_type, body = get(web, "/metrics?x=1")
    assert (status, content_type.split(";")[0]) == (200, "text/plain")
    assert b"some_total 1.0" in body


def test_healthz_is_200_while_the_loop_is_alive(web):
    assert get(web, "/healthz")[0] == 200


@pytest.mark.parametrize(("path", "code"), [("/healthz", 503), ("/", 404)])
def test_a_dead_loop_is_503_and_anything_else_404(web, alive, path, code):
    alive[0] = False
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(web, path)
    with caught.value as error:
        assert error.code == code


def test_a_port_in_use_is_named(web):
    with pytest.raises(
        ConfigError, match=rf"web: cannot listen on 127\.0\.0\.1:{web.port}: Address already in use"
    ):
        Web("127.0.0.1", web.port, CollectorRegistry(), lambda: True, Decided())


def test_a_listener_that_never_served_gives_its_port_back():
    first = Web("127.0.0.1", 0, CollectorRegistry(), lambda: True, Decided())
    first.stop()
    Web("127.0.0.1", first.port, CollectorRegistry(), lambda: True, Decided()).stop()


def ask(web, query):
    try:
        status, content_type, body = get(web, f"/decisions{query}")
    except urllib.error.HTTPError as error:
        with error:
            status, content_type, body = error.code, error.headers["Content-Type"], error.read()
    assert content_type == "application/json"
    return status, json.loads(body)


def test_decisions_are_those_of_the_function_that_is_asked_for(web):
    status, answer = ask(web, "?function=text.openfaas-fn&last=2")
    assert status == 200
    assert answer == {"found": [{"function_name": "text.openfaas-fn", "decisions": [0, 1]}]}


def test_a_name_alone_is_that_of_one_function_in_each_namespace(web):
    _, answer = ask(web, "?function=vision")
    assert [found["function_name"] for found in answer["found"]] == ["vision.openfaas-fn", "vision.staging"]


def test_without_a_function_the_names_are_given(web):
    assert ask(web, "") == (200, {"functions": Decided().functions()})


def test_an_unknown_function_is_404_with_a_name_that_is_near(web):
    status, answer = ask(web, "?function=txt.openfaas-fn")
    assert status == 404
    assert answer["error"].startswith("no decisions for 'txt.openfaas-fn'; did you mean text.openfaas-fn")


@pytest.mark.parametrize("last", ["0", "-1", "x", "%C2%B2"])
def test_a_last_that_is_no_count_is_400(web, last):
    status, answer = ask(web, f"?function=text.openfaas-fn&last={last}")
    assert status == 400
    assert "must be a whole number of at least 1" in answer["error"]
