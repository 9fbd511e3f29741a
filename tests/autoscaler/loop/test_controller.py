"""The loop on a recorded source and a gateway over real sockets: who is scaled, who is not, what is said."""

import threading
import time
from dataclasses import fields, replace
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slo_autoscaler.errors import SourceError
from slo_autoscaler.loop.controller import WAKE_SECONDS
from slo_autoscaler.loop.targets import KNOWN_FOR
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms import Boosting, CpuBoost
from slo_autoscaler.platforms.leader import Alone
from slo_autoscaler.show.metrics import GAUGES
from slo_autoscaler.signals.record import Observation
from support import doubles
from support.builders import BOMB, seen
from support.doubles import Function, a_gateway
from support.fuzzing import fuzzed
from support.reconciling import BUSY, CALM, MODE, TRIPLE, A, B, Bench, Boosted, Recording, boost_of, desired
from support.waits import until


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


def test_glance_functions_of_one_budget_share_what_is_free_within_a_pass(gateway):
    with Bench(gateway, {A: CALM, B: CALM}, **{"fleet.replicas": 8, "defaults.max_replicas": 10}) as bench:
        bench.reconcile()
        bench.direct.load = {A: 2000.0, B: 2000.0}
        bench.scale_up_between()
        requested = [gateway.functions[name].replicas for name in "ab"]
        assert sum(requested) == 8


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


def test_requests_that_wait_at_zero_are_answered_before_the_next_reconcile(gateway):
    gateway.functions["a"].replicas = 0
    with Bench(gateway, {B: CALM}, {B: CALM}, reads=False) as bench:
        bench.reconcile()
        at_zero = {
            "waiting": lambda: {A: 20.0, B: 0.0, "stranger.fn": 9.0},
            "scale": lambda _: Scale(0, 0, waiting=20.0),
        }
        with mock.patch.multiple(bench.platform, **at_zero):
            bench.scale_up_between(0.1)
        assert (gateway.functions["a"].replicas, gateway.functions["b"].replicas) == (1, 1)
        told = bench.about()[-1]
        assert (told["reason"], told["inputs"]["waiting"], told["to"]) == ("RequestsWait", 20.0, 1)


def test_glance_function_that_became_unreadable_keeps_no_other_from_being_read(gateway):
    settings = {"platform.concurrency": 1, "defaults.max_replicas": 10}
    with Bench(gateway, {A: CALM, B: CALM}, **settings) as bench:
        bench.reconcile()
        gateway.functions["a"].available = -1
        bench.direct.load = {A: 900.0, B: 900.0}
        bench.scale_up_between()
        assert gateway.functions["b"].replicas > 1


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


def test_boosted_starts_and_refusals_are_exported_and_told(gateway):
    booster = Boosted()
    booster.pods = {A: Boosting(2, "exceeded quota")}
    with Bench(gateway, {A: CALM}, boost={"booster": booster}, **TRIPLE) as bench:
        bench.reconcile()
        bench.controller.boost()
        gauges = ("slo_autoscaler_boosted_starts", "slo_autoscaler_boost_refused")
        assert [bench.value(gauge, function_name=A) for gauge in gauges] == [2.0, 1.0]
        told = bench.controller.decisions(A, 1)["boost"]
        assert "2 replicas" in told
        assert "exceeded quota" in told


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


def test_boost_with_which_no_replica_starts_ends_after_half_a_minute(gateway):
    booster, factors = Boosted(), []
    with Bench(gateway, *[{A: CALM}] * 10, boost={"booster": booster}, **TRIPLE) as bench:
        bench.reconcile()
        bench.direct.load = {A: 300.0}
        for _ in range(9):
            bench.controller.boost()
            factors.append(booster.boosts[A].factor)
            bench.reconcile()
    assert factors == [1.5] * 7 + [1.0] * 2


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


def test_alive_ends_when_no_reconcile_finishes_for_several_intervals(gateway):
    with Bench(gateway) as bench:
        bench.now += 3 * (5 + 5 + 5)
        assert bench.controller.alive()
        bench.now += 0.1
        assert not bench.controller.alive()
        bench.reconcile()
        assert bench.controller.alive()
        assert bench.value("slo_autoscaler_reconcile_seconds_count") == 1


def test_alive_ends_when_requests_to_the_platform_hold_every_thread(gateway):
    released = threading.Event()
    with Bench(gateway, *[{A: CALM}] * 8, **{"platform.timeout": "50ms", "platform.concurrency": 1}) as bench:
        bench.platform.scales = released.wait
        bench.times(8)
        assert not bench.controller.alive()
        released.set()


def test_alive_lasts_while_the_platform_answers_with_errors(gateway):
    gateway.faults["GET"] = doubles.status(500)
    with Bench(gateway, *[{A: CALM}] * 8) as bench:
        bench.times(8)
        assert bench.controller.alive()


