"""What the autoscaler reads directly from a watchdog's page is there under the names that it knows."""

import pytest

from batching_watchdog.engine.capacity import Capacity
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.function.messages import Target
from batching_watchdog.observe.metrics import Exposition, Metrics
from slo_autoscaler.signals import counters
from slo_autoscaler.signals.record import ON_PAGE
from support.exposed import exposed, metrics_in


def test_page_of_a_watchdog_that_has_learned_tells_its_load_capacity_and_slo():
    times = CostModel(8)
    for _ in range(20):
        times.learn_any(1, 0.01)
    capacity = Capacity(times, workers=1, slo_latency=0.1, objective=0.99, cpus=1.0)
    assert list(capacity.estimate())
    metrics = Metrics({"default": Target(0.1, 0.99)}, capacity)
    (page, *_) = Exposition(metrics).scrape()
    seen = counters.observed(20.0, 1.0, [counters.told(page)])
    assert (seen.slo_latency, seen.slo_objective) == (0.1, 0.99)
    assert seen.capacity is not None
    assert 0.0 < seen.capacity <= 100.0
    assert counters.arrived(page) == {counters.WHOLE: 0.0}
    assert counters.identity(page) is not None


@pytest.mark.parametrize("signal", ON_PAGE)
def test_sample_of_a_signal_on_a_replicas_page_is_one_that_watchdogs_export(signal):
    """And its number reaches the observation by the direct reads."""
    sample = ON_PAGE[signal].page
    assert metrics_in(sample) <= exposed()
    seen = counters.observed(20.0, 1.0, [counters.told(f"{sample} 0.5\n".encode())])
    assert getattr(seen, signal) == (1.0 if signal == "in_flight" else 0.5)
