"""One version in both distributions, the chart, the image, the guides and the changelog."""

import re
from pathlib import Path

import pytest
import yaml

import batching_watchdog
import slo_autoscaler

ROOT = Path(__file__).resolve().parents[2]
VERSION = slo_autoscaler.__version__


def test_distributions_chart_and_image_have_one_version():
    assert batching_watchdog.__version__ == VERSION
    chart = yaml.safe_load((ROOT / "deploy/helm/slo-autoscaler/Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == VERSION
    assert f"slo-autoscaler:{VERSION}\n" in chart["annotations"]["artifacthub.io/images"]
    assert f"\nARG VERSION={VERSION}\n" in (ROOT / "autoscaler/Dockerfile").read_text()


GUIDES = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "template/python3-inference/README.md"]


@pytest.mark.parametrize("prefix", ["slo-autoscaler:", "tailbound/tailbound#v", "python3-inference@v"])
def test_guides_name_the_image_and_the_template_of_this_version(prefix):
    pages = "\n".join(page.read_text() for page in GUIDES)
    assert set(re.findall(rf"{prefix}(\d+\.\d+\.\d+)", pages)) == {VERSION}


def test_newest_release_of_the_changelog_is_this_version():
    headings = re.findall(r"^## (\d\S+) - ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:1] in ([], [VERSION])  # none: nothing is released
