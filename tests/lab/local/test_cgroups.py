"""Replicas with a CPU limit that changes while they run: the real watchdog in a real cgroup."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle, islice
from pathlib import Path

import pytest

from lab.local.harness import Client, on_platform, until
from slo_autoscaler.kube.resize import Resizer
from slo_autoscaler.kube.resize_rules import CpuBoost
from support.kube_server import write_kubeconfig
from tailbound_lab.local.cgroups import ROOT, CpuGroups
from tailbound_lab.local.errors import InvalidRequestError
from tailbound_lab.local.platform import WATCHDOG
from tailbound_lab.local.replica import Replica


def unavailable() -> bool:
    groups = CpuGroups()
    group = groups.make(1.0)
    groups.close()
    return group is None


limited = pytest.mark.skipif(unavailable(), reason="takes Linux, root and cgroups")
HALF = {"limits": {"cpu": "500m"}, "envVars": {"slo_latency": "20s"}}


@asynccontextmanager
async def traffic(client: Client, clients: int, pause: float = 0.0) -> AsyncIterator[list[int]]:
    """Call the function again and again; give the statuses, all there are once the block has ended."""
    statuses: list[int] = []
    stopped = False

    async def call() -> None:
        while not stopped:
            statuses.append((await client.call("POST", "/function/echo", data=b"x")).status)
            await asyncio.sleep(pause)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(call())
        try:
            yield statuses
        finally:
            stopped = True


async def metric(client: Client, replica: Replica, name: str) -> float:
    async with client.session.get(f"http://127.0.0.1:{replica.metrics_port}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


async def has_workers(client: Client, replica: Replica, count: int) -> None:
    """Return when that many workers serve."""
    while (  # noqa: ASYNC110 - another process
        await metric(client, replica, "watchdog_workers{"),
        await metric(client, replica, 'watchdog_workers{state="starting"}'),
    ) != (count, 0.0):
        await asyncio.sleep(0.05)


async def has_capacity_of(client: Client, replica: Replica, cpus: float) -> None:
    """Return when the capacity is that of ``cpus``: it is estimated every few seconds."""
    while await metric(client, replica, "watchdog_capacity_cores") != cpus:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


@pytest.mark.e2e
@limited
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two cores")
@on_platform(replica_command=WATCHDOG, cpu_limits=True)
async def test_replica_whose_limit_changes_under_load_follows_it_and_answers_everything(client):
    await client.deploy(**HALF)
    (replica,) = client.function.replicas
    async with traffic(client, 4) as statuses:
        for cpus, workers in ((0.5, 1), (1.5, 2), (0.5, 1)):
            replica.limit_cpus(cpus)
            await has_workers(client, replica, workers)
            await has_capacity_of(client, replica, cpus)
            answered = len(statuses)
            await until(lambda before=answered: len(statuses) > before + 100)
    assert set(statuses) == {200}
    assert replica.starts == 1
    assert await metric(client, replica, "watchdog_worker_restarts_total") == 0


@pytest.mark.e2e
@limited
@on_platform(replica_command=WATCHDOG, cpu_limits=True)
async def test_limit_that_changes_200_times_restarts_nothing_and_leaves_no_memory(client):
    await client.deploy(**HALF)
    (replica,) = client.function.replicas
    sizes = []
    async with traffic(client, 2, pause=0.01) as statuses:
        for number, cpus in enumerate(islice(cycle((1.5, 0.5)), 200)):
            replica.limit_cpus(cpus)
            await asyncio.sleep(0.1)
            if number in (20, 199):
                sizes.append(await metric(client, replica, "process_resident_memory_bytes"))
    assert set(statuses) == {200}
    assert replica.starts == 1
    assert await metric(client, replica, "watchdog_worker_restarts_total") == 0
    assert sizes[1] - sizes[0] < 4 << 20


@limited
@on_platform(cpu_limits=True)
async def test_autoscaler_that_boosts_changes_the_limit_and_takes_it_back(client):
    await client.deploy(**HALF, labels={"tailbound.dev/boost": ""})
    (replica,) = client.function.replicas
    kubeconfig = write_kubeconfig(client.platform.run_dir, {"server": client.platform.gateway_url}, {})
    resizer = Resizer(
        *((kubeconfig, None, None), [client.function.spec.namespace], lambda: True),
        timeout=5.0,
        concurrency=2,
        wanted=True,
    )
    try:
        for factor, cpus in ((3.0, 1.5), (1.0, 0.5)):
            resizer.boost({client.function.spec.full_name: CpuBoost(factor, max_cpu=2.0)})
            await until(lambda limit=cpus: replica.cpus == limit)
    finally:
        await asyncio.to_thread(resizer.close)


@limited
@on_platform(cpu_limits=True)
async def test_group_of_a_replica_is_gone_with_it_and_one_without_a_limit_has_none(client):
    await client.deploy(**HALF)
    await client.deploy(service="free")
    limited, free = (function.replicas[0] for function in client.platform.registry)
    assert len(groups_of(limited.pid)) == 1
    assert groups_of(free.pid).isdisjoint(groups_of(limited.pid))
    with pytest.raises(InvalidRequestError, match="CPU limit"):
        free.limit_cpus(1.0)
    assert await client.scale(0) == 202
    await client.platform.settled()
    assert not list(ROOT.glob(f"**/tailbound-{os.getpid()}-*/*/"))


def groups_of(pid: int | None) -> set[str]:
    """Return the groups of ours in which a process is."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {line.rpartition(":")[2] for line in lines if "tailbound-" in line}


def test_limit_is_written_as_version_2_reads_it_where_that_has_the_controller(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory\n")
    group = CpuGroups(tmp_path).make(0.5)
    assert group is not None
    group.limit(1.25)
    assert (group.processes.parent / "cpu.max").read_text() == "125000 100000"
    group.weigh(0.1)
    assert (group.processes.parent / "cpu.weight").read_text() == "10"
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"


def test_limits_without_cgroups_are_named_once_and_replicas_run_without(tmp_path, caplog):
    groups = CpuGroups(tmp_path)
    assert [groups.make(1.0), groups.make(1.0)] == [None, None]
    assert caplog.text.count("limits.cpu has no effect here") == 1
