"""Both images for real: built from the Dockerfiles as they stand, run as Kubernetes would run them.

Left out of ``make check``, as building takes a while: ``make images`` installs what is needed and runs them.
"""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import containers
from deploy.containers import Container, inspect, podman, running
from deploy.package_index import an_index, make_wheel
from support.certificates import Authority, needs_openssl
from support.faas_cli import pull_template, shrinkwrap
from support.otlp import a_receiver
from tailbound_lab.local.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.container, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
FUNCTION = "localhost/tailbound-test/function"
AUTOSCALER = "localhost/tailbound-test/slo-autoscaler"
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "ld", "as", "make")

# Answers who it runs as, after as many seconds as the body says.
HANDLER = """
import os
import time

def handle(event, context):
    time.sleep(float(event.body))
    return {"uid": os.getuid()}
"""
PASSES = "def test_it():\n    assert handler.handle"
CONFIGURATION = """
platform: {gateway_url: "http://127.0.0.1:9"}
prometheus: {url: "http://127.0.0.1:9", timeout: 1s}
interval: 1s
"""


@pytest.fixture(scope="module")
def version() -> str:
    missing = containers.what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    found = containers.base_version()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def wheels(version: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the builds install, for the base image's Python: containers may have no way to an index."""
    folder = tmp_path_factory.mktemp("pip") / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    command += ["--only-binary=:all:", f"--python-version={version}"]
    locks = ROOT.glob("*/*.lock")
    for wanted in (["pytest"], *(["--no-deps", "--require-hashes", "-r", str(lock)] for lock in locks)):
        done = subprocess.run([*command, *wanted], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    return folder


def function_context(folder: Path, test: str, requirements: str = "") -> Path:
    """The context that faas-cli makes of a handler with one test."""
    handler = folder / "handler"
    handler.mkdir()
    (handler / "handler.py").write_text(HANDLER)
    (handler / "requirements.txt").write_text(requirements)
    (handler / "handler_test.py").write_text(f"from function import handler\n\n{test}\n")
    template = pull_template(ROOT / "template/python3-inference", folder / "template")
    return shrinkwrap(template, handler, folder / "context")


@pytest.fixture(scope="module")
def function(version: str, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image of a function."""
    context = function_context(tmp_path_factory.mktemp("function"), PASSES)
    containers.build(context, FUNCTION, wheels, {"PYTHON_IMAGE": f"python:{version}-slim"})
    yield FUNCTION
    podman("rmi", "--force", FUNCTION)


@pytest.fixture(scope="module")
def autoscaler(version: str, wheels: Path) -> Iterator[str]:
    build_autoscaler(ROOT / "autoscaler", AUTOSCALER, version, wheels)
    yield AUTOSCALER
    podman("rmi", "--force", AUTOSCALER)


def build_autoscaler(context: Path, tag: str, version: str, wheels: Path) -> None:
    arguments = {"PYTHON_IMAGE": f"python:{version}-slim", "REVISION": "0123456789abcdef"}
    containers.build(context, tag, wheels, arguments, epoch=1_764_201_600)


@pytest.fixture
def configuration(tmp_path: Path) -> str:
    """The mount of a configuration whose gateway and Prometheus are not there."""
    tmp_path.chmod(0o755)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIGURATION)
    path.chmod(0o644)
    return f"--volume={path}:/etc/slo-autoscaler/config.yaml:ro"


def shell(image: str, script: str) -> str:
    return podman(
        "run", "--rm", *containers.CONFINED, "--entrypoint=/bin/sh", image, "-c", script, check=False
    ).stdout


@pytest.mark.parametrize("image", ["function", "autoscaler"])
def test_image_is_its_base_and_little_more(image, version, request):
    tag = request.getfixturevalue(image)
    assert shell(tag, f"for each in {' '.join(COMPILERS)}; do command -v $each; done; echo end") == "end\n"
    found, base = inspect(tag), inspect(containers.BASE.format(version))
    assert found["Size"] - base["Size"] < 150e6
    assert found["Labels"]["org.opencontainers.image.base.name"] == f"python:{version}-slim"
    # From a number alone Kubernetes can tell that it is not root.
    assert all(int(part) > 0 for part in found["Config"]["User"].split(":"))


def test_controller_ships_without_aiohttp_and_loads_every_platform(autoscaler):
    listing = "import importlib.metadata as each; print(*(it.name for it in each.distributions()))"
    names = set(shell(autoscaler, f"python -c '{listing}'").split())
    assert {"kubernetes", "slo-autoscaler"} <= names
    assert not names & {"aiohttp", "aiohttp-retry", "attrs", "multidict", "yarl", "pip", "hatchling"}
    modules = ["kube.lease", "platforms.openfaas", "platforms.kubernetes"]
    modules += ["platforms.knative.own_class"]
    imports = ", ".join(f"slo_autoscaler.{module}" for module in modules)
    assert shell(autoscaler, f"python -c 'import {imports}; print(1)'") == "1\n"


def test_second_build_of_the_controller_has_the_digest_of_the_first(autoscaler, version, wheels, tmp_path):
    context = Path(shutil.copytree(ROOT / "autoscaler", tmp_path / "checkout", copy_function=shutil.copyfile))
    tag = f"{AUTOSCALER}-again"
    build_autoscaler(context, tag, version, wheels)
    first, second = inspect(autoscaler), inspect(tag)
    assert second["RootFS"]["Layers"] == first["RootFS"]["Layers"]
    assert (second["Id"], second["Digest"]) == (first["Id"], first["Digest"])
    podman("rmi", "--force", tag)


def test_function_ships_without_what_built_and_tested_it(function):
    listed = json.loads(shell(function, "python -m pip list --format=json"))
    names = {package["name"].lower() for package in listed}
    assert {"batching-watchdog", "gunicorn", "uvloop", "httptools"} <= names
    assert not names & {"pytest", "hatchling", "torch"}
    assert shell(function, "ls -A . function").split() == [
        *(".:", "function", "function:", "__init__.py", "handler.py", "handler_test.py", "requirements.txt")
    ]


def test_failing_test_stops_the_build_unless_tests_are_off(version, wheels, tmp_path_factory):
    context = function_context(tmp_path_factory.mktemp("failing"), "def test_it():\n    assert not 'today'")
    tag = f"{FUNCTION}-failing"
    arguments = {"PYTHON_IMAGE": f"python:{version}-slim"}
    with pytest.raises(AssertionError, match="not 'today'"):
        containers.build(context, tag, wheels, arguments)
    containers.build(context, tag, wheels, {**arguments, "TEST_ENABLED": "false"})
    podman("rmi", "--force", tag)


@needs_openssl
def test_function_is_built_from_a_private_index_and_torch_alone_from_another(
    version, wheels, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("private")
    authority = Authority(folder)
    ours, torch = folder / "ours", folder / "torch"
    make_wheel(ours, "torch", "2.9.9")  # the GPU build, and newer
    make_wheel(ours, "house-rules", "1.0")
    make_wheel(torch, "torch", "2.9.1+cpu")
    make_wheel(torch, "house-rules", "99.0")  # what whoever may write there puts in the place of ours
    context = function_context(folder, PASSES, "house-rules>=1\ntorch>=2.6\n")
    server = authority.issue("server")
    (folder / "ca.crt").write_text(Path(authority.cert).read_text())
    with (
        an_index(server, wheels, ours, user="me:s3cret") as (own, taken),
        an_index(server, torch) as (cpu, _),
    ):
        (folder / "pip.conf").write_text(f"[global]\nindex-url = https://me:s3cret@localhost:{own}/simple\n")
        tag = f"{FUNCTION}-private"
        arguments = {
            "PYTHON_IMAGE": f"python:{version}-slim",
            "TORCH_INDEX_URL": f"https://localhost:{cpu}/simple",
        }
        secrets = {name: folder / name for name in ("pip.conf", "ca.crt")}
        said = containers.build(context, tag, None, arguments, secrets=secrets)
    listed = json.loads(shell(tag, "python -m pip list --format=json"))
    versions = {package["name"]: package["version"] for package in listed}
    assert (versions["torch"], versions["house-rules"]) == ("2.9.1+cpu", "1.0")
    assert not [name for name in taken if name.startswith("torch-")]
    assert "s3cret" not in said + json.dumps(inspect(tag))
    assert shell(tag, "find /usr/local/share/ca-certificates /etc/pip.conf /etc/xdg -name '*.c*'") == ""
    podman("rmi", "--force", tag)


def test_function_serves_as_any_user_in_a_read_only_root_and_drains_when_told_to_stop(function):
    port, metrics = free_ports(2)
    options = [
        f"--env=port={port}",
        f"--env=metrics_port={metrics}",
        "--env=slo_latency=500ms",
        "--env=workers=1",
        "--env=healthcheck_interval=0s",
        "--tmpfs=/tmp:rw,size=64m,mode=1777",
    ]
    with running(function, *options, http=port, metrics=metrics) as container:
        assert container.call("GET", "/_/health", port="http")[0] == 200
        container.wait_for("/_/ready", port="http")
        status, answer = container.call("POST", "/", b"0", port="http")
        assert (status, json.loads(answer)) == (200, {"uid": 12345})
        status, exposition = container.call("GET", "/metrics", port="metrics")
        assert status == 200
        assert b'slo_requests_total{outcome="good",slo_class="default"} 1.0' in exposition
        assert podman("healthcheck", "run", container.identity, check=False).returncode == 0

        answers: list[tuple[int, bytes]] = []
        request = threading.Thread(
            target=lambda: answers.append(container.call("POST", "/", b"2", port="http"))
        )
        request.start()
        wait_for_a_request_in_flight(container)
        assert container.terminate() == 0, container.log()
        request.join(timeout=30)
        assert [status for status, _ in answers] == [200], container.log()
        assert not container.state()["OOMKilled"]


def test_function_built_with_otel_sends_the_spans_of_a_request(version, wheels, tmp_path_factory):
    context = function_context(tmp_path_factory.mktemp("otel"), PASSES)
    tag = f"{FUNCTION}-otel"
    arguments = {"PYTHON_IMAGE": f"python:{version}-slim", "OTEL": "true"}
    containers.build(context, tag, wheels, arguments)
    port, metrics = free_ports(2)
    options = [f"--env=port={port}", f"--env=metrics_port={metrics}", "--env=workers=1"]
    options += ["--env=healthcheck_interval=0s", "--tmpfs=/tmp:rw,size=64m,mode=1777"]
    with (
        a_receiver() as receiver,
        running(tag, *options, f"--env=OTEL_EXPORTER_OTLP_ENDPOINT={receiver.url}", http=port) as container,
    ):
        container.wait_for("/_/ready", port="http")
        assert container.call("POST", "/", b"0", port="http")[0] == 200
        assert container.terminate() == 0, container.log()
        assert {"POST", "queue", "execution", "batch"} <= {span.name for span in receiver.spans}
    podman("rmi", "--force", tag)


def wait_for_a_request_in_flight(container: Container) -> None:
    while b"\nhttp_requests_in_flight 1.0" not in container.call("GET", "/metrics", port="metrics")[1]:
        pass


def test_controller_runs_as_any_user_with_nothing_to_write_to_and_stops_when_told(autoscaler, configuration):
    (port,) = free_ports(1)
    options = [configuration, f"--env=SLO_AUTOSCALER_WEB_PORT={port}"]
    with running(autoscaler, *options, web=port) as container:
        container.wait_for("/healthz", port="web")
        assert b"slo_autoscaler_errors_total" in container.call("GET", "/metrics", port="web")[1]
        assert container.terminate() == 0, container.log()
