"""``tailbound-simulate``, as it is typed."""

import json

import pytest

from tailbound_lab.simulate.__main__ import main
from tailbound_lab.simulate.scalers import DEFAULT_POLICIES

SHORT = ("--generate", "step", "--rate", "40", "--duration", "60")


@pytest.fixture
def simulate(capsys):
    """Run the command; its status, output and errors."""

    def run(*words):
        return (main(words), *capsys.readouterr())

    return run


@pytest.fixture
def outcomes(simulate):
    """Run the command with --json; its outcomes."""
    return lambda *words: json.loads(simulate(*words, "--json")[1])["outcomes"]


def test_default_compares_ours_five_baselines_and_the_oracle_on_the_same_requests(outcomes):
    played = outcomes(*SHORT)
    assert tuple(outcome["policy"] for outcome in played) == DEFAULT_POLICIES
    assert len({outcome["requests"] for outcome in played}) == 1
    assert all(len(outcome["replicas"]) == 60 for outcome in played)


def test_table_fits_80_columns_whatever_is_in_it_and_plots_are_written(simulate, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    flags = ("--generate", "spike", "--rate", "300", "--duration", "90s", "--max-replicas", "1")
    chosen = ("--policies", "proportional,slo,openfaas-ce", "--plot", str(tmp_path))
    status, out, _ = simulate(*flags, *chosen)
    assert (status, "…" in out) == (0, False)
    assert "timed out" in out
    assert (
        max(len(line) for line in out.splitlines() if "wrote" not in line and str(tmp_path) not in line) <= 80
    )
    assert {file.name for file in tmp_path.iterdir()} == {"pareto.png", "series.png"}


@pytest.mark.parametrize(
    ("flags", "p50"),
    [
        (("--service-time", "50ms,0s", "--max-batch", "1", "--overhead", "10ms"), 0.06),
        (("--stream-pieces", "9", "--stream-start", "10ms", "--stream-step", "20ms+1ms"), 0.031),
        (("--service-table", "10ms,10ms,10ms", "--routing", "least-loaded", "--workers", "9"), 0.01),
    ],
)
def test_function_is_as_the_flags_say(outcomes, flags, p50):
    replicas = ("--replicas", "9", "--max-replicas", "9", "--min-replicas", "9")
    (outcome,) = outcomes(*SHORT, "--rate", "5", *flags, *replicas, "--policies", "slo")
    assert outcome["p50"] == pytest.approx(p50)


def test_target_and_configuration_say_how_ours_scales(outcomes, tmp_path):
    file = tmp_path / "autoscaler.yaml"
    file.write_text(
        "platform: {gateway_url: http://none}\nprometheus: {url: http://none}\n"
        "functions: {f.openfaas-fn: {min_replicas: 7, max_replicas: 8}}\n"
    )
    words = ("--config", str(file), "--function", "f.openfaas-fn", "--policies", "proportional:0.5,kpa:4")
    assert [set(outcome["replicas"]) for outcome in outcomes(*SHORT, *words)] == [{7}, {7}]
    few, many = (outcome["max_replicas"] for outcome in outcomes(*SHORT, "--policies", "kpa:100,kpa:0.5"))
    assert few < many


def test_model_that_becomes_slower_costs_attainment_and_a_boost_the_cpu_that_the_node_has(outcomes):
    words = ("--generate", "poisson", "--rate", "40", "--duration", "60", "--max-replicas", "1")
    played = [
        outcomes(*words, "--policies", "slo", "--boost", "3", *flags)[0]
        for flags in (
            ("--node-cpus", "1"),
            ("--node-cpus", "1", "--speed", "1,20s=0.5"),
            ("--node-cpus", "1,30s=2", "--speed", "20s=0.5"),
        )
    ]
    nominal, slow, boosted = (outcome["attainment"] for outcome in played)
    assert nominal > boosted > slow
    assert [outcome["cpu_seconds"] > 60.0 for outcome in played] == [False, False, True]


def test_latency_of_requests_that_timed_out_is_null(outcomes):
    words = ("--generate", "poisson", "--rate", "300", "--duration", "60", "--max-replicas", "1")
    assert outcomes(*words, "--policies", "openfaas-ce")[0]["p99"] is None


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        ((*SHORT, "--policies", "magic"), 1, "'magic'"),
        ((*SHORT, "--policies", "kpa:-1"), 1, "'kpa:-1'"),
        ((*SHORT, "--service-time", "20ms,soon"), 1, "soon"),
        ((*SHORT, "--service-table", "20ms,10ms"), 1, "0.02 s"),
        ((*SHORT, "--stream-pieces", "some"), 1, "--stream-pieces"),
        ((*SHORT, "--stream-pieces", "9,3"), 1, "pieces"),
        ((*SHORT, "--stream-pieces", "9", "--stream-step", "5ms"), 1, "--stream-step"),
        ((*SHORT, "--config", "/none.yaml"), 2, "/none.yaml"),
        ((*SHORT, "--slo-objective", "2"), 1, "slo_objective"),
        ((*SHORT, "--timeout", "100ms"), 1, "timeout"),
        ((*SHORT, "--speed", "soon=0.5"), 1, "--speed soon=0.5"),
        ((*SHORT, "--speed", "1,2"), 1, "--speed 1,2"),
        ((*SHORT, "--speed", "9s=1,5s=2"), 1, "ascending"),
        ((*SHORT, "--speed", "nan"), 1, "--speed nan"),
        ((*SHORT, "--speed", "9s=0"), 1, "positive"),
        ((*SHORT, "--node-cpus", "4,many"), 1, "--node-cpus 4,many"),
        ((*SHORT, "--plot", "/dev/null/plots"), 1, "/dev/null/plots"),
        (("--trace", "/none.txt"), 1, "/none.txt"),
        (("--generate", "wave"), 1, "'wave'"),
        (("--prometheus", "http://127.0.0.1:9"), 1, "127.0.0.1:9"),
    ],
)
def test_wrong_argument_is_one_line_with_its_name(simulate, words, status, named):
    told, out, err = simulate(*words)
    assert (told, out, err.count("\n")) == (status, "", 1)
    assert named in err
