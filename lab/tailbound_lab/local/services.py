"""Runs the programs beside the functions: the real Prometheus and the production autoscaler, as children.

Owns their start on this run's addresses: supervised, logged to a file, awaited. The configurations are the
repository's own; only addresses and paths are replaced.
"""

import asyncio
import json
import os
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import yaml

from slo_autoscaler.config import read_web
from slo_autoscaler.errors import ConfigError
from tailbound_lab.local.errors import StartError
from tailbound_lab.local.logs import LogFile
from tailbound_lab.local.ports import free_ports, is_taken
from tailbound_lab.local.supervisor import Launch, Supervisor

_LAB: Final = Path(__file__).resolve().parents[2]
AUTOSCALER_CONFIG: Final = _LAB / "autoscaler.yaml"
_PROMETHEUS_FOLDER: Final = _LAB / "prometheus"
_PROMETHEUS_CONFIG: Final = "prometheus.yml"
BASELINE_RULES: Final = "openfaas-baseline.yml"

MAX_BOOST: Final = 3.0
"""Maximum CPU limit of a replica as a multiple of its nominal one."""

_RETENTION: Final = "6h"
_LAST_LINES: Final = 8
_POLL: Final = 0.1
_PAGE_PATIENCE: Final = 3.0
_STARTED: Final = re.compile(r"/healthz and /decisions on \S+(?: status page on (?P<page>[^\s;\"]+))?")


