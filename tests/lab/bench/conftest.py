"""What the tests of the bench share."""

import shutil

import pytest

from tailbound_lab.bench import __main__ as bench
from tailbound_lab.bench import page


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A copy of the page, and where results are."""
    file = tmp_path / "docs" / "benchmarks.md"
    file.parent.mkdir()
    shutil.copy(page.PAGE, file)
    monkeypatch.setattr(page, "PAGE", file)
    monkeypatch.setattr(bench, "OUTPUT", tmp_path)
    return file
