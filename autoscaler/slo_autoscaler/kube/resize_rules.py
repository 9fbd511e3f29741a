"""Decides the CPU of boosted pods: which pod gets which limit, and which gets none for which reason. [P]

Owns the rules; ``resize`` reads the pods and writes. CPU is in whole millicores. Nominal is the CPU in the
template of a pod's ReplicaSet, never the pod's own: a pod that another autoscaler left boosted is restored.

- Only the limit is raised. The request stays, so nothing is scheduled anew and no pod loses its own request.
- A resize may not change the QoS class (KEP-1287). A Guaranteed pod needs request and limit raised together,
  for which the node must have the CPU: only with ``requests``.
- The boost of serving pods raises only a pod that serves. One that stops to serve keeps it: that may be the
  overload.
- The boost of its start-up raises a pod until it first serves, also one that is still pending, but not for
  longer than ``START_UP_SECONDS``. A container that restarts starts again; a sidecar's restart is none.
- A pod that starts is never lowered, unless this process has raised it: its CPU may be another autoscaler's
  boost.
- A refused limit is not requested again before its backoff ends; a lower one is.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

Key = tuple[str, str]
"""(namespace, name)"""

STEP: Final = 0.1
"""Factors are rounded up to a multiple of this, so that a changing load does not resize each second."""


START_UP_SECONDS: Final = 600.0
"""Maximum boost of one start-up: a pod that crashes at each start would keep its neighbors' idle CPU."""


@dataclass(frozen=True, slots=True)
class CpuBoost:
    """The boosts of one function's pods."""

    factor: float
    """CPU limit as a multiple of the nominal one; 1: none."""
    max_cpu: float
    """Maximum boosted limit in cores."""
    requests: bool = False
    """Whether Guaranteed pods are boosted, by request and limit."""
    start_up: float = 1.0
    """CPU limit of pods that start, as a multiple of the nominal one; 1: no boost."""


NOMINAL: Final = CpuBoost(1.0, math.inf, requests=True)
"""No boost, and nothing that would forbid one."""


@dataclass(frozen=True, slots=True)
class Range:
    """The factors that the pods of one function can have."""

    label: float | None
    """Maximum by the label; None: the label leaves it to the configuration."""
    most: float
    """Maximum by template, refusals and ``max_cpu``, which also limits the label's; 1: no boost."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """The CPU of one container in millicores; None: not set."""

    request: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """The pod template of a ReplicaSet."""

    function_name: str
    container: str
    """The container of the function; sidecars are never resized."""
    nominal: Cpu
    restarts: bool = False
    """Whether a change of CPU restarts the container (``resizePolicy``)."""
    most: float | None = None
    """Maximum factor by the label; None: the label leaves it to the configuration."""
    fault: str = ""
    """The rule that the label's value violates."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod with the label that has a node."""

    template: Key
    """Its ReplicaSet."""
    containers: Mapping[str, Cpu]
    guaranteed: bool = False
    """Whether its QoS class is Guaranteed."""
    serving: bool = True
    starting: frozenset[str] = frozenset()
    """The containers that have not served yet since they started."""
    refusal: str = ""
    """Why the kubelet has not applied its last resize; empty: no reason is known."""


@dataclass(frozen=True, slots=True)
class Start:
    """The start-up of one pod, as this process has seen it."""

    since: float
    limit: int | None = None
    """The limit that this process has given it; None: none."""


@dataclass(frozen=True, slots=True)
class Boosting:
    """What one function's pods have of their boosts now."""

    starts: int = 0
    """Pods that start with more CPU than their nominal one."""
    refusal: str = ""
    """Why a pod was refused its boost lately; empty: none was."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A change of one pod's CPU."""

    function_name: str
    container: str
    before: Cpu
    cpu: Cpu
    why: str = ""
    """The kubelet's refusal that this withdraws."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The writes of one pass, and the functions that it cannot boost."""

    patches: dict[Key, Patch]
    obstacles: dict[str, str]
    """Function -> why some of its pods cannot be boosted at all."""


