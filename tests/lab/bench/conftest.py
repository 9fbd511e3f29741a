"""What the tests of the bench share."""

import shutil

import pytest

from tailbound_lab.bench import __main__ as bench
from tailbound_lab.bench import page


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch):
    """Results are in the test's own folder."""
    monkeypatch.setattr(bench, "OUTPUT", tmp_path)


@pytest.fixture
def section(tmp_path, monkeypatch):
    """Publish into a copy of the page; the text of a section by its name."""
    file = tmp_path / "docs" / "benchmarks.md"
    file.parent.mkdir()
    shutil.copy(page.PAGE, file)
    monkeypatch.setattr(page, "PAGE", file)
    return lambda name: file.read_text().split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
