"""docs/howto/boost.md on a real node: the load steps up, a pod gets more CPU, the autoscaler crashes or goes.

A handler that computes, so that CPU is what it lacks. The node needs Kubernetes 1.33 and two cores.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from node import cluster, knative, kubernetes, openfaas
from node.cluster import Guide, guide, kubectl, load, names, read, unused, wait_for
from slo_autoscaler.kube import BOOST

pytestmark = [pytest.mark.node, pytest.mark.timeout(3600)]

HANDLER = """\
import hashlib


def handle_batch(events, context):
    return [hashlib.pbkdf2_hmac("sha256", event.body, b"salt", 20_000).hex() for event in events]


def example():
    return b"simulated " * 18
"""
"""About 10 ms of CPU for each request."""
NOMINAL = "500m"
STEP = 3.0


@dataclass(frozen=True)
class Place:
    """A function on a platform, with the autoscaler that may boost it."""

    autoscaler: str
    """Its namespace."""
    namespace: str
    function: str
    image: str
    """The function's, from which the load is sent."""
    url: str

    def pods(self) -> dict[str, tuple[str, int]]:
        """Return the limit that is in force, and the restarts, of the function's container in each pod."""
        found = {}
        for pod in read("--namespace", self.namespace, "pods", f"--selector={BOOST}")["items"]:
            statuses = pod["status"].get("containerStatuses", [])
            limits = [each.get("resources", {}).get("limits", {}).get("cpu") for each in statuses]
            restarts = sum(each["restartCount"] for each in statuses)
            # The function's is the one with a limit; Knative's queue-proxy has none.
            found[pod["metadata"]["name"]] = next(filter(None, limits), ""), restarts
        return found

    def capacity(self) -> float:
        """Return the requests per second that a replica serves, as the autoscaler knows it."""
        inputs = cluster.newest(self.function, self.autoscaler, "").get("inputs", {})
        return float(inputs.get("capacity") or 0.0)

    def told(self) -> str:
        return cluster.told(self.autoscaler)


@contextmanager
def installed(platform: str, ours: tuple[str, ...], folder: Path) -> Iterator[Guide]:
    """A clone with a sample that computes, for a guide whose namespaces are removed at the end."""
    unused(*ours)
    with guide(platform, folder) as follower:
        sample = follower.clone / "functions/cpu"
        sample.mkdir()
        (sample / "handler.py").write_text(HANDLER)
        (sample / "requirements.txt").write_text("")
        try:
            yield follower
        finally:
            follower.remove(*ours)


def allow(follower: Guide, autoscaler: str) -> None:
    """Follow step 1 of the page."""
    follower.install_autoscaler()
    config = {"defaults": {"boost": {"max_factor": STEP, "max_cpu": 2}, "max_replicas": 5}}
    follower.upgrade_autoscaler(boost={"enabled": True}, config=config)
    log = ("--namespace", autoscaler, "logs", "deployment/slo-autoscaler", "--tail=-1")
    wait_for("the right", lambda: "boost: may resize" in kubectl(*log, check=False))


def steps(place: Place, end: Callable[[str], object]) -> None:
    """Send three times what the one replica serves, and end the autoscaler once it is boosted."""
    wait_for("a capacity", place.capacity, place.told)
    (pod,) = place.pods()
    assert place.pods()[pod] == (NOMINAL, 0)
    one = place.capacity()
    sent = load(place.namespace, "steady", place.image, place.url, rate=0.5 * one, seconds=60)
    sent.ended()
    sent = load(place.namespace, "step", place.image, place.url, rate=STEP * one, seconds=120)
    wait_for("a boost", lambda: place.pods()[pod][0] not in (NOMINAL, ""), place.told)
    end(place.autoscaler)
    kubectl("--namespace", place.namespace, "delete", "pod", sent.name, "--now")
    wait_for("nominal CPU", lambda: {limit for limit, _ in place.pods().values()} == {NOMINAL}, place.told)
    assert place.pods()[pod] == (NOMINAL, 0), "the same pod, without a restart"


