"""The guide's function on OpenFaaS, small enough for a node of two cores."""

import shutil
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import yaml

from node import cluster
from node.cluster import SAMPLE, Guide

URL = "http://gateway.openfaas.svc.cluster.local:8080/function/my-model"

counts = partial(cluster.counts, "openfaas-fn", "my-model")


def function(
    follower: Guide,
    sample: str = "accelerator",
    labels: Mapping[str, str] = MappingProxyType({"com.tailbound.mode": "off"}),
) -> None:
    """Step 4, with the handler of a sample in the place of the template's."""
    forward, made, up = [each.text for each in follower.blocks("4. A function") if each.language == ""]
    (settings,) = [
        yaml.safe_load(each.text) for each in follower.blocks("4. A function") if each.language == "yaml"
    ]
    follower.run(forward)
    follower.run(made)
    folder = follower.clone / "my-functions"
    # Its requirements too: the template's bring torch.
    shutil.copytree(follower.clone / "functions" / sample, folder / "my-model", dirs_exist_ok=True)
    stack = yaml.safe_load((folder / "stack.yaml").read_text())
    stack["functions"]["my-model"] |= settings | {
        "environment": settings["environment"] | SAMPLE,
        "requests": {"cpu": "50m", "memory": "64Mi"},
        "limits": {"cpu": "500m", "memory": "256Mi"},
        "labels": settings["labels"] | labels,
    }
    (folder / "stack.yaml").write_text(yaml.safe_dump(stack))
    follower.run(f"cd my-functions\n{up}")
