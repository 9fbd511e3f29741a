"""What a new autoscaler takes over from the history of the one before it."""

from hypothesis import given
from hypothesis import strategies as st

from autoscaler.values import a_spec, seen
from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.headroom import CREDIT, LONGEST, REGRET
from slo_autoscaler.law.memory import TargetState
from slo_autoscaler.law.restart import LONGEST_START_UP, Past, warm
from slo_autoscaler.model import Scale

FIVE = Scale(5, 5)
NOW = 1000.0


def fresh(**changes):
    return TargetState.initial(a_spec(**changes), FIVE, NOW)


def test_nothing_known_changes_nothing():
    assert warm(fresh(), Past(), NOW) == fresh()


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
