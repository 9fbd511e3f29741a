"""Fills in the queries of ``signals``; turns the API's answers into numbers. [P]

Two sets of queries give the same ``Observation``. ``queries`` uses our watchdog's metrics and one of the
gateway's. ``gateway_queries`` uses only the gateway's, for functions without a watchdog, whose SLO is in the
configuration. A window must span at least four scrapes: a rate needs two, and one may be missed. Arrival
rates use exactly four, because a count is as exact over a short window and a longer one adds delay. Latency
quantiles and attainment use the longer window, because p99 of few requests is noise.

The gateway's histogram has the edges .005 .01 .025 .05 .1 .25 .5 1 2.5 5 10, and inside a bucket Prometheus
interpolates: p99 of requests that all took 110 ms reads as 249 ms. So an SLO between two edges cannot be
measured exactly. Quantiles are used as they are. Attainment counts requests below the next edge *above* the
SLO as good, so that every counted miss is a real one. Set such an SLO to an edge.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from sys import intern
from typing import Any, Final, Self

from slo_autoscaler.errors import SourceError
from slo_autoscaler.law.restart import Entry, Recorded
from slo_autoscaler.signals import (
    DERIVED,
    GATEWAY_SCRAPES,
    HAS_NEW,
    SCRAPES,
    SIGNALS,
    STARTS,
    Observation,
    Summed,
)
from slo_autoscaler.sources import MIN_AGE_SCRAPES, MIN_SCRAPES, Earlier
from slo_autoscaler.spec import GatewaySlos

NEWEST: Final = 0.55
"""Share of the rate window (four scrapes) that holds exactly two scrapes, or fewer if one was missed."""

EXPECTED: Final = 12
"""Expected scrapes in a counting window: enough to measure the interval to 10%."""

COUNTED: Final = 5
"""Number of counting windows; the fullest one counts, so that a pause of Prometheus does not look like a long
interval."""

SCRAPE_TOLERANCE: Final = 1.25
"""Factor by which the interval may differ: the window of four scrapes then still holds three."""

REMEMBERED: Final = 3600.0
"""Seconds after which the last exports of a stopped autoscaler are too old to restore."""

EARLIER_STEPS: Final = 30
"""Maximum steps of a range around an earlier moment: 300,000 numbers for 10,000 functions."""

FUNCTION_LABEL: Final = "function_name"

WATCHDOG: Final = {name: signal.watchdog for name, signal in SIGNALS.items() if signal.watchdog}
"""Signal -> query of functions with our watchdog."""

NEW: Final = {name: signal.new for name, signal in SIGNALS.items() if signal.new}
"""Signal -> query of functions with our watchdog and new replicas; ``$F`` selects them."""

MOST_NAMED: Final = 10
"""Maximum functions that a query names, because it must fit into a URL. For more, query all functions."""

_ANY: Final = 'function_name!=""'
_NONE: Final = 'function_name=""'

GATEWAY_PAGES: Final = "/gateways"
"""Stands for the gateways among names of functions, none of which has a slash."""

GATEWAY: Final = {name: signal.gateway for name, signal in SIGNALS.items() if signal.gateway}
"""Signal -> query of functions without it; ``$ATTAINED[span]`` depends on each function's SLO."""


RESTORED: Final = {
    name: f"{signal.restored} by (function_name) ({signal.gauge})"
    for name, signal in DERIVED.items()
    if signal.restored
}
"""Field of ``restart.Recorded`` -> query of an exported value, evaluated at the time of ``EXPORTED_AT``."""

EXPORTED_AT: Final = 'scalar(max(max_over_time(timestamp(slo_autoscaler_replicas{state="desired"})[$H:$R])))'
"""Query of the time of the last export of any autoscaler, Unix seconds; NaN if there is none in an hour."""

GATEWAY_EDGES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf)
"""Edges of the gateway's histogram, in seconds."""

