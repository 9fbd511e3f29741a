"""Schedules and holds as annotations write them: what is read, and what each fault says."""

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.settings.fields import LONGEST_JSON, MOST_PARTS
from slo_autoscaler.settings.schedule import Hold, ScheduleEntry, hold_of, schedule_of
from support.builders import BOMB
from support.fuzzing import fuzzed

MORNING = ScheduleEntry(cron="0 8 * * 1-5", duration=7200.0, min_replicas=4, timezone="Europe/Berlin")


def entry(**keys):
    return json.dumps([{"cron": "0 8 * * *", "duration": "1h", "min_replicas": 2} | keys])


def test_schedule_of_json_has_its_entries():
    text = entry(cron="0 8 * * 1-5", duration="2h", min_replicas=4, timezone="Europe/Berlin")
    assert schedule_of(text) == (MORNING,)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (entry(cron="0 25 * * *"), "0.cron: '0 25 * * *' must"),
        (entry(cron="0 0 30 2 *"), "0.cron: '0 0 30 2 *' must"),
        (entry(cron="0 0 29 2 *"), "0.cron: '0 0 29 2 *' must"),
        (entry(cron="0 0 */31 * 1#5"), "0.cron: '0 0 */31 * 1#5' must"),
        (entry(cron="0 0 8 * * *"), "0.cron: '0 0 8 * * *' must"),
        (entry(cron="9" * 5000 + " 8 * * *"), "0.cron: '999"),
        (entry(duration="59s"), "0.duration: '59s' must"),
        *((entry(duration=length), "0.duration: ") for length in (float("inf"), float("nan"), "9000h")),
        (entry(duration="1h" * 30), "0.duration: '1h1h"),
        (entry(min_replicas=None), "0.max_replicas: null must"),
        (entry(min_replicas=3, max_replicas=2), "0.max_replicas: 2 must"),
        (entry(min_replicas=10**400), "10000000000000000000 must have at most"),
        (entry(timezone="Mars/North"), "0.timezone: 'Mars/"),
        (entry(timezone="../passwd"), "0.timezone: '../"),
        (entry(timzone="UTC"), "0.timzone: unknown key"),
        (entry(**{"a\nb": 1}), "0.a\\nb: unknown key"),
        ('[{"cron": "0 8 * * *", "cron": "x"}]', "cron: is given twice"),
        ("[{]", "must be JSON"),
        ("- {cron: 0 8 * * *, duration: 1h, min_replicas: 2}", "must be JSON; YAML is not read here"),
    ],
)
def test_schedule_fault_names_entry_key_and_value(text, key):
    with pytest.raises(ValueError, match=re.escape(key)) as fault:
        schedule_of(text)
    assert str(fault.value).startswith(key)


@pytest.mark.parametrize("cron", ["0 0 1 1 *", "59 23 31 12 *", "0 0 * * 1#5", "0 0 L 2 *"])
def test_schedule_entry_of_one_day_a_year_is_read(cron):
    assert schedule_of(entry(cron=cron))[0].cron == cron


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (BOMB, "must be JSON"),
        (entry(cron=" " * LONGEST_JSON), "characters"),
        ("[" * 4000, "lists and objects"),
        (json.dumps([{"cron": "0 8 * * *"}] * MOST_PARTS), "lists and objects"),
        (entry(**{f"key-{number}": 1 for number in range(500)}), "keys in an object"),
        (json.dumps([{"x": 1}] * 30), "and 117 faults more"),
    ],
)
def test_annotation_beyond_its_limits_is_a_short_fault(text, rule):
    with pytest.raises(ValueError, match=rule) as fault:
        schedule_of(text)
    assert len(str(fault.value)) < 500


@pytest.mark.parametrize("until", ["2026-12-01T09:00:00Z", "2026-12-01T10:00:00+01:00"])
def test_hold_end_is_a_moment_whatever_its_offset(until):
    hold = hold_of(f'{{"until": "{until}", "replicas": 6, "reason": "freeze"}}')
    assert hold == Hold(until=datetime(2026, 12, 1, 9, tzinfo=UTC), replicas=6, reason="freeze")
    assert hold.text == "until 2026-12-01 09:00 UTC: freeze"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"until": "tomorrow"}',
        '{"until": "2026-12-01T09:00:00"}',
        "[]",
        '{"until": 1}',
        '{"until": "9999-12-31T23:59:59-12:00"}',
        "until: 2026-12-01T09:00:00Z",
    ],
)
def test_hold_without_a_moment_of_its_end_is_a_fault(text):
    with pytest.raises(ValueError, match="must be"):
        hold_of(text)


def test_hold_with_a_count_and_a_cap_is_a_fault():
    with pytest.raises(ValueError, match="max_replicas: 7 must not be set beside replicas"):
        hold_of('{"until": "2026-12-01T09:00:00Z", "replicas": 6, "max_replicas": 7}')


@pytest.mark.parametrize("reason", ["x" * 201, "a\nb", "\u202egnp", "\ud800", "\x1b[2J"])
def test_hold_reason_that_is_no_short_line_is_a_fault(reason):
    with pytest.raises(ValueError, match="reason"):
        hold_of(json.dumps({"until": "2026-12-01T09:00:00Z", "reason": reason}))


_KEYS = st.sampled_from(
    ["cron", "duration", "min_replicas", "max_replicas", "timezone", "until", "replicas", "reason"]
)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just("0 8 * * *")
    | st.just("2h"),
    lambda parts: st.lists(parts) | st.dictionaries(_KEYS | st.text(), parts),
)


@fuzzed(100)
@given(st.text() | st.sampled_from(["[]", "[1]", "{", BOMB]) | _VALUES.map(json.dumps))
def test_any_text_is_read_or_a_fault_in_one_short_line(text):
    for read in (schedule_of, hold_of):
        try:
            read(text)
        except ValueError as fault:
            assert str(fault).isprintable()  # noqa: PT017 - the one line is what is said of it
            assert len(str(fault)) < 1000  # noqa: PT017 - likewise
