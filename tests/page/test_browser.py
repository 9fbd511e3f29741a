"""The status page in a real Chromium: `make page-test`. Pictures of every state go to build/screenshots."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from autoscaler.doubles import until
from page.conftest import ROOT, Browser
from page.serving import NAME, Told, a_decision, a_fleet, a_hold, a_page

try:
    from selenium.webdriver import Keys
except ModuleNotFoundError:
    Keys = None

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

# As an accelerator would take it, whatever the machine: 27 requests/s from a replica.
HANDLER = """
import time

def handle_batch(events, context):
    time.sleep(0.060 + 0.030 * len(events))
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
            "environment": {"slo_latency": "600ms", "slo_objective": "0.99", "workers": "1"},
            "labels": {"com.openfaas.scale.min": "1", "com.openfaas.scale.max": "5"},
        }
    },
}


@pytest.fixture(scope="module")
def thousand() -> Iterator[str]:
    with a_page(a_fleet(1000)) as url:
        yield url


def test_the_keyboard_sorts_by_a_header_and_opens_a_function(browser: Browser, thousand: str):
    browser.look()
    browser.visit(f"{thousand}/?q=vision")
    focused, head = "document.activeElement", "document.querySelector('th[data-key=p99]')"
    for wanted in ("Skip to the content", "p99"):
        for _ in range(40):
            if browser.script(f"return {focused}.textContent") == wanted:
                break
            browser.press(Keys.TAB)
            assert browser.script(f"return getComputedStyle({focused}).outlineStyle") != "none"
    for way in ("ascending", "descending"):
        browser.press(Keys.ENTER)
        browser.wait(f"{head}.getAttribute('aria-sort') === '{way}'")
    assert browser.script(f"return {head}.contains({focused})"), "the focus stays where it is"
    assert "q=vision&sort=-p99" in browser.driver.current_url
    served = "fetch('/api/functions?q=vision&sort=-p99').then((answer) => answer.json())"
    names = browser.script(
        f"return {served}.then((found) => found.functions.map((row) => row.function_name))"
    )
    until(lambda: browser.column("function") == names, "the rows are in the server's order")
    browser.script("document.querySelector('#fleet tbody a').focus()")
    browser.press(Keys.ENTER)
    browser.wait("location.pathname.startsWith('/functions/vision-')")


