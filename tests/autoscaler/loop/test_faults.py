"""Whatever goes wrong around the autoscaler, nothing is scaled down: a real Prometheus, real faults between.

One Prometheus serves all tests of this file. The proxy before it spoils what the test says.
"""

import json
import re
import signal
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from slo_autoscaler.config import Config
from slo_autoscaler.loop.controller import Clocks, Controller
from slo_autoscaler.platforms.leader import Alone
from slo_autoscaler.platforms.openfaas import OpenFaas
from slo_autoscaler.show.journal import Journal
from slo_autoscaler.show.metrics import Metrics
from slo_autoscaler.signals.prometheus import PrometheusSource
from support import doubles
from support.doubles import Function, a_fleet, a_gateway, a_process, a_prometheus
from support.fault_proxy import a_fault_proxy
from support.kube_server import a_kube_server
from support.waits import until

pytestmark = pytest.mark.e2e

PEAK = 4
"""Replicas at the peak of load that the tests begin with: 250/s on replicas of 100/s."""

# No stabilization and no cooldown: only the rule under test stands between a fault and a scale-down.
FAST = """
platform: {{gateway_url: "{gateway}", timeout: 400ms}}
prometheus: {{url: "{prometheus}", scrape_interval: 250ms, window: 1s, timeout: 500ms, max_age: 2s}}
interval: 100ms
web: {{host: 127.0.0.1, port: 0, page_port: null, probe_port: null}}
defaults:
  start_up_time: 100ms
  min_samples: 5
  scale_down: {{stabilization_window: 0s}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Functions at their peak, scraped for as long as the windows are, and the proxy to read them through."""
    with a_fleet(capacity=100.0) as peak, a_fleet(capacity=100.0) as other, a_fleet(capacity=100.0) as third:
        peak.rate, other.rate, third.rate = 250.0, 150.0, 250.0
        fleets = {"a": peak, "b": other, "c": third}
        targets = {f"{name}.openfaas-fn": [fleet.address] for name, fleet in fleets.items()}
        with (
            a_prometheus(tmp_path_factory.mktemp("prometheus"), targets) as prometheus,
            a_fault_proxy(prometheus.url) as proxy,
        ):
            # The rate of a series that has just begun is too low until its window is full.
            until(lambda: min(fleet.scrapes for fleet in fleets.values()) > 8, "the windows are full")
            yield peak, third, proxy


@contextmanager
def an_autoscaler(gateway, proxy):
    """Give a controller and the list of its decisions."""
    config = Config.parse(FAST.format(gateway=gateway.url, prometheus=proxy.url), "test")
    source, platform = PrometheusSource(config.prometheus), OpenFaas(config.platform, Alone())
    lines = []
    controller = Controller(
        config,
        source,
        platform,
        metrics=Metrics(CollectorRegistry()),
        journal=Journal(),
        leader=Alone(),
        emit=lambda line: lines.append(json.loads(line)),
        clocks=Clocks(time.monotonic, lambda: datetime.now(UTC)),
    )
    try:
        yield controller, lines
    finally:
        controller.close()
        source.close()
        platform.close()


def reason(lines, name="a.openfaas-fn"):
    return next((line["reason"] for line in reversed(lines) if line["function_name"] == name), None)


def settled(controller, lines):
    """Reconcile until every function is decided on with data, and held.

    A count that a test sets right after a request for more would be taken for the platform's refusal.
    """

    def done():
        controller.reconcile()
        names = controller.functions()
        last = [controller.decisions(name, 1)["decisions"][-1] for name in names]
        seen = {reason(lines, name) for name in names} or {None}
        held = all(decision["action"] == "hold" for decision in last)
        return held and seen.isdisjoint({None, "NoData", "NotManaged"})

    until(done, "all functions are seen")


@pytest.fixture
def api_server(tmp_path, monkeypatch):
    """An API server, whose credentials every process finds."""
    with a_kube_server() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        yield server


@pytest.fixture
def gateway():
    # One endpoint is scraped, so one replica serves; the others stay in starting.
    with a_gateway(a=Function(PEAK, available=1), b=Function(2)) as double:
        yield double


released = threading.Event()
"""Ends what hangs."""


@pytest.fixture(autouse=True)
def _release():
    """Let go of what hangs when the test is over."""
    released.clear()
    yield
    released.set()


