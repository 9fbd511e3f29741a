"""Which signals are asked for, as query text; and the API's answers as numbers. [P]

One query per signal covers every function, ``by (function_name)``. Two sets of signals give the same
``Observation``: those of our watchdog with one of the gateway (``queries``), and for functions without it,
whose SLO stands in the autoscaler's configuration, those of the gateway alone (``gateway_queries``).
``docs/scaling.md`` says which rule uses which. What the forms are for:

- Quantiles: bucket rates are summed over replicas *before* the quantile is taken, and ``le`` survives the
  sum: quantiles of replicas cannot be averaged, and without ``le`` the result is empty.
- ``rate`` before ``sum``: a counter reset of one replica is only seen in its own series.
- A window must span at least four scrapes: two are needed for a rate, and one may be missed. Arrival rates
  take exactly that, because a count is as good over a short window and every second of it is delay; latency
  quantiles and attainment take the longer one, because p99 of few requests is noise.
- Attainment is good over *all* outcomes: sheds, errors and expiries count as misses. For the same reason
  latency is that of successes only: quick refusals would make it look better than it is.
- A comparison drops NaN: a replica that has not learned its capacity does not hide those that have.
- Burn rates come from the raw counters over the autoscaler's own windows; it needs no rules to be loaded. The
  error budget is the exception: 30 days of counters are the rules' business, and without them it is unknown.
- Service and queueing times are compared with what is usual, so they are means: exact, where a quantile would
  leap from bucket to bucket.

The gateway's histogram has the edges .005 .01 .025 .05 .1 .25 .5 1 2.5 5 10, and inside a bucket Prometheus
interpolates: p99 of requests that all took 110 ms reads as 249 ms. An SLO between two edges cannot be judged
exactly. Quantiles are taken as they are; attainment counts as good what is below the next edge *above* the
SLO, so that what counts as a miss surely is one. Put such an SLO on an edge.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from slo_autoscaler.errors import SourceError
from slo_autoscaler.law.restart import Past
from slo_autoscaler.law.window import Entry
from slo_autoscaler.model import Observation
from slo_autoscaler.spec import GatewaySlos

NEWEST: Final = 0.55
"""Of the rate window, which is four scrapes: two of them and no more, and none where one was missed."""

FUNCTION_LABEL: Final = "function_name"

SIGNALS: Final[dict[str, str]] = {
    "rate": "sum by (function_name) (rate(slo_requests_total[$R]))",
    # Counted where requests start. Needs function_namespace in the gateway, for name.namespace labels.
    "gateway_rate": "sum by (function_name) (rate(gateway_function_invocation_started[$R]))",
    # With rate, the arrivals: what came in and has not been answered grows here.
    "in_flight_growth": "sum by (function_name) (deriv(http_requests_in_flight[$R]))",
    # The same two views between the newest two scrapes: noisy, but a step shows whole after one of them.
    "rate_now": (
        "sum by (function_name) (irate(slo_requests_total[$N]))"
        " + sum by (function_name) (deriv(http_requests_in_flight[$N]))"
    ),
    "gateway_rate_now": "sum by (function_name) (irate(gateway_function_invocation_started[$N]))",
    "in_flight": "sum by (function_name) (http_requests_in_flight)",
    "queue_length": "sum by (function_name) (watchdog_queue_length)",
    # The median replica: one that has just learned something odd does not size the fleet.
    "capacity": "quantile by (function_name) (0.5, watchdog_capacity_requests_per_second >= 0)",
    "p50": "histogram_quantile(0.5, sum by (function_name, le) ($BUCKETS))",
    "p95": "histogram_quantile(0.95, sum by (function_name, le) ($BUCKETS))",
    "p99": "histogram_quantile(0.99, sum by (function_name, le) ($BUCKETS))",
    "attainment": (
        'sum by (function_name) (rate(slo_requests_total{outcome="good"}[$W]))'
        " / sum by (function_name) (rate(slo_requests_total[$W]))"
    ),
    "burn_short": (
        '(1 - sum by (function_name) (rate(slo_requests_total{outcome="good"}[$R]))'
        " / sum by (function_name) (rate(slo_requests_total[$R])))"
        " / (1 - max by (function_name) (slo_objective_ratio))"
    ),
    "samples": "sum by (function_name) (increase(slo_requests_total[$W]))",
    # Of one request: a larger batch may take longer than the SLO and be no fault.
    "service_time_single": 'quantile by (function_name) (0.5, watchdog_service_seconds_predicted{size="1"})',
    "service_mean": (
        "sum by (function_name) (rate(watchdog_service_seconds_sum[$W]))"
        " / sum by (function_name) (rate(watchdog_service_seconds_count[$W]))"
    ),
    "queue_mean": (
        "sum by (function_name) (rate(watchdog_queue_seconds_sum[$W]))"
        " / sum by (function_name) (rate(watchdog_queue_seconds_count[$W]))"
    ),
    # During an update old and new replicas may disagree; the stricter target holds.
    "slo_latency": "min by (function_name) (slo_latency_seconds)",
    "slo_objective": "max by (function_name) (slo_objective_ratio)",
    "up_replicas": 'sum by (function_name) (up{function_name!=""})',
    # By Prometheus' own clock, so that clocks need not agree.
    "age": "time() - max by (function_name) (timestamp(slo_latency_seconds))",
}
"""Field of ``Observation`` -> query; ``$W`` is the window, ``$R`` for the one of rates, ``$N`` its end."""

RECORDED: Final[dict[str, str]] = {
    "budget_remaining": "max by (function_name) (slo:error_budget_remaining:ratio)",
}
"""Likewise, of series that recording rules make; where those are not loaded there is no value."""

HISTORY: Final[dict[str, str]] = {
    "rate": "sum by (function_name) (rate(slo_requests_total[$R]))",
    "pending": (
        'max by (function_name) (slo_autoscaler_replicas{state="desired"}'
        ' - ignoring (state) slo_autoscaler_replicas{state="available"})'
    ),
    # Of two autoscalers the more careful one.
    "correction": "min by (function_name) (slo_autoscaler_capacity_correction_ratio)",
    "overspent": "max by (function_name) (slo_autoscaler_overspent_budget_seconds)",
    "regret": "max by (function_name) (slo_autoscaler_regretted_budget_seconds)",
    "peak": "max by (function_name) (slo_autoscaler_recent_peak_requests_per_second)",
}
"""Field of ``restart.Past`` -> range query. All but the first are what the autoscaler before exported."""

GATEWAY_EDGES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf)
"""Of the gateway's histogram, in seconds."""

