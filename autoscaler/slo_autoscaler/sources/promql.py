"""Fills in the queries of ``signals``; turns the API's answers into numbers. [P]

Two sets of queries give the same ``Observation``: those of our watchdog with one of the gateway
(``queries``), and for functions without it, whose SLO stands in the configuration, those of the gateway alone
(``gateway_queries``). A window must span at least four scrapes: two are needed for a rate, and one may be
missed. Arrival rates take exactly that, because a count is as good over a short window and every second of it
is delay; latency quantiles and attainment take the longer one, because p99 of few requests is noise.

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
from slo_autoscaler.law.inputs import DERIVED
from slo_autoscaler.law.restart import Past
from slo_autoscaler.law.window import Entry
from slo_autoscaler.signals import SIGNALS, Observation
from slo_autoscaler.spec import GatewaySlos

NEWEST: Final = 0.55
"""Of the rate window, which is four scrapes: two of them and no more, and none where one was missed."""

FUNCTION_LABEL: Final = "function_name"

WATCHDOG: Final = {name: signal.watchdog for name, signal in SIGNALS.items() if signal.watchdog}
"""Signal -> query of functions with our watchdog."""

GATEWAY: Final = {name: signal.gateway for name, signal in SIGNALS.items() if signal.gateway}
"""Likewise of functions without it; ``$ATTAINED[span]`` depends on each function's SLO."""

HISTORY: Final[dict[str, str]] = {
    "rate": WATCHDOG["rate"],
    "pending": (
        'max by (function_name) (slo_autoscaler_replicas{state="desired"}'
        ' - ignoring (state) slo_autoscaler_replicas{state="available"})'
    ),
    **{
        name: f"{signal.restored} by (function_name) ({signal.gauge})"
        for name, signal in DERIVED.items()
        if signal.restored
    },
}
"""Field of ``restart.Past`` -> range query. All but the first are what the autoscaler before exported."""

GATEWAY_EDGES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf)
"""Of the gateway's histogram, in seconds."""

_FORMS: Final = {
    "$BUCKETS": 'rate(http_request_duration_seconds_bucket{code=~"2.."}[$W])',
    "$GATEWAY_BUCKETS": 'rate(gateway_functions_seconds_bucket{code=~"2..",$F}[$W])',
    # What says something of the function; other 4xx are the client's fault.
    "$JUDGED": 'code=~"2..|3..|429|5.."',
}


def queries(window: float, rate_window: float) -> dict[str, str]:
    """Return the query text of every signal; both windows are in seconds."""
    return _filled(WATCHDOG, window, rate_window)


def history_queries(rate_window: float) -> dict[str, str]:
    """Return the text of every range query that ``pasts`` wants the answer of."""
    return _filled(HISTORY, rate_window, rate_window)


def gateway_queries(window: float, rate_window: float, slos: GatewaySlos) -> dict[str, str]:
    """Return the query text of every signal of the functions without our watchdog; none if there are none."""
    if not slos:
        return {}
    texts = dict(GATEWAY)
    for span in ("$W", "$R"):
        attained = _attainment(slos, span)
        texts = {name: text.replace(f"$ATTAINED[{span}]", attained) for name, text in texts.items()}
    chosen = [name for name, slo in slos.named.items() if slo is not None]
    excepted = [name for name, slo in slos.named.items() if slo is None]
    matcher = _matcher(chosen) if slos.others is None else _matcher(excepted, but=True)
    spans = _filled(texts, window, rate_window)
    return {name: text.replace("$F", matcher) for name, text in spans.items()}


def documented(query: str) -> str:
    """Return a query with its forms written out, windows and matchers left as they are."""
    for form, text in _FORMS.items():
        query = query.replace(form, text)
    return query


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
        **_FORMS,
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
    seen: dict[str, Observation] = {}
    for name, observation in observations(signals).items():
        slo = slos.of(name)
        if slo is None:
            continue
        # What was asked for is the share that attained.
        short = observation.burn_short
        burn = None if short is None else (1.0 - short) / (1.0 - slo.objective)
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