GATEWAYS: Final = "group by (instance, function_name) (gateway_service_count)"
"""Query of the gateways' pages and the functions that each counts; ``WATCHDOGS`` for the watchdogs' pages."""
WATCHDOGS: Final = 'group by (instance, function_name) (slo_latency_seconds{slo_class=~"|default"})'

_FORMS: Final = {
    "$BUCKETS": "rate(http_request_duration_seconds_bucket{$SUCCESS}[$W])",
    "$GATEWAY_BUCKETS": "rate(gateway_functions_seconds_bucket{$SUCCESS,$F}[$W])",
    # Answers that reflect the function; other 4xx are the client's fault.
    "$JUDGED": 'code=~"2..|3..|429|5.."',
    # A redirect is an answer too.
    "$SUCCESS": 'code=~"2..|3.."',
}


def queries(window: float, rate_window: float, *, seldom: bool = False) -> dict[str, str]:
    """Return the query text of every signal, either the ``seldom`` ones or all others; windows in seconds."""
    return _filled(_asked(WATCHDOG, seldom=seldom), window, rate_window)


def corrections(window: float, rate_window: float) -> str:
    """Return the query that ``Corrections.of`` reads."""
    gateways = GATEWAY_SCRAPES.replace("$F", _NONE)
    text = (
        f"-({SCRAPES.replace('$F', _ANY)})"
        f' or label_replace(-({gateways}), "{FUNCTION_LABEL}", "{GATEWAY_PAGES}", "", "")'
        f" or {HAS_NEW.replace('$F', _ANY)}"
    )
    return _filled({"": text}, window, rate_window)[""]


@dataclass(frozen=True, slots=True)
class Corrections:
    """Functions whose signals need other queries, or a division by the jobs that scrape them."""

    corrected: frozenset[str] = frozenset()
    """Functions to ask ``new_queries`` for."""
    scrapes: Mapping[str, float] = field(default_factory=dict)
    """Function, or ``GATEWAY_PAGES``, to the jobs that scrape each of its pages, where these are several."""

    @classmethod
    def of(cls, answer: Mapping[str, float]) -> Self:
        """Read the answer to ``corrections``. One query has both, because some services bill each.

        A negative number is scrapes. Whether such a function has new replicas is then unknown, and the
        queries for new replicas are right for others too.
        """
        scrapes = {name: -value for name, value in answer.items() if value < 0.0}
        return cls(frozenset(answer.keys() - {GATEWAY_PAGES}), scrapes)

    def factor(self, name: str, signal: str, *, watchdog: bool) -> float:
        """Return the factor by which an answer counts each page more than once.

        ``watchdog``: whether the function has our watchdog.
        """
        summed = SIGNALS[signal].summed
        if summed is Summed.NO or (summed is Summed.WATCHDOGS and not watchdog):
            return 1.0
        return self.scrapes.get(name if watchdog and summed is not Summed.GATEWAYS else GATEWAY_PAGES, 1.0)

    def once(
        self, answers: Mapping[str, Mapping[str, float]], *, watchdog: bool
    ) -> Mapping[str, Mapping[str, float]]:
        """Return {signal: {function_name: value}} as if one job scraped each page."""
        if not self.scrapes:
            return answers
        return {
            signal: {
                name: value / self.factor(name, signal, watchdog=watchdog) for name, value in values.items()
            }
            for signal, values in answers.items()
        }

    def jobs_query(self) -> str:
        """Return the query of the jobs that scrape the first of these pages. There must be one."""
        name = min(self.scrapes)
        series = "gateway_service_count" if name == GATEWAY_PAGES else f"{STARTS}{{{_matcher([name])}}}"
        return f"group by (job) ({series})"

    def advice(self, jobs: Collection[str]) -> str:
        """Return the pages that several jobs scrape, with the next step. There must be one.

        ``jobs`` scrape the first; it is one job that several of its targets lead to the page.
        """
        name, more = min(self.scrapes), len(self.scrapes) - 1
        pages = "the gateway" if name == GATEWAY_PAGES else f"the replicas of {name}"
        others = f", and those of {more} more" if more else ""
        return (
            f"Prometheus scrapes {pages}{others} more than once, by the jobs {', '.join(sorted(jobs))}:"
            " requests count once here, and more often in rules and dashboards; keep one job with one target"
            " for each page"
        )


