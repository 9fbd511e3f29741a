"""faas-cli and the platform: its requests as recorded, and the real binaries where they are installed.

The requests were recorded from faas-cli 0.18 against a provider: which it makes for each command, with which
query, body and header.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local.harness import with_platform

ROOT = Path(__file__).parents[2]

# Not logged in, it sends a token all the same.
HEADERS = {"Authorization": "Bearer ", "User-Agent": "faas-cli/0.18.12"}


def test_the_requests_of_a_functions_whole_life_are_answered_as_faas_cli_wants_them(tmp_path):
    body = {
        "service": "echo",
        "image": "echo:latest",
        "namespace": "",
        "envProcess": "",
        "envVars": {"slo_latency": "200ms"},
        "constraints": None,
        "secrets": [],
        "labels": {"com.openfaas.scale.min": "1"},
        "annotations": {"prometheus.io.scrape": "true"},
        "limits": None,
        "requests": None,
        "readOnlyRootFilesystem": True,
    }

    async def life(client):
        client.defaults = {"headers": HEADERS}
        # deploy: an update first; unknown, so a create. Anything but 200 and 202 would count as a failure.
        assert (await client.call("PUT", "/system/functions", json=body)).status == 404
        assert (await client.call("POST", "/system/functions", json=body)).status == 202
        await client.platform.settled()
        # and again: now there is something to update.
        assert (await client.call("PUT", "/system/functions", json=body)).status in (200, 202)
        await client.platform.settled()
        # list
        (listed,) = (await client.call("GET", "/system/functions")).json()
        assert (listed["name"], listed["replicas"], listed["image"]) == ("echo", 1, "echo:latest")
        # describe: the function with its usage, and the list
        described = (await client.call("GET", "/system/function/echo?usage=1")).json()
        assert described["availableReplicas"] == 1
        assert described["annotations"] == body["annotations"]
        # invoke: by the long name, as plain text
        answer = await client.call("POST", "/function/echo.openfaas-fn", data=b"hello")
        assert (answer.status, answer.json()["body"]) == (200, "hello")
        # logs: as JSON lines, not followed
        logs = await client.call("GET", "/system/logs?follow=false&name=echo&namespace=&since=&tail=-1")
        assert logs.status == 200
        assert {json.loads(line)["name"] for line in logs.text.splitlines()} == {"echo"}
        # remove: the name is in the body
        gone = await client.call(
            "DELETE", "/system/functions", json={"functionName": "echo", "namespace": ""}
        )
        assert gone.status in (200, 202)
        assert (await client.call("GET", "/system/functions")).json() == []

    with_platform(tmp_path, life)


def installed(*names: str) -> bool:
    return all(shutil.which(name) for name in names)


def faas(folder: Path, *arguments: str, gateway: str = "", stdin: str = "") -> str:
    """Run faas-cli; its output. It must succeed."""
    where = ["--gateway", gateway] if gateway else []
    done = subprocess.run(
        ["faas-cli", *arguments, *where],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "HOME": str(folder), "CI": "true"},
        check=False,
    )
    assert done.returncode == 0, f"faas-cli {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@contextmanager
def local_platform(*images: str) -> Iterator[str]:
    """The platform as a user starts it, with the real watchdog; its URL."""
    command = [sys.executable, "-m", "local_openfaas", "up", "--no-prometheus", "--port", "0"]
    command += [part for image in images for part in ("--image", image)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = next(line.split()[1] for line in process.stdout if line.startswith("gateway"))
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=20)


@contextmanager
def real_gateway(provider: str, folder: Path) -> Iterator[str]:
    """The real gateway before a provider; it can listen on 8080 and 8082 only, and wants some Prometheus."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        settings = {
            "functions_provider_url": f"{provider}/",
            "function_namespace": "openfaas-fn",
            "basic_auth": "false",
            "scale_from_zero": "true",
            "faas_prometheus_host": "127.0.0.1",
            "faas_prometheus_port": str(nobody.getsockname()[1]),
        }
        with (folder / "gateway.log").open("w") as log:
            process = subprocess.Popen(
                ["gateway"], env={**os.environ, **settings}, cwd=folder, stdout=log, stderr=log
            )
        try:
            end = time.monotonic() + 20
            while time.monotonic() < end:
                with contextlib.suppress(OSError), urllib.request.urlopen("http://127.0.0.1:8080/healthz"):
                    break
                time.sleep(0.1)
            yield "http://127.0.0.1:8080"
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def function(tmp_path_factory) -> Path:
    """A folder in which a function was made from our template, by the real faas-cli."""
    folder = tmp_path_factory.mktemp("cli")
    faas(folder, "template", "pull", str(ROOT))
    faas(folder, "new", "my-model", "--lang", "python3-inference")
    return folder


needs_cli = pytest.mark.skipif(not installed("faas-cli"), reason="faas-cli is not on PATH")


@pytest.mark.e2e
@needs_cli
def test_the_real_faas_cli_makes_a_build_context_of_the_template(function):
    faas(function, "build", "--shrinkwrap", "-f", "stack.yaml")
    context = function / "build/my-model"
    assert (context / "Dockerfile").is_file()
    assert (context / "function/handler.py").is_file()
    assert (context / "batching-watchdog/pyproject.toml").is_file()
    assert not [path for path in context.rglob("*") if path.is_symlink()]


@pytest.mark.e2e
@needs_cli
@pytest.mark.parametrize(
    "front",
    [
        "provider",
        pytest.param(
            "gateway",
            marks=pytest.mark.skipif(not installed("gateway"), reason="OpenFaaS' gateway is not on PATH"),
        ),
    ],
)
def test_the_real_faas_cli_deploys_shows_calls_and_removes_a_function(function, tmp_path, front):
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(local_platform(f"my-model:latest={function / 'my-model'}"))
        provider = url
        if front == "gateway":
            url = stack.enter_context(real_gateway(url, tmp_path))
        faas(function, "deploy", "-f", "stack.yaml", gateway=url)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with urllib.request.urlopen(f"{provider}/system/function/my-model") as answer:
                if json.load(answer).get("availableReplicas"):
                    break
            time.sleep(0.1)
        if front == "provider":
            # Through the gateway a list needs a Prometheus that answers.
            assert "my-model" in faas(function, "list", gateway=url)
            assert "my-model" in faas(function, "describe", "my-model", gateway=url)
        assert faas(function, "invoke", "my-model", gateway=url, stdin='{"x": [1, 2, 3, 4]}')
        assert faas(function, "logs", "my-model", "--tail=false", gateway=url)
        faas(function, "remove", "-f", "stack.yaml", gateway=url)
        with urllib.request.urlopen(f"{provider}/system/functions") as answer:
            assert json.load(answer) == []
