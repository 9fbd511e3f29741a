"""Counts a workload's pods for which no node has room, and finds the metrics of those that run.

Knows no scaling. The pods without a node are always watched, with the reason and the resources they need;
platforms put these into ``Scale``. The others are watched from the first question on.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from kubernetes.utils.quantity import parse_quantity

from slo_autoscaler.errors import PlatformError
from slo_autoscaler.kube import METRICS_PORTS
from slo_autoscaler.kube.client import Document, KubeApi, Resource
from slo_autoscaler.kube.informer import Informer, Key
from slo_autoscaler.settings.fields import MOST_FAULTS

PODS: Final = Resource("v1", "pods")

WITHOUT_NODE: Final = {"fieldSelector": "spec.nodeName="}
"""Selector of pods without a node."""

ON_NODE: Final = {"fieldSelector": "status.phase=Running"}

REVISION: Final = "serving.knative.dev/revision"
SERVICE_LABELS: Final = ("serving.knative.dev/service", "serving.knative.dev/configuration", REVISION)
"""Knative's labels with the name of the function; other functions have their Deployment's name."""

METRICS_PORT: Final = "8081"
"""Default port of the watchdog's metrics."""

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
        deployment = deployment_of(metadata)
        refusals = [
            condition
            for condition in (pod.get("status") or {}).get("conditions") or ()
            if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable"
        ]
        if not refusals or deployment is None or "deletionTimestamp" in metadata:
            return None
        # Further sentences are about pods that could be evicted.
        why = str(refusals[0].get("message") or "").partition(". ")[0]
        return cls(
            deployment=(metadata["namespace"], deployment),
            revision=(metadata["namespace"], labels.get(REVISION, "")),
            why=why[:LONGEST_REASON].strip().rstrip("."),
            needs=_needs(pod.get("spec") or {}),
        )


class Watchdogs:
    """The metrics pages of running pods, which are watched from the first question on."""

    def __init__(
        self, api: KubeApi, namespaces: Sequence[str] | None, resync: float, label: str | None = None
    ) -> None:
        """``label``: only pods that have it. ``resync`` is seconds between two complete lists."""
        self._api = api
        self._namespaces = namespaces
        self._resync = resync
        self._query = ON_NODE if label is None else {**ON_NODE, "labelSelector": label}
        self._pods: Informer[tuple[str, str]] | None = None

    def pages(self) -> dict[str, str]:
        """Return {address: name.namespace} of every page; none while the API server does not answer."""
        if self._pods is None:
            self._pods = Informer(
                *(self._api, PODS, self._namespaces, page_of), query=self._query, resync=self._resync
            )
            self._pods.wait(self._api.timeout)
        with suppress(PlatformError):
            return dict(self._pods.items().values())
        return {}

    def close(self) -> None:
        """End the watch."""
        if self._pods is not None:
            self._pods.close()


def page_of(pod: Document) -> tuple[str, str] | None:
    """Return the address of a pod's metrics page and its function; None if it has neither.

    As the scrape configurations in ``deploy/`` do.
    """
    metadata, ip = pod["metadata"], (pod.get("status") or {}).get("podIP")
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    name = next((labels[key] for key in SERVICE_LABELS if labels.get(key)), deployment_of(metadata))
    if not ip or name is None:
        return None
    port = next((annotations[key] for key in METRICS_PORTS if key in annotations), METRICS_PORT)
    return address_of(ip, port), f"{name}.{metadata['namespace']}"


def address_of(ip: str, port: str) -> str:
    """Return ``host:port``, with brackets where the address has colons."""
    return f"{f'[{ip}]' if ':' in ip else ip}:{port}"


def deployment_of(metadata: Mapping[str, Any]) -> str | None:
    """Return the Deployment of a pod; None if it has none."""
    owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")]
    if not owners or owners[0]["kind"] != "ReplicaSet":
        return None
    # The name of a Deployment's ReplicaSet is the Deployment's with the hash of its template.
    suffix = f"-{(metadata.get('labels') or {}).get('pod-template-hash')}"
    return str(owners[0]["name"]).removesuffix(suffix)


Shortages = Callable[[Key], tuple[int | None, str]]
"""Workload -> the number of its pods without a node, and their ``shortage``; None if these are unknown."""


def shortages(pods: Informer[Unschedulable], workload: Callable[[Unschedulable], Key]) -> Shortages:
    """Return the pods by workload; they are unknown for example without the right to list them."""
    unschedulable: dict[Key, list[Unschedulable]] = {}
    try:
        for pod in pods.items().values():
            unschedulable.setdefault(workload(pod), []).append(pod)
    except PlatformError:
        return lambda _: (None, "")
    return lambda key: (len(unschedulable.get(key, ())), shortage(unschedulable.get(key, ())))


def shortage(pods: Sequence[Unschedulable]) -> str:
    """Return the resources that the cluster would need for these pods, and the scheduler's reason."""
    if not pods:
        return ""
    alike = Counter(pod.needs for pod in pods)
    room = _few([f"{count} x ({needs})" for needs, count in sorted(alike.items())], " and ")
    reasons = _few(sorted({pod.why for pod in pods if pod.why}), "; ")
    return f"the cluster would need room for {room}" + (f" ({reasons})" if reasons else "")


def _few(parts: Sequence[str], between: str) -> str:
    """Return the first parts and the number of the others: tenants may make each pod another."""
    more = [f"{len(parts) - MOST_FAULTS:,} others"] if len(parts) > MOST_FAULTS else []
    return between.join([*parts[:MOST_FAULTS], *more])


def _needs(spec: Mapping[str, Any]) -> str:
    """Return a pod's requests as the scheduler counts: its containers together, or one init container."""
    first = spec.get("initContainers") or ()
    lasting = [container for container in first if container.get("restartPolicy") == "Always"]
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
    amounts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {resource: parse_quantity(amount) for resource, amount in amounts.items()}


def _text(resource: str, amount: Decimal) -> str:
    if resource == "cpu":
        return f"{float(amount):g} CPU"
    if resource in {"memory", "ephemeral-storage"}:
        return f"{float(amount) / 2**20:,.0f} MiB {resource}"
    return f"{float(amount):g} {resource}"