def new_queries(names: Collection[str], window: float, rate_window: float) -> dict[str, str]:
    """Return the query of every signal that ``queries`` under-reads where replicas are new."""
    matcher = _ANY if len(names) > MOST_NAMED else _matcher(names)
    spans = _filled(NEW, window, rate_window)
    return {name: text.replace("$F", matcher) for name, text in spans.items()}


def arrivals(window: float, slos: GatewaySlos) -> str:
    """Return the query of the arrivals per second over ``window`` seconds, with or without a watchdog."""
    texts = [gateway_queries(window, window, slos), queries(window, window)]
    return " or ".join(f"({text['rate']})" for text in texts if text)


def history_queries(rate_window: float, slos: GatewaySlos) -> dict[str, str]:
    """Return {field of ``Recorded``: text of the range query}; ``recorded`` reads the answers."""
    return {"rate": arrivals(rate_window, slos)}


def exported_at(rate_window: float) -> str:
    """Return the text of ``EXPORTED_AT``."""
    return _filled({"": EXPORTED_AT}, rate_window, rate_window)[""]


def gateway_queries(
    window: float, rate_window: float, slos: GatewaySlos, *, seldom: bool = False
) -> dict[str, str]:
    """Return the query text of every signal for functions without our watchdog; {} without such functions."""
    if not slos:
        return {}
    texts = _asked(GATEWAY, seldom=seldom)
    for span in ("$W", "$R"):
        attained = _attainment(slos, span)
        texts = {name: text.replace(f"$ATTAINED[{span}]", attained) for name, text in texts.items()}
    chosen = [name for name, slo in slos.named.items() if slo is not None]
    excepted = [name for name, slo in slos.named.items() if slo is None]
    matcher = _matcher(chosen) if slos.others is None else _matcher(excepted, but=True)
    spans = _filled(texts, window, rate_window)
    return {name: text.replace("$F", matcher) for name, text in spans.items()}


def _attainment(slos: GatewaySlos, span: str) -> str:
    """Return the query of the share of answers that were successes below the edge at or above each SLO."""
    groups: dict[float, list[str]] = {}
    for name, slo in slos.named.items():
        if slo is not None:
            groups.setdefault(_edge(slo.latency), []).append(name)
    matchers = [(edge, _matcher(names)) for edge, names in sorted(groups.items())]
    if slos.others is not None:
        matchers.append((_edge(slos.others.latency), _matcher(list(slos.named), but=True)))
    quick = [
        f"({_within(edge, '$SUCCESS', who, span)} or 0 * {_within(edge, '', who, span)})"
        for edge, who in matchers
    ]
    # Answers of any code in the bucket, and no success: the share is 0. No bucket: the share is unknown.
    judged = f"sum by (function_name) (rate(gateway_function_invocation_total{{$JUDGED,$F}}[{span}]))"
    return f"({' or '.join(quick)}) / {judged}"


def _within(edge: float, code: str, who: str, span: str) -> str:
    """Return the answers per second within an edge; absent if the histogram has no such edge."""
    labels = ",".join(filter(None, [code, f'le=~"{_le(edge)}"', who]))
    return f"sum by (function_name) (rate(gateway_functions_seconds_bucket{{{labels}}}[{span}]))"


def _edge(latency: float) -> float:
    return next(edge for edge in GATEWAY_EDGES if latency <= edge)


def _le(edge: float) -> str:
    """Return a matcher for both spellings of an edge: Prometheus 3 writes 1 as 1.0."""
    if math.isinf(edge):
        return "[+]Inf"
    text = f"{edge:g}"
    return text.replace(".", "[.]") if "." in text else f"{text}([.]0)?"


