"""The life of processes: restarts, stops, and that nothing survives."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import aiohttp
import pytest
import yaml

from lab.local.harness import STANDIN, platform_client, until, with_platform
from tailbound_lab.local.errors import StartError
from tailbound_lab.local.functions import Images
from tailbound_lab.local.platform import Platform, Settings, open_platform
from tailbound_lab.local.ports import free_ports
from tailbound_lab.local.services import PROMETHEUS_CONFIG as CONFIG_NAME
from tailbound_lab.local.services import PROMETHEUS_FOLDER as DEFAULT_FOLDER
from tailbound_lab.local.services import Targets
from tailbound_lab.local.services import prometheus_configuration as configuration


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_free_ports_are_different_and_outside_the_outgoing_range():
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < 32768


def test_a_replica_has_its_own_folder_ports_and_a_clean_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("workers", "77")

    async def scenario(client):
        await client.deploy(labels={"com.openfaas.scale.min": "2"}, envProcess="python index.py")
        environs = [(await client.call("GET", "/function/echo")).json()["environ"] for _ in range(2)]
        for key in ("TMPDIR", "port", "metrics_port", "HOSTNAME", "secret_mount_path"):
            assert environs[0][key] != environs[1][key]
        for environ in environs:
            assert "workers" not in environ
            assert environ["fprocess"] == "python index.py"
            assert environ["function_path"] == str(tmp_path / "handler")
            assert len(environ["TMPDIR"]) < 40

    with_platform(tmp_path, scenario)


def test_a_replica_that_crashes_is_started_again_on_new_ports(tmp_path):
    async def scenario(client):
        await client.deploy()
        (function,) = client.platform.registry
        (replica,) = function.replicas
        before = replica.port
        assert (await client.call("GET", "/function/echo/exit")).status == 502
        await until(lambda: replica.starts == 2)
        await client.platform.settled()
        assert replica.port != before
        assert (await client.call("GET", "/function/echo")).status == 200
        texts = [line.text for line in function.log.lines()]
        assert any(text.startswith("exited with status 3; starting again in") for text in texts)

    with_platform(tmp_path, scenario)


def test_a_replica_that_ignores_sigterm_is_killed_when_the_platform_stops(tmp_path):
    async def run():
        async with platform_client(tmp_path, stop_grace=0.2) as client:
            await client.deploy(envVars={"ignore_sigterm": "true"})
            (function,) = client.platform.registry
            pid = function.replicas[0].pid
        assert not alive(pid)

    asyncio.run(run())


def test_a_stop_that_is_hurried_does_not_wait_for_the_drain(tmp_path):
    async def run():
        async with asyncio.timeout(20):
            async with platform_client(tmp_path, stop_grace=600.0) as client:
                await client.deploy(envVars={"ignore_sigterm": "true"})
                (function,) = client.platform.registry
                pid = function.replicas[0].pid
                removed = asyncio.create_task(client.platform.stop())
                await asyncio.sleep(0)
                client.platform.hurry()
                await removed
            assert not alive(pid)

    asyncio.run(run())


def test_a_clean_stop_leaves_no_process_and_no_temporary_folder(tmp_path):
    async def run():
        async with platform_client(tmp_path, run_dir=None) as client:
            await client.deploy(labels={"com.openfaas.scale.min": "3"})
            (function,) = client.platform.registry
            pids = [replica.pid for replica in function.replicas]
            folders = [client.platform.run_dir, Path(function.replicas[0].environment()["TMPDIR"])]
        assert not any(map(alive, pids))
        assert not any(folder.exists() for folder in folders)

    asyncio.run(run())


def test_a_port_in_use_and_a_bad_image_folder_stop_the_start_in_words(tmp_path):
    async def start(**settings):
        async with platform_client(tmp_path, **settings) as client:
            return client.platform.gateway_url

    async def busy():
        async with platform_client(tmp_path) as client:
            await start(port=int(client.platform.gateway_url.rpartition(":")[2]))

    with pytest.raises(StartError, match="cannot listen on"):
        asyncio.run(busy())
    with pytest.raises(StartError, match="is not a folder"):
        asyncio.run(start(images={"i": tmp_path / "missing"}))
    with pytest.raises(StartError, match=r"no handler\.py"):
        asyncio.run(start(images={"i": tmp_path}))
    with pytest.raises(StartError, match="cannot read"):
        asyncio.run(start(basic_auth_dir=tmp_path))


def test_one_image_cannot_be_two_handlers(tmp_path):
    images = Images()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "handler.py").touch()
    images.add("i", tmp_path / "a")
    images.add("i", tmp_path / "a")
    with pytest.raises(StartError, match="names both"):
        images.add("i", tmp_path / "b")


def test_a_stack_is_deployed_with_overrides(tmp_path):
    (tmp_path / "fn").mkdir()
    (tmp_path / "fn" / "handler.py").touch()
    stack = tmp_path / "stack.yml"
    stack.write_text("functions: {one: {handler: fn, image: i}, two: {handler: fn, image: i}}")

    async def scenario(client):
        client.platform.deploy_stack(stack, {"batch_policy": "unbatched"}, only=["two"])
        await client.platform.settled()
        answer = await client.call("GET", "/function/two")
        assert answer.json()["environ"]["batch_policy"] == "unbatched"
        assert (await client.call("GET", "/function/one")).status == 404

    with_platform(tmp_path, scenario)


def test_the_prometheus_configuration_gets_this_runs_targets_and_keeps_the_rest():
    template = yaml.safe_load((DEFAULT_FOLDER / CONFIG_NAME).read_text())
    config = configuration(
        template,
        DEFAULT_FOLDER,
        Targets("127.0.0.1:1111", "127.0.0.1:2222"),
        extra_rules=["openfaas-baseline.yml"],
    )
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    (discovery,) = jobs["functions"]["http_sd_configs"]
    assert discovery == {"url": "http://127.0.0.1:1111/sd/replicas", "refresh_interval": "1s"}
    assert jobs["gateway"]["static_configs"] == [{"targets": ["127.0.0.1:1111"]}]
    assert jobs["autoscaler"]["static_configs"] == [{"targets": ["127.0.0.1:2222"]}]
    assert config["global"] == template["global"]
    assert [Path(rule).name for rule in config["rule_files"]] == [
        "tailbound.yml",
        "slo.yml",
        "slo-gateway.yml",
        "autoscaler.yml",
        "openfaas-baseline.yml",
    ]
    assert all(Path(rule).is_file() for rule in config["rule_files"])
    without = configuration(template, DEFAULT_FOLDER, Targets("127.0.0.1:1111"))
    assert "autoscaler" not in [job["job_name"] for job in without["scrape_configs"]]
    with pytest.raises(StartError, match="no scrape job 'functions'"):
        configuration({}, DEFAULT_FOLDER, Targets("127.0.0.1:1111"))


def test_a_missing_prometheus_is_said_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)

    async def run():
        async with open_platform(
            Settings(port=0, prometheus_port=0, with_autoscaler=False, run_dir=tmp_path)
        ):
            pass

    with pytest.raises(StartError, match="apt-get install prometheus"):
        asyncio.run(run())


async def _until_value(platform: Platform, query: str) -> None:
    """Return when Prometheus has an answer to ``query`` that is not empty."""
    url = f"{platform.prometheus_url}/api/v1/query"
    async with aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url, params={"query": query}) as answer:
                    if (await answer.json())["data"]["result"]:
                        return
            await asyncio.sleep(0.1)


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_prometheus_finds_the_replicas_and_keeps_its_data_when_it_is_killed(tmp_path):
    async def run():
        async with platform_client(tmp_path, with_prometheus=True, prometheus_port=0) as client:
            platform = client.platform
            await client.deploy(labels={"com.openfaas.scale.min": "2"})
            await _until_value(platform, "function_name:up:sum == 2")
            os.kill(platform.prometheus.pid, signal.SIGKILL)
            await until(lambda: platform.prometheus.starts == 2)
            # Counted before it was killed: the new process can only have it from the data that was kept.
            await _until_value(platform, "count_over_time(function_name:up:sum[1h])")

    async def bounded():
        async with asyncio.timeout(45):
            await run()

    asyncio.run(bounded())


UP = """
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
def test_nothing_survives_a_platform_that_is_killed(tmp_path, monkeypatch):
    (tmp_path / "handler.py").touch()
    command = [sys.executable, "-c", UP, str(tmp_path / "run"), str(tmp_path), *STANDIN]
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as platform:
        pids = [int(pid) for pid in platform.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(alive, pids))
        platform.kill()

    async def gone():
        async with asyncio.timeout(10):
            await until(lambda: not any(map(alive, pids)))

    asyncio.run(gone())

    # The next one removes what it left behind; a folder of a living one stays.
    (left,) = tmp_path.glob("lof-*")
    mine = tmp_path / f"lof-{os.getpid()}-mine"
    mine.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with_platform(tmp_path, client_does_nothing)
    assert (left.exists(), mine.exists()) == (False, True)


async def client_does_nothing(client):
    pass
