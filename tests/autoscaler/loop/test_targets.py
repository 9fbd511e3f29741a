"""The state of one function, and of those that share a budget, from one reconcile to the next."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slo_autoscaler.errors import ForbiddenError, PlatformError
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.step import scaled
from slo_autoscaler.loop.targets import KNOWN_FOR, MAX_BACKOFF, Fleet, Target, Trouble
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.leader import Alone
from slo_autoscaler.signals.record import Observation
from support import doubles
from support.builders import a_spec, seen
from support.doubles import Function, a_gateway
from support.reconciling import BUSY, CALM, MODE, SHADOW, TRIPLE, A, B, Bench, Boosted, boost_of, desired

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


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


@pytest.mark.parametrize(
    ("settings", "able", "bridges"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"defaults.mode": "recommend"}, True, False),
        ({"defaults.mode": "shadow"}, True, True),
        ({"defaults.boost.max_factor": 1.0}, True, False),
    ],
    ids=["active", "without the label", "recommend", "shadow", "not set"],
)
def test_reconcile_tells_the_count_without_a_boost_where_one_bridges(gateway, settings, able, bridges):
    """A client that acts on recommendations boosts nothing."""
    booster = Boosted()
    booster.able = booster.able if able else {}
    with Bench(gateway, *[{A: CALM}] * 2, boost={"booster": booster}, **{**TRIPLE, **settings}) as bench:
        bench.reconcile()
        bench.controller.boost()
        bench.reconcile()
        told = bench.controller.decisions(A, 1)["decisions"][-1]["inputs"]["unbridged"]
    assert (told is not None) is bridges


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
    with Bench(gateway, *[{A: seen(rate=300.0, samples=9000.0, attainment=0.6)}] * 5, **SHADOW) as bench:
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
    midnight = '[{"cron": "0 0 * * *", "duration": "1h", "min_replicas": 4}]'
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


def test_scale_up_by_absurd_numbers_of_one_functions_page_stops_no_other(gateway):
    with Bench(gateway, {A: CALM, B: CALM}, **{"defaults.max_replicas": 10}) as bench:
        bench.reconcile()
        bench.now += KNOWN_FOR + 1.0
        bench.direct.load = {A: 900.0, B: 900.0}
        bench.direct.told = {A: replace(CALM, slo_latency=0.0, rate=900.0), B: replace(CALM, rate=900.0)}
        bench.scale_up_between()
        assert gateway.functions["b"].replicas > 1


def test_backoff_doubles_with_each_failure_up_to_its_maximum():
    target, skipped = Target(a_spec()), []
    for _ in range(6):
        target.trouble = target.trouble.after("act", PlatformError("refused"), "a.fn")
        skipped.append(0)
        while target.backs_off():
            skipped[-1] += 1
    assert skipped == [0, 1, 3, 7, MAX_BACKOFF, MAX_BACKOFF]


@pytest.mark.parametrize(
    ("stage", "error", "problem", "unreadable"),
    [
        ("read", PlatformError("a.fn: odd"), "cannot read it: odd", True),
        ("decide", PlatformError("odd"), "cannot decide it: odd", False),
        ("act", PlatformError("no answer"), "cannot scale it: no answer", False),
        ("act", ForbiddenError("status 403", 403), "refused by the platform: status 403", False),
    ],
)
def test_trouble_names_what_failed(stage, error, problem, unreadable):
    trouble = Trouble().after(stage, error, "a.fn")
    assert (trouble.problem, trouble.unreadable) == (problem, unreadable)


@pytest.mark.parametrize(
    ("target", "replicas"),
    [
        (Target(a_spec(min_replicas=2)), 2),
        (Target(a_spec(), scale=Scale(3, 1)), 3),
        (Target(a_spec(), scale=Scale(3, 1), counted=4), 4),
        (Target(a_spec(), scaled(Memory.initial(Scale(3, 3), 0.0), Scale(3, 3), 5, 0.0), Scale(3, 3)), 5),
        (Target(a_spec(), scale=Scale(3, 3, mode="shadow")), 0),
        (Target(a_spec(mode="shadow")), 0),
    ],
    ids=["never read", "read", "only counted", "requested", "shadow", "shadow, never read"],
)
def test_function_holds_of_a_budget_what_it_has_or_has_requested(target, replicas):
    fleet = Fleet({"gpu": 10, None: 3})
    target.spec = replace(target.spec, group="gpu")
    fleet.targets = {A: target}
    assert (fleet.free("gpu"), fleet.free(None), fleet.free("other")) == (10 - replicas, 3, inf)


def test_function_without_replicas_keeps_what_its_last_ones_told():
    target, untold = Target(a_spec()), replace(seen(), capacity=None)
    for scale, observation in ((Scale(1, 1), seen(capacity=80.0)), (Scale(0, 0, waiting=1.0), untold)):
        target.assess(observation, scale, 0.0, NOON, lambda _, memory: memory)
    assert target.lately(None, 0.0).capacity == 80.0


def test_what_virtual_replicas_would_have_shown_is_unknown_after_a_change_of_the_mode():
    target = Target(a_spec())
    for observation, mode in ((seen(), "shadow"), (None, "active")):
        target.assess(observation, Scale(1, 1, mode=mode), 0.0, NOON, lambda _, memory: memory)
    assert target.lately(None, 0.0) is None


def test_count_that_follows_a_recommendation_is_a_change_whoever_made_it():
    target = Target(a_spec())
    for now, count in ((0.0, 1), (5.0, 3)):
        scale = Scale(count, 1, mode="recommend")
        target.assess(seen(), scale, now, NOON, lambda _, memory: memory)
    assert target.memory.step.scaled_up_at == 5.0
