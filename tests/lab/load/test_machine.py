"""The machine's load during a run."""

import os
import subprocess
import sys

import pytest

from tailbound_lab.load import machine
from tailbound_lab.load.machine import Reading, Usage


def test_usage_splits_cpu_time_between_own_and_other_programs_and_the_host():
    before = Reading((100, 0, 100, 1000, 0, 0, 0, 0), own=50)
    after = Reading((160, 0, 120, 1100, 10, 0, 0, 10), own=70)
    assert machine.usage(before, after) == Usage(
        own=pytest.approx(0.1), others=pytest.approx(0.3), stolen=pytest.approx(0.05)
    )


@pytest.mark.parametrize("ended", [False, True], ids=["alive", "ended"])
def test_read_counts_the_cpu_time_of_a_grandchild_as_own(ended):
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    wait = "print(flush=True); input()"
    run = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}]); {wait}"
    before = machine.read()
    with subprocess.Popen(
        [sys.executable, "-c", run], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        if ended:
            child.communicate(b"\n")
        assert machine.read().own - before.own >= 0.29 * os.sysconf("SC_CLK_TCK")
        child.stdin.close()
