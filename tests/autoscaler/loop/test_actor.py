"""Decisions that are applied: in which order, by whom, what becomes of failures, and what is told."""

import threading
from dataclasses import replace
from math import inf

import pytest

from slo_autoscaler.platforms.leader import Alone
from slo_autoscaler.signals.gate import admitted
from support import doubles
from support.builders import seen
from support.doubles import Function, a_gateway
from support.reconciling import BUSY, CALM, A, B, Bench, Turns, desired


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


def test_change_that_the_platform_refuses_is_told_as_requested_refused_and_where_it_is(gateway, caplog):
    caplog.set_level("INFO")
    gateway.faults["POST"] = doubles.status(403)
    with Bench(gateway, *[{A: BUSY, B: CALM}] * 3) as bench:
        bench.times(3)
    about = [record.getMessage() for record in caplog.records if A in record.getMessage()]
    requested, refused = about[1:]
    assert requested.startswith(f"requested 4 replicas of {A}, now 2: ")
    assert "refused by the platform" in refused
    assert "status 403" in refused
    assert "now 2" in refused


def test_log_has_one_line_for_each_change_and_none_for_a_hold(gateway, caplog):
    caplog.set_level("INFO")
    with Bench(
        gateway, {A: CALM}, {A: BUSY}, {A: BUSY}, *[{A: replace(CALM, up_replicas=4.0)}] * 90
    ) as bench:
        bench.times(93)
        changes = [line for line in bench.about() if line["action"] != "hold"]
    told = [record.getMessage() for record in caplog.records if f"of {A}, now" in record.getMessage()]
    assert len(told) == len(changes) > 1
    assert len(bench.about()) > len(changes)


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


def test_replicas_that_are_missing_are_asked_for_before_others_are_given_away(gateway):
    gateway.functions["a"].replicas = 5
    calm = {A: replace(CALM, up_replicas=5.0), B: CALM}
    with Bench(gateway, *[calm] * 3, calm | {B: BUSY}, **{"platform.concurrency": 1}) as bench:
        bench.times(4)
        assert [body["serviceName"] for body in gateway.posted] == ["b", "a"]


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


def test_reconcile_platform_without_a_route_to_scale_is_a_refusal_and_no_function_is_gone(gateway):
    gateway.faults["POST /system/scale-function/a"] = doubles.status(404)
    with Bench(gateway, {A: BUSY}) as bench:
        bench.reconcile()
        assert "refused by the platform" in bench.controller.decisions(A, 1)["problem"]


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


def test_decision_without_data_names_the_signal_that_the_gate_refused(gateway):
    with Bench(gateway, {A: admitted(replace(BUSY, rate=inf))}) as bench:
        bench.reconcile()
        assert (bench.about()[-1]["reason"], bench.about()[-1]["cause"]) == ("NoData", "rate is infinite")


def test_reconcile_without_observations_names_no_cause_of_what_needs_none(gateway):
    gateway.functions["a"].replicas = 0
    with Bench(gateway) as bench:
        bench.reconcile()
        assert bench.about()[-1]["reason"] == "ScaledToZero"
        assert "cause" not in bench.about()[-1]


def test_function_that_comes_back_with_a_mistyped_annotation_is_told_of_it_again(gateway, caplog):
    gateway.functions["b"].annotations = {"com.tailbound.shedule": "[]"}
    with Bench(gateway, *[{A: BUSY}] * 3) as bench:
        bench.reconcile()
        function = gateway.functions.pop("b")
        bench.reconcile()
        gateway.functions["b"] = function
        bench.reconcile()
    assert caplog.text.count("com.tailbound.shedule") == 2


def test_reconcile_mistyped_annotation_is_logged_once_with_the_likely_one(gateway, caplog):
    gateway.functions["a"].annotations = {"com.tailbound.shedule": "[]"}
    with Bench(gateway, *[{A: BUSY}] * 3) as bench:
        bench.times(3)
    assert caplog.text.count("did you mean annotation com.tailbound.schedule?") == 1


def test_reconcile_key_that_became_wrong_keeps_its_last_good_value_and_is_announced_once(
    gateway, monkeypatch
):
    gateway.functions["a"].labels = {"com.openfaas.scale.max": "3"}
    with Bench(gateway, {A: CALM}, *[{A: BUSY}] * 3) as bench:
        told = []
        monkeypatch.setattr(bench.platform, "announce", lambda *event: told.append(event))
        bench.reconcile()
        gateway.functions["a"].labels = {"com.openfaas.scale.max": "three"}
        assert bench.times(3) == [True] * 3
        assert gateway.functions["a"].replicas == 3
        assert [event[:2] for event in told if event[0] == A] == [(A, "WrongKey")]


def test_direct_load_raises_a_function_whose_key_became_wrong(gateway):
    with Bench(gateway, *[{A: CALM}] * 2) as bench:
        bench.reconcile()
        gateway.functions["a"].annotations = {"com.tailbound.hold": "1"}
        bench.reconcile()
        bench.direct.load = {A: 900.0}
        bench.scale_up_between()
        assert gateway.functions["a"].replicas > 2


def test_reconcile_function_that_cannot_be_scaled_is_announced_once(gateway, monkeypatch):
    gateway.functions["b"].labels = {"com.openfaas.scale.min": "many"}
    with Bench(gateway, *[{A: BUSY}] * 3) as bench:
        told = []
        monkeypatch.setattr(bench.platform, "announce", lambda *event: told.append(event))
        bench.times(3)
        assert [event[:2] for event in told if event[0] == B] == [(B, "ScalingFailed")]


@pytest.mark.parametrize("stage", ["read", "act"])
def test_failing_function_has_a_gauge_with_the_stage_until_it_recovers_or_is_gone(gateway, stage):
    if stage == "act":
        gateway.faults["POST /system/scale-function/b"] = doubles.status(403)
    else:
        spoil_replicas(gateway)
    with Bench(gateway, *[{A: CALM, B: BUSY}] * 9) as bench:

        def problem():
            return bench.value("slo_autoscaler_problem", function_name=B, stage=stage)

        bench.times(3)
        assert (problem(), bench.value("slo_autoscaler_problem", function_name=A, stage=stage)) == (1, None)
        gateway.faults.clear()
        gateway.functions["b"].replicas = 2
        bench.times(3)
        assert problem() is None
        spoil_replicas(gateway)
        bench.reconcile()
        assert bench.value("slo_autoscaler_problem", function_name=B, stage="read") == 1
        del gateway.functions["b"]
        bench.reconcile()
        assert bench.value("slo_autoscaler_problem", function_name=B, stage="read") is None


def test_rollout_that_failed_is_in_the_last_decision_and_a_gauge_until_it_succeeds(gateway, monkeypatch):
    def told(name):
        (decision,) = bench.controller.decisions(name, 1)["decisions"]
        gauge = bench.value("slo_autoscaler_rollout_failed", function_name=name)
        return decision.get("rollout_failed"), gauge

    with Bench(gateway, *[{A: CALM, B: CALM}] * 3) as bench:
        scales = bench.platform.scales
        bench.reconcile()
        failed = {A: {"rollout_failed": True}, B: {}}
        monkeypatch.setattr(
            bench.platform,
            "scales",
            lambda: {name: replace(it, **failed[name]) for name, it in scales().items()},
        )
        bench.reconcile()
        assert (told(A), told(B)) == ((True, 1), (None, None))
        monkeypatch.undo()
        bench.reconcile()
        assert told(A) == (None, None)
