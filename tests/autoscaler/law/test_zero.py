"""When a function without replicas gets some: for what waits, and for what returns."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.decide import decide, raised
from slo_autoscaler.law.foresight.history import SLOT, History
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.zero import rested
from slo_autoscaler.model import Reason, Scale
from slo_autoscaler.signals.record import Observation
from support.builders import a_spec, observations, remembering, seen, specs

EMPTY = Scale(0, 0, waiting=0.0)
PERIOD, FIRST = 60, 23
"""Slots between two peaks, and to the first."""
quiet = seen(rate=0.0, in_flight=0.0, up_replicas=1.0, attainment=None, samples=0.0)


def peaks(last):
    """Return the history of 100/s for half a minute in every five, up to slot ``last``."""
    history = History()
    for slot in range(last):
        busy = slot >= FIRST and (slot - FIRST) % PERIOD < 6
        history = history.after([(slot * SLOT, 100.0 if busy else 0.0)], 15.0)
    return history


@given(specs, observations | st.just(Observation()), st.floats(0.0, 1e6), st.floats(0.0, 1e3))
def test_function_without_replicas_gets_some_if_and_only_if_requests_come(spec, last, waiting, now):
    scale = replace(EMPTY, waiting=waiting)
    known = rested(last, Observation())
    memory = remembering(Memory.initial(scale, 0.0), idle_since=0.0)
    decision, after = decide(Situation(spec, known, scale, memory, now))
    if waiting:
        lowest = min(max(1, spec.min_replicas), spec.max_replicas)
        assert lowest <= decision.replicas <= spec.max_replicas
        assert decision.reason is Reason.REQUESTS_WAIT
        between, then = raised(Situation(spec, known, scale, memory, now), math.inf)
        assert (between.replicas, then.traffic.idle_since) == (decision.replicas, None)
    else:
        assert (decision.replicas, decision.reason) == (None, Reason.SCALED_TO_ZERO)
        assert raised(Situation(spec, known, scale, memory, now), math.inf) is None
    assert after.traffic.idle_since is None


def test_function_without_replicas_wakes_for_a_request_that_one_still_serving_has_had():
    had = replace(quiet, rate=0.5)
    decision, _ = decide(Situation(a_spec(), had, EMPTY, Memory.initial(EMPTY, 0.0), 0.0))
    assert (decision.replicas, decision.reason) == (1, Reason.REQUESTS_WAIT)


@given(observations, observations)
def test_rested_keeps_what_replicas_told_and_no_load(last, now):
    told = rested(last, replace(now, capacity=None))
    assert (told.capacity, told.slo_latency, told.slo_objective) == (
        *(last.capacity, last.slo_latency, last.slo_objective),
    )
    assert told.arrival_rate == told.in_flight == 0.0
    served = replace(now, capacity=1.0)
    assert rested(last, served) is served


def test_zero_wakes_one_start_up_before_the_load_returns_and_not_earlier():
    spec, memory = a_spec(start_up_time=10.0), Memory.initial(EMPTY, 0.0)
    memory = remembering(memory, history=peaks(180))
    known, due = rested(quiet, Observation()), (FIRST + 3 * PERIOD) * SLOT
    woken = []
    for now in range(900, int(due), 5):
        decision, _ = decide(Situation(spec, known, EMPTY, memory, float(now)))
        if decision.replicas is not None:
            assert decision.reason is Reason.PEAK_EXPECTED
            woken.append(now)
    assert due - 30.0 <= woken[0] <= due - 15.0


@pytest.mark.parametrize(("now", "idle"), [(900.0, True), (1000.0, False)])
def test_idle_function_whose_load_is_about_to_return_does_not_go(now, idle):
    one, spec = Scale(1, 1), a_spec(scale_to_zero_after=60.0)
    memory = remembering(Memory.initial(one, 0.0), idle_since=0.0, seen_at=now - 5.0, history=peaks(180))
    decision, _ = decide(Situation(spec, quiet, one, memory, now))
    assert (decision.replicas == 0, decision.reason is Reason.IDLE) == (idle, idle)


def test_zero_counts_what_followed_rest_before():
    """Each time that load came out of nothing it needed three replicas."""
    spec, scale = a_spec(max_replicas=9), replace(EMPTY, waiting=1.0)
    history = History()
    for slot in range(400):
        history = history.after([(slot * SLOT, 250.0 if slot % 8 >= 4 else 0.0)], 15.0)
    memory = remembering(Memory.initial(scale, 0.0), history=replace(history, period=0))
    decision, _ = decide(Situation(spec, rested(quiet, Observation()), scale, memory, 2000.0))
    assert decision.replicas >= 3
