"""The Prometheus configurations and rules, held against the real promtool; rules.yml has the scenarios."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.promtool import ROOT, RULES, SHIPPED, complaints, needs_promtool, promtool

CONFIGURATIONS = ["lab/prometheus/prometheus.yml", "deploy/prometheus/prometheus-kubernetes.yml"]
MIMIR_RULES = 20  # ruler_max_rules_per_rule_group
# Without types: 0x41 would be a number.
SCENARIOS = yaml.load((Path(__file__).parent / "rules.yml").read_text(), yaml.BaseLoader)
ALARMING = [
    each for each in SCENARIOS if any(any(alerts.values()) for alerts in each.get("firing", {}).values())
]

pytestmark = needs_promtool


def name(scenario: dict[str, Any]) -> str:
    return str(scenario["name"]).replace(" ", "_")


def samples(scenario: dict[str, Any]) -> dict[str, Any]:
    series = [{"series": series, "values": values} for series, values in scenario["series"].items()]
    return {"interval": scenario.get("interval", scenario["rules"]), "input_series": series}


def labels(fires: str) -> str:
    severity, _, rest = fires.partition(" ")
    return f'{{severity="{severity}"{"," * bool(rest)}{rest}}}'


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_configuration_is_valid_as_it_stands_and_loads_the_rules(configuration):
    path = ROOT / configuration
    done = promtool("check", "config", path)
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = [(path.parent / rules).resolve() for rules in yaml.safe_load(path.read_text())["rule_files"]]
    assert loaded == SHIPPED
    assert sorted(loaded) == sorted((ROOT / "deploy/helm/slo-autoscaler/files/rules").glob("*.yml"))


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_a_rule_file_is_valid_and_free_of_lint(path):
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_group_has_no_more_rules_than_mimir_takes(path):
    sizes = {group["name"]: len(group["rules"]) for group in yaml.safe_load(path.read_text())["groups"]}
    assert max(sizes.values()) <= MIMIR_RULES, sizes


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name)
def test_the_rules_give_the_values_they_promise(tmp_path, scenario):
    expected = [
        {
            "expr": f"({expression}) + 0",  # which drops the name
            "eval_time": time,
            "exp_samples": [
                {"labels": f'{{function_name="{function}"}}', "value": float(value)}
                for function, value in given.items()
            ],
        }
        for time, expressions in scenario.get("gives", {}).items()
        for expression, given in expressions.items()
    ]
    expected += [
        {
            "expr": "sum without (alertname, alertstate, product, namespace, release) "
            f'(ALERTS{{alertname="{alert}",alertstate="firing"}})',
            "eval_time": time,
            "exp_samples": [{"labels": labels(each), "value": 1} for each in firing],
        }
        for time, alerts in scenario.get("firing", {}).items()
        for alert, firing in alerts.items()
    ]
    assert expected
    assert complaints(tmp_path, scenario["rules"], samples(scenario) | {"promql_expr_test": expected}) == ""


@pytest.mark.parametrize("scenario", ALARMING, ids=name)
def test_an_alert_says_the_numbers_of_its_function(tmp_path, scenario):
    # promtool shows the annotations, with their templates carried out, of what it did not expect.
    unexpected = [
        {"eval_time": time, "alertname": alert, "exp_alerts": []}
        for time, alerts in scenario["firing"].items()
        for alert, firing in alerts.items()
        if firing
    ]
    report = complaints(tmp_path, scenario["rules"], samples(scenario) | {"alert_rule_test": unexpected})
    said = re.findall(r"Annotations:\{(.*)\}", report)
    assert len(said) >= sum(len(firing) for each in scenario["firing"].values() for firing in each.values())
    assert not re.search(r"error expanding|no value|%!", report)
    for words in scenario.get("says", ()):
        assert any(words in each for each in said), words
