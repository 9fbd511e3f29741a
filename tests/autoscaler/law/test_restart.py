"""What a new autoscaler takes over from the history of the one before it."""

from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.base.calibration import FACTORS
from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.foresight.history import SLOT
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.restart import warm
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Scale
from slo_autoscaler.signals.record import Recorded
from support.builders import a_spec, seen

FIVE = Scale(5, 5)
NOW = 10_000.0
SPEC = a_spec()


def warmed(**past):
    return warm(SPEC, Memory.initial(FIVE, NOW), Recorded(**past), NOW)


def ago(values):
    """Return (seconds ago, value), the last value now."""
    return tuple((15.0 * number, value) for number, value in enumerate(reversed(values)))


STEADY = [100.0] * 200


def left(memory):
    return memory.need.budget.remaining(SPEC.budget_period)


def test_nothing_known_changes_nothing():
    assert warmed() == Memory.initial(FIVE, NOW)


def test_correction_and_budget_go_on_where_they_were():
    memory = warmed(rate=ago(STEADY), correction=ago([3.0, 2.0]), unspent=ago([0.9, -1.5]))
    assert memory.replica.calibration.factor == pytest.approx(2.0)
    assert left(memory) == pytest.approx(-1.5)
    assert warmed(correction=ago([0.0])).replica.calibration.factor == 1.0


def test_what_followed_what_is_known_again():
    rates = ([100.0] * 8 + [400.0] * 8) * 12
    memory = warmed(rate=ago(rates))
    assert memory.traffic.history.mean == pytest.approx(250.0, rel=0.2)
    assert memory.traffic.history.period == pytest.approx(16 * 3, abs=1), "slots of 5 s"


def test_the_start_up_time_is_the_last_that_was_exported():
    assert warmed(start_up=ago([20.0, 35.0])).platform.start_up_time == 35.0
    assert warmed(start_up=ago([1e9])).platform.start_up_time == TUNING.longest_start_up


def test_the_order_of_the_past_does_not_matter_and_the_future_is_left_out():
    past = ago([100.0, 200.0] * 50)
    assert warmed(rate=past[::-1]) == warmed(rate=past)
    assert warmed(rate=((-1e6, 7.0), *past)) == warmed(rate=past)


def test_a_start_up_time_of_new_nodes_is_not_taken_for_that_of_others():
    new_node = ((5.0, 180.0),)
    apart, alike = (warmed(start_up=((5.0, time),), new_node_start_up=new_node) for time in (20.0, 180.0))
    assert (apart.platform.start_up_time, apart.platform.new_node_start_up) == (20.0, 180.0)
    assert (alike.platform.start_up_time, alike.platform.new_node_start_up) == (None, 180.0)


entries = st.lists(st.tuples(st.floats(-50, 500), st.floats(-5, 1e4)), max_size=30).map(tuple)


@given(entries, entries, entries, entries)
def test_whatever_the_past_says_the_memory_stays_sound(rate, start_up, correction, unspent):
    memory = warmed(rate=rate, start_up=start_up, correction=correction, unspent=unspent)
    assert FACTORS[0] <= memory.replica.calibration.factor <= FACTORS[-1]
    assert 0.0 <= (memory.platform.start_up_time or 0.0) <= TUNING.longest_start_up
    assert (memory.traffic.history.begin + len(memory.traffic.history.rates) - 1) * SLOT <= NOW
    assert isfinite(left(memory))
    decision, _ = decide(Situation(SPEC, seen(rate=0.0, in_flight=0.0, up_replicas=5.0), FIVE, memory, NOW))
    assert decision.replicas is None, "the count stands for one start-up"
