"""faas-cli and the platform: its requests, and the real binaries where they are installed.

The requests are those that faas-cli 0.18 makes for each command: path, query, body and header.
"""

import contextlib
import json
import os
from pathlib import Path

import pytest

from lab.local.harness import with_platform
from lab.local.openfaas import (
    GATEWAY,
    PASSWORD,
    USER,
    a_prometheus,
    credentials,
    faas,
    local_platform,
    missing,
    real_gateway,
    run_faas,
)
from tailbound_lab.local.ports import free_ports

ROOT = Path(__file__).parents[3]
IMAGE = "registry.local/me/my-model:latest"
ALONE = ("--no-prometheus", "--no-autoscaler")

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which a function was made from our template, by the real faas-cli."""
    folder = tmp_path_factory.mktemp("cli")
    faas(folder, "template", "pull", str(ROOT))
    faas(folder, "new", "my-model", "--lang", "python3-inference", "--prefix", "registry.local/me")
    return folder


@pytest.mark.e2e
@missing("faas-cli")
def test_the_real_faas_cli_makes_a_build_context_of_the_template(folder):
    faas(folder, "build", "--shrinkwrap", "-f", "stack.yaml")
    context = folder / "build/my-model"
    assert (context / "Dockerfile").is_file()
    assert (context / "function/handler.py").is_file()
    assert (context / "batching-watchdog/pyproject.toml").is_file()
    assert not [path for path in context.rglob("*") if path.is_symlink()]


@pytest.mark.e2e
@missing("faas-cli")
def test_the_real_faas_cli_builds_pushes_and_deploys_in_one_command(folder, monkeypatch, tmp_path):
    # It only calls docker, so what it calls it with is all there is to see here.
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$PWD: $*" >> {tmp_path}/calls\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with local_platform(*ALONE, "--image", f"{IMAGE}={folder / 'my-model'}") as url:
        said = faas(folder, "up", "-f", "stack.yaml", gateway=url)
        assert "202 Accepted" in said
        build, push = (tmp_path / "calls").read_text().splitlines()
        assert build.startswith(f"{folder / 'build/my-model'}: build ")
        assert build.endswith(f"--tag {IMAGE} .")
        assert push.endswith(f": push {IMAGE}")
        assert "my-model" in faas(folder, "list", "--quiet", gateway=url)


@pytest.mark.e2e
@missing("faas-cli")
@pytest.mark.parametrize(
    "front", ["provider", pytest.param("gateway", marks=missing("gateway", "prometheus"))]
)
def test_the_real_faas_cli_goes_through_a_functions_life(folder, tmp_path, front):
    with contextlib.ExitStack() as stack:
        provider = url = stack.enter_context(
            local_platform(*ALONE, "--image", f"{IMAGE}={folder / 'my-model'}")
        )
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
        assert "202 Accepted" in cli("secret", "create", "key", "--from-literal", "value")
        assert "already exists" in cli("secret", "create", "key", "--from-literal", "value")
        assert "key" in cli("secret", "list")

        deployed = cli("deploy", "-f", "stack.yaml", "--label", "com.openfaas.scale.min=1", "--secret", "key")
        assert "202 Accepted" in deployed
        assert "is ready" in cli("ready", "my-model")
        assert "202 Accepted" in cli("deploy", "-f", "stack.yaml", "--env", "slo_latency=300ms")
        assert "is ready" in cli("ready", "my-model")

        assert json.loads(cli("invoke", "my-model", stdin='{"x": [1, 2, 3, 4]}').splitlines()[-1])["y"]
        assert "400" in refused("invoke", "my-model")
        assert "404" in refused("invoke", "nobody")

        listed = cli("list", "--verbose")
        assert IMAGE in listed
        described = cli("describe", "my-model")
        assert "Available Replicas: 1" in described
        assert f"{url}/function/my-model" in described
        assert "No such function" in refused("describe", "nobody")
        logs = cli("logs", "my-model", "--tail=false", "--instance")
        assert "my-model-1" in logs
        assert "listens on" in logs

        assert "Removing old function" in cli("remove", "-f", "stack.yaml")
        assert "No existing function" in refused("remove", "my-model")
        assert "my-model" not in cli("list", "--quiet")
        assert "OK" in cli("secret", "remove", "key")


@pytest.mark.e2e
@missing("faas-cli", "gateway")
def test_the_real_faas_cli_logs_in_where_gateway_and_provider_share_credentials(folder, tmp_path):
    secrets = credentials(tmp_path / "secrets")
    with (
        local_platform(*ALONE, "--basic-auth-dir", str(secrets)) as provider,
        real_gateway(provider, tmp_path, basic_auth=secrets),
    ):
        for url in (provider, GATEWAY):
            assert run_faas(folder, "list", gateway=url).returncode == 1
            faas(folder, "login", "--username", USER, "--password-stdin", gateway=url, stdin=PASSWORD)
            # With nothing deployed the gateway asks no Prometheus.
            faas(folder, "list", gateway=url)
            faas(folder, "logout", gateway=url)
