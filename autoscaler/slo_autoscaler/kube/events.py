"""Writes events on the scaled objects, which ``kubectl describe`` shows.

Owns a thread, so that scaling never waits for an event, and the record of earlier events: a repetition
increments the existing event. An event that cannot be written is lost, which is logged once. The kubernetes
package has models of events but no recorder.
"""

import logging
import queue
import threading
import time
import uuid
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from slo_autoscaler.errors import NotFoundError, PlatformError
from slo_autoscaler.kube.client import KubeApi, Resource
from slo_autoscaler.logs import Changes

logger = logging.getLogger(__name__)

EVENTS: Final = Resource("v1", "events")
COMPONENT: Final = "slo-autoscaler"
WAITING: Final = 1000
"""Maximum number of waiting events; further ones are lost."""
REMEMBERED: Final = 4096
REPEATED_WITHIN: Final = 600.0
"""Seconds after which a repetition becomes a new event; the API keeps events for an hour."""

MOST_TEXT: Final = 1000
"""Characters of a message, which the API limits to 1024 bytes."""

_LONGEST_NAME: Final = 230
"""Characters of the object's name in the event's name, which the API limits to 253."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The object of an event."""

    api: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class _Event:
    """An event to write; equal ones are counted as one."""

    about: Reference
    reason: str
    message: str
    kind: str
    at: datetime = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Written:
    """An existing event."""

    name: str
    count: int
    at: float


class Events:
    """Writes events in order, in a thread of its own."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._instance = f"{COMPONENT}-{uuid.uuid4().hex[:8]}"
        self._waiting: queue.Queue[_Event | None] = queue.Queue(WAITING)
        self._written: OrderedDict[_Event, _Written] = OrderedDict()
        self._said = Changes(logger)
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def tell(self, about: Reference, reason: str, message: str, *, kind: str = "Normal") -> None:
        """Queue an event; ``reason`` is one word, ``kind`` ``Normal`` or ``Warning``."""
        try:
            self._waiting.put_nowait(_Event(about, reason, message[:MOST_TEXT], kind, datetime.now(UTC)))
        except queue.Full:
            self._lost("too many events are waiting")

    def close(self) -> None:
        """Write waiting events for at most a second."""
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(1.0)

    def _run(self) -> None:
        while (event := self._waiting.get()) is not None:
            try:
                self._write(event)
                self._said.over("lost")
            except PlatformError as error:
                self._lost(str(error))
            except Exception:
                logger.exception("event")

    def _lost(self, why: str) -> None:
        self._said.say("lost", f"events are lost: {why}; scaling goes on", state="lost")

    def _write(self, event: _Event) -> None:
        before = self._written.pop(event, None)
        if before is not None and time.monotonic() - before.at < REPEATED_WITHIN:
            change = {"count": before.count + 1, "lastTimestamp": _text(event.at)}
            with suppress(NotFoundError):
                self._api.patch(EVENTS.path(event.about.namespace, before.name), change)
                self._written[event] = _Written(before.name, before.count + 1, time.monotonic())
                return
        document = _document(event, self._instance)
        self._api.create(EVENTS.path(event.about.namespace), document)
        self._written[event] = _Written(document["metadata"]["name"], 1, time.monotonic())
        while len(self._written) > REMEMBERED:
            self._written.popitem(last=False)


def _document(event: _Event, instance: str) -> dict[str, Any]:
    about = event.about
    name = f"{about.name[:_LONGEST_NAME]}.{uuid.uuid4().hex[:16]}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": about.namespace},
        "involvedObject": {
            "apiVersion": about.api,
            "kind": about.kind,
            "namespace": about.namespace,
            "name": about.name,
            "uid": about.uid,
        },
        "type": event.kind,
        "reason": event.reason,
        "message": event.message,
        "count": 1,
        "firstTimestamp": _text(event.at),
        "lastTimestamp": _text(event.at),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": instance,
    }


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
