"""OpenFaaS' own faas-cli and gateway against the platform, where they are on PATH; the autoscaler too.

The gateway is of the Community Edition: 1 to 5 replicas, whatever is asked for.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.local.openfaas import (
    BASIC,
    GATEWAY,
    GATEWAY_METRICS,
    PASSWORD,
    USER,
    a_prometheus,
    call,
    credentials,
    faas,
    local_platform,
    missing,
    real_gateway,
    run_faas,
    until,
)
from tailbound_lab.local.ports import free_ports

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[3]
IMAGE = "registry.local/me/my-model:latest"
HANDLER = """
import time

def handle_batch(events, context):
    time.sleep(0.05 * len(events))      # batches save nothing, so a replica does 20 requests/s
    return [event.body for event in events]

def example():
    return b"x"
"""
SLEEPER = {
    "service": "sleeper",
    "image": "sleeper:latest",
    "envVars": {"slo_latency": "250ms", "slo_objective": "0.9", "workers": "1", "healthcheck_interval": "0s"},
    "labels": {"com.openfaas.scale.max": "9"},
}
CONFIG = """
platform:
  kind: openfaas
  gateway_url: {gateway}
  basic_auth: {{user_file: "{secrets}/basic-auth-user", password_file: "{secrets}/basic-auth-password"}}
  timeout: 1s
