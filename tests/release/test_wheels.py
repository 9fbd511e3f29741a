"""What is published, for real: wheels in an empty environment, and the bill of materials beside them.

Left out of ``make check``, as it asks an index for packages: ``make release-test`` builds and runs them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from batching_watchdog import __version__ as watchdog_version
from contract.test_locks import pins
from slo_autoscaler import __version__ as autoscaler_version
from support.processes import ECHO, Watchdog

pytestmark = [pytest.mark.e2e, pytest.mark.release, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build/dist"
SBOM = ROOT / "build/sbom"
NAMES = {"batching-watchdog": "batching-watchdog", "autoscaler": "slo-autoscaler"}
"""Folder -> distribution."""


def run(*command: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run it as where nothing of the checkout can be imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, cwd="/", env=environment
    )


def built(pattern: str) -> Path:
    (found,) = BUILT.glob(pattern)
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with both distributions from their wheels and nothing else."""
    folder = tmp_path_factory.mktemp("fresh") / "env"
    assert run(sys.executable, "-m", "venv", folder).returncode == 0
    wheels = [built("batching_watchdog-*.whl"), built("slo_autoscaler-*.whl")]
    done = run(folder / "bin/python", "-m", "pip", "install", "--quiet", *wheels)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def test_environment_has_no_package_of_the_checkout(environment):
    listing = run(environment / "python", "-m", "pip", "list", "--format=json", "--exclude-editable").stdout
    versions = {each["name"]: each["version"] for each in json.loads(listing)}
    assert versions["batching-watchdog"] == watchdog_version
    assert versions["slo-autoscaler"] == autoscaler_version
    assert not versions.keys() & {"tailbound-lab", "torch", "pytest"}
    assert run(environment / "python", "-m", "pip", "check").returncode == 0


def test_watchdog_of_a_wheel_answers_a_request(environment):
    function = Watchdog(ECHO, {"PYTHONPATH": ""}, command=[str(environment / "batching-watchdog")])
    try:
        function.wait_ready()
        answer = function.call(body=b"from a wheel")
        assert (answer.status, answer.body) == (200, b"from a wheel")
        assert function.metric('watchdog_workers{state="idle"}') == 1
    finally:
        function.clean_up()


@pytest.mark.parametrize("program", ["batching-watchdog", "slo-autoscaler"])
def test_program_of_a_wheel_prints_its_help(environment, program):
    done = run(environment / program, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {program}")
    assert done.stderr == ""


def test_autoscaler_of_a_wheel_takes_the_shipped_configuration_and_says_what_is_out_of_reach(environment):
    command = [
        environment / "slo-autoscaler",
        "--config",
        ROOT / "lab/autoscaler.yaml",
        "--once",
        "--dry-run",
    ]
    nowhere = ["--gateway-url", "http://127.0.0.1:9", "--prometheus-url", "http://127.0.0.1:9"]
    done = run(*command, *nowhere)
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_second_build_gives_the_same_files(tmp_path):
    done = subprocess.run(
        ["sh", "release/wheels.sh", "build/release/bin", tmp_path / "dist"],
        capture_output=True, text=True, timeout=300, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (
        {each.name: each.read_bytes() for each in folder.iterdir()} for folder in (BUILT, tmp_path / "dist")
    )
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.parametrize("folder", NAMES)
def test_bill_of_materials_has_each_locked_package_with_its_license(folder):
    bill = json.loads((SBOM / f"{NAMES[folder]}.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    root = bill["metadata"]["component"]
    version = watchdog_version if folder == "batching-watchdog" else autoscaler_version
    assert (root["name"], root["version"]) == (NAMES[folder], version)
    components = {canonicalize_name(each["name"]): each for each in bill["components"]}
    locked = pins(ROOT / folder / "requirements.lock")
    here = {name: pin for name, pin in locked.items() if applies(pin.requirement)}
    assert {name: each["version"] for name, each in components.items()} == {
        name: pin.version for name, pin in here.items()
    }
    assert [name for name, each in components.items() if not each.get("licenses")] == []
    (needs,) = [each["dependsOn"] for each in bill["dependencies"] if each["ref"] == root["bom-ref"]]
    assert needs


def applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()