GATEWAY_SIGNALS: Final[dict[str, str]] = {
    "rate": "sum by (function_name) (rate(gateway_function_invocation_total{$F}[$R]))",
    "gateway_rate": "sum by (function_name) (rate(gateway_function_invocation_started{$F}[$R]))",
    "gateway_rate_now": "sum by (function_name) (irate(gateway_function_invocation_started{$F}[$N]))",
    # Both count since the same gateway process started, so they differ by what is under way.
    "in_flight": (
        "clamp_min(sum by (function_name) (gateway_function_invocation_started{$F})"
        " - sum by (function_name) (gateway_function_invocation_total{$F}), 0)"
    ),
    "p50": "histogram_quantile(0.5, sum by (function_name, le) ($GATEWAY_BUCKETS))",
    "p95": "histogram_quantile(0.95, sum by (function_name, le) ($GATEWAY_BUCKETS))",
    "p99": "histogram_quantile(0.99, sum by (function_name, le) ($GATEWAY_BUCKETS))",
    "samples": "sum by (function_name) (increase(gateway_function_invocation_total{$JUDGED,$F}[$W]))",
    # The provider's word: the gateway sees every request, whichever replica serves it.
    "up_replicas": "max by (function_name) (gateway_service_count{$F})",
    "age": "time() - max by (function_name) (timestamp(gateway_service_count{$F}))",
}
"""As ``SIGNALS``, for functions without our watchdog; ``$F`` stands for the matcher that selects them.

Attainment over both windows is added by ``gateway_queries``: its numerator depends on each function's SLO.
"""

_GATEWAY_BUCKETS: Final = 'rate(gateway_functions_seconds_bucket{code=~"2..",$F}[$W])'

_JUDGED: Final = 'code=~"2..|3..|429|5.."'
"""What says something of the function; other 4xx are the client's fault."""

_BUCKETS: Final = 'rate(http_request_duration_seconds_bucket{code=~"2.."}[$W])'


def queries(window: float, rate_window: float) -> dict[str, str]:
    """Return the query text of every signal; both windows are in seconds."""
    return _filled(SIGNALS | RECORDED, window, rate_window)


def history_queries(rate_window: float) -> dict[str, str]:
    """Return the text of every range query that ``pasts`` wants the answer of."""
    return _filled(HISTORY, rate_window, rate_window)


def gateway_queries(window: float, rate_window: float, slos: GatewaySlos) -> dict[str, str]:
    """Return the query text of every signal of the functions without our watchdog; none if there are none."""
    if not slos:
        return {}
    signals = {
        **GATEWAY_SIGNALS,
        "attainment": _attainment(slos, "$W"),
        "attainment_short": _attainment(slos, "$R"),
    }
    chosen = [name for name, slo in slos.named.items() if slo is not None]
    excepted = [name for name, slo in slos.named.items() if slo is None]
    matcher = _matcher(chosen) if slos.others is None else _matcher(excepted, but=True)
    spans = _filled(signals, window, rate_window)
    return {signal: text.replace("$F", matcher) for signal, text in spans.items()}


