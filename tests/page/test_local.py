"""The status page on the local platform under load, in Chromium. Nothing is made up but the model's work."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from autoscaler.doubles import until
from contract.exposed import metrics_in, recorded
from contract.test_dashboards import NAMES as DASHBOARDS
from contract.test_dashboards import expressions
from page.chromium import (
    CHARTS_READY,
    FLEET_READY,
    ROOT,
    WIDE,
    column,
    complaints,
    find,
    look,
    picture,
    text,
    violations,
    visit,
    wait,
)

pytestmark = [pytest.mark.browser, pytest.mark.e2e, pytest.mark.timeout(240)]

NAME = "captions.openfaas-fn"
# As an accelerator would, whatever the machine: 66 requests/s from a replica.
HANDLER = """
import time

def handle_batch(events, context):
    time.sleep(0.020 + 0.010 * len(events))
    return ["a caption" for _ in events]

def example():
    return b"an image"
"""
STACK = {
    "provider": {"name": "openfaas", "gateway": "http://127.0.0.1:8080"},
    "functions": {
        "captions": {
            "lang": "python3-inference",
            "handler": "./captions",
            "image": "captions:latest",
            "environment": {"slo_latency": "200ms", "slo_objective": "0.99", "workers": "1"},
            "labels": {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "5"},
        }
    },
}


@contextmanager
def the_platform(folder: Path) -> Iterator[dict[str, str]]:
    """Run `local-openfaas up` with one function; give the URLs that it says."""
    (folder / "captions").mkdir()
    (folder / "captions/handler.py").write_text(HANDLER)
    (folder / "stack.yml").write_text(yaml.safe_dump(STACK))
    config = yaml.safe_load((ROOT / "lab/autoscaler.yaml").read_text())
    config["web"]["page_port"] = 0
    (folder / "autoscaler.yaml").write_text(yaml.safe_dump(config))
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tailbound_lab.local", "up", "--port", "0", "--prometheus-port", "0"),
            *("--stack", str(folder / "stack.yml"), "--run-dir", str(folder / "run")),
            *("--autoscaler-config", str(folder / "autoscaler.yaml")),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if line.startswith("Ctrl-C"):
                    break
            yield dict(re.findall(r"^(\w+(?: page)?) +(http\S+)$", said, re.MULTILINE))
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


@contextmanager
def load(gateway: str, rate: float, folder: Path) -> Iterator[None]:
    """Offer requests for as long as the block lasts."""
    body = folder / "body"
    body.write_bytes(b"an image")
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tailbound_lab.load.openloop", "--url", f"{gateway}/function/{NAME}"),
            *("--body", str(body), "--rate", f"{rate:g}:180"),
        ],
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.terminate()


def offered(driver: Any) -> float:
    """Return the newest requests per second of the chart."""
    label = driver.execute_script("return document.querySelector('#charts [role=img]').ariaLabel")
    return float(re.search(r"offered: ([\d.]+)/s", label)[1])


def queries() -> list[str]:
    """Return what the panels of the dashboards ask, of this function."""
    macros = {"$function": NAME, "$__rate_interval": "10s"}
    found = [expression for name in DASHBOARDS for expression in expressions(name)]
    return [reduce(lambda text, macro: text.replace(*macro), macros.items(), each) for each in found]


def answer(prometheus: str, query: str) -> list[Any]:
    """Return the series that a query finds on the platform's Prometheus; a query that fails raises."""
    with urllib.request.urlopen(
        f"{prometheus}/api/v1/query?{urlencode({'query': query})}", timeout=10
    ) as got:
        return list(json.load(got)["data"]["result"])


def test_a_newcomer_sees_on_the_page_why_two_replicas_became_five(driver, tmp_path):
    with the_platform(tmp_path) as platform:
        gateway, page = platform["gateway"], platform["status page"]
        look(driver)
        visit(driver, page, FLEET_READY)
        with load(gateway, 40.0, tmp_path):
            wait(driver, "return document.querySelector('#fleet td.state').textContent === 'met'")
            assert column(driver, "replicas") == ["2 / 2 / 5"]
        with load(gateway, 250.0, tmp_path):
            wait(driver, "return document.querySelector('#fleet td.replicas').textContent === '5 / 5 / 5'")
            picture(driver, "local-fleet-wide-light", WIDE, "light")
            find(driver, "#fleet tbody a").click()
            wait(driver, CHARTS_READY)
            assert text(driver, "#badge") in ("met", "missed", "too few to tell")
            until(lambda: "to 5" in text(driver, "#change"), "the page says what the change was")
            why = text(driver, "#change")
            assert re.search(r"scaled captions\.openfaas-fn from [234] to 5: .*requests/s|burn", why), why
            assert text(driver, ".spans [aria-current]") == "5m", "an hour would be empty but for its edge"
            until(lambda: 200 < offered(driver) < 300, "the chart has come to what is sent", 90)
            document = driver.execute_script(
                "return fetch(arguments[0]).then((answer) => answer.json())", f"/api/functions/{NAME}"
            )
            changes = [each for each in document["decisions"] if each["action"] == "up"]
            assert changes[-1]["from"] == 2
            assert changes[0]["to"] == 5
            assert changes[0]["inputs"]["forecast"] > 100, json.dumps(changes[0])
            find(driver, "#log .up summary").click()
            picture(driver, "local-function-wide-light", WIDE, "light")
            assert violations(driver) == []
        assert complaints(driver) == []
        silent = {query for query in queries() if not answer(platform["Prometheus"], query)}
        # Recorded series and alerts come with the rules' next evaluation, which may be minutes away.
        later = {"ALERTS"} | recorded()
        assert not {query for query in silent if not later & metrics_in(query)}