prometheus: {{url: "http://{prometheus}", scrape_interval: 500ms, window: 3s, timeout: 2s, max_age: 3s}}
interval: 250ms
web: {{host: 127.0.0.1, port: 0, page_port: null}}
defaults: {{start_up_time: 1s, min_samples: 5, scale_to_zero_after: 4s,
  scale_down: {{stabilization_window: 4s}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which the real faas-cli made a function from our template."""
    folder = tmp_path_factory.mktemp("cli")
    faas(folder, "template", "pull", str(ROOT))
    faas(folder, "new", "my-model", "--lang", "python3-inference", "--prefix", "registry.local/me")
    return folder


@pytest.fixture
def sleeper(tmp_path) -> tuple[str, str]:
    """Options of a platform that knows the image of a sleeping function."""
    handler = tmp_path / "sleeper"
    handler.mkdir()
    (handler / "handler.py").write_text(HANDLER)
    return "--image", f"sleeper:latest={handler}"


@missing("faas-cli")
def test_faas_cli_makes_a_build_context_of_the_template(folder):
    faas(folder, "build", "--shrinkwrap", "-f", "stack.yaml")
    context = folder / "build/my-model"
    for path in ("Dockerfile", "function/handler.py", "batching-watchdog/pyproject.toml"):
        assert (context / path).is_file()
    assert not [path for path in context.rglob("*") if path.is_symlink()]


@missing("faas-cli")
def test_faas_cli_up_builds_pushes_and_deploys(folder, monkeypatch, tmp_path):
    # It only calls docker, so what it calls it with is all there is to see here.
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$PWD: $*" >> {tmp_path}/calls\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with local_platform("--image", f"{IMAGE}={folder / 'my-model'}") as url:
        faas(folder, "up", "-f", "stack.yaml", gateway=url)
        build, push = (tmp_path / "calls").read_text().splitlines()
        assert build.startswith(f"{folder / 'build/my-model'}: build ")
        assert build.endswith(f"--tag {IMAGE} .")
        assert push.endswith(f": push {IMAGE}")
        assert "my-model" in faas(folder, "list", "--quiet", gateway=url)


@missing("faas-cli")
@pytest.mark.parametrize(
    "front", ["provider", pytest.param("gateway", marks=missing("gateway", "prometheus"))]
)
def test_faas_cli_goes_through_a_functions_life(folder, tmp_path, front):
    with contextlib.ExitStack() as stack:
        provider = url = stack.enter_context(local_platform("--image", f"{IMAGE}={folder / 'my-model'}"))
        if front == "gateway":
            # A list has its invocations from there.
            prometheus = f"127.0.0.1:{free_ports(1)[0]}"
            stack.enter_context(a_prometheus(tmp_path / "prometheus", prometheus, provider))
            stack.enter_context(real_gateway(provider, tmp_path, prometheus=prometheus))
            url = GATEWAY

        def cli(*arguments: str, stdin: str = "") -> str:
            return faas(folder, *arguments, gateway=url, stdin=stdin)

        def refused(*arguments: str) -> str:
            done = run_faas(folder, *arguments, gateway=url)
            assert done.returncode == 1, done.stdout
            return done.stdout + done.stderr

        assert "local-openfaas" in run_faas(folder, "version", gateway=url).stdout
        cli("secret", "create", "key", "--from-literal", "value")
        assert "key" in cli("secret", "list")
        cli("deploy", "-f", "stack.yaml", "--label", "com.openfaas.scale.min=1", "--secret", "key")
        assert "is ready" in cli("ready", "my-model")
        cli("deploy", "-f", "stack.yaml", "--env", "slo_latency=300ms")
        assert "is ready" in cli("ready", "my-model")
        assert json.loads(cli("invoke", "my-model", stdin='{"x": [1, 2, 3, 4]}').splitlines()[-1])["y"]
        assert "400" in refused("invoke", "my-model")
        assert "404" in refused("invoke", "nobody")
        assert IMAGE in cli("list", "--verbose")
        described = cli("describe", "my-model")
        assert "Available Replicas: 1" in described
        assert f"{url}/function/my-model" in described
        refused("describe", "nobody")
        assert "my-model-1" in cli("logs", "my-model", "--tail=false", "--instance")
        cli("remove", "-f", "stack.yaml")
        refused("remove", "my-model")
        assert "my-model" not in cli("list", "--quiet")
        cli("secret", "remove", "key")


@missing("faas-cli", "gateway")
def test_faas_cli_logs_in_where_gateway_and_provider_share_credentials(folder, tmp_path):
    secrets = credentials(tmp_path / "secrets")
    with (
        local_platform("--basic-auth-dir", str(secrets)) as provider,
        real_gateway(provider, tmp_path, basic_auth=secrets),
    ):
        for url in (provider, GATEWAY):
            assert run_faas(folder, "list", gateway=url).returncode == 1
            faas(folder, "login", "--username", USER, "--password-stdin", gateway=url, stdin=PASSWORD)
            # With nothing deployed the gateway asks no Prometheus.
            faas(folder, "list", gateway=url)
            faas(folder, "logout", gateway=url)


@contextlib.contextmanager
def program(log: Path, *arguments: str):
    """A Python program whose output goes to two files, until the block ends."""
    with log.open("wb") as out, log.with_suffix(".err").open("wb") as error:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=out,
            stderr=error,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@missing("gateway", "prometheus")
def test_the_autoscaler_follows_the_load_through_the_gateway_and_its_failures(tmp_path, sleeper):
    secrets = credentials(tmp_path / "secrets")
    prometheus = f"127.0.0.1:{free_ports(1)[0]}"
    config, log = tmp_path / "autoscaler.yaml", tmp_path / "decisions"
    config.write_text(CONFIG.format(gateway=GATEWAY, secrets=secrets, prometheus=prometheus))

    def decisions() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines()]

    def decided(reason: str) -> bool:
        return any(line["reason"] == reason for line in decisions())

    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(local_platform(*sleeper, "--basic-auth-dir", str(secrets)))
        gateway = stack.enter_context(
            real_gateway(provider, tmp_path, prometheus=prometheus, basic_auth=secrets)
        )

        def post(path: str, body: object) -> int:
            data = json.dumps(body).encode()
            return call(f"{GATEWAY}{path}", method="POST", body=data, headers=BASIC)[0]

        def function() -> dict[str, Any]:
            status, body = call(f"{provider}/system/function/sleeper", headers=BASIC)
            return json.loads(body) if status == 200 else {}

        def replicas() -> int:
            return int(function().get("replicas", 0))

        with a_prometheus(tmp_path / "prometheus", prometheus, provider) as first:
            assert post("/system/functions", SLEEPER) == 202
            until(lambda: function().get("availableReplicas"), "the function is ready")
            # What the gateway makes of a count: no less than 1, no more than 5, and it never says so.
            for asked, given in ((0, 1), (9, 5), (1, 1)):
                scale = {"serviceName": "sleeper", "replicas": asked}
                assert (post("/system/scale-function/sleeper", scale), replicas()) == (202, given)
            autoscaler = stack.enter_context(program(log, "slo_autoscaler", "--config", str(config)))
            until(decisions, "the autoscaler decides")
            url = f"{GATEWAY}/function/sleeper"
            load = ("tailbound_lab.load.openloop", "--url", url, "--rate", "120:600")
            with program(tmp_path / "load", *load):
                until(lambda: decided("PlatformCap"), "120/s are more than 5 replicas of 20/s")
                assert replicas() == 5
                told = gateway.log.count("to /system/scale-function/sleeper")
                gateway.kill()
                errors = log.with_suffix(".err")
                until(lambda: "cannot list functions" in errors.read_text(), "the gateway is missed")
                lists = gateway.log.count("to /system/functions")
                gateway.start()
                until(lambda: gateway.log.count("to /system/functions") > lists, "and found again")
                assert gateway.log.count("to /system/scale-function/sleeper") == told, "it was told once"
                first.kill()
                until(lambda: "no observations" in errors.read_text(), "there is no Prometheus")
                # The gateway's list panics now; a function can still be read alone.
                assert call(f"{GATEWAY}/system/functions", headers=BASIC)[0] == 0
                assert call(f"{GATEWAY}/system/function/sleeper", headers=BASIC)[0] == 200
                assert replicas() == 5
        with a_prometheus(tmp_path / "prometheus", prometheus, provider):
            until(lambda: replicas() == 1, "without load there is one again")
            # It is idle for long enough to go, which this gateway does not do: it stays, and is left alone.
            until(lambda: decided("Idle"), "zero is asked for")
            until(lambda: decisions()[-1]["to"] == 1, "one was given")
            assert replicas() == 1
        autoscaler.send_signal(signal.SIGTERM)
        assert autoscaler.wait(10) == 0
        assert "Traceback" not in errors.read_text()


def gateway_series(exposition: bytes) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """The gateway's own samples by name and labels.

    Edges as numbers, which Go and Python write differently; names without the ending that the parser adds to
    counters.
    """
    return {
        (
            sample.name.removesuffix("_total"),
            frozenset(
                (label, str(float(value)) if label == "le" else value)
                for label, value in sample.labels.items()
            ),
        )
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
        if sample.name.startswith("gateway_")
    }


@missing("gateway")
def test_the_platforms_metrics_are_the_gateways(tmp_path, sleeper):
    with local_platform(*sleeper) as provider, real_gateway(provider, tmp_path):
        body = json.dumps(SLEEPER).encode()
        assert call(f"{GATEWAY}/system/functions", method="POST", body=body)[0] == 202
        # Each is held until there is a replica.
        for path in ("sleeper", "sleeper.openfaas-fn", "sleeper/below?a=b"):
            assert call(f"{GATEWAY}/function/{path}", method="POST", body=b"x") == (200, b"x")

        def exposed(url: str) -> set[tuple[str, frozenset[tuple[str, str]]]]:
            return gateway_series(call(f"{url}/metrics")[1])

        theirs = f"http://{GATEWAY_METRICS}"
        # The gateway asks for the functions every five seconds.
        until(lambda: "gateway_service_count" in dict(exposed(theirs)), "it knows the function")
        assert exposed(theirs) == exposed(provider)