def _matcher(names: Collection[str], *, but: bool = False) -> str:
    """Return a matcher of these functions, or of all others; an exporter may have odd names."""
    among = "|".join(_literally(name) for name in sorted(names))
    return f'function_name{"!~" if but else "=~"}"{among}"'


def _literally(name: str) -> str:
    """Return a name as an RE2 expression of itself, in a quoted string."""
    return re.sub(r"[^A-Za-z0-9_-]", lambda c: "[.]" if c[0] == "." else f"\\\\x{{{ord(c[0]):x}}}", name)


def _asked(texts: Mapping[str, str], *, seldom: bool) -> dict[str, str]:
    return {name: text for name, text in texts.items() if SIGNALS[name].seldom is seldom}


def _filled(signals: Mapping[str, str], window: float, rate_window: float) -> dict[str, str]:
    counted = rate_window / MIN_SCRAPES * EXPECTED
    values = {
        **_FORMS,
        "$W": f"{round(window * 1000)}ms",
        "$R": f"{round(rate_window * 1000)}ms",
        "$N": f"{round(rate_window * NEWEST * 1000)}ms",
        "$G": f"{rate_window:g}",
        "$H": f"{round(REMEMBERED * 1000)}ms",
        "$E": f"{EXPECTED}",
        "$M": f"{round(counted * 1000)}ms",
        "$L": f"{round(counted * COUNTED * 1000)}ms",
        # Counting windows begin at multiples of their length, so the last $D holds a whole one.
        "$D": f"{round(counted * 2 * 1000)}ms",
    }
    texts = dict(signals)
    for name, value in values.items():
        texts = {signal: text.replace(name, value) for signal, text in texts.items()}
    return texts


@contextmanager
def expected(what: str, result: object) -> Iterator[list[Any]]:
    """Give an answer that must be a list; turn errors of the block that reads it into ``SourceError``."""
    try:
        if not isinstance(result, list):
            raise TypeError
        yield result
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise SourceError(f"expected {what}, got {str(result)[:80]}") from None


def parse(result: object) -> dict[str, float]:
    """Return {function_name: value} of an instant vector, the ``data.result`` of the query API.

    NaN and infinities are left out, and so are series without a function_name: no data, never zero.
    Raises ``SourceError`` for anything that is not an instant vector.
    """
    with expected("series with metric and value", result) as vector:
        # The same object in each answer: no comparison of names reads them.
        return {
            intern(name): value
            for series in vector
            if math.isfinite(value := float(series["value"][1]))
            and (name := series["metric"].get(FUNCTION_LABEL))
        }


def jobs(result: object) -> set[str]:
    """Return the jobs of the series of an instant vector. Raises ``SourceError`` for anything else."""
    return {labels["job"] for labels in _labels(result) if labels.get("job")}


def places(result: object) -> list[tuple[str, str]]:
    """Return (address, function_name) of each series of an instant vector that has both.

    Raises ``SourceError`` for anything that is not an instant vector.
    """
    found = [(labels.get("instance", ""), labels.get(FUNCTION_LABEL, "")) for labels in _labels(result)]
    return [(address, name) for address, name in found if address and name]


def _labels(result: object) -> list[dict[str, str]]:
    with expected("series with metrics", result) as vector:
        return [dict(series["metric"]) for series in vector]


def observations(signals: Mapping[str, Mapping[str, float]]) -> dict[str, Observation]:
    """Turn {signal: {function_name: value}} into {function_name: Observation}."""
    names = sorted(set[str]().union(*signals.values()))
    columns = [map(signals.get(signal, {}).get, names) for signal in SIGNALS]
    return {name: Observation(*values) for name, *values in zip(names, *columns, strict=True)}


