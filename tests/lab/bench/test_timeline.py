"""What follows from how many replicas there were."""

from datetime import UTC, datetime

import pytest

from tailbound_lab.load.records import (
    Change,
    Point,
    changes,
    replica_seconds,
    reversals,
    scale_downs,
    start_ups,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_the_cost_is_the_wanted_count_over_time():
    assert replica_seconds([(-1, 1), (4, 3), (8, 2), (30, 5)], 10) == 4 * 1 + 4 * 3 + 2 * 2
    assert replica_seconds([(-2, 1), (-1, 2)], 10) == 20
    assert replica_seconds([], 10) is None


def test_the_log_of_a_function_has_its_changes_among_other_lines_and_other_times():
    lines = [
        "2026-01-01T11:59:59.000+00:00 replicas: 1 -> 9",
        "2026-01-01T12:00:01.500+00:00 replicas: 1 -> 3",
        "2026-01-01T12:00:02.000+00:00 replicas are fine",
        "2026-01-01T12:00:04.000+00:00 replicas: 0 -> 1: requests are held",
        "2026-01-01T12:00:11.000+00:00 replicas: 3 -> 1",
    ]
    assert changes(lines, NOON, 10) == [Change(1.5, 1, 3), Change(4, 0, 1)]


def test_a_flip_is_a_turn_soon_after_the_change_before():
    up, more, down, late = Change(1, 1, 2), Change(2, 2, 4), Change(4, 4, 3), Change(20, 3, 5)
    assert reversals([up, more, down, late], within=2) == 1
    assert reversals([up, more, down, late], within=1) == 0
    assert reversals([up, more, down, late], within=16) == 2
    assert reversals([up, more], within=9) == 0


def test_only_what_lowers_the_count_in_the_time_given_is_a_scale_down():
    found = [Change(1, 5, 4), Change(2, 4, 5), Change(3, 5, 1), Change(9, 3, 2)]
    assert scale_downs(found, 2, 8) == 1


@pytest.mark.parametrize(
    ("points", "took"),
    [
        # There from the beginning: nobody saw it start.
        ([Point(0, 1, 1), Point(5, 1, 1)], []),
        ([Point(0, 1, 1), Point(2, 3, 1), Point(3.5, 3, 2), Point(5, 3, 3)], [1.5, 3]),
        # From zero.
        ([Point(0, 0, 0), Point(2, 1, 0), Point(3, 1, 1)], [1]),
        # Taken back before it came, and then wanted again.
        ([Point(0, 1, 1), Point(1, 2, 1), Point(2, 1, 1), Point(6, 2, 1), Point(7, 2, 2)], [1]),
        # One that crashed and came back was not asked for.
        ([Point(0, 2, 2), Point(1, 2, 1), Point(2, 2, 2)], []),
    ],
)
def test_a_start_up_lasts_from_wanting_a_replica_to_having_it(points, took):
    assert start_ups(points) == took
