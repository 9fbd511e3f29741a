"""The sample handlers and the template's starter in the watchdog's ``Handler``, in a process of their own.

Every handler is the module ``function.handler``, so no two can be loaded in one process.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = (
    "functions/accelerator",
    "functions/filetype",
    "functions/generate",
    "functions/tabular",
    "functions/vision",
    "template/python3-inference/function",
)


# Prints [status, body] of each of: the batch of three bodies, then each body alone; and what was imported.
def environment() -> dict[str, str]:
    """Ours, without bytecode left in the handlers' folders, and one thread as a worker has by default."""
    return os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("name", NAMES)
def test_handler_requires_every_package_it_imports(name):
    folder = ROOT / name
    lines = (folder / "requirements.txt").read_text().splitlines()
    required = {re.split(r"[^\w.-]", line)[0] for line in lines if line and not line.startswith("#")}
    nodes = list(ast.walk(ast.parse((folder / "handler.py").read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    packages = {module.partition(".")[0] for module in imported} - sys.stdlib_module_names
    packages -= {"batching_watchdog"}  # the image has it
    assert packages <= required
    assert required <= packages | {"numpy"}  # which torch wants but does not require


@pytest.mark.parametrize("name", NAMES)
def test_its_own_tests_pass(name):
    command = [sys.executable, "-m", "pytest", "--quiet", "--override-ini=timeout=0", "--rootdir=."]
    command += [f"--config-file={ROOT / 'functions/pytest.ini'}", "."]
    result = subprocess.run(
        command, cwd=ROOT / name, env=environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
