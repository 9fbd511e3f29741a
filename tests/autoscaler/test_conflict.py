"""Who else scales a function is known by what it does, and never by what we asked for ourselves."""

from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.conflict import FEW, WITHIN, Rival


def after(*counts, rival=None, every=5.0):
    rival, now = rival or Rival(), 0.0
    for count in counts:
        rival = rival.read(count, now)
        now += every
    return rival, now - every


def test_the_first_count_that_is_seen_is_nobody_s_change():
    rival, now = after(7)
    assert not rival.foreign
    assert not rival.suspected(now)


def test_several_changes_within_minutes_are_another_scaler():
    rival, now = after(2, 3, 4)
    assert not rival.suspected(now), "people do that"
    rival, now = after(2, 3, 4, 5)
    assert rival.suspected(now)


def test_changes_that_are_far_apart_are_not():
    rival, now = after(2, 3, 4, 5, every=WITHIN)
    assert not rival.suspected(now)


def test_it_is_over_when_nothing_has_changed_for_long():
    rival, now = after(2, 3, 4, 5)
    assert not rival.suspected(now + WITHIN)


def test_waking_from_zero_is_the_platforms_business():
    rival, _ = after(0, 1, 0, 1, 0, 1)
    assert len(rival.foreign) == 2, "only that it went to zero"


def test_a_revision_that_takes_over_is_not_another_scaler_but_its_changes_are():
    rival = Rival()
    for number in range(2 * FEW):
        rival = rival.read(number, float(number), f"tabular-{number}")
    assert not rival.foreign
    for number in range(FEW + 1):
        rival = rival.read(20 + number, float(number), "tabular-9")
    assert rival.suspected(float(FEW))


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1)), max_size=30))
def test_what_we_ask_for_is_never_another_scaler_however_much_of_it_is_given(asks):
    rival, count, now = Rival().read(3, 0.0), 3, 0.0
    for wanted, share in asks:
        rival = rival.asked(wanted)
        count = round(count + (wanted - count) * share)
        now += 5.0
        rival = rival.read(count, now)
        rival = rival.read(count, now)
    assert not rival.foreign


@given(st.lists(st.integers(0, 20), max_size=30))
def test_no_more_is_remembered_than_is_needed(counts):
    rival, _ = after(*counts)
    assert len(rival.foreign) <= FEW
