"""The autoscaler class of our own on an API server: revisions, rollouts, outages and restarts."""

import threading

import pytest

from slo_autoscaler.errors import FunctionGoneError, PlatformError, ScaleChangedError
from slo_autoscaler.kube.events import EVENTS
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.keys import MODE
from slo_autoscaler.platforms.keys import OUR_CLASS as CLASS
from slo_autoscaler.platforms.knative.objects import DEPLOYMENTS, POD_AUTOSCALERS, ROUTES, SERVICES
from slo_autoscaler.platforms.leader import Alone
from support import doubles
from support.cluster import delete, on_double
from support.doubles import decide, has_listed
from support.knative_world import KPA, Standby, autoscaling, drive
from support.kube_server import a_pod

pytestmark = on_double

AUTOSCALERS = "PATCH /apis/autoscaling.internal.knative.dev/"


@pytest.fixture
def one(world, start):
    """A revision of our class that is ready, and the platform that the test drives."""
    platform = start()
    name = world.revise(min_scale="1", max_scale="8")
    world.until(world.is_ready(name), "the revision is ready", platform)
    return platform, name


# By itself


def test_a_revision_becomes_ready_follows_decisions_and_what_others_set_is_set_right(world, start):
    platform = start(Alone())
    name = world.revise(min_scale="2", max_scale="6")
    world.until(world.is_ready(name), "the revision is ready")
    state, service = world.status(name), world.get(SERVICES, name)
    assert (state["serviceName"], state["metricsServiceName"]) == (name, f"{name}-private")
    assert (state["desiredScale"], state["actualScale"]) == (2, 2)
    autoscaler = world.get(POD_AUTOSCALERS, name)["metadata"]
    assert state["observedGeneration"] == autoscaler["generation"]
    assert service["spec"]["mode"] == "Serve"
    assert service["metadata"]["ownerReferences"][0]["uid"] == autoscaler["uid"]
    scale = Scale(desired=2, available=2, min=2, max=6, revision=name, unschedulable=0)
    world.until(lambda: platform.scales() == {world.function: scale}, "the watch reports it")
    decide(platform, world.function, 5)
    assert world.replicas(name) == 5
    assert platform.scales()[world.function].desired == 5, "seen at once"
    world.until(lambda: platform.scale(world.function).available == 5, "its replicas are seen")
    world.until(lambda: world.status(name)["actualScale"] == 5, "the status follows")
    world.change(DEPLOYMENTS, f"{name}-deployment", spec={"replicas": 3})
    world.until(lambda: world.replicas(name) == 5, "its count is ours")


def test_a_revision_that_is_not_to_be_scaled_is_ready_and_keeps_the_count_that_others_give_it(world, one):
    platform, name = one
    decide(platform, world.function, 4)
    world.route(mode="recommend", r1=100)
    world.until(lambda: platform.scales()[world.function].mode == "recommend", "the label is seen", platform)
    world.change(DEPLOYMENTS, f"{name}-deployment", spec={"replicas": 3})
    world.settle(platform)
    assert (world.replicas(name), world.says(name, "Ready")) == (3, "True")
    world.route(mode="active", r1=100)
    world.settle(platform)
    assert world.replicas(name) == 3, "the decision from before is forgotten"


def test_a_wrong_label_is_named_and_what_was_decided_stands(world, one):
    platform, name = one
    decide(platform, world.function, 4)
    world.route(mode="actve", r1=100)
    world.settle(platform)
    assert "label tailbound.dev/mode: 'actve' must be one of" in str(platform.scales()[world.function])
    assert world.replicas(name) == 4


def test_standby_writes_nothing_and_takes_over_what_is_there(api, world, start):
    name, leader = world.revise(), Standby()
    platform = start(leader)
    world.until(lambda: world.function in platform.scales(), "it is seen")
    before = api.writes()
    with pytest.raises(PlatformError, match=f"{world.function}: not the leader"):
        decide(platform, world.function, 5)
    drive(platform)
    assert api.writes() == before
    leader.leading = True
    world.until(world.is_ready(name), "it leads now")


# Counts and conditions


def test_a_leader_that_led_before_has_forgotten_its_decisions(world, one):
    platform, name = one
    decide(platform, world.function, 4)
    world.leader.leading = False
    drive(platform)
    world.change(DEPLOYMENTS, f"{name}-deployment", spec={"replicas": 2})
    world.until(lambda: platform.scales()[world.function].desired == 2, "another leader's count is seen")
    world.leader.leading = True
    world.settle(platform)
    assert world.replicas(name) == 2


