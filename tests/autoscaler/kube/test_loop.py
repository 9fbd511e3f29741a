"""Loops in their threads, and writes that back off."""

import threading

import pytest

from slo_autoscaler.errors import ApiError, ConflictError, NotFoundError, PlatformError, UnreachableError
from slo_autoscaler.kube.loop import MAX_WAIT_SECONDS, Loop, Writes
from support.waits import until

A, B = ("default", "a"), ("default", "b")
REFUSED = ApiError("refused", 422)


def fail(error):
    def write():
        raise error

    return write


def test_a_loop_is_woken_and_outlives_its_own_bugs(caplog):
    passes = threading.Semaphore(0)
    bugs = [ValueError("a bug"), PlatformError("away"), PlatformError("away")]

    def step():
        passes.release()
        if bugs:
            raise bugs.pop(0)
        return 60.0

    loop = Loop("a loop", step)
    loop.start()
    for _ in range(5):
        assert passes.acquire(timeout=10)
        loop.wake()
    loop.close()
    assert "a loop failed" in caplog.text
    assert caplog.text.count("away") == 1, "a complaint that goes on is made once"


def test_a_write_that_is_refused_waits_alone_and_is_forgotten_with_its_object(caplog):
    writes, done = Writes("status"), []
    assert writes.attempt(A, fail(REFUSED))
    assert writes.attempt(A, lambda: done.append("a")), "too early"
    assert writes.attempt(B, lambda: done.append("b"))
    assert done == ["b"]
    assert (writes.failed(A), writes.failed(B)) == (True, False)
    assert 0.0 < writes.pause() < MAX_WAIT_SECONDS
    until(lambda: writes.attempt(A, lambda: done.append("a")) and "a" in done, "it is tried again")
    assert not writes.failed(A)
    assert caplog.text.count("status of default/a: refused") == 1
    writes.attempt(A, fail(REFUSED))
    assert writes.order([B]) == [B]
    assert not writes.failed(A)


@pytest.mark.parametrize("error", [UnreachableError("no answer"), ApiError("webhook", 500)])
def test_failure_of_all_writes_ends_the_pass_and_backs_all_off(error, caplog):
    writes = Writes("status")
    for _ in range(2):
        assert not writes.attempt(A, fail(error))
    assert caplog.text.count(str(error)) == 1
    assert writes.backing_off()
    assert writes.order([A, B])[0] == B, "what was not tried has its turn first"


@pytest.mark.parametrize("error", [ConflictError("stale", 409), NotFoundError("gone", 404)])
def test_a_write_to_an_old_state_is_no_failure_for_the_watch_reports_the_new_one(error):
    writes = Writes("status")
    assert writes.attempt(A, fail(error))
    assert (writes.failed(A), writes.pause()) == (False, MAX_WAIT_SECONDS)
