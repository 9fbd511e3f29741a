"""The machine's load during a run."""

import os
import subprocess
import sys

import pytest

from tailbound_lab.load import machine
from tailbound_lab.load.machine import Reading, Usage


def test_usage_splits_cpu_time_between_own_and_other_programs_and_the_host():
    before = Reading((100, 0, 100, 1000, 0, 0, 0, 0), own={1: (50, 0)})
    after = Reading((160, 0, 120, 1100, 10, 0, 0, 10), own={1: (60, 0), 2: (10, 0)})
    assert machine.usage(before, after) == Usage(
        own=pytest.approx(0.1), others=pytest.approx(0.3), stolen=pytest.approx(0.05)
    )


def test_usage_counts_a_process_that_ended_as_own_once():
    before = Reading((100, 0, 0, 900, 0, 0, 0, 0), own={1: (10, 5), 2: (50, 40), 3: (30, 0)})
    after = Reading((150, 0, 0, 950, 0, 0, 0, 0), own={1: (20, 155)})
    assert machine.usage(before, after) == Usage(own=0.4, others=pytest.approx(0.1), stolen=0.0)


def test_usage_takes_no_cpu_time_back_when_an_orphan_ends():
    before = Reading((100, 0, 0, 900, 0, 0, 0, 0), own={1: (10, 0), 2: (90, 0)})
    after = Reading((150, 0, 0, 950, 0, 0, 0, 0), own={1: (60, 0)})
    assert machine.usage(before, after) == Usage(own=0.5, others=0.0, stolen=0.0)


def ticks(reading):
    return sum(map(sum, reading.own.values()))


def test_read_counts_the_cpu_time_of_a_grandchild_as_own():
    spin = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    run = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"
    before = machine.read()
    with subprocess.Popen(
        [sys.executable, "-c", run], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        after = machine.read()
        child.communicate(b"\n")
    assert ticks(after) - ticks(before) >= 0.29 * os.sysconf("SC_CLK_TCK")


def test_read_counts_the_cpu_time_of_a_child_that_has_ended_as_own():
    before = machine.read()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert ticks(machine.read()) - ticks(before) >= 0.29 * os.sysconf("SC_CLK_TCK")