def gateway_observations(
    signals: Mapping[str, Mapping[str, float]], slos: GatewaySlos
) -> dict[str, Observation]:
    """Turn the answers to ``gateway_queries`` into {function_name: Observation}, with the configured SLOs."""
    seen: dict[str, Observation] = {}
    for name, observation in observations(signals).items():
        slo = slos.of(name)
        if slo is None:
            continue
        # The query gave the share within the SLO.
        short = observation.burn_short
        burn = None if short is None else (1.0 - short) / (1.0 - slo.objective)
        seen[name] = replace(
            observation, slo_latency=slo.latency, slo_objective=slo.objective, burn_short=burn
        )
    return seen


def parse_range(result: object, now: float) -> dict[str, tuple[Entry, ...]]:
    """Return {function_name: ((seconds ago, value), ...)} of a range answer, relative to Unix time ``now``.

    Raises ``SourceError`` for anything that is not a range of numbers; leaves out what ``parse`` does.
    """
    ranges: dict[str, tuple[Entry, ...]] = {}
    with expected("series with metric and values", result) as matrix:
        for series in matrix:
            points = [(now - float(when), float(value)) for when, value in series["values"]]
            if name := series["metric"].get(FUNCTION_LABEL, ""):
                ranges[name] = tuple((ago, value) for ago, value in points if math.isfinite(value))
    return ranges


def parse_time(result: object) -> tuple[float, float]:
    """Return (time of evaluation, value) of a scalar; the value may be NaN.

    Raises ``SourceError`` for anything that is not a scalar.
    """
    with expected("a time and a number", result) as scalar:
        when, value = scalar
        return float(when), float(value)


def recorded(ranges: Mapping[str, Mapping[str, tuple[Entry, ...]]]) -> dict[str, Recorded]:
    """Turn {field of ``Recorded``: {function_name: points}} into {function_name: Recorded}."""
    names = {name for values in ranges.values() for name in values}
    return {
        name: Recorded(**{field: values[name] for field, values in ranges.items() if name in values})
        for name in sorted(names)
    }


def earlier(ranges: Mapping[float, Mapping[str, tuple[Entry, ...]]]) -> dict[str, dict[float, Earlier]]:
    """Turn {age: {function_name: ((seconds ago, rate), ...)}} into {function_name: {age: rates}}.

    The result counts seconds from the moment ``age`` seconds ago. An age without rates is left out.
    """
    found: dict[str, dict[float, Earlier]] = {}
    for age, functions in ranges.items():
        for name, points in functions.items():
            if points:
                found.setdefault(name, {})[age] = tuple((age - ago, rate) for ago, rate in points)
    return found


def scrape_advice(ratios: Mapping[str, float], scrape_interval: float, max_age: float) -> str | None:
    """Return the settings to change if Prometheus scrapes at another interval; None if it does not.

    ``ratios`` are ``scrape_ratio`` by function. The advice names the longest interval, because it makes the
    rates of every function complete. ``scrape_interval`` and ``max_age`` are the configured ones, in seconds.
    """
    if not ratios:
        return None
    name, ratio = max(ratios.items(), key=lambda item: item[1])
    if 1.0 / SCRAPE_TOLERANCE <= ratio <= SCRAPE_TOLERANCE:
        return None
    actual = float(f"{ratio * scrape_interval:.2g}")
    advice = [f"set prometheus.scrape_interval to {actual:g}s"]
    if ratio > 1.0:
        advice.append(f"prometheus.window to at least {MIN_SCRAPES * actual:g}s")
        if max_age < MIN_AGE_SCRAPES * actual:
            advice.append(f"prometheus.max_age to at least {MIN_AGE_SCRAPES * actual:g}s")
    effect = "rates miss part of the replicas" if ratio > 1.0 else "rates are older than they need to be"
    return (
        f"prometheus.scrape_interval is {scrape_interval:g}s, but Prometheus scrapes {name} about every"
        f" {actual:g}s: {effect}; {', '.join(advice)}"
    )
