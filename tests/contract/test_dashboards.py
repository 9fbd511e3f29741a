"""The Grafana dashboards: built of names that exist, of PromQL that answers, and as Grafana expects them.

Grafana itself does not run here. What it would find out is checked instead: that every query parses and gives
something on a Prometheus that scrapes the real exporters, and that the model refers only to what it has.
"""

import json
import math
import re
from typing import Any

import pytest
from deploy.grafana import generate

from support.exposed import FUNCTION, exposed, metrics_in, panels, recorded, scraped
from support.promtool import complaints, needs_promtool

NAMES = sorted(generate.DASHBOARDS)
MACROS = {"$function": FUNCTION, "$slo_class": "default", "$__rate_interval": "5m"}
MINUTES = 20


def model(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((generate.FOLDER / name).read_text())
    return document


def expressions(name: str) -> list[str]:
    return [target["expr"] for panel in panels(model(name)) for target in panel.get("targets", ())]


def expanded(expression: str) -> str:
    for macro, value in MACROS.items():
        expression = expression.replace(macro, value)
    return expression


def series() -> list[dict[str, str]]:
    """The exporters' samples as promtool wants them: counters grow, the larger the bucket the faster."""
    growth: dict[str, int] = {}
    result = []
    for name, labels, value in scraped():
        text = ",".join(f'{label}="{content}"' for label, content in labels.items())
        if (
            name.endswith(("_total", "_bucket", "_count", "_sum", "_started"))
            and name != "gateway_service_count"
        ):
            # A bucket includes those before it.
            growth[name] = growth.get(name, 0) + 1 if name.endswith("_bucket") else 1
            values = f"0+{growth[name]}x{MINUTES}"
        else:
            values = f"{1 if math.isnan(value) else value}x{MINUTES}"
        result.append({"series": f"{name}{{{text}}}", "values": values})
    return result


@pytest.mark.parametrize("name", NAMES)
def test_file_is_what_the_generator_writes(name):
    assert sorted(path.name for path in generate.FOLDER.iterdir()) == NAMES
    assert (generate.FOLDER / name).read_text() == generate.render(name)


@pytest.mark.parametrize("name", NAMES)
def test_dashboard_uses_only_metrics_that_are_exported_or_recorded(name):
    marks = [each["expr"] for each in model(name)["annotations"]["list"]]
    used = {metric for expression in (*expressions(name), *marks) for metric in metrics_in(expression)}
    assert used
    assert used <= exposed() | recorded()


@needs_promtool
@pytest.mark.parametrize("name", NAMES)
def test_panel_shows_something_on_a_function_that_burns(name, tmp_path):
    questions = [
        {
            "expr": f"count({expanded(expression)}) > bool 0",
            "eval_time": f"{MINUTES}m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for expression in expressions(name)
    ]
    test = {"interval": "1m", "input_series": series(), "promql_expr_test": questions}
    assert complaints(tmp_path, "1m", test) == ""


@pytest.mark.parametrize("name", NAMES)
def test_dashboard_refers_only_to_variables_that_it_has(name):
    document = model(name)
    defined = {variable["name"] for variable in document["templating"]["list"]}
    for panel in panels(document):
        for target in panel.get("targets", ()):
            used = set(re.findall(r"\$\{?(\w+)", json.dumps(target))) - {"__rate_interval"}
            assert "datasource" in used
            assert used <= defined


def test_dashboards_link_to_each_other_by_ids_that_exist():
    documents = [model(name) for name in NAMES]
    linked = set(re.findall(r"/d/([\w-]+)", json.dumps(documents)))
    assert linked
    assert linked <= {document["uid"] for document in documents}


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_numbers_of_their_own_and_lie_in_rows_without_overlaps(name):
    document = model(name)
    every = panels(document)
    assert len({panel["id"] for panel in every}) == len(every)
    assert document["panels"][0]["collapsed"] is False
    for row in document["panels"]:
        assert row["type"] != "row" or bool(row["panels"]) == row["collapsed"]
    squares = [
        (x, y)
        for place in (panel["gridPos"] for panel in every)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert max(x for x, _ in squares) < generate.COLUMNS
    assert len(set(squares)) == len(squares)


@pytest.mark.parametrize("name", ["fleet.json", "function.json"])
def test_dashboard_begins_with_the_alerts_that_fire(name):
    first = next(panel for panel in model(name)["panels"] if panel["type"] != "row")
    assert "ALERTS" in metrics_in(first["targets"][0]["expr"])
