"""Reads the limits of this container: CPUs (affinity and cgroup quota), CUDA devices and open files.

Also the time for which this process waited for a CPU.

Owns the access to the kernel's files; ``config`` derives ``auto`` from them. Imports no model library, since
the front end must not load one. Every path is below ``root``, so that tests can replace it.
"""

import mmap
import os
import re
import resource
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

ROOT: Final = Path("/")
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that limit the threads of math libraries."""
MOST_FILES: Final = 1 << 20
"""Open files without a limit: Linux' default maximum for one process."""
_MOUNTS: Final = {
    "": ("", "unified"),
    "cpu": ("cpu", "cpu,cpuacct", "cpuacct,cpu"),
    "memory": ("memory",),
}
"""Where a controller of cgroup v1 is mounted; "": v2."""
_OOM_KILL: Final = re.compile(r"\boom_kill (\d+)", re.ASCII)
_DEVICE: Final = re.compile(r"nvidia\d+", re.ASCII)
_ORDINAL: Final = re.compile(r"\d+", re.ASCII)
_UUID_PREFIXES: Final = ("GPU-", "MIG-")


def available_cpus(root: Path = ROOT) -> float:
    """Return the CPUs of this process: its affinity, or the cgroup's quota (v2 or v1) if that is less."""
    cpus = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = cpu_quota(root)
    return cpus if quota is None else min(cpus, quota)


class RunDelay:
    """The time for which the main thread of this process could run and had no CPU.

    A quota or a neighbor took it.
    """

    def __init__(self, root: Path = ROOT) -> None:
        """Open the file of the process that calls this, which stays open: a reading takes 2 us."""
        self._file = -1
        with suppress(OSError):  # gVisor has none
            self._file = os.open(root / "proc/self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def seconds(self) -> float:
        """Return the seconds since the start of the process; 0 where the kernel does not count them."""
        try:
            return int(os.pread(self._file, 64, 0).split()[1]) * 1e-9
        except (OSError, IndexError, ValueError):
            return 0.0


def open_files() -> int:
    """Raise the limit on open files to the maximum of this process, as Go's programs do; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return the least CPU quota of this process's cgroup and its ancestors; None without a quota."""
    files = [[folder / "cpu.max"] for folder in _folders(root, "")]
    files += [[folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"] for folder in _folders(root, "cpu")]
    pairs = [_numbers(*both) for both in files]
    return min((pair[0] / pair[1] for pair in pairs if len(pair) == 2 and pair[1]), default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Return the least memory limit of this process's cgroup and its ancestors, in bytes; None: no limit."""
    files = [folder / "memory.max" for folder in _folders(root, "")]
    files += [folder / "memory.limit_in_bytes" for folder in _folders(root, "memory")]
    # Without a limit, v1 has a number close to 2**63.
    return min((limit for file in files for limit in _numbers(file) if limit < 1 << 60), default=None)


def resident_bytes(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Return the resident bytes of a process; None if it has ended, or without a proc file system."""
    try:
        return int((proc / str(pid) / "statm").read_text().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
        return None


def oom_kills(root: Path = ROOT) -> int:
    """Return the processes of this cgroup that the kernel has ended for lack of memory; 0 if unknown."""
    files = [folder / "memory.events" for folder in _folders(root, "")]
    files += [folder / "memory.oom_control" for folder in _folders(root, "memory")]
    counts = (_OOM_KILL.search(" ".join(_words(file))) for file in files)
    return next((int(count[1]) for count in counts if count), 0)


def _words(*files: Path) -> list[str]:
    """Return the words of all files; none if one of them cannot be read."""
    try:
        return [word for file in files for word in file.read_text().split()]
    except OSError:
        return []


def _numbers(*files: Path) -> list[int]:
    """Return those of the words that are numbers: no limit is ``max`` or -1."""
    return [int(word) for word in _words(*files) if word.isdecimal()]


def cuda_devices(environ: Mapping[str, str], root: Path = ROOT) -> tuple[str, ...]:
    """Return the CUDA devices that a worker would see, in the names of ``CUDA_VISIBLE_DEVICES``.

    As in CUDA, the list of ``CUDA_VISIBLE_DEVICES`` ends at the first entry that is no device. Without it the
    device nodes count. ``NVIDIA_VISIBLE_DEVICES`` names no number: with CDI it is ``void``, and a DRA driver
    or the device plugin may set it to a path. The driver's list in /proc has the devices of the whole host.
    """
    nodes = sum(_DEVICE.fullmatch(name) is not None for name in _names(root / "dev"))
    devices = nodes or int((root / "dev/dxg").exists())  # the driver of WSL has no nodes
    if not devices:
        return ()
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(_until_invalid(chosen))
    if environ.get("NVIDIA_VISIBLE_DEVICES", "").strip() == "none":
        return ()
    return tuple(map(str, range(devices)))  # numbered from 0, regardless of their names outside


def _until_invalid(chosen: str) -> Iterator[str]:
    seen = set()
    for name in map(str.strip, chosen.split(",")):
        if not (_ORDINAL.fullmatch(name) or name.startswith(_UUID_PREFIXES)) or name in seen:
            return
        seen.add(name)
        yield name


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup with ``controller`` ("" for v2), from leaf to root.

    In a container the path may be the host's, which is not mounted: then only the existing folder counts,
    the container's own root.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    path = PurePosixPath("/")
    for line in lines:
        _, controllers, where = line.split(":", 2) if line.count(":") >= 2 else ("", "?", "/")
        if controller in controllers.split(","):
            path = PurePosixPath(where)
            break
    for mount in _MOUNTS[controller]:
        top = root / "sys/fs/cgroup" / mount
        for group in (path, *path.parents):
            if ".." not in group.parts:  # above the root of our cgroup namespace
                yield top / group.relative_to("/")
