"""What is there, while the source or the platform answers, and while one does not."""

import pytest

from slo_autoscaler.signals.record import Recorded
from support import doubles
from support.builders import seen
from support.reconciling import BUSY, CALM, MODE, A, B, Bench


def test_reconcile_lasting_failure_is_logged_once_and_so_is_its_end(gateway, caplog):
    gateway.faults["GET /system/functions"] = doubles.status(500)
    caplog.set_level("INFO")
    with Bench(gateway, *[{}] * 3) as bench:
        bench.times(2)
        gateway.faults.clear()
        bench.reconcile()
        about = [
            each.levelname
            for each in caplog.records
            if each.name.endswith("observer") and "found" not in each.getMessage()
        ]
        assert about == ["WARNING", "INFO"]
        assert bench.errors("discover") == 2


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


def test_reconcile_platform_that_answers_404_to_everything_forgets_no_function(gateway):
    with Bench(gateway, *[{A: BUSY}] * 2) as bench:
        bench.reconcile()
        gateway.faults["GET"] = doubles.status(404)
        bench.reconcile()
        assert bench.controller.removed() == []


def test_reconcile_without_list_and_observations_reads_nothing_and_holds(gateway):
    with Bench(gateway, {A: BUSY}) as bench:
        bench.reconcile()
        gateway.faults["GET /system/functions"] = doubles.panic
        gateway.requests.clear()
        assert bench.reconcile() is False
        assert gateway.requests == ["GET /system/functions"]
        assert bench.about()[-1]["reason"] == "NoData"
        assert gateway.functions["a"].replicas == 4


def test_reconcile_failed_source_makes_every_function_hold(gateway):
    with Bench(gateway) as bench:
        assert bench.reconcile() is False
        assert {line["reason"] for line in bench.lines} == {"NoData"}
        assert (gateway.posted, bench.errors("observe")) == ([], 1)


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


def test_reconcile_unreadable_function_is_decided_on_as_soon_as_it_can_be_read(gateway):
    gateway.functions["a"].labels = {MODE: "of"}
    with Bench(gateway, *[{A: BUSY}] * 5) as bench:
        bench.times(4)
        gateway.functions["a"].labels = {}
        bench.reconcile()
        assert gateway.functions["a"].replicas == 4


def test_place_that_the_rights_do_not_cover_has_a_gauge_until_they_do(gateway, monkeypatch):
    with Bench(gateway, *[{A: CALM, B: CALM}] * 2) as bench:
        monkeypatch.setattr(bench.platform, "denied", lambda: {"team-b": "403"})
        bench.reconcile()
        assert bench.value("slo_autoscaler_denied", place="team-b") == 1
        monkeypatch.undo()
        bench.reconcile()
        assert bench.value("slo_autoscaler_denied", place="team-b") is None
