"""The browser of the tests that need one."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

try:
    from selenium import webdriver
except ModuleNotFoundError:
    webdriver = None


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    if webdriver is None:
        pytest.skip("selenium is not installed: make page-test does so")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("Chromium and its driver are not installed: make page-test does so")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # Root has no sandbox in a container; the pages are our own.
    for each in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
    ):
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    # Half a minute is what axe takes over a thousand rows where nothing else runs.
    made.set_script_timeout(200)
    yield made
    made.quit()
