"""What goes into every function image is counted: a new dependency must be argued for here."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BUDGET = {"flask", "gunicorn", "httptools", "prometheus-client", "uvloop"}
NOT_IN_A_WORKER = {"flask", "numpy", "opentelemetry", "requests", "torch", "torchvision", "yaml"}
"""Before the handler asks for it."""


def imported_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after ``statement``."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    code = f"{statement}\n{report}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/"
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0].lower() for each in requirements}


def watchdog() -> dict[str, Any]:
    return tomllib.loads((ROOT / "batching-watchdog/pyproject.toml").read_text())["project"]


def test_watchdog_declares_its_five_dependencies_and_two_extras():
    project = watchdog()
    assert names(project["dependencies"]) == BUDGET
    extras = {name: names(each) for name, each in project["optional-dependencies"].items()}
    assert extras == {
        "cli": {"pyyaml"},
        "otel": {"opentelemetry-exporter-otlp-proto-http", "opentelemetry-sdk"},
    }


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("batching_watchdog.app", NOT_IN_A_WORKER | {"gunicorn"}),
        ("batching_watchdog.worker.serve", NOT_IN_A_WORKER),
        # The image leaves them out.
        (
            "slo_autoscaler.kube.lease, slo_autoscaler.platforms.kubernetes",
            {"aiohttp", "aiohttp_retry", "multidict", "yarl"},
        ),
    ],
)
def test_process_loads_nothing_that_it_does_not_need(modules, absent):
    assert not imported_by(f"import {modules}") & absent


def test_pure_core_needs_the_standard_library_only():
    rooms = ("engine.engine", "function.messages", "function.wire", "observe.spans", "observe.trace_context")
    pure = ("config", "errors", *rooms)
    loaded = imported_by("import " + ", ".join(f"batching_watchdog.{module}" for module in pure))
    before = imported_by("pass")
    assert loaded - before - {"batching_watchdog"} <= sys.stdlib_module_names
