"""``batching-watchdog try`` on handlers of all kinds, with real worker processes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from batching_watchdog.trial.command import PRINTED_LINES
from support.pages import ROOT, blocks
from support.processes import bare_environment, processes_of
from support.waits import PATIENCE, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SLEEPING = """
import time

print("the function's own output")

def load():
    return set("aeiou")

def handle_batch(events, context):
    time.sleep(0.020 + 0.010 * len(events))
    return [{"vowels": sum(letter in context.model for letter in event.json()["text"])} for event in events]

def example():
    return b'{"text": "an example"}'
"""


def tried(folder: Path, handler: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command on a handler, once all of its processes have ended."""
    folder.mkdir(exist_ok=True)
    (folder / "handler.py").write_text(handler)
    done = subprocess.run(
        [sys.executable, "-m", "batching_watchdog", "try", str(folder), *options],
        env={**bare_environment(), "TMPDIR": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    until(lambda: not processes_of(folder), "no process is left")
    return done


def test_handler_is_loaded_measured_and_asked_over_http_and_the_report_is_all_of_stdout(tmp_path):
    done = tried(tmp_path, SLEEPING, "--slo-latency", "0.4", "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["workers"], report["slo_latency"], report["slo_from"]) == (2, 0.4, "--slo-latency")
    assert (report["status"], report["body"]) == (200, '{"vowels":4}')
    costs = {batch["size"]: batch["seconds"] for batch in report["batches"]}
    assert {1, 2, 4} <= costs.keys()
    assert costs[1] >= 0.030  # a busy machine adds to the sleep, and nothing takes from it
    assert costs[4] >= 0.060
    assert report["resident_bytes"] > 1e6
    assert report["total_seconds"] >= report["worker_seconds"] >= 0.030
    assert report["requests_per_second"] <= 2 * 100.0  # of two workers, 10 ms for each request
    assert report["next"]
    assert "the function's own output" in done.stderr


STREAMING = """
import time

def start(events, context):
    time.sleep(0.004)
    return [[len(event.body)] for event in events]

def step(states, context):
    time.sleep(0.008 + 0.002 * len(states))
    if len(states) > FITS:
        raise EXCESS
    for state in states:
        state[0] -= 1
    return [("x", not state[0]) for state in states]

def example():
    return b"." * 20
"""


def streaming(excess: str = "MemoryError", fits: int = 1000) -> str:
    return STREAMING.replace("EXCESS", excess).replace("FITS", str(fits))


def test_handler_that_streams_is_measured_with_more_and_more_streams_at_a_time(tmp_path):
    done = tried(tmp_path, streaming(), "--workers", "1", "--json", slo_interval="100ms")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["slo_latency"], report["slo_interval"]) == (0.5, 0.1)
    assert report["body"].startswith('"x"')
    assert report["pieces"] == 20.0
    costs = {step["size"]: step["seconds"] for step in report["steps"]}
    assert {1, 2} <= costs.keys()
    assert costs[1] >= 0.010  # a busy machine adds to the sleep, and nothing takes from it
    assert report["starts"][0]["seconds"] >= 0.004
    assert report["total_seconds"] >= report["first_piece_seconds"] >= 0.014
    assert 0 < report["concurrency"] <= 46  # steps of 46 streams take the interval
    assert 0 < report["streams_per_second"] <= 46 / (20 * 0.1)


def test_body_that_is_named_replaces_the_example_of_a_handler_that_streams(tmp_path):
    (tmp_path / "body").write_bytes(b"." * 7)
    done = tried(tmp_path, streaming(), "--workers", "1", "--json", "--body", str(tmp_path / "body"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pieces"] == 7.0


def test_streams_that_run_out_of_memory_show_as_a_ceiling_in_the_report(tmp_path):
    handler = streaming(fits=3).partition("def example")[0]
    (tmp_path / "body").write_bytes(b"." * 20)
    done = tried(tmp_path, handler, "--workers", "1", "--json", "--body", str(tmp_path / "body"))
    assert done.returncode == 0, done.stderr
    assert 1 <= json.loads(done.stdout)["ceiling"] <= 3


@pytest.mark.parametrize(
    ("handler", "environment", "named"),
    [
        (streaming("RuntimeError", 0).replace("def example", "def no_example"), {}, "streams at a time"),
        (streaming("RuntimeError", 0), {}, "example()"),
        (streaming().replace("not state[0]", "False"), {"exec_timeout": "2s"}, "within 2"),
    ],
    ids=["fails on its body", "fails on its example", "never ends"],
)
def test_handler_whose_streams_fail_has_exit_status_1_and_an_error(tmp_path, handler, environment, named):
    (tmp_path / "body").write_bytes(b"." * 20)
    done = tried(tmp_path, handler, "--workers", "1", "--body", str(tmp_path / "body"), **environment)
    assert done.returncode == 1
    assert named in done.stderr.partition("batching-watchdog try: ")[2]
    assert not done.stdout


@pytest.mark.parametrize(("preload", "noted"), [("auto", 1), ("false", 0)])
def test_handler_whose_thread_survives_no_fork_is_noted_as_loaded_twice(tmp_path, preload, noted):
    thread = "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    handler = SLEEPING.replace("return set", f"import threading; {thread}; return set")
    done = tried(tmp_path, handler, "--json", preload=preload)
    assert done.returncode == 0, done.stderr
    assert sum("preload" in note for note in json.loads(done.stdout)["notes"]) == noted


PADDED = """
import time

def handle_batch(events, context):
    longest = max(len(event.body) for event in events)
    time.sleep(0.02 + 0.00001 * longest * len(events))
    return [len(event.body) for event in events]
"""


def test_mix_of_bodies_costs_more_than_if_all_were_like_the_first(tmp_path):
    bodies = tmp_path / "bodies"
    bodies.mkdir()
    for number, length in enumerate((10, 50, 400, 900)):
        (bodies / str(number)).write_bytes(b"x" * length)
    done = tried(
        tmp_path / "fn", PADDED, "--bodies", str(bodies), "--slo-latency", "1", "--workers", "1", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["bodies"] == [10, 50, 400, 900]
    assert 0.0 < report["requests_per_second"] < 0.5 * report["uniform_requests_per_second"]


def test_handler_of_python3_http_is_tried_as_it_is_and_settings_without_effect_are_named(tmp_path):
    body = tmp_path / "body"
    body.write_bytes(b"typical")
    (tmp_path / "stack.yaml").write_text(
        "functions:\n  fn:\n    handler: ./fn\n    environment:\n      slo_latancy: 1s\n"
    )
    handler = 'def handle(event, context):\n    return {"statusCode": 200, "body": f"{len(event.body)}"}\n'
    done = tried(tmp_path / "fn", handler, "--workers", "1", "--json", "--body", str(body))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["body"] == "7"
    assert any("slo_latancy" in note for note in report["notes"])
    done = tried(tmp_path / "fn", handler, "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bodies"] == [0]


def test_batch_that_runs_out_of_memory_shows_as_a_ceiling_in_the_report(tmp_path):
    fits = SLEEPING.replace(
        "    return [{", "    if len(events) > 4:\n        raise MemoryError\n    return [{"
    )
    done = tried(tmp_path, fits, "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ceiling"] == 4
    assert max(batch["size"] for batch in report["batches"]) == 4


BROKEN = {
    "import": "import nothing_like_it\n",
    "needs a body": "def handle_batch(es, c):\n    return [1 / len(e.body) for e in es]\n",
    "raises": "def example():\n    return b'x'\ndef handle(e, c):\n    1 / 0\n",
    "dies": "import os\ndef example():\n    return b'x'\ndef handle(e, c):\n    os.abort()\n",
}


@pytest.mark.parametrize("handler", BROKEN.values(), ids=BROKEN)
def test_handler_that_cannot_be_tried_has_exit_status_1_and_an_error_without_a_frame_of_ours(
    tmp_path, handler
):
    done = tried(tmp_path, handler, "--workers", "1", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]
    assert "batching_watchdog/" not in done.stderr


def test_handler_without_example_that_needs_a_body_is_told_of_no_example(tmp_path):
    done = tried(tmp_path, BROKEN["needs a body"], "--workers", "1")
    assert done.returncode == 1
    assert "its own example()" not in done.stderr
    assert "fails on an empty body" in done.stderr


def test_function_that_prints_much_leaves_the_report_readable(tmp_path):
    handler = SLEEPING.replace("    time.sleep", "    print('of a batch')\n    time.sleep")
    done = tried(tmp_path, handler, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("of a batch") <= 2 * PRINTED_LINES


def test_interrupt_while_the_handler_loads_ends_the_command_and_its_processes(tmp_path):
    (tmp_path / "handler.py").write_text(
        "import pathlib, threading\n"
        "pathlib.Path(__file__).with_name('loads').touch()\n"
        "threading.Event().wait()\n"
    )
    # A background job of a shell ignores this signal, and so would its children.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = subprocess.Popen(
        [sys.executable, "-m", "batching_watchdog", "try", str(tmp_path)],
        env={**bare_environment(), "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, handler)
    until((tmp_path / "loads").exists, "it loads")
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=PATIENCE)
    assert command.returncode == 130
    assert "interrupted while loading the handler" in said
    assert "Traceback" not in said
    until(lambda: not processes_of(tmp_path), "no process is left")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("no/such/folder",),
        (".", "--slo-latency", "soon"),
        (".", "--body", "no/such/file"),
    ],
)
def test_command_that_is_not_understood_has_exit_status_2(tmp_path, arguments):
    (tmp_path / "handler.py").write_text(SLEEPING)
    done = subprocess.run(
        [sys.executable, "-m", "batching_watchdog", "try", *arguments],
        cwd=tmp_path,
        env=bare_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "batching-watchdog try: " in done.stderr


def test_handler_that_the_readme_shows_answers_its_own_example(tmp_path):
    folder = tmp_path / "fn"
    folder.mkdir()
    (block, *_) = [block for block in blocks((ROOT / "README.md").read_text()) if block.language == "python"]
    done = tried(folder, block.text, "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
