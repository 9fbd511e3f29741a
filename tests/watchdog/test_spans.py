from typing import Any

import pytest

from batching_watchdog.messages import Batch, DispatchReason, Request
from batching_watchdog.spans import (
    MAX_TEXT,
    BatchTrace,
    RequestTrace,
    Span,
    request_attributes,
    request_spans,
    server_name,
)
from batching_watchdog.trace_context import SAMPLED, SpanContext


def context(span: int, trace: int = 1) -> SpanContext:
    return SpanContext(f"{trace:032x}", f"{span:016x}", SAMPLED)


TRACE = RequestTrace(
    "POST", context(1), context(2), context(3), context(4), "a=1", {"http.request.method": "POST"}
)


def a_batch(dispatched: float = 12.0, trace: BatchTrace | None = None) -> Batch:
    requests = tuple(Request(number, b"", b"", 10.0, 11.0, 40.0) for number in (7, 8))
    return Batch(requests, DispatchReason.FULL, dispatched, trace=trace)


def spans(**given: Any) -> dict[str, Span]:
    known: dict[str, Any] = {"arrived": 10.0, "now": 13.0, "status": 200} | given
    return {span.name: span for span in request_spans(TRACE, **known)}


def test_served_request_waits_and_is_executed_within_its_server_span():
    batch = a_batch(trace=BatchTrace(context(9, trace=5), 11.0, ()))
    found = spans(queued=True, batch=batch, outcome="slow", slo_class="fast")
    assert {name: (span.start, span.end) for name, span in found.items()} == {
        "POST": (10.0, 13.0),
        "queue": (10.0, 12.0),
        "execution": (12.0, 13.0),
    }
    server = found.pop("POST")
    assert (server.server, server.parent, server.context, server.links) == (True, context(1), context(2), ())
    assert {(span.server, span.parent) for span in found.values()} == {(False, context(2))}
    assert (found["queue"].context, found["execution"].context) == (context(3), context(4))
    assert found["execution"].links == (context(9, trace=5),)
    assert {span.tracestate for span in (server, *found.values())} == {"a=1"}
    assert server.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "tailbound.outcome": "slow",
        "tailbound.slo_class": "fast",
    }
    assert found["execution"].attributes == {
        "tailbound.batch.number": 7,
        "tailbound.batch.size": 2,
        "tailbound.batch.reason": "full",
    }


@pytest.mark.parametrize(
    ("status", "error", "told", "failed"),
    [
        (200, None, None, False),
        (404, None, None, False),
        (429, "queue_full", "queue_full", False),
        (500, None, "500", True),
        (200, "handler_error", "handler_error", True),
        (504, "expired", "expired", True),
        (None, "abandoned", "abandoned", True),
    ],
)
def test_error_of_the_server_fails_its_span_and_one_of_the_client_does_not(status, error, told, failed):
    (server,) = spans(status=status, error=error).values()
    assert server.attributes.get("error.type") == told
    assert server.attributes.get("http.response.status_code") == status
    assert server.failed == failed


@pytest.mark.parametrize("batch", [None, a_batch(dispatched=14.0)], ids=["in none", "not begun"])
def test_request_that_no_worker_has_begun_waited_to_its_end(batch):
    found = spans(queued=True, batch=batch, status=504, error="expired")
    assert {name: span.end for name, span in found.items()} == {"POST": 13.0, "queue": 13.0}


def about(method: bytes = b"POST", target: bytes = b"/") -> dict[str, Any]:
    return request_attributes(method, target, http_1_0=False, call_id=None)


def test_unknown_method_makes_no_name_of_its_own():
    assert (
        about(b"BREW").items()
        >= {"http.request.method": "_OTHER", "http.request.method_original": "BREW"}.items()
    )
    assert server_name(b"BREW") == "HTTP"


def test_query_shows_no_signature():
    query = about(target=b"/?a=1&sig=secret&design=x&X-Goog-Signature=secret&Signature=")["url.query"]
    assert query == "a=1&sig=REDACTED&design=x&X-Goog-Signature=REDACTED&Signature=REDACTED"


def test_long_path_and_query_are_cut():
    attributes = about(target=b"/" + b"a" * 9999 + b"?" + b"b" * 9999)
    assert {len(str(attributes[name])) for name in ("url.path", "url.query")} == {MAX_TEXT}
