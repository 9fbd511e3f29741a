"""What /metrics and /healthz answer."""

import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from slo_autoscaler.errors import ConfigError
from slo_autoscaler.web import Web


@pytest.fixture
def alive():
    return [True]


@pytest.fixture
def web(alive):
    registry = CollectorRegistry()
    Counter("some", "Some.", registry=registry).inc()
    server = Web("127.0.0.1", 0, registry, lambda: alive[0])
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
        Web("127.0.0.1", web.port, CollectorRegistry(), lambda: True)


def test_a_listener_that_never_served_gives_its_port_back():
    first = Web("127.0.0.1", 0, CollectorRegistry(), lambda: True)
    first.stop()
    Web("127.0.0.1", first.port, CollectorRegistry(), lambda: True).stop()
