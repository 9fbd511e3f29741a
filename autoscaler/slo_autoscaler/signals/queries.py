"""Holds every PromQL text of the autoscaler; fills them in; reads the answers. [P]

``WATCHDOG``, ``GATEWAY`` and ``NEW`` have the queries of the signals; that of a gauge on a replica's page is
made from its record. One query covers every function, ``by (function_name)``. The watchdogs' queries use our
watchdog's metrics and one of the gateway's. The gateway's are for functions without a watchdog, whose SLO is
in the configuration. ``LEARNED`` is the page's; ``charts`` has those of its charts. In a text ``$W`` is the
window, ``$R`` that of rates, ``$N`` its newest two scrapes, ``$O`` half of it, ``$G`` the seconds for which a
gauge counts, ``$F`` a matcher of functions.

A window must span at least four scrapes: a rate needs two, and one may be missed. Arrival rates use exactly
four, because a longer one adds delay; ``window`` adds up those of slow functions. Latency quantiles and
attainment use the longer window, because p99 of few requests is noise.

- Quantiles: bucket rates are summed over replicas *before* the quantile is taken, and the sum keeps ``le``.
  Quantiles of replicas cannot be averaged; without ``le`` the result is empty.
- ``rate`` before ``sum``: a counter reset of one replica shows only in its own series.
- Attainment divides good requests by *all* outcomes: sheds, errors and expiries count as misses. Latency
  covers successes only, because quick refusals would lower it.
- SLO classes (label ``slo_class``; older watchdogs have none) are one function with one count of replicas:
  its misses are those of all classes, and the objectives of all classes give its error budget.
- A gauge counts for four scrapes, as long as a rate. Prometheus itself repeats the last sample for five
  minutes if no marker ends the series. So after a crash of Prometheus, replicas that left meanwhile would
  show a backlog and a capacity that do not exist. ``last_over_time`` ignores the markers of replicas that
  left in order, so the queries compare timestamps. The declared SLO has no such bound: a function with old
  samples has no data but still has an SLO.
- A comparison drops NaN: a replica without a learned capacity does not hide the others.
- Burn rates come from the raw counters over the autoscaler's own windows and need no rules. The error budget
  over 30 days needs the recording rules; without them it is unknown.
- Service and queueing times are means, because they are compared with baselines: a mean is exact, a quantile
  jumps between buckets.

The gateway's histogram has few edges, and inside a bucket Prometheus interpolates: p99 of requests that all
took 110 ms reads as 249 ms. So an SLO between two edges cannot be measured exactly. Quantiles are used as
they are. Attainment counts requests below the next edge *above* the SLO as good, so that every counted miss
is a real one. Set such an SLO to an edge.
"""

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from sys import intern
from typing import Final

from slo_autoscaler.errors import SourceError
from slo_autoscaler.settings.spec import GatewaySlos, Slo
from slo_autoscaler.signals.gate import sensible
from slo_autoscaler.signals.record import DERIVED, ON_PAGE, SIGNALS, Joined, Signal
from slo_autoscaler.signals.source import MIN_SCRAPES

NEWEST: Final = 0.55
"""Share of the rate window (four scrapes) that holds exactly two scrapes, or fewer if one was missed."""

EXPECTED: Final = 12
"""Expected scrapes in a counting window: enough to measure the interval to 10%."""

COUNTED: Final = 5
"""Number of counting windows; the fullest one counts, so that a pause of Prometheus does not look like a long
interval."""

REMEMBERED: Final = 3600.0
"""Seconds after which the last exports of a stopped autoscaler are too old to restore."""

MOST_NAMED: Final = 10
"""Maximum functions that a query names, because it must fit into a URL. For more, query all functions."""

GATEWAY_EDGES: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf)
"""Edges of the gateway's histogram, in seconds."""

FUNCTION_LABEL: Final = "function_name"
GATEWAY_PAGES: Final = "/gateways"
"""Stands for the gateways among names of functions, none of which has a slash."""

_SELECTOR: Final = re.compile(
    r'"(?:[^"\\]|\\.)*"'
    r"|(?P<series>\b(?:(?:gateway|http|process|watchdog)_\w+|slo_(?!class\b)\w+|slo:[\w:]+|up\b))(?P<brace>\{)?"
)
"""A text in quotes, or the begin of a selector."""

CLUSTERS: Final = ("cluster", "cluster_name", "k8s_cluster_name")
"""Labels that commonly tell the clusters of one Prometheus apart."""

