"""The life of processes: output, restarts, stops, and that nothing survives; the real programs together."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from batching_watchdog.pool.gunicorn import MAX_SOCKET_PATH, SOCKET_BYTES
from lab.local.harness import TWO, alive, missing, on_platform, platform_client, process, until, up
from tailbound_lab.local.cgroups import ROOT
from tailbound_lab.local.errors import PlatformError
from tailbound_lab.local.platform import WATCHDOG
from tailbound_lab.local.services import AUTOSCALER_CONFIG, Service
from tailbound_lab.local.supervisor import Launch, Supervisor


def python(code: str) -> Launch:
    return Launch((sys.executable, "-c", code), os.environ)


def without_ports() -> Launch:
    raise OSError("no ports")


LINES = "import sys; print('out'); sys.stderr.write('err\\n' + 'x' * 200_000 + '\\nlast'); sys.exit(4)"


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        (lambda: python(LINES), {"out", "err", "last"}),
        (lambda: Launch(("/no/such/program",), os.environ), {"cannot run /no/such/program"}),
        # A grandchild that holds the output does not hide the exit.
        (lambda: python("import subprocess; subprocess.Popen(['sleep', '3'])"), {"exited with status 0"}),
        (without_ports, {"could not be started"}),
    ],
)
def test_child_that_ends_is_heard_and_started_again(launch, said):
    lines: list[str] = []

    async def run():
        supervisor = Supervisor("child", launch, lines.append)
        supervisor.start()
        await until(lambda: sum("starting again" in line for line in lines) == 2)
        await supervisor.stop(0.1)

    asyncio.run(run())
    assert all(any(line.startswith(words) for line in lines) for words in said)
    assert not any(len(line) > 200_000 for line in lines)


@pytest.mark.parametrize(
    ("code", "limit", "words"),
    [("print('wrong key'); exit(1)", 50.0, "wrong key"), ("import time; time.sleep(600)", 1.0, "not ready")],
)
def test_a_service_that_does_not_come_up_is_an_error_with_its_last_words(tmp_path, code, limit, words):
    service = Service("web", lambda: python(code), tmp_path / "web.log", "http://127.0.0.1:1/")

    async def run():
        try:
            await service.start(limit)
        finally:
            await service.stop(0.0)

    with pytest.raises(PlatformError, match=words):
        asyncio.run(run())


@on_platform()
async def test_a_replica_has_its_own_folder_ports_and_a_clean_environment(client):
    os.environ["workers"] = "77"
    try:
        await client.deploy(labels=TWO, envProcess="python index.py")
    finally:
        del os.environ["workers"]
    one, other = [(await client.call("GET", "/function/echo")).json()["environ"] for _ in range(2)]
    for key in ("TMPDIR", "port", "metrics_port", "HOSTNAME"):
        assert one[key] != other[key]
    assert "workers" not in one
    assert (one["fprocess"], one["function_path"]) == ("python index.py", str(client.folder / "handler"))
    assert len(one["TMPDIR"]) + SOCKET_BYTES <= MAX_SOCKET_PATH


@on_platform()
async def test_a_replica_loses_its_readiness_after_three_failed_probes_and_gets_it_back(client):
    gate = client.folder / "gate"
    gate.touch()
    await client.deploy(envVars={"ready_file": str(gate)})
    gate.unlink()
    await until(lambda: client.function.available == 0)
    log = client.platform.log_dir / "echo.openfaas-fn" / "echo-1.log"
    assert log.read_text().count(" not ready\n") >= 3
    gate.touch()
    await client.platform.settled()
    assert client.function.replicas[0].starts == 1  # it is never killed for it


def test_a_stop_kills_what_ignores_sigterm_and_leaves_nothing_behind(tmp_path):
    async def run():
        async with platform_client(tmp_path, run_dir=None, stop_grace=0.2) as client:
            await client.deploy(envVars={"ignore_sigterm": "true"})
            (replica,) = client.function.replicas
            pid, folders = replica.pid, [client.platform.run_dir, Path(replica.environment()["TMPDIR"])]
        assert not alive(pid)
        assert not any(folder.exists() for folder in folders)

    asyncio.run(run())


# The real watchdog, gunicorn, Prometheus and the autoscaler.

HANDLER = """
import os, time

