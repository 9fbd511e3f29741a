"""What is read of pods and ReplicaSets to resize, and what is written to a pod."""

import pytest

from slo_autoscaler.kube.resize import body_of, pod_of, template_of
from slo_autoscaler.kube.resize_rules import Cpu, Patch
from support.kube_server import a_replica_set, a_running_pod

CONTAINER = {"name": "model", "resources": {"limits": {"cpu": "500m"}}}
PENDING = {"type": "PodResizePending", "status": "True", "reason": "Deferred", "message": "no room"}
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:05Z"}}
WAITING = {"waiting": {"reason": "CrashLoopBackOff"}}
FAILED = {"type": "PodResizeInProgress", "status": "True", "reason": "Error", "message": "cgroup"}


@pytest.mark.parametrize(
    ("conditions", "refusal"),
    [
        ([], ""),
        ([PENDING], "PodResizePending Deferred: no room"),
        ([PENDING | {"status": "False"}], ""),
        ([FAILED], "PodResizeInProgress Error: cgroup"),
        ([FAILED | {"reason": ""}], ""),  # it is being applied
        ([FAILED, PENDING], "PodResizePending Deferred: no room"),
    ],
)
def test_refusal_of_a_pod_is_what_keeps_its_last_resize(conditions, refusal):
    pod = a_running_pod(a_replica_set("web", "shop", CONTAINER))
    pod["status"]["conditions"] += conditions
    assert pod_of(pod).refusal == refusal


@pytest.mark.parametrize(
    ("ready", "states", "starting"),
    [
        ({"status": "True", "lastTransitionTime": "2026-01-01T00:00:09Z"}, [RUNNING], False),
        ({"status": "False", "lastTransitionTime": "2026-01-01T00:00:01Z"}, [RUNNING], True),
        ({"status": "False", "lastTransitionTime": "2026-01-01T00:00:09Z"}, [RUNNING], False),
        ({"status": "False", "lastTransitionTime": "2026-01-01T00:00:09Z"}, [WAITING], True),
        ({"status": "False", "lastTransitionTime": "2026-01-01T00:00:09Z"}, [RUNNING, WAITING], False),
        ({"status": "False"}, [], True),
    ],
)
def test_container_starts_until_its_pod_is_ready_and_again_after_its_own_restart(ready, states, starting):
    pod = a_running_pod(a_replica_set("web", "shop", CONTAINER, {"name": "sidecar"}))
    statuses = [
        {"name": name, "state": state} for name, state in zip(("model", "sidecar"), states, strict=False)
    ]
    pod["status"] |= {"conditions": [{"type": "Ready", **ready}], "containerStatuses": statuses}
    assert ("model" in pod_of(pod).starting) == starting


@pytest.mark.parametrize(("conditions", "there"), [([], False), (["False"], False), (["True"], True)])
def test_pod_is_none_to_resize_while_its_init_containers_run(conditions, there):
    pod = a_running_pod(a_replica_set("web", "shop", CONTAINER), ready=False)
    pod["spec"]["initContainers"] = [{"name": "download"}]
    pod["status"]["conditions"] += [{"type": "Initialized", "status": status} for status in conditions]
    assert (pod_of(pod) is not None) == there


def test_pod_that_is_pending_is_one_to_resize_once_it_has_a_node():
    pod = a_running_pod(a_replica_set("web", "shop", CONTAINER))
    pod["status"] |= {"phase": "Pending", "conditions": [], "containerStatuses": []}
    assert pod_of(pod).starting
    del pod["spec"]["nodeName"]
    assert pod_of(pod) is None


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("metadata", {"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        ("metadata", {"ownerReferences": [{"kind": "ReplicaSet", "name": "web-1"}]}),
        ("status", {"phase": "Succeeded"}),
    ],
)
def test_pod_that_ends_or_is_no_replica_sets_is_none_to_resize(part, change):
    pod = a_running_pod(a_replica_set("web", "shop", CONTAINER))
    assert pod_of(pod) is not None
    pod[part] |= change
    assert pod_of(pod) is None


@pytest.mark.parametrize(
    ("resources", "nominal"),
    [
        ({"limits": {"cpu": "1"}}, Cpu(1000, 1000)),
        ({"limits": {"cpu": "1"}, "requests": {"cpu": "250m"}}, Cpu(250, 1000)),
        ({"limits": {"cpu": "1500u"}, "requests": {"memory": "1Gi"}}, Cpu(2, 2)),
        ({}, Cpu(None, None)),
    ],
)
def test_nominal_cpu_of_a_template_is_in_whole_millicores(resources, nominal):
    template = template_of(a_replica_set("web", "shop", {"name": "model", "resources": resources}))
    assert template.nominal == nominal


@pytest.mark.parametrize(
    ("policies", "restarts"),
    [
        ([], False),
        ([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}], True),
        ([{"resourceName": "cpu", "restartPolicy": "NotRequired"}], False),
        ([{"resourceName": "memory", "restartPolicy": "RestartContainer"}], False),
    ],
)
def test_template_restarts_where_its_policy_of_the_cpu_says_so(policies, restarts):
    template = template_of(a_replica_set("web", "shop", {"name": "model", "resizePolicy": policies}))
    assert template.restarts is restarts


@pytest.mark.parametrize(
    ("before", "after", "resources"),
    [
        (Cpu(100, 500), Cpu(100, 1500), {"limits": {"cpu": "1500m"}}),
        (Cpu(500, 500), Cpu(1500, 1500), {"limits": {"cpu": "1500m"}, "requests": {"cpu": "1500m"}}),
    ],
)
def test_body_of_a_patch_has_the_request_only_where_it_changes(before, after, resources):
    body = body_of(Patch("web.shop", "model", before, after))
    assert body == {"spec": {"containers": [{"name": "model", "resources": resources}]}}