ANY: Final = 'function_name!=""'
"""Matcher of all functions."""
_NONE: Final = 'function_name=""'


def _sum(text: str) -> str:
    return f"sum by (function_name) ({text})"


def _max(text: str) -> str:
    return f"max by (function_name) ({text})"


def _median(text: str) -> str:
    return f"quantile by (function_name) (0.5, {text})"


def _rate(series: str, window: str = "$R") -> str:
    return f"sum by (function_name) (rate({series}[{window}]))"


def _by_function(share: int, buckets: str) -> str:
    """Return the quantile of ``share`` percent of each function."""
    return f"histogram_quantile(0.{share}, sum by (function_name, le) (rate({buckets}[$W])))"


def _fresh(gauge: str) -> str:
    """Return the samples of a selector that are no older than ``$G`` seconds."""
    return f"({gauge} and timestamp({gauge}) > time() - $G)"


def _gauge(signal: Signal) -> str:
    """Return the query of a gauge on the pages of replicas: the fresh ones that know it, as one value."""
    known, joined = f"{_fresh(signal.page or '')} >= 0", signal.joined or Joined.MEDIAN
    return _median(known) if joined is Joined.MEDIAN else f"{joined.value} by (function_name) ({known})"


def _rated(series: str, new: str = "") -> str:
    """Return the count of current series that have the two samples in ``$R`` of a rate, and of ``new``.

    After a pause of Prometheus it is 0 until a sample is half a window old: from two samples that follow each
    other closely ``rate`` makes half the rate. A replica alone may miss a scrape.
    """
    rated = f"count by (function_name) (count_over_time({series}[$R]) >= 2 and {series}{new})"
    older = f"count by (function_name) (count_over_time({series}[$O] offset $O))"
    return f"({rated} and {older} or 0 * count by (function_name) ({series}))"


def _scrape_ratio(series: str) -> str:
    """Return the expected scrapes in ``$M`` over the highest count in any ``$M`` of the last ``$L``.

    The highest count, because a pause of Prometheus empties some windows, not all. A window counts for a
    series that it found at both ends: one that began or ended inside has fewer scrapes for that reason.
    """
    whole = f"count_over_time({series}[$M]) and {series} and {series} offset $M"
    return f"{EXPECTED} / {_max(f'max_over_time(({whole})[$L:$M])')}"


_DECLARED: Final = 'slo_latency_seconds{slo_class=~"|default"}'
"""One series for each replica with our watchdog, scraped with its counters."""
_CHOSEN: Final = 'slo_latency_seconds{slo_class=~"|default",$F}'
"""Likewise, of chosen functions."""
_SCRAPED: Final = 'up{function_name!=""}'
"""One sample for each scrape of a replica, also of one that failed."""
_CAPACITY: Final = "watchdog_capacity_requests_per_second"
_KNOWN_LONG: Final = f"{_fresh(_CAPACITY)} >= 0 and {_CAPACITY} offset $R >= 0"
"""Capacities of replicas that knew theirs a window ago too."""
_INSIDE: Final = "http_requests_in_flight"
_ALL: Final = "sum without (outcome, slo_class)"
_BY_CLASS: Final = "by (function_name, slo_class)"
# A redirect is an answer too.
_SUCCESS: Final = 'code=~"2..|3.."'
# Answers that reflect the function; other 4xx are the client's fault.
_JUDGED: Final = 'code=~"2..|3..|429|5.."'

# Without named classes: each class has its own buckets, and slo_latency is that of the others.
_FIRST_PIECE: Final = 'watchdog_first_piece_seconds_bucket{slo_class="default"}'

_STARTED: Final = "gateway_function_invocation_started{$F}"
_ENDED: Final = "gateway_function_invocation_total{$F}"
_SERVICES: Final = "gateway_service_count{$F}"
"""One series for each gateway."""
# Both counters began with the same process, so their difference is the requests under way. A function has no
# counter of ended requests until its first one ends.
_UNDER_WAY: Final = f"{_fresh(_STARTED)} - (sum without (code) ({_ENDED}) or 0 * {_STARTED})"

