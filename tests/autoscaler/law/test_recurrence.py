"""When peaks begin, when that is a rhythm, and when the next one is due."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.recurrence import ALIKE, BURST, FEWEST, HIGH, SLACK, SUDDEN, Recurrence


def looks(story, recurrence=None, known=0.0):
    """Look at each (seconds, load), as the accounts do."""
    recurrence, seen = recurrence or Recurrence(), []
    for when, load in story:
        lately = [value for then, value in seen if when - then < BURST]
        earlier = max((value for then, value in seen if when - then >= BURST), default=0.0)
        recurrence = recurrence.after(when, load, min(lately, default=load), known, earlier)
        seen.append((when, load))
        known = max(known, load)
    return recurrence


def spikes(at, base=100.0, high=400.0, until=4000):
    """Spikes of ten seconds on a steady load, looked at every five seconds."""
    return [
        (float(now), high if any(0 <= now - begin < 10 for begin in at) else base)
        for now in range(0, until, 5)
    ]


def beginning(*begins):
    return Recurrence(tuple(map(float, begins)))


def test_a_peak_begins_once_when_the_load_has_doubled():
    assert looks(spikes([500, 1100])).begins == (500.0, 1100.0)


@pytest.mark.parametrize(
    ("story", "known", "begins"),
    [
        ([(0.0, 100.0), (5.0, 100.0)], 0.0, ()),  # what a function begins with
        ([(0.0, 1.0), (5.0, 3.0)], 100.0, ()),  # a rise is none before it is high
        ([(0.0, 0.0), (5.0, 0.0)], 0.0, ()),
        ([(0.0, 0.0), (5.0, 60.0), (10.0, 100.0)], 100.0, (5.0,)),  # work that is taken up again
    ],
)
def test_a_peak_begins_with_a_sudden_rise_to_a_high_load(story, known, begins):
    assert looks(story, known=known).begins == begins


def test_equal_distances_are_a_rhythm_from_the_fourth_peak_on():
    assert looks(spikes([500, 1100, 1700])).distances is None
    assert looks(spikes([500, 1100, 1700, 2300])).distances == (600.0, 600.0)


def test_distances_are_alike_within_a_tenth():
    assert beginning(0, 600, 1200, 1855).distances == (600.0, 655.0)
    assert beginning(0, 600, 1200, 1865).distances is None


def test_one_peak_out_of_step_ends_the_rhythm_until_there_is_a_new_one():
    recurrence = looks(spikes([500, 1100, 1700, 2300, 2600]))
    assert recurrence.distances is None
    assert recurrence.due(2700.0, 0.0)
    assert looks(spikes([500, 1100, 1700, 2300, 2600, 3200, 3800], until=5000)).distances is None
    assert looks(spikes([500, 2600, 3200, 3800, 4400], until=5000)).distances == (600.0, 600.0)


def test_a_peak_was_repeated_if_it_was_not_the_first_and_is_not_long_ago():
    assert not beginning(500).repeated(600.0, 3600.0)
    assert beginning(500, 1100).repeated(4699.0, 3600.0)
    assert not beginning(500, 1100).repeated(4700.0, 3600.0)


def test_without_a_rhythm_a_peak_is_due_at_any_time():
    assert Recurrence().due(5.0, 0.0)
    assert beginning(500, 1100).due(1105.0, 0.0)


def test_with_a_rhythm_it_is_due_one_look_ahead_of_its_time_and_for_as_long_as_it_does_not_come():
    recurrence = beginning(0, 600, 1200, 1800)
    due_from = 1800.0 + 600.0 - SLACK - 20.0
    assert not recurrence.due(1805.0, 20.0)
    assert not recurrence.due(due_from - 1.0, 20.0)
    assert recurrence.due(due_from, 20.0)
    assert recurrence.due(9999.0, 20.0)


def test_peaks_that_follow_quickly_are_told_apart_when_the_load_fell_between():
    story = [(float(now), 400.0 if now % 80 < 40 else 40.0) for now in range(0, 500, 5)]
    assert looks(story).begins == (240.0, 320.0, 400.0, 480.0)


@given(st.lists(st.tuples(st.floats(0.5, 60.0), st.floats(0.0, 1e4)), max_size=80))
def test_no_more_is_kept_than_a_rhythm_takes_and_only_what_rises_begins(story):
    recurrence, now, last = Recurrence(), 0.0, 0.0
    for passed, load in story:
        now += passed
        after = recurrence.after(now, load, last, 1e3, 1e3)
        if after.begins != recurrence.begins:
            assert after.begins[-1] == now
            assert load >= max(HIGH * 1e3, SUDDEN * last)
        recurrence, last = after, load
        assert len(recurrence.begins) <= FEWEST + 1
        assert all(one < other for one, other in pairwise(recurrence.begins))


@given(st.floats(200.0, 3600.0), st.floats(0.0, 1.0), st.floats(0.0, 60.0), st.floats(0.0, 1e6))
def test_a_peak_within_the_tolerance_of_a_rhythm_is_due_before_it_begins(period, part, ahead, start):
    early = min(part * ALIKE * period, SLACK)
    recurrence = beginning(*(start + number * period for number in range(FEWEST + 1)))
    comes = recurrence.begins[-1] + period - early
    assert recurrence.due(comes - ahead + 1e-6 * comes, ahead)


@given(st.lists(st.integers(0, 10**5), max_size=FEWEST + 1), st.integers(-(10**5), 10**5))
def test_a_clock_that_jumps_changes_no_rhythm(begins, jump):
    recurrence = beginning(*sorted(begins))
    moved = recurrence.moved(float(jump))
    assert moved.distances == recurrence.distances
    assert moved.due(10.0**5 + jump, 20.0) == recurrence.due(10.0**5, 20.0)
