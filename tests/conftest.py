"""What holds for all tests: hypothesis judges answers, never speed, and processes run the code under test."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support.processes import import_path

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

os.environ["PYTHONPATH"] = import_path()

_PREFIX = "t-"


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a temporary folder that ends with it; remove those of runs that were killed.

    Libraries and interrupted programs leave files there.
    """
    if hasattr(config, "workerinput"):  # the process that started this one has made it
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        if not Path("/proc", folder.name.split("-")[1]).exists():
            shutil.rmtree(folder, ignore_errors=True)
    temporary = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
    os.environ["TMPDIR"] = tempfile.tempdir = temporary
    config.add_cleanup(lambda: shutil.rmtree(temporary, ignore_errors=True))
