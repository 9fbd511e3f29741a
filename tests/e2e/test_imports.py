"""Processes that tests start run the packages that the tests import, not those of their interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import batching_watchdog
import slo_autoscaler
import tailbound_lab
from support.processes import watchdog

pytestmark = pytest.mark.e2e

PACKAGES = (batching_watchdog, slo_autoscaler, tailbound_lab)
SEARCHED = """
import sys

def handle(event, context):
    return sys.path
"""


def come_first(folders: list[str]) -> bool:
    """Whether the packages' own folders stand before those of what is installed."""
    installed = next(place for place, folder in enumerate(folders) if folder.endswith("site-packages"))
    return {str(Path(package.__path__[0]).parent) for package in PACKAGES} <= {*folders[:installed]}


def test_worker_of_a_watchdog_imports_the_packages_of_the_test():
    with watchdog(SEARCHED) as dog:
        assert come_first(json.loads(dog.call().body))


def test_program_that_inherits_the_environment_imports_the_packages_of_the_test():
    command = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path))"]
    done = subprocess.run(command, capture_output=True, check=True, cwd="/")
    assert come_first(json.loads(done.stdout))
