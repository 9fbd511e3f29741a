"""Loops in their threads, and writes that back off."""

import threading
from types import SimpleNamespace

import pytest

from slo_autoscaler.errors import ApiError, ConflictError, NotFoundError, PlatformError, UnreachableError
from slo_autoscaler.kube import loop
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

    woken = Loop("a loop", step)
    woken.start()
    for _ in range(5):
        assert passes.acquire(timeout=10)
        woken.wake()
    woken.close()
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


class Tried:
    """A write that fails as the test says, at times of a clock that the test moves."""

    def __init__(self, clock):
        self.clock = clock
        self.writes = Writes("status")
        self.error = None
        self.times = []

    def write(self):
        self.times.append(self.clock.now)
        if self.error is not None:
            raise self.error

    def fails_for(self, error, seconds):
        """Return whether the write is tried now, and then held back for so long."""
        self.error, before = error, len(self.times)
        self.attempt()
        tries = len(self.times)
        self.clock.now += seconds - 0.01
        self.attempt()
        held_back = len(self.times) == tries
        self.clock.now += 0.02
        return held_back and tries > before

    def attempt(self):
        if not self.writes.backing_off():
            self.writes.attempt(A, self.write)


@pytest.fixture
def tried(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(loop, "time", clock)
    return Tried(clock)


@pytest.mark.parametrize("error", [REFUSED, UnreachableError("no answer")])
def test_backoff_doubles_to_its_maximum_and_begins_anew_after_a_success(tried, error):
    for seconds in (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0):
        assert tried.fails_for(error, seconds)
    tried.error = None
    tried.attempt()
    assert tried.fails_for(error, 0.2)
    assert tried.fails_for(error, 0.4)


def test_pause_ends_with_the_first_backoff(tried):
    assert tried.fails_for(REFUSED, 0.2)
    tried.attempt()
    assert tried.writes.pause() == pytest.approx(0.4)
    tried.clock.now += 0.3
    assert tried.writes.pause() == pytest.approx(0.1)
    tried.clock.now += 0.2
    assert tried.writes.pause() == MAX_WAIT_SECONDS


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
