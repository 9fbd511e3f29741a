"""Chromium, and what the tests do with it: how it looks, what it shows, what is wrong with that."""

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.waits import until

try:
    from PIL import Image
    from selenium import webdriver
except ModuleNotFoundError:
    webdriver = None

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "build/screenshots"
AXE = ROOT / "build/page-test/axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SIZES = {"wide": (1440, 900), "narrow": (390, 844)}
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage")
"""Root has no sandbox in a container; the pages are our own."""


class Browser:
    """Chromium on the page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.script = driver.execute_script

    def look(self, size: str = "wide", scheme: str = "light", height: int = 0) -> None:
        """Set the screen and its colors."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        width, least = SIZES[size]
        metrics = {"width": width, "height": max(least, height), "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def visit(self, url: str) -> None:
        """Open a page."""
        # What the page before had asked for must not be complained of here.
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(url)

    def wait(self, expression: str) -> None:
        until(lambda: self.script(f"return {expression}"), expression, 90)

    def column(self, key: str) -> list[str]:
        cells = "tbody th" if key == "function" else f"td.{key}"
        script = "return [...document.querySelectorAll(arguments[0])].map((cell) => cell.textContent)"
        return list(self.script(script, f"#fleet {cells}"))

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def complaints(self) -> list[str]:
        """Return what the browser complained of since the last visit."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def violations(self) -> list[str]:
        """Return what axe-core finds on the page."""
        if not AXE.exists():
            pytest.skip("axe-core is not there: make page-test fetches it with npm")
        self.script(AXE.read_text())
        found = self.driver.execute_async_script(
            "const [tags, done] = arguments;"
            "axe.run(document, {runOnly: tags, resultTypes: ['violations']})"
            ".then((found) => done(found.violations), (error) => done([{id: String(error)}]))",
            RULES,
        )
        return [
            json.dumps([each["id"], [node["html"] for node in each.get("nodes", [])][:3]]) for each in found
        ]

    def picture(self, name: str, size: str, scheme: str) -> None:
        """Save a picture of the whole page, or of what is seen of a very long one."""
        self.look(size, scheme)
        height = int(self.script("return document.documentElement.scrollHeight"))
        self.look(size, scheme, height if height < 5000 else 0)
        # Charts fit themselves to the width, in the frame after next.
        self.driver.execute_async_script(
            "const [done] = arguments;"
            "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100)))"
        )
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        drawn = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
        # A page has few colors; so pictures are small enough for the documentation.
        few = drawn.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(SCREENSHOTS / f"{name}-{size}-{scheme}.png", optimize=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if webdriver is None or chromium is None or chromedriver is None:
        pytest.skip("selenium, Chromium and its driver are not installed: make page-test does so")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for each in FLAGS:
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    driver.set_script_timeout(120)
    yield Browser(driver)
    driver.quit()
