import mmap
import os
import resource
from pathlib import Path

import pytest

from batching_watchdog.process.machine import (
    RunDelay,
    available_cpus,
    cpu_quota,
    cuda_devices,
    memory_limit,
    oom_kills,
    open_files,
    resident_bytes,
)


def test_resident_memory_is_read_in_bytes_and_a_process_that_has_gone_has_none(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "statm").write_text("900 100 50 1 0 300 0\n")
    assert resident_bytes(7, tmp_path) == 100 * mmap.PAGESIZE
    assert resident_bytes(8, tmp_path) is None


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_as_many_files_may_be_open_as_the_hard_limit_allows():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, before[1]), before[1]))
        assert open_files() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


CGROUP = "sys/fs/cgroup"


def version_2(own: str, **limits: str) -> dict[str, str]:
    """The files of a process in this group, with the limits of groups by path, ``_`` for a slash."""
    paths = {f"{CGROUP}/{name.replace('_', '/')}/cpu.max": f"{text}\n" for name, text in limits.items()}
    return {"proc/self/cgroup": f"0::{own}\n", **paths}


def version_1(groups: str, path: str, quota: str, period: str = "100000") -> dict[str, str]:
    folder = f"{CGROUP}/{path}/cpu.cfs"
    return {
        "proc/self/cgroup": groups,
        f"{folder}_quota_us": f"{quota}\n",
        f"{folder}_period_us": f"{period}\n",
    }


V1 = "4:cpu:/outer/inner\n0::/\n"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        pytest.param({}, None, id="no files at all"),
        pytest.param(version_2("/", _="150000 100000"), 1.5, id="v2, container"),
        pytest.param(version_2("/", _="max 100000"), None, id="v2, no limit"),
        pytest.param(
            version_2("/k/pod/leaf", k_pod_leaf="max 100000", k_pod="50000 100000", k="400000 100000"),
            0.5,
            id="v2, nested: the parent's is less",
        ),
        pytest.param(
            version_2("/a/b", a_b="300000 100000", a_c="100000 100000"), 3.0, id="v2, not a sibling's"
        ),
        pytest.param(version_2("/../../pod/leaf", _="250000 100000"), 2.5, id="v2, from outside"),
        pytest.param(version_2("/", _="torn"), None, id="v2, not understood"),
        pytest.param(version_2("/", _="100000 0"), None, id="v2, a period of zero"),
        pytest.param({"proc/self/cgroup": "nonsense\n"}, None, id="no groups"),
        pytest.param(
            version_1("5:cpu,cpuacct:/docker/a\n1:name=systemd:/x\n", "cpu,cpuacct", "75000", "50000"),
            1.5,
            id="v1, container: the host's path is not mounted",
        ),
        pytest.param(
            version_1(V1, "cpu/outer/inner", "-1") | version_1(V1, "cpu/outer", "200000"),
            2.0,
            id="v1, nested: no limit of its own",
        ),
    ],
)
def test_quota_is_the_least_of_the_cgroup_and_those_above_it(tmp_path, files, quota):
    assert cpu_quota(write(tmp_path, files)) == quota


def test_quota_counts_only_below_what_the_affinity_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    assert available_cpus(tmp_path) == 3.0
    assert available_cpus(write(tmp_path, {f"{CGROUP}/cpu.max": "120000 100000"})) == 1.2
    assert available_cpus(write(tmp_path, {f"{CGROUP}/cpu.max": "900000 100000"})) == 3.0


LIMIT = "memory.limit_in_bytes"
EVENTS = "low 0\nhigh 3\noom 5\noom_kill 4\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"


@pytest.mark.parametrize(
    ("group", "files", "limit", "kills"),
    [
        pytest.param("0::/", {}, None, 0, id="no files at all"),
        pytest.param("0::/", {"memory.max": "max"}, None, 0, id="v2, no limit"),
        pytest.param("0::/", {"memory.max": "268435456", "memory.events": EVENTS}, 1 << 28, 4, id="v2"),
        pytest.param(
            "0::/pod/a", {"pod/a/memory.max": "max", "pod/memory.max": "1024"}, 1024, 0, id="v2, nested"
        ),
        pytest.param(
            "0::/../host", {"memory.max": "torn", "memory.events": "oom_kill"}, None, 0, id="v2, torn"
        ),
        pytest.param(
            "4:memory:/host", {f"memory/{LIMIT}": "9223372036854771712"}, None, 0, id="v1, no limit"
        ),
        pytest.param(
            "4:memory:/docker/a\n0::/",
            {f"memory/{LIMIT}": "268435456", "memory/memory.oom_control": CONTROL},
            1 << 28,
            7,
            id="v1, container: the host's path is not mounted",
        ),
    ],
)
def test_memory_is_limited_and_its_lack_counted_by_the_cgroup_of_either_version(
    tmp_path, group, files, limit, kills
):
    write(tmp_path, {"proc/self/cgroup": f"{group}\n"})
    write(tmp_path, {f"{CGROUP}/{name}": f"{text}\n" for name, text in files.items()})
    assert (memory_limit(tmp_path), oom_kills(tmp_path)) == (limit, kills)


def gpus(root: Path, count: int) -> Path:
    nodes = [f"nvidia{number}" for number in range(count)] + ["nvidiactl", "nvidia-uvm"]
    return write(root, {f"dev/{name}": "" for name in nodes})


@pytest.mark.parametrize(
    ("environ", "devices"),
    [
        ({}, ("0", "1", "2", "3")),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, ("0", "1", "2", "3")),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, ()),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, ("0", "1", "2", "3")),
        ({"NVIDIA_VISIBLE_DEVICES": "/var/run/nvidia-container-devices"}, ("0", "1", "2", "3")),
        ({"CUDA_VISIBLE_DEVICES": "2,0", "NVIDIA_VISIBLE_DEVICES": "all"}, ("2", "0")),
        ({"CUDA_VISIBLE_DEVICES": "GPU-aa, MIG-bb"}, ("GPU-aa", "MIG-bb")),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ()),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, ("0",)),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ()),
    ],
)
def test_devices_are_what_the_variables_leave_visible(tmp_path, environ, devices):
    assert cuda_devices(environ, gpus(tmp_path, 4)) == devices
    # Base images set these variables on machines without a GPU too.
    assert cuda_devices(environ, tmp_path / "without a driver") == ()


@pytest.mark.parametrize(("nodes", "devices"), [((), ()), (("nvidia2",), ("0",)), (("dxg",), ("0",))])
def test_devices_are_those_of_this_container_and_not_all_of_the_host(tmp_path, nodes, devices):
    for number in range(4):
        (tmp_path / f"proc/driver/nvidia/gpus/0000:0{number}:00.0").mkdir(parents=True)
    write(tmp_path, {f"dev/{name}": "" for name in nodes})
    assert cuda_devices({}, tmp_path) == devices


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1490320 2275836000 2\n", 2.275836), ("0 0 0\n", 0.0), ("", 0.0), (None, 0.0)],
    ids=["Linux", "not counted", "empty", "gVisor"],
)
def test_run_delay_is_the_kernels_and_none_where_it_does_not_count(tmp_path, text, seconds):
    write(tmp_path, {} if text is None else {"proc/self/schedstat": text})
    assert RunDelay(tmp_path).seconds() == pytest.approx(seconds)
