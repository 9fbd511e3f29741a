"""The command line, as a user runs it."""

import json
import signal
import subprocess
import sys
import urllib.request

import pytest

UP = [sys.executable, "-m", "tailbound_lab.local", "up"]


def refused(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*UP, *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.e2e
def test_a_missing_stack_file_is_one_clear_line(tmp_path):
    done = refused("--no-prometheus", "--port", "0", "--stack", str(tmp_path / "missing.yml"))
    assert done.stderr.count("\n") == 1
    assert "missing.yml" in done.stderr
    assert "No such file" in done.stderr


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "eighty"], "must be a port number"),
        (["--image", "nothing"], "must be NAME=FOLDER"),
        (["--max-replicas", "-1"], "must be a whole number"),
    ],
)
def test_a_wrong_argument_is_named_with_its_rule(arguments, words):
    done = refused(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_says_where_things_are_and_stops_cleanly(tmp_path, number):
    command = [*UP, "--no-prometheus", "--port", "0", "--run-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as platform:
        said = ""
        for line in platform.stdout:
            said += line
            if line.startswith("Ctrl-C"):
                break
        assert str(tmp_path / "logs") in said
        (url,) = [line.split()[1] for line in said.splitlines() if line.startswith("gateway")]
        with urllib.request.urlopen(f"{url}/system/functions") as answer:
            assert json.load(answer) == []
        platform.send_signal(number)
        assert platform.wait(timeout=20) == 0
        assert "Traceback" not in platform.stderr.read()
