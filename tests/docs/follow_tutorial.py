"""docs/tutorial.md as a reader follows it: its files are written, its commands run, in their order.

It takes minutes, so its name keeps it out of the usual run; ``make tutorial`` runs it. The page's commands
wait for what they promise, so only a machine that never gets there fails, at the time limit.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.pages import ROOT, blocks
from tailbound_lab.local.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

STAYS = "first terminal"


def test_tutorial_followed_to_its_end_shows_what_it_promises(tmp_path):
    gateway, prometheus = map(str, free_ports(2))
    text = (ROOT / "docs" / "tutorial.md").read_text().replace("8080", gateway).replace("9090", prometheus)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    platform: subprocess.Popen[str] | None = None
    said = ""
    try:
        for block in blocks(text):
            if block.title == STAYS:
                command = f"exec {block.text.strip()} --port {gateway} --prometheus-port {prometheus}"
                platform = subprocess.Popen(
                    ["sh", "-c", command], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
                )
                assert platform.stdout is not None
                assert any(line.startswith("Ctrl-C") for line in platform.stdout)
            elif block.title is not None:
                file = tmp_path / block.title
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.text)
            elif block.language == "sh":
                done = subprocess.run(
                    ["sh", "-euc", block.text],
                    cwd=tmp_path,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{block.text}\n{done.stderr}"
                said += done.stdout
    finally:
        if platform is not None:
            platform.send_signal(signal.SIGINT)
            platform.communicate(timeout=30)
    for promise in (
        r"batch of +1 +2 +4",
        r"rate +\d",
        r"next +deploy it",
        r'{"vowels":5}',
        r"(?i)x-batch-size: 1",
        r"requested [2-4] replicas of vowels.openfaas-fn, now 1: ",
        r"attainment \d+\.\d+% within 200 ms",
        r"requested 1 replica of vowels.openfaas-fn, now [2-4]: ",
    ):
        assert re.search(promise, said), promise
    assert platform is not None
    assert platform.returncode == 0
