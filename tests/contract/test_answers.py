"""Each query of the autoscaler, and each rule, has an answer over what the exporters expose (promtool)."""

import pytest

from slo_autoscaler.settings.spec import GatewaySlos, Slo
from slo_autoscaler.signals import queries
from support.exposed import recorded, scraped
from support.promtool import complaints, needs_promtool

SCRAPES = 360
SCRAPE = 5
"""Seconds."""
EVALUATED = "25m"
COUNTERS = ("_total", "_bucket", "_count", "_sum", "_started")
SLOS = GatewaySlos(others=Slo(0.25, 0.9))
ASKED = {
    "signals": queries.fill(queries.WATCHDOG, 20.0, 30.0),
    "gateway": queries.gateway(SLOS, 20.0, 30.0),
    "history": {"rate": queries.arrivals(20.0, SLOS)},
    "restored state": queries.fill(queries.RESTORED, 20.0),
}


def series(**more: str) -> list[dict[str, str]]:
    """What Prometheus has after many scrapes: counters rise by one each time, gauges stay.

    ``more``: labels of all series.
    """
    found = {}
    for name, labels, value in scraped():
        own = labels | {"function_name": "f.ns", "instance": "10.0.0.1:8081"} | more
        selector = ",".join(f'{key}="{text}"' for key, text in own.items())
        # A replica starts, as start-ups are state too.
        level = value + (name.startswith("slo_autoscaler_") and labels.get("state") == "desired")
        rising = f"0+1x{SCRAPES}" if name.endswith(COUNTERS) else f"{level}x{SCRAPES}"
        found[f"{name}{{{selector}}}"] = rising
    return [{"series": each, "values": values} for each, values in found.items()]


def unanswered(asked: list[str], folder) -> str:
    """What promtool says of the queries that have no answer."""
    checks = [
        {
            "expr": f"count({query}) > bool 0 or vector(0)",
            "eval_time": EVALUATED,
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for query in asked
    ]
    test = {"interval": f"{SCRAPE}s", "input_series": series(), "promql_expr_test": checks}
    return complaints(folder, "1m", test)


@needs_promtool
@pytest.mark.parametrize("kind", ASKED)
def test_autoscalers_query_has_an_answer(kind, tmp_path):
    assert unanswered([*ASKED[kind].values()], tmp_path) == ""


@needs_promtool
def test_recorded_series_has_an_answer(tmp_path):
    assert unanswered(sorted(recorded()), tmp_path) == ""


@needs_promtool
def test_recorded_series_are_of_one_cluster_each(tmp_path):
    checks = [
        {
            "expr": f"count(group by (cluster) ({name}))",
            "eval_time": EVALUATED,
            "exp_samples": [{"labels": "{}", "value": 2}],
        }
        for name in sorted(recorded())
    ]
    both = series(cluster="eu") + series(cluster="us")
    test = {"interval": f"{SCRAPE}s", "input_series": both, "promql_expr_test": checks}
    assert complaints(tmp_path, "1m", test) == ""