def test_reconcile_with_hostile_annotations_decides_on_every_other_function(gateway):
    gateway.functions["a"].annotations = {
        "com.tailbound.hold": BOMB,
        "com.tailbound.schedule": "[" * 256 * 1024,
        **{f"com.tailbound.{'x' * 200}{number}": "" for number in range(1000)},
    }
    with Bench(gateway, *[{A: BUSY, B: BUSY}] * 3) as bench:
        bench.reconcile()
        assert gateway.functions["b"].replicas == 4
        assert bench.controller.decisions(A, 1)["problem"]


ABSURD = st.floats(-1e18, 1e18, exclude_min=True, exclude_max=True) | st.sampled_from(
    [0.0, 5e-324, 1e-18, 1e17]
)
"""Numbers that a page may tell, as far as they are read."""


@fuzzed(30)
@given(
    st.dictionaries(st.sampled_from([field.name for field in fields(Observation)]), ABSURD, min_size=1),
    ABSURD.map(abs),
    st.booleans(),
)
def test_reconcile_with_absurd_numbers_of_one_function_decides_on_the_other(numbers, direct, full):
    for texts in ("further", "refused"):
        numbers.pop(texts, None)
    liar = replace(CALM, **numbers)
    with a_gateway(a=Function(2), b=Function(1)) as gateway:
        settings = {"defaults.max_replicas": 10**9, "defaults.boost.max_factor": 3}
        if full:
            settings["fleet.replicas"] = 20
        with Bench(gateway, *[{A: liar, B: BUSY}] * 4, **settings) as bench:
            bench.times(3)
            assert full or gateway.functions["b"].replicas == 4
            bench.direct.load = {A: direct, B: 900.0}
            bench.controller.boost()
            bench.scale_up_between()
            assert full or gateway.functions["b"].replicas > 4


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


@pytest.mark.parametrize("last", [{}, {A: replace(BUSY, sample_age=99.0)}, {A: replace(BUSY, rate=None)}])
def test_reconcile_without_data_exports_no_count(gateway, last):
    with Bench(gateway, {A: BUSY}, last, **{"defaults.mode": "recommend"}) as bench:
        bench.reconcile()
        assert desired(bench) == 4
        bench.reconcile()
        assert desired(bench) is None
        inputs = bench.about()[-1]["inputs"]
        assert inputs_exported(bench) == {name: inputs[name] for name in GAUGES}


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


def test_run_looks_often_while_a_function_has_no_replicas(gateway):
    with (
        Bench(gateway, {}, reads=False) as bench,
        mock.patch.object(bench.platform, "waiting", return_value={A: 0.0}),
    ):
        stop = Stop(bench, 3)
        bench.controller.run(stop)
        assert max(stop.waited) <= WAKE_SECONDS


def test_run_late_reconciles_are_not_made_up_for(gateway):
    with Bench(gateway, reads=False) as bench:
        took = iter([1.0, 7.0, 0.0])
        bench.source.observe = lambda: setattr(bench, "now", bench.now + next(took)) or {}
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


class Moody(Recording):
    """A Prometheus that answers with the load, fails, or hangs for as long as it is told to."""

    def __init__(self, direct):
        super().__init__((), None)
        self.direct, self.mood, self.outlasted = direct, "answers", False

    def observe(self):
        end = time.monotonic() + 20.0
        while self.mood == "hangs" and not self.outlasted:
            time.sleep(0.002)
            self.outlasted = time.monotonic() > end
        if self.mood == "fails":
            raise SourceError("no answer")
        return {A: seen(rate=self.direct.load.get(A, 70.0), up_replicas=1.0)}


class Story(threading.Event):
    """Ends the loop after a story, whose next part happens at each of its waits."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def wait(self, timeout=None):
        if threading.current_thread().name != "reconcile":
            return super().wait(timeout)
        if next(self.parts, None) is None:
            self.set()
        return self.is_set()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["answers", "fails", "hangs"]),
            st.sampled_from([70.0, 270.0, 450.0]),
            st.sampled_from([0.0, 60.0, 3600.0]),
        ),
        min_size=1,
        max_size=5,
    )
)
@example([("hangs", 270.0, 0.0), ("hangs", 450.0, 3600.0), ("answers", 70.0, 0.0), ("hangs", 450.0, 0.0)])
def test_run_follows_the_direct_load_whatever_prometheus_does(story):
    with a_gateway(a=Function(1)) as gateway, Bench(gateway, **{"defaults.max_replicas": 9}) as bench:
        source = Moody(bench.direct)
        bench.source.observe = source.observe
        short = []

        def parts():
            while not bench.lines:
                yield True
            for mood, load, away in story:
                bench.now += away
                source.mood = mood
                bench.direct.load, bench.direct.told = {A: load}, {A: seen(rate=load, up_replicas=1.0)}
                for _ in range(5):
                    bench.now += 1.0
                    yield True
                # The spending window may allow a load somewhat beyond the capacity of 100/s.
                if 115.0 * gateway.functions["a"].replicas < load:
                    short.append((mood, load, away))
            source.mood = "fails"

        with mock.patch.multiple(
            "slo_autoscaler.loop.controller", WAKE_SECONDS=0.005, DIRECT_CHECK_SECONDS=0.005
        ):
            bench.controller.run(Story(parts()))
        assert (short, source.outlasted) == ([], False)


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
