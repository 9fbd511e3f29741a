"""The platform with the real watchdog, gunicorn, Prometheus and the autoscaler under it."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from lab.local.harness import platform_client, until
from tailbound_lab.local.errors import StartError
from tailbound_lab.local.platform import WATCHDOG
from tailbound_lab.local.services import AUTOSCALER_CONFIG
from tailbound_lab.local.specs import FunctionSpec

HANDLER = """
import os

def handle_batch(events, context):
    return [event.body + f" from {os.getpid()}".encode() for event in events]
"""

pytestmark = pytest.mark.e2e


def descendants(pid: int) -> set[int]:
    """Every living process below ``pid``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found, todo = set(), [pid]
    while todo:
        for child in children.get(todo.pop(), ()):
            found.add(child)
            todo.append(child)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_function_behind_the_watchdog_is_served_scaled_and_drained(tmp_path):
    async def run():
        async with asyncio.timeout(50), platform_client(tmp_path, replica_command=WATCHDOG) as client:
            (tmp_path / "handler" / "handler.py").write_text(HANDLER)
            await client.deploy(envVars={"slo_latency": "1s", "workers": "1"})
            answer = await client.call("POST", "/function/echo", data=b"hello")
            assert (answer.status, answer.body.startswith(b"hello from ")) == (200, True)
            assert answer.headers["X-Batch-Size"] == "1"
            await client.call("POST", "/system/scale-function/echo", json={"replicas": 2})
            await client.platform.settled()
            (group, _) = (await client.call("GET", "/sd/replicas")).json()
            async with client.session.get(f"http://{group['targets'][0]}/metrics") as scraped:
                assert 'slo_requests_total{outcome="good"}' in await scraped.text()
            (function,) = client.platform.registry
            leaving = {replica.pid for replica in function.replicas}
            await client.call("POST", "/system/scale-function/echo", json={"replicas": 1})
            while len(function.replicas) == 2:
                assert (await client.call("POST", "/function/echo", data=b"x")).status == 200
            leaving -= {replica.pid for replica in function.replicas}
            assert not any(map(alive, leaving))
            texts = [line["text"] for line in (await _log(client))]
            assert any("drained" in text for text in texts)

    asyncio.run(run())


SLOW = """
import time

def handle(event, context):
    time.sleep(0.5)
    return event.body
"""


def test_at_zero_the_real_watchdog_has_finished_its_requests_and_one_request_brings_it_back(tmp_path):
    async def run():
        async with asyncio.timeout(50), platform_client(tmp_path, replica_command=WATCHDOG) as client:
            (tmp_path / "handler" / "handler.py").write_text(SLOW)
            await client.deploy(envVars={"slo_latency": "5s", "workers": "1"})
            (function,) = client.platform.registry
            (replica,) = function.replicas
            slow = [
                asyncio.create_task(client.call("POST", "/function/echo", data=b"in flight"))
                for _ in range(2)
            ]
            await until(lambda: replica.outstanding == 2)
            await client.call("POST", "/system/scale-function/echo", json={"replicas": 0})
            assert {(answer.status, answer.body) for answer in [await task for task in slow]} == {
                (200, b"in flight")
            }
            await client.platform.settled()
            assert function.replicas == ()
            held = [
                asyncio.create_task(client.call("POST", "/function/echo", data=b"held")) for _ in range(3)
            ]
            assert {(answer.status, answer.body) for answer in [await task for task in held]} == {
                (200, b"held")
            }
            assert (function.available, function.replicas[0].starts) == (1, 1)

    asyncio.run(run())


async def _log(client):
    answer = await client.call("GET", "/system/logs?name=echo")
    return [json.loads(line) for line in answer.text.splitlines()]


needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed"
)


@needs_prometheus
def test_a_wrong_autoscaler_configuration_stops_the_start_with_its_own_words(tmp_path):
    config = tmp_path / "autoscaler.yaml"
    config.write_text("no_such_key: 1\n")

    async def run():
        settings = {"with_prometheus": True, "prometheus_port": 0, "with_autoscaler": True}
        async with platform_client(tmp_path, autoscaler_config=config, **settings):
            pass

    with pytest.raises(StartError, match=r"(?s)autoscaler does not start.*no_such_key"):
        asyncio.run(run())


