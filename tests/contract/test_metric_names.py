"""The watchdog, the gateway, the rules and the autoscaler share no code: these names are what they share."""

import re

from docs.site_hooks import anchor

from slo_autoscaler.signals import queries
from support.exposed import ROOT, exposed, metrics_in, recorded, rules

RECORDED_NAME = re.compile(r"\b(?:slo|function_name)\w*:[\w:]+")


def test_autoscalers_questions_beside_its_signals_name_only_what_is_exported():
    more = {"": queries.EXPORTED_AT, "corrections": queries.CORRECTIONS}
    texts = [*queries.fill(queries.NEW | more, 20.0).values(), queries.GATEWAYS, queries.WATCHDOGS]
    asked = {name for text in texts for name in metrics_in(text)}
    assert asked
    assert asked <= exposed()


def test_rules_use_only_what_is_exported_or_recorded_before():
    known = exposed()
    for rule in rules():
        # A rule may continue its own series.
        known = known | {rule.get("record", "")}
        assert metrics_in(rule["expr"]) <= known, rule


def test_annotations_ask_recorded_series():
    said = {
        name
        for rule in rules()
        for text in rule.get("annotations", {}).values()
        for name in RECORDED_NAME.findall(text)
    }
    assert said
    assert said <= recorded()


def test_alert_has_a_severity_and_a_runbook_that_exists():
    titles = re.findall(r"^#+ (.+)$", (ROOT / "docs/howto/runbook.md").read_text(), re.MULTILINE)
    address = "https://github.com/tailbound/tailbound/blob/main/docs/howto/runbook.md#"
    alerts = [rule for rule in rules() if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket", "none"}
        assert alert["labels"]["product"] == "tailbound"
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url", "dashboard_url"}
        assert alert["annotations"]["runbook_url"] == address + alert["alert"].lower()
        assert alert["alert"].lower() in {anchor(title) for title in titles}


def test_page_on_metrics_names_every_recorded_series():
    text = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    # Windows are listed once: ratio_rate{5m,30m}.
    listed = set()
    for name in re.findall(r"`([\w:]+(?:\{[\w,]+\}[\w:]*)?)`", text):
        match = re.fullmatch(r"(.*)\{([\w,]+)\}(.*)", name)
        if match:
            listed |= {match[1] + window + match[3] for window in match[2].split(",")}
        else:
            listed.add(name)
    assert recorded() <= listed
