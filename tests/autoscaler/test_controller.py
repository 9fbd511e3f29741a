"""The loop on a recorded source and a gateway over real sockets: who is scaled, who is not, what is said."""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from slo_autoscaler.config import Config
from slo_autoscaler.controller import Clocks, Controller
from slo_autoscaler.errors import SourceError
from slo_autoscaler.journal import Journal
from slo_autoscaler.law.restart import Recorded
from slo_autoscaler.leader import Alone
from slo_autoscaler.metrics import GAUGES, Metrics
from slo_autoscaler.platforms import CpuBoost, Range
from slo_autoscaler.platforms.openfaas import OpenFaas
from slo_autoscaler.signals import Observation
from slo_autoscaler.sources import Load
from slo_autoscaler.targets import KNOWN_FOR
from support import doubles
from support.builders import MINIMAL, seen
from support.doubles import Function, a_gateway
from support.waits import until


class Recording:
    """A recording, one observation for each reconcile, then no answer; an error as ``past`` is raised."""

    def __init__(self, reconciles, past):
        self.left = iter(reconciles)
        self.past = past or {}
        self.spans = []

    def observe(self):
        for recorded in self.left:
            return recorded
        raise SourceError("the recording has ended")

    def earlier(self, ages, span):
        return {}

    def history(self, span):
        self.spans.append(span)
        if isinstance(self.past, Exception):
            raise self.past
        return self.past


class Read:
    """Load that is read directly: what the test says."""

    def __init__(self):
        self.load = {}
        self.told = {}
        """What the replicas' pages tell."""
        self.watched = frozenset()

    def watch(self, function_names):
        self.watched = function_names

    def loads(self):
        return {name: Load(rate, 0.0, self.told.get(name)) for name, rate in self.load.items()}


class Boosted:
    """A booster: what function ``a`` may have, as the test says, and what it was last asked for."""

    def __init__(self, label=None, most=10.0):
        self.able = {A: Range(label, most)}
        self.boosts = None

    def ranges(self):
        return self.able

    def boost(self, boosts):
        self.boosts = boosts


