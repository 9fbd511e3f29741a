"""OpenFaaS' own faas-cli and gateway against the platform, where they are on PATH.

The gateway listens on 8080 and 8082, whatever it is told, so one test at a time has it.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.local.harness import PASSWORD, USER, credentials, fixed_ports, missing, program, until, up
from tailbound_lab.local.ports import free_ports

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[3]
GATEWAY, GATEWAY_METRICS = "http://127.0.0.1:8080", "127.0.0.1:8082"
IMAGE = "registry.local/me/my-model:latest"


def wait(condition):
    asyncio.run(until(condition))


def call(url, body=None):
    """Status and body of a GET or, with a body, a POST; the status is 0 where there was no good answer."""
    try:
        with urllib.request.urlopen(url, body, timeout=20) as answer:
            return answer.status, answer.read()
    except OSError:
        return 0, b""


def faas(folder, *arguments, gateway="", stdin="", status=0):
    """Run faas-cli; what it said. It must end with ``status``."""
    command = ["faas-cli", *arguments, *(["--gateway", gateway] if gateway else [])]
    environ = os.environ | {"HOME": str(folder), "CI": "true"}
    done = subprocess.run(
        command, cwd=folder, input=stdin, capture_output=True, text=True, env=environ, check=False
    )
    assert done.returncode == status, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@contextlib.contextmanager
def real_gateway(provider, folder, **settings):
    """The real gateway before a provider."""
    settings |= {
        "functions_provider_url": f"{provider}/",
        "function_namespace": "openfaas-fn",
        "scale_from_zero": "true",
        "faas_prometheus_host": "127.0.0.1",
    }
    with fixed_ports(8080, 8082), program(folder / "gateway.log", "gateway", **settings):
        wait(lambda: call(f"{GATEWAY}/healthz")[0] == 200)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the real faas-cli made a function from our template."""
    folder = tmp_path_factory.mktemp("cli")
    faas(folder, "template", "pull", str(ROOT))
    faas(folder, "new", "my-model", "--lang", "python3-inference", "--prefix", "registry.local/me")
    return folder


@missing("faas-cli")
@pytest.mark.parametrize(
    "front", ["provider", pytest.param("gateway", marks=missing("gateway", "prometheus"))]
)
def test_faas_cli_goes_through_a_functions_life(folder, tmp_path, front):
    options, (port,) = ["--image", f"{IMAGE}={folder / 'my-model'}"], free_ports(1)
    # The gateway has a list's invocations from Prometheus.
    options += ["--no-prometheus"] if front == "provider" else ["--no-autoscaler", "--prometheus-port", port]
    with contextlib.ExitStack() as stack:
        _, url = stack.enter_context(up(*options))
        if front == "gateway":
            stack.enter_context(real_gateway(url, tmp_path, faas_prometheus_port=str(port)))
            url = GATEWAY

        def cli(*arguments, **more):
            return faas(folder, *arguments, gateway=url, **more)

        cli("secret", "create", "key", "--from-literal", "value")
        assert "key" in cli("secret", "list")
        cli("deploy", "-f", "stack.yaml", "--label", "com.openfaas.scale.min=1", "--secret", "key")
        assert "is ready" in cli("ready", "my-model")
        cli("deploy", "-f", "stack.yaml", "--env", "slo_latency=300ms")
        assert "is ready" in cli("ready", "my-model")
        assert json.loads(cli("invoke", "my-model", stdin='{"x": [1, 2, 3, 4]}').splitlines()[-1])["y"]
        assert "400" in cli("invoke", "my-model", status=1)
        assert "404" in cli("invoke", "nobody", status=1)
        assert IMAGE in cli("list", "--verbose")
        described = cli("describe", "my-model")
        assert "Available Replicas: 1" in described
        assert f"{url}/function/my-model" in described
        cli("describe", "nobody", status=1)
        assert "my-model-1" in cli("logs", "my-model", "--tail=false", "--instance")
        cli("remove", "-f", "stack.yaml")
        cli("remove", "my-model", status=1)
        assert "my-model" not in cli("list", "--quiet")
        cli("secret", "remove", "key")


@missing("faas-cli", "gateway")
def test_faas_cli_logs_in_where_gateway_and_provider_share_credentials(folder, tmp_path):
    secrets = credentials(tmp_path / "secrets")
    with (
        up("--no-prometheus", "--basic-auth-dir", secrets) as (_, provider),
        real_gateway(provider, tmp_path, basic_auth="true", secret_mount_path=str(secrets)),
    ):
        for url in (provider, GATEWAY):
            faas(folder, "list", gateway=url, status=1)
            faas(folder, "login", "--username", USER, "--password-stdin", gateway=url, stdin=PASSWORD)
            # With nothing deployed the gateway asks no Prometheus.
            faas(folder, "list", gateway=url)
            faas(folder, "logout", gateway=url)


def gateway_series(url):
    """The gateway's own samples by name and labels.

    Edges as numbers, which Go and Python write differently; names without the ending that the parser adds to
    counters.
    """
    return {
        (
            sample.name.removesuffix("_total"),
            *sorted(
                (key, str(float(value)) if key == "le" else value) for key, value in sample.labels.items()
            ),
        )
        for family in text_string_to_metric_families(call(f"{url}/metrics")[1].decode())
        for sample in family.samples
        if sample.name.startswith("gateway_")
    }


@missing("gateway")
def test_the_platforms_metrics_are_the_gateways(tmp_path):
    (tmp_path / "handler.py").write_text("def handle(event, context):\n    return event.body\n")
    theirs, deployment = f"http://{GATEWAY_METRICS}", {"service": "echo", "image": "i"}
    with up("--no-prometheus", "--image", f"i={tmp_path}") as (_, provider), real_gateway(provider, tmp_path):
        assert call(f"{GATEWAY}/system/functions", json.dumps(deployment).encode())[0] == 202
        # Each is held until there is a replica.
        for path in ("echo", "echo.openfaas-fn", "echo/below?a=b"):
            assert call(f"{GATEWAY}/function/{path}", b"x") == (200, b"x")
        # The gateway asks for the functions every five seconds.
        wait(lambda: any(name == "gateway_service_count" for name, *_ in gateway_series(theirs)))
        assert gateway_series(theirs) == gateway_series(provider)
