"""The Prometheus child: the real program on the repository's own configuration and rules.

Owns the step from ``lab/prometheus/prometheus.yml`` to a configuration for this run: the addresses
that this run listens on and the absolute paths of the rules. The file is usable as it stands; only its
targets are replaced.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tailbound_lab.local.errors import StartError
from tailbound_lab.local.service import Service
from tailbound_lab.local.supervisor import Launch

DEFAULT_FOLDER: Final = Path(__file__).resolve().parents[2] / "prometheus"
CONFIG_NAME: Final = "prometheus.yml"
BASELINE_RULES: Final = "openfaas-baseline.yml"

_RETENTION: Final = "6h"


@dataclass(frozen=True, slots=True)
class Targets:
    """Where this run's parts listen, as ``host:port``; no autoscaler, no scrape job for it."""

    gateway: str
    autoscaler: str | None = None


def configuration(
    template: Mapping[str, Any], folder: Path, targets: Targets, *, extra_rules: Sequence[str] = ()
) -> dict[str, Any]:
    """The configuration of this run: ``template`` with this run's targets and absolute rule paths. [P]

    Raises ``StartError`` if the template lacks a job that is to be filled.
    """
    jobs = {job["job_name"]: dict(job) for job in template.get("scrape_configs") or ()}
    for name in ("functions", "gateway", "autoscaler"):
        if name not in jobs:
            raise StartError(f"{folder / CONFIG_NAME}: there is no scrape job {name!r} to fill")
    jobs["functions"]["http_sd_configs"] = [
        {**config, "url": f"http://{targets.gateway}/sd/replicas"}
        for config in jobs["functions"].get("http_sd_configs") or ({"refresh_interval": "1s"},)
    ]
    jobs["gateway"]["static_configs"] = [{"targets": [targets.gateway]}]
    if targets.autoscaler is None:
        del jobs["autoscaler"]
    else:
        jobs["autoscaler"]["static_configs"] = [{"targets": [targets.autoscaler]}]
    rules = [str(folder / rule) for rule in (*(template.get("rule_files") or ()), *extra_rules)]
    return {**template, "rule_files": rules, "scrape_configs": list(jobs.values())}


def prometheus_service(
    folder: Path, run_dir: Path, host: str, port: int, targets: Targets, *, extra_rules: Sequence[str] = ()
) -> Service:
    """Write the configuration and return the supervised program; a restart keeps its data.

    Raises ``StartError`` if the program is not installed or the configuration cannot be read.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise StartError(
            "prometheus is not installed: `apt-get install prometheus`, or `make install`; or run without it "
            "(--no-prometheus --no-autoscaler)"
        )
    path = folder / CONFIG_NAME
    try:
        template = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise StartError(f"prometheus: {path}: {' '.join(str(error).split())}") from None
    config_file = run_dir / CONFIG_NAME
    config_file.write_text(
        yaml.safe_dump(configuration(template, folder, targets, extra_rules=extra_rules), sort_keys=False)
    )
    data = run_dir / "prometheus"
    # A run starts empty: samples of an earlier run would be read as this one's past.
    shutil.rmtree(data, ignore_errors=True)
    command = (
        program,
        f"--config.file={config_file}",
        f"--storage.tsdb.path={data}",
        f"--storage.tsdb.retention.time={_RETENTION}",
        f"--web.listen-address={host}:{port}",
        # It takes up new targets every 5 s by default: long, when a peak lasts a minute.
        "--scrape.discovery-reload-interval=1s",
        "--log.level=warn",
    )
    return Service(
        "prometheus",
        # Debian's build looks for its console templates and default options in the environment too.
        lambda: Launch(command, os.environ),
        run_dir / "logs" / "prometheus.log",
        f"http://{host}:{port}/-/ready",
    )