class Bench:
    """A controller whose parts are at hand, in virtual time: 5 s for each reconcile."""

    def __init__(
        self, gateway, *reconciles, most="active", leader=None, past=None, reads=True, boost=(), **settings
    ):
        overrides = {"platform.gateway_url": gateway.url, **settings}
        self.config = Config.parse(MINIMAL, "test", overrides)
        self.platform = OpenFaas(self.config.platform, Alone(), self.config.modes(most))
        self.metrics = Metrics(CollectorRegistry())
        self.lines = []
        self.source = Recording(reconciles, past)
        self.direct = Read() if reads else None
        self.now = 100.0
        self.wall = datetime(2026, 1, 2, tzinfo=UTC)
        self.controller = Controller(
            self.config,
            self.source,
            self.platform,
            metrics=self.metrics,
            journal=Journal(),
            leader=leader or Alone(),
            emit=lambda line: self.lines.append(json.loads(line)),
            clocks=Clocks(lambda: self.now, lambda: self.wall),
            direct=self.direct,
            **dict(boost),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.controller.close()
        self.platform.close()

    def reconcile(self):
        self.now += 5.0
        return self.controller.reconcile()

    def scale_up_between(self, seconds=1.0):
        self.now += seconds
        self.controller.scale_up_between()

    def errors(self, where):
        return self.value("slo_autoscaler_errors_total", stage=where)

    def value(self, series, **labels):
        return self.metrics.registry.get_sample_value(series, labels)

    def about(self, name="a.openfaas-fn"):
        return [line for line in self.lines if line["function_name"] == name]

    def times(self, count):
        return [self.reconcile() for _ in range(count)]


BUSY = seen(rate=330.0, burn_short=1.0)
CALM = seen(rate=70.0, up_replicas=1.0)


@pytest.fixture
def gateway():
    with a_gateway(a=Function(2), b=Function(1)) as double:
        yield double


A, B = "a.openfaas-fn", "b.openfaas-fn"
MODE = "com.tailbound.mode"


def inputs_exported(bench):
    """Return the gauges of the last inputs, as the journal rounds them; None: there is no sample."""
    found = {name: bench.value(signal.gauge, function_name=A) for name, signal in GAUGES.items()}
    return {name: None if value is None else pytest.approx(value, rel=1e-4) for name, value in found.items()}


def test_reconcile_busy_function_scales_it_and_tells_the_decision(gateway):
    with Bench(gateway, {A: BUSY, B: CALM}) as bench:
        assert bench.reconcile() is True
        assert (gateway.functions["a"].replicas, gateway.functions["b"].replicas) == (4, 1)
        (line,) = bench.about()
        assert (line["from"], line["to"], line["action"], line["reason"]) == (2, 4, "up", "LoadAboveCapacity")
        assert line["mode"] == "active"
        assert inputs_exported(bench) == {name: line["inputs"][name] for name in GAUGES}
        counted = {"direction": "up", "reason": "LoadAboveCapacity", "function_name": A}
        assert bench.value("slo_autoscaler_decisions_total", **counted) == 1
        for state in ("desired", "available"):
            assert bench.value("slo_autoscaler_replicas", state=state, function_name=A) == 2
        assert gateway.requests[0] == "GET /system/functions"
        assert [line for line in gateway.requests[1:] if "/b" in line] == [], (
            "one request reads all functions"
        )


class Asked(Alone):
    """A leader; when it is asked for the second time, right before a write, something else happens."""

    def __init__(self, deed):
        self.left = [None, deed]

    def leads(self):
        deed = self.left.pop(0) if self.left else None
        if deed is not None:
            deed()
        return True


def test_reconcile_count_that_changes_while_deciding_is_kept_told_and_decided_on_anew(gateway):
    leader = Asked(lambda: setattr(gateway.functions["a"], "replicas", 3))
    three = {A: replace(BUSY, up_replicas=3.0)}
    with Bench(gateway, {A: BUSY}, three, three, leader=leader) as bench:
        assert bench.reconcile() is True
        assert gateway.functions["a"].replicas == 3
        assert [line["reason"] for line in bench.about()] == ["LoadAboveCapacity", "ScaleChanged"]
        assert (bench.about()[-1]["from"], bench.about()[-1]["action"]) == (2, "hold")
        bench.times(2)
        assert [line["reason"] for line in bench.about()[2:]] == ["SetByHand", "LoadAboveCapacity"]
        assert (bench.about()[-1]["from"], gateway.functions["a"].replicas) == (3, 4)
        assert bench.errors("act") == 0


def test_glance_follows_a_step_between_two_reconciles_and_never_goes_down(gateway):
    with Bench(gateway, {A: CALM, B: CALM}, {A: CALM, B: CALM}, **{"defaults.max_replicas": 10}) as bench:
        bench.reconcile()
        assert bench.direct.watched == {A, B}
        bench.direct.load = {A: 20.0, B: 0.0, "stranger.openfaas-fn": 1e6}
        bench.scale_up_between()
        assert (gateway.posted, len(gateway.requests)) == ([], 1), "nothing to do, no request"
        bench.direct.load = {A: 450.0}
        for _ in range(4):
            bench.scale_up_between()
        assert bench.about()[-1]["reason"] == "LoadAboveCapacity"
        assert bench.about()[-1]["inputs"]["direct_rate"] == 450.0
        posted = len(gateway.posted)
        bench.scale_up_between()
        assert len(gateway.posted) == posted
        bench.reconcile()
        assert gateway.functions["a"].replicas >= 5, "a reconcile that has not seen it yet keeps them"
        assert gateway.functions["b"].replicas == 1


def test_glance_adds_replicas_while_prometheus_is_away_as_long_as_enough_is_known(gateway):
    with Bench(gateway, {A: BUSY, B: CALM}, **{"defaults.max_replicas": 10}) as bench:
        bench.reconcile()
        before = gateway.functions["a"].replicas
        assert bench.reconcile() is False
        bench.direct.load = {A: 900.0}
        bench.scale_up_between()
        assert gateway.functions["a"].replicas > before
        bench.direct.load = {B: 900.0}
        bench.scale_up_between(KNOWN_FOR)
        assert gateway.functions["b"].replicas == 1, "what it can do is not known any more"


def test_glance_without_any_observation_adds_replicas_by_what_their_pages_tell(gateway):
    with Bench(gateway, **{"defaults.max_replicas": 10}) as bench:
        assert bench.reconcile() is False
        bench.direct.load = {A: 450.0, B: 450.0}
        told = Observation(rate=450.0, capacity=100.0, slo_latency=0.1, slo_objective=0.99)
        bench.direct.told = {A: replace(told, up_replicas=2.0, sample_age=0.0)}
        bench.scale_up_between()
        assert gateway.functions["a"].replicas > 2
        assert gateway.functions["b"].replicas == 1, "its capacity is not known"
        assert bench.about()[-1]["reason"] == "LoadAboveCapacity"


@pytest.mark.parametrize(
    "settings",
    [
        {"most": "shadow"},
        {"leader": Alone(leads=False)},
        {"defaults.mode": "shadow"},
        {"defaults.mode": "recommend"},
        {"defaults.policy": "proportional"},
        {"fleet.replicas": 3},
        {"defaults.max_replicas": 2},
    ],
    ids=["shadow at most", "standby", "shadow", "recommend", "proportional", "fleet", "maximum"],
)
def test_glance_adds_nothing_that_a_reconcile_may_not(gateway, settings):
    with Bench(gateway, {A: seen(rate=70.0), B: CALM}, **settings) as bench:
        bench.reconcile()
        posted = list(gateway.posted)
        bench.direct.load = {A: 900.0}
        bench.scale_up_between()
        assert gateway.posted == posted


def test_glance_adds_nothing_to_a_function_that_backs_off(gateway):
    gateway.faults["POST /system/scale-function/b"] = doubles.status(500)
    with Bench(gateway, *[{B: BUSY}] * 2) as bench:
        bench.times(2)
        bench.direct.load = {B: 900.0}
        bench.scale_up_between()
        assert gateway.requests.count("POST /system/scale-function/b") == 2


def test_glance_function_that_cannot_be_read_or_has_changed_is_left_to_the_next_reconcile(gateway):
    with Bench(gateway, {A: CALM, B: CALM}, {A: CALM, B: CALM}) as bench:
        bench.reconcile()
        bench.direct.load = {A: 900.0}
        gateway.faults["GET /system/function/a"] = doubles.status(500)
        bench.scale_up_between()
        assert gateway.posted == []
        gateway.faults.clear()
        gateway.functions["a"].replicas = 5
        bench.scale_up_between()
        assert gateway.posted == [], "it has what it may have"


TRIPLE = {"defaults.boost.max_factor": 3.0}


def boost_of(bench):
    """Return factor and maximum, as exported."""
    return tuple(
        bench.value(f"slo_autoscaler_boost_{each}", function_name=A) for each in ("factor", "max_factor")
    )


@pytest.mark.parametrize(
    ("label", "configured", "most"), [(None, 3.0, 3.0), (2.0, 3.0, 2.0), (4.0, 1.0, 4.0)]
)
def test_boost_follows_the_direct_load_up_to_the_label_or_the_setting(gateway, label, configured, most):
    booster = Boosted(label)
    boost = {"booster": booster}
    with Bench(
        gateway, {A: CALM, B: CALM}, boost=boost, **{"defaults.boost.max_factor": configured}
    ) as bench:
        bench.reconcile()
        for load, factor in ((0.0, 1.0), (900.0, most)):
            bench.direct.load = {A: load, B: load}
            bench.controller.boost()
            assert booster.boosts == {A: CpuBoost(factor, 2.0)}, "b has no label"
            assert boost_of(bench) == (factor, most)


@pytest.mark.parametrize(
    ("settings", "decided"),
    [
        ({"defaults.mode": "shadow"}, (3.0, 3.0)),
        ({"defaults.mode": "recommend"}, (3.0, 3.0)),
        ({"defaults.boost.max_factor": 1.0}, (None, None)),
    ],
    ids=["shadow", "recommend", "off"],
)
def test_boost_of_a_function_that_is_not_to_be_boosted_is_nominal(gateway, settings, decided):
    booster = Boosted()
    boost = {"booster": booster}
    with Bench(gateway, {A: CALM}, boost=boost, **{**TRIPLE, **settings}) as bench:
        bench.reconcile()
        bench.direct.load = {A: 900.0}
        bench.controller.boost()
        assert booster.boosts == {A: CpuBoost(1.0, 2.0)}
        assert boost_of(bench) == decided


def test_boost_of_pods_that_can_have_less_is_decided_up_to_that(gateway):
    booster = Boosted(label=4.0, most=1.5)
    with Bench(gateway, {A: CALM}, boost={"booster": booster}, **TRIPLE) as bench:
        bench.reconcile()
        bench.direct.load = {A: 900.0}
        bench.controller.boost()
        assert (booster.boosts[A].factor, boost_of(bench)) == (1.5, (1.5, 1.5))


def test_boost_does_not_wait_for_a_reconcile_that_waits_for_prometheus(gateway):
    booster = Boosted()
    with Bench(gateway, {A: CALM}, boost={"booster": booster}, **TRIPLE) as bench:
        bench.reconcile()
        asked, released = threading.Event(), threading.Event()
        bench.source.observe = lambda: (asked.set(), released.wait(20), {})[-1]
        waiting = threading.Thread(target=bench.reconcile)
        waiting.start()
        asked.wait(20)
        bench.direct.load = {A: 900.0}
        bench.controller.boost()
        assert booster.boosts[A].factor == 3.0
        assert waiting.is_alive()
        released.set()
        waiting.join()


def test_boost_on_standby_is_decided_and_not_applied(gateway):
    booster = Boosted()
    boost = {"booster": booster}
    with Bench(gateway, {A: CALM}, boost=boost, leader=Alone(leads=False), **TRIPLE) as bench:
        bench.reconcile()
        bench.direct.load = {A: 900.0}
        bench.controller.boost()
        assert booster.boosts is None
        assert boost_of(bench) == (3.0, 3.0)


def test_boost_is_decided_on_the_factor_in_force(gateway):
    booster = Boosted()
    with Bench(gateway, {A: CALM}, boost={"booster": booster}, **TRIPLE) as bench:
        bench.reconcile()
        for load, factor in ((900.0, 3.0), (0.0, 2.75), (0.0, 2.5)):
            bench.direct.load = {A: load}
            bench.controller.boost()
            assert booster.boosts[A].factor == factor


def test_reconcile_after_a_boost_does_not_believe_the_capacity_of_boosted_replicas(gateway):
    boosted = replace(CALM, capacity=300.0, service_time_single=0.025 / 3)
    with Bench(gateway, {A: CALM}, {A: boosted}, boost={"booster": Boosted()}, **TRIPLE) as bench:
        bench.reconcile()
        for load in (900.0, *[0.0] * 8):
            bench.direct.load = {A: load}
            bench.controller.boost()
        assert boost_of(bench)[0] == 1.0
        bench.reconcile()
        assert bench.controller.decisions(A, 1)["decisions"][-1]["inputs"]["capacity"] == 100.0


def test_boost_ends_when_the_function_was_not_observed_for_long(gateway):
    booster = Boosted()
    with Bench(gateway, {A: CALM}, boost={"booster": booster}, **TRIPLE) as bench:
        bench.reconcile()
        bench.direct.load = {A: 900.0}
        bench.controller.boost()
        assert booster.boosts[A].factor == 3.0
        bench.now += KNOWN_FOR + 1.0
        bench.controller.boost()
        assert booster.boosts[A].factor == 1.0


def test_reconcile_lasting_failure_is_logged_once_and_so_is_its_end(gateway, caplog):
    gateway.faults["GET /system/functions"] = doubles.status(500)
    caplog.set_level("INFO")
    with Bench(gateway, *[{}] * 3) as bench:
        bench.times(2)
        gateway.faults.clear()
        bench.reconcile()
        about = [each.levelname for each in caplog.records if "found" not in each.getMessage()]
        assert about == ["WARNING", "INFO"]
        assert bench.errors("discover") == 2


def spoil_replicas(gateway):
    gateway.functions["b"].replicas = -3


@pytest.mark.parametrize(
    ("spoil", "of_b", "stage"),
    [
        (spoil_replicas, BUSY, "read"),
        (lambda gateway: None, seen(slo_objective="0.99"), "decide"),
        (
            lambda gateway: gateway.faults.update({"POST /system/scale-function/b": doubles.status(500)}),
            BUSY,
            "act",
        ),
    ],
)
def test_reconcile_one_failed_function_stops_no_other(gateway, spoil, of_b, stage):
    spoil(gateway)
    with Bench(gateway, {A: BUSY, B: of_b}) as bench:
        assert bench.reconcile() is False
        assert gateway.functions["a"].replicas == 4
        assert bench.errors(stage) == 1


def test_reconcile_failing_function_backs_off_twice_as_long_each_time_and_recovers(gateway):
    gateway.faults["POST /system/scale-function/b"] = doubles.status(500)
    with Bench(gateway, *[{B: BUSY}] * 20) as bench:
        bench.times(8)
        # In reconciles 1 and 2, then after 1 and 3 of them without a request.
        assert gateway.requests.count("POST /system/scale-function/b") == bench.errors("act") == 4
        gateway.faults.clear()
        bench.times(8)
        assert gateway.functions["b"].replicas > 1
        assert "PlatformCap" not in {line["reason"] for line in bench.lines}


def test_reconcile_count_that_the_platform_cuts_is_not_asked_for_again_and_again(gateway):
    gateway.cap = 3
    with Bench(gateway, *[{A: seen(rate=800.0)}] * 12) as bench:
        bench.times(12)
        assert (bench.about()[-1]["reason"], bench.about()[-1]["inputs"]["granted"]) == ("PlatformCap", 3)
        assert [body["replicas"] for body in gateway.posted] == [5]


@pytest.mark.parametrize(
    ("settings", "seen_", "counts"),
    [
        ({"fleet.replicas": 6, "functions": {B: {"priority": 9.0}}}, {A: BUSY, B: BUSY}, [2, 4]),
        ({"fleet.groups": {"gpu": 2}, "functions": {B: {"group": "gpu"}}}, {A: BUSY, B: BUSY}, [4, 2]),
        ({"fleet.replicas": 4}, {B: BUSY}, [2, 2]),
    ],
    ids=["by priority", "by group", "but for what one without data has"],
)
def test_reconcile_functions_share_the_replicas_of_the_fleet(gateway, settings, seen_, counts):
    with Bench(gateway, *[seen_] * 4, **settings) as bench:
        bench.times(4)
        assert [gateway.functions[name].replicas for name in "ab"] == counts
        assert bench.about(B)[-1]["inputs"]["share"] == counts[1]
        assert "FleetFull" in {line["reason"] for line in bench.lines}


@pytest.mark.parametrize("replicas", [2, -3], ids=["read", "unreadable"])
def test_reconcile_function_in_mode_shadow_takes_no_replicas_of_the_fleet(gateway, replicas):
    busy = {A: BUSY, B: BUSY}
    with Bench(gateway, busy, busy, **{"fleet.replicas": 4, **SHADOW}) as bench:
        gateway.functions["b"].labels = {MODE: "recommend"}
        bench.reconcile()
        gateway.functions["a"].replicas = replicas
        gateway.functions["b"].labels = {}
        bench.reconcile()
        assert gateway.functions["b"].replicas == 4
        assert bench.about(A)[-1]["inputs"]["share"] is None


@pytest.mark.parametrize(
    ("labels", "faults"),
    [({MODE: "of"}, {}), ({}, {"POST /system/scale-function/b": doubles.status(500)})],
    ids=["unreadable", "not scaled"],
)
def test_reconcile_replicas_of_a_function_that_backs_off_stay_its_own_in_the_fleet(gateway, labels, faults):
    settings = {"fleet.replicas": 3, "functions": {B: {"priority": 9.0}}}
    with Bench(gateway, {A: CALM, B: CALM}, *[{A: BUSY, B: BUSY}] * 8, **settings) as bench:
        bench.reconcile()
        gateway.functions["b"].labels = labels
        gateway.faults |= faults
        bench.times(8)
        assert max([body["replicas"] for body in gateway.posted], default=2) <= 2


def test_replicas_that_are_missing_are_asked_for_before_others_are_given_away(gateway):
    gateway.functions["a"].replicas = 5
    calm = {A: replace(CALM, up_replicas=5.0), B: CALM}
    with Bench(gateway, *[calm] * 3, calm | {B: BUSY}, **{"platform.concurrency": 1}) as bench:
        bench.times(4)
        assert [body["serviceName"] for body in gateway.posted] == ["b", "a"]


def test_reconcile_failed_list_reads_known_functions_alone(gateway):
    with Bench(gateway, {}, {A: BUSY}) as bench:
        bench.reconcile()
        gateway.faults |= {"GET /system/functions": doubles.panic, "GET /system/function/b": doubles.garbage}
        assert bench.reconcile() is False
        assert gateway.functions["a"].replicas == 4
        assert (bench.errors("discover"), bench.errors("read")) == (1, 1)


def test_reconcile_after_an_outage_of_the_platform_reads_every_function_at_once(gateway):
    with Bench(gateway, *[{A: BUSY}] * 6) as bench:
        gateway.faults["POST"] = doubles.panic
        bench.reconcile()
        gateway.faults = {"GET": doubles.panic}
        bench.times(4)
        gateway.faults = {"GET /system/functions": doubles.panic}
        bench.reconcile()
        assert gateway.functions["a"].replicas == 4


def test_reconcile_without_list_and_observations_reads_nothing_and_holds(gateway):
    with Bench(gateway, {A: BUSY}) as bench:
        bench.reconcile()
        gateway.faults["GET /system/functions"] = doubles.panic
        gateway.requests.clear()
        assert bench.reconcile() is False
        assert gateway.requests == ["GET /system/functions"]
        assert bench.about()[-1]["reason"] == "NoData"
        assert gateway.functions["a"].replicas == 4


def test_reconcile_platform_that_never_finishes_its_answers_is_not_waited_for():
    with a_gateway(**{f"f{number}": Function(1) for number in range(5)}) as gateway:
        released = threading.Event()
        busy = {f"f{number}.openfaas-fn": BUSY for number in range(5)}
        with Bench(gateway, busy, busy, **{"platform.timeout": 0.3, "platform.concurrency": 2}) as bench:
            gateway.faults["POST"] = doubles.dribble(released)
            assert bench.reconcile() is False
            assert bench.errors("act") == 3, "two without an answer, and one for those that were deferred"
            assert bench.reconcile() is False, "the threads are still taken: nothing is listed"
            assert bench.errors("discover") == 1
            released.set()


def test_reconcile_failed_source_makes_every_function_hold(gateway):
    with Bench(gateway) as bench:
        assert bench.reconcile() is False
        assert {line["reason"] for line in bench.lines} == {"NoData"}
        assert (gateway.posted, bench.errors("observe")) == ([], 1)


def test_alive_ends_when_no_reconcile_finishes_for_several_intervals(gateway):
    with Bench(gateway) as bench:
        bench.now += 3 * (5 + 5 + 5)
        assert bench.controller.alive()
        bench.now += 0.1
        assert not bench.controller.alive()
        bench.reconcile()
        assert bench.controller.alive()
        assert bench.value("slo_autoscaler_reconcile_seconds_count") == 1


class Turns(Alone):
    """A leader that leads when it is told to."""

    def __init__(self, *turns):
        self.turns = list(turns)

    def leads(self):
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]


