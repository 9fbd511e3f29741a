"""The accounts of the error budget: what is spent, what is regretted, and what follows from both."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.headroom import (
    BURST,
    CALM,
    CAREFUL,
    CREDIT,
    EXCESS,
    FAMILIAR,
    LONGEST,
    MEAN_MEMORY,
    PEAK_SPAN,
    PLANNED,
    REGRET,
    STEADY,
    SURPRISE,
    Headroom,
)

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


def care(headroom):
    """The utilization when budget is overspent."""
    return USUAL * (1 - (1 - CAREFUL) * headroom.overspent / LONGEST)


def spiky(distances):
    """Spikes to 400/s on 100/s, most of it too late, and the seconds from each begin to the next."""
    headroom, now = play(600.0, 100.0, burn=None)
    for distance in distances:
        headroom, now = play(15.0, 400.0, burn=60.0, headroom=headroom, begin=now)
        headroom, now = play(distance - 15.0, 100.0, burn=None, headroom=headroom, begin=now)
    return headroom, now


def test_at_first_planning_is_as_usual_and_nothing_stands_ready():
    assert told(Headroom(), 0.0, 50.0) == (USUAL, 0.0)


def test_budget_in_hand_is_spent_by_planning_nearer_to_the_capacity():
    some, now = play(CREDIT / PLANNED / 2, 100.0, burn=0.0)
    assert USUAL < some.utilization(USUAL, MOST) < MOST
    much, now = play(2 * CREDIT / PLANNED, 100.0, burn=0.0, headroom=some, begin=now)
    assert told(much, now) == (MOST, 0.0)
    assert much.overspent == -CREDIT


def test_misses_that_are_not_told_change_nothing():
    headroom, now = play(3600.0, 100.0, burn=None)
    assert told(headroom, now) == (USUAL, 0.0)
    assert headroom.overspent == headroom.regret == 0.0


def test_of_a_load_that_jumps_part_of_the_budget_is_kept_for_what_nobody_has_planned():
    headroom, now = play(MEAN_MEMORY, 100.0, burn=None)
    headroom, now = play(15.0, 250.0, burn=None, headroom=headroom, begin=now)
    planned, _ = play(300.0, 100.0, burn=PLANNED, headroom=headroom, begin=now)
    assert planned.overspent == pytest.approx(0.0, abs=1e-6)
    more, _ = play(300.0, 100.0, burn=STEADY, headroom=headroom, begin=now)
    assert more.overspent == pytest.approx(300.0 * (STEADY - PLANNED), rel=0.05)


def test_of_a_load_that_has_been_steady_for_long_nearly_all_of_the_budget_may_be_spent():
    unknown, _ = play(100.0, 100.0, burn=STEADY)
    assert unknown.overspent > 0.9 * 100.0 * (STEADY - PLANNED)
    known, now = play(FAMILIAR, 100.0, burn=None)
    for peak, rest in ((100.0, 0.0), (CALM * 100.0, 0.0), (1.6 * 100.0, 0.5), (SURPRISE * 103.0, 1.0)):
        quick, begin = play(5.0, 100.0, burn=None, headroom=known, begin=now, quick=peak)
        wavy, _ = play(300.0, 100.0, burn=STEADY, headroom=quick, begin=begin)
        assert wavy.overspent == pytest.approx(rest * 300.0 * (STEADY - PLANNED), abs=1e-6)


def test_sudden_peaks_leave_nothing_to_be_planned_with_until_they_are_known_or_an_hour_is_over():
    calm, now = play(FAMILIAR, 100.0, burn=None)
    for _ in range(2):
        quiet, now = play(BURST + 5.0, 10.0, burn=None, headroom=calm, begin=now)
        calm, now = play(BURST + 5.0, 100.0, burn=None, headroom=quiet, begin=now)
    assert calm.recurrence.distances is None
    seen, now = play(BURST, 100.0, burn=None, headroom=calm, begin=now)
    after, _ = play(300.0, 100.0, burn=PLANNED, headroom=seen, begin=now)
    assert after.overspent == pytest.approx(seen.overspent, abs=1e-6)
    later, now = play(PEAK_SPAN, 100.0, burn=None, headroom=seen, begin=now)
    after, _ = play(300.0, 100.0, burn=STEADY, headroom=later, begin=now)
    assert after.overspent == pytest.approx(later.overspent, abs=1e-6)


def test_misses_that_credit_pays_for_are_not_regretted():
    calm, now = play(600.0, 100.0, burn=None)
    rich, now = play(300.0, 100.0, burn=0.0, headroom=calm, begin=now)
    spent, now = play(-rich.overspent / 10.0, 100.0, burn=10.0, headroom=rich, begin=now)
    assert spent.regret <= 5.0 * 10.0, "no more than what one look may hold"
    poor, _ = play(30.0, 100.0, burn=10.0, headroom=spent, begin=now)
    assert poor.regret > 200.0


def test_little_overspent_is_chance_and_much_is_not():
    assert not Headroom(overspent=EXCESS).excessive
    assert Headroom(overspent=EXCESS + 1.0).excessive


def test_the_first_misses_at_a_new_load_are_spent_and_not_regretted():
    calm, now = play(600.0, 100.0, burn=None)
    after, now = play(60.0, 300.0, burn=30.0, headroom=calm, begin=now)
    assert after.overspent > REGRET
    assert after.regret == 0.0
    assert told(after, now) == (pytest.approx(care(after)), 0.0)


def test_misses_at_a_load_that_comes_again_are_regretted_and_its_peak_is_kept():
    calm, now = play(600.0, 100.0, burn=None)
    once, now = play(30.0, 300.0, burn=30.0, headroom=calm, begin=now)
    between, now = play(BURST + 60.0, 100.0, burn=None, headroom=once, begin=now)
    again, now = play(30.0, 300.0, burn=30.0, headroom=between, begin=now)
    utilization, standing = told(again, now, load=100.0)
    assert again.regret > REGRET
    assert standing == 300.0
    assert utilization == pytest.approx(care(again))
    assert utilization < USUAL


def test_a_burst_is_no_earlier_peak_of_itself():
    calm, now = play(600.0, 100.0, burn=None)
    going_on, _ = play(BURST - 5.0, 300.0, burn=30.0, headroom=calm, begin=now)
    assert going_on.regret == 0.0


def test_some_regret_keeps_a_part_of_the_peak():
    headroom = Headroom(regret=REGRET / 4).after(0.0, 0.0, 100.0, 300.0, PLANNED)
    assert headroom.standing(0.0, 100.0, AHEAD) == 150.0
    assert headroom.standing(0.0, 400.0, AHEAD) == 400.0, "a load above the peak stands for itself"


def test_a_peak_is_forgotten_though_it_is_regretted():
    peak = Headroom(regret=LONGEST, mean_rate=100.0).after(0.0, 0.0, 0.0, 300.0, 0.0)
    idle, now = play(PEAK_SPAN + BURST + 10.0, 0.0, burn=0.0, headroom=peak)
    assert idle.regret == LONGEST, "without traffic nothing is earned"
    assert idle.standing(now, 0.0, AHEAD) == 0.0


def test_quiet_time_pays_regret_off():
    peak = Headroom(regret=REGRET, mean_rate=100.0)
    paid, now = play(REGRET / PLANNED + 5.0, 100.0, burn=0.0, headroom=peak)
    assert (paid.regret, paid.standing(now, 100.0, AHEAD)) == (0.0, 0.0)


def test_budget_is_counted_in_requests_not_in_seconds():
    # The same misses weigh ten times as much in a minute that has ten times the traffic.
    base = Headroom(mean_rate=100.0, known_for=3600.0)
    small = base.after(5.0, 5.0, 10.0, 0.0, 20.0).overspent
    large = base.after(5.0, 5.0, 100.0, 0.0, 20.0).overspent
    assert large == pytest.approx(10 * small, rel=0.01)


def test_peaks_that_come_at_equal_distances_are_stood_for_when_they_are_due():
    headroom, now = spiky([600.0] * 4)
    between, then = spiky([600.0] * 3 + [300.0])
    assert headroom.standing(now, 100.0, AHEAD) == 400.0
    assert between.standing(then, 100.0, AHEAD) == 0.0


def test_peaks_that_come_at_any_time_are_stood_for_at_all_times():
    headroom, now = spiky([600.0, 400.0, 700.0, 300.0])
    assert headroom.standing(now, 100.0, AHEAD) == 400.0


def test_work_is_resumed_when_a_load_of_the_last_hour_follows_nothing():
    busy, now = play(60.0, 100.0, burn=0.0)
    paused, now = play(30.0, 0.0, burn=0.0, headroom=busy, begin=now)
    assert paused.resumed(now, 100.0)
    assert not paused.resumed(now, 101.0), "so much there never was"
    assert not busy.resumed(60.0, 100.0), "nothing had stopped"
    assert not Headroom().resumed(0.0, 100.0)


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


@given(looks, st.floats(0, 1000))
def test_more_misses_never_leave_more_in_hand(story, more):
    calm = worse = Headroom()
    now = 0.0
    for passed, rate, quick, burn in story:
        now += passed
        calm = calm.after(now, passed, rate, quick, burn)
        worse = worse.after(now, passed, rate, quick, None if burn is None else burn + more)
    assert worse.overspent >= calm.overspent
    assert worse.regret >= calm.regret


@given(looks, st.integers(-(10**6), 10**6))
def test_a_clock_that_jumps_changes_no_account(story, jump):
    standing = moved = Headroom()
    now = 0.0
    for passed, rate, quick, burn in story:
        now += round(passed)
        standing = standing.after(now, passed, rate, quick, burn)
    moved = standing.moved(jump)
    assert told(moved, now + jump, 10.0) == told(standing, now, 10.0)
    same = {name: getattr(standing, name) for name in ("burst", "peaks", "recurrence")}
    assert replace(moved, **same) == standing
