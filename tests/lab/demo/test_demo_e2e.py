"""The demo whole, in small: real platform, Prometheus, autoscaler, replicas, generator."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tailbound_lab.demo.__main__ import MISSED

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.e2e


def start(out, *arguments):
    command = (sys.executable, "-m", "tailbound_lab.demo", "--duration", "5", "--rate", "0.2")
    return subprocess.Popen(
        (*command, "--out", str(out), *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_run_leaves_a_report_and_results_and_ends_with_the_verdict(tmp_path):
    with start(tmp_path / "out") as process:
        out, err = process.communicate()
    # Whether the SLO was met is this machine's affair just now; that there is a result is not.
    assert (tmp_path / "out" / "result.json").exists(), err
    results = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {item["function"] for item in results} == {"accelerator", "filetype"}
    assert all(item["tailbound"]["sent"] > 0 for item in results)
    assert (process.returncode == 0) == all(item["met"] for item in results)
    assert process.returncode in (0, MISSED)
    assert f"{sum(item['met'] for item in results)} of 2" in out.splitlines()[-1]
    assert "<svg" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    # Which models are loaded when it is stopped does not matter: those that load at once.
    stack = yaml.safe_load((ROOT / "stack.yml").read_text())
    for function in stack["functions"].values():
        function["handler"] = str(ROOT / "functions/accelerator")
    (tmp_path / "stack.yml").write_text(yaml.safe_dump(stack))
    with start(tmp_path / "out", "--no-baseline", "--stack", str(tmp_path / "stack.yml")) as process:
        while "Traffic" not in (line := process.stdout.readline()):  # until traffic runs
            assert line
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert len(err.splitlines()) == 1
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
