"""The loops of Knative's platforms, what fails in them, and counts that the watch does not know yet."""

import threading

from autoscaler.doubles import until
from slo_autoscaler.errors import ApiError, ConflictError, PlatformError, UnreachableError
from slo_autoscaler.platforms.knative.objects import TICK, Given, Loop, Wishes, Writes, lean_deployment

A, B = ("default", "a"), ("default", "b")


def an_object(version):
    return {"metadata": {"resourceVersion": version}}


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


def test_a_loop_that_was_never_started_can_be_closed():
    Loop("a loop", lambda: 1.0).close()


def test_a_write_that_is_refused_waits_alone(caplog):
    writes, done = Writes("status"), []
    assert writes.attempt(A, fail(ApiError("refused", 422)))
    assert writes.attempt(A, lambda: done.append("a")), "too early"
    assert writes.attempt(B, lambda: done.append("b"))
    assert done == ["b"]
    assert writes.fails(A)
    assert not writes.fails(B)
    assert 0.0 < writes.pause() < TICK
    until(lambda: writes.attempt(A, lambda: done.append("a")) and "a" in done, "it is tried again")
    assert not writes.fails(A)
    assert caplog.text.count("status of default/a: refused") == 1


def test_what_fails_for_all_ends_the_pass_and_all_wait():
    for error in (UnreachableError("no answer"), ApiError("webhook", 500)):
        writes = Writes("status")
        assert not writes.attempt(A, fail(error))
        assert writes.resting()
        assert writes.order([A, B])[0] == B, "what was not tried has its turn first"


def test_a_conflict_is_no_failure_for_the_watch_will_tell():
    writes = Writes("status")
    assert writes.attempt(A, fail(ConflictError("stale", 409)))
    assert not writes.fails(A)
    assert writes.pause() == TICK


def test_what_is_gone_is_forgotten():
    writes = Writes("status")
    writes.attempt(A, fail(ApiError("refused", 422)))
    assert writes.order([B]) == [B]
    assert not writes.fails(A)


def test_a_count_that_was_given_stands_until_the_watch_tells_of_it():
    given = Given()
    given.note(A, an_object("12"), 5)
    assert given.count(A, an_object("11"), 2) == 5
    assert given.version(A, an_object("11")) == "12"
    assert given.count(A, an_object("12"), 5) == 5
    assert given.count(A, an_object("11"), 2) == 2, "it was told: an older object is another one"


def test_versions_that_are_no_numbers_are_not_compared():
    given = Given()
    given.note(A, an_object("x"), 5)
    assert given.count(A, an_object("y"), 2) == 2
    assert given.version(A, an_object("y")) == "y"


def test_what_is_not_there_any_more_has_no_count():
    given = Given()
    given.note(A, an_object("12"), 5)
    given.forget([B])
    assert given.count(A, an_object("11"), 2) == 2


def test_the_last_decision_is_remembered_and_given_back():
    wishes = Wishes()
    assert wishes.put("a", 3) is None
    assert wishes.put("a", 5) == 3
    assert wishes.get("a") == 5
    wishes.put("a", None)
    assert wishes.get("a") is None
    wishes.put("b", 1)
    wishes.keep(["a"])
    assert wishes.get("b") is None


def test_of_a_deployment_little_is_kept():
    kept = lean_deployment(
        {
            "metadata": {"name": "a", "namespace": "b", "managedFields": [1], "labels": {"c": "d"}},
            "spec": {"replicas": 3, "template": {"spec": {}}},
            "status": {"readyReplicas": 2, "replicas": 3},
        }
    )
    assert kept == {
        "metadata": {"name": "a", "namespace": "b", "labels": {"c": "d"}},
        "spec": {"replicas": 3},
        "status": {"readyReplicas": 2},
    }
