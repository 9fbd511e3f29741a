"""Schedules and holds as annotations write them: what is read, and what each fault says."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.schedule import Hold, ScheduleEntry, hold_of, schedule_of

MORNING = ScheduleEntry(cron="0 8 * * 1-5", duration=7200.0, min_replicas=4, timezone="Europe/Berlin")


@pytest.mark.parametrize(
    "text",
    [
        '[{"cron": "0 8 * * 1-5", "duration": "2h", "min_replicas": 4, "timezone": "Europe/Berlin"}]',
        "- {cron: 0 8 * * 1-5, duration: 7200, min_replicas: 4, timezone: Europe/Berlin}",
    ],
)
def test_schedule_json_and_yaml_are_the_same(text):
    assert schedule_of(text) == (MORNING,)


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        ('{cron: "0 25 * * *", duration: 1h, min_replicas: 2}', "0.cron: '0 25 * * *' must"),
        ('{cron: "0 0 30 2 *", duration: 1h, min_replicas: 2}', "0.cron: '0 0 30 2 *' must"),
        ('{cron: "0 0 8 * * *", duration: 1h, min_replicas: 2}', "0.cron: '0 0 8 * * *' must"),
        ('{cron: "0 8 * * *", duration: 59s, min_replicas: 2}', "0.duration: '59s' must"),
        *(
            (f'{{cron: "0 8 * * *", duration: {text}, min_replicas: 2}}', "0.duration: ")
            for text in (".inf", ".nan", "9000h")
        ),
        ('{cron: "0 8 * * *", duration: 1h}', "0.max_replicas: null must"),
        ('{cron: "0 8 * * *", duration: 1h, min_replicas: 3, max_replicas: 2}', "0.max_replicas: 2 must"),
        ('{cron: "0 8 * * *", duration: 1h, min_replicas: 2, timezone: Mars/North}', "0.timezone: 'Mars/"),
        ('{cron: "0 8 * * *", duration: 1h, min_replicas: 2, timezone: ../passwd}', "0.timezone: '../"),
        ('{cron: "0 8 * * *", duration: 1h, min_replicas: 2, timzone: UTC}', "0.timzone: unknown key"),
        ('{cron: "0 8 * * *", cron: x}', "[0].cron: is given twice"),
        ("{", "not YAML"),
    ],
)
def test_schedule_fault_names_entry_key_and_value(entry, key):
    with pytest.raises(ValueError, match=re.escape(key)) as fault:
        schedule_of(f"[{entry}]")
    assert str(fault.value).startswith(key)


@pytest.mark.parametrize(
    "until", ["2026-12-01T09:00:00Z", '"2026-12-01T09:00:00Z"', "2026-12-01T10:00:00+01:00"]
)
def test_hold_end_is_a_moment_whatever_its_offset(until):
    hold = hold_of(f"{{until: {until}, replicas: 6, reason: freeze}}")
    assert hold == Hold(until=datetime(2026, 12, 1, 9, tzinfo=UTC), replicas=6, reason="freeze")
    assert hold.text == "until 2026-12-01 09:00 UTC: freeze"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "until: tomorrow",
        "until: 2026-12-01T09:00:00",
        "[]",
        "until: 1",
        "until: '9999-12-31T23:59:59-12:00'",
    ],
)
def test_hold_without_a_moment_of_its_end_is_a_fault(text):
    with pytest.raises(ValueError, match="must be"):
        hold_of(text)


def test_hold_with_a_count_and_a_cap_is_a_fault():
    with pytest.raises(ValueError, match="max_replicas: 7 must not be set beside replicas"):
        hold_of("{until: 2026-12-01T09:00:00Z, replicas: 6, max_replicas: 7}")


@given(st.text() | st.sampled_from(["[]", "[1]", "until: .nan", "!!python/object:os.system {}"]))
def test_any_text_is_read_or_a_fault_in_one_line(text):
    for read in (schedule_of, hold_of):
        try:
            read(text)
        except ValueError as fault:
            assert "\n" not in str(fault)  # noqa: PT017 - the one line is what is said of it
