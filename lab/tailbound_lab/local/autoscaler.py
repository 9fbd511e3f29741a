"""The autoscaler child: the production program, pointed at this platform by its command line.

Owns only its start: nothing in the autoscaler knows that it runs here.
"""

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tailbound_lab.local.errors import StartError
from tailbound_lab.local.gateway import PASSWORD_FILE, USER_FILE
from tailbound_lab.local.ports import free_ports
from tailbound_lab.local.service import Service
from tailbound_lab.local.supervisor import Launch

_STARTED: Final = re.compile(r"/healthz and /decisions on \S+(?: status page on (?P<page>[^\s;\"]+))?")
_PATIENCE: Final = 3.0

DEFAULT_CONFIG: Final = Path(__file__).resolve().parents[2] / "autoscaler.yaml"


def metrics_port(path: Path, *, any_port: bool) -> int:
    """The port that the configuration names for the autoscaler's own metrics, else a free one.

    ``any_port`` takes a free one whatever it names. Raises ``StartError`` if the file cannot be read; what is
    in it is the autoscaler's to check.
    """
    web = _section(_read(path), "web")
    port = web.get("port")
    return port if isinstance(port, int) and port > 0 and not any_port else free_ports(1)[0]


def page_url(log: Path) -> str | None:
    """Where the autoscaler's status page is, by what it said at its last start; None if it has none.

    Its own port may be taken, and then it goes on without a page.
    """
    for _ in range(round(_PATIENCE / 0.05)):
        said = list(_STARTED.finditer(log.read_text(errors="replace"))) if log.exists() else []
        if said:
            return said[-1]["page"]
        time.sleep(0.05)
    return None


def with_credentials(path: Path, run_dir: Path, basic_auth_dir: Path) -> Path:
    """A copy of the configuration that uses this platform's basic-auth files.

    The autoscaler takes credentials from its file alone, as they belong on no command line.
    """
    document = _read(path)
    platform = _section(document, "platform")
    credentials = {
        "user_file": str((basic_auth_dir / USER_FILE).resolve()),
        "password_file": str((basic_auth_dir / PASSWORD_FILE).resolve()),
    }
    copy = run_dir / "autoscaler.yaml"
    copy.write_text(yaml.safe_dump({**document, "platform": {**platform, "basic_auth": credentials}}))
    return copy


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StartError(f"autoscaler: {path}: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise StartError(f"autoscaler: {path}: must be a map")
    return document


def _section(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = document.get(key)
    return section if isinstance(section, dict) else {}


def autoscaler_service(
    config: Path, port: int, run_dir: Path, *, gateway_url: str, prometheus_url: str
) -> Service:
    """The supervised program; its decisions, one JSON object per line, are in ``logs/autoscaler.log``."""
    command = (
        *(sys.executable, "-m", "slo_autoscaler", "--config", str(config), "--web-port", str(port)),
        *("--gateway-url", gateway_url, "--prometheus-url", prometheus_url),
    )
    return Service(
        "autoscaler",
        lambda: Launch(command, {**os.environ, "PYTHONUNBUFFERED": "1"}),
        run_dir / "logs" / "autoscaler.log",
        f"http://127.0.0.1:{port}/healthz",
    )
