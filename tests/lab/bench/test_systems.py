"""The registry of systems, their processes, and that one can be started, measured and ended."""

import os
import signal
import subprocess
import sys

import pytest

from tailbound_lab.bench.rig import processes
from tailbound_lab.bench.rig.processes import Usage, cpu_between, cpu_of, name_of, pss_of
from tailbound_lab.bench.rig.systems import SYSTEMS, Launch, Settings, parse_entry
from tailbound_lab.bench.rig.venvs import python_of
from tailbound_lab.bench.workloads import IMPORTS, WORKLOADS
from tailbound_lab.load.records import BenchError, NotAvailable


@pytest.mark.parametrize(
    ("text", "settings"),
    [("mosec", SYSTEMS["mosec"].settings), ("litserve:16:2+malloc", Settings(16, 2, malloc=True))],
)
def test_entry_has_the_named_settings_or_the_systems_own(text, settings):
    assert parse_entry(text).settings == settings


@pytest.mark.parametrize(
    "text", ["", "mosek", "mosec:1", "mosec:0:1", "mosec:a:1", "mosec+speed", "slo-grid"]
)
def test_entry_that_means_nothing_is_refused_by_its_text(text):
    with pytest.raises(BenchError, match=f"system '{text.replace('+', '.')}'"):
        parse_entry(text)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_listens_on_the_port_that_it_is_given(name, tmp_path):
    launch = Launch(1234, WORKLOADS["tabular"], 2, SYSTEMS[name].settings, "/python", tmp_path)
    command = SYSTEMS[name].launch(launch)
    assert any("1234" in word for word in (*command.arguments, *command.environment.values()))


def test_slo_system_sets_nothing_but_the_target(tmp_path):
    launch = Launch(1234, WORKLOADS["text"], 2, Settings(), "/python", tmp_path)
    environment = SYSTEMS["slo"].launch(launch).environment
    assert environment["slo_latency"] == "50ms"
    assert not {"max_batch_size", "max_inflight"} & environment.keys()


def test_peer_that_pip_cannot_install_is_not_available_and_leaves_nothing(tmp_path):
    with pytest.raises(NotAvailable, match="pip install"):
        python_of((str(tmp_path / "no-such-package"), "broken"), tmp_path)
    assert not (tmp_path / "broken").exists()


def test_peers_interpreter_without_our_packages_can_serve_a_workload():
    code = "from tailbound_lab.bench.workloads import *; model_of_environment().predict([b'{}'])"
    environment = {"PYTHONPATH": str(IMPORTS), "BENCH_FOLDER": str(WORKLOADS["accelerator"].folder)}
    subprocess.run([sys.executable, "-S", "-c", code], env=environment, check=True)


def test_proc_texts_are_read_whatever_the_process_is_called():
    ticks = os.sysconf("SC_CLK_TCK")
    assert cpu_of("7 (a) b) c) S " + " ".join(["0"] * 10) + f" {ticks} {2 * ticks} 0 0") == 3.0
    assert pss_of("Rss: 9 kB\nPss:      12 kB\nPss_Anon: 1 kB\n") == 12 * 1024
    assert pss_of("") == 0
    assert name_of(b"/usr/bin/python3\0-m\0/x/gunicorn\0--bind\0") == "python3 gunicorn"
    assert name_of(b"") == "(ended)"


def test_cpu_between_two_readings_counts_processes_that_began_meanwhile():
    before = {1: Usage("a", 10.0, 0)}
    after = {1: Usage("a", 10.5, 0), 2: Usage("b", 1.0, 0)}
    assert cpu_between(before, after) == 1.5


def test_end_kills_a_marked_process_and_its_orphan():
    mark = f"test-{os.getpid()}"
    code = (
        "import subprocess, time; subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {processes.MARK: mark})
    while len(processes.marked(mark)) < 2:
        assert process.poll() is None
    processes.end(process, mark)
    assert processes.marked(mark) == []


def test_children_named_are_forked_and_not_started():
    code = "import os, time; os.fork(); os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as process:
        try:
            pids = {int(process.stdout.readline()) for _ in range(2)}
            used = {pid: Usage("python x", 0.0, 0) for pid in pids} | {os.getpid(): Usage("pytest", 0.0, 0)}
            assert set(processes.children_named("x", used)) == pids - {process.pid}
        finally:
            os.killpg(process.pid, signal.SIGKILL)