# A rate ignores a counter's first sample and needs two samples. But a process counts from 0, so the first
# sample of a new process is an increase as well. Otherwise the load of a new replica would be missing until
# its second scrape. This query costs several times as much, so it covers only functions with new replicas.
_PROCESS: Final = "process_start_time_seconds{$F}"
_NEW: Final = (
    f"({_PROCESS} > time() - 2 * $G and timestamp({_PROCESS}) > time() - $G / 2 unless {_PROCESS} offset $R)"
)
"""Start times of processes that did not exist a window ago and were scraped just now."""
_HAS_NEW: Final = f"count by (function_name) ({_PROCESS} > time() - 2 * $G unless {_PROCESS} offset $R)"
"""Query of the functions that have such processes."""
_PART: Final = f"(timestamp({_PROCESS}) - time() + $G + clamp_min(time() - $G - {_NEW}, 0))"
"""Seconds of the window until their last scrape, or since their start if that is longer."""
_AGE: Final = f"clamp_min(timestamp({_PROCESS}) - {_NEW}, $G / 4)"
"""Seconds from their start to their last scrape, an interval at least."""
_REQUESTS: Final = "slo_requests_total{$F}"
_INSIDE_NEW: Final = f"{_INSIDE}{{$F}}"


WATCHDOG: Final = {name: _gauge(signal) for name, signal in ON_PAGE.items()} | {
    "rate": _rate("slo_requests_total"),
    "gateway_rate": _rate("gateway_function_invocation_started"),
    "rate_now": f"{_sum('irate(slo_requests_total[$N])')} + {_sum(f'deriv({_INSIDE}[$N])')}",
    "gateway_rate_now": _sum("irate(gateway_function_invocation_started[$N])"),
    "in_flight_growth": _sum(f"deriv({_INSIDE}[$R])"),
    # Both are lower bounds. A replica: the lowest count in flight, less its streams, which may well run for
    # longer, and all that it completed. A gateway: the count in flight now, less all that started in the
    # window.
    "stalled": _sum(
        f"clamp_min(min_over_time({_INSIDE}[$R]) - max_over_time(watchdog_streams[$R])"
        f" - {_ALL} (increase(slo_requests_total[$R])), 0)"
        f" and {_fresh(_INSIDE)} and {_INSIDE} offset $R"
    ),
    # The median replica: one that has just learned something odd does not size the fleet. New ones often
    # start with too little CPU, and would soon be most of them: they count where fewer than two others have
    # known their capacity for a window. One alone may have learned it in the overload that they answer.
    "capacity": (
        f"{_median(_KNOWN_LONG)} and count by (function_name) ({_KNOWN_LONG}) >= 2"
        f" or {_median(f'{_fresh(_CAPACITY)} >= 0')}"
    ),
    # The SLO of a stream is for its first piece: its duration says nothing.
    **{
        f"p{share}": _by_function(share, _FIRST_PIECE)
        + " or "
        + _by_function(share, f"http_request_duration_seconds_bucket{{{_SUCCESS}}}")
        for share in (95, 99)
    },
    "interval_p99": _by_function(99, 'watchdog_piece_interval_seconds_bucket{slo_class="default"}'),
    "attainment": _rate('slo_requests_total{outcome="good"}', "$W")
    + f" / {_rate('slo_requests_total', '$W')}",
    "burn_short": (
        _rate('slo_requests_total{outcome!~"good|error"}')
        + " / "
        + _sum(
            f"sum {_BY_CLASS} (rate(slo_requests_total[$R])) * (1 - max {_BY_CLASS} (slo_objective_ratio))"
        )
    ),
    "budget_remaining": 'min by (function_name) (slo:error_budget_remaining:ratio{view!="gateway"})',
    "samples": _sum("increase(slo_requests_total[$W])"),
    "service_mean": (
        f"{_rate('watchdog_service_seconds_sum', '$W')} / {_rate('watchdog_service_seconds_count', '$W')}"
    ),
    "queue_mean": (
        f"{_rate('watchdog_queue_seconds_sum', '$W')} / {_rate('watchdog_queue_seconds_count', '$W')}"
    ),
    # During an update old and new replicas may disagree; the stricter target holds.
    "slo_latency": f"min by (function_name) ({_DECLARED} > 0)",
    # Gives one burn rate for all classes. Without requests: the function's own objective.
    "slo_objective": (
        _sum(f"sum {_BY_CLASS} (rate(slo_requests_total[$W])) * max {_BY_CLASS} (slo_objective_ratio)")
        + f" / {_rate('slo_requests_total', '$W')} > 0 < 1"
        + " or "
        + _max('slo_objective_ratio{slo_class=~"|default"} > 0 < 1')
    ),
    "up_replicas": _sum(_fresh(_SCRAPED)),
    "rated_replicas": _rated(_DECLARED),
    "sample_age": f"time() - {_max('timestamp(slo_latency_seconds)')}",
    "sampled_at": _max("timestamp(slo_latency_seconds)"),
    "scrape_ratio": _scrape_ratio(_SCRAPED),
}
"""Signal -> query of functions with our watchdog."""

