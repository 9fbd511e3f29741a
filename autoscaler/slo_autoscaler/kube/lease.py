"""Elects a leader by a Lease of the Kubernetes API: of several autoscalers, on any nodes, one acts.

Owns the thread that renews the lease, and the time until which this process may act. The rules are in
``lease_rules``. A renewal that hangs delays no caller: ``leads`` only reads the clock. A leader whose network
stalls stops before another may start.

The kubernetes package has ``leaderelection``. It relies on the wall clock, which may jump, and while a
renewal hangs its callers do not learn that the lease has expired.
"""

import hashlib
import logging
import os
import random
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from slo_autoscaler.errors import ConfigError, ConflictError, NotFoundError, PlatformError
from slo_autoscaler.kube import PAUSED
from slo_autoscaler.kube.client import Document, KubeApi, Resource
from slo_autoscaler.kube.lease_rules import (
    LEASE_SHARE,
    Lease,
    Settings,
    Sighting,
    Step,
    acts_until,
    held,
    next_step,
    pause,
    released,
    sighted,
)
from slo_autoscaler.logs import Changes

logger = logging.getLogger(__name__)

LEASES: Final = Resource("coordination.k8s.io/v1", "leases")


def _now() -> float:
    """Return monotonic seconds that include the time in which the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Identity:
    """A name unique among running processes; the same process has it again after a restart.

    So a restarted autoscaler finds its own lease and need not wait until it expires. The name consists of
    the boot, the network namespace (a pod's, which outlives its containers) and the lease. Within the
    namespace the kernel gives a socket's address to one process at a time, until that process ends. A second
    process there, or one without such a socket, gets a random name.
    """

    def __init__(self, lease: str) -> None:
        host = socket.gethostname()
        self._held: socket.socket | None = None
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
            place = f"{boot} {os.stat('/proc/self/ns/net').st_ino} {host} {lease}"
            digest = hashlib.sha256(place.encode()).hexdigest()
            self._held = socket.socket(socket.AF_UNIX)
            self._held.bind(f"\0slo-autoscaler-{digest[:32]}")
        except (OSError, ValueError):
            self.close()
            digest = uuid.uuid4().hex
        self.name = f"{host}_{digest[:8]}"

    def close(self) -> None:
        """Release the name for the next process."""
        if self._held is not None:
            self._held.close()
            self._held = None


class LeaseLeader:
    """A candidate that polls at once, and leads if the lease is free."""

    def __init__(
        self,
        settings: Settings,
        cluster: tuple[str | None, str | None, bool | None],
        identity: str | None = None,
    ) -> None:
        """``cluster``: the first arguments of ``KubeApi``. Raises ``ConfigError``."""
        # Short enough that a read and a write may both time out and be repeated before the lease expires.
        # The connection is its own, so that renewals wait for no other request.
        timeout = settings.duration / (2 * LEASE_SHARE)
        try:
            self._api = api = KubeApi(*cluster, timeout=timeout, connections=1)
        except ConfigError as error:
            hint = "without the Kubernetes API run one autoscaler, without leader"
            raise ConfigError([f"leader.lease: {line}; {hint}" for line in error.lines]) from None
        self._settings = settings
        self._namespace = settings.namespace or api.namespace
        self._path = LEASES.path(self._namespace, settings.name)
        self._name = Identity(f"{self._namespace}/{settings.name}")
        self.identity = identity or self._name.name
        self._sighting: Sighting | None = None
        self._acts_until = float("-inf")
        self._paused = False
        self._led = False
        self._said = Changes(logger)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._poll()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def leads(self) -> bool:
        """Return whether this process holds the lease now."""
        with self._lock:
            leads = not self._stop.is_set() and not self._paused and _now() < self._acts_until
            if leads != self._led:
                self._led = leads
                if leads:
                    logger.info("is leader, by the lease %s/%s", self._namespace, self._settings.name)
                elif not self._stop.is_set() and not self._paused:
                    logger.error(
                        "lease %s/%s: not renewed in time; no longer the leader",
                        self._namespace,
                        self._settings.name,
                    )
            return leads

    def close(self) -> None:
        """Stop leading, and release the lease. Takes at most some of the API's timeouts."""
        self._stop.set()
        self._thread.join(4 * self._api.timeout)
        if self._acts_until > _now():
            # If the release fails, a standby waits for one lease duration.
            with suppress(PlatformError):
                document = self._api.get(self._path, patient=False)
                lease = Lease.of(document)
                if lease.holder == self.identity:
                    document["spec"] = released(lease, datetime.now(UTC))
                    self._api.replace(self._path, document, patient=False)
                    logger.info("lease %s/%s: released", self._namespace, self._settings.name)
        self._acts_until = float("-inf")
        self._name.close()
        self._api.close()

    def _run(self) -> None:
        while not self._stop.wait(self._pause()):
            self._poll()

    def _pause_if_annotated(self, document: Document) -> None:
        paused = PAUSED in (document["metadata"].get("annotations") or {})
        with self._lock:
            before, self._paused = self._paused, paused
        if paused != before:
            where = f"the lease {self._namespace}/{self._settings.name}"
            logger.warning("%s %s the annotation %s", where, "has" if paused else "has no more", PAUSED)

    def _pause(self) -> float:
        """Return the seconds until the next poll."""
        interval = self._settings.renew_interval * random.uniform(0.8, 1.0)  # noqa: S311 - a spread, nothing secret
        if "error" in self._said:
            return interval
        return pause(self._sighting, self.identity, self._settings.duration, interval, _now())

    def _poll(self) -> None:
        """Read the lease; take or renew it if the rules allow."""
        try:
            self._try()
        except ConflictError:
            # Another candidate wrote meanwhile; the next poll shows which one.
            return
        except PlatformError as error:
            self._said.say("error", f"lease: {error}")
            return
        except Exception:
            # Without its thread this candidate would stand by forever, without a message.
            logger.exception("lease")
            return
        self._said.over("error", "lease: recovered")

    def _try(self) -> None:
        config = self._settings
        document: Document | None = None
        try:
            document = self._api.get(self._path, patient=False)
            self._pause_if_annotated(document)
            self._sighting = sighted(self._sighting, Lease.of(document), _now())
        except NotFoundError:
            self._sighting = None
        lease = None if self._sighting is None else self._sighting.lease
        step = next_step(self._sighting, self.identity, config.duration, _now())
        if step is Step.WAIT and lease is not None:
            # Of a lease that was deleted, or taken by hand, the rest is another's.
            with self._lock:
                self._acts_until = float("-inf")
            where = f"the lease {self._namespace}/{self._settings.name}"
            text = f"{lease.holder} holds {where}: standing by; not applying decisions"
            self._said.say("standby", text, level=logging.INFO)
            return
        sent = _now()
        spec = held(step, lease, self.identity, config.duration, datetime.now(UTC))
        if document is None:
            metadata = {"name": config.name, "namespace": self._namespace}
            body = {"apiVersion": LEASES.api, "kind": "Lease", "metadata": metadata, "spec": spec}
            written = self._api.create(LEASES.path(self._namespace), body, patient=False)
        else:
            written = self._api.replace(self._path, {**document, "spec": spec}, patient=False)
        self._sighting = Sighting(Lease.of(written), _now())
        self._said.over("standby")
        with self._lock:
            self._acts_until = acts_until(sent, config.duration)
