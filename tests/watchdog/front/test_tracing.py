from typing import Any

import pytest

from batching_watchdog.errors import Abandoned, Expired, QueueFull, WatchdogError
from batching_watchdog.front.ended import Ended
from batching_watchdog.front.tracing import MAX_TEXT, request_attributes, request_spans
from batching_watchdog.function.messages import Batch, DispatchReason, Reply, Request
from batching_watchdog.observe.spans import RequestTrace, Span
from batching_watchdog.observe.trace_context import SAMPLED, SpanContext


def context(span: int, trace: int = 1) -> SpanContext:
    return SpanContext(f"{trace:032x}", f"{span:016x}", SAMPLED)


TRACE = RequestTrace(
    "POST", context(1), context(2), context(3), context(4), "a=1", {"http.request.method": "POST"}
)


def a_batch(dispatched: float) -> Batch:
    requests = tuple(Request(number, b"", b"", 10.0, 11.0, 40.0) for number in (7, 8))
    return Batch(requests, DispatchReason.FULL, dispatched)


def spans(
    outcome: Reply | WatchdogError, batch: Batch | None = None, *, queued: bool = False
) -> dict[str, Span]:
    ended = Ended(outcome, 13.0, None, "default", batch, admitted=queued)
    return {span.name: span for span in request_spans(TRACE, 10.0, ended, None)}


@pytest.mark.parametrize(
    ("outcome", "status", "error", "failed"),
    [
        (Reply(200, b"", b""), 200, None, False),
        (Reply(404, b"", b""), 404, None, False),
        (QueueFull(1, 1), 429, "queue_full", False),
        (Reply(500, b"", b""), 500, "500", True),
        (Reply(200, b"", b"", failed=True), 200, "handler_error", True),
        (Expired(""), 504, "expired", True),
        (Abandoned(""), None, "abandoned", True),
    ],
)
def test_error_of_the_server_fails_its_span_and_one_of_the_client_does_not(outcome, status, error, failed):
    (server,) = spans(outcome).values()
    assert server.attributes.get("error.type") == error
    assert server.attributes.get("http.response.status_code") == status
    assert server.failed == failed


@pytest.mark.parametrize("batch", [None, a_batch(dispatched=14.0)], ids=["in none", "not begun"])
def test_request_that_no_worker_has_begun_waited_to_its_end(batch):
    ended = spans(Expired(""), batch, queued=True)
    assert {name: span.end for name, span in ended.items()} == {"POST": 13.0, "queue": 13.0}


def about(method: bytes = b"POST", target: bytes = b"/") -> dict[str, Any]:
    return request_attributes(method, target, False, None)


def test_query_shows_no_signature():
    query = about(target=b"/?a=1&sig=secret&design=x&X-Goog-Signature=secret&Signature=")["url.query"]
    assert query == "a=1&sig=REDACTED&design=x&X-Goog-Signature=REDACTED&Signature=REDACTED"


def test_long_path_and_query_are_cut():
    attributes = about(target=b"/" + b"a" * 9999 + b"?" + b"b" * 9999)
    assert {len(str(attributes[name])) for name in ("url.path", "url.query")} == {MAX_TEXT}
