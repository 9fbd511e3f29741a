"""What of-watchdog (mode=http, before Flask) and ours make of the same request, to the same handler.

Where they differ it stands here, with both answers, and in docs/reference/of-watchdog.md with the reason. Not
run where of-watchdog's program, ``fwatchdog``, is not on PATH.
"""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.processes import Watchdog, wait_until, watchdog
from lab.local.harness import fixed_ports
from support.ports import free_ports

PROGRAM = shutil.which("fwatchdog") or shutil.which("of-watchdog")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.skipif(PROGRAM is None, reason="of-watchdog (fwatchdog) is not on PATH"),
]

OF_METRICS = 8081
"""It has no variable for that."""

HANDLER = """
import time

def handle(event, context):
    if event.path == "/sleep":
        time.sleep(float(event.body))
    if event.path == "/raise":
        raise ValueError("not for the client")
    if event.path == "/status":
        headers = {"X-Mine": "1", "Content-Type": "text/x-mine"}
        return {"statusCode": int(event.body), "body": "b", "headers": headers}
    if event.path == "/json":
        return {"a": [1, 2.5, None, "é"]}
    if event.path == "/bytes":
        return bytes([0, 255])
    if event.path == "/none":
        return None
    seen = {name.lower(): value for name, value in event.headers.items() if name.lower().startswith("x-")}
    query = sorted(event.query.items())
    return repr((event.method, event.path, query, len(event.body), sorted(seen.items())))
"""


@dataclass(frozen=True)
class Answer:
    """What a client sees, without what differs from one moment to the next."""

    status: int
    content_type: str | None
    mine: str | None
    internal: str | None
    timed: bool
    body: bytes


