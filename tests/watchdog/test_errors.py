import inspect

import pytest

from batching_watchdog import errors
from batching_watchdog.errors import ConfigError, QueueFull, WatchdogError

EVERY_ERROR = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, WatchdogError)
]


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_every_error_has_an_http_error_status_and_ends_the_process_with_a_failure(kind: type[WatchdogError]):
    assert 400 <= kind.status <= 599
    assert kind.exit_status > 0


def test_errors_that_answer_a_request_have_reasons_of_their_own():
    reasons = [kind.reason for kind in EVERY_ERROR if kind.reason != WatchdogError.reason]
    assert len(reasons) == len(set(reasons)) == 10


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("BadRequest", 400),
        ("RequestTimedOut", 408),
        ("BodyTooLarge", 413),
        ("HeadersTooLarge", 431),
        ("QueueFull", 429),
        ("ShuttingDown", 503),
        ("PredictedLate", 503),
        ("Expired", 504),
        ("WorkerDied", 502),
    ],
)
def test_statuses_are_those_of_the_contract(name: str, status: int):
    assert getattr(errors, name).status == status


def test_every_refusal_says_when_to_try_again():
    assert QueueFull(8, 3).retry_after == 3
    assert errors.ShuttingDown.retry_after is not None
    assert errors.PredictedLate.retry_after is not None


def test_a_full_queue_names_its_limit():
    assert "8 requests" in str(QueueFull(8, 3))
    assert "max_inflight" in str(QueueFull(8, 3))


def test_a_config_error_names_variable_value_and_rule_and_exits_with_2():
    error = ConfigError("port", "x", "must be a port number")
    assert str(error) == "port='x': must be a port number"
    assert error.variable == "port"
    assert error.exit_status == 2
