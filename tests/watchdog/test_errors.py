import inspect

import pytest

from batching_watchdog import errors
from batching_watchdog.errors import REFUSALS, ConfigError, QueueFull, TooManyConnections, WatchdogError

EVERY_ERROR = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, WatchdogError)
]
STATUSES = {
    "bad_request": 400,
    "request_timeout": 408,
    "body_too_large": 413,
    "queue_full": 429,
    "headers_too_large": 431,
    "shutting_down": 503,
    "predicted_late": 503,
    "too_many_connections": 503,
    "expired": 504,
    "abandoned": 499,
    "worker_died": 502,
    "upstream_failed": 502,
}


def test_errors_that_answer_a_request_have_a_reason_of_their_own_and_the_status_of_the_contract():
    answering = [kind for kind in EVERY_ERROR if kind.reason != WatchdogError.reason]
    assert {kind.reason: kind.status for kind in answering} == STATUSES
    assert len(answering) == len(STATUSES)


def test_errors_that_end_the_process_end_it_with_a_failure():
    assert all(kind.exit_status > 0 for kind in EVERY_ERROR)
    assert ConfigError.exit_status == 2


def test_a_full_queue_names_its_limit_and_says_when_to_try_again():
    error = QueueFull(8, 3)
    assert error.retry_after == 3
    assert "8 requests" in str(error)
    assert "max_inflight" in str(error)
    assert "100 bytes" in str(QueueFull.of_bytes(100))


@pytest.mark.parametrize("kind", [kind for kind in REFUSALS if kind.status in (429, 503)])
def test_a_refusal_that_passes_says_when_to_try_again(kind: type[WatchdogError]):
    arguments = {QueueFull: (8, 3), TooManyConnections: (8,)}
    error = kind(*arguments.get(kind, ()))
    assert error.retry_after is not None
