"""OpenFaaS CE's scaling of the twins: Alertmanager's grouping, the gateway's step, the requests sent."""

import asyncio

import pytest

from lab.live.cluster import Cluster
from tailbound_lab.live.twins import CommunityScaler, rule_and_bounds, twin
from tailbound_lab.live.watch import NoAnswerError
from tailbound_lab.local.specs import FunctionSpec
from tailbound_lab.simulate.baselines import Bounds, OpenFaasRule

TWIN, OTHER = "tabular.baseline", "tabular.openfaas-fn"


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


def polled(cluster, moments, *, labels=None, before=None):
    """Poll at each of the moments; ``before`` may change the cluster meanwhile."""

    async def main():
        async with cluster.run() as (session, address):
            scaler = CommunityScaler(session, address, address, {TWIN: labels or {}})
            for moment in moments:
                if before:
                    before(moment)
                await scaler.poll(moment)

    asyncio.run(main())
    return cluster.scaled


def test_a_firing_alert_adds_a_replica_at_each_notification_until_it_is_resolved():
    cluster = Cluster({TWIN: 1})

    def before(moment):
        cluster.firing = {TWIN} if moment < 70 else set()

    assert polled(cluster, range(90), before=before) == [(TWIN, 2), (TWIN, 3), (TWIN, 4), (TWIN, 1)]


@pytest.mark.parametrize(
    ("firing", "pending", "most"),
    [(OTHER, TWIN, "5"), (TWIN, TWIN, "1")],
    ids=["not a twin's", "at its highest"],
)
def test_only_firing_alerts_of_twins_below_their_highest_count_change_it(firing, pending, most):
    cluster = Cluster({TWIN: 1, OTHER: 1})
    cluster.firing, cluster.pending = {firing}, {pending}
    assert polled(cluster, range(40), labels={"com.openfaas.scale.max": most}) == []


@pytest.mark.parametrize("path", ["/api/v1/alerts", "/system/function/", "/system/scale-function/"])
def test_a_server_that_fails_is_no_answer(path):
    cluster = Cluster({TWIN: 1})
    cluster.firing, cluster.broken = {TWIN}, {path}
    with pytest.raises(NoAnswerError):
        polled(cluster, range(40))


def test_the_loop_outlives_a_prometheus_that_does_not_answer():
    cluster = Cluster({TWIN: 1})
    cluster.broken = {"/api"}

    async def main():
        async with cluster.run() as (session, address):
            running = asyncio.create_task(CommunityScaler(session, address, address, {}).run())
            async with asyncio.timeout(30):
                await cluster.refused.wait()
            await asyncio.wait((running,), timeout=0.05)
            assert not running.done()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
