"""Reads a trace of a function's last hours from a live Prometheus.

Owns the range query. Prometheus has one rate per scrape, so arrivals between two scrapes are drawn at random
(see ``traces.from_rates``).
"""

import math
from typing import Final

from slo_autoscaler.errors import SourceError
from slo_autoscaler.signals import queries
from slo_autoscaler.signals.prometheus import PrometheusClient
from slo_autoscaler.signals.source import Settings
from tailbound_lab.simulate import SimulationError
from tailbound_lab.simulate.traces import Trace, from_rates

MOST_POINTS: Final = 10_000
"""Maximum points of one answer: Prometheus refuses more than 11,000."""


def read(
    source: Settings,
    function_name: str,
    *,
    since: float,
    end: float,
    cv2: float = 1.0,
    seed: int = 1,
) -> Trace:
    """Return the ``since`` seconds before ``end`` (Unix time) as a trace.

    A gap in the data counts as no requests. Raises ``SimulationError`` without an answer or without requests,
    ``ConfigError`` for missing credentials.
    """
    step = max(source.scrape_interval, since / MOST_POINTS)
    prometheus = PrometheusClient(source, "history")
    try:
        chosen = queries.matching([function_name])
        (text,) = queries.fill({"": queries.COMPLETED}, source.rate_window, functions=chosen).values()
        ranges = prometheus.range(queries.ranges, text, (end - since, end), step)
    except SourceError as error:
        raise SimulationError(str(error)) from error
    finally:
        prometheus.close()
    rates = [0.0] * math.ceil(since)
    for time, value in ranges.get("", ()):
        # The rate at a moment is that of the step before it.
        last = time - (end - since)
        for second in range(max(0, math.floor(last - step)), min(len(rates), math.ceil(last))):
            rates[second] = value
    if not any(rates):
        raise SimulationError(
            f"{source.url}: no requests of {function_name} in the last {since:g} s; use the full name,"
            " such as vision.openfaas-fn"
        )
    return from_rates(function_name, rates, cv2=cv2, seed=seed)
