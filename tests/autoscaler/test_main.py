"""The command: its words, its help, and what is refused before anything starts."""

import pytest

from slo_autoscaler.__main__ import COMMANDS, main


@pytest.mark.parametrize("words", [["--version"], ["run", "--version"]])
def test_main_without_a_command_runs_the_main_one(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("slo-autoscaler ")


@pytest.mark.parametrize("word", COMMANDS)
def test_main_every_command_shows_its_help_and_the_main_one_names_all(word, capsys):
    with pytest.raises(SystemExit) as ended:
        main([word, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert word != "run" or all(each in told for each in COMMANDS)


def test_main_log_format_that_does_not_exist_is_status_2(monkeypatch, capsys, tmp_path):
    words = ["--config", str(tmp_path / "none.yaml")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--log-format", "xml"])
    assert ended.value.code == 2
    monkeypatch.setenv("SLO_AUTOSCALER_LOG_FORMAT", "xml")
    assert main(words) == 2
    assert "SLO_AUTOSCALER_LOG_FORMAT" in capsys.readouterr().err
