"""Batches to real HTTP servers: the function under plain gunicorn, and a Node.js server."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.processes import Watchdog, free_port, starting_watchdog, wait_until, watchdog

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).with_name("upstream.js")
README = Path(__file__).parents[2] / "batching-watchdog/README.md"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed: the proof for another language")

ECHO = """
import os, signal, time

def handle_batch(events, context):
    time.sleep(0.02)
    if any(event.body == b"kill" for event in events):
        os.kill(os.getpid(), signal.SIGKILL)
    return [
        {"statusCode": 201, "body": event.body, "headers": {
            "X-Size": len(events), "X-Asked": f"{event.method} {event.path} {event.query.get('a')}",
            "X-Ask": event.headers.get("x-ask", "")}}
        for event in events
    ]
"""


def under_gunicorn(port: int, *more: str) -> str:
    app = "batching_watchdog.worker.serve:create_app()"
    return " ".join(
        [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--preload", *more, app]
    )


@contextmanager
def flask(**environment: str) -> Iterator[Watchdog]:
    port = free_port()
    settings = {
        "upstream_url": f"http://127.0.0.1:{port}",
        "fprocess": under_gunicorn(port, "--workers", "2"),
        "workers": "2",
        **environment,
    }
    with watchdog(ECHO, **settings) as dog:
        yield dog


@contextmanager
def node(**environment: str) -> Iterator[Watchdog]:
    port = free_port()
    settings = {
        "http_upstream_url": f"http://localhost:{port}/",
        "upstream_format": "jsonlines",
        "fprocess": f"node {SCRIPT} {port}",
        "workers": "2",
        **environment,
    }
    with watchdog("raise SystemExit('no Python workers')", **settings) as dog:
        yield dog


@pytest.mark.parametrize("upstream_format", ["frame", "jsonlines"])
@pytest.mark.parametrize("server", ["sync", "gthread"])
def test_a_flask_application_under_plain_gunicorn_serves_batches(upstream_format: str, server: str):
    port = free_port()
    command = under_gunicorn(port, "--workers", "2", "--worker-class", server)
    with flask(
        upstream_format=upstream_format, upstream_url=f"http://127.0.0.1:{port}", fprocess=command
    ) as dog:
        bodies = [b"%d" % number for number in range(24)] + [bytes(range(256))]
        answers = dog.call_all(bodies)
        assert [answer.body for answer in answers] == bodies
        assert {answer.status for answer in answers} == {201}
        assert max(int(answer.headers["X-Size"]) for answer in answers) > 1
        one = dog.call("PUT", "/p%20q?a=1", b"x", {"X-Ask": "me"})
        assert (one.headers["X-Asked"], one.headers["X-Ask"]) == ("PUT /p q 1", "me")
        assert dog.metric('slo_requests_total{outcome="good"}') == 26
        # Plain requests are served by the same application, as ever.
        assert dog.call("POST", "/", b"alone", port=port).body == b"alone"
        assert dog.stop() == 0
        assert dog.processes() == []


def test_a_large_body_passes_through_an_upstream_unchanged():
    with flask() as dog:
        body = os.urandom(5_000_000)
        assert dog.call(body=body).body == body


def test_an_input_that_kills_the_upstreams_process_fails_alone():
    with flask() as dog:
        answers = dog.call_all([b"kill"] + [b"fine"] * 15)
        assert (answers[0].status, answers[0].headers["X-Watchdog-Reason"]) == (502, "upstream_failed")
        assert {answer.status for answer in answers[1:]} == {201}
        assert "the connection broke" in dog.log


def test_an_upstream_that_is_down_at_the_start_is_waited_for():
    port = free_port()
    with starting_watchdog(ECHO, upstream_url=f"http://127.0.0.1:{port}", workers="2") as dog:
        wait_until(lambda: dog.call("GET", "/_/health").status == 200, "healthy")
        assert dog.call("GET", "/_/ready").status == 503
        # The listener for metrics opens after the other.
        wait_until(lambda: dog.metric('watchdog_workers{state="starting"}') == 2, "two starting")
        assert dog.call(headers={"X-Timeout": "100ms"}).status == 504
        environment = {**os.environ, "function_path": str(dog.folder)}
        server = subprocess.Popen(under_gunicorn(port).split(), env=environment)
        try:
            # Queued while nobody listened.
            assert {answer.status for answer in dog.call_all([b"x"] * 8)} == {201}
            wait_until(lambda: dog.call("GET", "/_/ready").status == 200, "ready")
        finally:
            server.terminate()
            server.wait()
        wait_until(lambda: dog.call("GET", "/_/ready").status == 503, "not ready any more")


@needs_node
def test_a_server_in_another_language_serves_batches():
    with node() as dog:
        bodies = [f"{number} \u2028 é".encode() for number in range(24)]
        answers = dog.call_all(bodies)
        assert [answer.body for answer in answers] == bodies
        assert max(int(answer.headers["X-Size"]) for answer in answers) > 1
        binary = dog.call(body=b"\xff\x00")
        assert (binary.body, binary.headers["X-Bytes"]) == (b"\xff\x00", "2")
        teapot = dog.call("POST", "/a/b?c=d", b"teapot", {"X-Ask": "me"})
        assert (teapot.status, teapot.headers.get_all("Set-Cookie")) == (418, ["a=1", "b=2"])
        assert json.loads(teapot.body) == {"path": "/a/b", "query": "c=d", "ask": "me"}
        assert "stdout: node listens" in dog.log
        assert dog.stop() == 0
        assert dog.processes() == []


@needs_node
def test_the_example_of_the_readme_works(tmp_path: Path):
    port = free_port()
    example = README.read_text().split("```js\n")[1].split("```")[0]
    (tmp_path / "server.js").write_text(example.replace("5000", str(port)))
    url = f"http://127.0.0.1:{port}"
    with watchdog(
        "", upstream_url=url, upstream_format="jsonlines", fprocess=f"node {tmp_path}/server.js"
    ) as dog:
        assert [answer.body for answer in dog.call_all([b"a", b"\xc3\xa9\n"])] == [b"A", "É\n".encode()]


@needs_node
def test_an_upstream_of_one_process_that_dies_is_started_again_and_only_its_killer_fails():
    with node() as dog:
        answers = dog.call_all([b"fine"] * 10 + [b"kill"] + [b"fine"] * 10)
        assert (answers[10].status, answers[10].headers["X-Watchdog-Reason"]) == (502, "upstream_failed")
        assert {answer.status for answer in answers[:10] + answers[11:]} == {200}
        wait_until(lambda: dog.metric("watchdog_worker_restarts_total") == 2, "both deaths are counted")
        wait_until(lambda: dog.log.count("fprocess ended with status 1; it is started") == 2, "and logged")


@needs_node
@pytest.mark.parametrize(
    ("body", "said"),
    [(b"garbage", "line 1 is not JSON"), (b"error", "status 500: 'out of memory'")],
)
def test_a_wrong_answer_is_an_error_of_the_request_that_caused_it(body: bytes, said: str):
    with node() as dog:
        answers = dog.call_all([body] + [b"fine"] * 15)
        assert (answers[0].status, answers[0].headers["X-Watchdog-Reason"]) == (502, "upstream_failed")
        assert {answer.status for answer in answers[1:]} == {200}
        assert said in dog.log
        assert dog.metric("watchdog_worker_restarts_total") == 0


@needs_node
def test_a_hung_upstream_is_killed_and_its_request_answered_504():
    with node(exec_timeout="1s") as dog:
        answer = dog.call(body=b"hang")
        assert (answer.status, answer.headers["X-Watchdog-Reason"]) == (504, "expired")
        wait_until(lambda: dog.call(body=b"fine").status == 200, "it is started again")
        assert "fprocess has answered nothing for 1 s and is killed" in dog.log


@needs_node
def test_ready_path_is_asked_of_the_upstream_itself(tmp_path: Path):
    port, gate = free_port(), tmp_path / "loaded"
    with starting_watchdog(
        "",
        upstream_url=f"http://127.0.0.1:{port}",
        fprocess=f"node {SCRIPT} {port} {gate}",
        ready_path="/ready",
    ) as dog:
        wait_until(lambda: "node listens" in dog.log, "node listens")
        assert dog.call("GET", "/_/ready").status == 503
        gate.touch()
        wait_until(lambda: dog.call("GET", "/_/ready").status == 200, "ready")
        gate.unlink()
        wait_until(lambda: dog.call("GET", "/_/ready").status == 503, "not ready any more")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-program --x", "fprocess='no-such-program --x': there is no program 'no-such-program'"),
        ("false", "fprocess='false' ended with status 1 before http://127.0.0.1:"),
    ],
)
def test_a_command_that_never_serves_stops_the_start_with_one_line(command: str, said: str):
    url = f"http://127.0.0.1:{free_port()}"
    with starting_watchdog("", upstream_url=url, fprocess=command) as dog:
        assert dog.process.wait(timeout=20) == 1
        assert said in dog.log
        assert "Traceback" not in dog.log


def test_a_killed_watchdog_takes_the_command_with_it():
    with flask() as dog:
        assert dog.processes()
        dog.process.send_signal(signal.SIGKILL)
        dog.process.wait()
        wait_until(lambda: not dog.processes(), "no process is left")
