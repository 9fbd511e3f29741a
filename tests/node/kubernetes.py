"""The guide's model on plain Kubernetes, small enough for a node of two cores."""

import json
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import yaml

from node import cluster
from node.cluster import PULL, REGISTRY, SAMPLE, Guide, kubectl

IMAGE = f"{REGISTRY}/my-model:1"
URL = "http://my-model.shop.svc.cluster.local:8080/"

counts = partial(cluster.counts, "shop", "my-model")


def small(deployment: dict[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """The page's Deployment with the sample's environment, and small enough for five on two cores."""
    deployment["metadata"]["annotations"]["tailbound.dev/max-replicas"] = "5"
    deployment["spec"]["template"]["metadata"]["labels"] |= labels
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["image"] = IMAGE
    kept = [each for each in container["env"] if each["name"] not in SAMPLE]
    container["env"] = kept + [{"name": name, "value": value} for name, value in SAMPLE.items()]
    container["imagePullPolicy"] = PULL
    container["resources"] = {
        "requests": {"cpu": "50m", "memory": "64Mi"},
        "limits": {"cpu": "500m", "memory": "256Mi"},
    }
    return deployment


def model(
    follower: Guide, sample: str = "accelerator", labels: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Step 4 under Pod Security restricted, with a sample's image; ``labels`` are the pods'."""
    kubectl("create", "namespace", "shop")
    kubectl("label", "namespace", "shop", "pod-security.kubernetes.io/enforce=restricted")
    follower.run(
        "mkdir -p build && cp -RL template/python3-inference build/my-model"
        f" && cp -R functions/{sample}/. build/my-model/function/"
        f" && docker build --tag {IMAGE} build/my-model && docker push {IMAGE}"
    )
    manifest = (follower.clone / "deploy/kubernetes/my-model.yaml").read_text()
    deployment, service = yaml.safe_load_all(manifest)
    for each in (small(deployment, labels), service):
        kubectl("apply", "--filename=-", stdin=json.dumps(each))
    kubectl("--namespace=shop", "rollout", "status", "deployment/my-model", "--timeout=5m")
    return dict(deployment)
