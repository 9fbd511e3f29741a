"""OpenFaaS CE's default scaler, for the twins: the loop around :mod:`tailbound_lab.live.alerting`.

Each second it asks Prometheus which alerts of the chart's rule fire, stands in for Alertmanager and for the
gateway's ``/system/alert``, and scales through the same REST API as everybody else. It may not touch a
function outside the twins. A Prometheus that does not answer changes nothing, as an Alertmanager that hears
nothing keeps its group.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from tailbound_lab.live import queries
from tailbound_lab.live.alerting import Group, Notification, desired_replicas, observe

ALERT = "APIHighInvocationRate"
"""The chart's alert: more than 5 answers 200 a second over 10 s, for 5 s."""

_POLL_INTERVAL = 1.0
_FACTOR_DEFAULT = 10
_LABELS = ("com.openfaas.scale.min", "com.openfaas.scale.max", "com.openfaas.scale.factor")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the gateway reads from a function's labels: replicas at least, at most, and percent for a step."""

    minimum: int = 1
    maximum: int = 5
    factor: int = _FACTOR_DEFAULT

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> Bounds:
        """Read the labels; the gateway's defaults stand for what is missing or no number."""
        defaults = cls()
        values = [
            int(text) if (text := labels.get(label, "")).isdecimal() else default
            for label, default in zip(
                _LABELS, (defaults.minimum, defaults.maximum, defaults.factor), strict=True
            )
        ]
        return cls(*values)


class CommunityScaler:
    """Scales twins as OpenFaaS CE would; :meth:`run` goes on until cancelled."""

    def __init__(
        self, session: aiohttp.ClientSession, gateway: str, metrics: str, twins: Mapping[str, Bounds]
    ) -> None:
        """Take a client, the gateway's and Prometheus' addresses, and the twins by their full names."""
        self._session = session
        self._gateway = gateway
        self._metrics = metrics
        self._twins = twins
        self._group = Group()

    async def run(self) -> None:
        """Look each second, and act on the notifications."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                await self.look(begun)
            except queries.NoAnswerError as error:
                _log.debug("no look at the alerts", extra={"error": str(error)})
            await asyncio.sleep(max(0.0, begun + _POLL_INTERVAL - loop.time()))

    async def look(self, now: float) -> Notification | None:
        """Look once and act on what is due; return the notification that went out, if one did."""
        alerts = await queries.firing(self._session, self._metrics, ALERT)
        self._group, notification = observe(self._group, alerts & self._twins.keys(), now)
        if notification is not None:
            for twin in sorted(notification.firing | notification.resolved):
                await self._obey(twin, firing=twin in notification.firing)
        return notification

    async def _obey(self, twin: str, *, firing: bool) -> None:
        name, _, namespace = twin.rpartition(".")
        where = {"namespace": namespace}
        status = await queries.get_json(self._session, f"{self._gateway}/system/function/{name}", where)
        current, bounds = int(status.get("replicas", 0)), self._twins[twin]
        desired = desired_replicas(
            current,
            firing=firing,
            minimum=bounds.minimum,
            maximum=bounds.maximum,
            factor=bounds.factor,
        )
        if desired == current:
            return
        body = {"serviceName": name, "replicas": desired, "namespace": namespace}
        url = f"{self._gateway}/system/scale-function/{name}"
        try:
            async with self._session.post(url, params=where, json=body) as answer:
                if answer.status not in (200, 202):
                    raise queries.NoAnswerError(f"{url}: status {answer.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise queries.NoAnswerError(f"{url}: {error or type(error).__name__}") from error