def plan(
    pods: Mapping[Key, Pod],
    templates: Mapping[Key, Template],
    boosts: Mapping[str, CpuBoost],
    refused: Mapping[Key, int],
    starts: Mapping[Key, Start],
    now: float = 0.0,
) -> Plan:
    """Return the writes that give each pod of these functions its CPU; others may be another autoscaler's.

    ``refused`` has the lowest limit that was refused for a pod and still backs off; ``starts`` has the pods
    that start.
    """
    patches: dict[Key, Patch] = {}
    obstacles: dict[str, str] = {}
    for key, pod in pods.items():
        template = templates.get(pod.template)
        boost = None if template is None else boosts.get(template.function_name)
        before = None if template is None else pod.containers.get(template.container)
        if template is None or boost is None or before is None:
            continue
        obstacle = _obstacle(pod, template, boost)
        if obstacle:
            obstacles.setdefault(template.function_name, obstacle)
        nominal = template.nominal.limit
        # One that would restart was never boosted: another CPU than nominal is not ours to take back.
        if nominal is None or before.limit is None or template.restarts:
            continue
        why = pod.refusal if before.limit > nominal else ""
        max_cpu = 0.0 if obstacle or why else boost.max_cpu
        if template.container in pod.starting:
            start = starts.get(key, Start(now))
            factor = boost.start_up if now - start.since < START_UP_SECONDS else 1.0
            limit = raised(nominal, min(factor, template.most or math.inf), max_cpu)
            keeps = limit < before.limit != start.limit
        else:
            limit = raised(nominal, boost.factor, max_cpu)
            keeps = limit > before.limit and not pod.serving
        after = Cpu(limit if pod.guaranteed else before.request, limit)
        if after != before and not keeps and limit < refused.get(key, math.inf):
            patches[key] = Patch(template.function_name, template.container, before, after, why)
    return Plan(patches, obstacles)


def ranges(
    pods: Mapping[Key, Pod],
    templates: Mapping[Key, Template],
    boosts: Mapping[str, CpuBoost],
    refused: Set[Key] = frozenset(),
) -> dict[str, Range]:
    """Return the range of every function that has pods with the label.

    ``boosts`` has the ``max_cpu`` and ``requests`` of each. Of several pods the largest counts. Those of
    ``refused`` can have no more than they have: a boost that is not given would be taken for capacity.
    """
    functions: dict[str, Range] = {}
    for key, pod in pods.items():
        template = templates.get(pod.template)
        if template is None:
            continue
        name, nominal = template.function_name, template.nominal.limit
        boost = boosts.get(name, NOMINAL)
        able = not _obstacle(pod, template, boost)
        most = max(1.0, 1000 * boost.max_cpu / nominal) if able and nominal else 1.0
        if key in refused and nominal:
            limit = pod.containers.get(template.container, template.nominal).limit or nominal
            most = min(most, max(1.0, limit / nominal))
        if name not in functions or most >= functions[name].most:
            functions[name] = Range(template.most, most)
    return functions


def boosting(
    pods: Mapping[Key, Pod], templates: Mapping[Key, Template], refusals: Mapping[Key, str]
) -> dict[str, Boosting]:
    """Return what the pods of every function with the label have; ``refusals``: {pod: why}."""
    functions: dict[str, Boosting] = {}
    for key, pod in pods.items():
        template = templates.get(pod.template)
        if template is None:
            continue
        limit, nominal = pod.containers.get(template.container, Cpu()).limit, template.nominal.limit
        starts = template.container in pod.starting and bool(limit and nominal and limit > nominal)
        others = functions.get(template.function_name, Boosting())
        functions[template.function_name] = Boosting(
            others.starts + starts, others.refusal or refusals.get(key, "")
        )
    return functions


def raised(nominal: int, factor: float, max_cpu: float) -> int:
    """Return the boosted limit in millicores: at least nominal, and else at most ``max_cpu`` cores."""
    # Rounded first: 3 x 0.4 is a little more than 1.2.
    factor = math.ceil(round(factor / STEP, 6)) * STEP
    return max(nominal, round(min(nominal * factor, 1000 * max_cpu)))


def _obstacle(pod: Pod, template: Template, boost: CpuBoost) -> str:
    """Return why a pod can never be boosted as it is; empty: it can."""
    if template.nominal.limit is None:
        return f"container {template.container} has no CPU limit, so there is nothing to raise"
    if template.fault:
        return template.fault
    if template.restarts:
        return f"resizePolicy of container {template.container} restarts it when its CPU changes"
    if pod.guaranteed and not boost.requests:
        return "its pods are Guaranteed: set boost.requests to raise request and limit together"
    return ""
