"""The accounts of the error budget: what is spent, what is regretted, and when peaks come again."""

from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.headroom import (
    BURST,
    CAREFUL,
    CREDIT,
    LONGEST,
    PLANNED,
    REGRET,
    Headroom,
)
from slo_autoscaler.law.recurrence import ALIKE, FEWEST, SLACK, Recurrence

USUAL, MOST = 0.8, 1.0
AHEAD = 20.0

burns = st.none() | st.floats(0, 100)
looks = st.lists(st.tuples(st.floats(0, 20), st.floats(0, 1e4), st.floats(0, 2e4), burns), max_size=40)
"""(seconds passed, rate, newest rate, burn); without a burn nothing is told."""


def play(seconds, rate, burn, headroom=None, begin=0.0, quick=0.0, every=5.0):
    """Look every 5 s at one load; returns the accounts and the time."""
    headroom, now = headroom or Headroom(), begin
    while now < begin + seconds:
        now += every
        headroom = headroom.after(now, every, rate, quick, burn)
    return headroom, now


def told(headroom, now, load=0.0):
    return headroom.utilization(USUAL, MOST), headroom.standing(now, load, AHEAD)


def test_budget_in_hand_is_spent_by_planning_nearer_to_the_capacity():
    some, now = play(CREDIT / PLANNED / 2, 100.0, burn=0.0)
    assert USUAL < some.utilization(USUAL, MOST) < MOST
    much, now = play(2 * CREDIT / PLANNED, 100.0, burn=0.0, headroom=some, begin=now)
    assert told(much, now) == (MOST, 0.0)
    assert much.overspent == -CREDIT


def test_misses_at_a_load_that_comes_again_are_regretted_and_its_peak_is_kept():
    calm, now = play(600.0, 100.0, burn=None)
    once, now = play(30.0, 300.0, burn=30.0, headroom=calm, begin=now)
    between, now = play(BURST + 60.0, 100.0, burn=None, headroom=once, begin=now)
    again, now = play(30.0, 300.0, burn=30.0, headroom=between, begin=now)
    utilization, standing = told(again, now, load=100.0)
    assert again.regret > REGRET
    assert standing == 300.0
    assert utilization < USUAL


@given(looks)
def test_the_accounts_stay_within_their_bounds_and_so_does_what_follows(story):
    headroom, now, highest = Headroom(), 0.0, 0.0
    for passed, rate, quick, burn in story:
        now += passed
        headroom = headroom.after(now, passed, rate, quick, burn)
        highest = max(highest, rate, quick)
        assert -CREDIT <= headroom.overspent <= LONGEST
        assert 0.0 <= headroom.regret <= LONGEST
        assert CAREFUL * USUAL - 1e-9 <= headroom.utilization(USUAL, MOST) <= MOST
        assert 0.0 <= headroom.standing(now, rate, AHEAD) <= max(highest, rate) * (1 + 1e-9)


def beginning(*begins):
    return Recurrence(tuple(map(float, begins)))


def test_equal_distances_are_a_rhythm_from_the_fourth_peak_on():
    assert beginning(500, 1100, 1700).distances is None
    assert beginning(500, 1100, 1700, 2300).distances == (600.0, 600.0)
    assert beginning(500, 1100, 1700, 1900).distances is None


@given(st.floats(200.0, 3600.0), st.floats(0.0, 1.0), st.floats(0.0, 60.0), st.floats(0.0, 1e6))
def test_a_peak_within_the_tolerance_of_a_rhythm_is_due_before_it_begins(period, part, ahead, start):
    early = min(part * ALIKE * period, SLACK)
    recurrence = beginning(*(start + number * period for number in range(FEWEST + 1)))
    comes = recurrence.begins[-1] + period - early
    assert recurrence.due(comes - ahead + 1e-6 * comes, ahead)