class Service:
    """One such program; ``ready_url`` answers 200 once it is usable."""

    def __init__(self, name: str, launch: Callable[[], Launch], log_file: Path, ready_url: str) -> None:
        self.name = name
        self.log_file = log_file
        self._ready_url = ready_url
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._log = LogFile(log_file)
        self._supervisor = Supervisor(name, launch, self._write, on_exit=self._exited)
        self._exits = 0

    @property
    def pid(self) -> int | None:
        """The program's process id, or None while it is not running."""
        return self._supervisor.pid

    @property
    def starts(self) -> int:
        """Number of its starts."""
        return self._supervisor.starts

    async def start(self, timeout: float) -> None:  # noqa: ASYNC109 - the poll below has its own deadline
        """Start it, for the first time or after a ``stop``, and return once it is ready.

        Raises ``StartError`` with its last output if it exits, or is not ready within ``timeout`` seconds;
        also if another program has its port, whose answers would pass for its own.
        """
        port = urlsplit(self._ready_url).port
        if port is not None and is_taken(port):
            fault = f"cannot listen on 127.0.0.1:{port}: another program has the port"
            raise StartError(f"{self.name}: {fault}; port 0 takes a free one")
        self._exits = 0
        self._supervisor.start()
        deadline = time.monotonic() + timeout
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
            while not await _is_ready(session, self._ready_url):
                if self._exits or time.monotonic() > deadline:
                    words = "\n  ".join(self._last) or "(nothing)"
                    fault = "does not start" if self._exits else f"is not ready after {timeout:g} s"
                    raise StartError(f"{self.name} {fault}; its log is {self.log_file}; it said:\n  {words}")
                await asyncio.sleep(_POLL)

    async def stop(self, grace: float) -> None:
        """Stop it; return when it has ended."""
        await self._supervisor.stop(grace)
        self._log.close()

    def _exited(self) -> None:
        self._exits += 1

    def _write(self, line: str) -> None:
        self._last.append(line)
        self._log.write(line)


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def prometheus_service(
    run_dir: Path, port: int, *, gateway: str, autoscaler: str | None, rules: Sequence[str] = ()
) -> Service:
    """Write the configuration and return the supervised program; a restart keeps its data.

    ``gateway`` and ``autoscaler`` are ``host:port``; None has no scrape job. ``rules`` are loaded too. Raises
    ``StartError`` if the program is not installed.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise StartError(
            "prometheus is not installed: `apt-get install prometheus`, or `make install`; or run without it "
            "(--no-prometheus --no-autoscaler)"
        )
    document = yaml.safe_load((_PROMETHEUS_FOLDER / _PROMETHEUS_CONFIG).read_text())
    jobs = {job["job_name"]: job for job in document["scrape_configs"]}
    for config in jobs["functions"]["http_sd_configs"]:
        config["url"] = f"http://{gateway}/sd/replicas"
    jobs["gateway"]["static_configs"] = [{"targets": [gateway]}]
    jobs["autoscaler"]["static_configs"] = [{"targets": [autoscaler]}]
    if autoscaler is None:
        del jobs["autoscaler"]
    document["scrape_configs"] = list(jobs.values())
    document["rule_files"] = [str(_PROMETHEUS_FOLDER / rule) for rule in (*document["rule_files"], *rules)]
    config_file = run_dir / _PROMETHEUS_CONFIG
    config_file.write_text(yaml.safe_dump(document, sort_keys=False))
    data = run_dir / "prometheus"
    # A run starts empty: samples of an earlier run would count as its history.
    shutil.rmtree(data, ignore_errors=True)
    command = (
        program,
        f"--config.file={config_file}",
        f"--storage.tsdb.path={data}",
        f"--storage.tsdb.retention.time={_RETENTION}",
        # Never on another address: only the platform's own user needs it.
        f"--web.listen-address=127.0.0.1:{port}",
        # By default it discovers new targets every 5 s: long, when a peak lasts a minute.
        "--scrape.discovery-reload-interval=1s",
        "--log.level=warn",
    )
    return Service(
        "prometheus",
        # Debian's build looks for its console templates and default options in the environment too.
        lambda: Launch(command, os.environ),
        run_dir / "logs" / "prometheus.log",
        f"http://127.0.0.1:{port}/-/ready",
    )


def autoscaler_port(path: Path) -> int:
    """Return the configured port of the autoscaler's own metrics, else a free one.

    Raises ``StartError`` if the file cannot be read; the autoscaler checks the rest of its content.
    """
    try:
        return read_web(str(path)).port or free_ports(1)[0]
    except ConfigError as error:
        raise StartError(f"autoscaler: {error}") from None


def autoscaler_service(
    path: Path,
    port: int,
    run_dir: Path,
    *,
    gateway_url: str,
    prometheus_url: str,
    boosts: bool,
) -> Service:
    """Return the supervised program; ``logs/autoscaler.log`` has its decisions, one JSON object per line.

    With ``boosts`` it resizes replicas as pods of the Kubernetes API that the gateway's port serves.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if boosts:
        document = yaml.safe_load(path.read_text())
        environment["KUBECONFIG"] = str(run_dir / "kubeconfig")
        (run_dir / "kubeconfig").write_text(json.dumps(_kubeconfig(gateway_url)))
        document["defaults"] = {"boost": {"max_factor": MAX_BOOST}, **document.get("defaults", {})}
        path = run_dir / "autoscaler.yaml"
        path.write_text(yaml.safe_dump(document))
    command = (
        *(sys.executable, "-m", "slo_autoscaler", "--config", str(path), "--decision-log"),
        *("--web-port", str(port), "--gateway-url", gateway_url, "--prometheus-url", prometheus_url),
    )
    return Service(
        "autoscaler",
        lambda: Launch(command, environment),
        run_dir / "logs" / "autoscaler.log",
        f"http://127.0.0.1:{port}/healthz",
    )


def _kubeconfig(server: str) -> dict[str, object]:
    name = "local"
    return {
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "clusters": [{"name": name, "cluster": {"server": server}}],
        "users": [{"name": name, "user": {}}],
    }


async def page_url(log: Path) -> str | None:
    """Return the URL of the autoscaler's status page from the log of its last start; None without a page.

    If its port is taken, the autoscaler runs without a page.
    """
    for _ in range(round(_PAGE_PATIENCE / _POLL)):
        if said := _starts(log):
            return said[-1]["page"]
        await asyncio.sleep(_POLL)
    return None


def _starts(log: Path) -> list[re.Match[str]]:
    return list(_STARTED.finditer(log.read_text(errors="replace"))) if log.exists() else []
