"""Which signals are asked for, as query text; and the API's answers as numbers. [P]

One query per signal covers every function, ``by (function_name)``; the metric names are the watchdog's, and
one of the gateway's.
What the forms are for:

- Quantiles: bucket rates are summed over replicas *before* the quantile is taken, and ``le`` survives the
  sum: quantiles of replicas cannot be averaged, and without ``le`` the result is empty.
- ``rate`` before ``sum``: a counter reset of one replica is only seen in its own series.
- A window must span at least four scrapes: two are needed for a rate, and one may be missed. Arrival rates
  take exactly that, because a count is as good over a short window and every second of it is delay; latency
  quantiles and attainment take the longer one, because p99 of few requests is noise.
- Attainment is good over *all* outcomes: sheds, errors and expiries count as misses. For the same reason
  latency is that of successes only: quick refusals would make it look better than it is.
- A comparison drops NaN: a replica that has not learnt its capacity does not hide those that have.
"""

import math
from collections.abc import Mapping
from typing import Final

from slo_autoscaler.errors import SourceError
from slo_autoscaler.model import Observation

FUNCTION_LABEL: Final = "function_name"

SIGNALS: Final[dict[str, str]] = {
    "rate": "sum by (function_name) (rate(slo_requests_total[$R]))",
    # Counted where requests start. Needs function_namespace in the gateway, for name.namespace labels.
    "gateway_rate": "sum by (function_name) (rate(gateway_function_invocation_started[$R]))",
    # With rate, the arrivals: what came in and has not been answered grows here.
    "in_flight_growth": "sum by (function_name) (deriv(http_requests_in_flight[$R]))",
    "in_flight": "sum by (function_name) (http_requests_in_flight)",
    "queue_length": "sum by (function_name) (watchdog_queue_length)",
    # The median replica: one that has just learnt something odd does not size the fleet.
    "capacity": "quantile by (function_name) (0.5, watchdog_capacity_requests_per_second >= 0)",
    "p50": "histogram_quantile(0.5, sum by (function_name, le) ($BUCKETS))",
    "p95": "histogram_quantile(0.95, sum by (function_name, le) ($BUCKETS))",
    "p99": "histogram_quantile(0.99, sum by (function_name, le) ($BUCKETS))",
    "attainment": (
        'sum by (function_name) (rate(slo_requests_total{outcome="good"}[$W]))'
        " / sum by (function_name) (rate(slo_requests_total[$W]))"
    ),
    "samples": "sum by (function_name) (increase(slo_requests_total[$W]))",
    # During an update old and new replicas may disagree; the stricter target holds.
    "slo_latency": "min by (function_name) (slo_latency_seconds)",
    "slo_objective": "max by (function_name) (slo_objective_ratio)",
    "up_replicas": 'sum by (function_name) (up{function_name!=""})',
    # By Prometheus' own clock, so that clocks need not agree.
    "age": "time() - max by (function_name) (timestamp(slo_latency_seconds))",
}
"""Field of ``Observation`` -> query; ``$W`` stands for the window, ``$R`` for that of rates."""

_BUCKETS: Final = 'rate(http_request_duration_seconds_bucket{code=~"2.."}[$W])'


def queries(window: float, rate_window: float) -> dict[str, str]:
    """Return the query text of every signal; both windows are in seconds."""
    spans = {"$W": f"{round(window * 1000)}ms", "$R": f"{round(rate_window * 1000)}ms"}
    texts = {signal: text.replace("$BUCKETS", _BUCKETS) for signal, text in SIGNALS.items()}
    for name, span in spans.items():
        texts = {signal: text.replace(name, span) for signal, text in texts.items()}
    return texts


def parse(result: object) -> dict[str, float]:
    """Return {function_name: value} of an instant vector, the ``data.result`` of the query API.

    NaN and infinities are left out, and so are series without a function_name: no data, never zero.
    Raises ``SourceError`` for anything that is not an instant vector.
    """
    if not isinstance(result, list):
        raise SourceError(f"expected a list of series, got {type(result).__name__}")
    values: dict[str, float] = {}
    for series in result:
        try:
            name = series["metric"].get(FUNCTION_LABEL, "")
            value = float(series["value"][1])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise SourceError(f"expected a series with metric and value, got {str(series)[:80]}") from None
        if name and math.isfinite(value):
            values[name] = value
    return values


def observations(signals: Mapping[str, Mapping[str, float]]) -> dict[str, Observation]:
    """Turn {signal: {function_name: value}} into {function_name: Observation}."""
    names = {name for values in signals.values() for name in values}
    return {
        name: Observation(**{signal: values[name] for signal, values in signals.items() if name in values})
        for name in sorted(names)
    }