def test_a_filter_and_a_state_leave_the_rows_that_match_and_are_in_the_address(browser, thousand):
    browser.look()
    browser.visit(thousand)
    assert len(browser.column("function")) == 1000
    browser.script("document.getElementById('q').focus()")
    browser.press("vision team-3")
    browser.wait("document.getElementById('found').textContent.endsWith(' of 1,000')")
    until(lambda: 0 < len(browser.column("function")) < 100, "the rows are fewer")
    assert all(re.fullmatch(r"vision-\d+\.team-3", name) for name in browser.column("function"))
    assert "q=vision+team-3" in browser.driver.current_url
    browser.script(
        "const state = document.getElementById('state'); state.value = 'missed';"
        "state.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    until(lambda: set(browser.column("state")) == {"missed"}, "only those that miss their SLO")
    assert "state=missed" in browser.driver.current_url
    browser.press(" nothing like it")
    browser.wait("!document.getElementById('no-match').hidden")
    assert browser.column("function") == []
    assert browser.complaints() == []


def test_without_javascript_the_server_sorts(browser, thousand):
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.driver.get(f"{thousand}/?q=vision")
        browser.driver.find_element("css selector", "th[data-key=function] button").click()
        until(lambda: "sort=function" in browser.driver.current_url, "the form is sent")
        names = [each.text for each in browser.driver.find_elements("css selector", "#fleet tbody th")[:20]]
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert len(names) == 20
    assert names == sorted(names)
    assert all(name.startswith("vision") for name in names)


def test_the_page_follows_until_it_is_told_not_to_and_says_when_nobody_answers(browser):
    told = Told(a_hold())
    with a_page(told) as url:
        browser.look()
        browser.visit(url)
        browser.script("document.querySelector('#fleet tbody a').focus()")
        told.add(a_hold("another.openfaas-fn", {"attainment": 0.5}))
        browser.wait("document.querySelectorAll('#fleet tbody tr').length === 2")
        assert browser.column("function") == ["another.openfaas-fn", NAME]
        assert browser.script("return document.activeElement.textContent") == NAME, (
            "the focus moves with its row"
        )
        browser.script("document.getElementById('live').click()")
        assert browser.complaints() == []
    browser.script("document.getElementById('live').click()")
    browser.wait("document.querySelector('#notices .error') !== null")
    assert len(browser.column("function")) == 2, "what was known stays"
    browser.picture("gone", "wide", "light")


def test_a_decision_that_is_opened_stays_open_when_another_comes(browser):
    told = Told(a_hold())
    with a_page(told) as url:
        browser.visit(f"{url}/functions/{NAME}")
        browser.script("document.querySelector('#log summary').click()")
        told.add(a_decision(time="2026-01-02T12:04:05.123+00:00"))
        browser.wait("document.querySelectorAll('#log li').length === 2")
        assert browser.script(
            "return [...document.querySelectorAll('#log details')].map((each) => each.open)"
        ) == [
            False,
            True,
        ]
        assert browser.text("#log summary") in browser.text("main section")


def stopped() -> Told:
    told = a_fleet(12)
    told.alive = False
    return told


STATES = {
    "some": (lambda: a_fleet(24), "/"),
    "thousand": (lambda: a_fleet(1000), "/"),
    "empty": (Told, "/"),
    "stale": (lambda: Told(*(a_hold(f"{name}.openfaas-fn", reason="NoData") for name in "abc")), "/"),
    "stopped": (stopped, "/"),
    "shadow": (
        lambda: Told(a_decision(mode="shadow", incumbent=3, inputs={"p99": 0.3})),
        f"/functions/{NAME}",
    ),
    "unknown": (lambda: Told(a_hold()), "/functions/vison.openfaas-fn"),
}


@pytest.mark.parametrize(("size", "scheme"), [("wide", "light"), ("wide", "dark"), ("narrow", "dark")])
@pytest.mark.parametrize("state", STATES)
def test_every_state_is_accessible_fits_the_screen_and_has_its_picture(browser, state, size, scheme):
    make, path = STATES[state]
    with a_page(make()) as url:
        browser.look(size, scheme)
        browser.visit(url + path)
        screen = browser.script("return [document.documentElement.scrollWidth, innerWidth]")
        assert screen[0] <= screen[1], "nothing but tables scrolls sideways"
        # An unknown function is 404, and there is no Prometheus here: 502.
        assert [each for each in browser.complaints() if not re.search("404|502", each)] == []
        browser.picture(state, size, scheme)
        # A thousand rows break no other rule than two dozen, and take half a minute.
        assert state == "thousand" or browser.violations() == []


@contextmanager
def the_platform(folder: Path) -> Iterator[dict[str, str]]:
    """Run `local-openfaas up` with one function; give the URLs that it says."""
    (folder / "captions").mkdir()
    (folder / "captions/handler.py").write_text(HANDLER)
    (folder / "stack.yml").write_text(yaml.safe_dump(STACK))
    config = yaml.safe_load((ROOT / "lab/autoscaler.yaml").read_text())
    config["web"]["page_port"] = 0
    (folder / "autoscaler.yaml").write_text(yaml.safe_dump(config))
    command = [
        *(sys.executable, "-m", "tailbound_lab.local", "up", "--port", "0", "--prometheus-port", "0"),
        *("--stack", str(folder / "stack.yml"), "--run-dir", str(folder / "run")),
        *("--autoscaler-config", str(folder / "autoscaler.yaml")),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
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
def load(gateway: str, rates: str) -> Iterator[None]:
    """Offer requests for as long as the block lasts, at most as long as ``rates`` say."""
    command = [sys.executable, "-m", "tailbound_lab.load.openloop", "--url", f"{gateway}/function/captions"]
    with subprocess.Popen([*command, "--rate", rates], stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.mark.e2e
def test_under_load_the_page_says_why_a_function_was_scaled_up(browser, tmp_path):
    """Nothing is made up but the model's work."""
    with the_platform(tmp_path) as platform, load(platform["gateway"], "10:20,75:150"):
        page = platform["status page"]
        browser.look()
        browser.visit(page)
        browser.wait("Number.parseInt(document.querySelector('#fleet td.replicas')?.textContent) >= 3")
        browser.picture("local-fleet", "wide", "light")
        browser.script("document.querySelector('#fleet tbody a').click()")
        browser.wait("document.querySelectorAll('#charts canvas').length === 6")
        label = "document.querySelector('#charts [role=img]').ariaLabel"
        browser.wait(f"Number(/offered: ([\\d.]+)/.exec({label})?.[1]) > 40")
        assert browser.text(".spans [aria-current]") == "5m", "an hour would be empty but for its edge"
        opened = browser.script(
            "const decision = document.querySelector('#log .up'); decision.querySelector('summary').click();"
            "const pairs = [...decision.querySelectorAll('.inputs > div')];"
            "const inputs = pairs.map((pair) => [...pair.children].map((each) => each.textContent));"
            "return {id: decision.id, summary: decision.querySelector('summary').textContent, inputs}"
        )
        # It may have gone on since: what the page shows is told by the JSON under the same time.
        answer = "fetch('/api/functions/captions.openfaas-fn').then((answer) => answer.json())"
        document = browser.script(f"return {answer}")
        decisions = {f"{each['time']}-{each['reason']}": each for each in document["decisions"]}
        up = decisions[opened["id"]]
        assert up["to"] > up["from"] >= 1
        assert up["sentence"] in opened["summary"]
        assert up["display"] == dict(opened["inputs"])
        assert [each["size"] for each in document["profile"]["sizes"]][:2] == [1, 2]
        loaded = "performance.getEntriesByType('resource').map((entry) => entry.name)"
        assert all(each.startswith(page) for each in browser.script(f"return {loaded}"))
        for scheme in ("light", "dark"):
            browser.picture("local-function", "wide", scheme)
        browser.picture("local-function", "narrow", "light")
        assert browser.violations() == []
        # A busy machine's Prometheus may be late: 502, and asked again.
        assert [each for each in browser.complaints() if "502" not in each] == []
