"""Counts a workload's pods for which no node has room, with the reason and the resources they need.

Knows no scaling. Lists only pods without a node. Next step: platforms put this into ``Scale``.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from kubernetes.utils.quantity import parse_quantity

from slo_autoscaler.errors import PlatformError
from slo_autoscaler.kube.client import Document, Resource
from slo_autoscaler.kube.informer import Informer, Key

PODS: Final = Resource("v1", "pods")

WITHOUT_NODE: Final = {"fieldSelector": "spec.nodeName="}
"""Selector of pods without a node."""

REVISION: Final = "serving.knative.dev/revision"

LONGEST_REASON: Final = 300
"""Characters kept of the scheduler's message, which counts nodes by the missing resource."""


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """A pod of a Deployment for which the scheduler finds no node."""

    deployment: Key
    revision: Key
    """Knative's revision; its name is empty for other pods."""
    why: str
    needs: str

    @classmethod
    def of(cls, pod: Document) -> "Unschedulable | None":
        """Read a pod; return None if it has no Deployment, is being deleted, or was not refused."""
        metadata = pod["metadata"]
        labels: Mapping[str, str] = metadata.get("labels") or {}
        owners = [each for each in metadata.get("ownerReferences") or () if each.get("controller")]
        refusals = [
            each
            for each in (pod.get("status") or {}).get("conditions") or ()
            if each.get("type") == "PodScheduled" and each.get("reason") == "Unschedulable"
        ]
        if not refusals or not owners or owners[0]["kind"] != "ReplicaSet" or "deletionTimestamp" in metadata:
            return None
        # The name of a Deployment's ReplicaSet is the Deployment's with the hash of its template.
        name = owners[0]["name"].removesuffix(f"-{labels.get('pod-template-hash')}")
        # Further sentences are about pods that could be evicted.
        why = str(refusals[0].get("message") or "").partition(". ")[0]
        return cls(
            deployment=(metadata["namespace"], name),
            revision=(metadata["namespace"], labels.get(REVISION, "")),
            why=why[:LONGEST_REASON].strip().rstrip("."),
            needs=_needs(pod.get("spec") or {}),
        )


Shortages = Callable[[Key], tuple[int | None, str]]
"""Workload -> the number of its pods without a node, and their ``shortage``; None if these are unknown."""


def shortages(pods: Informer[Unschedulable], workload: Callable[[Unschedulable], Key]) -> Shortages:
    """Return the pods by workload; they are unknown for example without the right to list them."""
    found: dict[Key, list[Unschedulable]] = {}
    try:
        for pod in pods.items().values():
            found.setdefault(workload(pod), []).append(pod)
    except PlatformError:
        return lambda _: (None, "")
    return lambda key: (len(found.get(key, ())), shortage(found.get(key, ())))


def shortage(pods: Sequence[Unschedulable]) -> str:
    """Return the resources that the cluster would need for these pods, and the scheduler's reason."""
    if not pods:
        return ""
    alike = Counter(pod.needs for pod in pods)
    room = " and ".join(f"{count} x ({needs})" for needs, count in sorted(alike.items()))
    reasons = "; ".join(sorted({pod.why for pod in pods if pod.why}))
    return f"the cluster would need room for {room}" + (f" ({reasons})" if reasons else "")


def _needs(spec: Mapping[str, Any]) -> str:
    """Return a pod's requests as the scheduler counts: its containers together, or one init container."""
    first = spec.get("initContainers") or ()
    lasting = [each for each in first if each.get("restartPolicy") == "Always"]
    total: dict[str, Decimal] = {}
    for container in (*(spec.get("containers") or ()), *lasting):
        for resource, amount in _requests(container).items():
            total[resource] = total.get(resource, Decimal(0)) + amount
    for container in first:
        for resource, amount in _requests(container).items():
            total[resource] = max(total.get(resource, Decimal(0)), amount)
    return ", ".join(_text(resource, total[resource]) for resource in sorted(total)) or "nothing requested"


def _requests(container: Mapping[str, Any]) -> dict[str, Decimal]:
    """Return a container's requests; a resource with only a limit counts with the limit."""
    resources = container.get("resources") or {}
    found = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {resource: parse_quantity(amount) for resource, amount in found.items()}


def _text(resource: str, amount: Decimal) -> str:
    if resource == "cpu":
        return f"{float(amount):g} CPU"
    if resource in {"memory", "ephemeral-storage"}:
        return f"{float(amount) / 2**20:,.0f} MiB {resource}"
    return f"{float(amount):g} {resource}"
