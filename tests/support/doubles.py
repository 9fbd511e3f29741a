"""A gateway, a fleet to scrape and a real Prometheus, all on ephemeral loopback ports.

The gateway speaks the provider contract over real sockets and can be told to misbehave; the fleet exposes
what watchdogs would; Prometheus is the installed program.
"""

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from slo_autoscaler.errors import PlatformError
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms import Platform
from support.waits import until
from tailbound_lab.local.ports import free_ports

Fault = Callable[[BaseHTTPRequestHandler], None]
"""Answers a request wrongly, or not at all."""


def send(handler: BaseHTTPRequestHandler, code: int, body: bytes, **headers: object) -> None:
    """Answer with a body; an underscore in a header's name stands for a dash."""
    handler.send_response(code)
    for name, value in {"Content_Length": len(body), **headers}.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)


def status(code: int, body: bytes = b"injected", **headers: object) -> Fault:
    return lambda handler: send(handler, code, body, **headers)


def garbage(handler: BaseHTTPRequestHandler) -> None:
    status(200, b"<html>not what was asked for")(handler)


def panic(handler: BaseHTTPRequestHandler) -> None:
    """Close without an answer, as the gateway does when its handler panics."""
    handler.close_connection = True


def hang(until: threading.Event) -> Fault:
    def wait(handler: BaseHTTPRequestHandler) -> None:
        until.wait(20)
        handler.close_connection = True

    return wait


def half(body: bytes) -> Fault:
    """Announce a body, send half of it, and hang up."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, body[: len(body) // 2], Content_Length=len(body))
        handler.close_connection = True

    return answer


def dribble(until: threading.Event) -> Fault:
    """Send a body byte by byte, more often than a socket's timeout, without end."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, b"", Content_Length=1_000_000)
        handler.close_connection = True
        with contextlib.suppress(OSError):
            while not until.wait(0.05):
                handler.wfile.write(b" ")

    return answer


class Server(ThreadingHTTPServer):
    """Answers every request by ``answer`` on a free port until ``close``, in a thread of its own.

    Clients that hang up are what the tests are about, and no reason for a traceback.
    """

    daemon_threads = True

    def __init__(self, answer: Fault, tls: ssl.SSLContext | None = None) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes

            def handle_any(self) -> None:
                answer(self)

            # The names are http.server's.
            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self._serving = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._serving.start()

    def close(self) -> None:
        self.shutdown()
        self._serving.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@dataclass
class Function:
    """One function as the double keeps it."""

    replicas: int = 1
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    namespace: str = "openfaas-fn"
    available: int | None = None
    """As many as desired when None."""


class Gateway:
    """The part of the provider contract that a scaler uses."""

    def __init__(self, **functions: Function) -> None:
        self.functions = functions
        self.faults: dict[str, Fault] = {}
        """Path prefix, with the method ("POST /system/scale-function/x") -> what happens instead."""
        self.cap: int | None = None
        self.auth: str | None = None
        """The Authorization header that is required."""
        self.posted: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self._server = Server(self.handle)

    @property
    def url(self) -> str:
        return f"http://{self._server.address}"

    def close(self) -> None:
        self._server.close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        split = urlsplit(handler.path)
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length)) if length else None
        line = f"{handler.command} {split.path}"
        self.requests.append(line)
        for prefix, fault in list(self.faults.items()):
            if line.startswith(prefix):
                return fault(handler)
        if self.auth is not None and handler.headers.get("Authorization") != self.auth:
            return status(401)(handler)
        namespace = parse_qs(split.query).get("namespace", ["openfaas-fn"])[0]
        code, answer = self._answer(handler.command, split.path, namespace, body)
        return status(code, b"" if answer is None else json.dumps(answer).encode())(handler)

    def _answer(self, method: str, path: str, namespace: str, body: Any) -> tuple[int, Any]:
        here = {name: fn for name, fn in self.functions.items() if fn.namespace == namespace}
        if path == "/system/functions":
            return 200, [self._status(name, function) for name, function in here.items()]
        name = path.rpartition("/")[2]
        if name not in here:
            return 404, None
        if method == "GET":
            return 200, self._status(name, here[name])
        self.posted.append(body)
        here[name].replicas = min(body["replicas"], self.cap or body["replicas"])
        return 202, None

    def _status(self, name: str, function: Function) -> dict[str, Any]:
        available = function.replicas if function.available is None else function.available
        counts = {"replicas": function.replicas, "availableReplicas": available}
        # Go leaves out zeros.
        return {
            "name": name,
            "namespace": function.namespace,
            "image": "x",
            "labels": function.labels,
            "annotations": function.annotations,
            **{key: value for key, value in counts.items() if value},
        }


def a_gateway(**functions: Function) -> closing[Gateway]:
    return closing(Gateway(**functions))


NO_SERIES = b'{"status": "success", "data": {"resultType": "vector", "result": []}}'


@contextmanager
def an_empty_prometheus() -> Iterator[Gateway]:
    """Serve what a Prometheus answers that has scraped nothing."""
    with a_gateway() as double:
        double.faults["GET"] = status(200, NO_SERIES)
        yield double