def ask(port: int, request: bytes, method: str, late: bytes = b"") -> Answer:
    """Send bytes as they are, ``late`` after the first word of an answer, and read the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        if late:
            assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n")
            connection.sendall(late)
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        return Answer(
            response.status,
            response.getheader("Content-Type"),
            response.getheader("X-Mine"),
            response.getheader("X-OpenFaaS-Internal"),
            "X-Duration-Seconds" in response.headers,
            response.read(),
        )


def request(
    method: str = "POST", path: str = "/", body: bytes = b"", *headers: str, version: str = "1.1"
) -> bytes:
    """A request as it goes over the wire."""
    length = [f"Content-Length: {len(body)}"] if body else []
    lines = [f"{method} {path} HTTP/{version}", "Host: h", *headers, *length, "Connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class OfWatchdog:
    """One of-watchdog before the Flask application that has the handler, under gunicorn."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="e2e-"))
        (self._folder / "handler.py").write_text(HANDLER)
        self.port, behind = free_ports(2)
        serve = f"-m gunicorn --threads 8 --log-level warning --bind 127.0.0.1:{behind}"
        with (self._folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [str(PROGRAM)],
                env={
                    "PATH": os.environ["PATH"],
                    "TMPDIR": str(self._folder),
                    "function_path": str(self._folder),
                    "mode": "http",
                    "port": str(self.port),
                    "upstream_url": f"http://127.0.0.1:{behind}",
                    "fprocess": f"{sys.executable} {serve} batching_watchdog.worker.wsgi:create_app()",
                    "healthcheck_interval": "0s",
                    **environment,
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """Its output."""
        return (self._folder / "log").read_text()

    def serves(self) -> bool:
        """Whether the function behind it answers."""
        assert self.process.poll() is None, self.log
        return ask(self.port, request("GET"), "GET").status == 200

    def stop(self) -> None:
        """End it and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def both(**environment: str) -> Iterator[tuple[OfWatchdog, Watchdog]]:
    """Of-watchdog and ours with the same settings, ready."""
    with fixed_ports(OF_METRICS):
        theirs = OfWatchdog(environment)
        try:
            with watchdog(HANDLER, **{"slo_latency": "5s", **environment}) as ours:
                wait_until(theirs.serves, "of-watchdog serves")
                yield theirs, ours
        finally:
            theirs.stop()


SAME: dict[str, bytes] = {
    "a body": request(body=b"hello"),
    "no body": request(),
    "path and query": request("GET", "/p/q%20r?x=1&y=%26&x=2"),
    "HEAD": request("HEAD"),
    "OPTIONS": request("OPTIONS"),
    "PUT": request("PUT", body=b"x"),
    "PATCH": request("PATCH", body=b"x"),
    "DELETE": request("DELETE"),
    "HTTP/1.0": request(version="1.0"),
    "a chunked body": request("POST", "/", b"", "Transfer-Encoding: chunked")
    + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    "the gateway's headers": request(
        "POST",
        "/",
        b"x",
        "X-Call-Id: id",
        "X-Start-Time: 1",
        "X-Forwarded-Host: g",
        "X-Forwarded-For: 10.0.0.1:2",
    ),
    "an X-Timeout that is none": request("POST", "/", b"x", "X-Timeout: soon"),
    "an X-Timeout that is long": request("POST", "/", b"x", "X-Timeout: 5m"),
    "a compressed body, as it is": request("POST", "/", b"\x1f\x8b", "Content-Encoding: gzip"),
    "a handler that raises": request(path="/raise", body=b"x"),
    "JSON": request(path="/json"),
    "bytes": request(path="/bytes"),
    "None": request(path="/none"),
    **{
        f"status {code}": request(path="/status", body=b"%d" % code)
        for code in (201, 204, 302, 404, 429, 500, 503)
    },
    "health": request("GET", "/_/health"),
    "health with a query": request("GET", "/_/health?a=b"),
    "another path below /_/": request("GET", "/_/other"),
    "below health": request("GET", "/_/health/"),
}


DIFFERENT: dict[str, tuple[bytes, int, int]] = {
    "an absolute target": (request("GET", "http://other/json"), 500, 200),
    "blank segments": (request("GET", "//json"), 307, 200),
    "dots": (request("GET", "/a/../json"), 307, 200),
    "a method that Flask does not route": (request("PROPFIND"), 405, 200),
    "a method that nobody knows": (request("FETCH"), 405, 400),
    "CONNECT": (request("CONNECT"), 405, 400),
    "bare line feeds": (request("GET").replace(b"\r\n", b"\n"), 200, 400),
    "a folded header": (request("GET", "/", b"", "X-A: 1", " 2"), 200, 400),
    "the length twice": (request("POST", "/", b"abc", "Content-Length: 3"), 200, 400),
    "length and chunks": (
        request("POST", "/", b"", "Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        200,
        400,
    ),
    "another transfer encoding": (request("POST", "/", b"", "Transfer-Encoding: gzip, chunked"), 501, 400),
    "more than 16 MiB": (request(body=bytes(2**24 + 1)), 200, 413),
    "a WebSocket": (
        request("GET", "/", b"", "Upgrade: websocket", "Sec-WebSocket-Key: eA==", "Connection: Upgrade"),
        400,
        200,
    ),
}


PROBES = {
    f"{method} {path}": request(method, path)
    for path in ("/_/health", "/_/ready")
    for method in ("HEAD", "POST", "OPTIONS")
}
WAITING = request("POST", "/", b"", "Expect: 100-continue", "Content-Length: 5")


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[Answer, Answer]]:
    """What of-watchdog and ours answer to every one of these."""
    asked = {**SAME, **PROBES, **{name: raw for name, (raw, _, _) in DIFFERENT.items()}}
    found = {}
    with both() as (theirs, ours):
        for name, raw in asked.items():
            method = raw.split()[0].decode()
            found[name] = (ask(theirs.port, raw, method), ask(ours.port, raw, method))
        found["Expect"] = (
            ask(theirs.port, WAITING, "POST", late=b"hello"),
            ask(ours.port, WAITING, "POST", late=b"hello"),
        )
    return found


@pytest.mark.parametrize("name", [*SAME, "Expect"])
def test_a_client_sees_the_same(answers, name):
    theirs, ours = answers[name]
    assert theirs == ours


@pytest.mark.parametrize("name", DIFFERENT)
def test_answers_differ_only_where_listed(answers, name):
    theirs, ours = answers[name]
    assert (theirs.status, ours.status) == DIFFERENT[name][1:]


@pytest.mark.parametrize("name", PROBES)
def test_probes_are_for_get_alone(answers, name):
    theirs, ours = answers[name]
    assert (theirs.status, ours.status) == (405, 405)


@pytest.mark.parametrize("headers", [("X-Timeout: 200ms",), ()])
def test_timeout_ends_a_request_in_both_watchdogs_and_ours_gives_the_reason(headers):
    with both(exec_timeout="30s" if headers else "300ms", slo_latency="300ms") as (theirs, ours):
        answers = [
            ask(each.port, request("POST", "/sleep", b"2", *headers), "POST") for each in (theirs, ours)
        ]
    assert [(answer.status, answer.timed, answer.internal) for answer in answers] == [
        (504, True, "of-watchdog"),
        (504, True, "batching-watchdog"),
    ]
    assert [bool(answer.body) for answer in answers] == [False, True]


def test_beyond_max_inflight_both_answer_429_and_stay_healthy():
    with both(max_inflight="1") as pair:
        for each in pair:
            first = threading.Thread(target=ask, args=(each.port, request(path="/sleep", body=b"1"), "POST"))
            first.start()
            wait_until(
                lambda each=each: ask(each.port, request("GET", "/_/ready"), "GET").status == 429,
                "it is busy",
            )
            refused = ask(each.port, request(), "POST")
            assert refused.status == 429
            assert refused.internal in ("faas-middleware", "batching-watchdog")
            assert ask(each.port, request("GET", "/_/health"), "GET").body == b"OK"
            first.join()


def test_the_metrics_that_both_have_have_the_same_names_types_and_labels():
    asked = (request(), request("GET"), request(path="/status", body=b"404"), request("PROPFIND"))
    with both() as (theirs, ours):
        pages = []
        for port, metrics_port in ((theirs.port, OF_METRICS), (ours.port, ours.metrics_port)):
            for raw in asked:
                ask(port, raw, "POST")
            pages.append(ask(metrics_port, request("GET", "/metrics"), "GET").body.decode().splitlines())
    for name, kind in (
        ("http_requests_total", "counter"),
        ("http_request_duration_seconds", "histogram"),
        ("http_requests_in_flight", "gauge"),
    ):
        assert all(f"# TYPE {name} {kind}" in page for page in pages)
    edges = [
        {
            line.split('le="')[1].split('"')[0]
            for line in page
            if line.startswith("http_request_duration_seconds_b")
        }
        for page in pages
    ]
    numbers = [{float(edge) for edge in each} for each in edges]
    assert numbers[0] < numbers[1], "ours has all of its edges, and some around the SLO"
    labels = [
        {
            frozenset(part.split("=")[0] for part in line[line.index("{") + 1 : line.index("}")].split(","))
            for line in page
            if line.startswith("http_requests_total{")
        }
        for page in pages
    ]
    assert labels[0] == labels[1] == {frozenset({"code", "method"})}
    for page in pages:
        assert any('code="404"' in line and 'method="post"' in line for line in page)
        assert any('method="unknown"' in line for line in page), "PROPFIND"


def test_after_sigterm_ours_serves_what_still_comes_and_of_watchdog_has_ended_its_function():
    with both(healthcheck_interval="10s") as (theirs, ours):
        for each in (theirs, ours):
            each.process.send_signal(signal.SIGTERM)
            wait_until(
                lambda each=each: ask(each.port, request("GET", "/_/health"), "GET").status == 503,
                "it is told",
            )
        wait_until(lambda: ask(theirs.port, request(), "POST").status == 500, "the function is gone")
        assert ask(ours.port, request(), "POST").status == 200
