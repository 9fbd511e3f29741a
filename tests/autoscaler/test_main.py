import pytest

from slo_autoscaler import __main__ as commands


def test_without_a_command_the_words_go_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("slo-autoscaler ")


def test_the_main_command_may_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands.main(["run", "--version"])
    assert capsys.readouterr().out.startswith("slo-autoscaler ")


def test_every_command_can_be_imported_and_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for word in commands.COMMANDS:
        with pytest.raises(SystemExit) as ended:
            commands.main([word, "--help"])
        assert ended.value.code == 0
        assert "usage: slo-autoscaler" in capsys.readouterr().out


def test_the_help_of_the_main_command_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands.main(["--help"])
    told = capsys.readouterr().out
    assert all(word in told for word in commands.COMMANDS)
