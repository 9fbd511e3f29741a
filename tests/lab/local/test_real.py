"""OpenFaaS' own faas-cli against the platform, where it is on PATH."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from lab.local.harness import missing, up

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[3]
IMAGE = "registry.local/me/my-model:latest"


def faas(folder, *arguments, gateway="", stdin="", status=0):
    """Run faas-cli; what it said. It must end with ``status``."""
    command = ["faas-cli", *arguments, *(["--gateway", gateway] if gateway else [])]
    environ = os.environ | {"HOME": str(folder), "CI": "true"}
    done = subprocess.run(
        command, cwd=folder, input=stdin, capture_output=True, text=True, env=environ, check=False
    )
    assert done.returncode == status, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@missing("faas-cli")
def test_faas_cli_goes_through_a_functions_life(tmp_path):
    faas(tmp_path, "template", "pull", str(ROOT))
    faas(tmp_path, "new", "my-model", "--lang", "python3-inference", "--prefix", "registry.local/me")
    with up("--no-prometheus", "--image", f"{IMAGE}={tmp_path / 'my-model'}") as (_, url):

        def cli(*arguments, **more):
            return faas(tmp_path, *arguments, gateway=url, **more)

        cli("deploy", "-f", "stack.yaml", "--label", "com.openfaas.scale.min=1")
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
        cli("remove", "-f", "stack.yaml")
        cli("remove", "my-model", status=1)
        assert "my-model" not in cli("list", "--quiet")
