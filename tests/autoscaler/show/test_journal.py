"""What is remembered of decisions: what is news, what repeats, how much is kept."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.show.journal import MOST_REMOVED, Entry, Journal, named, of_log

NAME = "a.fn"
START = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def an_entry(seconds=0, **changes):
    hold = Entry(
        at=START + timedelta(seconds=seconds),
        function_name=NAME,
        before=2,
        after=2,
        reason="NoData",
        mode="active",
        inputs={"rate": 1.0},
    )
    return replace(hold, **changes)


def test_a_hold_that_is_taken_again_is_no_news_and_is_counted_with_its_latest_numbers():
    journal = Journal()
    assert journal.record(an_entry(0))
    assert not journal.record(an_entry(5))
    assert not journal.record(an_entry(10, inputs={"rate": 7.0}, shortage="room for 1"))
    (found,) = journal.decisions(NAME, 5)
    assert (found["repeats"], found["time"][11:19], found["until"][11:19]) == (2, "12:00:00", "12:00:10")
    assert (found["inputs"], found["shortage"]) == ({"rate": 7.0}, "room for 1")


@pytest.mark.parametrize("absurd", [float("inf"), float("-inf"), float("nan")])
def test_number_that_json_has_not_is_unknown(absurd):
    document = an_entry(inputs={"unspent": absurd}).document()
    assert json.loads(json.dumps(document, allow_nan=False))["inputs"] == {"unspent": None}


def test_forgotten_function_is_listed_as_removed_and_goes_on_where_it_was():
    journal = Journal()
    journal.record(an_entry(0))
    journal.forget(NAME)
    assert (journal.functions(), journal.functions(removed=True)) == ([], [NAME])
    assert len(journal.decisions(NAME, 5)) == 1
    journal.record(an_entry(5, reason="Settling"))
    assert (journal.functions(), journal.functions(removed=True)) == ([NAME], [])
    assert len(journal.decisions(NAME, 5)) == 2


def test_forgotten_functions_are_kept_up_to_a_number():
    journal = Journal()
    for number in range(MOST_REMOVED + 1):
        journal.record(an_entry(0, function_name=f"f{number}.fn"))
        journal.forget(f"f{number}.fn")
    assert len(journal.functions(removed=True)) == MOST_REMOVED
    assert journal.decisions("f0.fn", 1) is None


@pytest.mark.parametrize(
    ("first", "again", "news"),
    [
        ({}, {"reason": "Settling"}, True),
        ({}, {"after": 3}, True),
        ({}, {"mode": "standby"}, True),
        ({"detail": "until noon"}, {"detail": "until one"}, True),
        ({"after": 4}, {"after": 4}, True),
        ({"after": 4, "mode": "recommend"}, {"after": 4, "mode": "recommend"}, False),
    ],
)
def test_record_is_news_unless_a_hold_or_what_is_not_carried_out_repeats(first, again, news):
    journal = Journal()
    assert journal.record(an_entry(**first))
    assert journal.record(an_entry(5, **again)) is news


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=60), st.integers(1, 5))
def test_the_last_decisions_come_oldest_first_and_never_more_than_are_kept(story, depth):
    journal = Journal(depth=depth, total=1000)
    told = {}
    for number, (name, reason) in enumerate(story):
        if journal.record(an_entry(number, function_name=name, reason=str(reason))):
            told.setdefault(name, []).append(str(reason))
    for name, reasons in told.items():
        kept = [found["reason"] for found in journal.decisions(name, 100)]
        assert kept == reasons[-max(2, depth) :]
        assert journal.decisions(name, 1)[0]["reason"] == reasons[-1]


def test_many_functions_share_the_space_and_each_keeps_at_least_two():
    journal = Journal(depth=10, total=12)
    for number in range(40):
        for name in ("a", "b", "c", "d"):
            journal.record(an_entry(number, function_name=name, reason=str(number % 7)))
    assert [len(journal.decisions(name, 100)) for name in "abcd"] == [3, 3, 3, 3]
    for name in map(str, range(100)):
        journal.record(an_entry(function_name=name))
    journal.record(an_entry(function_name="a", reason="x"))
    journal.record(an_entry(function_name="a", reason="y"))
    assert [found["reason"] for found in journal.decisions("a", 100)] == ["x", "y"]


def test_a_decision_goes_through_the_log_and_back():
    inputs = {"rate": 123.456789, "p99": None, "sampled_at": 1_795_770_185.4321}
    entry = an_entry(after=3, reason="Backlog", inputs=inputs, incumbent=1)
    line = json.dumps(entry.document())
    assert of_log(line) == entry.document()
    rounded = {"rate": 123.457, "p99": None, "sampled_at": 1_795_770_185.432}
    assert entry.document()["inputs"] == rounded
    assert (entry.document()["action"], entry.document()["incumbent"]) == ("up", 1)


@pytest.mark.parametrize(
    "line",
    [
        "2026-01-02 INFO reconciles",
        "{",
        "{}",
        "[1]",
        *(json.dumps(an_entry().document() | wrong) for wrong in ({"time": 3}, {"time": "x"}, {"to": "1"})),
    ],
)
def test_a_line_that_is_no_decision_is_passed_over(line):
    assert of_log(line) is None


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("a.x", (["a.x"], [])),
        ("a", (["a.x", "a.y"], [])),
        ("b.c", (["b.c.vision"], [])),
        ("z", ([], [])),
        ("b.c.vison", ([], ["b.c.vision"])),
        ("fats", ([], ["fast.openfaas-functions"])),
    ],
)
def test_a_name_is_that_with_namespace_or_alone_and_else_similar_ones_are_suggested(wanted, found):
    assert named(wanted, ["a.x", "a.y", "b.c.vision", "fast.openfaas-functions"]) == found
