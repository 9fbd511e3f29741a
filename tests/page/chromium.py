"""What the tests do with the browser: how it looks, what it shows, what is wrong with that."""

import base64
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from autoscaler.doubles import until

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "build/screenshots"
AXE = ROOT / "build/page-test/axe.min.js"
WIDE, NARROW = (1440, 900), (390, 844)
SCHEMES = ("light", "dark")

# Not before the first answer: until then the page is the server's.
FOLLOWS = "return document.getElementById('notices').dataset.shown !== undefined"
FLEET_READY = f"{FOLLOWS} && document.querySelectorAll('#fleet tbody tr').length > 0"
CHARTS_READY = f"{FOLLOWS} && document.querySelectorAll('#charts canvas').length === 6"


def look(driver: Any, scheme: str = "light", size: tuple[int, int] = WIDE) -> None:
    """Set what the browser is asked to look like."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def visit(driver: Any, url: str, ready: str = "return true") -> None:
    driver.get_log("browser")
    driver.get(url)
    wait(driver, ready)


def wait(driver: Any, script: str) -> None:
    until(lambda: driver.execute_script(script), script)


def find(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def text(driver: Any, selector: str) -> str:
    return str(
        driver.execute_script("return document.querySelector(arguments[0]).textContent", selector).strip()
    )


def column(driver: Any, key: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((cell) => cell.textContent)"
    return list(driver.execute_script(script, f"#fleet td.{key}" if key != "function" else "#fleet tbody th"))


def picture(driver: Any, name: str, size: tuple[int, int], scheme: str) -> None:
    """Save a picture of the whole page, or of what is seen of a very long one."""
    height = int(driver.execute_script("return document.documentElement.scrollHeight"))
    look(driver, scheme, (size[0], max(size[1], height if height < 5000 else 0)))
    time.sleep(0.2)  # charts fit themselves to the width
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    drawn = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    # A page has few colors; so pictures are small enough for the documentation.
    drawn.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        SCREENSHOTS / f"{name}.png", optimize=True
    )
    look(driver, scheme, size)


def complaints(driver: Any, but: str = "\0") -> list[str]:
    """Return what the browser complained of since the last visit."""
    return [entry["message"] for entry in driver.get_log("browser") if but not in entry["message"]]


def violations(driver: Any) -> list[str]:
    if not AXE.exists():
        pytest.skip("axe-core is not there: make page-test fetches it with npm")
    driver.execute_script(AXE.read_text())
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = driver.execute_async_script(
        "const [tags, done] = arguments;"
        # Of what passes, one node tells enough; all of a thousand rows would take minutes.
        "axe.run(document, {runOnly: tags, resultTypes: ['violations']})"
        ".then((found) => done(found.violations), (error) => done([{id: String(error)}]))",
        tags,
    )
    return [json.dumps([each["id"], [node["html"] for node in each.get("nodes", [])][:3]]) for each in found]
