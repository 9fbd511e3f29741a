"""The log's lines and which requests have one; in front/test_routes.py what the front end makes of it."""

import json
import logging
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.function.messages import Failure
from batching_watchdog.observe.logs import (
    ERROR_LINES,
    MISSED_LINES,
    AccessLog,
    FailureLog,
    JsonFormatter,
    LineLimit,
    RequestLine,
    TextFormatter,
    lines_maker,
    loggable,
)

SERVED = RequestLine(
    method="POST",
    target="/predict?x=1",
    status=200,
    bytes=5,
    seconds=0.0123,
    call_id="4e0e3ab2",
    outcome="good",
    batch=17,
    batch_size=4,
    batch_reason="best_size",
    queue_seconds=0.004,
)
SHED = replace(
    SERVED,
    status=503,
    call_id=None,
    outcome="shed",
    batch_size=None,
    queue_seconds=None,
    reason="predicted_late",
    error="the queue is too long",
    slo_class="interactive",
    batch=None,
    batch_reason=None,
    trace_id="4bf92f3577b34da6",
    left_out=3,
)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (SERVED, ["200 OK", "5B", "(0.0123s)", "[4e0e3ab2]", "batch 17 (4, best_size)", "queued 0.0040s"]),
        (SHED, ["503 ", "[none]", "predicted_late: the queue", "3 more", "interactive", "4bf92f3577b34da6"]),
    ],
)
def test_line_has_what_of_watchdogs_has_and_batch_and_wait_or_why_it_was_refused(line, words):
    text = str(line)
    assert text.startswith("POST /predict?x=1 - ")
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    ("outcomes", "level"),
    [
        (("good", None), logging.INFO),
        (("slow", "shed", "expired"), logging.WARNING),
        (("error",), logging.ERROR),
    ],
)
def test_miss_is_a_warning_and_a_failure_an_error(outcomes, level):
    assert {replace(SERVED, outcome=outcome).level for outcome in outcomes} == {level}


@given(st.binary(max_size=300))
def test_any_bytes_of_a_client_are_printable_in_the_log(value):
    assert loggable(value).isprintable()


def record(message: object, *arguments: object) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.ERROR, "", 0, message, arguments, None)
    made.created = 1_700_000_000.25
    return made


def test_record_in_json_is_one_object_on_one_line_with_time_level_and_its_content():
    made = record("lost %d", 3)
    try:
        raise ValueError("torn")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = JsonFormatter().format(made)
    document = json.loads(line)
    assert "\n" not in line
    assert document.pop("trace").endswith("ValueError: torn")
    common = {"time": "2023-11-14T22:13:20.250Z", "level": "error"}
    assert document == common | {"event": "log", "text": "lost 3"}
    document = json.loads(JsonFormatter().format(record(SHED)))
    assert document.items() >= (common | {"event": "request", "status": 503, "left_out": 3}).items()
    assert "batch_size" not in document, "it was in no batch"


@pytest.mark.parametrize(("call_id", "trace_id"), [("2a7b9d50", "4bf92f35"), ("", "")])
def test_failure_is_one_record_in_both_formats_with_its_trace_whole(call_id, trace_id):
    trace = 'Traceback (most recent call last):\n  File "handler.py", line 3, in load\nKeyError: 5'
    made = record(Failure("handler error: POST /", trace, call_id, trace_id))
    assert TextFormatter("%(message)s").format(made) == f"handler error: POST /\n{trace}"
    document = json.loads(JsonFormatter().format(made))
    assert (document["text"], document["trace"]) == ("handler error: POST /", trace)
    assert (document.get("call_id", ""), document.get("trace_id", "")) == (call_id, trace_id)


def test_line_of_a_worker_keeps_its_stream_in_both_formats():
    assert lines_maker("text", "stderr")(["gone"]).endswith(" stderr: gone\n")
    document = json.loads(lines_maker("json", "stdout")(['{"own": 1}']))
    assert (document["event"], document["stream"], document["text"]) == ("output", "stdout", '{"own": 1}')


def test_so_many_lines_are_written_per_second_and_the_next_has_the_number_left_out():
    limit = LineLimit(2)
    assert [limit.admit(10.0 + step / 10) for step in range(5)] == [0, 0, None, None, None]
    assert [limit.admit(now) for now in (11.0, 11.5, 11.9, 50.0)] == [3, 0, None, 1]


@pytest.mark.parametrize(
    ("share", "good", "missed"),
    [(1.0, 1000, 1000), (0.25, 250, MISSED_LINES), (0.0, 0, MISSED_LINES), (None, 0, ERROR_LINES)],
)
def test_share_of_the_good_requests_has_a_line_and_of_the_misses_so_many_per_second(share, good, missed):
    def lines(*, missed: bool) -> int:
        log = AccessLog(share, lambda: 10.0)
        return sum(log.admit(missed=missed) is not None for _ in range(1000))

    assert (lines(missed=False), lines(missed=True)) == (good, missed)
    assert AccessLog(share, lambda: 0.0).on == (share is not None)


def test_errors_of_the_function_have_so_many_records_per_second_and_the_number_left_out(caplog):
    now = 10.0
    failures = FailureLog(logging.getLogger("a"), lambda: now)
    for _ in range(1000):
        failures.error(Failure("handler error", "a trace"))
    assert len(caplog.records) == ERROR_LINES
    now += 1.0
    failures.error(Failure("handler error", "a trace"))
    *_, left_out, _ = caplog.records
    assert str(1000 - ERROR_LINES) in left_out.getMessage()
