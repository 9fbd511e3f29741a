"""Runs one replica: a watchdog process, supervised and probed.

Owns the replica's ports, temporary folder, environment and readiness. A replica is ready while ``/_/health``
and ``/_/ready`` both answer 200, as the kubelet would see it; only then does ``functions`` route to it.
Readiness never kills: a process is started again when it exits, not when it is slow.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from tailbound_lab.local.cgroups import CpuGroups, Group
from tailbound_lab.local.errors import InvalidRequestError
from tailbound_lab.local.ports import free_ports
from tailbound_lab.local.specs import FunctionSpec
from tailbound_lab.local.supervisor import Launch, Supervisor

STOP_GRACE: Final = 25.0
"""Seconds between SIGTERM and SIGKILL on scale-down: the watchdog drains in less."""

_STARTING_WEIGHT: Final = 0.1
"""Weight of a replica that starts: in a cluster it would not take the cores of those that serve."""
_PROBE_WHILE_STARTING: Final = 0.1
_PROBE_PERIOD: Final = 1.0
_PROBE_TIMEOUT: Final = aiohttp.ClientTimeout(total=2.0)
_FAILURE_THRESHOLD: Final = 3
_PROBED: Final = ("/_/health", "/_/ready")
_serial: Final = itertools.count(1)
_INHERITED: Final = (
    *("HOME", "LANG", "LC_ALL", "TZ", "PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
    "SSL_CERT_FILE",
)
"""Inherited variables. As in a container, a shell's own ``port`` or ``workers`` must not reach a function."""


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """Settings of all replicas: the command, the handler's folder, and the folder of temporary files."""

    command: Sequence[str]
    temporary: Path
    """A short path: the watchdog puts Unix sockets below it, whose paths are limited to 107 characters."""
    groups: CpuGroups | None


class Replica:
    """One replica; ``on_change`` is called when ``ready`` or the process has changed."""

    def __init__(
        self,
        spec: FunctionSpec,
        *,
        index: int,
        handler: Path,
        settings: ReplicaSettings,
        on_line: Callable[[str, str], None],
        on_change: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.index = index
        self.name = f"{spec.name}-{index}"
        self.ready = False
        self.draining = False
        self.outstanding = 0
        self.port = 0
        self.metrics_port = 0
        self.failed_starts = 0
        """Successive starts that ended before the replica was ready."""
        self._handler = handler
        self._settings = settings
        self._on_change = on_change
        self._came_up = False
        self._group: Group | None = None
        if spec.cpus is not None and settings.groups is not None:
            self._group = settings.groups.make(spec.cpus)
        self.cpus = None if self._group is None else spec.cpus
        """The CPU limit in force; None without one."""
        # A number, not the name: short, and different from an older replica that still drains.
        self._folder = settings.temporary / str(next(_serial))
        self._supervisor = Supervisor(
            f"{self.name}.{spec.namespace}",
            self._launch,
            lambda text: on_line(self.name, text),
            watch=self._probe,
            on_exit=self._exited,
        )
        # auto_decompress off: bodies pass unchanged. No limit: the watchdog limits its queue.
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    @property
    def pid(self) -> int | None:
        """The watchdog's process id, or None while it is not running."""
        return self._supervisor.pid

    @property
    def starts(self) -> int:
        """How often the process was started."""
        return self._supervisor.starts

    def start(self) -> None:
        """Start the process; the probes detect its readiness."""
        self._supervisor.start()

    def limit_cpus(self, cpus: float) -> None:
        """Change the CPU limit in place, as Kubernetes' ``pods/resize`` does.

        Raises ``InvalidRequestError`` for a replica without a limit, and where this machine has none.
        """
        if self._group is None:
            raise InvalidRequestError(f"{self.name}: has no CPU limit to change; set limits.cpu")
        self._group.limit(cpus)
        self.cpus = cpus

    async def stop(self, grace: float = STOP_GRACE) -> None:
        """Remove the replica from routing, let it drain, and return when it has ended."""
        self.draining = True
        self._set_ready(False)
        await self._supervisor.stop(grace)
        await self.session.close()
        if self._group is not None:
            await self._group.remove()
        shutil.rmtree(self._folder, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Return the complete environment of the process, as in a container of this function."""
        inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
        fprocess = {"fprocess": self.spec.env_process} if self.spec.env_process else {}
        return {
            **inherited,
            # The replica leaves routing before SIGTERM, so the health check need not fail first.
            "healthcheck_interval": "1s",
            "trust_start_time": "true",  # as in the template's image: the gateway writes X-Start-Time
            "PYTHONUNBUFFERED": "1",
            **fprocess,
            **self.spec.env_vars,
            "HOSTNAME": self.name,
            "TMPDIR": str(self._folder / "tmp"),
            "function_path": str(self._handler),
            "port": str(self.port),
            "metrics_port": str(self.metrics_port),
        }

    def _launch(self) -> Launch:
        self._came_up = False
        # New ports for every start: the old ones may still be in TIME_WAIT, or in use by another process.
        self.port, self.metrics_port = free_ports(2)
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / "tmp").mkdir(parents=True)
        cgroup = None
        if self._group is not None:
            self._group.weigh(_STARTING_WEIGHT)
            cgroup = self._group.processes
        return Launch(self._settings.command, self.environment(), self._handler.parent, cgroup)

    async def _probe(self) -> None:
        failures = 0
        while True:
            if await self._answers():
                failures = 0
                self._set_ready(not self.draining)
            else:
                failures += 1
                if failures >= _FAILURE_THRESHOLD:
                    self._set_ready(False)
            await asyncio.sleep(_PROBE_PERIOD if self.ready else _PROBE_WHILE_STARTING)

    async def _answers(self) -> bool:
        for path in _PROBED:
            # Anything but a 200 in time, including a refused connection, only means "not ready".
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                url = f"http://127.0.0.1:{self.port}{path}"
                async with self.session.get(url, timeout=_PROBE_TIMEOUT, allow_redirects=False) as answer:
                    await answer.read()
                    if answer.status == 200:
                        continue
            return False
        return True

    def _exited(self) -> None:
        if not self._came_up:
            self.failed_starts += 1
        self._set_ready(False)
        self._on_change()

    def _set_ready(self, ready: bool) -> None:
        if ready != self.ready:
            self.ready = ready
            if ready:
                if self._group is not None:
                    self._group.weigh(1.0)
                self._came_up = True
                self.failed_starts = 0
            self._on_change()