def test_a_restart_changes_no_count_and_no_condition(api, world, one, start):
    first, name = one
    decide(first, world.function, 4)
    world.settle(first)
    assert world.status(name)["desiredScale"] == 4
    before = api.version
    first.close()
    second = start()
    world.until(lambda: second.scales()[world.function].desired == 4, "it sees the count")
    world.settle(second)
    assert api.version == before


def test_a_decision_on_a_count_that_another_writer_has_changed_is_left_out(world, one):
    platform, name = one
    world.settle(platform)
    seen = platform.scales()[world.function]
    world.change(DEPLOYMENTS, f"{name}-deployment", spec={"replicas": 7})
    world.until(lambda: platform.scales()[world.function].desired == 7, "the watch reports it")
    with pytest.raises(ScaleChangedError, match="another writer has set the count to 7 where it was 1"):
        platform.set_scale(world.function, 3, seen)
    assert world.replicas(name) == 7
    decide(platform, world.function, 7)
    assert platform.scales()[world.function].desired == 7, "what is there is no conflict"
    delete(world.cluster, DEPLOYMENTS.path(world.namespace, f"{name}-deployment"))
    with pytest.raises(FunctionGoneError, match=r"404|no revision of the class"):
        decide(platform, world.function, 2)


def test_a_count_that_the_scaling_thread_has_set_right_is_no_other_writers(world, one):
    platform, name = one
    decide(platform, world.function, 4)
    world.change(DEPLOYMENTS, f"{name}-deployment", spec={"replicas": 2})
    world.until(lambda: platform.scales()[world.function].desired == 2, "the watch reports it")
    seen = platform.scales()[world.function]
    world.settle(platform)
    platform.set_scale(world.function, 6, seen)
    assert world.replicas(name) == 6


def test_a_decision_on_a_revision_that_another_has_taken_over_from_is_left_out(world, one):
    platform, name = one
    seen = platform.scales()[world.function]
    new = world.revise(2)
    world.route(r2=100)
    world.until(lambda: platform.scales()[world.function].revision == new, "it has taken over", platform)
    with pytest.raises(ScaleChangedError, match=f"{new} has taken over from {name}"):
        platform.set_scale(world.function, 3, seen)


def test_replicas_of_the_main_revision_without_a_node_are_counted(api, world, one):
    platform, name = one
    for revision in (name, "another"):
        labels = {"serving.knative.dev/revision": revision}
        api.put("v1", "pods", a_pod(f"{revision}-deployment", world.namespace, labels=labels))
    world.until(lambda: platform.scales()[world.function].unschedulable == 1, "it is seen", platform)
    assert "Insufficient cpu" in platform.scales()[world.function].shortage


def test_watchdogs_are_those_of_the_running_pods_of_revisions(api, world, one):
    platform, name = one
    labels = {"serving.knative.dev/revision": name, "serving.knative.dev/service": "tabular"}
    for deployment, marked in ((f"{name}-deployment", labels), ("other", {})):
        pod = a_pod(deployment, world.namespace, labels=marked)
        pod["status"] = {"phase": "Running", "podIP": "10.0.0.7"}
        api.put("v1", "pods", pod)
    world.until(lambda: platform.watchdogs() == {"10.0.0.7:8081": world.function}, "it is seen", platform)


# Whose it is


def test_revisions_of_another_class_are_left_alone_until_their_class_changes(world, start):
    platform = start()
    theirs = world.revise(**{"class": KPA, "min_scale": "3"})
    ours = world.revise(service="vision")
    world.until(world.is_ready(ours), "ours is ready", platform)
    assert list(platform.scales()) == [f"vision.{world.namespace}"]
    assert world.replicas(theirs) == 1
    for name in (world.function, f"nope.{world.namespace}"):
        with pytest.raises(FunctionGoneError, match=rf"{name}: no revision of the class {CLASS}"):
            decide(platform, name, 2)
    world.change(POD_AUTOSCALERS, theirs, metadata={"annotations": autoscaling(**{"class": CLASS})})
    world.until(world.is_ready(theirs), "it is ours", platform)
    assert world.replicas(theirs) == 3
    world.change(POD_AUTOSCALERS, theirs, metadata={"annotations": autoscaling(**{"class": KPA})})
    world.until(lambda: world.function not in platform.scales(), "it is not ours any more", platform)


@pytest.mark.parametrize(
    ("label", "mode"), [("active", "recommend"), ("recommend", "recommend"), ("off", "off")]
)
def test_labeled_service_of_another_class_is_decided_on_and_never_written(api, world, start, label, mode):
    platform, before = start(), api.writes()
    world.revise(**{"class": KPA, "min_scale": "1", "max_scale": "8"})
    world.route(mode=label, r1=100)
    world.until(lambda: world.function in platform.scales(), "the label is seen", platform)
    scale = platform.scales()[world.function]
    assert (scale.mode, scale.desired, scale.min, scale.max) == (mode, 1, 1, 8)
    assert platform.scale(world.function).mode == mode
    with pytest.raises(FunctionGoneError, match=CLASS):
        decide(platform, world.function, 4)
    drive(platform)
    assert api.writes() == before


