"""What the policies, the queue and the latency model reach together, in virtual time (see ``simulation``)."""

import pytest

from watchdog.simulation import Simulation


def accelerator(size: int) -> float:
    return 0.016 + 0.001 * size


@pytest.mark.parametrize("overload", [1.5, 2.5])
def test_refusing_at_the_header_leaves_little_to_shed_and_costs_no_goodput(overload: float):
    outcomes = []
    for early in (False, True):
        simulation = Simulation(accelerator, shed_late=True, early=early)
        simulation.run(1000, 2)
        outcomes.append(simulation.run(1200 * overload, 3))
    shed, refused = outcomes
    assert len(refused.good) >= 0.99 * len(shed.good)
    assert len(refused.shed) <= 0.05 * len(refused.refused)
    assert not shed.refused


def test_nothing_is_refused_early_below_the_maximum_rate():
    simulation = Simulation(accelerator, shed_late=True, early=True)
    simulation.run(1000, 2)
    outcome = simulation.run(1100, 3)
    assert not outcome.refused
    assert outcome.attainment() > 0.99
