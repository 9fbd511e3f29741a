"""Lighthouse's audits of the status page: `make page-test`. The scores go to build/page-test/scores.json."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from page.serving import a_page
from page.stage import a_stage
from page.told import NAME, Told, a_fleet

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
LIGHTHOUSE = ROOT / "build/page-test/lighthouse/node_modules/lighthouse/cli/index.js"
SCORES = ROOT / "build/page-test/scores.json"
LEAST = 0.95
# What chromium's settings call the two schemes.
SCHEMES = {"light": 1, "dark": 0}
# What Lighthouse itself does, with the screen of a desk or of a telephone.
SCREENS = {"wide": ["--preset=desktop"], "narrow": []}
PAGES = {
    "fleet": "/",
    "function": f"/functions/{NAME}",
    "unmet": "/functions/text.openfaas-fn",
    "nodata": "/functions/resize.openfaas-fn",
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with a_stage(tmp_path_factory.mktemp("stage")) as url:
        yield url


@pytest.fixture(scope="module")
def kept() -> Iterator[dict[str, dict[str, float]]]:
    scores: dict[str, dict[str, float]] = {}
    yield scores
    SCORES.write_text(json.dumps(scores, indent=1, sort_keys=True) + "\n")


def audited(url: str, scheme: str, screen: str, folder: Path) -> dict[str, Any]:
    """Return Lighthouse's report on a page."""
    chromium, node = shutil.which("chromium"), shutil.which("node")
    if chromium is None:
        pytest.skip("Chromium is not installed: make page-test does so")
    if node is None or not LIGHTHOUSE.exists():
        pytest.skip("Lighthouse is not there: make page-test fetches it with npm")
    report = folder / "report.json"
    flags = (
        f"--headless=new --no-sandbox --disable-gpu --blink-settings=preferredColorScheme={SCHEMES[scheme]}"
    )
    done = subprocess.run(
        [
            *(node, str(LIGHTHOUSE), url, "--quiet", "--no-enable-error-reporting"),
            "--only-categories=accessibility,best-practices",
            *("--output=json", f"--output-path={report}", "--disable-full-page-screenshot"),
            *(f"--chrome-flags={flags}", *SCREENS[screen]),
        ],
        env={**os.environ, "CHROME_PATH": chromium},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    assert found.get("runtimeError") is None
    return found


def passes(report: dict[str, Any], name: str, kept: dict[str, dict[str, float]]) -> None:
    kept[name] = {key: category["score"] for key, category in report["categories"].items()}
    short = [
        f"{audit['id']}: {audit['title']}"
        for audit in report["audits"].values()
        if audit["score"] is not None and audit["score"] < 1
    ]
    assert set(kept[name]) == {"accessibility", "best-practices"}
    assert min(kept[name].values()) >= LEAST, short


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_scores_at_least_95(stage, kept, tmp_path, page, scheme):
    passes(audited(stage + PAGES[page], scheme, "wide", tmp_path), f"{page}, wide, {scheme}", kept)


@pytest.mark.parametrize("page", ["fleet", "function"])
def test_a_page_scores_at_least_95_on_a_telephone(stage, kept, tmp_path, page):
    passes(audited(stage + PAGES[page], "light", "narrow", tmp_path), f"{page}, narrow, light", kept)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_empty_table_scores_at_least_95(kept, tmp_path, scheme):
    with a_page(Told()) as url:
        passes(audited(url, scheme, "wide", tmp_path), f"empty, wide, {scheme}", kept)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_page_that_says_that_scaling_has_stopped_scores_at_least_95(kept, tmp_path, scheme):
    told = a_fleet(12)
    told.alive = False
    with a_page(told) as url:
        passes(audited(url, scheme, "wide", tmp_path), f"stopped, wide, {scheme}", kept)
