"""The machine's load during a run."""

import pytest

from tailbound_lab.load import machine


def test_usage_is_the_share_of_cpu_time_that_was_not_idle():
    before, after = (100, 0, 100, 1000, 0, 0, 0, 0), (160, 0, 120, 1100, 10, 0, 0, 10)
    assert machine.usage(before, after) == machine.Usage(busy=pytest.approx(0.45), stolen=pytest.approx(0.05))
    assert len(machine.cpu_ticks()) == 8