NOT_NUMBERS = re.compile(rb'("value":\[[\d.]+,)"[^"]+"')
FAULTS = {
    "dead": lambda proxy: doubles.panic,
    "slow": lambda proxy: doubles.hang(released),
    "NaN": lambda proxy: proxy.edited(lambda body: NOT_NUMBERS.sub(rb'\1"NaN"', body)),
    "empty": lambda proxy: proxy.edited(lambda body: re.sub(rb'"result":\[.*\]', b'"result":[]', body)),
}
"""No answer, a late one, one without numbers, none at all; every wrong one is an error of the source."""


@pytest.mark.parametrize("fault", FAULTS)
def test_any_fault_of_prometheus_holds_every_function_until_it_ends(world, gateway, fault):
    _, _, proxy = world
    with an_autoscaler(gateway, proxy) as (controller, lines):
        settled(controller, lines)
        before = len(gateway.posted)
        proxy.fault = FAULTS[fault](proxy)
        try:
            controller.reconcile()
            controller.reconcile()
            assert {reason(lines), reason(lines, "b.openfaas-fn")} == {"NoData"}
        finally:
            proxy.fault = None
            released.set()
        assert len(gateway.posted) == before
        settled(controller, lines)
        assert gateway.functions["a"].replicas >= PEAK - 1


def test_a_counter_that_begins_anew_is_no_lull(world, gateway):
    peak, _, proxy = world
    with an_autoscaler(gateway, proxy) as (controller, lines):
        settled(controller, lines)
        rates = []
        peak.restart()
        scrapes = peak.scrapes

        def scraped():
            controller.reconcile()
            (decision,) = controller.decisions("a.openfaas-fn", 1)["decisions"]
            rates.append(decision["inputs"]["arrival_rate"])
            return peak.scrapes > scrapes + 5

        until(scraped, "the restart has passed through the window")
        assert all(rate is None or rate > 0.0 for rate in rates), "a reset is seen as one, and is no lull"
        assert all(line["to"] >= 3 for line in lines if line["function_name"] == "a.openfaas-fn")


def test_series_that_go_stale_make_their_function_hold_and_no_other(world, gateway):
    _, third, proxy = world
    gateway.functions["c"] = Function(PEAK, available=1)
    with an_autoscaler(gateway, proxy) as (controller, lines):
        settled(controller, lines)
        third.close()

        def stale():
            controller.reconcile()
            return reason(lines, "c.openfaas-fn") == "NoData"

        until(stale, "the scrape has failed")
        gateway.functions["b"].replicas = 1

        def scaled():
            controller.reconcile()
            return gateway.functions["b"].replicas >= 2

        until(scaled, "another function is scaled all the same")
        assert gateway.functions["c"].replicas >= 3


def test_of_two_autoscalers_one_acts_and_the_other_takes_over_without_a_dip(
    world, gateway, api_server, tmp_path
):
    _, _, proxy = world
    config = tmp_path / "as.yaml"
    lease = "leader: {lease: {namespace: ours, duration: 2s, renew_interval: 500ms}}\n"
    config.write_text(FAST.format(gateway=gateway.url, prometheus=proxy.url) + lease)
    with a_process(config, tmp_path / "first") as (first, first_decisions):
        until(lambda: reason(first_decisions()) not in (None, "NoData"), "the first leads")
        with a_process(config, tmp_path / "second") as (_, second_decisions):
            until(lambda: reason(second_decisions()) not in (None, "NoData"), "the second decides too")
            assert {line["mode"] for line in second_decisions()} == {"standby"}
            assert {line["mode"] for line in first_decisions()} == {"active"}

            first.kill()
            until(lambda: "active" in {line["mode"] for line in second_decisions()}, "the second takes over")
            counts = [post["replicas"] for post in gateway.posted if post["serviceName"] == "a"]
            assert min(counts, default=PEAK) >= 3, "no dip"
            gateway.functions["a"].replicas = 1
            until(lambda: gateway.functions["a"].replicas >= 3, "and acts")


def test_a_stop_in_mid_reconcile_is_clean(gateway, tmp_path):
    config = tmp_path / "as.yaml"
    config.write_text(FAST.format(gateway=gateway.url, prometheus="http://127.0.0.1:1"))
    gateway.faults["GET"] = doubles.hang(released)
    with a_process(config, tmp_path / "log") as (process, _):
        until(lambda: gateway.requests, "a reconcile has begun and the gateway does not answer")
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    log = (tmp_path / "log").read_text()
    assert "stopped" in log
    assert "Traceback" not in log