def handle_batch(events, context):
    gates = [event.query["gate"] for event in events if "gate" in event.query]
    while not all(map(os.path.exists, gates)):
        time.sleep(0.01)
    return [event.body for event in events]
"""


@pytest.mark.e2e
@on_platform(replica_command=WATCHDOG)
async def test_the_watchdog_drains_on_the_way_to_zero_and_another_serves_meanwhile(client):
    (client.folder / "handler" / "handler.py").write_text(HANDLER)
    await client.deploy(
        envVars={"slo_latency": "1s", "workers": "1", "exec_timeout": "2m", "write_timeout": "2m"}
    )
    (leaving,) = client.function.replicas
    async with client.session.get(f"http://127.0.0.1:{leaving.metrics_port}/metrics") as scraped:
        assert "slo_requests_total" in await scraped.text()
    pid, gate = leaving.pid, client.folder / "gate"
    slow = [client.start(f"echo?gate={gate}") for _ in range(2)]
    await until(lambda: leaving.outstanding == 2)
    assert await client.scale(0) == 202
    assert await client.status("POST", "/function/echo") == 200  # wakes another
    assert (leaving.outstanding, client.function.desired) == (2, 1)
    gate.touch()
    assert {((await task).status, (await task).body) for task in slow} == {(200, b"x")}
    await client.platform.settled()
    assert not alive(pid)


@pytest.mark.e2e
@missing("prometheus")
def test_an_idle_function_goes_to_zero_by_the_autoscaler(tmp_path):
    document = yaml.safe_load(AUTOSCALER_CONFIG.read_text())
    document["defaults"] |= {"scale_to_zero_after": "1s", "scale_down": {"stabilization_window": "1s"}}
    document["web"]["page_port"] = 0
    config = tmp_path / "autoscaler.yaml"
    config.write_text(yaml.safe_dump(document))

    @on_platform(
        replica_command=WATCHDOG,
        autoscaler_config=config,
        with_prometheus=True,
        prometheus_port=0,
        with_autoscaler=True,
    )
    async def scenario(client):
        def decisions():
            lines = client.platform.autoscaler.log_file.read_text().splitlines()
            return [json.loads(line) for line in lines if line.startswith("{")]

        async with client.session.get(client.platform.page_url) as page:
            assert page.status == 200
        await client.deploy(envVars={"slo_latency": "1s", "workers": "1"})
        assert await client.status("POST", "/function/echo") == 200
        await until(lambda: client.function.desired == 0)
        assert {item["reason"] for item in decisions() if item["to"] == 0 < item["from"]} == {"Idle"}

    scenario()


def descendants(pid: int) -> set[int]:
    """Every process below ``pid``."""
    parents = {int(entry.name): process(int(entry.name))[1] for entry in Path("/proc").glob("[0-9]*")}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.e2e
@missing("prometheus")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_survives_up_however_it_ends_and_the_next_one_tidies_up(tmp_path, number):
    (tmp_path / "fn").mkdir()
    (tmp_path / "fn" / "handler.py").write_text(HANDLER)
    stack = tmp_path / "stack.yml"
    stack.write_text("functions: {f: {handler: fn, image: f, environment: {workers: 2}, limits: {cpu: 1}}}")
    # Short, as Unix sockets are put there.
    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        with up("--stack", stack, "--cpu-limits", "--prometheus-port", "0", TMPDIR=folder) as (platform, _):
            # The watchdog, gunicorn's arbiter, its two workers, Prometheus and the autoscaler.
            asyncio.run(until(lambda: len(descendants(platform.pid)) >= 6))
            below = descendants(platform.pid)
            platform.send_signal(number)
            _, error = platform.communicate()
            assert platform.returncode == (-number if number == signal.SIGKILL else 0), error
            asyncio.run(until(lambda: not any(map(alive, below))))
        mine = Path(folder) / f"lof-{os.getpid()}-mine"
        mine.mkdir()
        with up("--no-prometheus", "--cpu-limits", TMPDIR=folder):
            (left,) = (path for path in Path(folder).iterdir() if path != mine)
            assert mine.exists()
            assert f"-{platform.pid}-" not in left.name
            assert not list(ROOT.glob(f"**/tailbound-{platform.pid}-*"))
