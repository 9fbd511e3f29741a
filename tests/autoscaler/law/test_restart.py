"""What a new autoscaler takes over from the history of the one before it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.values import a_spec, seen
from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.forecast import GROWTH_PER_SECOND
from slo_autoscaler.law.headroom import CREDIT, LONGEST, REGRET
from slo_autoscaler.law.memory import TargetState
from slo_autoscaler.law.restart import LONGEST_START_UP, Past, smoothed, warm
from slo_autoscaler.model import Scale

FIVE = Scale(5, 5)
NOW = 1000.0


def fresh(**changes):
    return TargetState.initial(a_spec(**changes), FIVE, NOW)


def test_nothing_known_changes_nothing():
    assert warm(fresh(), Past(), NOW) == fresh()


def test_the_rates_of_the_past_are_the_history_of_the_forecast():
    rising = tuple((float(ago), 400.0 - 10.0 * ago) for ago in range(25, 0, -5))
    spec = a_spec(max_replicas=20)
    cold, _ = decide(spec, seen(rate=400.0, up_replicas=5.0), FIVE, fresh(), NOW)
    known, _ = decide(
        spec, seen(rate=400.0, up_replicas=5.0), FIVE, warm(fresh(), Past(rate=rising), NOW), NOW
    )
    assert cold.inputs["forecast"] == 400.0
    assert known.inputs["forecast"] == pytest.approx(
        400.0 * (1.0 + GROWTH_PER_SECOND * known.inputs["horizon"])
    )
    assert known.replicas > 5


def test_what_is_older_than_the_history_is_forgotten():
    state = warm(fresh(), Past(rate=((31.0, 1e6), (10.0, 5.0))), NOW)
    assert state.rates.within(NOW, 100.0) == ((990.0, 5.0),)


def test_the_last_correction_is_taken_over_unless_it_is_none():
    assert warm(fresh(), Past(correction=((5.0, 0.7), (10.0, 0.9))), NOW).correction == 0.7
    assert warm(fresh(), Past(correction=((5.0, 0.0), (6.0, 3.0))), NOW).correction == 1.0


def test_the_accounts_of_the_error_budget_are_taken_over():
    past = Past(overspent=((10.0, 1.0), (5.0, 300.0)), regret=((5.0, REGRET),), peak=((5.0, 400.0),))
    headroom = warm(fresh(), past, NOW).headroom
    assert (headroom.overspent, headroom.regret) == (300.0, REGRET)
    assert headroom.standing(NOW, 100.0, 20.0) == 400.0


def test_start_ups_are_the_spells_of_pending_replicas_from_begin_to_end():
    pending = tuple(zip(range(60, 0, -5), (2, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0), strict=True))
    state = warm(fresh(), Past(pending=tuple((float(ago), float(count)) for ago, count in pending)), NOW)
    # The first spell began nobody knows when; the others took 20 s and 10 s.
    assert state.start_up_time == 15.0
    assert state.pending_since is None


def test_a_spell_that_lasts_began_when_it_began():
    state = warm(fresh(), Past(pending=((15.0, 0.0), (10.0, 2.0), (5.0, 2.0))), NOW)
    assert (state.start_up_time, state.pending_since) == (None, 990.0)


def test_what_took_too_long_counts_as_the_longest_start_up():
    assert smoothed(None, 1e9) == LONGEST_START_UP
    assert smoothed(10.0, 20.0) == 15.0
    assert smoothed(None, -5.0) == 0.0


entries = st.lists(st.tuples(st.floats(-50, 500), st.floats(-5, 1e4)), max_size=30).map(tuple)


@given(entries, entries, entries, entries, entries, entries)
def test_whatever_the_past_says_the_state_stays_sound(rate, pending, correction, overspent, regret, peak):
    state = warm(fresh(), Past(rate, pending, correction, overspent, regret, peak), NOW)
    assert -CREDIT <= state.headroom.overspent <= LONGEST
    assert 0.0 <= state.headroom.regret <= LONGEST
    assert 0.0 < state.correction <= 1.0
    assert state.start_up_time is None or 0.0 <= state.start_up_time <= LONGEST_START_UP
    assert all(when <= NOW for when, _ in state.rates.entries)
    decision, _ = decide(a_spec(), seen(rate=0.0, in_flight=0.0, up_replicas=5.0), FIVE, state, NOW)
    assert decision.replicas is None, "the count stands for one stabilization window"
