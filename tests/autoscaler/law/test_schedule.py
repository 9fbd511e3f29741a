"""Which entries of a schedule are in force at a moment, also where clocks are changed."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.schedule import bounds, in_force
from slo_autoscaler.settings.schedule import ScheduleEntry


def an_entry(cron, minutes, least=4, most=None, zone="Europe/Berlin"):
    return ScheduleEntry(
        cron=cron, duration=60.0 * minutes, min_replicas=least, max_replicas=most, timezone=zone
    )


def at(text):
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("now", "active"),
    [
        ("2026-11-30T07:59:59+01:00", False),
        ("2026-11-30T08:00:00+01:00", True),
        ("2026-11-30T09:59:59.9+01:00", True),
        ("2026-11-30T10:00:00+01:00", False),
        ("2026-11-29T09:00:00+01:00", False),  # a Sunday
    ],
)
def test_entry_is_in_force_from_its_start_for_its_duration(now, active):
    assert bounds((an_entry("0 8 * * 1-5", 120),), at(now)) == (4 if active else None, None)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        # At 2:00 the clock is put forward to 3:00: 2:30 does not exist.
        ("2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"),
        # At 3:00 it is put back to 2:00: 2:30 comes twice.
        ("2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"),
    ],
)
def test_entry_in_an_hour_that_the_clock_changes_comes_once_for_its_duration(begin, end):
    entry, midnight = an_entry("30 2 * * *", 60), at(begin).astimezone(UTC).replace(hour=0, minute=0)
    minutes = [midnight + timedelta(minutes=minute) for minute in range(-120, 600)]
    assert [now for now in minutes if in_force(entry, now)] == [
        now for now in minutes if at(begin) <= now < at(end)
    ]


@pytest.mark.parametrize("day", ["2026-03-28", "2026-03-29", "2026-03-30", "2026-10-25"])
def test_entry_begins_by_the_wall_clock_on_both_sides_of_a_change(day):
    entry, zone = an_entry("0 8 * * *", 30), "+01:00" if day in {"2026-03-28", "2026-10-25"} else "+02:00"
    assert in_force(entry, at(f"{day}T08:00:00{zone}"))
    assert not in_force(entry, at(f"{day}T07:59:00{zone}"))


def test_bounds_of_entries_in_force_together_are_the_highest():
    schedule = (an_entry("0 8 * * *", 120, 4, 9), an_entry("0 9 * * *", 60, 6, None))
    assert bounds(schedule, at("2026-11-30T08:30:00+01:00")) == (4, 9)
    assert bounds(schedule, at("2026-11-30T09:30:00+01:00")) == (6, 9)
    assert bounds(schedule, at("2026-11-30T11:00:00+01:00")) == (None, None)


@given(
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    duration=st.integers(1, 3000),
    after=st.integers(-5000, 5000),
)
def test_daily_entry_in_utc_is_in_force_by_plain_arithmetic(minute, hour, duration, after):
    entry = an_entry(f"{minute} {hour} * * *", duration, zone="UTC")
    start = datetime(2026, 11, 30, hour, minute, tzinfo=UTC)
    now = start + timedelta(minutes=after)
    assert in_force(entry, now) is (after % (24 * 60) < duration)
