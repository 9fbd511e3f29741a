"""The guide's function on Knative, small enough for a node of two cores."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from node import cluster
from node.cluster import PULL, REGISTRY, SAMPLE, Guide, exists, kubectl, read, wait_for

IMAGE = f"{REGISTRY}/my-model:1"


def needs_knative() -> None:
    """Skip where the node has no Knative Serving."""
    if not exists("crd", "revisions.serving.knative.dev"):
        pytest.skip("not run: no Knative Serving on the node")


def deploy(
    follower: Guide,
    sample: str = "accelerator",
    labels: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Step 4, with the handler of a sample that needs no torch; ``labels`` are the pods'."""
    (build,) = [each.text for each in follower.blocks("4. A function") if each.language == "sh"]
    follower.run(build.replace("functions/tabular", f"functions/{sample}"))
    service: dict[str, Any] = yaml.safe_load((follower.clone / "deploy/knative/my-model.yaml").read_text())
    template = service["spec"]["template"]
    template["metadata"]["annotations"]["autoscaling.knative.dev/max-scale"] = "5"
    template["metadata"]["labels"] = dict(labels)
    (container,) = template["spec"]["containers"]
    container |= {"image": IMAGE, "imagePullPolicy": PULL}
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
    return str(read("ksvc", "my-model").get("status", {}).get("latestCreatedRevisionName", ""))


def url() -> str:
    return f"http://{revision()}.default.svc.cluster.local/"


def ready(kind: str, name: str) -> bool:
    if not name or not exists(kind, name):
        return False
    conditions = read(kind, name).get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def counts() -> tuple[int, int]:
    return cluster.counts("default", f"{revision()}-deployment")


def labeled(mode: str) -> str:
    """Set the mode and return when."""
    since = cluster.now()
    kubectl("label", "--overwrite", "ksvc/my-model", f"tailbound.dev/mode={mode}")
    return since


CALLS = """
import json, sys, threading, time, urllib.error, urllib.request
url, revision, count, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
headers = {"Knative-Serving-Revision": revision, "Knative-Serving-Namespace": "default"}
def call():
    began = time.monotonic()
    try:
        status = urllib.request.urlopen(urllib.request.Request(url, b"{}", headers), timeout=120).status
    except urllib.error.HTTPError as error:
        status = error.code
    except OSError as error:
        status = str(error)
    answers.append([status, time.monotonic() - began])
answers = []
calls = [threading.Thread(target=call) for _ in range(count)]
for each in calls:
    each.start()
    time.sleep(pause)
for each in calls:
    each.join()
for answer in answers:
    print(json.dumps(answer))
"""
"""Calls a revision as an ingress does, whose headers the activator needs."""


def called(name: str, count: int, pause: float = 0.0) -> list[Any]:
    """Send requests, ``pause`` seconds apart; wait for them and return their statuses."""
    sent = cluster.start("default", name, IMAGE, CALLS, url(), revision(), str(count), str(pause))
    return [status for status, _ in sent.lines()]