NEW: Final = {
    "rate": _sum(f"{_ALL} ({_REQUESTS}) / {_PART} or {_ALL} (rate({_REQUESTS}[$R]))"),
    "rate_now": (
        f"{_sum(f'{_ALL} (irate({_REQUESTS}[$N])) or {_ALL} ({_REQUESTS}) / {_AGE}')}"
        f" + {_sum(f'deriv({_INSIDE_NEW}[$N]) or {_INSIDE_NEW} / {_AGE}')}"
    ),
    "in_flight_growth": _sum(f"{_INSIDE_NEW} / {_PART} or deriv({_INSIDE_NEW}[$R])"),
    "rated_replicas": _rated(_CHOSEN, f" or {_CHOSEN} and ignoring (slo_class) {_NEW}"),
}
"""Signal -> query of functions with our watchdog and new replicas, where ``WATCHDOG`` reads too little."""

GATEWAY: Final = {
    # A function whose first request hangs has completed none: its rate is 0, not unknown.
    "rate": f"{_rate(_ENDED)} or 0 * {_rate(_STARTED)}",
    "gateway_rate": _rate(_STARTED),
    "gateway_rate_now": _sum(f"irate({_STARTED}[$N])"),
    "in_flight": _sum(f"clamp_min({_UNDER_WAY}, 0)"),
    "stalled": _sum(f"clamp_min({_UNDER_WAY} - clamp_min({_STARTED} - {_STARTED} offset $R, 0), 0)"),
    **{
        f"p{share}": _by_function(share, f"gateway_functions_seconds_bucket{{{_SUCCESS},$F}}")
        for share in (95, 99)
    },
    # Answers of any code in the bucket, and no success: the share is 0. No bucket: the share is unknown.
    "attainment": f"($ATTAINED_W) / {_rate(f'gateway_function_invocation_total{{{_JUDGED},$F}}', '$W')}",
    # The share that attained; the objective is configured.
    "burn_short": f"($ATTAINED_R) / {_rate(f'gateway_function_invocation_total{{{_JUDGED},$F}}')}",
    "samples": _sum(f"increase(gateway_function_invocation_total{{{_JUDGED},$F}}[$W])"),
    # By the provider: the gateway sees every request, whichever replica serves it.
    "up_replicas": _max(_fresh(_SERVICES)),
    # The gateways' rates include all replicas, so the share of the gateways that are in them counts.
    "rated_replicas": (
        f"{_max(_fresh(_SERVICES))} * {_rated(_SERVICES)} / count by (function_name) {_fresh(_SERVICES)}"
    ),
    "sample_age": f"time() - {_max(f'timestamp({_SERVICES})')}",
    "sampled_at": _max(f"timestamp({_SERVICES})"),
    "scrape_ratio": _scrape_ratio(_SERVICES),
}
"""Signal -> query of functions without our watchdog, which the gateway measures."""

_MISSING: Final = {name for name, signal in SIGNALS.items() if signal.queried} ^ WATCHDOG.keys()
_FOREIGN: Final = (GATEWAY.keys() | NEW.keys()) - WATCHDOG.keys()
if _MISSING or _FOREIGN:
    raise TypeError(f"signals without a query, or queries without a signal: {sorted(_MISSING | _FOREIGN)}")

SELDOM: Final = "scrape_ratio"
"""The signal whose query is expensive and whose value hardly changes."""

_OWN: Final = "and on (job, instance) slo_autoscaler_info{identity=$I}"
"""Of the samples of any autoscaler, those of one identity."""
RESTORED: Final = {
    name: f"{signal.restored} by (function_name) ({signal.gauge} {_OWN})"
    for name, signal in DERIVED.items()
    if signal.restored
}
"""Field of ``restart.Recorded`` -> query of an exported value, evaluated at the time of ``EXPORTED_AT``."""
EXPORTED_AT: Final = (
    f'max(max_over_time((timestamp(slo_autoscaler_replicas{{state="desired"}}) {_OWN})[$H:$R])) or vector(0)'
)
"""Query of the time of this autoscaler's last export, Unix seconds; 0 if there is none in an hour."""
ALERTS: Final = "/api/v1/alerts"
"""Path of the alerts; Thanos, Mimir and, with ``-vmalert.proxyURL``, VictoriaMetrics have it too."""

