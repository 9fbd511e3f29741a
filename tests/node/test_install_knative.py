"""docs/install-knative.md on a real node that has Knative Serving: class, function, load and the removal."""

import json
from collections.abc import Iterator
from functools import partial

import pytest
import yaml

from node import cluster
from node.cluster import REGISTRY, SAMPLE, Guide, exists, guide, kubectl, load, read, unlearned, wait_for

pytestmark = [pytest.mark.node, pytest.mark.timeout(3600)]

OURS = ("monitoring", "tailbound-knative")
IMAGE = f"{REGISTRY}/tabular:1"
RATE = 120.0

told = partial(cluster.told, "tailbound-knative")


@pytest.fixture(scope="module")
def installed(node: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guide]:
    if not exists("crd", "revisions.serving.knative.dev"):
        pytest.skip("not run: no Knative Serving on the node")
    taken = [each for each in OURS if exists("namespace", each)]
    assert not taken, f"namespaces {taken} are there already: this test makes and deletes them"
    with guide("install-knative.md", tmp_path_factory.mktemp("node")) as follower:
        try:
            follower.install_autoscaler("knative-class")
            follower.follow("3. Prometheus")
            function(follower)
            yield follower
        finally:
            kubectl("delete", "ksvc", "tabular", "--ignore-not-found")
            follower.remove(*OURS)


def function(follower: Guide) -> None:
    """Step 4, with the handler of the sample accelerator, which needs no torch."""
    (build,) = [each.text for each in follower.blocks("4. A function") if each.language == "sh"]
    follower.run(build.replace("functions/tabular", "functions/accelerator"))
    service = yaml.safe_load((follower.clone / "deploy/knative/tabular.yaml").read_text())
    template = service["spec"]["template"]
    template["metadata"]["annotations"]["autoscaling.knative.dev/max-scale"] = "5"
    (container,) = template["spec"]["containers"]
    container["image"] = IMAGE
    kept = [each for each in container["env"] if each["name"] not in SAMPLE]
    container["env"] = kept + [{"name": name, "value": value} for name, value in SAMPLE.items()]
    container["resources"] = {
        "requests": {"cpu": "50m", "memory": "64Mi"},
        "limits": {"cpu": "500m", "memory": "256Mi"},
    }
    kubectl("apply", "--filename=-", stdin=json.dumps(service))
    # The Service itself waits for an ingress, which the node may not have.
    wait_for("the revision", lambda: ready("revision", revision()))


def revision() -> str:
    return str(read("ksvc", "tabular")["status"].get("latestCreatedRevisionName", ""))


def ready(kind: str, name: str) -> bool:
    if not name or not exists(kind, name):
        return False
    conditions = read(kind, name).get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def counts() -> tuple[int, int]:
    return cluster.counts("default", f"{revision()}-deployment")


def test_class_gives_replicas_for_load_and_its_end_takes_them_back(installed: Guide):
    wait_for("the first replica", lambda: counts() == (1, 1), told)
    url = f"http://{revision()}.default.svc.cluster.local/"
    kubectl("label", "--overwrite", "ksvc/tabular", "tailbound.dev/mode=off")
    sent = load("default", "load", IMAGE, url, rate=RATE, seconds=150)
    unlearned(sent)
    assert counts() == (1, 1)
    kubectl("label", "--overwrite", "ksvc/tabular", "tailbound.dev/mode=active")
    wait_for("replicas for the load", lambda: counts()[1] >= 3, told)
    answers = sent.ended()
    # How many are late is the machine's; none may fail in another way.
    assert "200" in answers
    assert set(answers) <= {"200", "429", "503", "TimeoutError"}, answers
    wait_for("one replica again", lambda: counts() == (1, 1), told)


def test_pod_autoscaler_tells_the_count(installed: Guide):
    (found,) = [each for each in read("podautoscalers")["items"] if each["metadata"]["name"] == revision()]
    assert (found["status"]["desiredScale"], found["status"]["actualScale"]) == (1, 1)
    assert ready("podautoscaler", revision())


def test_removal_leaves_nothing_of_the_autoscaler(installed: Guide):
    installed.follow("Remove it")
    wait_for("the namespace's end", lambda: not exists("namespace", "tailbound-knative"))
    kinds = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
    assert not exists(kinds, "--selector=app.kubernetes.io/part-of=tailbound")
    assert not exists("--namespace=knative-serving", "role", "slo-autoscaler-knative-class")
