"""``tailbound-simulate``, as it is typed."""

import json
import subprocess
import sys

import pytest

from tailbound_lab.simulate.__main__ import main

SHORT = ["--generate", "step", "--rate", "40", "--duration", "60"]


def run(capsys, *words: str) -> tuple[int, str, str]:
    status = main(words[1:] if words[:1] == ("simulate",) else [*SHORT, *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_it_compares_six_scalers_and_the_oracle(capsys):
    status, out, _ = run(capsys, "--json")
    assert status == 0
    found = json.loads(out)
    assert [each["policy"] for each in found["outcomes"]] == [
        "slo",
        "openfaas-ce",
        "kpa",
        "hpa-cpu",
        "keda-value",
        "ray-serve",
        "oracle",
    ]
    assert found["requests"] == found["outcomes"][0]["requests"]
    assert all(len(each["replicas"]) == 60 for each in found["outcomes"])


def test_the_table_has_a_row_for_each_policy(capsys):
    status, out, _ = run(capsys, "--policies", "slo:0.7, kpa:4")
    assert status == 0
    assert "objective: 0.99 within 200 ms" in out
    assert "slo:0.7" in out
    assert "kpa:4" in out


def test_80_columns_hold_the_table_whatever_is_in_it(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    flags = ("--generate", "spike", "--rate", "300", "--duration", "200s")
    status, out, _ = run(capsys, *flags, "--max-replicas", "2", "--policies", "proportional,slo,openfaas-ce")
    assert status == 0
    assert "…" not in out
    assert "timed out" in out
    assert max(map(len, out.splitlines())) <= 80


def test_plots_are_written(capsys, tmp_path):
    status, out, _ = run(capsys, "--policies", "slo", "--plot", str(tmp_path / "plots"))
    assert status == 0
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"pareto.png", "series.png"}
    assert "wrote " in out


def test_the_function_is_as_the_flags_say(capsys):
    flags = ["--service-time", "50ms,0s", "--workers", "2", "--max-batch", "1", "--overhead", "10ms"]
    status, out, _ = run(
        capsys, *flags, "--policies", "slo", "--json", "--replicas", "9", "--max-replicas", "9", "--rate", "5"
    )
    assert status == 0
    assert json.loads(out)["outcomes"][0]["p50"] == pytest.approx(0.06)


def test_a_table_of_service_times_may_be_given(capsys):
    flags = ["--service-table", "10ms,12ms,13ms", "--routing", "least-loaded"]
    status, out, _ = run(capsys, *flags, "--policies", "slo", "--json")
    assert status == 0
    assert 0.01 <= json.loads(out)["outcomes"][0]["p50"] <= 0.03


def test_a_configuration_says_how_ours_scales(capsys, tmp_path):
    file = tmp_path / "autoscaler.yaml"
    file.write_text(
        "platform: {gateway_url: http://none}\nprometheus: {url: http://none}\n"
        "functions: {f.openfaas-fn: {min_replicas: 7, max_replicas: 8}}\n"
    )
    status, out, _ = run(
        capsys, "--config", str(file), "--function", "f.openfaas-fn", "--policies", "slo", "--json"
    )
    assert status == 0
    assert set(json.loads(out)["outcomes"][0]["replicas"]) == {7}


def test_a_trace_file_is_played(capsys, tmp_path):
    file = tmp_path / "counts.txt"
    file.write_text("20\n" * 30)
    status, out, _ = run(capsys, "simulate", "--trace", str(file), "--policies", "slo", "--json")
    assert status == 0
    assert json.loads(out)["trace"] == "counts"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (
            ["--policies", "magic"],
            1,
            "policy 'magic': must be one of proportional, slo, openfaas-ce",
        ),
        (["--policies", "kpa:many"], 1, "must be a number above 0"),
        (["--service-time", "20ms"], 1, "must be two durations"),
        (["--service-time", "20ms,soon"], 1, "must be a duration"),
        (["--config", "/none.yaml"], 2, "/none.yaml: cannot be read"),
        (["--slo-objective", "2"], 1, "slo_objective"),
        (["--min-replicas", "30"], 1, "must be at least 1 and at most"),
        (["simulate", "--trace", "/none.txt"], 1, "/none.txt: cannot be read"),
        (["simulate", "--generate", "wave"], 1, "generator 'wave': must be one of"),
        (["simulate", "--prometheus", "http://127.0.0.1:9"], 1, "ConnectionError"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, words, status, message):
    told, out, err = run(capsys, *words)
    assert (told, out) == (status, "")
    assert message in err
    assert err.startswith("tailbound-simulate: ")
    assert err.count("\n") == 1


def test_the_controller_loads_nothing_of_it():
    code = "import sys, slo_autoscaler.app; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in told.stdout.split() if "simulate" in name or name in {"rich", "matplotlib"}]
