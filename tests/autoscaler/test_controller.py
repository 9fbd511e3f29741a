"""The loop on a recorded source and a gateway over real sockets: who is scaled, who is not, what is said."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from autoscaler import doubles
from autoscaler.doubles import Function, a_gateway
from autoscaler.values import MINIMAL, seen
from slo_autoscaler.config import Config
from slo_autoscaler.controller import Clocks, Controller
from slo_autoscaler.errors import SourceError
from slo_autoscaler.journal import Journal
from slo_autoscaler.law.restart import Past
from slo_autoscaler.leader import Alone
from slo_autoscaler.metrics import Metrics
from slo_autoscaler.platforms.openfaas import OpenFaas
from slo_autoscaler.sources.replay import ReplaySource


class Recorded(ReplaySource):
    """A recording that remembers what came before it; an error as ``past`` is raised."""

    def __init__(self, lines, past):
        super().__init__(lines)
        self.past = past or {}
        self.spans = []

    def history(self, span):
        self.spans.append(span)
        if isinstance(self.past, Exception):
            raise self.past
        return self.past


class Bench:
    """A controller whose parts are at hand, in virtual time: 5 s for each reconcile."""

    def __init__(self, gateway, *reconciles, dry_run=False, leader=None, past=None, **settings):
        overrides = {"platform.gateway_url": gateway.url, **settings}
        self.config = Config.parse(MINIMAL, "test", overrides)
        self.platform = OpenFaas(self.config.platform, Alone())
        self.metrics = Metrics(CollectorRegistry())
        self.lines = []
        self.now = 100.0
        self.wall = datetime(2026, 1, 2, tzinfo=UTC)
        recorded = [json.dumps({name: asdict(value) for name, value in r.items()}) for r in reconciles]
        self.controller = Controller(
            self.config,
            Recorded(recorded, past),
            self.platform,
            self.metrics,
            Journal(),
            leader or Alone(),
            emit=lambda line: self.lines.append(json.loads(line)),
            clocks=Clocks(lambda: self.now, lambda: self.wall),
            dry_run=dry_run,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.controller.close()
        self.platform.close()

    def reconcile(self):
        self.now += 5.0
        return self.controller.reconcile()

    def errors(self, where):
        return self.value("slo_autoscaler_errors_total", stage=where)

    def value(self, series, **labels):
        return self.metrics.registry.get_sample_value(series, labels)

    def about(self, name):
        return [line for line in self.lines if line["function_name"] == name]


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
            "mode": "active",
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
    stale = seen(sample_age=100.0)
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
        about = [each.levelname for each in caplog.records if each.name == "slo_autoscaler.controller"]
        assert about == ["WARNING", "INFO"]
        assert bench.errors("discover") == 2


def test_a_function_that_fails_backs_off_and_stops_no_other(gateway):
    gateway.faults["POST /system/scale-function/b"] = doubles.status(500)
    busy = {"a.openfaas-fn": BUSY, "b.openfaas-fn": BUSY}
    with Bench(gateway, *[busy] * 8) as bench:
        assert bench.reconcile() is False
        assert gateway.functions["a"].replicas == 4
        for _ in range(7):
            bench.reconcile()
        # Asked for in reconcile 1, then after sitting out 1 and 2 of them.
        assert gateway.requests.count("POST /system/scale-function/b") == 3
        assert bench.errors("act") == 3
        gateway.faults.clear()


def test_a_function_of_which_the_platform_says_nonsense_stops_no_other(gateway):
    gateway.functions["b"].replicas = -3
    with Bench(gateway, *[{"a.openfaas-fn": BUSY}] * 2) as bench:
        assert bench.reconcile() is False
        assert gateway.functions["a"].replicas == 4
        assert bench.errors("read") == 1


def test_a_function_whose_numbers_bring_a_bug_to_light_stops_no_other(gateway, caplog):
    broken = seen(slo_objective="0.99")
    with Bench(gateway, {"a.openfaas-fn": BUSY, "b.openfaas-fn": broken}) as bench:
        assert bench.reconcile() is False
        assert gateway.functions["a"].replicas == 4
        assert bench.errors("decide") == 1
        assert "b.openfaas-fn: cannot decide" in caplog.text


def test_all_functions_are_read_in_one_request(gateway):
    with Bench(gateway, {}) as bench:
        bench.reconcile()
        assert gateway.requests == ["GET /system/functions"]


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
    gateway.functions["b"].replicas = -1
    with Bench(gateway, *[{"b.openfaas-fn": BUSY}] * 3) as bench:
        bench.reconcile()
        gateway.functions["b"].replicas = 1
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
        assert (about_a[1]["inputs"]["requested"], about_a[1]["inputs"]["granted"]) == (4, 3)
        assert len(gateway.posted) == 1


def test_functions_stay_known_and_are_read_alone_while_the_list_fails(gateway):
    with Bench(gateway, {}, {"a.openfaas-fn": BUSY}) as bench:
        bench.reconcile()
        gateway.faults["GET /system/functions"] = doubles.panic
        assert bench.reconcile() is False
        assert gateway.functions["a"].replicas == 4
        assert bench.errors("discover") == 1


def test_one_bad_function_among_those_read_alone_stops_no_other(gateway):
    with Bench(gateway, {}, {"a.openfaas-fn": BUSY}, {}) as bench:
        bench.reconcile()
        gateway.faults["GET /system/functions"] = doubles.panic
        gateway.faults["GET /system/function/b"] = doubles.garbage
        assert bench.reconcile() is False
        assert gateway.functions["a"].replicas == 4
        assert bench.errors("read") == 1


def test_when_no_function_can_be_read_most_are_not_tried():
    with a_gateway(**{f"f{number}": Function(1) for number in range(40)}) as gateway:
        busy = {f"f{number}.openfaas-fn": BUSY for number in range(40)}
        with Bench(gateway, {}, busy, busy) as bench:
            bench.reconcile()
            gateway.requests.clear()
            gateway.faults["GET"] = doubles.status(502)
            bench.reconcile()
            assert len(gateway.requests) == 1 + bench.config.platform.concurrency
            bench.reconcile()
            tried = [line for line in gateway.requests if line.startswith("GET /system/function/")]
            assert len(set(tried)) == len(tried) == 2 * bench.config.platform.concurrency


def test_without_list_and_observations_nothing_is_read_and_everything_holds(gateway):
    with Bench(gateway, {"a.openfaas-fn": BUSY}) as bench:
        bench.reconcile()
        gateway.faults["GET /system/functions"] = doubles.panic
        gateway.requests.clear()
        assert bench.reconcile() is False
        assert gateway.requests == ["GET /system/functions"]
        assert bench.about("a.openfaas-fn")[-1]["reason"] == "NoData"
        assert gateway.functions["a"].replicas == 4


def test_a_function_that_is_gone_is_forgotten(gateway):
    with Bench(gateway, {"a.openfaas-fn": CALM}, {}, {}) as bench:
        bench.reconcile()
        del gateway.functions["a"]
        assert bench.reconcile() is True
        labels = {"function_name": "a.openfaas-fn"}
        assert bench.metrics.registry.get_sample_value("slo_autoscaler_desired_replicas", labels) is None


def test_a_function_that_vanishes_before_it_is_scaled_is_no_error(gateway):
    gateway.faults["POST /system/scale-function/a"] = doubles.status(404)
    with Bench(gateway, {"a.openfaas-fn": BUSY}) as bench:
        assert bench.reconcile() is True
        assert bench.controller.functions() == ["b.openfaas-fn"]


def test_a_platform_that_never_finishes_its_answers_does_not_hold_the_reconcile():
    with a_gateway(**{f"f{number}": Function(1) for number in range(5)}) as gateway:
        released = threading.Event()
        busy = {f"f{number}.openfaas-fn": BUSY for number in range(5)}
        settings = {"platform.timeout": 0.3, "platform.concurrency": 2}
        with Bench(gateway, busy, busy, **settings) as bench:
            gateway.faults["POST"] = doubles.dribble(released)
            assert bench.reconcile() is False
            assert bench.errors("act") == 3, "two without an answer, and one for those that were put off"
            assert bench.reconcile() is False, "the threads are still taken: nothing is listed"
            assert bench.errors("discover") == 1
            released.set()


def test_the_loop_is_alive_until_no_reconcile_finishes_for_several_intervals(gateway):
    with Bench(gateway) as bench:
        assert bench.controller.alive()
        bench.now += 3 * (5 + 5 + 5)
        assert bench.controller.alive()
        bench.now += 0.1
        assert not bench.controller.alive()
        bench.reconcile()
        assert bench.controller.alive()


class Turns:
    """A leader that leads when it is told to."""

    def __init__(self, *turns):
        self.turns = list(turns)

    def leads(self):
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]

    def close(self):
        pass


def test_on_standby_it_decides_and_says_so_and_never_acts(gateway):
    with Bench(gateway, *[{"a.openfaas-fn": BUSY}] * 3, leader=Turns(False)) as bench:
        for _ in range(3):
            assert bench.reconcile() is True
        assert gateway.posted == []
        (line,) = bench.about("a.openfaas-fn")
        assert (line["mode"], line["to"], line["dry_run"]) == ("standby", 4, True)
        assert bench.value("slo_autoscaler_leader") == 0


def test_when_its_turn_comes_it_acts_at_once(gateway):
    turns = Turns(False, True)
    with Bench(gateway, *[{"a.openfaas-fn": BUSY}] * 2, leader=turns) as bench:
        bench.reconcile()
        bench.reconcile()
        assert gateway.functions["a"].replicas == 4
        assert bench.about("a.openfaas-fn")[-1]["mode"] == "active"
        assert bench.value("slo_autoscaler_leader") == 1


def test_a_leader_that_loses_its_place_in_mid_reconcile_changes_nothing_more(gateway):
    with Bench(gateway, {"a.openfaas-fn": BUSY}, leader=Turns(True, False)) as bench:
        assert bench.reconcile() is False
        assert gateway.posted == []


SHADOW = {"functions": {"a.openfaas-fn": {"mode": "shadow"}}}


def test_a_shadow_decides_from_its_own_replicas_and_never_acts(gateway):
    with Bench(gateway, *[{"a.openfaas-fn": BUSY}] * 4, **SHADOW) as bench:
        for _ in range(4):
            assert bench.reconcile() is True
        assert gateway.posted == []
        first, *_ = lines = bench.about("a.openfaas-fn")
        assert (first["mode"], first["from"], first["to"], first["incumbent"]) == ("shadow", 2, 4, 2)
        assert first["dry_run"] is True
        assert [line["reason"] for line in lines].count("LoadAboveCapacity") == 1, "it has what it asked for"
        assert lines[-1]["from"] == 4
        assert bench.value("slo_autoscaler_shadow_replicas", function_name="a.openfaas-fn") == 4
        assert bench.value("slo_autoscaler_replicas", function_name="a.openfaas-fn", state="desired") == 2


def test_a_shadow_is_scored_beside_the_incumbent(gateway):
    overloaded = seen(rate=300.0, attainment=0.6)
    with Bench(gateway, *[{"a.openfaas-fn": overloaded}] * 5, **SHADOW) as bench:
        for _ in range(5):
            bench.reconcile()
        score = bench.controller.decisions("a.openfaas-fn", 5)["score"]
        assert score["seconds"] == 20.0
        assert score["replica_seconds_incumbent"] == 2 * 20
        assert score["replica_seconds_shadow"] == 4 * 20
        assert score["attained_incumbent"] == pytest.approx(0.6 * 300 * 20)
        assert score["attained_shadow"] > score["attained_incumbent"]
        labels = {"function_name": "a.openfaas-fn", "scaler": "shadow"}
        assert bench.value("slo_autoscaler_shadow_replica_seconds_total", **labels) == 80


def test_the_last_decisions_can_be_asked_for(gateway):
    with Bench(gateway, *[{"a.openfaas-fn": BUSY}] * 3) as bench:
        for _ in range(3):
            bench.reconcile()
        answer = bench.controller.decisions("a.openfaas-fn", 10)
        assert answer["function_name"] == "a.openfaas-fn"
        assert [decision["action"] for decision in answer["decisions"]] == ["up", "hold"]
        assert answer["decisions"][-1]["repeats"] == 1
        assert bench.controller.decisions("nope.openfaas-fn", 10) is None
        assert bench.controller.functions() == ["a.openfaas-fn", "b.openfaas-fn"]


def test_after_a_restart_the_forecast_knows_what_came_before_it(gateway):
    past = {"a.openfaas-fn": Past(rate=((20.0, 300.0), (5.0, 310.0)))}
    with Bench(gateway, {"a.openfaas-fn": seen(rate=100.0)}, {}, past=past) as bench:
        bench.reconcile()
        assert bench.about("a.openfaas-fn")[0]["inputs"]["forecast"] == 310.0
        assert gateway.functions["a"].replicas == 4
        bench.reconcile()
        assert len(bench.controller._source.spans) == 1, "it is asked for once"


def test_without_a_history_it_goes_on(gateway, caplog):
    with Bench(gateway, {"a.openfaas-fn": BUSY}, past=SourceError("no")) as bench:
        assert bench.reconcile() is True
        assert gateway.functions["a"].replicas == 4
        assert "no history from before the start, going on without: no" in caplog.text


def test_a_time_of_day_that_jumps_changes_no_decision(gateway):
    gateway.functions["a"].replicas = 4
    calm = {"a.openfaas-fn": seen(rate=70.0, up_replicas=4.0)}
    with Bench(gateway, *[calm] * 3) as bench:
        bench.reconcile()
        bench.wall = datetime(2030, 1, 1, tzinfo=UTC)
        bench.reconcile()
        bench.wall = datetime(1999, 1, 1, tzinfo=UTC)
        bench.reconcile()
        assert gateway.posted == [], "the stabilization window has not passed"


def test_decisions_are_read_while_they_are_made(gateway):
    with (
        Bench(gateway, *[{"a.openfaas-fn": BUSY if n % 2 else CALM} for n in range(30)]) as bench,
        ThreadPoolExecutor(1) as reader,
    ):
        done = threading.Event()

        def read():
            while not done.is_set():
                bench.controller.decisions("a.openfaas-fn", 5)
                list(bench.metrics.collect())
            return True

        reading = reader.submit(read)
        for _ in range(30):
            bench.reconcile()
        done.set()
        assert reading.result()


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
        monkeypatch.setattr(bench.controller, "_observe", lambda: 1 / 0)
        bench.controller.run(Stop(bench, 2))
        assert bench.errors("reconcile") == 2
        assert "reconcile failed" in caplog.text


def test_replicas_that_keep_changing_without_being_asked_to_are_another_scaler(gateway, caplog):
    with Bench(gateway, *[{"a.openfaas-fn": CALM}] * 5) as bench:
        for count in (1, 2, 3, 4, 5):
            gateway.functions["b"].replicas = count
            bench.reconcile()
        assert bench.value("slo_autoscaler_conflicting_scaler") == 1
        del gateway.functions["b"]
        bench.reconcile()
        assert bench.value("slo_autoscaler_conflicting_scaler") == 0
    assert caplog.text.count("another autoscaler is at work") == 1


def test_our_own_changes_are_not_another_scaler(gateway):
    loads = [{"a.openfaas-fn": seen(rate=rate, up_replicas=2.0)} for rate in (300.0, 500.0, 800.0, 900.0)]
    with Bench(gateway, *loads, **{"defaults.max_replicas": 20}) as bench:
        for _ in loads:
            bench.reconcile()
        assert len(gateway.posted) > 1
        assert bench.value("slo_autoscaler_conflicting_scaler") == 0


def test_who_stands_by_sees_the_leader_at_work_and_no_other_scaler(gateway):
    class Follower(Alone):
        def leads(self):
            return False

    with Bench(gateway, *[{}] * 5, leader=Follower()) as bench:
        for count in (1, 2, 3, 4, 5):
            gateway.functions["b"].replicas = count
            bench.reconcile()
        assert bench.value("slo_autoscaler_conflicting_scaler") == 0


IDLE = seen(rate=0.0, in_flight=0.0, gateway_rate=0.0, samples=0.0, up_replicas=1.0)


@pytest.mark.parametrize(
    ("labels", "configured", "replicas"),
    [
        ({"com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "20s"}, None, 0),
        ({"com.openfaas.scale.zero": "false"}, 20.0, 1),
        ({}, 20.0, 0),
        ({}, None, 1),
    ],
)
def test_a_functions_own_labels_say_when_it_may_go_to_zero(gateway, labels, configured, replicas):
    gateway.functions["b"].labels = labels
    with Bench(
        gateway, *[{"b.openfaas-fn": IDLE}] * 10, **{"defaults.scale_to_zero_after": configured}
    ) as bench:
        for _ in range(10):
            bench.reconcile()
    assert gateway.functions["b"].replicas == replicas
