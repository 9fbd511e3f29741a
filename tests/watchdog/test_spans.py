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


def test_query_shows_no_signature():
    query = about(target=b"/?a=1&sig=secret&design=x&X-Goog-Signature=secret&Signature=")["url.query"]
    assert query == "a=1&sig=REDACTED&design=x&X-Goog-Signature=REDACTED&Signature=REDACTED"


def test_long_path_and_query_are_cut():
    attributes = about(target=b"/" + b"a" * 9999 + b"?" + b"b" * 9999)
    assert {len(str(attributes[name])) for name in ("url.path", "url.query")} == {MAX_TEXT}
