"""OpenFaaS CE's scaler as a loop: from the alerts of a Prometheus to scale requests."""

import asyncio

import pytest

from lab.demo.cluster import Cluster
from tailbound_lab.live.queries import NoAnswerError
from tailbound_lab.live.twins import Bounds, CommunityScaler

TWIN, OTHER = "tabular.baseline", "tabular.openfaas-fn"


def looks(cluster, moments, *, bounds=None, before=None):
    """Look at each of the moments; ``before`` may change the cluster meanwhile."""

    async def main():
        async with cluster.run() as (session, address):
            scaler = CommunityScaler(session, address, address, {TWIN: bounds or Bounds()})
            for moment in moments:
                if before:
                    before(moment)
                await scaler.look(moment)

    asyncio.run(main())
    return cluster.scaled


def test_a_firing_alert_adds_a_replica_at_each_notification():
    cluster = Cluster({TWIN: 1})
    cluster.firing = {TWIN}
    assert looks(cluster, range(70)) == [(TWIN, 2), (TWIN, 3), (TWIN, 4)]


def test_a_resolved_alert_goes_to_the_minimum():
    cluster = Cluster({TWIN: 4})

    def before(moment):
        cluster.firing = {TWIN} if moment < 8 else set()

    assert looks(cluster, range(30), before=before) == [(TWIN, 5), (TWIN, 1)]


def test_only_twins_are_touched_and_only_firing_alerts_of_the_rule_count():
    cluster = Cluster({TWIN: 1, OTHER: 1})
    cluster.firing, cluster.pending = {OTHER}, {TWIN}
    assert looks(cluster, range(40)) == []


def test_at_the_maximum_nothing_is_sent():
    cluster = Cluster({TWIN: 3})
    cluster.firing = {TWIN}
    assert looks(cluster, range(40), bounds=Bounds(maximum=3)) == []


@pytest.mark.parametrize("path", ["/api/v1/alerts", "/system/function/", "/system/scale-function/"])
def test_whatever_does_not_answer_is_one_kind_of_error(path):
    cluster = Cluster({TWIN: 1})
    cluster.firing, cluster.broken = {TWIN}, {path}
    with pytest.raises(NoAnswerError, match="status 500"):
        looks(cluster, range(40))


def test_the_loop_survives_a_prometheus_that_does_not_answer():
    cluster = Cluster({TWIN: 1})
    cluster.broken = {"/api"}

    async def main():
        async with cluster.run() as (session, address):
            running = asyncio.create_task(CommunityScaler(session, address, address, {}).run())
            await asyncio.wait((running,), timeout=0.2)
            assert not running.done()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_bounds_come_from_the_labels_and_the_gateways_defaults():
    labels = {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "4", "com.openfaas.scale.factor": "50"}
    assert Bounds.from_labels(labels) == Bounds(2, 4, 50)
    assert Bounds.from_labels({"com.openfaas.scale.max": "many"}) == Bounds(1, 5, 10)
