"""Batches to real HTTP servers: ``upstream.py`` of the tests, and the Node.js server of the README."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.processes import Watchdog, starting_watchdog, wait_until, watchdog
from support.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SCRIPT = Path(__file__).with_name("upstream.py")
README = Path(__file__).parents[2] / "batching-watchdog/README.md"


@contextmanager
def upstream(*, ready: bool = True, **environment: str) -> Iterator[Watchdog]:
    """A watchdog before ``upstream.py``, which it starts; no Python worker could load."""
    port = free_port()
    settings = {
        "http_upstream_url": f"http://localhost:{port}/",
        "fprocess": f"{sys.executable} {SCRIPT} {port}",
        "workers": "2",
        "slo_latency": "20s",
        **environment,
    }
    start = watchdog if ready else starting_watchdog
    with start("raise SystemExit('no Python workers')", **settings) as dog:
        yield dog


def test_a_server_gets_batches_and_its_replies_are_the_answers():
    with upstream() as dog:
        bodies = [f"{number} \u2028 é".encode() for number in range(24)] + [bytes(range(256))]
        bodies.append(os.urandom(3_000_000))
        answers = dog.call_all(bodies)
        assert [answer.body for answer in answers] == bodies
        assert {answer.status for answer in answers} == {201}
        assert max(int(answer.headers["X-Size"]) for answer in answers) > 1
        one = dog.call("PUT", "/p%20q?a=1", b"x", {"X-Ask": "me"})
        assert (one.headers["X-Asked"], one.headers["X-Ask"]) == ("PUT /p%20q?a=1", "me")
        assert one.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
        assert "stdout: it listens" in dog.log
        assert dog.stop() == 0


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: another language")
def test_the_example_of_the_readme_works(tmp_path):
    port = free_port()
    example = README.read_text().split("```js\n")[1].split("```")[0]
    (tmp_path / "server.js").write_text(example.replace("5000", str(port)))
    with watchdog("", upstream_url=f"http://127.0.0.1:{port}", fprocess=f"node {tmp_path}/server.js") as dog:
        assert [answer.body for answer in dog.call_all([b"a", b"\xc3\xa9\n"])] == [b"A", "É\n".encode()]


def test_a_server_that_is_down_or_not_ready_is_waited_for(tmp_path):
    port, gate = free_port(), tmp_path / "loaded"
    url = f"http://127.0.0.1:{port}"
    with starting_watchdog("", upstream_url=url, ready_path="/ready", workers="2") as dog:
        wait_until(lambda: dog.metric('watchdog_workers{state="starting"}') == 2, "two starting")
        assert not dog.ready()
        assert dog.call(headers={"X-Timeout": "100ms"}).status == 504
        server = subprocess.Popen([sys.executable, str(SCRIPT), str(port), str(gate)])
        try:
            gate.touch()
            # Queued while nobody listened.
            assert {answer.status for answer in dog.call_all([b"x"] * 8)} == {201}
            wait_until(dog.ready, "ready")
            gate.unlink()
            wait_until(lambda: not dog.ready(), "not ready any more")
            assert dog.call(body=b"x").status == 201
        finally:
            server.terminate()
            server.wait()


def test_an_input_that_kills_the_server_fails_alone_and_the_server_is_started_again():
    with upstream() as dog:
        answers = dog.call_all([b"fine"] * 10 + [b"kill"] + [b"fine"] * 10)
        assert (answers[10].status, answers[10].headers["X-Watchdog-Reason"]) == (502, "upstream_failed")
        assert {answer.status for answer in answers[:10] + answers[11:]} == {201}
        wait_until(lambda: dog.metric("watchdog_worker_restarts_total") >= 2, "its deaths are counted")
        assert "the connection broke" in dog.log


def test_a_hung_server_is_killed_and_its_request_answered_504():
    with upstream(workers="1", slo_latency="2s", exec_timeout="2s") as dog:
        answer = dog.call(body=b"hang")
        assert (answer.status, answer.headers["X-Watchdog-Reason"]) == (504, "expired")
        wait_until(lambda: dog.metric("watchdog_worker_restarts_total") == 1, "it is killed")
        wait_until(lambda: dog.call(body=b"fine").status == 201, "it is started again")
        assert "fprocess has answered nothing for 2 s and is killed" in dog.log


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-program --x", "fprocess='no-such-program --x': there is no program 'no-such-program'"),
        ("false", "fprocess='false' ended with status 1 before http://localhost:"),
    ],
)
def test_a_command_that_never_serves_stops_the_start_with_one_line(command, said):
    with upstream(ready=False, fprocess=command) as dog:
        assert dog.ended() == 1
        assert said in dog.log.splitlines()[-1]
        assert "Traceback" not in dog.log
