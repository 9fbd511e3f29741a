"""Builds, starts and stops the platform, also in-process.

``async with open_platform(Settings(...)) as platform`` runs the same platform as ``local-openfaas up``, in
the running event loop, on free ports where a port is 0. No process outlives the block.
"""

import asyncio
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tailbound_lab.local.cgroups import CpuGroups
from tailbound_lab.local.errors import PlatformError, StackError, StartError
from tailbound_lab.local.functions import Images, Registry
from tailbound_lab.local.gateway import Gateway
from tailbound_lab.local.metrics import GatewayMetrics
from tailbound_lab.local.pods import Pods
from tailbound_lab.local.ports import free_ports
from tailbound_lab.local.provider import Provider
from tailbound_lab.local.proxy import Proxy
from tailbound_lab.local.replica import ReplicaSettings
from tailbound_lab.local.services import (
    AUTOSCALER_CONFIG,
    BASELINE_RULES,
    Service,
    autoscaler_port,
    autoscaler_service,
    page_url,
    prometheus_service,
)
from tailbound_lab.local.stack import parse_stack

WATCHDOG: Final = (sys.executable, "-m", "batching_watchdog")
_PROMETHEUS_START: Final = 30.0
_AUTOSCALER_START: Final = 30.0
_CHILD_GRACE: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a platform. A port of 0 chooses any free one."""

    stack: Path | None = None
    """Stack file whose functions are deployed at the start, and whose images become known."""
    only: frozenset[str] | None = None
    """Functions of the stack to deploy; None: all."""
    images: Mapping[str, Path] = field(default_factory=dict)
    port: int = 8080
    with_prometheus: bool = True
    prometheus_port: int = 9090
    baseline_rules: bool = False
    """Whether to load OpenFaaS CE's own alert rule, with which the demo compares."""
    with_autoscaler: bool = True
    """Whether to run the autoscaler, which needs Prometheus."""
    autoscaler_config: Path = AUTOSCALER_CONFIG
    cpu_limits: bool = False
    """Whether replicas have the CPU limits of their functions, by cgroups."""
    run_dir: Path | None = None
    """Folder of logs and Prometheus' data; None: a temporary one that a clean stop removes."""
    hold_timeout: float = 30.0
    """Seconds that a request waits for a first ready replica: enough to load a model."""
    stop_grace: float = 5.0
    """Seconds for the drain of replicas when the platform stops."""
    replica_command: Sequence[str] = WATCHDOG


class Platform:
    """The running platform; ``open_platform`` makes one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        _sweep_temporary()
        self._temporary = Path(tempfile.mkdtemp(prefix=f"lof-{os.getpid()}-"))
        self.run_dir = settings.run_dir or self._temporary / "run"
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            shutil.rmtree(self._temporary)
            raise StartError(f"{self.run_dir}: cannot be made a folder: {error.strerror}") from None
        self._groups = CpuGroups() if settings.cpu_limits else None
        self.images = Images()
        self.registry = Registry(
            self.images,
            ReplicaSettings(tuple(settings.replica_command), self._temporary, self._groups),
            self.log_dir,
        )
        self.metrics = GatewayMetrics(
            lambda: ((function.spec.full_name, function.desired) for function in self.registry)
        )
        self.gateway_url = ""
        self.prometheus_url: str | None = None
        self.prometheus: Service | None = None
        self.autoscaler: Service | None = None
        self.autoscaler_url: str | None = None
        self.page_url: str | None = None
        self._gateway: Gateway | None = None

    @property
    def boosts(self) -> bool:
        """Whether the autoscaler can change the CPU limits of replicas."""
        return self._groups is not None and self._groups.available

    @property
    def log_dir(self) -> Path:
        """Folder with one folder per function, and the files of Prometheus and the autoscaler."""
        return self.run_dir / "logs"

    async def start(self) -> None:
        """Listen, deploy the stack, then start Prometheus and the autoscaler and wait for those two.

        Raises ``PlatformError`` for failures that the user can fix.
        """
        settings = self.settings
        if settings.with_autoscaler and not settings.with_prometheus:
            raise StartError("the autoscaler needs Prometheus: switch both off, or neither")
        _raise_file_limit()
        for image, folder in settings.images.items():
            self.images.add(image, folder)
        provider = Provider(self.registry, self.metrics)
        proxy = Proxy(self.registry, self.metrics, hold_timeout=settings.hold_timeout)
        self._gateway = Gateway(provider, proxy, Pods(self.registry))
        gateway = f"127.0.0.1:{await self._gateway.start(settings.port)}"
        self.gateway_url = f"http://{gateway}"
        if settings.stack is not None:
            self._deploy_stack(settings.stack)
        if settings.with_prometheus:
            await self._start_monitoring(gateway)

    async def stop(self) -> None:
        """Stop everything within a time limit, each part before those that it needs."""
        services = (service for service in (self.autoscaler, self.prometheus) if service is not None)
        await asyncio.gather(*(service.stop(_CHILD_GRACE) for service in services))
        if self._gateway is not None:
            await self._gateway.stop()
        await self.registry.close(self.settings.stop_grace)
        if self._groups is not None:
            self._groups.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _deploy_stack(self, path: Path) -> None:
        """Deploy the functions of a stack file; returns at once. Raises ``StackError``."""
        folder = path.resolve().parent
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise StackError(f"{path}: cannot be read: {error}") from None
        functions = parse_stack(text, os.environ, lambda name: (folder / name).read_text(), str(path))
        for item in functions:
            if self.settings.only is not None and item.spec.name not in self.settings.only:
                continue
            try:
                self.images.add(item.spec.image, folder / item.handler)
                self.registry.deploy(item.spec)
            except PlatformError as error:
                raise StackError(f"{path}: {item.spec.name}: {error}") from None

    async def settled(self) -> None:
        """Return when every function has exactly the desired replicas, all ready."""
        await asyncio.gather(*(function.settled() for function in self.registry))

    async def _start_monitoring(self, gateway: str) -> None:
        settings = self.settings
        own_port = None
        if settings.with_autoscaler:
            own_port = autoscaler_port(settings.autoscaler_config)
        port = settings.prometheus_port or free_ports(1)[0]
        self.prometheus_url = f"http://127.0.0.1:{port}"
        self.prometheus = prometheus_service(
            self.run_dir,
            port,
            gateway=gateway,
            autoscaler=f"127.0.0.1:{own_port}" if own_port is not None else None,
            rules=(BASELINE_RULES,) if settings.baseline_rules else (),
        )
        await self.prometheus.start(_PROMETHEUS_START)
        if own_port is not None:
            self.autoscaler_url = f"http://127.0.0.1:{own_port}"
            self.autoscaler = autoscaler_service(
                settings.autoscaler_config,
                own_port,
                self.run_dir,
                gateway_url=self.gateway_url,
                prometheus_url=self.prometheus_url,
                boosts=self.boosts,
            )
            await self.autoscaler.start(_AUTOSCALER_START)
            self.page_url = await page_url(self.autoscaler.log_file)


@asynccontextmanager
async def open_platform(settings: Settings) -> AsyncIterator[Platform]:
    """Run the platform for the duration of the block."""
    platform = Platform(settings)
    try:
        await platform.start()
        yield platform
    finally:
        await platform.stop()


def _sweep_temporary() -> None:
    """Remove the folders of killed platforms."""
    for folder in Path(tempfile.gettempdir()).glob("lof-*-*"):
        pid = folder.name.split("-")[1]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _raise_file_limit() -> None:
    """Raise the limit on open files: every invocation holds two connections, and 1024 is a common limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
