"""What the composition root does to its own process."""

import subprocess
import sys

import pytest

FAULTS = """
import os, resource, sys
from batching_watchdog.app import keep_freed_memory
keep_freed_memory({"GLIBC_TUNABLES": "x"} if sys.argv[1] == "left" else {})
def body(): return len(b"x" * 5_000_000) and resource.getrusage(resource.RUSAGE_SELF).ru_minflt
body()
before = body()
for _ in range(20): after = body()
print((after - before) / 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_large_bodies_take_their_memory_over_from_each_other_unless_the_user_set_tunables():
    def faults(how):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True, timeout=30
        )
        return float(done.stdout)

    # Without it, 5 MB are mapped anew for each body: 1,221 pages.
    assert faults("left") > 1000
    assert faults("kept") < 100
