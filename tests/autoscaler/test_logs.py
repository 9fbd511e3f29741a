"""The autoscaler's own log, as text and as JSON."""

import json
import subprocess
import sys

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
