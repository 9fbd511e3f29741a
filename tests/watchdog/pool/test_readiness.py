import pytest

from batching_watchdog.pool.readiness import Readiness, Trouble


@pytest.mark.parametrize(
    ("serving", "overdue", "ready"), [(["a"], False, True), (["a"], True, False), ([], False, False)]
)
def test_pool_is_ready_while_a_worker_serves_that_is_not_overdue(serving, overdue, ready):
    assert (not Readiness(10.0, 0.0).why_not(serving, 1.0, all_overdue=overdue)) is ready


def test_trouble_of_the_newest_worker_is_the_reason_until_load_timeout():
    readiness = Readiness(10.0, 0.0)
    readiness.trouble = Trouble.FAILS_EXAMPLE
    reasons = [readiness.why_not([], now, all_overdue=False) for now in (10.0, 10.1)]
    assert reasons[0] == Trouble.FAILS_EXAMPLE.value
    assert "load_timeout (10 s)" in reasons[1]
