"""What is said to have disturbed a run."""

import pytest

from tailbound_lab.demo.disturbance import disturbance
from tailbound_lab.load.machine import Usage
from tailbound_lab.load.openloop import Lag

QUIET = Usage(own=0.5, others=0.05, stolen=0.0)
PROMPT = Lag(p999=0.001)


@pytest.mark.parametrize("own", [0.5, 0.99])
def test_disturbance_of_seconds_that_the_demo_itself_used_is_nothing(own):
    assert disturbance([Usage(own, others=0.01, stolen=0.0)] * 60, PROMPT, slo=0.1) == ""


@pytest.mark.parametrize(
    ("second", "share"),
    [
        (Usage(own=0.1, others=0.31, stolen=0.0), "31%"),
        (Usage(own=0.1, others=0.0, stolen=0.07), "7%"),
    ],
    ids=["other programs", "host"],
)
def test_disturbance_of_a_second_names_who_took_its_cpu(second, share):
    found = disturbance([QUIET] * 59 + [second], PROMPT, slo=0.1)
    assert "1 of 60" in found
    assert share in found


def test_disturbance_names_a_generator_that_is_late():
    assert "6 ms" in disturbance([QUIET], Lag(p999=0.006), slo=0.1)