TIME: Final = "vector(time())"
"""Query of the Unix time by Prometheus' clock."""

GATEWAYS: Final = (
    f"group by (instance, function_name) (gateway_service_count unless on (job, instance) {_SCRAPED})"
)
"""Query of the gateways' pages and the functions that each counts; ``WATCHDOGS`` for the watchdogs' pages.

A target with a function's name is no gateway, whatever its page says: its author would speak for others.
"""
WATCHDOGS: Final = f"group by (instance, function_name) ({_DECLARED})"


def _scrapes(address: str, chosen: str = "", matcher: str = ANY) -> str:
    """Return the number of scrapes of each process with this address, in the window of rates.

    Processes of a scale-up start at the same time, and an address may be a node's. Both together are one
    process.
    """
    processes = f"max_over_time(process_start_time_seconds{{{matcher}}}[$R]){chosen}"
    return f'count_values by ({address}) ("start", {processes})'


SEVERAL_LEADERS: Final = (
    "count by (function_name) (group by (function_name, instance)"
    " (slo_autoscaler_desired_replicas and slo_autoscaler_desired_replicas offset 1m)) > 1"
)
"""Query of the functions that several autoscalers size: only a leader exports the count.

Each has exported it for a minute: after a rollout Prometheus keeps the old pod's for two scrapes.
"""

_BY_CLUSTER: Final = (
    f"group by ({FUNCTION_LABEL}, {', '.join(CLUSTERS)}) ({_DECLARED} or gateway_service_count)"
)
SEVERAL_CLUSTERS: Final = (
    f"{_BY_CLUSTER} and on ({FUNCTION_LABEL}) count by ({FUNCTION_LABEL}) ({_BY_CLUSTER}) > 1"
)
"""Query of the functions whose series come from several clusters, with these labels."""

_IDENTITIES: Final = (
    f'count_values by (function_name, job) ("identity", max_over_time(watchdog_identity{{{ANY}}}[$R]))'
)
"""Jobs by the process that each scrapes. Copies restored from one snapshot share the identity: as one job
scrapes them, each counts."""
_GATEWAY_SCRAPES: Final = (
    f"avg ({_scrapes('instance', ' and on (job, instance) gateway_service_count', _NONE)}) > 1"
)
CORRECTIONS: Final = (
    f"-(avg by (function_name) (count by (function_name, identity) ({_IDENTITIES})) > 1"
    f" or avg by (function_name) ({_scrapes('function_name, instance')}) > 1)"
    f' or label_replace(-({_GATEWAY_SCRAPES}), "{FUNCTION_LABEL}", "{GATEWAY_PAGES}", "", "")'
    f" or {_HAS_NEW}"
)
"""Query of the negative number of jobs that scrape each replica of a function, or the gateway, where these
are several; else of the number of new replicas. An older watchdog has no identity, and is recognized at one
address alone."""


COMPLETED: Final = "sum(rate(slo_requests_total{$F}[$R]))"
"""Query of the completions per second of chosen functions together."""

_ROW: Final = (
    'label_replace(label_replace(%s, "row", "$$1", "instance", "(.+)"), "row", "$$1", "replica", "(.+)")'
)
"""The pod's name, where the scrape job gives it, else the address."""

REPLICAS: Final = {
    name: f"{aggregation} by (row) ({_ROW % text})"
    for name, aggregation, text in (
        ("up", "max", "up{$F}"),
        ("load", "sum", "rate(slo_requests_total{$F}[$R])"),
        ("capacity", "max", f"{_CAPACITY}{{$F}} >= 0"),
        ("in_flight", "max", f"{_INSIDE}{{$F}}"),
        ("cores", "max", "watchdog_capacity_cores{$F}"),
        ("start_up", "max", "watchdog_start_up_seconds{$F}"),
        ("workers", "sum", "watchdog_workers{$F}"),
        ("best_effort", "sum", "rate(watchdog_best_effort_seconds_total{$F}[$R])"),
        ("sick", "max", "watchdog_workers_sick_total{$F}"),
        ("died", "max", "watchdog_worker_restarts_total{$F}"),
    )
}
"""Query of each number of a function's replicas, by ``row``."""

