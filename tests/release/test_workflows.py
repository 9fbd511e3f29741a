"""The workflows of GitHub, which run nowhere but there."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not on PATH")
def test_workflows_have_no_fault_that_actionlint_knows():
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert workflows
    done = subprocess.run(["actionlint", *workflows], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
