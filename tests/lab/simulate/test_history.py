"""A trace from a live Prometheus: what a range query gives becomes arrivals, and faults become one line."""

import json
import time

import pytest

from slo_autoscaler.signals.source import Settings
from support import doubles
from support.doubles import a_fleet, a_gateway, a_prometheus
from support.waits import until
from tailbound_lab.simulate import SimulationError, history
from tailbound_lab.simulate.traces import Trace

NAME = "vision.openfaas-fn"


def an_answer(values: list[tuple[float, str]]) -> doubles.Fault:
    series = [{"metric": {}, "values": values}] if values else []
    body = {"status": "success", "data": {"resultType": "matrix", "result": series}}
    return doubles.status(200, json.dumps(body).encode())


def read(url: str):
    return history.read(Settings(url=url, timeout=1.0), NAME, since=60.0, end=1060.0)


def test_each_rate_holds_for_the_step_before_it_and_gaps_are_silent():
    with a_gateway() as server:
        server.faults["GET"] = an_answer([(1010.0, "80"), (1015.0, "NaN"), (1020.0, "40")])
        trace = read(server.url)
    counts = trace.counts(5.0)
    assert trace.duration == 60.0
    assert counts[1] == pytest.approx(400, rel=0.2)
    assert counts[3] == pytest.approx(200, rel=0.3)
    assert counts.sum() == counts[1] + counts[3]


@pytest.mark.parametrize(
    ("fault", "what"),
    [(doubles.status(503), "503"), (an_answer([]), NAME), (an_answer([(1010.0, "0")]), NAME)],
)
def test_unusable_answer_is_an_error_with_the_url(fault, what):
    with a_gateway() as server:
        server.faults["GET"] = fault
        with pytest.raises(SimulationError, match=what):
            read(server.url)


@pytest.mark.e2e
def test_a_real_prometheus_gives_the_rate_that_it_scraped(tmp_path):
    with a_fleet() as fleet, a_prometheus(tmp_path, {NAME: [fleet.address]}) as prometheus:
        fleet.rate = 100.0

        def trace() -> Trace | None:
            try:
                source = Settings(url=prometheus.url, scrape_interval=0.25)
                return history.read(source, NAME, since=2.0, end=time.time())
            except SimulationError:
                return None

        until(lambda: (recorded := trace()) is not None and 50.0 < recorded.rate < 150.0, "the rate is seen")
