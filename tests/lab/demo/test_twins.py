"""OpenFaaS CE's scaling of the twins on the real platform: Alertmanager's grouping, the gateway's step."""

import asyncio
import json
from itertools import groupby

import pytest

from batching_watchdog.config import Config
from lab.local.harness import platform_client
from support import doubles
from support.doubles import a_gateway
from tailbound_lab.demo.twins import ALERT, CommunityScaler, rule_and_bounds, twin
from tailbound_lab.demo.watch import NoAnswerError
from tailbound_lab.local.specs import FunctionSpec
from tailbound_lab.simulate.baselines import Bounds, OpenFaasRule

TWIN, OTHER = "echo.baseline", "vision.openfaas-fn"
ALERTS = "GET /api/v1/alerts"


def test_labels_are_read_within_the_communitys_ceiling():
    labels = {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "4", "com.openfaas.scale.factor": "50"}
    assert rule_and_bounds(labels) == (OpenFaasRule(factor=50), Bounds(2, 4))
    assert rule_and_bounds({"com.openfaas.scale.max": "many"}) == (OpenFaasRule(factor=10), Bounds(1, 5))
    assert rule_and_bounds({"com.openfaas.scale.max": "20"})[1] == Bounds(1, 5)


def test_a_twin_serves_one_request_at_a_time_in_a_namespace_of_its_own():
    spec = FunctionSpec("echo", "image", env_vars={"slo_latency": "1s", "workers": "4", "exec_timeout": "9s"})
    other = twin(spec)
    assert other.full_name == TWIN
    config = Config.from_env(other.env_vars, cpus=2.0)
    assert (config.workers, config.max_batch_size) == (1, 1)
    assert config.slo_latency == config.exec_timeout == 9.0


def alerts(*found):
    """Prometheus' answer with alerts of (function, state)."""
    rows = [{"labels": {"alertname": ALERT, "function_name": each}, "state": state} for each, state in found]
    rows.append({"labels": {"alertname": "SomethingElse", "function_name": TWIN}, "state": "firing"})
    return doubles.status(200, json.dumps({"data": {"alerts": rows}}).encode())


@pytest.fixture
def prometheus():
    """A server whose answers the test sets."""
    with a_gateway() as server:
        yield server


@pytest.fixture
def polled(prometheus, tmp_path):
    """Poll each second with the alerts of that second; the counts that the twin had in turn."""

    async def poll(alerts_by_second, labels):
        async with platform_client(tmp_path) as client:
            await client.deploy(namespace="baseline", labels=labels, ready=False)
            registry, function = client.platform.registry, client.function
            scaler = CommunityScaler(client.session, prometheus.url, registry, [function])
            counts = [function.desired]
            for second, found in enumerate(alerts_by_second):
                prometheus.faults[ALERTS] = found
                await scaler.poll(second)
                counts.append(function.desired)
            return [count for count, _ in groupby(counts)]

    return lambda alerts_by_second, **labels: asyncio.run(poll(alerts_by_second, labels))


def test_firing_alert_adds_a_replica_at_each_notification_until_it_is_resolved(polled):
    assert polled([alerts((TWIN, "firing"))] * 70 + [alerts()] * 20) == [1, 2, 3, 4, 1]


@pytest.mark.parametrize(
    ("found", "most"),
    [([(OTHER, "firing"), (TWIN, "pending")], "5"), ([(TWIN, "firing")], "1")],
    ids=["not a twin's", "at its highest"],
)
def test_only_firing_alerts_of_twins_below_their_highest_count_change_it(polled, found, most):
    assert polled([alerts(*found)] * 40, **{"com.openfaas.scale.max": most}) == [1]


@pytest.mark.parametrize("answer", [doubles.status(500), doubles.status(200, b"[]")], ids=["fails", "others"])
def test_prometheus_without_a_list_of_alerts_is_no_answer(polled, answer):
    with pytest.raises(NoAnswerError):
        polled([answer])
