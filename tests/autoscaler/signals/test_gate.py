"""What is no number, infinite or impossible is no data behind the gate, and harms no decision."""

from dataclasses import replace
from math import inf, isfinite, nan

import pytest

from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Scale
from slo_autoscaler.signals.gate import admitted
from slo_autoscaler.signals.record import SIGNALS
from support.builders import a_spec, seen

SCALE = Scale(3, 3)
HEALTHY = seen(rated_replicas=3.0)
MEASURED = seen(**{name: getattr(HEALTHY, name) or 0.5 for name in SIGNALS})


def decided(observed):
    """Return the decision and the memory after it."""
    return decide(Situation(a_spec(), observed, SCALE, Memory.initial(SCALE, 0.0), 5.0))


@pytest.mark.parametrize("value", [nan, inf, -inf, -1.0, 1e300])
@pytest.mark.parametrize("signal", SIGNALS)
def test_signal_without_sense_decides_as_one_without_data(signal, value):
    behind = admitted(replace(MEASURED, **{signal: value}))
    if value == -1.0 and SIGNALS[signal].within[0] < 0.0:
        assert behind.refused == ()
        return
    assert [why.split()[0] for why in behind.refused] == [signal]
    decision, memory = decided(behind)
    expected, remembered = decided(replace(MEASURED, **{signal: None}))
    assert (decision.replicas, decision.reason) == (expected.replicas, expected.reason)
    assert memory == remembered
    assert all(number is None or isfinite(number) for number in decision.inputs.values())


def test_observation_of_sensible_numbers_passes_as_it_is():
    assert admitted(MEASURED) is MEASURED


def test_further_metric_without_sense_is_unknown():
    assert admitted(replace(MEASURED, further=(1.0, nan, None, inf))).further == (1.0, None, None, None)
