"""Whole commands on something small: from the trace to results, table and plot."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from support.waits import until
from tailbound_lab.bench import __main__ as bench

PAIR = ("--workload", "accelerator", "--systems", "slo,fixed:4:0")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("words", "count", "status"),
    [
        (
            ["soak", "--rate", "50"],
            3,
            128 + signal.SIGTERM,
        ),
        (["promise", "--functions", "200", "--processes", "2"], 2, -signal.SIGTERM),
    ],
    ids=["servers", "pool"],
)
def test_bench_ended_by_sigterm_leaves_no_process(tmp_path, words, count, status):
    mark = f"STARTED_FOR={tmp_path}"

    def started():
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended
                if mark.encode() in entry.read_bytes().split(b"\0"):
                    found.append(int(entry.parent.name))
        return found

    command = [sys.executable, "-m", "tailbound_lab.bench", *words]
    environment = os.environ | {"STARTED_FOR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as run:
        try:
            until(lambda: len(started()) > count, "its processes have started", 50.0)
            run.send_signal(signal.SIGTERM)
            assert run.wait(60) == status
            until(lambda: not started(), "all its processes have ended", 10.0)
        finally:
            for pid in started():
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "words",
    [
        "interleaved --systems slo",
        *("interleaved --systems slo,slo", "interleaved --rounds 0"),
        *(
            "compare --workloads none",
            "compare --workers 0",
        ),
        "compare --last",
    ],
)
def test_impossible_measurement_is_refused_before_any_start(tmp_path, capsys, words):
    assert bench.main(words.split()) == 2
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.startswith("bench: ")


@pytest.mark.e2e
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["soak", "--minutes", "0.2", "--rate", "20", "--kill-every", "6"], "soak.json"),
        (["interleaved", "--smoke", "--rounds", "1", *PAIR], "interleaved.json"),
        (["compare", "--smoke", "--workloads", "accelerator", "--systems", "slo"], "results.json"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_measurement_in_small_goes_from_the_server_to_results(tmp_path, capsys, words, file):
    assert bench.main(words) in (0, 1)
    if file == "results.json":
        (found,) = json.loads((tmp_path / file).read_text())["measurements"]
        assert found["status"] == "measured", found
        capsys.readouterr()
        assert bench.main(["compare", "--last"]) == 0
        assert "**accelerator.**" in capsys.readouterr().out
    elif file == "soak.json":
        found = json.loads((tmp_path / file).read_text())
        assert found["sent"] > 0
        assert found["killed"] >= 1
        assert found["bad_clients"] >= 3
        assert found["unanswered"] == 0
    elif file == "interleaved.json":
        (found,) = json.loads((tmp_path / file).read_text())["workloads"]["accelerator"]
        assert all(found[label]["trials"] for label in ("slo", "fixed:4:0"))
