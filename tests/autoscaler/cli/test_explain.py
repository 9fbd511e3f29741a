"""``explain``: from the running autoscaler, from a log, and what is said when there are no decisions."""

import io
import json
import os
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry

from slo_autoscaler.__main__ import main as command
from slo_autoscaler.cli.explain import main
from slo_autoscaler.show.web.listener import create_app
from slo_autoscaler.show.web.server import Server
from slo_autoscaler.show.words import sentence
from support.builders import NAME, a_told_decision
from support.serving import SCORE, Told

TROUBLED = "troubled.openfaas-fn"
REMOVED = "removed.openfaas-fn"


def a_log(*decisions):
    return "".join(f"{json.dumps(decision)}\n" for decision in decisions)


def test_explain_log_with_other_lines_tells_the_last_of_the_function(tmp_path, capsys):
    log = tmp_path / "log"
    others = a_told_decision(function_name="text.openfaas-fn")
    decisions = [a_told_decision(to=9), others, a_told_decision(), a_told_decision(to=3)]
    log.write_text("INFO slo-autoscaler 0.1.0\n{broken\n" + a_log(*decisions))
    assert main([NAME, "--log", str(log), "--last", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [sentence(decisions[2]), sentence(decisions[3])]


def test_explain_writes_no_control_characters_of_a_log(tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text(a_log(a_told_decision(detail="\x1b[2J\u202e", function_name=NAME)))
    assert main([NAME, "--log", str(log)]) == 0
    assert capsys.readouterr().out.removesuffix("\n").isprintable()


def test_explain_standard_input_takes_a_name_without_namespace(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(a_log(a_told_decision())))
    assert main(["vision", "--log", "-"]) == 0
    assert NAME in capsys.readouterr().out


def test_explain_reader_that_has_seen_enough_is_no_failure(tmp_path):
    log = tmp_path / "log"
    log.write_text(a_log(a_told_decision()))
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "slo_autoscaler", "explain", NAME, "--log", str(log)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.fixture
def port():
    told = Told(*[a_told_decision(repeats=0, until=a_told_decision()["time"])] * 3, scores={NAME: SCORE})
    told.problems = {TROUBLED: "a label is no mode"}
    told.boosts = {TROUBLED: "boosted start of 1 replica"}
    told.add(a_told_decision(function_name=REMOVED, repeats=0, until=a_told_decision()["time"]))
    told.gone = [REMOVED]
    web = Server("web", create_app(CollectorRegistry(), lambda: True, told, {}.get), "127.0.0.1", 0)
    web.start()
    yield web.port
    web.stop()


def test_explain_running_autoscaler_tells_decisions_and_the_score(port, capsys):
    assert main(["vision", "--url", f"http://127.0.0.1:{port}/", "--last", "2"]) == 0
    *told, last = capsys.readouterr().out.splitlines()
    assert told == [sentence(a_told_decision())] * 2
    assert NAME in last


def test_explain_function_that_cannot_be_read_tells_the_reason(port, capsys):
    assert main(["troubled", "--url", f"http://127.0.0.1:{port}"]) == 0
    assert "a label is no mode" in capsys.readouterr().out


def test_explain_tells_what_the_replicas_have_of_their_boosts(port, capsys):
    main(["troubled", "--url", f"http://127.0.0.1:{port}"])
    assert "boosted start of 1 replica" in capsys.readouterr().out


def test_explain_removed_function_tells_its_last_decision_and_that_it_is_removed(port, capsys):
    assert main([REMOVED, "--url", f"http://127.0.0.1:{port}"]) == 0
    decision, removed = capsys.readouterr().out.splitlines()
    assert REMOVED in decision
    assert "removed" in removed


@pytest.mark.parametrize("source", ["url", "log"])
def test_explain_unknown_function_is_status_1_and_suggests_one(source, port, tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text(a_log(a_told_decision()))
    where = {"url": f"http://127.0.0.1:{port}", "log": str(log)}[source]
    assert main(["vison.openfaas-fn", f"--{source}", where]) == 1
    told = capsys.readouterr().err
    assert NAME in told
    assert "{" not in told, "in the autoscaler's words, not as JSON"


def test_explain_log_that_cannot_be_read_is_status_2(capsys):
    assert command(["explain", NAME, "--log", "/no/log"]) == 2
    assert "/no/log" in capsys.readouterr().err


@pytest.mark.parametrize("last", ["0", "-1", "many", "9" * 30])
def test_explain_last_that_is_no_count_is_status_2(last):
    with pytest.raises(SystemExit) as ended:
        main([NAME, "--last", last])
    assert ended.value.code == 2
