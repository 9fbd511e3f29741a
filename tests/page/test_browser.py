"""The status page in a real Chromium: `make page-test`. Pictures of every state go to build/screenshots."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.doubles import Function, a_gateway, a_process, a_prometheus
from support.doubles import a_fleet as replicas
from support.serving import (
    NAME,
    NOBODY,
    Told,
    a_decision,
    a_fleet,
    a_hold,
    a_page,
    a_quiet_prometheus,
    an_alert,
    get_json,
)
from support.waits import until
from tailbound_lab.local.ports import free_ports

try:
    from selenium.webdriver import Keys
except ModuleNotFoundError:
    Keys = None

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

CONFIG = """
platform: {gateway_url: "%s"}
prometheus: {url: "%s", scrape_interval: 250ms, window: 2s, max_age: 2s}
interval: 500ms
web: {port: %d, page_port: %d, probe_port: null}
defaults: {start_up_time: 100ms, min_samples: 5}
"""


@pytest.fixture(scope="module")
def thousand() -> Iterator[str]:
    with a_quiet_prometheus() as prometheus, a_page(a_fleet(1000), prometheus.url) as url:
        yield url


def test_the_keyboard_filters_sorts_by_a_header_and_opens_a_function(browser, thousand):
    browser.look()
    browser.visit(thousand)
    assert len(browser.column("function")) == 1000
    browser.script("document.getElementById('q').focus()")
    browser.press("vision team-3")
    until(lambda: 0 < len(browser.column("function")) < 100, "the rows are fewer")
    assert all(re.fullmatch(r"vision-\d+\.team-3", name) for name in browser.column("function"))
    focused, head = "document.activeElement", "document.querySelector('th[data-key=p99]')"
    for _ in range(40):
        if browser.script(f"return {focused}.textContent") == "p99":
            break
        browser.press(Keys.TAB)
        assert browser.script(f"return getComputedStyle({focused}).outlineStyle") != "none"
    for way in ("ascending", "descending"):
        browser.press(Keys.ENTER)
        browser.wait(f"{head}.getAttribute('aria-sort') === '{way}'")
    assert browser.script(f"return {head}.contains({focused})"), "the focus stays where it is"
    query = "q=vision+team-3&sort=-p99"
    assert query in browser.driver.current_url
    served = f"fetch('/api/functions?{query}').then((answer) => answer.json())"
    names = browser.script(
        f"return {served}.then((found) => found.functions.map((row) => row.function_name))"
    )
    until(lambda: browser.column("function") == names, "the rows are in the server's order")
    browser.script(
        "const state = document.getElementById('state'); state.value = 'missed';"
        "state.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    until(lambda: set(browser.column("state")) == {"missed"}, "only those that miss their SLO")
    assert "state=missed" in browser.driver.current_url
    assert browser.complaints() == []
    browser.script("document.querySelector('#fleet tbody a').focus()")
    browser.press(Keys.ENTER)
    browser.wait("location.pathname.startsWith('/functions/vision-')")


def test_page_follows_until_told_not_to_and_shows_a_missing_answer(browser):
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
        opened = "[...document.querySelectorAll('#log details')].map((each) => each.open)"
        assert browser.script(f"return {opened}") == [False, True]


def stopped() -> Told:
    told = a_fleet(12)
    told.alive = False
    return told


FLEET = a_fleet(24)
ALERTS = [an_alert(function_name=name) for name in FLEET.functions()]


@contextmanager
def prometheus_of(state: str) -> Iterator[str]:
    with a_quiet_prometheus(*ALERTS if state == "alerts" else ()) as prometheus:
        yield NOBODY if state == "blind" else prometheus.url


STATES = {
    "some": (lambda: FLEET, "/"),
    "alerts": (lambda: FLEET, "/"),
    "blind": (lambda: FLEET, "/"),
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
    with prometheus_of(state) as prometheus, a_page(make(), prometheus) as url:
        browser.look(size, scheme)
        browser.visit(url + path)
        screen = browser.script("return [document.documentElement.scrollWidth, innerWidth]")
        assert screen[0] <= screen[1], "nothing but tables scrolls sideways"
        # An unknown function is 404, and a Prometheus that does not answer 502.
        assert [each for each in browser.complaints() if not re.search("404|502", each)] == []
        browser.picture(state, size, scheme)
        assert browser.violations() == []


def test_alerts_of_any_number_of_functions_are_one_line_that_stays_open(browser):
    browser.look("narrow")
    tops = []
    for alerts in (ALERTS[:1], ALERTS):
        with a_quiet_prometheus(*alerts) as prometheus, a_page(FLEET, prometheus.url) as url:
            browser.visit(url)
            tops.append(browser.script("return document.getElementById('fleet').getBoundingClientRect().y"))
            browser.script("document.querySelector('#alerts summary').click()")
            browser.script("document.getElementById('as-of').textContent = 'before'")
            browser.wait("document.getElementById('as-of').textContent !== 'before'")
            assert browser.script("return document.getElementById('alerts').open")
    assert tops[0] == tops[1]


@pytest.mark.e2e
def test_under_load_the_page_says_why_a_function_was_scaled_up(browser, tmp_path):
    """The autoscaler and Prometheus are real, and so is what the page loads."""
    web, port = free_ports(2)
    with replicas() as fleet, a_gateway(vision=Function(1, available=1)) as gateway:
        fleet.rate = 250.0
        jobs = {"functions": (fleet.address, {"function_name": NAME}), "own": (f"127.0.0.1:{web}", {})}
        found = [
            {"job_name": name, "static_configs": [{"targets": [target], "labels": labels}]}
            for name, (target, labels) in jobs.items()
        ]
        config = tmp_path / "as.yaml"
        with a_prometheus(tmp_path, {}, found) as prometheus:
            config.write_text(CONFIG % (gateway.url, prometheus.url, web, port))
            with a_process(config, tmp_path / "log"):
                until(lambda: gateway.posted, "it is scaled up")
                look_why(browser, f"http://127.0.0.1:{port}")


def look_why(browser, page):
    browser.look()
    browser.visit(page)
    browser.wait("Number.parseInt(document.querySelector('#fleet td.replicas')?.textContent) >= 1")
    browser.script("document.querySelector('#fleet tbody a').click()")
    browser.wait("document.querySelectorAll('#charts canvas').length >= 4")
    label = "document.querySelector('#charts [role=img]').ariaLabel"
    browser.wait(f"Number(/offered: ([\\d.]+)/.exec({label})?.[1]) > 40")
    opened = browser.script(
        "const decision = document.querySelector('#log .up'); decision.querySelector('summary').click();"
        "const pairs = [...decision.querySelectorAll('.inputs > div')];"
        "const inputs = pairs.map((pair) => [...pair.children].map((each) => each.textContent));"
        "return {id: decision.id, summary: decision.querySelector('summary').textContent, inputs}"
    )
    # It may have gone on since: what the page shows is told by the JSON under the same time.
    _, document = get_json(f"{page}/api/functions/{NAME}")
    (up,) = (each for each in document["decisions"] if opened["id"] == f"{each['time']}-{each['reason']}")
    assert up["to"] > up["from"] >= 1
    assert up["sentence"] in opened["summary"]
    assert up["display"] == dict(opened["inputs"])
    assert [each["size"] for each in document["profile"]["sizes"]] == [1, 2]
    loaded = browser.script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(each.startswith(page) for each in loaded)
    browser.picture("function", "wide", "light")
    assert browser.violations() == []
    # A busy machine's Prometheus may be late: 502, and asked again.
    assert [each for each in browser.complaints() if "502" not in each] == []
