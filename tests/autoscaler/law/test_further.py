"""What further metrics make of a recommendation."""

import math

from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.further import joined
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Need, Reason, Scale
from slo_autoscaler.settings.spec import FurtherMetric
from support.builders import a_spec, seen

values = st.none() | st.floats(0, 1e6)
targets = st.floats(0.1, 1e6)


@given(st.lists(st.tuples(values, targets), min_size=1, max_size=3), st.integers(0, 20), st.integers(1, 20))
def test_joined_needs_the_most_and_falls_only_with_every_metric(pairs, wanted, current):
    metrics = tuple(FurtherMetric(name=str(n), query="q", target=pair[1]) for n, pair in enumerate(pairs))
    scale = Scale(current, current)
    observed = seen(further=tuple(value for value, _ in pairs))
    at = Situation(a_spec(also=metrics), observed, scale, Memory.initial(scale, 0.0), 5.0)
    found = joined(at, Need(wanted, Reason.LOAD_BELOW_CAPACITY))
    count = found.count if isinstance(found, Need) else current
    least = [value / target - 1e-6 for value, target in pairs if value is not None]
    assert count >= max(wanted, *least, 0)
    if any(value is None for value, _ in pairs):
        assert count >= current
    else:
        assert count <= max(wanted, *(math.ceil(value / target) for value, target in pairs))


def test_joined_without_further_metrics_changes_nothing():
    at = Situation(a_spec(), seen(), Scale(2, 2), Memory.initial(Scale(2, 2), 0.0), 5.0)
    found = Need(1, Reason.LOAD_BELOW_CAPACITY)
    assert joined(at, found) is found