def test_reconcile_on_standby_decides_tells_and_never_acts_until_its_turn(gateway):
    with Bench(gateway, *[{A: BUSY}] * 3, leader=Turns(False, False, True)) as bench:
        assert bench.times(2) == [True, True]
        assert gateway.posted == []
        (line,) = bench.about()
        assert (line["mode"], line["to"]) == ("standby", 4)
        assert (bench.value("slo_autoscaler_leader"), desired(bench)) == (0, None)
        bench.reconcile()
        assert gateway.functions["a"].replicas == 4
        assert bench.about()[-1]["mode"] == "active"
        assert (bench.value("slo_autoscaler_leader"), desired(bench)) == (1, 4)


def test_reconcile_leader_that_loses_its_place_changes_nothing_more(gateway):
    with Bench(gateway, {A: BUSY}, leader=Turns(True, False)) as bench:
        assert bench.reconcile() is False
        assert gateway.posted == []


SHADOW = {"functions": {A: {"mode": "shadow"}}}


def desired(bench, name=A):
    return bench.value("slo_autoscaler_desired_replicas", function_name=name)


def test_reconcile_label_wins_over_the_configuration_and_nothing_over_the_highest_mode(gateway):
    gateway.functions["a"].labels = {MODE: "active"}
    busy = {A: BUSY, B: BUSY}
    with Bench(gateway, busy, **{"defaults.mode": "recommend"}) as bench:
        bench.reconcile()
        assert (gateway.functions["a"].replicas, gateway.functions["b"].replicas) == (4, 1)
        assert [line["mode"] for line in bench.about(A) + bench.about(B)] == ["active", "recommend"]
    gateway.posted.clear()
    with Bench(gateway, busy, most="shadow") as bench:
        bench.reconcile()
        assert gateway.posted == []
        assert {line["mode"] for line in bench.lines} == {"shadow"}


