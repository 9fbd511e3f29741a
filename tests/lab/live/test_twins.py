"""OpenFaaS CE's scaling of the twins: Alertmanager's grouping, the gateway's step, the requests sent."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.live.cluster import Cluster
from tailbound_lab.live.twins import CommunityScaler, rule_and_bounds, twin
from tailbound_lab.live.watch import NoAnswerError
from tailbound_lab.local.specs import FunctionSpec
from tailbound_lab.simulate.baselines import AlertGroup, Bounds, OpenFaasRule, notify, openfaas_step

RULE = OpenFaasRule()
A, AB, NONE = frozenset("a"), frozenset("ab"), frozenset()
TWIN, OTHER = "tabular.baseline", "tabular.openfaas-fn"


def replay(looks):
    """Feed (now, firing) looks to the law; return the notifications as (now, firing, resolved)."""
    group, sent = AlertGroup(), []
    for now, firing in looks:
        group, notification = notify(RULE, group, firing, now)
        if notification:
            sent.append((now, notification.firing, notification.resolved))
    return sent


@pytest.mark.parametrize(
    ("firing", "seconds", "notifications"),
    [
        pytest.param(lambda _: A, 70, [(5, A, NONE), (35, A, NONE), (65, A, NONE)], id="repeated"),
        pytest.param(
            lambda t: A if t < 8 else AB, 20, [(5, A, NONE), (15, AB, NONE)], id="news of one is sent for all"
        ),
        pytest.param(lambda t: A if t < 8 else NONE, 30, [(5, A, NONE), (15, NONE, A)], id="resolved"),
        pytest.param(lambda t: A if t < 3 else NONE, 30, [], id="ended within the group wait"),
        pytest.param(
            lambda t: A if t < 8 or t >= 50 else NONE,
            60,
            [(5, A, NONE), (15, NONE, A), (55, A, NONE)],
            id="waits again after a quiet time",
        ),
    ],
)
def test_a_notification_goes_out_when_alertmanager_would_send_it(firing, seconds, notifications):
    assert replay((t, firing(t)) for t in range(seconds)) == notifications


@given(st.lists(st.frozensets(st.sampled_from("abc")), min_size=1, max_size=200))
def test_notifications_keep_their_distance_and_tell_only_what_was_seen(looks):
    sent = replay(enumerate(looks))
    for at, firing, resolved in sent:
        assert firing == looks[at]
        assert not firing & resolved
        assert firing | resolved
    for (earlier, _, _), (later, _, _) in itertools.pairwise(sent):
        assert later - earlier >= min(RULE.group_wait, RULE.group_interval)


@given(st.integers(0, 20), st.integers(1, 5), st.integers(1, 100))
def test_a_step_is_the_factors_share_of_the_highest_rounded_up(current, highest, factor):
    desired = openfaas_step(OpenFaasRule(factor=factor), Bounds(1, highest), current, firing=True)
    if current < highest:
        assert desired - current - 1 < highest * factor / 100
        assert desired == highest or desired - current >= highest * factor / 100
    assert desired <= highest
    assert desired > current or current >= highest


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


def looks(cluster, moments, *, labels=None, before=None):
    """Look at each of the moments; ``before`` may change the cluster meanwhile."""

    async def main():
        async with cluster.run() as (session, address):
            scaler = CommunityScaler(session, address, address, {TWIN: labels or {}})
            for moment in moments:
                if before:
                    before(moment)
                await scaler.look(moment)

    asyncio.run(main())
    return cluster.scaled


def test_a_firing_alert_adds_a_replica_at_each_notification_until_it_is_resolved():
    cluster = Cluster({TWIN: 1})

    def before(moment):
        cluster.firing = {TWIN} if moment < 70 else set()

    assert looks(cluster, range(90), before=before) == [(TWIN, 2), (TWIN, 3), (TWIN, 4), (TWIN, 1)]


def test_only_firing_alerts_of_twins_change_a_count():
    cluster = Cluster({TWIN: 1, OTHER: 1})
    cluster.firing, cluster.pending = {OTHER}, {TWIN}
    assert looks(cluster, range(40)) == []


def test_a_twin_at_its_highest_count_is_left_alone():
    cluster = Cluster({TWIN: 3})
    cluster.firing = {TWIN}
    assert looks(cluster, range(40), labels={"com.openfaas.scale.max": "3"}) == []


@pytest.mark.parametrize("path", ["/api/v1/alerts", "/system/function/", "/system/scale-function/"])
def test_a_server_that_fails_is_no_answer(path):
    cluster = Cluster({TWIN: 1})
    cluster.firing, cluster.broken = {TWIN}, {path}
    with pytest.raises(NoAnswerError):
        looks(cluster, range(40))


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
