"""The life of processes: output, restarts, stops, and that nothing survives; the real programs together."""

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

from lab.local.harness import (
    BASIC,
    TWO,
    UP,
    alive,
    credentials,
    missing,
    on_platform,
    platform_client,
    process,
    until,
    up,
)
from tailbound_lab.local.__main__ import main
from tailbound_lab.local.errors import PlatformError
from tailbound_lab.local.platform import WATCHDOG
from tailbound_lab.local.services import AUTOSCALER_CONFIG, Service
from tailbound_lab.local.supervisor import Launch, Supervisor, restart_delay


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


def test_a_child_that_keeps_crashing_is_started_ever_more_slowly():
    delays = [restart_delay(failures) for failures in range(1, 12)]
    assert (delays[0], delays[-1]) == (0.1, 10.0)
    assert delays == sorted(delays)


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


def test_a_service_whose_port_another_program_has_is_an_error(tmp_path):
    async def run():
        other = await asyncio.start_server(lambda _, writer: answer(writer), "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        code = "import time; time.sleep(600)"
        service = Service("web", lambda: python(code), tmp_path / "web.log", f"http://127.0.0.1:{port}/")
        try:
            await service.start(50.0)
        finally:
            await service.stop(0.0)
            other.close()

    async def answer(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    with pytest.raises(PlatformError, match=r"cannot listen on .*port 0"):
        asyncio.run(run())


@on_platform()
async def test_a_replica_has_its_own_folder_ports_and_a_clean_environment(client):
    os.environ["workers"] = "77"
    try:
        await client.deploy(labels=TWO, envProcess="python index.py")
    finally:
        del os.environ["workers"]
    one, other = [(await client.call("GET", "/function/echo")).json()["environ"] for _ in range(2)]
    for key in ("TMPDIR", "port", "metrics_port", "HOSTNAME", "secret_mount_path"):
        assert one[key] != other[key]
    assert "workers" not in one
    assert (one["fprocess"], one["function_path"]) == ("python index.py", str(client.folder / "handler"))
    assert len(one["TMPDIR"]) < 40  # Unix sockets are put there


@on_platform()
async def test_a_replica_loses_its_readiness_after_three_failed_probes_and_gets_it_back(client):
    gate = client.folder / "gate"
    gate.touch()
    await client.deploy(envVars={"ready_file": str(gate)})
    gate.unlink()
    await until(lambda: client.function.available == 0)
    assert [line.text for line in client.function.log.lines()].count("not ready") >= 3
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


def test_a_start_that_cannot_be_is_an_error_for_the_user(tmp_path, monkeypatch):
    async def start(**settings):
        async with platform_client(tmp_path, **settings) as client:
            await start(port=int(client.platform.gateway_url.rpartition(":")[2]))

    monkeypatch.setattr(shutil, "which", lambda _: None)
    handler = tmp_path / "handler"
    for settings, words in (
        ({}, "cannot listen on .*port 0"),
        ({"images": {"i": tmp_path / "missing"}}, "missing"),
        ({"images": {"i": tmp_path}}, "handler.py"),
        ({"stack": handler / "handler.py"}, "handler.py"),
        ({"basic_auth_dir": tmp_path}, "basic-auth-user"),
        ({"with_autoscaler": True}, "Prometheus"),
        ({"with_prometheus": True, "prometheus_port": 0}, "prometheus is not installed"),
        ({"with_prometheus": True, "with_autoscaler": True, "autoscaler_config": tmp_path}, "autoscaler"),
    ):
        with pytest.raises(PlatformError, match=words):
            asyncio.run(start(**settings))


@on_platform()
async def test_a_stack_is_deployed_with_overrides(client):
    stack = client.folder / "stack.yml"
    stack.write_text("functions: {one: {handler: handler, image: i}, two: {handler: handler, image: i}}")
    client.platform.deploy_stack(stack, {"batch_policy": "unbatched"}, only=["two"])
    await client.platform.settled()
    environ = (await client.call("GET", "/function/two")).json()["environ"]
    assert environ["batch_policy"] == "unbatched"
    assert await client.status("GET", "/function/one") == 404


# The real watchdog, gunicorn, Prometheus and the autoscaler.

HANDLER = """
import os, time

def handle_batch(events, context):
    gates = [event.query["gate"] for event in events if "gate" in event.query]
    while not all(map(os.path.exists, gates)):
        time.sleep(0.01)
    return [event.body for event in events]
"""


@pytest.mark.parametrize(
    ("option", "value"), [("--port", "eighty"), ("--image", "nothing"), ("--hold-timeout", "-1")]
)
def test_wrong_argument_ends_the_command_with_its_text_and_status_2(capsys, option, value):
    with pytest.raises(SystemExit) as stop:
        main(["up", option, value])
    assert stop.value.code == 2
    assert value in capsys.readouterr().err


@pytest.mark.parametrize(("option", "name"), [("--run-dir", "file/run"), ("--stack", "missing.yml")])
def test_path_that_is_of_no_use_ends_the_command_with_one_line_and_status_1(capsys, tmp_path, option, name):
    (tmp_path / "file").touch()
    assert main(["up", "--no-prometheus", "--port", "0", option, str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert name in error
    assert error.count("\n") == 1


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
def test_an_idle_function_goes_to_zero_by_an_autoscaler_that_has_the_credentials(tmp_path):
    document = yaml.safe_load(AUTOSCALER_CONFIG.read_text())
    document["defaults"] |= {"scale_to_zero_after": "1s", "scale_down": {"stabilization_window": "1s"}}
    document["web"]["page_port"] = 0
    config = tmp_path / "autoscaler.yaml"
    config.write_text(yaml.safe_dump(document))

    @on_platform(
        replica_command=WATCHDOG,
        autoscaler_config=config,
        basic_auth_dir=credentials(tmp_path),
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
        client.defaults = {"headers": BASIC}
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
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_survives_up_however_it_ends_and_the_next_one_tidies_up(tmp_path, number):
    (tmp_path / "fn").mkdir()
    (tmp_path / "fn" / "handler.py").write_text(HANDLER)
    stack = tmp_path / "stack.yml"
    stack.write_text("functions: {f: {handler: fn, image: f, environment: {workers: 2}}}")
    # Short, as Unix sockets are put there.
    with tempfile.TemporaryDirectory(prefix="lt-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        with up("--stack", stack, "--prometheus-port", "0", TMPDIR=folder) as (platform, _):
            # The watchdog, gunicorn's arbiter, its two workers, Prometheus and the autoscaler.
            asyncio.run(until(lambda: len(descendants(platform.pid)) >= 6))
            below = descendants(platform.pid)
            platform.send_signal(number)
            _, error = platform.communicate()
            assert platform.returncode == (-number if number == signal.SIGKILL else 0), error
            asyncio.run(until(lambda: not any(map(alive, below))))
        mine = Path(folder) / f"lof-{os.getpid()}-mine"
        mine.mkdir()
        with up("--no-prometheus", TMPDIR=folder):
            (left,) = (path for path in Path(folder).glob("lof-*") if path != mine)
            assert mine.exists()
            assert f"-{platform.pid}-" not in left.name


IMPORTING = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == "uvloop":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
sys.meta_path.insert(0, Interrupts())
from tailbound_lab.local.__main__ import main
sys.exit(main(["up", "--no-prometheus", "--port", "0"]))
"""


def test_up_interrupted_during_its_imports_ends_without_a_traceback():
    run = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_signaled_while_prometheus_starts_stops_and_leaves_no_process(tmp_path, number):
    prometheus = tmp_path / "prometheus"
    prometheus.write_text("#!/bin/sh\nexec sleep 600\n")  # never ready
    prometheus.chmod(0o755)
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    command, pipe = [*UP, "--prometheus-port", "0"], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environ) as platform:
        asyncio.run(until(lambda: any(map(sleeps, descendants(platform.pid)))))
        below = descendants(platform.pid)
        platform.send_signal(number)
        said, error = platform.communicate()
    assert (platform.returncode, said, error.count("\n")) == (0, "", 1), error
    assert not any(map(alive, below))
    assert list(tmp_path.iterdir()) == [prometheus]


def sleeps(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    except OSError:  # it has ended
        return False


@on_platform()
async def test_a_stack_whose_folder_is_missing_names_file_and_function_and_deploys_nothing(client):
    stack = client.folder / "stack.yml"
    stack.write_text("functions: {one: {handler: handler, image: i}, two: {handler: missing, image: j}}")
    with pytest.raises(PlatformError, match=r"stack\.yml: two: .*missing"):
        client.platform.deploy_stack(stack)
    assert not list(client.platform.registry)


def test_up_whose_stdout_takes_nothing_serves_until_sigterm():
    pipe = subprocess.PIPE
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen([*UP, "--no-prometheus"], stdout=full, stderr=pipe, text=True) as platform,
    ):
        assert platform.stderr is not None
        platform.stderr.readline()
        platform.send_signal(signal.SIGTERM)
        platform.communicate()
    assert platform.returncode == 0