LEARNED: Final = {
    # The median replica's, as for the sizing.
    "predicted": "quantile by (size) (0.5, watchdog_service_seconds_predicted{$F})",
    # Excludes replicas without a worker so far.
    "workers": "quantile(0.5, sum by (instance) (watchdog_workers{$F}) > 0)",
    "capacity": f"quantile(0.5, {_CAPACITY}{{$F}} >= 0)",
}
"""Query of what the watchdogs of one function have learned, by ``size``."""


def fill(
    texts: Mapping[str, str],
    rate_window: float,
    window: float = 0.0,
    *,
    functions: str = ANY,
    identity: str = "",
    **more: str,
) -> dict[str, str]:
    """Return the texts with windows (seconds), a matcher of functions and other values filled in.

    ``identity`` is that of the autoscaler whose exports are read.

    Raises ``KeyError`` if a value is missing.
    """
    counted = rate_window / MIN_SCRAPES * EXPECTED
    spans = {
        "W": window,
        "R": rate_window,
        "N": rate_window * NEWEST,
        "O": rate_window / 2,
        "H": REMEMBERED,
        "M": counted,
        "L": counted * COUNTED,
    }
    values = {name: f"{round(seconds * 1000)}ms" for name, seconds in spans.items()}
    values |= {"G": f"{rate_window:g}", "F": functions, "I": _quoted(identity), **more}
    return {name: Template(text).substitute(values) for name, text in texts.items()}


def narrowed(query: str, matchers: Mapping[str, str]) -> str:
    """Return a query of this module whose every selector has these labels: {label: value}."""
    if not matchers:
        return query
    labels = ",".join(f"{label}={_quoted(value)}" for label, value in matchers.items())
    return _SELECTOR.sub(
        lambda part: (
            f"{part['series']}{{{labels}{',' if part['brace'] else '}'}" if part["series"] else part[0]
        ),
        query,
    )


def gateway(slos: GatewaySlos, rate_window: float, window: float) -> dict[str, str]:
    """Return the query of every signal for functions without our watchdog; {} without such functions."""
    if not slos:
        return {}
    chosen = [name for name, slo in slos.named.items() if slo is not None]
    excepted = [name for name, slo in slos.named.items() if slo is None]
    matcher = matching(chosen) if slos.others is None else matching(excepted, but=True)
    attained = {"ATTAINED_W": _attained(slos, "$W"), "ATTAINED_R": _attained(slos, "$R")}
    attained = fill(attained, rate_window, window)
    return fill(GATEWAY, rate_window, window, functions=matcher, **attained)


def arrivals(window: float, slos: GatewaySlos) -> str:
    """Return the query of the arrivals per second over ``window`` seconds, with or without a watchdog."""
    texts = [gateway(slos, window, window), fill(WATCHDOG, window, window)]
    return " or ".join(f"({text['rate']})" for text in texts if text)


def matching(names: Collection[str], *, but: bool = False) -> str:
    """Return a matcher of these functions, or of all others; an exporter may have odd names."""
    among = "|".join(
        re.sub(r"[^A-Za-z0-9_-]", lambda c: "[.]" if c[0] == "." else f"\\\\x{{{ord(c[0]):x}}}", name)
        for name in sorted(names)
    )
    return f'function_name{"!~" if but else "=~"}"{among}"'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _attained(slos: GatewaySlos, span: str) -> str:
    """Return the query of the successes per second below the edge at or above each SLO."""
    groups: dict[float, list[str]] = {}
    for name, slo in slos.named.items():
        if slo is not None:
            groups.setdefault(_edge(slo), []).append(name)
    matchers = [(edge, matching(names)) for edge, names in sorted(groups.items())]
    if slos.others is not None:
        matchers.append((_edge(slos.others), matching(list(slos.named), but=True)))
    chosen = [f'le=~"{_le(edge)}",{who}' for edge, who in matchers]
    bucket = "gateway_functions_seconds_bucket"
    return " or ".join(
        f"({_rate(f'{bucket}{{{_SUCCESS},{matcher}}}', span)} or 0 * {_rate(f'{bucket}{{{matcher}}}', span)})"
        for matcher in chosen
    )


def _edge(slo: Slo) -> float:
    return next(edge for edge in GATEWAY_EDGES if slo.latency <= edge)


