"""Limits the CPUs of replicas by cgroups (v1 or v2), where this machine allows it: on Linux, as root.

Owns one folder in the kernel's hierarchy per platform, with one group per replica. ``child`` enters the group
before it becomes the watchdog, so that every descendant is in it.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

ROOT: Final = Path("/sys/fs/cgroup")
_VERSION_1: Final = ("cpu", "cpu,cpuacct", "cpuacct,cpu")
"""Where the controller of version 1 is mounted."""
_PREFIX: Final = "tailbound-"
_PERIOD: Final = 100_000
"""Microseconds over which the kernel grants a quota: Kubernetes' own."""
_LEAST_QUOTA: Final = 1000
"""Microseconds: the kernel takes no less."""
_WEIGHT_1: Final = 1024
_WEIGHT_2: Final = 100
"""The kernel's default weights, of version 1 and 2."""
_END: Final = 2.0
"""Seconds for the descendants of a killed process to end."""
_serial: Final = count(1)


class Group:
    """The cgroup of one replica."""

    def __init__(self, folder: Path, *, version_2: bool) -> None:
        self._folder = folder
        self._version_2 = version_2

    @property
    def processes(self) -> Path:
        """File into which a process writes its id to enter."""
        return self._folder / "cgroup.procs"

    def limit(self, cpus: float) -> None:
        """Allow ``cpus`` from now on."""
        quota = max(_LEAST_QUOTA, round(cpus * _PERIOD))
        if self._version_2:
            (self._folder / "cpu.max").write_text(f"{quota} {_PERIOD}")
        else:
            (self._folder / "cpu.cfs_quota_us").write_text(str(quota))

    def weigh(self, weight: float) -> None:
        """Set the weight against other groups where CPU is short; 1: that of a new group."""
        if self._version_2:
            (self._folder / "cpu.weight").write_text(str(round(_WEIGHT_2 * weight)))
        else:
            (self._folder / "cpu.shares").write_text(str(round(_WEIGHT_1 * weight)))

    async def remove(self) -> None:
        """Remove it, once its last process has ended; else the next platform removes it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END):
                while not _removed(self._folder):  # noqa: ASYNC110 - version 1 has no event for it
                    await asyncio.sleep(0.05)


class CpuGroups:
    """The cgroups of a platform's replicas."""

    def __init__(self, root: Path = ROOT) -> None:
        """Remove what killed platforms have left; ``root``: where cgroups are mounted."""
        self._root = root
        self._folder: Path | None = None
        self._unavailable = False
        for mount in _mounts(root):
            for folder in mount.glob(f"{_PREFIX}*"):
                if not Path(f"/proc/{folder.name.split('-')[1]}").exists():
                    _remove_all(folder)

    def make(self, cpus: float) -> Group | None:
        """Return a new group with this limit, or None where that is not possible: the log says so once."""
        if self._unavailable:
            return None
        try:
            if self._folder is None:
                self._folder = _make_folder(self._root)
            folder = self._folder / str(next(_serial))
            folder.mkdir()
            group = Group(folder, version_2=folder.parents[1] == self._root)
            group.limit(cpus)
        except OSError as error:
            self._unavailable = True
            _log.warning("limits.cpu has no effect here, which takes Linux, root and cgroups: %s", error)
            return None
        return group

    @property
    def available(self) -> bool:
        """Whether a group could be made."""
        return self._folder is not None and not self._unavailable

    def close(self) -> None:
        """Remove the folder; every replica has ended."""
        if self._folder is not None:
            _remove_all(self._folder)


def _make_folder(root: Path) -> Path:
    """Make the folder of this process below the first mount that has the controller ``cpu``."""
    mount = next(_mounts(root), None)
    if mount is None:
        raise FileNotFoundError(f"{root} has no controller cpu")
    folder = mount / f"{_PREFIX}{os.getpid()}-{next(_serial)}"
    if mount == root:
        (root / "cgroup.subtree_control").write_text("+cpu")
    folder.mkdir()
    if mount == root:
        (folder / "cgroup.subtree_control").write_text("+cpu")
    return folder


def _mounts(root: Path) -> Iterator[Path]:
    """Yield the folders with the controller: of version 1, then ``root`` itself with version 2."""
    for name in _VERSION_1:
        if (root / name / "cgroup.procs").exists():
            yield root / name
    with contextlib.suppress(OSError):
        if "cpu" in (root / "cgroup.controllers").read_text().split():
            yield root


def _remove_all(folder: Path) -> None:
    for group in (*filter(Path.is_dir, folder.glob("*")), folder):
        _removed(group)


def _removed(folder: Path) -> bool:
    """Remove an empty group; False while it has processes."""
    try:
        folder.rmdir()
    except OSError:
        return not folder.exists()
    return True
