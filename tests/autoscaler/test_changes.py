"""A state is logged when it begins or changes, and when it ends, and never in between."""

import logging

import pytest

from slo_autoscaler.changes import Changes


@pytest.fixture
def changes(caplog):
    caplog.set_level("INFO")
    return Changes(logging.getLogger("test"))


def levels(caplog):
    return [record.levelname for record in caplog.records]


def test_state_that_lasts_is_logged_once_and_so_is_its_end(changes, caplog):
    assert [changes.say("key", "down") for _ in range(3)] == [True, False, False]
    for _ in range(2):
        changes.over("key", "recovered")
    assert (levels(caplog), "key" in changes) == (["WARNING", "INFO"], False)


def test_state_that_changes_is_logged_again(changes, caplog):
    assert [changes.say("key", text) for text in ("down", "lost", "down")] == [True] * 3
    assert caplog.messages == ["down", "lost", "down"]


def test_text_that_changes_within_one_state_is_not_logged(changes, caplog):
    assert [changes.say("key", text, state="down") for text in ("one", "two")] == [True, False]
    assert caplog.messages == ["one"]


def test_states_of_several_keys_are_apart(changes):
    assert changes.say("one", "down")
    assert changes.say("other", "down")
    changes.over("one")
    assert changes.keys() == {"other"}


def test_end_without_a_text_is_not_logged(changes, caplog):
    changes.say("key", "down", level=logging.INFO)
    changes.over("key")
    assert levels(caplog) == ["INFO"]


def test_states_that_are_not_kept_begin_anew(changes):
    for key in ("one", "other"):
        changes.say(key, "down")
    changes.keep({"one"})
    assert [changes.say(key, "down") for key in ("one", "other")] == [False, True]
