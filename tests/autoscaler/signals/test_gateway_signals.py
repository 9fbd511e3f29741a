"""Functions without our watchdog, from a gateway's metrics through the real Prometheus to a decision."""

import itertools

import pytest

from slo_autoscaler.config import Config
from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Reason, Scale
from slo_autoscaler.signals.prometheus import PrometheusSource
from slo_autoscaler.signals.record import Observation
from support.doubles import a_prometheus, exposing
from support.gateway import gateway_exposition
from support.waits import until

CONFIG = """
prometheus: {url: "%s", scrape_interval: 250ms, window: 2s}
platform: {gateway_url: "http://gateway:8080"}
functions: {plain.fn: {policy: proportional, signals: gateway, slo_latency: 250ms}}
"""


@pytest.fixture
def address():
    """Serve what a gateway exposes, with ten more requests at every scrape; two in ten of them too slow."""
    scrapes = itertools.count(1)
    server = exposing(lambda _: gateway_exposition("plain.fn", "ours.fn", tens=next(scrapes)))
    yield server.address
    server.close()


@pytest.mark.e2e
def test_a_function_without_a_watchdog_is_scaled_on_what_the_gateway_sees(tmp_path, address):
    # No label of the target's stands above the function_name that the gateway writes.
    with a_prometheus(tmp_path, {"": [address]}) as prometheus:
        config = Config.parse(CONFIG % prometheus.url, "test")
        source = PrometheusSource(config.prometheus, config.gateway_slos())
        looked = []
        # On a busy machine a scrape may be late, and a short window empty.
        until(lambda: looked.append(source.observe()) or is_whole(looked[-1]), "requests are seen")
        source.close()
    seen = looked[-1]
    plain, spec, one = seen["plain.fn"], config.target("plain.fn"), Scale(1, 1)
    assert (plain.slo_latency, plain.slo_objective, plain.up_replicas, plain.in_flight) == (
        0.25,
        0.99,
        1.0,
        1.0,
    )
    assert plain.attainment == pytest.approx(0.8)
    assert plain.burn_short == pytest.approx(20.0)
    assert 0.25 < (plain.p95 or 0.0) <= 0.5
    assert plain.capacity is None
    decision, _ = decide(Situation(spec, plain, one, Memory.initial(one, -19.0), 0.0))
    assert decision.reason is Reason.LATENCY_ABOVE_TARGET
    # A function of ours is not judged by the gateway: it has no SLO here.
    assert seen["ours.fn"].slo_latency is None


def is_whole(seen):
    plain = seen.get("plain.fn", Observation())
    return (plain.samples or 0.0) > 60 and None not in (plain.burn_short, plain.up_replicas, plain.in_flight)
