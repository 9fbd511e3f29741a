"""The command: its words, its help, and what is refused before anything starts."""

import subprocess
import sys

import pytest

from slo_autoscaler.__main__ import COMMANDS, main
from slo_autoscaler.settings.fields import REMOVED


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--version"], ["slo-autoscaler "]),
        (["run", "--version"], ["slo-autoscaler "]),
        (["run", "--help"], COMMANDS),
        *(([word, "--help"], [word]) for word in COMMANDS),
    ],
)
def test_main_shows_version_and_help_of_a_command_or_without_one_of_the_main_one(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(each in out for each in told)


def test_main_word_that_is_no_command_is_status_2_and_named(capsys):
    assert main(["stauts"]) == 2
    assert "stauts" in capsys.readouterr().err


def test_main_command_that_was_removed_says_what_does_its_work(capsys):
    assert main(["openslo"]) == 2
    assert REMOVED["slo-autoscaler openslo"] in capsys.readouterr().err


def test_main_log_format_that_does_not_exist_is_status_2(monkeypatch, capsys, tmp_path):
    words = ["--config", str(tmp_path / "none.yaml")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--log-format", "xml"])
    assert ended.value.code == 2
    monkeypatch.setenv("SLO_AUTOSCALER_LOG_FORMAT", "xml")
    assert main(words) == 2
    assert "SLO_AUTOSCALER_LOG_FORMAT" in capsys.readouterr().err


IMPORTING = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == "pydantic":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
sys.meta_path.insert(0, Interrupts())
from slo_autoscaler.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("word", COMMANDS)
def test_main_interrupted_during_its_imports_ends_without_a_traceback(word):
    run = subprocess.run([sys.executable, "-c", IMPORTING, word], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (130, "")
