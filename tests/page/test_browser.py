"""The status page in a real Chromium: `make page-test`. Pictures of every state go to build/screenshots."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from autoscaler.doubles import until
from page.chromium import (
    CHARTS_READY,
    FLEET_READY,
    FOLLOWS,
    NARROW,
    SCHEMES,
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
from page.serving import a_page
from page.stage import a_stage
from page.told import NAME, Told, a_fleet, a_hold

try:
    from selenium import webdriver
except ModuleNotFoundError:
    webdriver = None

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with a_stage(tmp_path_factory.mktemp("stage")) as url:
        yield url


@pytest.fixture(scope="module")
def thousand() -> Iterator[str]:
    with a_page(a_fleet(1000)) as url:
        yield url


def test_the_table_shows_what_the_autoscaler_does_on_a_real_prometheus(driver, stage):
    look(driver)
    visit(driver, stage, FLEET_READY)
    names = column(driver, "function")
    assert set(names) == {NAME, "text.openfaas-fn", "resize.openfaas-fn"}
    assert names[0] == "text.openfaas-fn", "trouble comes first"
    assert text(driver, "[data-sum=missed]") == "1"
    assert "/ 10" in column(driver, "replicas")[names.index(NAME)]
    assert complaints(driver) == []


def test_everything_comes_from_the_page_itself(driver, stage):
    visit(driver, f"{stage}/functions/{NAME}", CHARTS_READY)
    script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    loaded = driver.execute_script(script)
    assert len(loaded) >= 6
    assert all(each.startswith(stage) for each in loaded)


def test_the_table_follows_and_can_be_told_not_to(driver, stage):
    look(driver)
    visit(driver, stage, FLEET_READY)
    before = text(driver, "#as-of")
    wait(driver, f"return document.getElementById('as-of').textContent !== '{before}'")
    find(driver, "#live").click()
    time.sleep(0.5)  # an answer that is under way
    stopped = text(driver, "#as-of")
    time.sleep(3)
    assert text(driver, "#as-of") == stopped


def test_a_header_sorts_up_and_then_down_and_says_so(driver, thousand):
    look(driver)
    visit(driver, thousand, FLEET_READY)
    wait(driver, "return document.querySelectorAll('#fleet tbody tr').length === 1000")
    find(driver, "th[data-key=function] button").click()
    names = column(driver, "function")
    assert names == sorted(names)
    assert find(driver, "th[data-key=function]").get_attribute("aria-sort") == "ascending"
    find(driver, "th[data-key=function] button").click()
    assert column(driver, "function") == sorted(names, reverse=True)
    assert find(driver, "th[data-key=function]").get_attribute("aria-sort") == "descending"
    assert "sort=-function" in driver.current_url
    assert complaints(driver) == []


@pytest.mark.parametrize("key", ["state", "p99", "budget", "replicas", "last"])
@pytest.mark.parametrize("way", ["", "-"])
def test_the_browser_sorts_as_the_server_does(driver, thousand, key, way):
    visit(driver, f"{thousand}/?sort={way}{key}", FLEET_READY)
    served = driver.execute_script(
        "return fetch(arguments[0]).then((answer) => answer.json())"
        ".then((found) => found.functions.map((row) => row.function_name))",
        f"/api/functions?sort={way}{key}",
    )
    assert column(driver, "function") == served


def test_a_filter_leaves_what_has_every_word_and_is_in_the_address(driver, thousand):
    visit(driver, thousand, FLEET_READY)
    field = find(driver, "#q")
    field.send_keys("vision team-3")
    found = column(driver, "function")
    assert 0 < len(found) < 100
    assert all(name.startswith("vision-") and name.endswith(".team-3") for name in found)
    assert text(driver, "#found") == f"{len(found)} of 1,000"
    assert "q=vision+team-3" in driver.current_url
    driver.execute_script(
        "const s = document.getElementById('state'); s.value = 'missed';s.dispatchEvent(new Event('change'))"
    )
    assert set(column(driver, "state")) <= {"missed"}
    field.clear()
    field.send_keys("nothing like it")
    assert column(driver, "function") == []
    assert find(driver, "#no-match").is_displayed()
    assert complaints(driver) == []


def test_with_the_keyboard_alone_a_table_is_sorted_and_a_function_is_opened(driver, thousand):
    look(driver)
    visit(driver, f"{thousand}/?q=vision-0000", FLEET_READY)
    keys = webdriver.Keys
    press = webdriver.ActionChains(driver)
    press.send_keys(keys.TAB).perform()
    assert driver.switch_to.active_element.text == "Skip to the content"
    for _ in range(40):
        webdriver.ActionChains(driver).send_keys(keys.TAB).perform()
        outline = driver.execute_script(
            "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth]"
        )
        assert outline[0] != "none", driver.switch_to.active_element.get_attribute("outerHTML")
        if driver.switch_to.active_element.text == "p99":
            break
    webdriver.ActionChains(driver).send_keys(keys.ENTER).perform()
    assert find(driver, "th[data-key=p99]").get_attribute("aria-sort") == "ascending"
    assert driver.switch_to.active_element.text.startswith("p99"), "the focus stays where it is"
    for _ in range(10):
        webdriver.ActionChains(driver).send_keys(keys.TAB).perform()
        if driver.switch_to.active_element.tag_name == "a":
            break
    webdriver.ActionChains(driver).send_keys(keys.ENTER).perform()
    wait(driver, "return location.pathname.startsWith('/functions/vision-0000')")


def test_without_javascript_the_server_sorts(driver, thousand):
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(f"{thousand}/?q=vision")
        find(driver, "th[data-key=function] button").click()
        until(lambda: "sort=function" in driver.current_url, "the form is sent")
        names = [each.text for each in driver.find_elements("css selector", "#fleet tbody th")[:20]]
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert names == sorted(names)
    assert all(name.startswith("vision") for name in names)


def test_a_function_says_why_and_draws_what_happened(driver, stage):
    look(driver)
    visit(driver, f"{stage}/functions/{NAME}", CHARTS_READY)
    labels = driver.execute_script(
        "return [...document.querySelectorAll('#charts [role=img]')].map((each) => each.ariaLabel)"
    )
    assert [label.split(".")[0] for label in labels] == [
        "Requests",
        "Latency",
        "Replicas",
        "Queue",
        "Where the time goes",
        "Batch size",
    ]
    for label, words in zip(labels, ["offered", "p99", "desired", "waiting", "waiting", "mean"], strict=True):
        assert f"{words}: " in label or f"{words} for a worker: " in label
        assert "now, at most" in label
    assert "requests/s forecast" in text(driver, "#now") or "count is right" in text(driver, "#now")
    find(driver, ".spans a[data-span='15m']").click()
    wait(driver, "return document.querySelector('.spans [aria-current]').dataset.span === '15m'")
    assert "span=15m" in driver.current_url
    assert complaints(driver) == []


def test_when_the_autoscaler_is_gone_the_page_says_since_when(driver):
    with a_page(a_fleet(12)) as url:
        look(driver)
        visit(driver, url, FLEET_READY)
    wait(driver, "return document.querySelector('#notices .error') !== null")
    assert "The autoscaler does not answer. What is shown is of " in text(driver, "#notices")
    assert len(column(driver, "function")) == 12, "what was known stays"
    picture(driver, "gone-wide-light", WIDE, "light")


@contextmanager
def stale() -> Iterator[str]:
    told = Told(*(a_hold(f"{name}.openfaas-fn", reason="NoData") for name in ("vision", "text", "tabular")))
    with a_page(told) as url:
        yield url


@contextmanager
def stopped() -> Iterator[str]:
    told = a_fleet(12)
    told.alive = False
    with a_page(told) as url:
        yield url


@contextmanager
def some() -> Iterator[str]:
    with a_page(a_fleet(24)) as url:
        yield url


@contextmanager
def empty() -> Iterator[str]:
    with a_page(Told()) as url:
        yield url


@contextmanager
def at(url: str) -> Iterator[str]:
    yield url


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize(
    "state",
    ["fleet", "some", "thousand", "function", "unmet", "nodata", "empty", "stale", "stopped", "unknown"],
)
def test_every_state_is_accessible_and_has_its_picture(driver, stage, thousand, state, size, scheme):
    place, path, ready = {
        "fleet": (at(stage), "/", FLEET_READY),
        "some": (some(), "/", FLEET_READY),
        "thousand": (at(thousand), "/", FLEET_READY),
        "function": (at(stage), f"/functions/{NAME}", CHARTS_READY),
        "unmet": (at(stage), "/functions/text.openfaas-fn", CHARTS_READY),
        "nodata": (at(stage), "/functions/resize.openfaas-fn", "return document.querySelector('.nothing')"),
        "empty": (empty(), "/", FOLLOWS),
        "stale": (stale(), "/", FLEET_READY),
        "stopped": (stopped(), "/", FLEET_READY),
        "unknown": (at(stage), "/functions/vison.openfaas-fn", "return true"),
    }[state]
    with place as url:
        look(driver, scheme, size)
        visit(driver, url + path, ready)
        width = driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= size[0], "nothing but tables scrolls sideways"
        assert complaints(driver, but="404" if state == "unknown" else "\0") == []
        name = "wide" if size == WIDE else "narrow"
        picture(driver, f"{state}-{name}-{scheme}", size, scheme)
        assert violations(driver) == []