def test_reconcile_settings_of_a_function_that_is_not_there_are_logged_once_with_a_similar_name(
    gateway, caplog
):
    caplog.set_level("INFO")
    with Bench(gateway, *[{A: CALM, B: CALM}] * 2, functions={"aa.openfaas-fn": {}, B: {}}) as bench:
        bench.times(2)
    (told,) = [each.getMessage() for each in caplog.records if "functions." in each.getMessage()]
    assert "aa.openfaas-fn" in told
    assert A in told.partition(":")[2]


def test_decisions_unreadable_function_has_the_reason_until_it_is_read(gateway):
    gateway.functions["a"].labels = {MODE: "of"}
    with Bench(gateway, *[{A: CALM, B: CALM}] * 2) as bench:
        bench.reconcile()
        found = bench.controller.decisions(A, 1)
        assert (A in bench.controller.functions(), found["decisions"]) == (True, [])
        assert "com.tailbound.mode" in found["problem"]
        gateway.functions["a"].labels = {}
        bench.reconcile()
        assert "problem" not in bench.controller.decisions(A, 1)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["recommend", "shadow"]),
    st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from([0.0, 70.0, 300.0, 800.0])), min_size=1, max_size=20
    ),
)
def test_counts_of_another_autoscaler_are_never_taken_for_an_answer(mode, story):
    with a_gateway(a=Function(2)) as gateway:
        observed = [{A: seen(rate=rate, up_replicas=float(count))} for count, rate in story]
        with Bench(gateway, *observed, **{"defaults.mode": mode}) as bench:
            for count, _ in story:
                gateway.functions["a"].replicas = count
                assert bench.reconcile() is True
                (told,) = bench.controller.decisions(A, 1)["decisions"]
                assert told.get("incumbent", told["from"]) == count
                assert (told["reason"] == "PlatformCap", told["inputs"]["stuck"]) == (False, 0)
                assert desired(bench) == (None if mode == "shadow" or count == 0 else told["to"])
            assert gateway.posted == []