def _le(edge: float) -> str:
    """Return a matcher for both spellings of an edge: Prometheus 3 writes 1 as 1.0."""
    if math.isinf(edge):
        return "[+]Inf"
    text = f"{edge:g}"
    return text.replace(".", "[.]") if "." in text else f"{text}([.]0)?"


Points = Sequence[tuple[float, float]]
"""(Unix time, value), ascending."""

Series = tuple[Mapping[str, str], Points]
"""Labels and points; an instant answer has one point. A value may be NaN, infinite or absurd."""


def read(result: object) -> Iterator[Series]:
    """Yield the series of an answer, the ``data.result`` of the query API.

    Raises ``SourceError`` for anything that is neither an instant vector nor a range.
    """
    try:
        if not isinstance(result, list):
            raise TypeError
        # One by one: 10,000 functions have 300,000 series, and most become a number of a dict at once.
        for series in result:
            if "value" in series:
                when, text = series["value"]
                yield series["metric"], ((when, float(text)),)
            else:
                yield series["metric"], [(float(when), float(text)) for when, text in series["values"]]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise SourceError(f"expected series with metric and values, got {str(result)[:80]}") from None


@dataclass(frozen=True, slots=True)
class Firing:
    """An alert that fires."""

    labels: Mapping[str, str]
    since: str
    """When its condition began to hold, ISO 8601 in UTC."""
    value: float
    summary: str
    dashboard_url: str | None
    """None: Prometheus does not know Grafana's address, its external label ``grafana_url``."""


def firing(listed: object, matchers: Mapping[str, str]) -> list[Firing]:
    """Return the alerts of the shipped rules that fire, of those that the API lists.

    An alert with other labels than ``matchers`` is another cluster's. Raises ``SourceError``.
    """
    try:
        if not isinstance(listed, list):
            raise TypeError
        return [
            Firing(
                labels,
                each["activeAt"],
                float(each["value"]),
                (told := each["annotations"]).get("summary", ""),
                url if (url := told.get("dashboard_url", "")).startswith(("https://", "http://")) else None,
            )
            for each in listed
            if each["state"] == "firing"
            and (labels := each["labels"]).get("product") == "tailbound"
            and labels.get("severity") in ("page", "ticket")
            and all(labels.get(name, value) == value for name, value in matchers.items())
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise SourceError(f"expected alerts with labels and values, got {str(listed)[:80]}") from None


def signals(series: Iterable[Series]) -> dict[str, float]:
    """Return {function_name: value} for the gate; "" for a series without it. NaN is no value."""
    # The same object in each answer: no comparison of names reads them.
    return {
        intern(labels.get(FUNCTION_LABEL, "")): value
        for labels, points in series
        if points and not math.isnan(value := points[-1][1])
    }


def values(series: Iterable[Series], label: str = FUNCTION_LABEL) -> dict[str, float]:
    """Return {value of the label: sensible value}; "" for a series without it. No data is never zero."""
    return {
        labels.get(label, ""): points[-1][1]
        for labels, points in series
        if points and sensible(points[-1][1])
    }


def ranges(series: Iterable[Series]) -> dict[str, Points]:
    """Return {function_name: the sensible points}; "" for a series without it."""
    return {
        labels.get(FUNCTION_LABEL, ""): [point for point in points if sensible(point[1])]
        for labels, points in series
    }


def jobs(series: Iterable[Series]) -> set[str]:
    """Return the jobs of the series."""
    return {labels["job"] for labels, _ in series if labels.get("job")}


def clusters(series: Iterable[Series]) -> dict[str, dict[str, set[str]]]:
    """Return {function_name: {label of ``CLUSTERS``: its values}} for the labels that have several."""
    labels_of: dict[str, dict[str, set[str]]] = {}
    for labels, _ in series:
        of_function = labels_of.setdefault(labels.get(FUNCTION_LABEL, ""), {})
        for label in CLUSTERS:
            of_function.setdefault(label, set()).add(labels.get(label, ""))
    return {
        name: {label: values for label, values in of_function.items() if len(values) > 1}
        for name, of_function in labels_of.items()
    }


def places(series: Iterable[Series]) -> list[tuple[str, str]]:
    """Return (address, function_name) of each series that has both."""
    pairs = [(labels.get("instance", ""), labels.get(FUNCTION_LABEL, "")) for labels, _ in series]
    return [(address, name) for address, name in pairs if address and name]
