from pathlib import Path

import pytest
import yaml

from batching_watchdog.config import DESCRIPTIONS, Config

ROOT = Path(__file__).parents[2]
FUNCTIONS = yaml.safe_load((ROOT / "stack.yml").read_text())["functions"]

pytestmark = pytest.mark.parametrize("name", sorted(FUNCTIONS))


def test_its_labels_are_those_that_openfaas_ce_deploys(name):
    labels = FUNCTIONS[name]["labels"]
    refused = {f"com.openfaas.scale.{key}" for key in ("zero", "zero-duration", "target", "type")}
    assert not refused & labels.keys()
    low, high = (labels[f"com.openfaas.scale.{bound}"] for bound in ("min", "max"))
    assert 1 <= int(low) <= int(high) <= 5


def test_its_metrics_are_announced_by_annotations_with_dots(name):
    annotations = FUNCTIONS[name]["annotations"]
    assert annotations["prometheus.io.scrape"] == "true"
    assert annotations["prometheus.io.port"] == "8081"
    assert not [key for key in annotations if "/" in key]


def test_everything_that_faas_cli_reads_as_text_is_text(name):
    for key in ("environment", "labels", "annotations", "limits", "requests"):
        assert all(isinstance(value, str) for value in FUNCTIONS[name][key].values()), key


def test_its_environment_is_one_that_the_watchdog_accepts(name):
    environment = FUNCTIONS[name]["environment"]
    handler = (ROOT / "functions" / name / "handler.py").read_text()
    unknown = environment.keys() - DESCRIPTIONS.keys()
    assert not [key for key in unknown if f'environ.get("{key}"' not in handler]
    assert environment.keys() >= {"slo_latency", "slo_objective"}
    Config.from_env(environment, cpus=2.0)
