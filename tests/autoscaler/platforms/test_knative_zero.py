"""A Service of our class that has no replicas: the way there and back on an API server, and its faults."""

import time

import pytest

from slo_autoscaler.kube.events import EVENTS
from slo_autoscaler.kube.pods import PODS
from slo_autoscaler.platforms.keys import MODE, SCHEDULE
from slo_autoscaler.platforms.knative import activators, own_class
from slo_autoscaler.platforms.knative.allocation import STABLE_WINDOW
from slo_autoscaler.platforms.knative.objects import POD_AUTOSCALERS, ROUTES
from support.cluster import delete, on_double
from support.doubles import decide
from support.knative_world import KPA, drive
from support.kube_server import a_pod

pytestmark = on_double

SYSTEM = "knative-serving"


class Activator:
    """The activators' pages: how many requests wait for which revision, or why nothing can be read."""

    def __init__(self, world):
        self.world = world
        self.queued = {}
        self.fault = None
        self.silent = ""
        """The address of one that refuses."""
        self.read = set()

    def run(self, ip="10.0.0.1", deployment="activator", namespace=SYSTEM, *, ready=True, labels=None):
        """Start a pod and return its name."""
        pod = a_pod(deployment, namespace, labels=labels)
        ready_ = {"type": "Ready", "status": str(ready)}
        pod["status"] = {"phase": "Running", "podIP": ip, "conditions": [ready_]}
        self.world.api.put(PODS.api, PODS.plural, pod)
        return pod["metadata"]["name"]

    def fetched(self, address, *_limits):
        self.read.add(address)
        if address == f"{self.silent}:{activators.PORT}":
            return refuse()
        if self.fault is not None:
            return self.fault()
        lines = [
            f'kn_revision_request_queued{{k8s_namespace_name="{self.world.namespace}",kn_revision_name="{name}"}}'
            f" {count}\n"
            for name, count in self.queued.items()
        ]
        return "".join(lines).encode()


@pytest.fixture
def activator(world, monkeypatch):
    activator = Activator(world)
    monkeypatch.setattr(activators, "fetched", activator.fetched)
    # A busy machine is no fault of an activator.
    monkeypatch.setattr(activators, "PATIENCE", 60.0)
    return activator


@pytest.fixture
def impatient(monkeypatch):
    """Return a function after which a read that fails counts soon."""
    return lambda: monkeypatch.setattr(activators, "PATIENCE", 0.5)


@pytest.fixture
def one(world, start, activator):
    """A routed revision of our class that is ready, its platform, and a running activator."""
    activator.run()
    platform = start()
    name = world.revise()
    world.route(r1=100)
    world.until(world.is_ready(name), "the revision is ready", platform)
    return platform, name


@pytest.fixture
def zero(world, one, clock):
    """The same without replicas."""
    platform, name = one
    rest(world, platform, name, clock)
    return platform, name


def rest(world, platform, name, clock):
    decide(platform, world.function, 0)
    world.until(lambda: world.says(name, "Active") == "False NoTraffic", "it is inactive", platform)
    world.until(lambda: world.mode(name) == "Proxy", "the activator is in its path", platform)
    clock.now += 60.0
    world.until(lambda: world.replicas(name) == 0, "it goes", platform)


def refuse():
    raise ConnectionRefusedError


def hang():
    time.sleep(activators.READ_SECONDS)
    raise TimeoutError


def test_zero_is_reached_in_knatives_order(world, one, clock):
    platform, name = one
    decide(platform, world.function, 0)
    scale = platform.scales()[world.function]
    assert (scale.desired, scale.available, scale.waiting) == (0, 1, 0.0)
    world.until(lambda: world.says(name, "Active") == "False NoTraffic", "it is inactive", platform)
    world.settle(platform)
    assert (world.mode(name), world.replicas(name)) == ("Proxy", 1), "it is in its grace period"
    clock.now += 60.0
    world.until(lambda: world.replicas(name) == 0, "it goes", platform)
    world.settle(platform)
    assert world.says(name, "ScaleToZero") == ""
    assert world.says(name, "ScaleTargetInitialized") == "True"


def test_request_that_waits_is_told_and_a_decision_wakes_the_service_at_once(world, zero, activator):
    platform, name = zero
    assert platform.waiting() == {world.function: 0.0}
    activator.queued = {name: 20, "vision-00001": 5}
    world.until(lambda: platform.waiting() == {world.function: 20.0}, "it is told")
    assert platform.scales()[world.function].waiting == 20.0
    decide(platform, world.function, 2)
    assert world.replicas(name) == 2
    assert platform.scales()[world.function].waiting is None
    world.until(lambda: world.mode(name) == "Serve", "it serves", platform)
    world.until(world.is_ready(name), "it is ready", platform)


