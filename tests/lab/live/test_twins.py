"""OpenFaaS CE's scaling of the twins: Alertmanager's grouping, the gateway's step, the requests sent."""

import asyncio
import json

import aiohttp
import pytest

from autoscaler import doubles
from autoscaler.doubles import Function, a_gateway
from tailbound_lab.live.twins import ALERT, CommunityScaler, rule_and_bounds, twin
from tailbound_lab.live.watch import NoAnswerError
from tailbound_lab.local.specs import FunctionSpec
from tailbound_lab.simulate.baselines import Bounds, OpenFaasRule

TWIN, OTHER = "tabular.baseline", "vision.openfaas-fn"
ALERTS = "GET /api/v1/alerts"


def test_labels_are_read_within_the_communitys_ceiling():
    labels = {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "4", "com.openfaas.scale.factor": "50"}
    assert rule_and_bounds(labels) == (OpenFaasRule(factor=50), Bounds(2, 4))
    assert rule_and_bounds({"com.openfaas.scale.max": "many"}) == (OpenFaasRule(factor=10), Bounds(1, 5))
    assert rule_and_bounds({"com.openfaas.scale.max": "20"})[1] == Bounds(1, 5)


def test_a_twin_serves_one_request_at_a_time_in_a_namespace_of_its_own():
    spec = FunctionSpec("tabular", "image", env_vars={"slo_latency": "1s", "workers": "4"})
    other = twin(spec)
    assert other.full_name == TWIN
    assert (other.env_vars["slo_latency"], other.env_vars["workers"]) == ("1s", "1")
    assert other.env_vars["batch_policy"] == "unbatched"


def alerts(*found):
    """Prometheus' answer with alerts of (function, state)."""
    rows = [{"labels": {"alertname": ALERT, "function_name": each}, "state": state} for each, state in found]
    rows.append({"labels": {"alertname": "SomethingElse", "function_name": TWIN}, "state": "firing"})
    return doubles.status(200, json.dumps({"data": {"alerts": rows}}).encode())


@pytest.fixture
def cluster():
    """Gateway and Prometheus at one address, with a twin and another function."""
    with a_gateway(tabular=Function(namespace="baseline"), vision=Function()) as gateway:
        yield gateway


def polled(cluster, moments, *, labels=None, firing=lambda _: True):
    """Poll at each of the moments; the counts that were asked for."""

    async def main():
        async with aiohttp.ClientSession() as session:
            scaler = CommunityScaler(session, cluster.url, cluster.url, {TWIN: labels or {}})
            for moment in moments:
                if not firing(moment):
                    cluster.faults[ALERTS] = alerts()
                await scaler.poll(moment)

    asyncio.run(main())
    return [(body["namespace"], body["serviceName"], body["replicas"]) for body in cluster.posted]


def test_a_firing_alert_adds_a_replica_at_each_notification_until_it_is_resolved(cluster):
    cluster.faults[ALERTS] = alerts((TWIN, "firing"))
    scaled = polled(cluster, range(90), firing=lambda moment: moment < 70)
    assert scaled == [("baseline", "tabular", count) for count in (2, 3, 4, 1)]


@pytest.mark.parametrize(
    ("found", "most"),
    [([(OTHER, "firing"), (TWIN, "pending")], "5"), ([(TWIN, "firing")], "1")],
    ids=["not a twin's", "at its highest"],
)
def test_only_firing_alerts_of_twins_below_their_highest_count_change_it(cluster, found, most):
    cluster.faults[ALERTS] = alerts(*found)
    assert polled(cluster, range(40), labels={"com.openfaas.scale.max": most}) == []


@pytest.mark.parametrize("path", [ALERTS, "GET /system/function/", "POST /system/scale-function/"])
def test_a_server_that_fails_is_no_answer(cluster, path):
    cluster.faults = {ALERTS: alerts((TWIN, "firing"))} | {path: doubles.status(500)}
    with pytest.raises(NoAnswerError):
        polled(cluster, range(40))


def test_the_loop_outlives_a_prometheus_that_does_not_answer(cluster):
    async def main():
        async with aiohttp.ClientSession() as session, asyncio.timeout(30):
            running = asyncio.create_task(CommunityScaler(session, cluster.url, cluster.url, {}).run())
            while len(cluster.requests) < 2:  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
