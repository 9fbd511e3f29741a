"""Reading /proc, on text and on a real process."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from tailbound_lab.bench.rig import processes
from tailbound_lab.bench.rig.processes import Share, Usage, cpu_of, name_of, pss_of, shares


def test_cpu_is_user_and_system_time_even_if_the_name_has_brackets():
    ticks = os.sysconf("SC_CLK_TCK")
    stat = "7 (a) b) c) S " + " ".join(["0"] * 10) + f" {ticks} {2 * ticks} 0 0"
    assert cpu_of(stat) == 3.0


def test_memory_is_the_proportional_set():
    assert pss_of("Rss: 9 kB\nPss:      12 kB\nPss_Anon: 1 kB\n") == 12 * 1024
    assert pss_of("") == 0


def test_a_process_is_named_by_its_program_and_first_argument_that_is_no_option():
    assert name_of(b"/usr/bin/python3\0-m\0/x/gunicorn\0--bind\0") == "python3 gunicorn"
    assert name_of(b"") == "(ended)"


def test_shares_are_of_the_run_alone_and_sorted():
    before = {1: Usage("a", 10.0, 0)}
    after = {1: Usage("a", 10.5, 0), 2: Usage("b", 1.0, 0), 3: Usage("c", 0.0, 0)}
    assert shares(before, after, 2.0, 1000) == [Share("b", 0.5, 1000.0), Share("a", 0.25, 500.0)]


def test_a_marked_process_and_its_orphan_are_found_and_ended():
    mark = f"test-{os.getpid()}"
    code = (
        "import subprocess, time; subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {processes.MARK: mark})
    while len(processes.marked(mark)) < 2:
        assert process.poll() is None
    assert all(usage.pss for usage in processes.usage(mark).values() if usage.name != "(ended)")
    processes.end(process, mark)
    assert processes.marked(mark) == []


def test_only_forked_children_have_the_name_of_their_parent():
    code = "import os, time; os.fork(); os.fork(); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, "x"], start_new_session=True) as process:
        try:
            used = {process.pid: Usage("python x", 0.0, 0)}
            while len(used) < 4:
                assert process.poll() is None
                used = {pid: Usage("python x", 0.0, 0) for pid in _session(process.pid)}
            used[os.getpid()] = Usage("pytest", 0.0, 0)
            assert sorted(processes.children_named("x", used)) == sorted(
                used.keys() - {process.pid, os.getpid()}
            )
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def _session(leader: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if os.getpgid(int(folder.name)) == leader:
                    found.append(int(folder.name))
    return found
