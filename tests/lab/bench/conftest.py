"""What the tests of the bench share."""

import pytest

from tailbound_lab.bench.rig import record


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch):
    """Records are in the test's own folder."""
    monkeypatch.setattr(record, "OUTPUT", tmp_path)
    monkeypatch.setattr(record, "PUBLISHED", tmp_path / "docs")
