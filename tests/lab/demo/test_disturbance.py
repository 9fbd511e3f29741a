"""What is said to have disturbed a run."""

import pytest

from tailbound_lab.demo.disturbance import disturbance
from tailbound_lab.load.machine import Usage
from tailbound_lab.load.openloop import Lag

QUIET = Usage(own=0.5, others=0.05, stolen=0.0)
PROMPT = Lag(p999=0.001)


def test_disturbance_of_a_quiet_machine_is_nothing():
    assert disturbance([QUIET] * 60, PROMPT, slo=0.1) == ""


@pytest.mark.parametrize(
    ("second", "share"),
    [
        (Usage(own=0.1, others=0.31, stolen=0.0), "31%"),
        (Usage(own=0.1, others=0.0, stolen=0.07), "7%"),
        (Usage(own=0.93, others=0.0, stolen=0.0), "93%"),
    ],
    ids=["other programs", "host", "the demo itself"],
)
def test_disturbance_of_a_second_without_cpu_names_its_users(second, share):
    found = disturbance([QUIET] * 59 + [second], PROMPT, slo=0.1)
    assert "1 of 60" in found
    assert share in found


def test_disturbance_names_a_generator_that_is_late():
    assert "6 ms" in disturbance([QUIET], Lag(p999=0.006), slo=0.1)