def _attainment(slos: GatewaySlos, span: str) -> str:
    """Return the share of answers that were successes and quicker than the edge at or above each SLO."""
    groups: dict[float, list[str]] = {}
    for name, slo in slos.named.items():
        if slo is not None:
            groups.setdefault(_edge(slo.latency), []).append(name)
    matchers = [(edge, _matcher(names)) for edge, names in sorted(groups.items())]
    if slos.others is not None:
        matchers.append((_edge(slos.others.latency), _matcher(list(slos.named), but=True)))
    quick = [
        "sum by (function_name) (rate("
        f'gateway_functions_seconds_bucket{{code=~"2..",le=~"{_le(edge)}",{who}}}[{span}]))'
        for edge, who in matchers
    ]
    judged = f"sum by (function_name) (rate(gateway_function_invocation_total{{$JUDGED,$F}}[{span}]))"
    # Without a single success there is no bucket; that is 0, not absent.
    return f"({' or '.join(quick)} or 0 * {judged}) / {judged}"


def _edge(latency: float) -> float:
    return next(edge for edge in GATEWAY_EDGES if latency <= edge)


def _le(edge: float) -> str:
    """Return an expression for both ways to write it: Prometheus 3 writes 1 as 1.0."""
    if math.isinf(edge):
        return "[+]Inf"
    text = f"{edge:g}"
    return text.replace(".", "[.]") if "." in text else f"{text}([.]0)?"


def _matcher(names: Collection[str], *, but: bool = False) -> str:
    """Return what selects these functions, or all but these; no name needs more than its dots escaped."""
    among = "|".join(name.replace(".", "[.]") for name in sorted(names))
    return f'function_name{"!~" if but else "=~"}"{among}"'


def _filled(signals: Mapping[str, str], window: float, rate_window: float) -> dict[str, str]:
    values = {
        "$BUCKETS": _BUCKETS,
        "$GATEWAY_BUCKETS": _GATEWAY_BUCKETS,
        "$JUDGED": _JUDGED,
        "$W": f"{round(window * 1000)}ms",
        "$R": f"{round(rate_window * 1000)}ms",
        "$N": f"{round(rate_window * NEWEST * 1000)}ms",
    }
    texts = dict(signals)
    for name, value in values.items():
        texts = {signal: text.replace(name, value) for signal, text in texts.items()}
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


def gateway_observations(
    signals: Mapping[str, Mapping[str, float]], slos: GatewaySlos
) -> dict[str, Observation]:
    """Turn the answers to ``gateway_queries`` into {function_name: Observation}, with the configured SLOs."""
    short = signals.get("attainment_short", {})
    plain = {signal: values for signal, values in signals.items() if signal != "attainment_short"}
    seen: dict[str, Observation] = {}
    for name, observation in observations(plain).items():
        slo = slos.of(name)
        if slo is None:
            continue
        burn = (1.0 - short[name]) / (1.0 - slo.objective) if name in short else None
        seen[name] = replace(
            observation, slo_latency=slo.latency, slo_objective=slo.objective, burn_short=burn
        )
    return seen


def parse_range(result: object, now: float) -> dict[str, tuple[Entry, ...]]:
    """Return {function_name: ((seconds ago, value), ...)} of a range answer, seen from the Unix time ``now``.

    Raises ``SourceError`` for anything that is not a range of numbers; leaves out what ``parse`` does.
    """
    if not isinstance(result, list):
        raise SourceError(f"expected a list of series, got {type(result).__name__}")
    ranges: dict[str, tuple[Entry, ...]] = {}
    for series in result:
        try:
            name = series["metric"].get(FUNCTION_LABEL, "")
            points = [(now - float(when), float(value)) for when, value in series["values"]]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise SourceError(f"expected a series with metric and values, got {str(series)[:80]}") from None
        if name:
            ranges[name] = tuple((ago, value) for ago, value in points if math.isfinite(value))
    return ranges


def pasts(ranges: Mapping[str, Mapping[str, tuple[Entry, ...]]]) -> dict[str, Past]:
    """Turn {field of ``Past``: {function_name: points}} into {function_name: Past}."""
    names = {name for values in ranges.values() for name in values}
    return {
        name: Past(**{field: values[name] for field, values in ranges.items() if name in values})
        for name in sorted(names)
    }
