"""Decisions as sentences: from the running autoscaler, from a log, and what is said when there are none."""

import io
import json
import re
import sys

import pytest
from prometheus_client import CollectorRegistry

from autoscaler import doubles
from autoscaler.doubles import a_gateway, free_port
from slo_autoscaler.cli.explain import main, of_lines
from slo_autoscaler.model import Reason
from slo_autoscaler.web.listener import Web
from slo_autoscaler.words import SENTENCES, score, sentence

NAME = "vision.openfaas-fn"
EVERYTHING = {
    "rate": 290.0,
    "forecast": 310.0,
    "horizon": 10.0,
    "utilization": 0.9,
    "standing": 400.0,
    "peak_every": 600.0,
    "capacity": 95.0,
    "correction": 0.81,
    "desired": 3,
    "available": 2,
    "up_replicas": 2.0,
    "in_flight": 40.0,
    "queue_length": 30.0,
    "samples": 3000.0,
    "p50": 0.02,
    "p95": 0.11,
    "p99": 0.18,
    "slo_latency": 0.2,
    "slo_objective": 0.99,
    "attainment": 0.9725,
    "age": 1.5,
    "min": 1,
    "max": 6,
    "asked": 6,
    "granted": 5,
    "recommended": 4,
    "burn": 15.2,
    "burn_short": 16.0,
    "budget": 0.4,
    "service_time_single": 0.25,
    "service_mean": 0.05,
    "service_time_baseline": 0.02,
    "queue_mean": 0.001,
}


def a_decision(**changes):
    return {
        "time": "2026-01-02T12:03:05.123+00:00",
        "function_name": NAME,
        "mode": "active",
        "from": 2,
        "to": 4,
        "action": "up",
        "reason": "LoadAboveCapacity",
        "dry_run": False,
        "inputs": EVERYTHING,
    } | changes


def test_a_change_says_when_what_why_and_the_numbers():
    assert sentence(a_decision()) == (
        "12:03:05 scaled vision.openfaas-fn from 2 to 4: load above capacity: 310 requests/s forecast"
        " 10 s ahead against 2 x 95/s; p99 180 ms of 200 ms; 97.25 % within the SLO of 99 %;"
        " burn rate 15.2; 40 % of the error budget left; 1 of 3 replicas starting;"
        " capacity counted at 81 %"
    )


def test_a_hold_says_for_how_long_and_how_often():
    held = a_decision(
        to=2, reason="NoData", inputs={}, repeats=24, until="2026-01-02T12:05:10.000+00:00", action="hold"
    )
    assert sentence(held) == (
        "12:03:05 to 12:05:10 held vision.openfaas-fn at 2, 25 times over: there is no usable data"
    )


def test_a_platform_cap_has_both_numbers():
    capped = sentence(a_decision(to=2, reason="PlatformCap"))
    assert "the platform does not give more: 4 are wanted, asked for 6, granted 5" in capped


@pytest.mark.parametrize(
    ("changes", "deed"),
    [
        ({"dry_run": True}, f"would have scaled {NAME} from 2 to 4:"),
        ({"mode": "standby", "dry_run": True}, f"on standby, would have scaled {NAME} from 2 to 4:"),
        ({"mode": "standby", "to": 2}, f"on standby, held {NAME} at 2:"),
        (
            {"mode": "shadow", "incumbent": 3, "dry_run": True},
            f"the shadow scaled {NAME} from 2 to 4 (3 are really there):",
        ),
        ({"mode": "shadow", "to": 2, "incumbent": 3}, f"the shadow held {NAME} at 2 (3 are really there):"),
    ],
)
def test_what_was_not_carried_out_is_told_as_such(changes, deed):
    assert deed in sentence(a_decision(**changes))


def test_every_reason_has_a_sentence_of_its_own():
    assert {reason.value for reason in Reason} <= SENTENCES.keys()


@pytest.mark.parametrize("reason", sorted({*SENTENCES, "OfALaterVersion"}))
@pytest.mark.parametrize("inputs", [EVERYTHING, {}, dict.fromkeys(EVERYTHING)])
def test_every_sentence_can_be_said_with_all_numbers_and_with_none(reason, inputs):
    told = sentence(a_decision(reason=reason, inputs=inputs))
    assert not re.search(r"[{}]|None|nan", told)
    first = SENTENCES.get(reason, (reason,))[0]
    assert told.startswith(f"12:03:05 scaled {NAME} from 2 to 4: {first}")


def test_first_clauses_need_no_number_and_the_others_know_the_inputs():
    for first, *others in SENTENCES.values():
        assert "{" not in first
        for name in re.findall(r"\{(\w+)\}", " ".join(others)):
            assert name in {*EVERYTHING, "ready"}


def test_a_score_compares_both_worlds():
    numbers = {
        "seconds": 60.0,
        "requests": 6000.0,
        "attained_incumbent": 5400.0,
        "attained_shadow": 5994.0,
        "replica_seconds_incumbent": 120.0,
        "replica_seconds_shadow": 180.0,
    }
    assert score(NAME, numbers) == (
        f"{NAME}, over 60 s and 6,000 requests: incumbent 90.00 % within the SLO for 120 replica-seconds;"
        " shadow, as predicted, 99.90 % within the SLO for 180 replica-seconds"
    )
    assert "no request within" in score(NAME, numbers | {"requests": 0.0})
    assert score(NAME, numbers | {"seconds": 0.0}) == f"{NAME}: nothing could be scored yet"


def a_log(*decisions):
    return "".join(f"{json.dumps(decision)}\n" for decision in decisions)


