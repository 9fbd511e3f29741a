"""Reasons and numbers as text, for log, page and terminal. [P]

Owns how many digits a number is worth, that one which is not known is a dash, and the sentence of a decision.
A reason without a sentence of its own is still told, by its name and numbers.
"""

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

NOTHING: Final = "\N{EN DASH}"
"""For what is not known."""

TARGET_DIGITS: Final = 4


def seconds(value: float | None) -> str:
    """Return a duration: ``142 ms``, ``87 ms``, ``3.4 ms``, ``1.25 s``."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if abs(value) >= 0.9995:
        return f"{_digits(value, 3)} s"
    return f"{_digits(value * 1000, 2 if abs(value) < 0.0995 else 3)} ms"


def share(value: float | None) -> str:
    """Return a share as it stands in a sentence: ``99.4 %``, ``99 %``; 100 only if nothing is missing."""
    text = attained(value)
    return f"{text[:-2].rstrip('0').rstrip('.')} %" if "." in text else text


def attained(value: float | None) -> str:
    """Return a share as it stands in a column: ``99.40 %``, and ``100 %`` only if nothing is missing."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value * 100:.2f}"
    if text == "100.00":
        text = "100" if value >= 1.0 else "99.99"
    return f"{text} %"


def budget(value: float | None) -> str:
    """Return what is left of an error budget: whole per cent, and below zero what is overspent."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{round(value * 100):,d} %".replace("-", "\N{MINUS SIGN}")


def factor(value: float | None) -> str:
    """Return a burn rate: ``0.03``, ``4.7``, ``14.4``, ``120``."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.2f}" if 0.0 < value < 0.995 else _digits(value, 2 if value < 10 else 3)


def per_second(value: float | None) -> str:
    """Return a rate of requests: ``53/s``."""
    return NOTHING if value is None or not math.isfinite(value) else f"{_digits(value, 3)}/s"


def count(value: float | None) -> str:
    """Return a whole number: ``1,204``."""
    return NOTHING if value is None or not math.isfinite(value) else f"{round(value):,d}"


def target(latency: float | None, objective: float | None) -> str:
    """Return an SLO in short: ``99 % ≤ 200 ms``."""
    if latency is None or objective is None:
        return NOTHING
    return f"{objective * 100:.{TARGET_DIGITS}g} % ≤ {seconds(latency)}"


def _digits(value: float, digits: int) -> str:
    """Return ``value`` with so many significant digits, all of those before the point, and no exponent."""
    if value == 0.0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


SENTENCES: Final[Mapping[str, tuple[str, ...]]] = {
    "Disabled": ("its label com.tailbound.autoscale is false",),
    "ScaledToZero": ("it is at 0 replicas, which only a request or a person undoes",),
    "NoData": ("there is no usable data", "the newest sample is {age} old"),
    "NotManaged": ("Prometheus has no SLO for it",),
    "TooFewSamples": (
        "there are too few requests to act on",
        "{samples} in the window",
        "{in_flight} in flight",
    ),
    "PartialData": (
        "not all replicas are seen, so the low load may be an illusion",
        "{up_replicas} of {ready} are",
    ),
    "DesiredWithinRange": (
        "the count is right",
        "{forecast} requests/s forecast {horizon} ahead against {ready} x {capacity}/s",
    ),
    "WithinTolerance": ("the count is as good as the one that is wanted", "that is {recommended}"),
    "Settling": ("replicas are starting, or the window still holds the time before they served",),
    "CoolingDown": ("the last change was too short a while ago", "{recommended} are wanted"),
    "ScaleDownStabilized": (
        "more was recommended within the stabilization window",
        "{recommended} would do now",
    ),
    "ScaleDownUnsafe": (
        "the SLO is missed, or would be with fewer",
        "{recommended} are wanted",
        "{forecast} requests/s forecast {horizon} ahead",
        "{capacity}/s for each replica",
    ),
    "AtMaximum": ("more is needed than the maximum", "{recommended} are wanted", "{max} is the most"),
    "PlatformCap": (
        "the platform does not give more",
        "{recommended} are wanted",
        "asked for {asked}",
        "granted {granted}",
    ),
    "MoreReplicasWillNotHelp": (
        "more replicas will not help",
        "one request alone takes {service_time_single} of {slo_latency}",
        "a batch takes {service_mean}, usually {service_time_baseline}",
        "waiting for a worker {queue_mean}",
    ),
    "LoadAboveCapacity": (
        "load above capacity",
        "{forecast} requests/s forecast {horizon} ahead against {ready} x {capacity}/s",
    ),
    "Backlog": (
        "what has piled up must be worked off",
        "{in_flight} in flight",
        "{queue_length} of them queued",
        "{ready} x {capacity}/s to do it",
    ),
    "RecentPeak": (
        "misses at a load that comes again: ready for the recent peak",
        "it comes every {peak_every}",
        "{standing} requests/s must be served at once",
        "{ready} x {capacity}/s",
    ),
    "SloMissed": ("the SLO is missed although the model says that there is room",),
    "BurnRate": (
        "the error budget burns too fast to wait for the sizing",
        "{burn} times as fast as it may",
        "{burn_short} times most recently",
    ),
    "LatencyAboveTarget": ("latency is above its target",),
    "BelowMinimum": ("there were fewer than the minimum", "that is {min}"),
    "LoadBelowCapacity": (
        "load below capacity",
        "{forecast} requests/s forecast {horizon} ahead",
        "{capacity}/s for each replica",
    ),
    "LatencyBelowTarget": ("latency is well below its target",),
    "NoTraffic": ("nothing comes in",),
    "AboveMaximum": ("there were more than the maximum", "that is {max}"),
    "Idle": ("nothing has come in for long enough to do without a replica",),
    "BudgetLow": ("too little of the error budget is left to risk fewer", "{recommended} are wanted"),
}
"""Reason -> clauses. The first has no numbers; the others are told if all their numbers are known."""

