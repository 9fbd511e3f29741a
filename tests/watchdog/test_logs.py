"""The log's lines and which requests have one; in front/test_routes.py what the front end makes of it."""

import json
import logging
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.logs import (
    ERROR_LINES,
    MISSED_LINES,
    AccessLog,
    JsonFormatter,
    LineLimit,
    RequestLine,
    TextFormatter,
    human_size,
    line_maker,
    missing_line,
)
from batching_watchdog.messages import Failure

SERVED = RequestLine(
    method=b"POST",
    target=b"/predict?x=1",
    status=200,
    size=5,
    seconds=0.0123,
    call_id=b"4e0e3ab2",
    outcome="good",
    slo_class=None,
    batch=17,
    batch_size=4,
    batch_reason="best_size",
    queue_seconds=0.004,
)
SHED = replace(
    SERVED,
    status=503,
    size=66,
    call_id=None,
    outcome="shed",
    batch=-1,
    batch_size=0,
    batch_reason=None,
    queue_seconds=0.0,
    reason="predicted_late",
    error="the queue is too long",
    left_out=3,
)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (SERVED, ["200 OK", "5B", "(0.0123s)", "[4e0e3ab2]", "batch 17 (4, best_size)", "queued 0.0040s"]),
        (
            SHED,
            ["503 Service Unavailable", "66B", "[none]", "predicted_late: the queue is too long", "3 more"],
        ),
    ],
)
def test_the_line_has_what_of_watchdogs_has_and_outcome_batch_and_wait_or_why_it_was_refused(
    line: RequestLine, words: list[str]
):
    text = str(line)
    assert text.startswith("POST /predict?x=1 - ")
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(("name", "value"), [("slo_class", "interactive"), ("trace_id", "4bf92f3577b34da6")])
def test_the_line_names_the_class_and_the_trace_of_a_request_that_has_one(name: str, value: str):
    line = replace(SERVED, **{name: value})
    assert value in str(line)
    assert line.document().items() - SERVED.document().items() == {(name, value)}


def test_the_line_in_json_has_the_same_and_nothing_that_does_not_apply():
    served, shed = SERVED.document(), SHED.document()
    assert served.keys() - shed.keys() == {"call_id", "batch", "batch_size", "batch_reason", "queue_seconds"}
    assert shed.keys() - served.keys() == {"reason", "error", "left_out"}
    assert (served["event"], served["bytes"], served["batch"], served["queue_seconds"]) == (
        "request",
        5,
        17,
        0.004,
    )
    assert (shed["status"], shed["reason"], shed["left_out"]) == (503, "predicted_late", 3)


@pytest.mark.parametrize(
    ("outcomes", "level"),
    [
        (("good", None), logging.INFO),
        (("slow", "shed", "expired"), logging.WARNING),
        (("error",), logging.ERROR),
    ],
)
def test_a_miss_is_a_warning_and_a_failure_an_error(outcomes: tuple[str | None, ...], level: int):
    assert {replace(SERVED, outcome=outcome).level for outcome in outcomes} == {level}


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_request_line_of_any_bytes_is_one_printable_line(target: bytes, call_id: bytes):
    line = replace(SERVED, target=target, call_id=call_id)
    assert str(line).isprintable()
    assert json.loads(json.dumps(line.document()))["event"] == "request"


def test_a_record_in_json_is_one_object_on_one_line_with_time_level_and_what_it_says():
    try:
        raise ValueError("torn")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "lost %d", (3,), sys.exc_info())
    record.created = 1_700_000_000.25
    line = JsonFormatter().format(record)
    document = json.loads(line)
    assert "\n" not in line
    assert document.pop("trace").endswith("ValueError: torn")
    assert document == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "error",
        "event": "log",
        "text": "lost 3",
    }
    record = logging.LogRecord("x", logging.WARNING, "", 0, SHED, (), None)
    document = json.loads(JsonFormatter().format(record))
    assert document.pop("time").endswith("Z")
    assert document == {"level": "warning", **SHED.document()}


@pytest.mark.parametrize(("call_id", "trace_id"), [("2a7b9d50", "4bf92f35"), ("", "")])
def test_failure_is_one_record_in_both_formats_with_its_trace_whole(call_id: str, trace_id: str):
    trace = 'Traceback (most recent call last):\n  File "handler.py", line 3, in load\nKeyError: 5'
    failure = Failure("handler error: POST /", trace, call_id, trace_id)
    record = logging.LogRecord("x", logging.ERROR, "", 0, failure, (), None)
    assert TextFormatter("%(message)s").format(record) == f"handler error: POST /\n{trace}"
    line = JsonFormatter().format(record)
    document = json.loads(line)
    assert "\n" not in line
    assert (document["level"], document["text"], document["trace"]) == ("error", failure.text, trace)
    assert document.get("call_id", "") == call_id
    assert document.get("trace_id", "") == trace_id


def test_failure_text_of_a_handler_cannot_move_the_cursor():
    record = logging.LogRecord("x", logging.ERROR, "", 0, "load() failed: %s", ("a\n\t\x1b[31m",), None)
    assert TextFormatter("%(message)s").format(record) == "load() failed: a\n\t\\x1b[31m"


def test_a_workers_line_keeps_its_stream_in_both_formats():
    assert line_maker("text", "stderr")("gone").endswith(" stderr: gone")
    document = json.loads(line_maker("json", "stdout")('{"own": 1}'))
    assert (document["event"], document["stream"], document["text"]) == ("output", "stdout", '{"own": 1}')


def test_the_line_about_missing_lines_has_the_logs_format(monkeypatch: pytest.MonkeyPatch):
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    document = json.loads(missing_line("stdout", 3))
    assert (document["level"], document["event"]) == ("warning", "log")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (1234, "1.234kB"), (16_000_000, "16MB"), (5 * 10**9, "5GB")]
)
def test_sizes_are_written_as_of_watchdog_writes_them(size: int, text: str):
    assert human_size(size) == text


def test_so_many_lines_are_written_per_second_and_the_next_says_how_many_were_left_out():
    limit = LineLimit(2)
    assert [limit.admit(10.0 + step / 10) for step in range(5)] == [0, 0, None, None, None]
    assert [limit.admit(11.0), limit.admit(11.5), limit.admit(11.9)] == [3, 0, None]
    assert limit.admit(50.0) == 1


def lines(share: float | None, *, missed: bool, of: int) -> int:
    log = AccessLog(share, lambda: 10.0)
    return sum(log.admit(missed=missed) is not None for _ in range(of))


def test_a_share_of_the_good_requests_have_a_line_by_counting():
    assert [lines(share, missed=False, of=1000) for share in (1.0, 0.25, 0.0)] == [1000, 250, 0]


def test_misses_have_a_line_each_but_under_overload_only_so_many_per_second():
    assert lines(1.0, missed=True, of=1000) == 1000
    assert lines(0.25, missed=True, of=1000) == MISSED_LINES
    assert lines(0.0, missed=True, of=50) == 50
    assert lines(None, missed=True, of=1000) == ERROR_LINES


def test_without_an_access_log_nothing_is_asked_about_but_our_own_errors():
    assert [AccessLog(share, lambda: 0.0).on for share in (None, 0.0, 1.0)] == [False, True, True]