def test_a_log_is_read_past_whatever_else_stands_in_it(tmp_path, capsys):
    log = tmp_path / "log"
    others = a_decision(function_name="text.openfaas-fn")
    log.write_text(
        "INFO slo-autoscaler 0.1.0\n{broken\n"
        + a_log(a_decision(to=9), others, a_decision(), a_decision(to=3))
    )
    assert main([NAME, "--log", str(log), "--last", "2"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "from 2 to 4" in first
    assert "from 2 to 3" in second


def test_a_log_may_be_the_standard_input_and_the_name_without_namespace(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(a_log(a_decision())))
    assert main(["vision", "--log", "-"]) == 0
    assert capsys.readouterr().out.startswith(f"12:03:05 scaled {NAME}")


def test_decisions_of_several_days_have_their_date(tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text(a_log(a_decision(), a_decision(time="2026-01-03T00:00:01+00:00")))
    assert main([NAME, "--log", str(log)]) == 0
    assert [line[:19] for line in capsys.readouterr().out.splitlines()] == [
        "2026-01-02 12:03:05",
        "2026-01-03 00:00:01",
    ]


def test_a_log_without_the_function_is_status_1_and_suggests_a_name(tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text(a_log(a_decision()))
    assert main(["vison.openfaas-fn", "--log", str(log)]) == 1
    assert f"no decisions for 'vison.openfaas-fn'; did you mean {NAME}" in capsys.readouterr().err
    assert of_lines([], "x", 3) == ([], [])


class Decided:
    """Stands for the controller behind the web port."""

    def functions(self):
        return [NAME]

    def decisions(self, function_name, last):
        numbers = dict.fromkeys(
            ("requests", "attained_incumbent", "attained_shadow", "replica_seconds_incumbent"), 1.0
        )
        return {
            "function_name": function_name,
            "decisions": [a_decision(repeats=0, until=a_decision()["time"])] * min(last, 3),
            "score": numbers | {"seconds": 5.0, "replica_seconds_shadow": 2.0},
        }


@pytest.fixture
def port():
    web = Web("127.0.0.1", 0, CollectorRegistry(), lambda: True, Decided())
    web.start()
    yield web.port
    web.stop()


def test_the_running_autoscaler_is_asked_and_a_shadow_has_its_score(port, capsys):
    assert main(["vision", "--url", f"http://127.0.0.1:{port}/", "--last", "2"]) == 0
    *told, last = capsys.readouterr().out.splitlines()
    assert told == [sentence(a_decision())] * 2
    assert last.startswith(f"{NAME}, over 5 s and 1 requests: incumbent 100.00 %")


def test_a_function_that_has_just_started_is_told_of_by_what_is_lacking():
    told = sentence(
        a_decision(reason="NoData", to=2, inputs={"age": 0.044, "rate": None, "up_replicas": 2.0})
    )
    assert "the newest sample is 44 ms old, no rate of requests is known yet" in told


def test_a_terminal_gets_lines_that_are_broken_between_words_and_a_pipe_gets_them_whole(
    port, capsys, monkeypatch
):
    arguments = ["vision", "--url", f"http://127.0.0.1:{port}/", "--last", "1"]
    assert main(arguments) == 0
    whole = capsys.readouterr().out.splitlines()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(arguments) == 0
    broken = capsys.readouterr().out.splitlines()
    assert max(map(len, broken)) <= 60
    assert " ".join(line.strip() for line in broken) == " ".join(whole)
    assert [line.startswith("    ") for line in broken[:2]] == [False, True]


def test_the_port_comes_from_the_configuration_or_the_environment(port, tmp_path, capsys, monkeypatch):
    config = tmp_path / "as.yaml"
    config.write_text(f"web: {{host: 0.0.0.0, port: {port}}}\n")
    assert main([NAME, "--config", str(config)]) == 0
    monkeypatch.setenv("SLO_AUTOSCALER_WEB_PORT", str(port))
    assert main([NAME]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_an_unknown_function_is_status_1_with_the_autoscaler_s_words(port, capsys):
    assert main(["vision.openfaas-f", "--url", f"http://127.0.0.1:{port}"]) == 1
    assert f"did you mean {NAME}" in capsys.readouterr().err


@pytest.mark.parametrize("fault", [doubles.status(500), doubles.garbage, doubles.status(200, b'{"a": 1}')])
def test_something_else_at_the_port_is_status_1_and_says_so(fault, capsys):
    with a_gateway() as other:
        other.faults["GET"] = fault
        assert main([NAME, "--url", other.url]) == 1
    assert f"{other.url}: no answer that makes sense, is this its web port?" in capsys.readouterr().err


def test_nobody_at_the_port_is_status_1(capsys):
    assert main([NAME, "--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--log", "/no/log"], "--log: /no/log: cannot be read: No such file"),
        (["--config", "/no/file"], "/no/file: cannot be read: No such file"),
        (["--url", "file:///etc/passwd"], "must be an http:// or https:// URL"),
    ],
)
def test_what_cannot_be_used_is_status_2(arguments, what, capsys):
    assert main([NAME, *arguments]) == 2
    assert what in capsys.readouterr().err


def test_a_port_that_the_configuration_leaves_open_must_be_given(tmp_path, capsys):
    config = tmp_path / "as.yaml"
    config.write_text("web: {port: 0}\n")
    assert main([NAME, "--config", str(config)]) == 2
    assert "web.port: 0 is any port: give the one of the log with --url" in capsys.readouterr().err


@pytest.mark.parametrize("last", ["0", "-1", "many"])
def test_a_last_that_is_no_count_is_status_2(last, capsys):
    with pytest.raises(SystemExit) as ended:
        main([NAME, "--last", last])
    assert ended.value.code == 2
    assert "must be a whole number of at least 1" in capsys.readouterr().err
