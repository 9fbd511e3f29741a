"""What becomes of events that are too many, or that bring a bug to light."""

import threading
from dataclasses import replace

import pytest

from slo_autoscaler.kube import events
from slo_autoscaler.kube.events import EVENTS, Events, Reference
from support import doubles
from support.cluster import delete, on_double
from support.waits import until


@pytest.fixture
def about(namespace):
    return Reference("apps/v1", "Deployment", namespace, "web", "u-1")


@pytest.fixture
def told(cluster, monkeypatch):
    """Tell of events under limits that are small; closed at the end."""
    monkeypatch.setattr(events, "WAITING", 2)
    monkeypatch.setattr(events, "REMEMBERED", 1)
    told = Events(cluster)
    yield told
    told.close()


@pytest.fixture
def written(cluster, namespace):
    """Return message and count of each event that there is."""
    path = EVENTS.path(namespace)
    return lambda: sorted(
        (each["message"], each["count"]) for items, _ in cluster.pages(path) for each in items
    )


@on_double
def test_events_that_are_too_many_are_lost_and_hold_up_nothing(api, about, told, written, caplog):
    arrived, released = threading.Event(), threading.Event()
    hang = doubles.hang(released)
    api.faults["POST /api/v1/namespaces"] = lambda handler: (arrived.set(), hang(handler))[-1]
    told.tell(about, "Scaled", "0")
    assert arrived.wait(20)
    for number in range(1, 9):
        told.tell(about, "Scaled", str(number))
    assert caplog.text.count("too many events") == 1
    told.close()
    api.faults.clear()
    released.set()
    until(lambda: len(written()) in (1, 2), "those that waited are written")


def test_a_repetition_counts_up_unless_the_event_was_forgotten_or_deleted_or_is_old(
    cluster, about, told, written, namespace, monkeypatch
):
    for message, found in (
        ("a", [("a", 1)]),
        ("a", [("a", 2)]),
        ("b", [("a", 2), ("b", 1)]),
        ("a", [("a", 1), ("a", 2), ("b", 1)]),
    ):
        told.tell(about, "Scaled", message)
        until(lambda found=found: written() == found, "it is written")
    for items, _ in cluster.pages(EVENTS.path(namespace)):
        for each in items:
            delete(cluster, EVENTS.path(namespace, each["metadata"]["name"]))
    told.tell(about, "Scaled", "a")
    until(lambda: written() == [("a", 1)], "it is written anew")
    monkeypatch.setattr(events, "REPEATED_WITHIN", 0.0)
    told.tell(about, "Scaled", "a")
    until(lambda: written() == [("a", 1), ("a", 1)], "it is old")


def test_event_is_within_the_limits_of_the_api_and_a_repetition_moves_its_last_time(
    cluster, about, told, written, namespace
):
    told.tell(replace(about, name="x" * 253), "Scaled", "m" * 2000)
    until(written, "it is written")
    (event,) = next(cluster.pages(EVENTS.path(namespace)))[0]
    assert len(event["metadata"]["name"]) <= 253
    assert len(event["message"]) <= 1024
    assert event["firstTimestamp"] == event["lastTimestamp"]
    path = EVENTS.path(namespace, event["metadata"]["name"])
    cluster.patch(path, {"lastTimestamp": "2026-01-01T00:00:00Z"})
    told.tell(replace(about, name="x" * 253), "Scaled", "m" * 2000)
    until(lambda: cluster.get(path)["count"] == 2, "it is counted")
    assert cluster.get(path)["lastTimestamp"] > "2026-01-01T00:00:00Z"


@on_double
def test_event_that_cannot_be_written_is_lost_and_logged_once(api, about, told, written, caplog):
    api.faults["POST"] = doubles.status(403)
    for number, message in enumerate("abc", 1):
        told.tell(about, "Scaled", message)
        until(lambda number=number: len(api.writes()) == 1 + number, "it was tried")
    api.faults.clear()
    told.tell(replace(about, name=None), "Scaled", "a bug comes to light")
    told.tell(about, "Scaled", "d")
    until(lambda: written() == [("d", 1)], "the next one is written")
    assert caplog.text.count("events are lost") == 1
    assert "TypeError" in caplog.text
