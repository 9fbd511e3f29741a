"""``bench node``: a day of traffic in minutes on a real cluster, under one scaler after another.

The file of ``--arms`` names the function's Deployment for each scaler, and the commands that put the scaler
in charge and take it away. A pod of the cluster sends the load; the API server tells replicas and limits, the
kubelet tells CPU. Replica-seconds are those of ready replicas: one that starts does not count. Nothing is
simulated but what the file of arms names as a stand-in.
"""

import argparse
import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from math import cos, fsum, pi
from pathlib import Path
from typing import Any, Final

import yaml
from kubernetes import client, config
from kubernetes.utils.quantity import parse_quantity
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from urllib3.exceptions import HTTPError

from tailbound_lab.bench.rig.record import Record, Row, Run, listed, say
from tailbound_lab.bench.rig.ticker import every
from tailbound_lab.load.records import BenchError

ARMS: Final = Path(__file__).with_name("node_arms.yaml")
SOURCE: Final = Path(__file__).with_name("node_load.py")
BUCKET: Final = 10
"""Seconds of one row of the record."""
WARM_UP: Final = 120.0
"""Seconds at the first rate before the record begins: each scaler has seen the function."""
PENDING: Final = 120.0
"""Seconds within which the pod that sends the load must start."""
DAY: Final = ((0.15, 8.0), (0.45, 30.0), (0.52, 14.0), (0.62, 34.0), (0.72, 12.0), (1.0, 2.0))
"""(share of the day at which it ends, requests/s): morning, peak, lull, jump, evening, night."""
PEAK: Final = 1
"""The part of ``DAY`` that rises and falls; the others are constant."""
COLUMNS: Final = {
    "scaler": "{system}",
    "late or failed": "{late:.2%}",
    "replica-seconds": "{replica_seconds:,}",
    "CPU-seconds": "{cpu_seconds:,.0f}",
    "changes": "{changes}",
    "": "{note}",
}
_CPU: Final = re.compile(
    r'^pod_cpu_usage_seconds_total\{namespace="([^"]*)",pod="([^"]*)"\} (\S+)', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Arm:
    """One scaler in charge of one Deployment."""

    name: str
    deployment: str
    url: str
    """Of the function, within the cluster."""
    begin: str
    end: str
    """Shell commands that put the scaler in charge and take it away."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The file of ``--arms``."""

    namespace: str
    image: str
    """With Python, for the pod that sends the load."""
    slo_latency: float
    arms: tuple[Arm, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """What the cluster said of the function at one time."""

    at: float
    wanted: int
    ready: int
    cores: float
    """That the ready replicas may use."""
    cpu_seconds: float
    """Used so far by every pod seen."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench node``."""
    add = parser.add_argument
    add(
        "--arms",
        type=Path,
        default=ARMS,
        metavar="FILE",
        help=f"the scalers and their commands [{ARMS.name}]",
    )
    add("--only", metavar="TEXT", default="", help="only arms with this in their name [all]")
    add("--minutes", type=float, default=20.0, help="length of the day [20]")


def main(options: argparse.Namespace, run: Run) -> int:
    """Play the day under each scaler in turn; 0 if none has fewer late requests than the first for less."""
    plan = read(options.arms)
    try:
        config.load_kube_config()
    except config.ConfigException as error:
        raise BenchError(f"KUBECONFIG: {error}") from None
    rows: list[Row] = []
    for arm in plan.arms:
        if options.only in arm.name:
            say(f"{arm.name}: {options.minutes:g} minutes, after {WARM_UP:g} s at the first rate")
            rows.append(play(plan, arm, options.minutes * 60.0))
            run.keep(rows)
    if not rows:
        raise BenchError(f"--only {options.only}: must be in the name of an arm of {options.arms}")
    ours, *others = rows
    return int(
        any(
            other["late"] <= ours["late"] and other["replica_seconds"] < ours["replica_seconds"]
            for other in others
        )
    )


def read(file: Path) -> Plan:
    """Return the plan of a file. Raises ``BenchError`` if it is none."""
    try:
        plan = yaml.safe_load(file.read_text())
        return Plan(**(plan | {"arms": tuple(Arm(**arm) for arm in plan["arms"])}))
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise BenchError(f"--arms {file}: {error}") from None


def phases(seconds: float) -> list[tuple[float, float]]:
    """Return (requests/s, seconds) of a day of ``seconds``, in steps of a bucket."""
    steps = [(DAY[0][1], WARM_UP)]
    for at in range(0, int(seconds), BUCKET):
        share = at / seconds
        part = next(index for index, (end, _) in enumerate(DAY) if share < end)
        rate = DAY[part][1]
        if part == PEAK:
            begin, low = DAY[PEAK - 1]
            rate = low + (rate - low) * (1.0 - cos(2.0 * pi * (share - begin) / (DAY[PEAK][0] - begin))) / 2.0
        steps.append((rate, float(BUCKET)))
    return steps


def play(plan: Plan, arm: Arm, seconds: float) -> Row:
    """Return what one scaler did with the day."""
    try:
        shell(arm.name, arm.begin)
        ready(plan, arm)
        day = phases(seconds)
        words = ",".join(f"{rate:.3f}:{length:g}" for rate, length in day)
        with watching(plan, arm) as samples, sending(plan, arm, words) as load:
            begin = time.time() + WARM_UP
            log = load(WARM_UP + seconds)
    finally:
        shell(arm.name, arm.end)
    inside = [sample for sample in samples if begin <= sample.at < begin + seconds]
    return row(arm, log, inside, begin=begin, seconds=seconds, slo=plan.slo_latency)


def row(
    arm: Arm, log: Sequence[str], samples: Sequence[Sample], *, begin: float, seconds: float, slo: float
) -> Row:
    """Return the record of one arm: its totals, and its course in buckets.

    Raises ``BenchError`` if the samples have a gap as long as a bucket.
    """
    times = [begin, *(sample.at for sample in samples), begin + seconds]
    gap = max(after - one for one, after in pairwise(times))
    if gap >= BUCKET:
        raise BenchError(
            f"{arm.name}: {gap:.0f} of {seconds:.0f} s have no sample of the cluster, must be less than"
            f" {BUCKET} s: see whether its API server and kubelets answer, and play the arm again"
        )
    latencies: dict[int, list[int]] = {}
    for line in log:
        second, ended = json.loads(line)
        latencies.setdefault(int((second - WARM_UP) // BUCKET), []).extend(ended)
    course: list[Row] = []
    for bucket in range(int(seconds) // BUCKET):
        ended = latencies.get(bucket, [])
        served = sorted(latency / 1000 for latency in ended if latency >= 0)
        since = begin + bucket * BUCKET
        seen = [sample for sample in samples if since <= sample.at < since + BUCKET]
        course.append(
            {
                "at": bucket * BUCKET,
                "good": sum(latency <= slo for latency in served),
                "late": sum(latency > slo for latency in served),
                "failed": len(ended) - len(served),
                "p99": served[int(0.99 * len(served))] if served else None,
                "wanted": round(fsum(sample.wanted for sample in seen) / len(seen), 2),
                "ready": round(fsum(sample.ready for sample in seen) / len(seen), 2),
                "cores": round(fsum(sample.cores for sample in seen) / len(seen), 3),
            }
        )
    sent = sum(step["good"] + step["late"] + step["failed"] for step in course)
    return {
        "system": arm.name,
        "note": arm.note,
        "slo_latency": slo,
        "sent": sent,
        "late": 1.0 - sum(step["good"] for step in course) / max(1, sent),
        "replica_seconds": round(fsum(one.ready * (after.at - one.at) for one, after in pairwise(samples))),
        "cpu_seconds": round(samples[-1].cpu_seconds - samples[0].cpu_seconds, 1),
        "changes": sum(one.wanted != after.wanted for one, after in pairwise(samples)),
        "course": course,
    }


def shell(name: str, commands: str) -> None:
    """Run an arm's commands. Raises ``BenchError`` with what they said if one fails."""
    done = subprocess.run(["bash", "-euc", commands], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{name}: status {done.returncode}\n{done.stdout}{done.stderr}")


def ready(plan: Plan, arm: Arm) -> None:
    """Wait until exactly one replica serves. Raises ``BenchError`` after five minutes."""
    for _ in range(300):
        with suppress(client.ApiException):  # Knative makes the Deployment later
            if counts(plan, arm) == (1, 1):
                return
        time.sleep(1.0)
    raise BenchError(
        f"{arm.name}: {arm.deployment} has {counts(plan, arm)} replicas, must have one that is ready"
    )


def counts(plan: Plan, arm: Arm) -> tuple[int, int]:
    """Return how many replicas are wanted and ready."""
    deployment = _apps().read_namespaced_deployment(arm.deployment, plan.namespace)
    return deployment.spec.replicas, deployment.status.ready_replicas or 0


def _apps() -> Any:
    return client.AppsV1Api()


def _core() -> Any:
    return client.CoreV1Api()


@contextmanager
def watching(plan: Plan, arm: Arm) -> Iterator[list[Sample]]:
    """Read the cluster each second."""
    samples: list[Sample] = []
    used: dict[str, float] = {}

    def look() -> None:
        with suppress(client.ApiException, HTTPError, OSError):
            samples.append(see(plan, arm, used))

    with every(1.0, look):
        yield samples


def see(plan: Plan, arm: Arm, used: dict[str, float]) -> Sample:
    """Return what the cluster says now; ``used`` keeps the CPU-seconds of pods that are gone."""
    core, prefix = _core(), f"{arm.deployment}-"
    pods = [
        pod for pod in core.list_namespaced_pod(plan.namespace).items if pod.metadata.name.startswith(prefix)
    ]
    for node in {pod.spec.node_name for pod in pods if pod.spec.node_name}:
        text = core.connect_get_node_proxy_with_path(node, "metrics/resource")
        for namespace, name, seconds in _CPU.findall(text):
            if namespace == plan.namespace and name.startswith(prefix):
                used[name] = float(seconds)
    wanted, serving = counts(plan, arm)
    return Sample(time.time(), wanted, serving, fsum(map(cores, pods)), fsum(used.values()))


def cores(pod: Any) -> float:
    """Return the limit in force of a ready pod's first limited container, 0 if it is not ready."""
    if not any(item.type == "Ready" and item.status == "True" for item in pod.status.conditions or ()):
        return 0.0
    for status in pod.status.container_statuses or ():
        limits: Mapping[str, str] = (status.resources and status.resources.limits) or {}
        if "cpu" in limits:
            return float(parse_quantity(limits["cpu"]))
    return 0.0


@contextmanager
def sending(plan: Plan, arm: Arm, words: str, patience: float = PENDING) -> Iterator[Any]:
    """Start the pod that sends the load; yield a function that waits for its end and returns its lines.

    Raises ``BenchError`` if the pod is still pending after ``patience`` seconds.
    """
    core, name = _core(), "bench-load"
    container = {
        "name": "load",
        "image": plan.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", SOURCE.read_text(), arm.url, words],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    secure = {"runAsNonRoot": True, "runAsUser": 12345, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
            "securityContext": secure,
        },
    }

    def status() -> Any:
        return core.read_namespaced_pod(name, plan.namespace).status

    def phase() -> str:
        return str(status().phase)

    def obstacles() -> str:
        now = status()
        waiting = [item.state.waiting for item in now.container_statuses or () if item.state.waiting]
        said = [item for item in (*waiting, *(now.conditions or ())) if item.reason]
        return (
            "; ".join(f"{item.reason} {item.message or ''}".strip() for item in said) or "no reason is known"
        )

    def ended(seconds: float) -> list[str]:
        deadline = time.monotonic() + seconds + 60.0
        while phase() == "Running" and time.monotonic() < deadline:
            time.sleep(1.0)
        if phase() != "Succeeded":
            raise BenchError(f"{arm.name}: the pod that sends the load is {phase()}: kubectl logs {name}")
        return str(core.read_namespaced_pod_log(name, plan.namespace)).splitlines()

    core.create_namespaced_pod(plan.namespace, pod)
    try:
        deadline = time.monotonic() + patience
        while phase() == "Pending":
            if time.monotonic() > deadline:
                raise BenchError(f"{arm.name}: {name} is pending after {patience:g} s: {obstacles()}")
            time.sleep(0.2)
        yield ended
    finally:
        core.delete_namespaced_pod(name, plan.namespace)


def table(record: Record) -> str:
    """Return late requests and cost of each scaler."""
    return listed(record.rows, COLUMNS)


def picture(record: Record) -> Figure:
    """Return load by its end, p99 and replicas over the day, one column for each scaler."""
    made = Figure(layout="constrained", figsize=(3.2 * len(record.rows), 6.4))
    panels = made.subplots(3, len(record.rows), sharex=True, sharey="row", squeeze=False)
    for (load, latency, count), row in zip(panels.T, record.rows, strict=True):
        course = row["course"]
        minutes = [step["at"] / 60 for step in course]
        ends = [[step[end] / BUCKET for step in course] for end in ("good", "late", "failed")]
        colors, labels = ("#1769aa", "#d9822b", "#b3261e"), ("within the SLO", "late", "failed")
        load.stackplot(minutes, ends, colors=colors, labels=labels)
        load.set_title(f"{row['system']}\n{row['late']:.1%} late or failed", fontsize=10)
        latency.semilogy(minutes, [step["p99"] for step in course], color="#1769aa")
        latency.axhline(row["slo_latency"], color="#b3261e", lw=1)
        nominal = course[0]["cores"] / max(1.0, course[0]["ready"])
        count.step(
            minutes,
            [step["cores"] / nominal for step in course],
            where="post",
            color="#d9822b",
            lw=1,
            label="CPU they may use",
        )
        count.step(minutes, [step["ready"] for step in course], where="post", color="#1769aa", label="ready")
        cost = f"{row['replica_seconds']:,} replica-s, {row['cpu_seconds']:,.0f} CPU-s"
        count.set_xlabel(f"minutes\n{cost}", fontsize=9)
    panels[0][0].set_ylabel("requests/s")
    panels[1][0].set_ylabel("p99, seconds (red: SLO)")
    panels[2][0].set_ylabel("replicas")
    panels[1][0].yaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]))
    panels[1][0].yaxis.set_major_formatter("{x:g}")
    panels[1][0].yaxis.set_minor_formatter("")
    drawn = [
        pair
        for panel in (panels[0][0], panels[2][0])
        for pair in zip(*panel.get_legend_handles_labels(), strict=True)
    ]
    made.legend(
        *zip(*drawn, strict=True), loc="outside upper center", ncols=len(drawn), fontsize=9, frameon=False
    )
    return made
