"""A live run played again: what the simulator is given, and when the two agree."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tailbound_lab.bench.fleet.validate import (
    BEGIN,
    END,
    EVALUATION,
    SECTION,
    agree,
    function_of,
    replay,
    section,
)
from tailbound_lab.bench.page import rewrite
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate.function import Routing

ROOT = Path(__file__).resolve().parents[3]

LIVED = {
    "attainment": 1.0,
    "replica_seconds": 60.0,
    "replicas": [[0.0, 1]],
    "changes": [],
    "mean_batch_size": 1.5,
    "mean_service": 0.009,
    "capacity": 200.0,
}
DOCUMENT = {
    "date": "2026-01-01",
    "function": "accelerator",
    "seconds": 60.0,
    "seed": 1,
    "arrivals": [at / 20 for at in range(1200)],
    "config": (ROOT / "lab" / "autoscaler.yaml").read_text(),
    "service": {"1": 0.010, "2": 0.014},
    "workers": 1,
    "slo_latency": 0.2,
    "slo_objective": 0.99,
    "start_up": 0.7,
    "routing": "least-loaded",
    "ours": LIVED,
    "openfaas_ce": LIVED,
}


def test_service_times_are_brought_to_the_mean_that_was_measured():
    function = function_of(DOCUMENT, LIVED)
    # Between sizes 1 and 2 the quantile is 12 ms, and 9 ms were measured.
    assert function.service.seconds == pytest.approx((0.0075, 0.0105))
    assert function.capacity == 200.0
    assert function.routing is Routing.LEAST_LOADED


def test_a_run_without_a_single_batch_cannot_be_played_again():
    with pytest.raises(BenchError, match="no batch was measured"):
        function_of(DOCUMENT, LIVED | {"mean_batch_size": None})


def test_a_light_load_is_served_in_time_by_one_replica_in_both():
    compared = replay(DOCUMENT)
    assert list(compared) == ["ours", "openfaas_ce"]
    lived, simulated = compared["ours"]
    assert simulated.requests == 1200
    assert simulated.attainment == 1.0
    assert simulated.replica_seconds == 60.0
    assert agree(lived, simulated)


@pytest.mark.parametrize(
    ("attainment", "seconds", "near"),
    [(0.981, 65.0, True), (0.979, 60.0, False), (1.0, 67.0, False), (1.0, 53.0, False)],
)
def test_two_points_of_attainment_and_a_tenth_of_the_replica_seconds_are_near_enough(
    attainment, seconds, near
):
    _, simulated = replay(DOCUMENT)["ours"]
    assert agree(LIVED, replace(simulated, attainment=attainment, replica_seconds=seconds)) is near


def test_the_page_has_a_place_for_the_comparison(tmp_path):
    page = tmp_path / "benchmarks.md"
    page.write_text((ROOT / "docs" / "benchmarks.md").read_text())
    compared = replay(DOCUMENT)
    rewrite(page, SECTION, lambda: section(DOCUMENT, compared))
    text = page.read_text().split(BEGIN)[1].split(END)[0]
    assert "| Tailbound | 100.00% | 100.00% |" in text
    assert math.isclose(compared["ours"][1].attainment, 1.0)


def test_alerts_are_looked_at_as_often_as_the_local_prometheus_does():
    config = yaml.safe_load((ROOT / "lab/prometheus/prometheus.yml").read_text())
    assert config["global"]["evaluation_interval"] == f"{EVALUATION:g}s"
