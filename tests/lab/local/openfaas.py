"""OpenFaaS' own programs where they are on PATH: faas-cli, and the gateway before our provider.

The gateway listens on 8080 and 8082, whatever it is told, so one test at a time has it.
"""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

GATEWAY = "http://127.0.0.1:8080"
GATEWAY_METRICS = "127.0.0.1:8082"
USER, PASSWORD = "admin", "pass word"
BASIC = {"Authorization": "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()}


def missing(*programs: str) -> pytest.MarkDecorator:
    """Skip unless every one of ``programs`` is on PATH."""
    absent = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not on PATH: {', '.join(absent)}")


def run_faas(
    folder: Path, *arguments: str, gateway: str = "", stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run faas-cli to its end."""
    where = ["--gateway", gateway] if gateway else []
    return subprocess.run(
        ["faas-cli", *arguments, *where],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "HOME": str(folder), "CI": "true"},
        check=False,
    )


def faas(folder: Path, *arguments: str, gateway: str = "", stdin: str = "") -> str:
    """Run faas-cli; its output. It must succeed."""
    done = run_faas(folder, *arguments, gateway=gateway, stdin=stdin)
    assert done.returncode == 0, f"faas-cli {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@contextmanager
def local_platform(*options: str) -> Iterator[str]:
    """The platform as a user starts it, alone, with the real watchdog; its URL."""
    command = [sys.executable, "-m", "tailbound_lab.local", "up", "--port", "0", "--no-prometheus", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = next((line.split()[1] for line in process.stdout if line.startswith("gateway")), "")
            assert url, process.communicate()[1]
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=20)


def credentials(folder: Path) -> Path:
    """A folder with the two files of basic authentication."""
    folder.mkdir()
    (folder / "basic-auth-user").write_text(USER)
    (folder / "basic-auth-password").write_text(PASSWORD)
    return folder


class Gateway:
    """The real gateway before a provider; it can be ended and started again."""

    def __init__(self, provider: str, folder: Path, settings: Mapping[str, str]) -> None:
        self._log_file = folder / "gateway.log"
        self._folder = folder
        self._settings = {
            "functions_provider_url": f"{provider}/",
            "function_namespace": "openfaas-fn",
            "scale_from_zero": "true",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """Its log, over all starts."""
        return self._log_file.read_text()

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self._log_file.open("a") as log:
            self._process = subprocess.Popen(
                ["gateway"],
                env={**os.environ, **self._settings},
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        until(self._answers, "the gateway answers")

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        return call(GATEWAY + "/healthz")[0] == 200


@contextmanager
def real_gateway(
    provider: str, folder: Path, *, prometheus: str = "", basic_auth: Path | None = None
) -> Iterator[Gateway]:
    """The real gateway; without ``prometheus`` (``host:port``) it has none that answers."""
    with fixed_ports(8080, 8082):
        host, _, port = (prometheus or "127.0.0.1:1").partition(":")
        settings = {"faas_prometheus_host": host, "faas_prometheus_port": port, "basic_auth": "false"}
        if basic_auth is not None:
            settings |= {"basic_auth": "true", "secret_mount_path": str(basic_auth)}
        gateway = Gateway(provider, folder, settings)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.kill()


@contextmanager
def a_prometheus(folder: Path, address: str, provider: str) -> Iterator[subprocess.Popen[bytes]]:
    """The installed Prometheus, scraping the real gateway and what runs behind it."""
    folder.mkdir(exist_ok=True)
    jobs = [
        {
            "job_name": "functions",
            "http_sd_configs": [{"url": f"{provider}/sd/replicas", "refresh_interval": "500ms"}],
        },
        {"job_name": "gateway", "static_configs": [{"targets": [GATEWAY_METRICS]}]},
    ]
    config = {"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--scrape.discovery-reload-interval=500ms",
            "--log.level=error",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: call(f"http://{address}/-/ready")[0] == 200, "Prometheus is ready")
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def fixed_ports(*ports: int) -> Iterator[None]:
    """Have ports for oneself that a program cannot be told to change; skip if something else keeps one."""
    with ExitStack() as stack:
        for port in ports:
            lock = stack.enter_context(
                (Path(tempfile.gettempdir()) / f"tailbound-port-{port}.lock").open("w")
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        end = time.monotonic() + 10
        while taken := [port for port in ports if not free(port)]:
            if time.monotonic() > end:
                pytest.skip(f"ports {taken} are taken, and this program listens on no others")
            time.sleep(0.1)
        yield


def free(port: int) -> bool:
    """Whether nothing listens on a port of any address."""
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True


def call(
    url: str, *, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of one request; the status is 0 where there was no answer."""
    request = urllib.request.Request(url, body, dict(headers or {}), method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


def until(true: Callable[[], Any], what: str, seconds: float = 25.0) -> None:
    """Wait until something is so; fail with its name after ``seconds``."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
