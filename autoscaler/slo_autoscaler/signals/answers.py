"""Turns the answers to ``queries`` into observations, history and advice. [P]"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from slo_autoscaler.settings.fields import MOST_FAULTS
from slo_autoscaler.settings.spec import GatewaySlos
from slo_autoscaler.signals.gate import admitted
from slo_autoscaler.signals.queries import GATEWAY_PAGES, Points, matching
from slo_autoscaler.signals.record import SIGNALS, Observation, Recorded, Summed
from slo_autoscaler.signals.source import MIN_AGE_SCRAPES, MIN_SCRAPES, Earlier

SCRAPE_TOLERANCE: Final = 1.25
"""Factor by which the interval may differ: the window of four scrapes then still holds three."""

LONGEST_VALUE: Final = 60
"""Characters of a label's value that a message shows."""

Answers = Mapping[str, Mapping[str, float]]
"""{signal: {function_name: value}}"""


@dataclass(frozen=True, slots=True)
class Corrections:
    """Functions whose signals need other queries, or a division by the jobs that scrape them."""

    corrected: frozenset[str] = frozenset()
    """Functions to query ``queries.NEW`` for."""
    scrapes: Mapping[str, float] = field(default_factory=dict)
    """Function, or ``GATEWAY_PAGES``, to the jobs that scrape each of its pages, where these are several."""

    @classmethod
    def of(cls, answer: Mapping[str, float]) -> Self:
        """Read the answer to ``CORRECTIONS``. One query has both, because some services bill each.

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

    def once(self, answers: Answers, *, watchdog: bool) -> Answers:
        """Return the answers as if one job scraped each page."""
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
        series = f"process_start_time_seconds{{{matching([name])}}}"
        return f"group by (job) ({'gateway_service_count' if name == GATEWAY_PAGES else series})"

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


def observations(answers: Answers) -> dict[str, Observation]:
    """Return {function_name: Observation} of every function in an answer, through the gate."""
    names = sorted(set[str]().union(*answers.values()) - {""})
    columns = [map(answers.get(signal, {}).get, names) for signal in SIGNALS]
    return {name: admitted(Observation(*values)) for name, *values in zip(names, *columns, strict=True)}


def gateway_observations(answers: Answers, slos: GatewaySlos) -> dict[str, Observation]:
    """Return the observations of functions without our watchdog, with the configured SLOs."""
    seen: dict[str, Observation] = {}
    for name, observation in observations(answers).items():
        slo = slos.of(name)
        if slo is None:
            continue
        # The query gave the share within the SLO; of two counters, so it may be a little more than all.
        short = observation.burn_short
        burn = None if short is None else max(0.0, 1.0 - short) / (1.0 - slo.objective)
        seen[name] = replace(
            observation, slo_latency=slo.latency, slo_objective=slo.objective, burn_short=burn
        )
    return seen


def recorded(ranges: Mapping[str, Mapping[str, Points]], now: float) -> dict[str, Recorded]:
    """Turn {field of ``Recorded``: {function_name: points}} into {function_name: Recorded}."""
    names = {name for values in ranges.values() for name in values}
    return {
        name: Recorded(
            **{
                field: tuple((now - when, value) for when, value in values[name])
                for field, values in ranges.items()
                if name in values
            }
        )
        for name in sorted(names)
    }


def earlier(ranges: Mapping[float, tuple[float, Mapping[str, Points]]]) -> dict[str, dict[float, Earlier]]:
    """Turn {age: (the moment then, {function_name: points})} into {function_name: {age: rates}}.

    The result counts seconds from that moment. An age without rates is left out.
    """
    rates: dict[str, dict[float, Earlier]] = {}
    for age, (moment, functions) in ranges.items():
        for name, points in functions.items():
            if points:
                rates.setdefault(name, {})[age] = tuple((when - moment, rate) for when, rate in points)
    return rates


def cluster_advice(clusters: Mapping[str, Mapping[str, Collection[str]]]) -> str | None:
    """Return the setting to change if functions come from several clusters; None if none does.

    ``clusters`` is {function_name: {label: its values}}, of the functions that do.
    """
    if not clusters:
        return None
    name, more = min(clusters), len(clusters) - 1
    label, values = min(clusters[name].items())
    others = f" and {more} more" if more else ""
    return (
        f"Prometheus has series of {name}{others} with several values of {label}"
        f" ({_shown(sorted(values))}): their requests are added up;"
        f" set prometheus.matchers to this cluster's, such as {{{label}: {max(values)[:LONGEST_VALUE]}}}"
    )


def _shown(values: Sequence[str]) -> str:
    """Return the first few values in short: a function's page may give thousands of any length."""
    more = [f"and {len(values) - MOST_FAULTS} more"] if len(values) > MOST_FAULTS else []
    return ", ".join([*(repr(value[:LONGEST_VALUE]) for value in values[:MOST_FAULTS]), *more])


def leader_advice(leaders: Mapping[str, float]) -> str | None:
    """Return the functions that several autoscalers size, {function_name: their number}; None: none is."""
    if not leaders:
        return None
    name, more = min(leaders), len(leaders) - 1
    others = f" and {more} more" if more else ""
    return (
        f"{leaders[name]:.0f} autoscalers size {name}{others}: give all but one other namespaces, or the same"
        " leader.lease, or the mode shadow"
    )


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
