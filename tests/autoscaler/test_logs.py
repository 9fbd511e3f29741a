"""The autoscaler's own log, as text and as JSON."""

import json
import logging
import subprocess
import sys

import pytest

from slo_autoscaler.logs import Changes

PROGRAM = """
import logging
from slo_autoscaler.logs import set_up

set_up({form!r})
logger = logging.getLogger("slo_autoscaler.test")
logger.info("told of %d functions", 3)
logger.warning("not done: two\\nlines\\x1b[2J")
try:
    1 / 0
except ZeroDivisionError:
    logger.exception("a bug")
"""


def said(form):
    command = [sys.executable, "-c", PROGRAM.format(form=form)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()


def test_in_text_one_event_is_one_line_without_control_characters():
    lines = said("text")
    assert lines[0].endswith("INFO slo_autoscaler.test: told of 3 functions")
    assert lines[1].endswith("not done: two\\nlines\\x1b[2J")
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_in_json_one_event_is_one_line_whatever_is_in_it():
    lines = [json.loads(line) for line in said("json")]
    told = [("info", "told of 3 functions"), ("warning", "not done: two\nlines\x1b[2J"), ("error", "a bug")]
    assert [(line["level"], line["text"]) for line in lines] == told
    assert {line["logger"] for line in lines} == {"slo_autoscaler.test"}
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert "ZeroDivisionError" in lines[2]["trace"]


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
