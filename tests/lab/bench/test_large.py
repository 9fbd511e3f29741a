"""What a large body costs, measured on a real server."""

import json

import pytest

from tailbound_lab.bench.__main__ import main
from tailbound_lab.bench.replica import large


@pytest.mark.e2e
def test_every_size_has_its_cost_on_both_sides(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tailbound_lab.bench.__main__.OUTPUT", tmp_path)
    monkeypatch.setattr(large, "SIZES", (0.0, 5.0))
    assert main(["large", "--requests", "20", "--repeats", "1"]) in (0, 1)
    found = json.loads((tmp_path / "large.json").read_text())["cpu_ms_per_batch"]
    assert list(found) == ["0", "5"]
    # Copies of 5 MB cost more than nothing, whatever the machine.
    assert all(found["5"][side] > found["0"][side] for side in ("front", "worker"))
    assert "front, CPU ms" in capsys.readouterr().out
