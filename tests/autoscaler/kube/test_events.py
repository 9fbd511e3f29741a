"""What becomes of events that are too many, or that bring a bug to light."""

import threading
from dataclasses import replace

import pytest

from autoscaler import doubles
from autoscaler.doubles import until
from autoscaler.kube.access import on_double
from slo_autoscaler.kube import events
from slo_autoscaler.kube.events import EVENTS, Events, Reference


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
    released = threading.Event()
    api.faults["POST /api/v1/namespaces"] = doubles.hang(released)
    for number in range(9):
        told.tell(about, "Scaled", str(number))
    assert caplog.text.count("too many events wait to be written") == 1
    told.close()
    api.faults.clear()
    released.set()
    until(lambda: len(written()) in (1, 2), "those that waited are written")


def test_an_event_that_was_forgotten_is_written_anew(about, told, written):
    for message, found in (
        ("a", [("a", 1)]),
        ("a", [("a", 2)]),
        ("b", [("a", 2), ("b", 1)]),
        ("a", [("a", 1), ("a", 2), ("b", 1)]),
    ):
        told.tell(about, "Scaled", message)
        until(lambda found=found: written() == found, "it is written")


def test_an_event_that_brings_a_bug_to_light_keeps_no_other(about, told, written, caplog):
    told.tell(replace(about, name=None), "Scaled", "odd")
    told.tell(about, "Scaled", "a")
    until(lambda: written() == [("a", 1)], "the next one is written")
    assert "TypeError" in caplog.text