def test_request_in_the_grace_period_keeps_the_replica(world, one, activator, clock):
    platform, name = one
    decide(platform, world.function, 0)
    world.until(lambda: world.mode(name) == "Proxy", "the activator is in its path", platform)
    activator.queued = {name: 1}
    world.until(lambda: platform.waiting().get(world.function), "it is told", platform)
    clock.now += 3600.0
    drive(platform)
    assert world.replicas(name) == 1, "the last look"
    decide(platform, world.function, 1)
    world.until(lambda: world.mode(name) == "Serve", "it is active again", platform)
    assert world.replicas(name) == 1


def test_replica_stays_until_the_activators_were_read_lately(world, one, clock, monkeypatch):
    platform, name = one
    monkeypatch.setattr(activators, "READ_SECONDS", 0.0)
    decide(platform, world.function, 0)
    world.until(lambda: world.mode(name) == "Proxy", "the activator is in its path", platform)
    clock.now += 3600.0
    drive(platform)
    assert world.replicas(name) == 1, "what was read is too old"
    monkeypatch.setattr(activators, "READ_SECONDS", 60.0)
    world.until(lambda: world.replicas(name) == 0, "it goes", platform)


def test_request_that_no_decision_answers_wakes_one_replica(world, zero, activator, monkeypatch):
    platform, name = zero
    monkeypatch.setattr(own_class, "UNANSWERED_SECONDS", 0.3)
    activator.queued = {name: 1}
    world.until(lambda: world.replicas(name) == 1, "it is woken", platform)


# Without the pages


def test_service_keeps_a_replica_where_the_activators_tell_nothing(world, one, activator, clock, impatient):
    platform, name = one
    owner = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "tabular", "uid": "u-1"}
    world.change(ROUTES, "tabular", metadata={"ownerReferences": [owner]})
    activator.fault = refuse
    impatient()
    decide(platform, world.function, 0)
    world.until(lambda: world.says(name, "ScaleToZero") == "False NoActivatorMetrics", "it says so", platform)
    clock.now += 3600.0
    drive(platform)
    assert (world.replicas(name), world.mode(name), world.says(name, "Ready")) == (1, "Serve", "True")
    world.until(
        lambda: [each["reason"] for each in world.all(EVENTS)] == ["ScaleToZero"], "the event is there"
    )


@pytest.mark.parametrize("fault", [refuse, hang, None])
def test_service_gets_a_replica_back_when_an_activator_cannot_be_read(
    world, zero, activator, fault, impatient
):
    platform, name = zero
    if fault is None:
        for pod in world.all(PODS):
            delete(world.cluster, f"{PODS.path(SYSTEM)}/{pod['metadata']['name']}")
    activator.fault = fault
    impatient()
    world.until(lambda: world.replicas(name) == 1, "it is woken", platform)
    world.until(lambda: world.says(name, "ScaleToZero") == "False NoActivatorMetrics", "it says so", platform)
    world.until(lambda: world.says(name, "Active") == "True", "it serves", platform)


def test_activator_that_starts_or_ends_is_not_waited_for(world, zero, activator, impatient):
    platform, name = zero
    impatient()
    activator.silent = "10.0.0.2"
    activator.run("10.0.0.2", ready=False)
    begin = time.monotonic()
    world.until(lambda: time.monotonic() - begin > 1.5, "more than the patience", platform)
    assert world.replicas(name) == 0


def test_activator_is_one_by_its_owner_and_namespace_alone(world, activator, start):
    labels = {"app": "activator", "role": "activator"}
    activator.run("10.6.6.6", "activator", world.namespace, labels=labels)
    activator.run("10.6.6.7", "my-model-00001-deployment", SYSTEM, labels=labels)
    activator.run()
    platform = start()
    world.route(r1=100)
    name = world.revise()
    world.until(world.is_ready(name), "the revision is ready", platform)
    decide(platform, world.function, 0)
    world.until(lambda: world.mode(name) == "Proxy", "it is on its way", platform)
    assert activator.read == {"10.0.0.1:9090"}


def test_one_of_two_activators_that_is_not_read_keeps_a_replica(world, zero, activator, impatient):
    platform, name = zero
    impatient()
    activator.silent = "10.0.0.2"
    activator.run("10.0.0.2")
    world.until(lambda: world.replicas(name) == 1, "it is woken", platform)


