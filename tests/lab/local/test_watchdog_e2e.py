"""The platform with the real watchdog, gunicorn, Prometheus and the autoscaler under it."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from lab.local.harness import alive, on_platform, until
from tailbound_lab.local.platform import WATCHDOG
from tailbound_lab.local.services import AUTOSCALER_CONFIG

HANDLER = """
import os, time

def handle_batch(events, context):
    gates = [event.query["gate"] for event in events if "gate" in event.query]
    while not all(map(os.path.exists, gates)):
        time.sleep(0.01)
    return [event.body for event in events]
"""
BESIDE = {"with_prometheus": True, "prometheus_port": 0, "with_autoscaler": True, "any_autoscaler_port": True}
ENVIRONMENT = {"slo_latency": "1s", "workers": "1", "access_log": "true", "log_format": "json"}

pytestmark = pytest.mark.e2e
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed"
)


async def deploy(client):
    (client.folder / "handler" / "handler.py").write_text(HANDLER)
    await client.deploy(envVars=ENVIRONMENT)


@on_platform(replica_command=WATCHDOG)
async def test_the_watchdog_drains_on_the_way_to_zero_and_comes_back_with_a_request(client):
    await deploy(client)
    (group,) = (await client.call("GET", "/sd/replicas")).json()
    async with client.session.get(f"http://{group['targets'][0]}/metrics") as scraped:
        assert "slo_requests_total" in await scraped.text()
    (leaving,) = client.function.replicas
    pid, gate = leaving.pid, client.folder / "gate"
    slow = [client.start(f"echo?gate={gate}") for _ in range(2)]
    await until(lambda: leaving.outstanding == 2)
    assert await client.scale(0) == 202
    gate.touch()
    assert {((await task).status, (await task).body) for task in slow} == {(200, b"x")}
    await client.platform.settled()
    assert not alive(pid)
    held = [client.start("echo") for _ in range(3)]
    assert {(await task).status for task in held} == {200}
    assert client.function.available == 1


@on_platform(replica_command=WATCHDOG)
async def test_a_request_is_found_again_by_its_call_id_from_the_gateway_to_its_batch(client):
    await deploy(client)
    gate = client.folder / "gate"
    tasks = [client.start(f"echo?gate={gate}") for _ in range(3)]
    await until(lambda: client.function.replicas[0].outstanding == 3)
    gate.touch()
    call_ids = [(await task).headers["X-Call-Id"] for task in tasks]
    of = {}

    def all_logged():
        texts = [line.text for line in client.function.log.lines() if line.text.startswith("{")]
        lines = [line for line in map(json.loads, texts) if line["event"] == "request"]
        of.update({line["call_id"]: line for line in lines})
        return of.keys() >= set(call_ids)

    await until(all_logged)
    batches = {}
    for call_id in call_ids:
        batches.setdefault(of[call_id]["batch"], []).append(of[call_id]["batch_size"])
    assert all(sizes == [len(sizes)] * len(sizes) for sizes in batches.values())


def decisions(client):
    lines = client.platform.autoscaler.log_file.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


@needs_prometheus
def test_an_idle_function_goes_to_zero_and_killed_programs_come_back_with_what_they_knew(tmp_path):
    document = yaml.safe_load(AUTOSCALER_CONFIG.read_text())
    document["defaults"]["scale_to_zero_after"] = "1s"
    document["defaults"]["scale_down"]["stabilization_window"] = "1s"
    config = tmp_path / "autoscaler.yaml"
    config.write_text(yaml.safe_dump(document))
    for name, text in (("user", "admin"), ("password", "secret")):
        (tmp_path / f"basic-auth-{name}").write_text(text)

    @on_platform(replica_command=WATCHDOG, autoscaler_config=config, basic_auth_dir=tmp_path, **BESIDE)
    async def scenario(client):
        client.defaults = {"headers": {"Authorization": "Basic YWRtaW46c2VjcmV0"}}
        await deploy(client)
        assert await client.status("POST", "/function/echo") == 200
        await until(lambda: client.function.desired == 0)
        down = [item["reason"] for item in decisions(client) if item["to"] == 0 < item["from"]]
        assert down == ["Idle"]
        for service in (client.platform.prometheus, client.platform.autoscaler):
            os.kill(service.pid, signal.SIGKILL)
            await until(lambda service=service: service.starts == 2)
        assert await client.status("POST", "/function/echo") == 200
        seen = len(decisions(client))
        # It has the credentials: only with the gateway's answer can it know of the function and act.
        await until(lambda: client.function.desired == 0 and len(decisions(client)) > seen)

    scenario(tmp_path)


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


@needs_prometheus
def test_nothing_survives_up_when_it_is_killed(tmp_path):
    (tmp_path / "fn").mkdir()
    (tmp_path / "fn" / "handler.py").write_text(HANDLER)
    stack = tmp_path / "stack.yml"
    stack.write_text("functions: {f: {handler: fn, image: f, environment: {workers: 2}}}")
    command = [sys.executable, "-m", "tailbound_lab.local", "up", "--stack", str(stack)]
    command += ["--port", "0", "--prometheus-port", "0", "--run-dir", str(tmp_path / "run")]
    # Short, as Unix sockets are put there; and what a killed platform leaves behind goes with it.
    with (
        tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp", ignore_cleanup_errors=True) as temporary,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": temporary}
        ) as platform,
    ):
        try:
            assert any(line.startswith("Ctrl-C") for line in platform.stdout)
            # The watchdog, gunicorn's arbiter, its two workers, Prometheus and the autoscaler.
            asyncio.run(until(lambda: len(descendants(platform.pid)) >= 6))
            below = descendants(platform.pid)
        finally:
            platform.kill()
        asyncio.run(until(lambda: not any(map(alive, below))))