@pytest.mark.parametrize("last", [{}, {A: replace(BUSY, sample_age=99.0)}, {A: replace(BUSY, rate=None)}])
def test_reconcile_without_data_exports_no_count(gateway, last):
    with Bench(gateway, {A: BUSY}, last, **{"defaults.mode": "recommend"}) as bench:
        bench.reconcile()
        assert desired(bench) == 4
        bench.reconcile()
        assert desired(bench) is None
        inputs = bench.about()[-1]["inputs"]
        assert inputs_exported(bench) == {name: inputs[name] for name in GAUGES}


def test_reconcile_after_a_change_of_mode_starts_from_what_is_there(gateway):
    gateway.functions["a"].labels = {MODE: "shadow"}
    with Bench(gateway, *[{A: seen(rate=800.0)}] * 9) as bench:
        bench.times(4)
        assert bench.about()[-1]["from"] == 5, "the shadow has what it asked for"
        gateway.functions["a"].labels = {MODE: "active"}
        bench.reconcile()
        assert (bench.about()[-1]["mode"], bench.about()[-1]["from"]) == ("active", 2)
        assert gateway.functions["a"].replicas == 5
        assert bench.value("slo_autoscaler_shadow_replicas", function_name=A) is None
        gateway.functions["a"].labels = {MODE: "recommend"}
        gateway.functions["a"].replicas = 3
        bench.times(4)
        assert "PlatformCap" not in {line["reason"] for line in bench.about()}
        assert desired(bench) == 5