def test_nothing_is_read_before_zero_is_asked_for(world, one, activator):
    platform, _ = one
    world.settle(platform)
    assert (activator.read, platform.scales()[world.function].zero_after) == (set(), None)
    assert not [line for line in world.api.requests if "knative-serving/pods" in line]


# Restarts and other services


@pytest.mark.parametrize("readable", [True, False])
def test_restart_at_zero_loses_nothing(world, zero, activator, start, readable, impatient):
    first, name = zero
    first.close()
    activator.queued = {name: 3}
    if not readable:
        activator.fault = refuse
        impatient()
    second = start()
    if readable:
        world.until(lambda: second.waiting().get(world.function) == 3.0, "it is told", second)
        assert world.replicas(name) == 0
        decide(second, world.function, 2)
        assert world.replicas(name) == 2
    else:
        world.until(lambda: world.replicas(name) == 1, "it is woken", second)


@pytest.mark.parametrize(
    "route", [{"labels": {MODE: "off"}}, {"labels": {MODE: "wrong"}}, {"annotations": {SCHEDULE: "wrong"}}]
)
def test_service_that_no_decision_would_wake_gets_a_replica_back(world, zero, route):
    platform, name = zero
    world.change(ROUTES, "tabular", metadata=route)
    world.until(lambda: world.replicas(name) == 1, "it is woken", platform)


def test_new_revision_of_a_service_at_zero_starts_takes_over_and_rests(world, zero, clock):
    platform, old = zero
    new = world.revise(2)
    world.until(world.is_ready(new), "it starts", platform)
    assert world.replicas(old) == 0
    world.route(r2=100)
    world.reach(old, "Unreachable")
    world.until(lambda: platform.scales()[world.function].revision == new, "it has taken over", platform)
    world.until(lambda: world.says(new, "Active") == "False NoTraffic", "it rests too", platform)
    clock.now += 60.0
    world.until(lambda: (world.replicas(new), world.replicas(old)) == (0, 0), "both are gone", platform)


def test_revisions_that_share_the_traffic_rest_and_wake_together(world, one, activator, clock):
    platform, first = one
    second = world.revise(2)
    world.route(r1=50, r2=50)
    world.until(world.is_ready(first, second), "both are ready", platform)
    decide(platform, world.function, 0)
    both = (first, second)
    rest_ = ["False NoTraffic"] * 2
    world.until(lambda: [world.says(name, "Active") for name in both] == rest_, "both are inactive", platform)
    clock.now += 60.0
    world.until(lambda: [*map(world.replicas, both)] == [0, 0], "both go", platform)
    activator.queued = {first: 1, second: 2}
    world.until(lambda: platform.waiting() == {world.function: 3.0}, "both are told", platform)
    decide(platform, world.function, 2)
    world.until(lambda: sorted(map(world.replicas, both)) == [1, 2], "both wake", platform)


def test_revision_that_is_deleted_at_zero_is_told_no_more(world, zero, activator):
    platform, name = zero
    delete(world.cluster, POD_AUTOSCALERS.path(world.namespace, name))
    activator.queued = {name: 1}
    world.until(lambda: world.function not in platform.scales(), "it is gone", platform)
    drive(platform)
    assert platform.waiting() == {}


def test_service_of_another_class_and_one_with_replicas_stay_as_they_are(world, zero, activator):
    platform, name = zero
    theirs = world.revise(service="vision", **{"class": KPA})
    ours = world.revise(service="text")
    world.until(world.is_ready(ours), "ours is ready", platform)
    activator.queued = {theirs: 7, ours: 8}
    activator.read.clear()
    world.until(lambda: activator.read, "the pages are read", platform)
    time.sleep(2 * activators.OFTEN)
    assert platform.waiting() == {world.function: 0.0}
    assert (world.replicas(theirs), world.replicas(ours), world.replicas(name)) == (1, 1, 0)


@pytest.mark.parametrize(("least", "after"), [("0", STABLE_WINDOW), (None, None), ("1", None)])
def test_minimum_of_zero_on_the_template_asks_for_zero(world, activator, start, least, after):
    activator.run()
    platform = start()
    world.route(r1=100)
    name = world.revise(**({} if least is None else {"min_scale": least}))
    world.until(world.is_ready(name), "the revision is ready", platform)
    world.until(lambda: platform.scales()[world.function].zero_after == after, "it is so", platform)
    world.until(lambda: bool(activator.read) is (least == "0"), "only then the activators are read", platform)