FACTS: Final = (
    "p99 {p99} of {slo_latency}",
    "{attainment} within the SLO of {slo_objective}",
    "burn rate {burn}",
    "{budget} of the error budget left",
    "{pending} of {desired} replicas starting",
    "capacity counted at {correction}",
)
"""What is told after every reason, as far as it is known."""

_SECONDS: Final = {
    *("age", "horizon", "peak_every", "p50", "p95", "p99", "slo_latency"),
    *("queue_mean", "service_mean", "service_time_single", "service_time_baseline"),
}
_SHARES: Final = {"attainment", "budget", "correction", "slo_objective"}
_NAME: Final = re.compile(r"\{(\w+)\}")


def sentence(decision: Mapping[str, Any], *, with_date: bool = False) -> str:
    """Return what was decided, when and why; ``decision`` is one object of the decision log."""
    at = _moment(decision["time"], with_date=with_date)
    repeats = decision.get("repeats") or 0
    if repeats and decision.get("until"):
        at += f" to {_moment(decision['until'], with_date=with_date)}"
    times = f", {repeats + 1} times over" if repeats else ""
    numbers = _numbers(decision.get("inputs") or {})
    first, *others = SENTENCES.get(decision["reason"], (decision["reason"],))
    told = _told(others, numbers)
    if decision["reason"] == "NoData" and "age" in numbers and "rate" not in numbers:
        # Else a function that has just started would be told of by the age of a sample that is fresh.
        told.append("no rate of requests is known yet")
    why = ", ".join(told)
    facts = "; ".join(_told(FACTS, numbers))
    return f"{at} {_deed(decision)}{times}: {first}{': ' if why else ''}{why}{'; ' if facts else ''}{facts}"


def score(function_name: str, numbers: Mapping[str, float]) -> str:
    """Return how a shadow and the incumbent have done so far."""
    requests = numbers["requests"]
    if not numbers["seconds"]:
        return f"{function_name}: nothing could be scored yet"

    def world(who: str) -> str:
        share = f"{100 * numbers[f'attained_{who}'] / requests:.2f} %" if requests else "no request"
        return f"{share} within the SLO for {numbers[f'replica_seconds_{who}']:,.0f} replica-seconds"

    return (
        f"{function_name}, over {numbers['seconds']:,.0f} s and {requests:,.0f} requests:"
        f" incumbent {world('incumbent')}; shadow, as predicted, {world('shadow')}"
    )


def _deed(decision: Mapping[str, Any]) -> str:
    name, before, after = decision["function_name"], decision["from"], decision["to"]
    mode = decision.get("mode", "active")
    if mode == "shadow":
        there = f" ({decision['incumbent']} are really there)" if "incumbent" in decision else ""
        did = f"held {name} at {before}" if before == after else f"scaled {name} from {before} to {after}"
        return f"the shadow {did}{there}"
    if before == after:
        return f"{'on standby, ' if mode == 'standby' else ''}held {name} at {before}"
    if mode == "standby":
        return f"on standby, would have scaled {name} from {before} to {after}"
    return f"{'would have scaled' if decision.get('dry_run') else 'scaled'} {name} from {before} to {after}"


def _told(clauses: Iterable[str], numbers: Mapping[str, str]) -> list[str]:
    return [
        clause.format_map(numbers)
        for clause in clauses
        if all(name in numbers for name in _NAME.findall(clause))
    ]


def _numbers(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return the inputs as text, without those that are no data or say that nothing is special."""
    known = {key: value for key, value in inputs.items() if isinstance(value, int | float)}
    if "available" in known:
        known.setdefault("ready", known["available"])
    if "desired" in known and "ready" in known:
        known.setdefault("pending", max(0, known["desired"] - known["ready"]))
    if not known.get("pending"):
        known.pop("pending", None)
    if known.get("correction", 1.0) > 0.995:
        known.pop("correction", None)
    return {key: _input(key, value) for key, value in known.items()}


def _input(key: str, value: float) -> str:
    if key in _SECONDS:
        return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    if key in _SHARES:
        return f"{value * 100:.4g} %"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _moment(text: str, *, with_date: bool) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S" if with_date else "%H:%M:%S")
