"""Runs a twin of each function, served and scaled as by OpenFaaS CE, under the same arrivals.

Owns the definition of a twin and the loop that scales twins. Each second it queries Prometheus for firing
alerts of the chart's rule. It replaces Alertmanager and the gateway's ``/system/alert`` by the algorithm in
:mod:`tailbound_lab.simulate.baselines`. It changes only twins. Without an answer of Prometheus it changes
nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import aiohttp

from tailbound_lab.demo.watch import NoAnswerError, get_json
from tailbound_lab.local.functions import Function, Registry
from tailbound_lab.local.specs import FunctionSpec
from tailbound_lab.simulate.baselines import (
    AlertGroup,
    Bounds,
    Notification,
    OpenFaasRule,
    notify,
    openfaas_step,
)

TWIN_NAMESPACE = "baseline"
"""Namespace of the twins: the autoscaler scales only the functions' own namespace."""

ALERT = "APIHighInvocationRate"
"""The chart's alert: more than 5 answers 200 a second over 10 s, for 5 s."""

MAX_REPLICAS = 5
"""OpenFaaS CE's maximum, regardless of the label."""

_TWIN_ENVIRONMENT = {"max_batch_size": "1", "workers": "1", "worker_threads": "1"}
"""Environment of a twin: one request at a time in one worker.

One thread, because the threads of a single request would spin on the cores on which the others are measured.
"""
_EXEC_TIMEOUT = "30s"
"""The watchdog's default."""
_POLL_INTERVAL = 1.0
_MIN, _MAX, _FACTOR = ("com.openfaas.scale.min", "com.openfaas.scale.max", "com.openfaas.scale.factor")

_log = logging.getLogger(__name__)


def twin(spec: FunctionSpec) -> FunctionSpec:
    """Return the function's twin. Its own target is its timeout, so it serves in order of arrival."""
    own = {"slo_latency": spec.env_vars.get("exec_timeout", _EXEC_TIMEOUT)}
    env_vars = {**spec.env_vars, **_TWIN_ENVIRONMENT, **own}
    return replace(spec, namespace=TWIN_NAMESPACE, env_vars=env_vars)


def rule_and_bounds(labels: Mapping[str, str]) -> tuple[OpenFaasRule, Bounds]:
    """Return rule and bounds from a function's labels, by default the gateway's."""
    lowest, highest, factor = (
        int(text) if (text := labels.get(label, "")).isdecimal() else default
        for label, default in ((_MIN, 1), (_MAX, MAX_REPLICAS), (_FACTOR, 10))
    )
    return OpenFaasRule(factor=factor), Bounds(lowest, min(highest, MAX_REPLICAS))


class CommunityScaler:
    """Scales functions as OpenFaaS CE would; :meth:`run` runs until cancelled."""

    def __init__(
        self, session: aiohttp.ClientSession, metrics: str, registry: Registry, functions: Sequence[Function]
    ) -> None:
        """Take a client, Prometheus' address, and some functions of a registry."""
        self._session = session
        self._metrics = metrics
        self._registry = registry
        self._functions = {function.spec.full_name: function for function in functions}
        self._group = AlertGroup()

    async def run(self) -> None:
        """Query each second, and act on the notifications."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                await self.poll(begun)
            except NoAnswerError as error:
                _log.debug("cannot read the alerts: %s", error)
            await asyncio.sleep(max(0.0, begun + _POLL_INTERVAL - loop.time()))

    async def poll(self, now: float) -> Notification | None:
        """Query once and act; return the notification that was sent, if any."""
        firing = await self._firing()
        self._group, notification = notify(OpenFaasRule(), self._group, firing & self._functions.keys(), now)
        if notification is not None:
            for name in sorted(notification.firing | notification.resolved):
                self._obey(self._functions[name], firing=name in notification.firing)
        return notification

    async def _firing(self) -> frozenset[str]:
        document = await get_json(self._session, f"{self._metrics}/api/v1/alerts")
        try:
            return frozenset(
                item["labels"].get("function_name", "")
                for item in document["data"]["alerts"]
                if item["labels"].get("alertname") == ALERT and item["state"] == "firing"
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise NoAnswerError(f"{self._metrics}: not a list of alerts: {error!r}") from error

    def _obey(self, function: Function, *, firing: bool) -> None:
        rule, bounds = rule_and_bounds(function.spec.labels)
        self._registry.scale(function, openfaas_step(rule, bounds, function.desired, firing=firing))