def refuses_all_but_cpu(place: Place) -> None:
    """See that the policy refuses memory, and pods without the label."""

    def resized(namespace: str, pod: str, **limits: str) -> str:
        (container, *_) = read("--namespace", namespace, "pod", pod)["spec"]["containers"]
        changed = {"name": container["name"], "resources": {"limits": limits}}
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/resize"
        return cluster.refused(place.autoscaler, path, {"spec": {"containers": [changed]}})

    (pod, *_) = place.pods()
    (unlabeled, *_) = names("--namespace", place.autoscaler, "pods", "--field-selector=status.phase=Running")
    assert resized(place.namespace, pod, cpu="600m") == ""
    assert "changes the CPU limits" in resized(place.namespace, pod, cpu="600m", memory="300Mi")
    assert "only pods with the label" in resized(place.autoscaler, unlabeled, cpu="600m")


def kill(namespace: str) -> None:
    """End the autoscaler without a signal that it could act on."""
    selector = "--selector=app.kubernetes.io/name=slo-autoscaler"
    before = names("--namespace", namespace, "pods", selector)
    kubectl("--namespace", namespace, "delete", "pod", selector, "--force", "--grace-period=0")
    wait_for("the next one", lambda: names("--namespace", namespace, "pods", selector) - before)


def image_of(namespace: str, deployment: str) -> str:
    template = read("--namespace", namespace, "deployment", deployment)["spec"]["template"]
    return str(template["spec"]["containers"][0]["image"])


@contextmanager
def on_kubernetes(folder: Path) -> Iterator[tuple[Guide, Place]]:
    with installed("kubernetes", ("monitoring", "tailbound", "shop"), folder) as follower:
        follower.follow("2. Prometheus")
        allow(follower, "tailbound")
        kubernetes.model(follower, "cpu", {BOOST: ""})
        yield follower, Place("tailbound", "shop", "my-model.shop", kubernetes.IMAGE, kubernetes.URL)


def test_boost_on_kubernetes_follows_a_step_is_taken_back_after_a_crash_and_is_of_cpu_alone(tmp_path):
    with on_kubernetes(tmp_path) as (_, place):
        steps(place, kill)
        refuses_all_but_cpu(place)


def test_boost_is_taken_back_when_the_guide_removes_the_autoscaler(tmp_path):
    with on_kubernetes(tmp_path) as (follower, place):
        steps(place, lambda _: follower.follow("Remove it"))


def test_boost_on_openfaas_follows_a_step_and_is_taken_back_after_a_crash(tmp_path):
    ours = ("openfaas", "openfaas-fn")
    with installed("openfaas", ours, tmp_path) as follower:
        follower.follow("1. The platform")
        kubectl("--namespace=openfaas", "rollout", "status", "deployment/gateway", "--timeout=5m")
        follower.follow("2. Prometheus")
        allow(follower, "openfaas")
        openfaas.function(follower, "cpu", {BOOST: "", "com.tailbound.mode": "active"})
        wait_for("the first replica", lambda: openfaas.counts() == (1, 1))
        image = image_of("openfaas-fn", "my-model")
        steps(Place("openfaas", "openfaas-fn", "my-model.openfaas-fn", image, openfaas.URL), kill)


def test_boost_on_knative_follows_a_step_and_is_taken_back_after_a_crash(tmp_path):
    knative.needs_knative()
    ours = ("monitoring", "tailbound-knative")
    with installed("knative-class", ours, tmp_path) as follower:
        allow(follower, "tailbound-knative")
        follower.follow("2. Prometheus")
        try:
            knative.deploy(follower, "cpu", {BOOST: ""})
            wait_for("the first replica", lambda: knative.counts() == (1, 1))
            url = knative.url()
            steps(Place("tailbound-knative", "default", "my-model.default", knative.IMAGE, url), kill)
        finally:
            kubectl("delete", "ksvc", "my-model", "--ignore-not-found")