def test_revision_that_is_being_deleted_is_of_no_function(world, one):
    platform, name = one
    metadata = {"deletionTimestamp": "2026-12-01T00:00:00Z", "finalizers": ["another.dev/controller"]}
    world.change(POD_AUTOSCALERS, name, metadata=metadata)
    world.settle(platform)
    assert platform.scales() == {}


@pytest.mark.parametrize("owned", [True, False])
def test_a_service_that_is_there_is_put_into_serve_or_left_alone_if_it_has_another_owner(world, start, owned):
    name, platform = world.revise(), start()
    owner = {"uid": world.get(POD_AUTOSCALERS, name)["metadata"]["uid"] if owned else "x", "controller": True}
    world.change(SERVICES, name, metadata={"ownerReferences": [owner]}, spec={"mode": "Proxy"})
    said = "True" if owned else "False NotOwned"
    world.until(lambda: world.says(name, "Ready") == said, "the status says so", platform)
    assert world.mode(name) == ("Serve" if owned else "Proxy")


# Rollouts


def test_a_rollout_takes_over_the_count_and_the_old_revision_goes_after_its_grace_period(world, one, clock):
    platform, old = one
    world.route(r1=100)
    decide(platform, world.function, 4)
    new = world.revise(2)
    world.until(lambda: world.replicas(new) == 4, "it has as many before it is routed", platform)
    world.until(world.is_ready(new), "the new one is ready", platform)
    assert world.replicas(old) == 4
    world.route(r2=100)
    world.reach(old, "Unreachable")
    world.until(lambda: world.says(old, "Active") == "False NoTraffic", "it is inactive", platform)
    world.settle(platform)
    assert (world.mode(old), world.replicas(old)) == ("Proxy", 4), "it is in its grace period"
    clock.now += 30.0
    world.until(lambda: world.replicas(old) == 0, "it goes", platform)
    assert platform.scales()[world.function].desired == 4
    world.route(r1=100)
    world.reach(old, "Reachable")
    world.until(lambda: world.replicas(old) == 4, "rolled back, it has the count for all traffic", platform)
    world.until(world.is_ready(old), "and serves", platform)
    assert world.mode(old) == "Serve"


def test_an_old_revision_keeps_its_replicas_until_its_status_could_be_written(api, world, one, clock):
    platform, old = one
    new = world.revise(2)
    world.route(r1=50, r2=50)
    world.until(world.is_ready(new), "the new one is ready", platform)
    api.faults[f"PATCH {POD_AUTOSCALERS.path(world.namespace, old)}/status"] = doubles.status(403)
    world.route(r2=100)
    world.reach(old, "Unreachable")
    world.until(lambda: world.mode(old) == "Proxy", "the activator is put into its path", platform)
    clock.now += 3600.0
    drive(platform)
    assert world.replicas(old) == 1
    api.faults.clear()
    world.until(lambda: world.says(old, "Active") == "False NoTraffic", "all know", platform)
    clock.now += 3600.0
    world.until(lambda: world.replicas(old) == 0, "now it goes", platform)


def test_announce_writes_a_warning_on_the_service_that_owns_the_route(world, start):
    world.route(r1=100)
    owner = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "tabular", "uid": "u-1"}
    world.change(ROUTES, "tabular", metadata={"labels": {MODE: ""}, "ownerReferences": [owner]})
    platform = start()
    world.until(lambda: has_listed(platform), "it has listed", platform)
    platform.announce(world.function, "NoData", "no sample")
    world.until(lambda: world.all(EVENTS), "an event is there")
    (event,) = world.all(EVENTS)
    assert (event["type"], event["involvedObject"]["kind"], event["involvedObject"]["uid"]) == (
        *("Warning", "Service", "u-1"),
    )


# Faults


def test_a_status_write_that_hangs_holds_up_no_revision_that_is_to_be_raised(api, world, start):
    released = threading.Event()
    api.faults[AUTOSCALERS] = doubles.hang(released)
    first = world.revise(min_scale="2")
    start(Alone())
    try:
        world.until(lambda: world.replicas(first) == 2, "the first is raised")
        second = world.revise(service="vision", min_scale="3")
        world.until(lambda: world.replicas(second) == 3, "the second too, while the status hangs")
    finally:
        api.faults.clear()
        released.set()
    world.until(world.is_ready(first, second), "each status is written in the end")