def test_reconcile_shadow_decides_from_its_own_replicas_is_scored_and_never_acts(gateway):
    with Bench(gateway, *[{A: seen(rate=300.0, attainment=0.6)}] * 5, **SHADOW) as bench:
        assert bench.times(5) == [True] * 5
        assert gateway.posted == []
        first, *_ = lines = bench.about()
        assert (first["mode"], first["from"], first["to"], first["incumbent"]) == ("shadow", 2, 4, 2)
        assert lines[-1]["from"] >= 4, "it has what it asked for"
        assert bench.value("slo_autoscaler_shadow_replicas", function_name=A) >= 4
        assert bench.value("slo_autoscaler_replicas", function_name=A, state="desired") == 2
        score = bench.controller.decisions(A, 5)["score"]
        assert bench.value("slo_autoscaler_shadow_requests_total", function_name=A) == score["requests"]
        for scaler in ("incumbent", "shadow"):
            for kept, series in (("attained", "attained_requests"), ("replica_seconds", "replica_seconds")):
                exported = bench.value(
                    f"slo_autoscaler_shadow_{series}_total", function_name=A, scaler=scaler
                )
                assert exported == pytest.approx(score[f"{kept}_{scaler}"])
        assert score["replica_seconds_incumbent"] == 2 * 20
        assert score["attained_shadow"] > score["attained_incumbent"] == pytest.approx(0.6 * 300 * 20)


