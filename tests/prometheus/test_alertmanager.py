"""The example of Alertmanager's configuration, held against amtool and against the alerts that there are."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from support.exposed import ROOT, rules
from support.waits import PATIENCE, until
from tailbound_lab.local.ports import free_ports

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
        (["alertname=FunctionDown", "severity=page"], "pager"),
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


class Alertmanager:
    """A real one with the example's configuration."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v2"

    def ready(self) -> bool:
        return bool(self._call("GET", "/status"))

    def fire(self, *alerts: dict[str, str]) -> None:
        self._call("POST", "/alerts", [{"labels": labels} for labels in alerts])
        until(lambda: len(self.alerts()) >= len(alerts), "the alerts are there")

    def silence(self, **labels: str) -> None:
        matchers = [{"name": name, "value": value, "isRegex": False} for name, value in labels.items()]
        now = datetime.now(UTC)
        ends = now + timedelta(hours=1)
        times = {"startsAt": now.isoformat(), "endsAt": ends.isoformat()}
        self._call("POST", "/silences", {"matchers": matchers, "createdBy": "t", "comment": "t", **times})

    def alerts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call("GET", "/alerts")
        return found

    def suppressed(self) -> list[dict[str, str]]:
        """The labels of those that are not notified."""
        return [each["labels"] for each in self.alerts() if each["status"]["state"] == "suppressed"]

    def groups(self, receiver: str) -> list[list[dict[str, str]]]:
        """The alerts of each notification to a receiver."""
        return [
            [alert["labels"] for alert in group["alerts"]]
            for group in self._call("GET", "/alerts/groups")
            if group["receiver"]["name"] == receiver
        ]

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or b"null")


def in_order(alerts: list[dict[str, str]]) -> list[list[tuple[str, str]]]:
    return sorted(sorted(labels.items()) for labels in alerts)


PROGRAM = shutil.which("alertmanager") or shutil.which("prometheus-alertmanager")
DOWN = {"alertname": "AutoscalerDown", "severity": "ticket"}
CAPPED = {"alertname": "ReplicasCapped", "severity": "ticket", "namespace": "ns"}


@pytest.fixture
def alertmanager(tmp_path) -> Iterator[Alertmanager]:
    if PROGRAM is None:
        pytest.skip("alertmanager is not installed")
    (port,) = free_ports(1)
    own = [
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        f"--storage.path={tmp_path}",
    ]
    with subprocess.Popen(
        [PROGRAM, f"--config.file={CONFIGURATION}", *own],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            running = Alertmanager(port)
            until(running.ready, "Alertmanager answers")
            yield running
        finally:
            process.terminate()


@pytest.mark.e2e
def test_autoscaler_that_is_down_mutes_the_alerts_of_its_own_release_only(alertmanager):
    own, other = CAPPED | {"release": "one/a"}, CAPPED | {"release": "two/a"}
    elsewhere = own | {"cluster": "us"}
    alertmanager.fire(DOWN | {"release": "one/a"}, own, other, elsewhere)
    until(lambda: alertmanager.suppressed() == [own], "its own is muted")


@pytest.mark.e2e
def test_silenced_alert_of_a_removed_release_mutes_no_other_one(alertmanager):
    down, other = DOWN | {"release": "old/a"}, CAPPED | {"release": "new/a"}
    alertmanager.silence(release="old/a")
    alertmanager.fire(down, other)
    until(lambda: alertmanager.suppressed() == [down], "the silenced one is muted")


@pytest.mark.e2e
def test_page_mutes_the_tickets_of_its_own_function_only(alertmanager):
    def burn(function: str, severity: str, slo_class: str = "default") -> dict[str, str]:
        own = {"function_name": function, "slo_class": slo_class, "view": "watchdog"}
        return {"alertname": "ErrorBudgetBurn", "severity": severity, **own}

    absent = {"alertname": "SloDataAbsent", "severity": "ticket"}
    down = {"alertname": "FunctionDown", "severity": "page", "function_name": "down.ns"}
    muted = [burn("f.ns", "ticket"), absent | {"function_name": "down.ns"}]
    told = [burn("f.ns", "ticket", "batch"), burn("g.ns", "ticket"), absent | {"function_name": "f.ns"}]
    alertmanager.fire(burn("f.ns", "page"), down, *muted, *told)
    until(lambda: in_order(alertmanager.suppressed()) == in_order(muted), "its own are muted")


@pytest.mark.e2e
def test_page_of_a_function_is_one_notification_and_of_another_is_another(alertmanager):
    page = {"alertname": "ErrorBudgetBurn", "severity": "page", "slo_class": "default"}
    views = [page | {"function_name": "f.ns", "view": view} for view in ("gateway", "watchdog")]
    down = {"alertname": "FunctionDown", "severity": "page", "function_name": "f.ns"}
    other = page | {"function_name": "g.ns", "view": "watchdog"}
    elsewhere = other | {"cluster": "us"}
    alertmanager.fire(*views, down, other, elsewhere)
    expected = sorted(map(in_order, ([*views, down], [other], [elsewhere])))
    until(
        lambda: sorted(map(in_order, alertmanager.groups("pager"))) == expected, "each function has its own"
    )


@pytest.mark.e2e
def test_tickets_of_one_cause_are_one_notification_for_each_release(alertmanager):
    ticket = {"alertname": "AutoscalerWithoutData", "severity": "ticket"}
    one = [ticket | {"release": "one/a", "function_name": name} for name in ("f.ns", "g.ns")]
    two = ticket | {"release": "two/a", "function_name": "h.ns"}
    alertmanager.fire(*one, two)
    expected = sorted([in_order(one), in_order([two])])
    until(
        lambda: sorted(map(in_order, alertmanager.groups("tickets"))) == expected, "each release has its own"
    )
