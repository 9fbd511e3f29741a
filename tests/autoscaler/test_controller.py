"""The loop on a recorded source and a gateway over real sockets: who is scaled, who is not, what is said."""

import json
import threading
from dataclasses import asdict
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from autoscaler import doubles
from autoscaler.doubles import Function, a_gateway
from autoscaler.values import MINIMAL, seen
from slo_autoscaler.config import Config
from slo_autoscaler.controller import Clocks, Controller
from slo_autoscaler.metrics import Metrics
from slo_autoscaler.platforms.openfaas import OpenFaas
from slo_autoscaler.sources.replay import ReplaySource


class Bench:
    """A controller whose parts are at hand, in virtual time: 5 s for each reconcile."""

    def __init__(self, gateway, *reconciles, dry_run=False):
        self.config = Config.parse(MINIMAL, "test", {"platform.gateway_url": gateway.url})
        self.platform = OpenFaas(self.config.platform)
        self.metrics = Metrics(CollectorRegistry())
        self.lines = []
        self.now = 0.0
        recorded = [json.dumps({name: asdict(value) for name, value in r.items()}) for r in reconciles]
        self.controller = Controller(
            self.config,
            ReplaySource(recorded),
            self.platform,
            self.metrics,
            emit=lambda line: self.lines.append(json.loads(line)),
            clocks=Clocks(lambda: self.now, lambda: datetime(2026, 1, 2, tzinfo=UTC)),
            dry_run=dry_run,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.platform.close()

    def reconcile(self):
        self.now += 5.0
        return self.controller.reconcile()

    def errors(self, where):
        return self.metrics.registry.get_sample_value("slo_autoscaler_errors_total", {"where": where})


BUSY = seen(rate=300.0)
CALM = seen(rate=70.0, up_replicas=1.0)


@pytest.fixture
def gateway():
    with a_gateway(a=Function(2), b=Function(1)) as double:
        yield double


def test_a_busy_function_is_scaled_and_the_decision_is_one_line_of_json(gateway):
    with Bench(gateway, {"a.openfaas-fn": BUSY, "b.openfaas-fn": CALM}) as bench:
        assert bench.reconcile() is True
        assert gateway.functions["a"].replicas == 4
        assert gateway.functions["b"].replicas == 1
        line = bench.lines[0]
        assert line.pop("inputs")["rate"] == 300.0
        assert line == {
            "time": "2026-01-02T00:00:00.000+00:00",
            "function_name": "a.openfaas-fn",
            "from": 2,
            "to": 4,
            "action": "up",
            "reason": "LoadAboveCapacity",
            "dry_run": False,
        }


def test_a_dry_run_decides_says_so_once_and_never_acts(gateway):
    with Bench(gateway, *[{"a.openfaas-fn": BUSY}] * 3, dry_run=True) as bench:
        for _ in range(3):
            bench.reconcile()
        assert gateway.posted == []
        ups = [line for line in bench.lines if line["action"] == "up"]
        assert [(line["to"], line["dry_run"]) for line in ups] == [(4, True)]


def test_a_hold_is_said_when_its_reason_changes(gateway):
    del gateway.functions["a"]
    stale = seen(age=100.0)
    story = [CALM, CALM, stale, stale, CALM]
    with Bench(gateway, *[{"b.openfaas-fn": observation} for observation in story]) as bench:
        for _ in story:
            bench.reconcile()
        assert [line["reason"] for line in bench.lines] == [
            "DesiredWithinRange",
            "NoData",
            "DesiredWithinRange",
        ]


def test_a_source_that_fails_makes_every_function_hold(gateway):
    with Bench(gateway) as bench:
        assert bench.reconcile() is False
        assert {line["reason"] for line in bench.lines} == {"NoData"}
        assert gateway.posted == []
        assert bench.errors("observe") == 1


def test_a_failure_that_lasts_is_logged_once_and_so_is_its_end(gateway, caplog):
    gateway.faults["GET /system/functions"] = doubles.status(500)
    caplog.set_level("INFO")
    with Bench(gateway, *[{}] * 3) as bench:
        bench.reconcile()
        bench.reconcile()
        gateway.faults.clear()
        bench.reconcile()
        about = [
            record.message
            for record in caplog.records
            if "function" in record.message or "again" in record.message
        ]
        assert len(about) == 2
        assert about[1] == "discover: works again"
        assert bench.errors("discover") == 2


def test_a_function_that_fails_backs_off_and_stops_no_other(gateway):
    gateway.faults["GET /system/function/b"] = doubles.status(500)
    with Bench(gateway, *[{"a.openfaas-fn": BUSY}] * 8) as bench:
        assert bench.reconcile() is False
        assert gateway.functions["a"].replicas == 4
        for _ in range(7):
            bench.reconcile()
        # Read in reconcile 1, then after sitting out 1 and 2 of them.
        assert gateway.requests.count("GET /system/function/b") == 3
        assert bench.errors("read") == 3
        gateway.faults.clear()


def test_no_function_waits_for_longer_than_a_gateway_that_was_away(gateway):
    gateway.faults["GET"] = doubles.status(500)
    with Bench(gateway, {}, *[{"a.openfaas-fn": BUSY}] * 4) as bench:
        gateway.faults.clear()
        bench.reconcile()
        gateway.faults["GET"] = doubles.status(500)
        for _ in range(3):
            assert bench.reconcile() is False
        gateway.faults.clear()
        bench.reconcile()
        assert gateway.functions["a"].replicas == 4


def test_a_function_recovers_from_its_back_off(gateway):
    gateway.faults["GET /system/function/b"] = doubles.garbage
    with Bench(gateway, *[{"b.openfaas-fn": BUSY}] * 3) as bench:
        bench.reconcile()
        gateway.faults.clear()
        assert bench.reconcile() is True
        assert bench.reconcile() is True
        assert gateway.functions["b"].replicas > 1


def test_a_scale_that_the_gateway_refuses_is_asked_for_again(gateway):
    gateway.faults["POST"] = doubles.status(503)
    with Bench(gateway, *[{"a.openfaas-fn": BUSY}] * 3) as bench:
        assert bench.reconcile() is False
        assert bench.errors("act") == 1
        gateway.faults.clear()
        bench.reconcile()
        bench.reconcile()
        assert gateway.functions["a"].replicas == 4
        assert not any(line["reason"] == "PlatformCap" for line in bench.lines)


def test_a_platform_that_gives_less_is_said_once(gateway):
    gateway.cap = 3
    with Bench(gateway, *[{"a.openfaas-fn": BUSY}] * 6) as bench:
        for _ in range(6):
            bench.reconcile()
        about_a = [line for line in bench.lines if line["function_name"] == "a.openfaas-fn"]
        assert [line["reason"] for line in about_a] == ["LoadAboveCapacity", "PlatformCap"]
        assert (about_a[1]["inputs"]["asked"], about_a[1]["inputs"]["granted"]) == (4, 3)
        assert len(gateway.posted) == 1


def test_functions_stay_known_while_the_list_fails(gateway):
    with Bench(gateway, {}, {"a.openfaas-fn": BUSY}) as bench:
        bench.reconcile()
        gateway.faults["GET /system/functions"] = doubles.panic
        assert bench.reconcile() is False
        assert gateway.functions["a"].replicas == 4
        assert bench.errors("discover") == 1


def test_a_function_that_is_gone_is_forgotten(gateway):
    with Bench(gateway, {"a.openfaas-fn": CALM}, {}, {}) as bench:
        bench.reconcile()
        del gateway.functions["a"]
        assert bench.reconcile() is True
        labels = {"function_name": "a.openfaas-fn"}
        assert bench.metrics.registry.get_sample_value("slo_autoscaler_desired_replicas", labels) is None


def test_a_function_that_vanishes_between_list_and_read_is_no_error(gateway):
    gateway.faults["GET /system/function/a"] = doubles.status(404)
    with Bench(gateway, {}) as bench:
        assert bench.reconcile() is True


def test_the_loop_is_alive_until_no_reconcile_finishes_for_several_intervals(gateway):
    with Bench(gateway) as bench:
        assert bench.controller.alive()
        bench.now += 3 * (5 + 5 + 5)
        assert bench.controller.alive()
        bench.now += 0.1
        assert not bench.controller.alive()
        bench.reconcile()
        assert bench.controller.alive()


class Stop(threading.Event):
    """Ends the loop after some waits, in virtual time."""

    def __init__(self, bench, waits):
        super().__init__()
        self.bench, self.left, self.waited = bench, waits, []

    def wait(self, timeout=None):
        self.waited.append(timeout)
        self.bench.now += timeout
        self.left -= 1
        if self.left == 0:
            self.set()
        return self.is_set()


def test_reconciles_start_an_interval_apart_and_late_ones_are_not_made_up_for(gateway, monkeypatch):
    with Bench(gateway) as bench:
        took = iter([1.0, 7.0, 0.0])
        monkeypatch.setattr(
            bench.controller, "reconcile", lambda: setattr(bench, "now", bench.now + next(took))
        )
        stop = Stop(bench, 3)
        bench.controller.run(stop)
        assert stop.waited == [4.0, 0.0, 5.0]


def test_the_loop_outlives_a_bug(gateway, monkeypatch, caplog):
    with Bench(gateway) as bench:
        monkeypatch.setattr(bench.controller, "_discover", lambda: 1 / 0)
        bench.controller.run(Stop(bench, 2))
        assert bench.errors("reconcile") == 2
        assert "reconcile failed" in caplog.text
