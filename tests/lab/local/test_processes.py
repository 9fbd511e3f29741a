"""The life of processes: output, restarts, stops, and that nothing survives."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from lab.local.harness import STANDIN, TWO, alive, on_platform, platform_client, until
from tailbound_lab.local.errors import StartError
from tailbound_lab.local.logs import FunctionLog, LogFile
from tailbound_lab.local.platform import Settings, open_platform
from tailbound_lab.local.ports import free_ports
from tailbound_lab.local.services import (
    PROMETHEUS_CONFIG,
    PROMETHEUS_FOLDER,
    Service,
    Targets,
    page_url,
    prometheus_configuration,
)
from tailbound_lab.local.supervisor import Launch, Supervisor, exit_text, restart_delay


def python(code: str) -> Launch:
    return Launch((sys.executable, "-c", code), os.environ)


SLEEP = "import time; time.sleep(600)"


def supervised(launch, scenario):
    """Keep a child alive during ``scenario``; return what it said."""
    lines: list[str] = []

    async def run():
        async with asyncio.timeout(50):
            supervisor = Supervisor("child", launch, lines.append)
            supervisor.start()
            try:
                await scenario(supervisor)
            finally:
                await supervisor.stop(0.1)

    asyncio.run(run())
    return lines


async def started_twice(supervisor):
    await until(lambda: supervisor.starts == 2)


def test_a_child_that_keeps_crashing_is_started_ever_more_slowly():
    delays = [restart_delay(failures) for failures in range(1, 12)]
    assert (delays[0], delays[-1]) == (0.1, 10.0)
    assert delays == sorted(delays)


@pytest.mark.parametrize(("status", "words"), [(3, "3"), (-9, "SIGKILL"), (-200, "200")])
def test_an_exit_is_told_with_its_status_or_signal(status, words):
    assert words in exit_text(status)


def test_both_streams_are_captured_as_lines_and_long_ones_are_cut():
    code = "import sys; print('out'); sys.stderr.write('err\\n' + 'x' * 200_000 + '\\nlast'); sys.exit(4)"
    lines = supervised(lambda: python(code), started_twice)
    first = lines[: next(number for number, line in enumerate(lines) if "status 4" in line)]
    assert {"out", "err", "last"} < set(first)
    assert sum(line.count("x") for line in first if set(line) == {"x"}) == 200_000
    assert max(map(len, first)) <= 65_536


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        (lambda: Launch(("/no/such/program",), os.environ), "cannot run /no/such/program"),
        # A grandchild that holds the output does not hide the exit.
        (lambda: python("import subprocess, sys; subprocess.Popen(['sleep', '3']); sys.exit(5)"), "status 5"),
    ],
)
def test_a_child_that_ends_is_said_and_started_again(launch, words):
    assert any(words in line for line in supervised(launch, started_twice))


def test_a_launch_that_fails_is_said_and_tried_again():
    attempts = []

    def launch():
        attempts.append(None)
        if len(attempts) == 1:
            raise OSError("no free ports")
        return python(SLEEP)

    async def scenario(supervisor):
        await until(lambda: supervisor.pid)

    assert "no free ports" in supervised(launch, scenario)[0]


def test_what_watches_a_child_ends_with_it_and_its_failure_does_not_matter():
    watching = []

    async def watch():
        watching.append("began")
        try:
            await asyncio.sleep(600)
        finally:
            watching.append("ended")
            raise ValueError

    async def run():
        supervisor = Supervisor("child", lambda: python(SLEEP), print, watch=watch)
        supervisor.start()
        await until(lambda: watching)
        await supervisor.stop(0.1)

    asyncio.run(run())
    assert watching == ["began", "ended"]


def test_a_service_that_was_stopped_is_waited_for_again_when_it_is_started_again(tmp_path):
    (port,) = free_ports(1)
    command = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    launch = Launch(command, os.environ, cwd=tmp_path)
    service = Service("web", lambda: launch, tmp_path / "logs" / "web.log", f"http://127.0.0.1:{port}/")

    async def run():
        for starts in (1, 2):
            await service.start(50.0)
            assert (service.pid is None, service.starts) == (False, starts)
            await service.stop(0.0)
            assert service.pid is None

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "words"), [("print('wrong key'); exit(1)", "wrong key"), (SLEEP, "web.log")]
)
def test_a_service_that_does_not_come_up_is_an_error_with_its_last_words(tmp_path, code, words):
    service = Service("web", lambda: python(code), tmp_path / "web.log", "http://127.0.0.1:1/")

    async def run():
        try:
            await service.start(1.0 if code == SLEEP else 50.0)
        finally:
            await service.stop(0.0)

    with pytest.raises(StartError, match=words):
        asyncio.run(run())


def test_a_log_keeps_its_last_lines_by_time_count_and_instance(tmp_path):
    log = FunctionLog(tmp_path / "f.ns", kept_lines=4)
    for number in range(5):
        log.write(f"f-{number % 2}", f"line {number}")
    log.close()
    assert [line.text for line in log.lines()] == ["line 1", "line 2", "line 3", "line 4"]
    assert [line.text for line in log.lines(tail=1)] == ["line 4"]
    assert [line.text for line in log.lines(instance="f-0")] == ["line 2", "line 4"]
    assert log.lines(since=log.lines()[2].timestamp)[-2:] == log.lines()[2:]
    assert log.lines(since=datetime.now(UTC) + timedelta(hours=1)) == []


def test_a_full_log_file_is_put_aside_once(tmp_path):
    file = LogFile(tmp_path / "f.log", full_bytes=10)
    for number in range(5):
        file.write(f"line {number}")
    file.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.log", "f.log.1"]
    assert file.path.read_text() == "line 4\n"


STARTED = "INFO slo-autoscaler 0.1.0: gateway, every 1s; /metrics, /healthz and /decisions on 127.0.0.1:20427"


@pytest.mark.parametrize(
    ("log", "url"),
    [
        (f"{STARTED}; status page on http://127.0.0.1:8083; dry run\n", "http://127.0.0.1:8083"),
        (f"WARNING web: cannot listen on 127.0.0.1:8083; going on without\n{STARTED}\n", None),
        (f"{STARTED}; status page on http://a:1\n{STARTED}; status page on http://a:2\n", "http://a:2"),
    ],
    ids=["as usual", "its port was taken", "it was started again"],
)
def test_where_the_status_page_is_stands_in_the_log(tmp_path, log, url):
    path = tmp_path / "autoscaler.log"
    path.write_text(log)
    assert page_url(path) == url


def test_the_prometheus_configuration_gets_this_runs_targets_and_keeps_the_rest():
    template = yaml.safe_load((PROMETHEUS_FOLDER / PROMETHEUS_CONFIG).read_text())
    both = Targets("127.0.0.1:1111", "127.0.0.1:2222")
    config = prometheus_configuration(
        template, PROMETHEUS_FOLDER, both, extra_rules=["openfaas-baseline.yml"]
    )
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    (discovery,) = jobs["functions"]["http_sd_configs"]
    assert discovery == {"url": "http://127.0.0.1:1111/sd/replicas", "refresh_interval": "1s"}
    assert jobs["gateway"]["static_configs"] == [{"targets": ["127.0.0.1:1111"]}]
    assert jobs["autoscaler"]["static_configs"] == [{"targets": ["127.0.0.1:2222"]}]
    assert config["global"] == template["global"]
    assert len(config["rule_files"]) == len(template["rule_files"]) + 1
    assert all(Path(rule).is_file() for rule in config["rule_files"])
    without = prometheus_configuration(template, PROMETHEUS_FOLDER, Targets("127.0.0.1:1111"))
    assert "autoscaler" not in [job["job_name"] for job in without["scrape_configs"]]
    with pytest.raises(StartError):
        prometheus_configuration({}, PROMETHEUS_FOLDER, both)


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


@pytest.mark.parametrize("hurried", [False, True])
def test_a_stop_kills_what_ignores_sigterm_and_leaves_nothing_behind(tmp_path, hurried):
    async def run():
        grace = 600.0 if hurried else 0.2
        async with platform_client(tmp_path, run_dir=None, stop_grace=grace) as client:
            await client.deploy(envVars={"ignore_sigterm": "true"})
            (replica,) = client.function.replicas
            pid, folders = replica.pid, [client.platform.run_dir, Path(replica.environment()["TMPDIR"])]
            if hurried:
                stopping = asyncio.create_task(client.platform.stop())
                await until(lambda: replica.draining)
                client.platform.hurry()
                await stopping
        assert not alive(pid)
        assert not any(folder.exists() for folder in folders)

    asyncio.run(run())


def test_a_start_that_cannot_be_is_an_error_for_the_user(tmp_path, monkeypatch):
    async def start(**settings):
        async with open_platform(
            Settings(
                **{"port": 0, "run_dir": tmp_path, "with_prometheus": False, "with_autoscaler": False}
                | settings
            )
        ) as platform:
            await start(port=int(platform.gateway_url.rpartition(":")[2]))

    monkeypatch.setattr(shutil, "which", lambda _: None)
    for settings, words in (
        ({}, "cannot listen on"),
        ({"images": {"i": tmp_path / "missing"}}, "missing"),
        ({"basic_auth_dir": tmp_path}, "basic-auth-user"),
        ({"with_autoscaler": True}, "Prometheus"),
        ({"with_prometheus": True, "prometheus_port": 0}, "prometheus is not installed"),
        ({"with_prometheus": True, "with_autoscaler": True, "autoscaler_config": tmp_path}, "autoscaler"),
    ):
        with pytest.raises(StartError, match=words):
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


UP = (sys.executable, "-m", "tailbound_lab.local", "up")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--no-prometheus", "--port", "0", "--stack", "missing.yml"), 1, "missing.yml"),
        (("--port", "eighty"), 2, "eighty"),
        (("--image", "nothing"), 2, "nothing"),
        (("--max-replicas", "-1"), 2, "-1"),
    ],
)
def test_a_wrong_argument_ends_the_command_in_words(tmp_path, arguments, status, words):
    done = subprocess.run([*UP, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_says_where_it_listens_and_stops_cleanly(tmp_path, number):
    command = [*UP, "--no-prometheus", "--port", "0", "--run-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as platform:
        url = next(line.split()[1] for line in platform.stdout if line.startswith("gateway"))
        with urllib.request.urlopen(f"{url}/system/functions") as answer:
            assert json.load(answer) == []
        platform.send_signal(number)
        _, error = platform.communicate()
    assert platform.returncode == 0
    assert "Traceback" not in error


KILLED = """
import asyncio, sys
from pathlib import Path
from tailbound_lab.local.platform import Settings, open_platform
from tailbound_lab.local.specs import FunctionSpec

async def main():
    settings = Settings(
        port=0, with_prometheus=False, with_autoscaler=False, run_dir=Path(sys.argv[1]),
        images={"i": Path(sys.argv[2])}, replica_command=sys.argv[3:],
    )
    async with open_platform(settings) as platform:
        function = platform.deploy(FunctionSpec("f", "i", labels={"com.openfaas.scale.min": "3"}))
        await platform.settled()
        print(*(replica.pid for replica in function.replicas), flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.e2e
def test_nothing_survives_a_platform_that_is_killed_and_the_next_one_tidies_up(tmp_path, monkeypatch):
    (tmp_path / "handler.py").touch()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run"), str(tmp_path), *STANDIN]
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as platform:
        pids = [int(pid) for pid in platform.stdout.readline().split()]
        assert len(pids) == 3
        platform.kill()
    asyncio.run(until(lambda: not any(map(alive, pids))))
    (left,) = tmp_path.glob("lof-*")
    mine = tmp_path / f"lof-{os.getpid()}-mine"
    mine.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    asyncio.run(_up_and_down(tmp_path))
    assert (left.exists(), mine.exists()) == (False, True)


async def _up_and_down(folder):
    async with platform_client(folder):
        pass
