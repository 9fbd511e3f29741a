"""The example of Alertmanager's configuration, held against amtool and against the alerts that there are."""

import re
import shutil
import subprocess

import pytest
import yaml

from support.exposed import ROOT, rules

CONFIGURATION = ROOT / "deploy/prometheus/alertmanager.yml"

needs_amtool = pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed")


def amtool(*arguments: str) -> str:
    done = subprocess.run(["amtool", *arguments], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@needs_amtool
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=ErrorBudgetBurn", "severity=page"], "pager"),
        (["alertname=ErrorBudgetBurn", "severity=ticket"], "tickets"),
        (["alertname=DeadMansSwitch", "severity=none"], "dead-mans-switch"),
    ],
)
def test_alert_reaches_the_receiver_of_its_severity(labels, receiver):
    assert amtool("config", "routes", "test", f"--config.file={CONFIGURATION}", *labels) == receiver


def test_matchers_name_alerts_that_exist():
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    text = str(yaml.safe_load(CONFIGURATION.read_text()))
    named = {name for names in re.findall(r'alertname=~?"([\w|]+)"', text) for name in names.split("|")}
    assert named
    assert named <= alerts
