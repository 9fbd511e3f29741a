"""Pods for which no node has room, and the pages of those that run, as the API tells of them."""

import pytest

from slo_autoscaler.kube.pods import LONGEST_REASON, Unschedulable, page_of, shortage
from support.kube_server import a_pod

FULL = "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient nvidia.com/gpu."


def requests(**found):
    return {"resources": {"requests": {key.replace("_", "/"): value for key, value in found.items()}}}


def test_a_pod_that_finds_no_node_is_its_deployments_and_revisions_and_says_why():
    why = f"{FULL} no new claims to deallocate, preemption: 0/3 nodes."
    found = Unschedulable.of(a_pod("r1-deployment", why=why, labels={"serving.knative.dev/revision": "r1"}))
    assert (found.deployment, found.revision) == (("shop", "r1-deployment"), ("shop", "r1"))
    assert found.why == FULL.rstrip("."), "without what could be evicted"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pod: pod["metadata"].update(ownerReferences=[]),
        lambda pod: pod["metadata"]["ownerReferences"][0].update(kind="Job"),
        lambda pod: pod["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"),
        lambda pod: pod.update(status={}),
        lambda pod: pod["status"]["conditions"][0].update(reason="SchedulingGated"),
    ],
)
def test_a_pod_that_is_no_deployments_or_not_refused_by_the_scheduler_is_none_of_these(spoil):
    pod = a_pod("web")
    spoil(pod)
    assert Unschedulable.of(pod) is None


@pytest.mark.parametrize(
    ("containers", "first", "needs"),
    [
        ([{}], [], "nothing requested"),
        ([requests(cpu="500m", memory="256Mi"), requests(cpu=1)], [], "1.5 CPU, 256 MiB memory"),
        ([{"resources": {"limits": {"nvidia.com/gpu": "1"}}}], [], "1 nvidia.com/gpu"),
        ([{"resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "500m"}}}], [], "0.5 CPU"),
        ([requests(cpu="1")], [requests(cpu="250m"), requests(cpu="2")], "2 CPU"),
        ([requests(cpu="1")], [requests(cpu="250m") | {"restartPolicy": "Always"}], "1.25 CPU"),
    ],
)
def test_a_pod_needs_what_its_containers_request_together(containers, first, needs):
    pod = a_pod("web", containers=containers)
    pod["spec"]["initContainers"] = first
    assert Unschedulable.of(pod).needs == needs


def test_pod_with_another_owner_is_its_controllers():
    pod = a_pod("web")
    pod["metadata"]["ownerReferences"].insert(0, {"kind": "Team", "name": "search"})
    assert Unschedulable.of(pod).deployment == ("shop", "web")


def test_reason_of_the_scheduler_is_cut():
    assert len(Unschedulable.of(a_pod("web", why="x" * 1000)).why) == LONGEST_REASON


def test_a_shortage_counts_pods_that_need_the_same_and_gives_each_reason_once():
    pods = [a_pod("web", containers=[requests(cpu=cpus)], why=FULL) for cpus in (1, 1, 2)]
    told = shortage([Unschedulable.of(pod) for pod in pods])
    assert told.count("2 x (1 CPU)") == told.count("1 x (2 CPU)") == told.count("Insufficient cpu") == 1
    assert shortage([]) == ""


def test_shortage_of_pods_that_all_differ_is_a_short_line():
    pods = [
        a_pod("web", containers=[requests(cpu=cpus)], why=f"{cpus} nodes {FULL}") for cpus in range(1, 100)
    ]
    told = shortage([Unschedulable.of(pod) for pod in pods])
    assert len(told) < 1000
    assert "96 others" in told


SERVING = "serving.knative.dev/"


@pytest.mark.parametrize(
    ("metadata", "ip", "page"),
    [
        ({}, "10.0.0.7", ("10.0.0.7:8081", "web.shop")),
        ({"annotations": {"tailbound.dev/metrics-port": "9000"}}, "10.0.0.7", ("10.0.0.7:9000", "web.shop")),
        (
            {"annotations": {"prometheus.io/port": "9001", "tailbound.dev/metrics-port": "9000"}},
            *("10.0.0.7", ("10.0.0.7:9000", "web.shop")),
        ),
        ({"annotations": {"prometheus.io/port": "9001"}}, "fd00::7", ("[fd00::7]:9001", "web.shop")),
        (
            {"labels": {f"{SERVING}revision": "tabular-00001", f"{SERVING}service": "tabular"}},
            *("10.0.0.7", ("10.0.0.7:8081", "tabular.shop")),
        ),
        ({}, None, None),
        ({"ownerReferences": []}, "10.0.0.7", None),
    ],
)
def test_page_of_a_pod_is_where_prometheus_would_scrape_it(metadata, ip, page):
    pod = a_pod("web")
    pod["metadata"] |= metadata
    pod["status"] = {"phase": "Running", "podIP": ip}
    assert page_of(pod) == page
