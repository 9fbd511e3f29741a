"""Who else scales a function is known by what it does, and never by what we asked for ourselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.loop.conflict import FEW, WITHIN, ScalerConflict
from slo_autoscaler.model import Scale


def after(*counts, every=5.0):
    conflict, now = ScalerConflict(), 0.0
    for count in counts:
        conflict = conflict.read(Scale(count, count), now)
        now += every
    return conflict, now - every


@pytest.mark.parametrize(
    ("counts", "every", "foreign", "detected"),
    [
        ((7,), 5.0, 0, False),  # the first count that is seen is nobody's change
        ((2, 3, 4), 5.0, 2, False),  # people do that
        ((2, 3, 4, 5), 5.0, 3, True),
        ((2, 3, 4, 5, 6, 7), 5.0, 3, True),
        ((2, 3, 4, 5), WITHIN, 3, False),  # far apart
        ((0, 1, 0, 1, 0, 1), 5.0, 2, False),  # waking from zero is the platform's business
    ],
)
def test_several_changes_within_minutes_are_another_scaler(counts, every, foreign, detected):
    conflict, now = after(*counts, every=every)
    assert (len(conflict.foreign), conflict.detected(now)) == (foreign, detected)
    assert not conflict.detected(now + WITHIN), "it is over when nothing has changed for long"
    assert len(conflict.foreign) <= FEW, "no more is remembered than is needed"


def test_a_revision_that_takes_over_is_not_another_scaler_but_its_changes_are():
    conflict = ScalerConflict()
    for number in range(2 * FEW):
        conflict = conflict.read(Scale(number, 1, revision=f"tabular-{number}"), float(number))
    assert not conflict.foreign
    for number in range(FEW + 1):
        conflict = conflict.read(Scale(20 + number, 1, revision="tabular-9"), float(number))
    assert conflict.detected(float(FEW))


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1)), max_size=30))
def test_own_requests_are_never_a_conflict_whatever_is_granted(asks):
    conflict, count, now = ScalerConflict().read(Scale(3, 3), 0.0), 3, 0.0
    for wanted, share in asks:
        conflict = conflict.requested(wanted)
        count = round(count + (wanted - count) * share)
        now += 5.0
        conflict = conflict.read(Scale(count, count), now)
        conflict = conflict.read(Scale(count, count), now)
    assert not conflict.foreign


@given(st.integers(0, 20), st.lists(st.integers(1, 20), min_size=1, max_size=3))
def test_own_request_that_is_reported_late_is_no_conflict(before, requested):
    conflict = ScalerConflict().read(Scale(before, before), 0.0)
    for replicas in requested:
        conflict = conflict.requested(replicas).read(Scale(before, before), 5.0)
    conflict = conflict.read(Scale(requested[-1], before), 10.0)
    assert not conflict.foreign
    assert conflict.set_by_hand(10.0, 300.0) == ""


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_an_own_request_that_was_reported_excuses_no_later_change(before, requested, after):
    conflict = ScalerConflict().read(Scale(before, before), 0.0).requested(requested)
    conflict = conflict.read(Scale(requested, before), 5.0).read(Scale(after, before), 10.0)
    assert bool(conflict.foreign) == (after != requested)


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([Scale(2, 2), Scale(5, 2, scaler="kubectl")], "from 2 to 5 by kubectl"),
        ([Scale(2, 2), Scale(5, 2)], "from 2 to 5"),  # the platform does not tell the client
        ([Scale(2, 2), Scale(5, 2, scaler="")], ""),  # a deployment
        ([Scale(2, 2), Scale(5, 2, revision="b")], ""),  # likewise
        ([Scale(2, 2), Scale(5, 2, scaler="kubectl"), Scale(2, 2, scaler="")], ""),
        ([Scale(2, 2), Scale(5, 2, scaler="kubectl"), Scale(5, 5, revision="b")], ""),
        ([Scale(2, 2), Scale(0, 0)], ""),  # zero has a reason of its own
        ([Scale(count, count, scaler="other") for count in (2, 3, 4, 5)], ""),  # another autoscaler
    ],
)
def test_set_by_hand_is_one_clients_change_of_the_count_alone(counts, text):
    conflict = ScalerConflict()
    for scale in counts:
        conflict = conflict.read(scale, 100.0)
    assert conflict.set_by_hand(100.0, 0.0) == text


def test_set_by_hand_ends_after_its_time():
    conflict = ScalerConflict().read(Scale(2, 2), 0.0).read(Scale(5, 2), 100.0).read(Scale(5, 5), 400.0)
    assert conflict.set_by_hand(400.0, 300.0) == "from 2 to 5"
    assert conflict.set_by_hand(400.1, 300.0) == ""


def test_set_by_hand_ends_with_an_own_request():
    conflict = ScalerConflict().read(Scale(2, 2), 0.0).read(Scale(5, 2), 100.0).requested(6)
    assert conflict.read(Scale(6, 2), 105.0).set_by_hand(105.0, 300.0) == ""


def test_set_by_hand_begins_at_an_own_request_that_was_never_reported():
    conflict = ScalerConflict().read(Scale(2, 2), 0.0).requested(5).read(Scale(6, 6), 5.0)
    assert conflict.set_by_hand(6.0, 60.0) == "from 5 to 6"