def exposing(exposition: Callable[[str], str]) -> Server:
    """A server of metrics: what ``exposition`` says of each path that is asked for."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, exposition(handler.path).encode(), Content_Type="text/plain; version=0.0.4")
        handler.close_connection = True  # a kept one would outlive the server

    return Server(answer)


class Fleet:
    """Replicas of one function behind one metrics endpoint, with counters that time moves."""

    def __init__(self, slo: float = 0.1, capacity: float = 100.0) -> None:
        self.rate = 0.0
        self.good = 1.0
        """Share of requests within the SLO."""
        self.capacity = capacity
        self._slo = slo
        self.scrapes = 0
        self.started: float | None = None
        """When its process began, if it tells, in Unix seconds."""
        self.identity: float | None = None
        """The number by which its page is known at each of its addresses, if it tells."""
        self.counts = [0.0, 0.0]
        self._moved = time.monotonic()
        self._lock = threading.Lock()
        self._server = exposing(lambda _: self.exposition())

    @property
    def address(self) -> str:
        return self._server.address

    def close(self) -> None:
        self._server.close()

    def restart(self) -> None:
        """Begin to count from zero, as a replica does that was started again."""
        with self._lock:
            self.counts = [0.0, 0.0]

    def exposition(self) -> str:
        with self._lock:
            self.scrapes += 1
            now = time.monotonic()
            arrived = self.rate * (now - self._moved)
            self._moved = now
            self.counts[0] += arrived * self.good
            self.counts[1] += arrived * (1 - self.good)
            good, slow = self.counts
        buckets = [(self._slo / 2, good / 2), (self._slo, good), (self._slo * 4, good + slow)]
        lines = [
            f'slo_latency_seconds{{slo_class="default"}} {self._slo}',
            'slo_objective_ratio{slo_class="default"} 0.99',
            f'slo_requests_total{{outcome="good",slo_class="default"}} {good}',
            f'slo_requests_total{{outcome="slow",slo_class="default"}} {slow}',
            'slo_requests_total{outcome="shed",slo_class="default"} 0',
            "http_requests_in_flight 2",
            "watchdog_streams 0",
            "watchdog_queue_length 0",
            f"watchdog_capacity_requests_per_second {self.capacity}",
            *(
                f'watchdog_service_seconds_predicted{{size="{size}"}} {size / self.capacity}'
                for size in (1, 2)
            ),
            *(
                f'http_request_duration_seconds_bucket{{code="200",method="POST",le="{le}"}} {count}'
                for le, count in [*buckets, ("+Inf", good + slow)]
            ),
        ]
        if self.started is not None:
            lines.append(f"process_start_time_seconds {self.started}")
        if self.identity is not None:
            lines.append(f"watchdog_identity {self.identity}")
        return "\n".join(lines) + "\n"


def a_fleet(**settings: float) -> closing[Fleet]:
    return closing(Fleet(**settings))


@dataclass
class Prometheus:
    """The installed Prometheus, scraping replicas four times a second."""

    url: str
    process: "subprocess.Popen[bytes]"

    def ready(self) -> bool:
        """Tell whether it serves, or one with TLS or users refuses to."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            return error.code == 401
        except urllib.error.URLError as error:
            return isinstance(error.reason, ssl.SSLError)
        except OSError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def a_prometheus(
    folder: Path,
    targets: dict[str, list[str]],
    found: list[dict[str, Any]] | None = None,
    web: dict[str, Any] | None = None,
) -> Iterator[Prometheus]:
    """``targets``: function_name -> addresses; ``found``: scrape configurations instead of them.

    ``web``: what is in its file of TLS and users.
    """
    program = shutil.which("prometheus")
    assert program, "prometheus must be installed: make install does so"
    jobs = [
        {"targets": [address], "labels": {"function_name": name, "replica": str(index)}}
        for name, addresses in targets.items()
        for index, address in enumerate(addresses)
    ]
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms"},
        "scrape_configs": found or [{"job_name": "functions", "static_configs": jobs}],
    }
    address = f"127.0.0.1:{free_ports(1)[0]}"
    for name, content in (("prometheus", config), ("web", web or {})):
        (folder / f"{name}.yml").write_text(yaml.safe_dump(content))
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        f"--web.config.file={folder / 'web.yml'}",
        # By default new targets are taken up every 5 s.
        "--scrape.discovery-reload-interval=200ms",
        "--enable-feature=exemplar-storage",
        "--log.level=error",
    ]
    scheme = "https" if "tls_server_config" in (web or {}) else "http"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    prometheus = Prometheus(f"{scheme}://{address}", process)
    try:
        until(prometheus.ready, "Prometheus is ready")
        yield prometheus
    finally:
        prometheus.kill()


def has_listed(platform: Platform) -> bool:
    """Tell whether the platform's first lists have come."""
    try:
        platform.scales()
    except PlatformError:
        return False
    return True


def decide(platform: Platform, function_name: str, replicas: int) -> None:
    """Scale a function on what the platform tells of it now."""
    seen = platform.scales().get(function_name, Scale(1, 1))
    assert isinstance(seen, Scale)
    platform.set_scale(function_name, replicas, seen)


@contextmanager
def a_process(
    config: Path, log: Path, *flags: str
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], list[dict[str, Any]]]]]:
    """Run the autoscaler; give its process and a function that reads its decisions so far.

    ``log`` has what it writes to stderr.
    """
    told = log.with_suffix(".jsonl")
    with told.open("wb") as stdout, log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "slo_autoscaler", "--config", str(config), "--decision-log", *flags],
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            yield process, lambda: [json.loads(line) for line in told.read_text().splitlines() if line]
        finally:
            process.kill()
            process.wait()
