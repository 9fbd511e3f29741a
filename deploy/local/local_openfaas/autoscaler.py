"""The autoscaler child: the production program, pointed at this platform by its command line.

Owns only its start: nothing in the autoscaler knows that it runs here.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from local_openfaas.errors import StartError
from local_openfaas.ports import free_ports
from local_openfaas.service import Service
from local_openfaas.supervisor import Launch

DEFAULT_CONFIG: Final = Path(__file__).resolve().parents[1] / "autoscaler.yaml"


@dataclass(frozen=True, slots=True)
class AutoscalerConfig:
    """The configuration file to start with, and the port of its metrics."""

    path: Path
    port: int


def autoscaler_config(path: Path, run_dir: Path, *, any_port: bool) -> AutoscalerConfig:
    """The file as it is; or, with ``any_port`` or if it names no port, a copy that names a free one.

    Raises ``StartError`` if it cannot be read; the autoscaler itself checks the rest.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise StartError(f"autoscaler: {path}: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise StartError(f"autoscaler: {path}: must be a map")
    web: Any = document.get("web") or {}
    port = web.get("port") if isinstance(web, dict) else None
    if isinstance(port, int) and port > 0 and not any_port:
        return AutoscalerConfig(path, port)
    (port,) = free_ports(1)
    copy = run_dir / "autoscaler.yaml"
    copy.write_text(
        yaml.safe_dump({**document, "web": {**(web if isinstance(web, dict) else {}), "port": port}})
    )
    return AutoscalerConfig(copy, port)


def autoscaler_service(
    config: AutoscalerConfig, run_dir: Path, *, gateway_url: str, prometheus_url: str
) -> Service:
    """The supervised program; its decisions, one JSON object per line, are in ``logs/autoscaler.log``."""
    command = (
        *(sys.executable, "-m", "slo_autoscaler", "--config", str(config.path)),
        *("--gateway-url", gateway_url, "--prometheus-url", prometheus_url),
    )
    urls = {"SLO_AUTOSCALER_GATEWAY_URL": gateway_url, "SLO_AUTOSCALER_PROMETHEUS_URL": prometheus_url}
    return Service(
        "autoscaler",
        lambda: Launch(command, {**os.environ, "PYTHONUNBUFFERED": "1", **urls}),
        run_dir / "logs" / "autoscaler.log",
        f"http://127.0.0.1:{config.port}/healthz",
    )