def test_reconcile_after_a_restart_knows_the_history_and_asks_for_it_once(gateway):
    past = {A: Recorded(correction=((20.0, 0.7), (5.0, 0.5)))}
    with Bench(gateway, {A: seen(rate=100.0)}, {}, past=past) as bench:
        bench.times(2)
        assert bench.about()[0]["inputs"]["correction"] == pytest.approx(0.5, rel=0.05)
        assert len(bench.source.spans) == 1


def test_reconcile_without_prometheus_after_a_restart_takes_up_the_history_later(gateway):
    past = {A: Recorded(correction=((5.0, 0.5),))}
    with Bench(gateway, past=past) as bench:
        bench.reconcile()
        bench.source.left = iter([{A: seen(rate=100.0)}])
        bench.reconcile()
        assert bench.about()[-1]["inputs"]["correction"] == pytest.approx(0.5, rel=0.05)


class Stop(threading.Event):
    """Ends the loop after some waits, in virtual time."""

    def __init__(self, bench, waits):
        super().__init__()
        self.bench, self.left, self.waited = bench, waits, []

    def wait(self, timeout=None):
        if threading.current_thread() is threading.main_thread():
            assert timeout is not None, "a signal that comes just before a wait without end is missed"
            return super().wait(timeout)
        self.waited.append(timeout)
        self.bench.now += timeout
        self.left -= 1
        if self.left == 0:
            self.set()
        return self.is_set()


def test_run_late_reconciles_are_not_made_up_for(gateway, monkeypatch):
    with Bench(gateway, reads=False) as bench:
        took = iter([1.0, 7.0, 0.0])
        monkeypatch.setattr(
            bench.controller, "reconcile", lambda: setattr(bench, "now", bench.now + next(took))
        )
        stop = Stop(bench, 3)
        bench.controller.run(stop)
        assert stop.waited == [4.0, 0.0, 5.0]


@pytest.fixture
def run():
    """Run controllers in threads, each told to stop at the end."""
    stop = threading.Event()

    def run(controller):
        running = threading.Thread(target=controller.run, args=(stop,), daemon=True)
        running.start()
        return running, stop

    yield run
    stop.set()


@pytest.mark.parametrize("hung", ["GET", "Prometheus"])
def test_run_told_to_stop_waits_for_nothing_that_is_read(gateway, run, hung, caplog):
    with Bench(gateway, {A: BUSY}, **{"platform.timeout": 60.0}) as bench:
        released, asked = threading.Event(), threading.Event()
        if hung == "GET":
            gateway.faults["GET"] = lambda handler: (asked.set(), doubles.hang(released)(handler))
        else:
            bench.source.observe = lambda: (asked.set(), released.wait(20), {})[-1]
        running, stop = run(bench.controller)
        asked.wait(20)
        stop.set()
        until(lambda: not running.is_alive(), "it has stopped", 10.0)
        released.set()
        until(lambda: not _reconciling(), "its thread has ended")
    assert caplog.text == ""


def _reconciling():
    return "reconcile" in {thread.name for thread in threading.enumerate()}


def test_run_told_to_stop_waits_for_a_change_that_is_under_way_and_makes_no_other(gateway, run):
    with Bench(gateway, {A: BUSY, B: BUSY}, **{"platform.timeout": 60.0, "platform.concurrency": 1}) as bench:
        asked, done = threading.Event(), []

        def slow(handler):
            asked.set()
            stop.wait(20)
            threading.Event().wait(0.2)
            done.append(handler.path)
            doubles.status(202)(handler)

        gateway.faults["POST"] = slow
        running, stop = run(bench.controller)
        asked.wait(20)
        stop.set()
        until(lambda: not running.is_alive(), "it has stopped", 10.0)
        assert len(done) == 1


def test_run_outlives_a_bug(gateway):
    with Bench(gateway, reads=False) as bench:
        bench.source.observe = lambda: 1 / 0
        bench.controller.run(Stop(bench, 2))
        assert bench.errors("reconcile") == 2


