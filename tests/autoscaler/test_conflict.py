"""Who else scales a function is known by what it does, and never by what we asked for ourselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.conflict import FEW, WITHIN, ScalerConflict


def after(*counts, every=5.0):
    conflict, now = ScalerConflict(), 0.0
    for count in counts:
        conflict = conflict.read(count, now)
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
        conflict = conflict.read(number, float(number), f"tabular-{number}")
    assert not conflict.foreign
    for number in range(FEW + 1):
        conflict = conflict.read(20 + number, float(number), "tabular-9")
    assert conflict.detected(float(FEW))


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1)), max_size=30))
def test_own_requests_are_never_a_conflict_whatever_is_granted(asks):
    conflict, count, now = ScalerConflict().read(3, 0.0), 3, 0.0
    for wanted, share in asks:
        conflict = conflict.requested(wanted)
        count = round(count + (wanted - count) * share)
        now += 5.0
        conflict = conflict.read(count, now)
        conflict = conflict.read(count, now)
    assert not conflict.foreign
