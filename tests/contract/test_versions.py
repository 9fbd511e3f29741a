"""Two versions beside each other, as during an upgrade: the signals that one has of the other's watchdogs.

``v0.1.0/`` holds a page of a watchdog of that version, the queries of its autoscaler and its configuration
for OpenFaaS. Prometheus' engine evaluates queries over pages, with the rules that ship. docs/howto/upgrade.md
lists those without an answer.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import batching_watchdog
import slo_autoscaler
import tailbound_lab
from contract.exposed import ROOT, recorded, scraped
from prometheus.promtool import complaints, needs_promtool
from slo_autoscaler.config import Config
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.sources import counters
from slo_autoscaler.sources.promql import RESTORED, history_queries, queries
from slo_autoscaler.spec import GatewaySlos

OLD = Path(__file__).parent / "v0.1.0"
PAGE = ROOT / "docs/howto/upgrade.md"
SCRAPES = 360
SCRAPE = 5
"""Seconds."""
EVALUATED = "25m"
COUNTERS = ("_total", "_bucket", "_count", "_sum", "_started")

Samples = list[tuple[str, dict[str, str], float]]


def old_watchdog() -> Samples:
    families = text_string_to_metric_families((OLD / "watchdog.txt").read_text())
    return [(each.name, each.labels, each.value) for family in families for each in family.samples]


def new_watchdog() -> Samples:
    """What a watchdog of this version exposes; the gateway and Prometheus are the same for both."""
    return [
        each
        for each in scraped()
        if not each[0].startswith(("slo_autoscaler_", "gateway_")) and each[0] != "up"
    ]


def new_autoscaler() -> Samples:
    """Return its samples while a replica starts, because start-ups are state too."""
    return [
        (name, labels, value + (labels.get("state") == "desired"))
        for name, labels, value in scraped()
        if name.startswith("slo_autoscaler_")
    ]


def beside() -> Samples:
    return [each for each in scraped() if each[0].startswith("gateway_") or each[0] == "up"]


def series(samples: Samples) -> list[dict[str, str]]:
    """Return what Prometheus has after many scrapes: counters rise by one each time, gauges stay."""
    found = {}
    for name, labels, value in samples:
        own = labels | {"function_name": "f.ns", "instance": "10.0.0.1:8081"}
        selector = ",".join(f'{key}="{text}"' for key, text in own.items())
        rising = f"0+1x{SCRAPES}" if name.endswith(COUNTERS) else f"{value}x{SCRAPES}"
        found[f"{name}{{{selector}}}"] = rising
    return [{"series": each, "values": values} for each, values in found.items()]


def unanswered(asked: Mapping[str, str], samples: Samples, folder: Path) -> set[str]:
    """Return the names of the queries that have no answer over the series."""
    checks = [
        {
            "expr": f"count({query}) > bool 0 or vector(0)",
            "eval_time": EVALUATED,
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for query in asked.values()
    ]
    test = {"interval": f"{SCRAPE}s", "input_series": series(samples), "promql_expr_test": checks}
    said = complaints(folder, "1m", test)
    assert not re.search("err:|parse error", said), said
    # promtool quotes as Go does, which for ASCII is as JSON does.
    found = {
        name
        for name, query in asked.items()
        if f"expr: {json.dumps(f'count({query}) > bool 0 or vector(0)')}" in said
    }
    assert len(found) == said.count("expr: "), said
    return found


def documented(title: str) -> set[str]:
    """Return the names in code in the first column of the table under a heading of the page."""
    section = re.search(
        rf"^### {re.escape(title)}$(.*?)(?=^##|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert section, title
    rows = re.findall(r"^\| (`[^|]+) \|", section[1], re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}


def signals() -> dict[str, str]:
    return queries(30.0, 20.0) | queries(30.0, 20.0, seldom=True)


def old_queries(kind: str) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load((OLD / "queries.yaml").read_text())[kind]
    return found


@needs_promtool
def test_this_version_has_every_signal_of_its_own_watchdog(tmp_path):
    assert unanswered(signals(), new_watchdog() + beside(), tmp_path) == set()


@needs_promtool
def test_signals_that_an_old_watchdog_lacks_are_those_of_the_page(tmp_path):
    missing = unanswered(signals(), old_watchdog() + beside(), tmp_path)
    assert missing == documented("A new autoscaler with old watchdogs")


@needs_promtool
def test_signals_that_an_old_autoscaler_lacks_are_those_of_the_page(tmp_path):
    missing = unanswered(old_queries("signals"), new_watchdog() + beside(), tmp_path)
    assert missing == documented("An old autoscaler with new watchdogs")


@needs_promtool
def test_rules_record_the_same_series_of_old_watchdogs_as_of_new_ones(tmp_path):
    asked = {name: name for name in recorded()}
    for watchdog in (old_watchdog, new_watchdog):
        samples = watchdog() + beside() + new_autoscaler()
        assert unanswered(asked, samples, tmp_path) == set(), watchdog
    assert asked


@needs_promtool
def test_state_that_a_rollback_does_not_restore_is_that_of_the_page(tmp_path):
    everything = new_watchdog() + beside() + new_autoscaler()
    ours = history_queries(20.0, GatewaySlos({}, None)) | RESTORED
    assert unanswered(ours, everything, tmp_path) == set()
    assert unanswered(old_queries("history"), everything, tmp_path) == documented("State after a rollback")


def test_keys_of_an_old_configuration_that_are_refused_are_those_of_the_page():
    with pytest.raises(ConfigError) as refused:
        Config.parse((OLD / "config.yaml").read_text(), "config.yaml")
    keys = {line.split(": ")[1] for line in str(refused.value).splitlines()}
    assert keys == documented("Keys that the new autoscaler refuses")


def test_old_page_is_read_directly():
    page = (OLD / "watchdog.txt").read_bytes()
    expected = sum(
        value
        for name, _, value in old_watchdog()
        if name in ("slo_requests_total", "http_requests_in_flight")
    )
    assert expected == pytest.approx(9)
    assert counters.arrived(page) == {counters.WHOLE: expected}


def test_version_is_the_same_in_every_distribution_guide_and_the_changelog():
    assert batching_watchdog.__version__ == slo_autoscaler.__version__ == tailbound_lab.__version__
    tags = {
        tag
        for page in (ROOT / "docs").rglob("*.md")
        for tag in re.findall(r"slo-autoscaler:(\d[\w.]*)|newTag: (\S+)", page.read_text())
    }
    assert {each for tag in tags for each in tag if each} == {slo_autoscaler.__version__}
    released = re.findall(
        r"^## (\d\S+) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert released[0] == slo_autoscaler.__version__