@pytest.mark.parametrize(("leader", "conflict"), [(Alone(), 1), (Turns(False), 0)])
def test_reconcile_replicas_that_keep_changing_are_a_conflict_while_it_leads(
    gateway, caplog, leader, conflict
):
    with Bench(gateway, *[{A: CALM}] * 6, leader=leader) as bench:
        for count in (1, 2, 3, 4, 5):
            gateway.functions["b"].replicas = count
            bench.reconcile()
        assert bench.value("slo_autoscaler_conflicting_scaler") == conflict
        assert caplog.text.count("ConflictingScaler") == conflict
        del gateway.functions["b"]
        bench.reconcile()
        assert bench.value("slo_autoscaler_conflicting_scaler") == 0


def test_reconcile_without_observations_names_the_cause(gateway, monkeypatch):
    with Bench(gateway, {A: BUSY, B: BUSY}) as bench:
        told = []
        monkeypatch.setattr(bench.platform, "announce", lambda *event: told.append(event))
        bench.reconcile()
        assert (told, "cause" in bench.about()[-1]) == ([], False)
        bench.reconcile()
        assert bench.about()[-1]["cause"] == "the recording has ended"
        assert {(name, reason) for name, reason, _ in told} == {(A, "NoData"), (B, "NoData")}


def test_decisions_of_a_removed_function_are_told_until_it_is_back(gateway):
    with Bench(gateway, *[{A: BUSY, B: BUSY}] * 3) as bench:
        bench.reconcile()
        removed = gateway.functions.pop("b")
        bench.reconcile()
        assert (bench.controller.functions(), bench.controller.removed()) == ([A], [B])
        assert bench.controller.decisions(B, 1)["removed"]
        gateway.functions["b"] = removed
        bench.reconcile()
        assert "removed" not in bench.controller.decisions(B, 1)


def test_reconcile_mistyped_annotation_is_logged_once_with_the_likely_one(gateway, caplog):
    gateway.functions["a"].annotations = {"com.tailbound.shedule": "[]"}
    with Bench(gateway, *[{A: BUSY}] * 3) as bench:
        bench.times(3)
    assert caplog.text.count("did you mean annotation com.tailbound.schedule?") == 1


def test_reconcile_function_that_cannot_be_scaled_is_announced_once(gateway, monkeypatch):
    gateway.functions["b"].labels = {"com.openfaas.scale.min": "many"}
    with Bench(gateway, *[{A: BUSY}] * 3) as bench:
        told = []
        monkeypatch.setattr(bench.platform, "announce", lambda *event: told.append(event))
        bench.times(3)
        assert [event[:2] for event in told if event[0] == B] == [(B, "ScalingFailed")]


@pytest.mark.parametrize(("manual_hold", "reconciles"), [("0s", 1), ("20s", 5)])
def test_reconcile_count_set_by_hand_is_named_and_kept_for_manual_hold(
    gateway, monkeypatch, manual_hold, reconciles
):
    settings = {"defaults.manual_hold": manual_hold}
    with Bench(gateway, *[{A: replace(BUSY, up_replicas=3.0)}] * 9, **settings) as bench:
        told = []
        monkeypatch.setattr(bench.platform, "announce", lambda *event: told.append(event))
        gateway.functions["a"].replicas = 4
        bench.reconcile()
        gateway.functions["a"].replicas = 3
        bench.times(reconciles)
        assert gateway.functions["a"].replicas == 3
        last = bench.about()[-1]
        assert (last["reason"], last["detail"], last["action"]) == ("SetByHand", "from 4 to 3", "hold")
        ((reason, text),) = [event[1:] for event in told if event[0] == A]
        assert reason == "SetByHand"
        assert "from 4 to 3" in text
        bench.reconcile()
        assert gateway.functions["a"].replicas == 4


def test_reconcile_follows_schedule_and_hold_by_the_time_of_day(gateway):
    midnight = "[{cron: 0 0 * * *, duration: 1h, min_replicas: 4}]"
    hold = '{"until": "2026-01-02T02:00:00Z", "replicas": 2, "reason": "freeze"}'
    with Bench(gateway, *[{A: replace(CALM, up_replicas=4.0)}] * 9) as bench:
        gateway.functions["a"].annotations = {"com.tailbound.schedule": midnight}
        bench.reconcile()
        assert (bench.about()[-1]["reason"], gateway.functions["a"].replicas) == ("Scheduled", 4)
        gateway.functions["a"].annotations = {"com.tailbound.hold": hold}
        bench.wall += timedelta(hours=1)
        bench.reconcile()
        told = bench.about()[-1]
        assert (told["reason"], told["detail"]) == ("Held", "until 2026-01-02 02:00 UTC: freeze")
        assert gateway.functions["a"].replicas == 2
        bench.wall += timedelta(hours=1)
        bench.times(4)
        assert gateway.functions["a"].replicas == 1


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
    with Bench(gateway, *[{B: IDLE}] * 10, **{"defaults.scale_to_zero_after": configured}) as bench:
        bench.times(10)
    assert gateway.functions["b"].replicas == replicas