@needs_prometheus
def test_a_prometheus_port_in_use_stops_the_start_with_its_own_words(tmp_path):
    async def run():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            async with platform_client(tmp_path, with_prometheus=True, prometheus_port=port):
                pass

    with pytest.raises(StartError, match=r"(?s)prometheus does not start.*address already in use"):
        asyncio.run(run())


@needs_prometheus
def test_an_autoscaler_that_is_killed_comes_back_and_has_the_credentials(tmp_path):
    (tmp_path / "basic-auth-user").write_text("admin")
    (tmp_path / "basic-auth-password").write_text("secret")

    async def run():
        settings = {"with_prometheus": True, "prometheus_port": 0, "with_autoscaler": True}
        async with (
            asyncio.timeout(40),
            platform_client(tmp_path, basic_auth_dir=tmp_path, **settings) as client,
        ):
            client.platform.deploy(FunctionSpec("echo", "echo:latest"))
            autoscaler = client.platform.autoscaler
            os.kill(autoscaler.pid, signal.SIGKILL)
            await until(lambda: autoscaler.starts == 2)
            # Only from the gateway's answer can it know of the function.
            await until(lambda: "echo.openfaas-fn" in autoscaler.log_file.read_text())

    asyncio.run(run())


@needs_prometheus
def test_an_idle_function_goes_to_zero_by_the_autoscaler_and_comes_back_by_a_request(tmp_path):
    document = yaml.safe_load(AUTOSCALER_CONFIG.read_text())
    document["defaults"]["scale_to_zero_after"] = "1s"
    document["defaults"]["scale_down"]["stabilization_window"] = "1s"
    config = tmp_path / "autoscaler.yaml"
    config.write_text(yaml.safe_dump(document))

    async def run():
        settings = {"with_prometheus": True, "prometheus_port": 0, "with_autoscaler": True}
        async with (
            asyncio.timeout(55),
            platform_client(
                tmp_path,
                replica_command=WATCHDOG,
                autoscaler_config=config,
                any_autoscaler_port=True,
                **settings,
            ) as client,
        ):
            (tmp_path / "handler" / "handler.py").write_text(HANDLER)
            await client.deploy(envVars={"slo_latency": "1s", "workers": "1"})
            assert (await client.call("POST", "/function/echo", data=b"first")).status == 200
            (function,) = client.platform.registry
            await until(lambda: function.desired == 0)
            answer = await client.call("POST", "/function/echo", data=b"held")
            assert (answer.status, answer.body.startswith(b"held from ")) == (200, True)
            assert function.desired == 1
            decisions = [
                json.loads(line)
                for line in client.platform.autoscaler.log_file.read_text().splitlines()
                if line.startswith("{")
            ]
            assert [item["reason"] for item in decisions if item["to"] == 0 < item["from"]] == ["Idle"]

    asyncio.run(run())


@needs_prometheus
def test_nothing_survives_up_when_it_is_killed(tmp_path):
    (tmp_path / "fn").mkdir()
    (tmp_path / "fn" / "handler.py").write_text(HANDLER)
    stack = tmp_path / "stack.yml"
    stack.write_text("functions: {f: {handler: fn, image: f, environment: {workers: 2}}}")
    command = [sys.executable, "-m", "tailbound_lab.local", "up", "--stack", str(stack)]
    # Short, as Unix sockets are put there; and what a killed platform leaves behind goes with it.
    temporary = tempfile.mkdtemp(prefix="lt-", dir="/tmp")
    command += ["--port", "0", "--prometheus-port", "0", "--run-dir", str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": temporary}
    ) as platform:
        try:
            for line in platform.stdout:
                if line.startswith("Ctrl-C"):
                    break
            below: set[int] = set()

            def everything() -> bool:
                below.clear()
                below.update(descendants(platform.pid))
                # The watchdog, gunicorn's arbiter, its two workers, Prometheus and the autoscaler.
                return len(below) >= 6

            _bounded(until(everything))
        finally:
            platform.kill()
    _bounded(until(lambda: not any(map(alive, below))))
    shutil.rmtree(temporary)


def _bounded(condition) -> None:
    async def run():
        async with asyncio.timeout(25):
            await condition

    asyncio.run(run())
