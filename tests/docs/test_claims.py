"""What the README claims is what docs/benchmarks.md holds now."""

import ast
import re

import pytest

from support.pages import PAGES, ROOT, blocks, prose

FIGURE = re.compile(r"\d+(?:\.\d+)?%|\d+\.\d{2,}|\d+(?= cases)")


def test_readme_fits_its_first_screen_and_two_pages():
    text = (ROOT / "README.md").read_text()
    assert text.partition("\n## ")[0].count("\n") <= 25
    assert text.count("\n") <= 90


@pytest.mark.parametrize("name", ["autoscaler", "batching-watchdog"])
def test_links_of_a_readme_that_ships_in_a_wheel_work_outside_of_the_repository(name):
    targets = re.findall(r"\]\(([^)]+)\)", prose((ROOT / name / "README.md").read_text()))
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_figures_of_the_readme_stand_in_the_benchmarks():
    benchmarks = (ROOT / "docs/benchmarks.md").read_text()
    claimed = set(FIGURE.findall(prose((ROOT / "README.md").read_text())))
    assert len(claimed) > 10
    assert {figure for figure in claimed if not re.search(rf"(?<![\d.]){figure}", benchmarks)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_of_a_page_is_python(page):
    for block in blocks(page.read_text()):
        if block.language == "python":
            compile(block.text, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
