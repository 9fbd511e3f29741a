"""Formats reasons and numbers as text, for log, page and terminal. [P]

Owns the number of digits, the dash for an unknown number, the sentence of a decision, and the columns of the
table of functions. A reason without a sentence is shown by its name and numbers.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from slo_autoscaler.law.boost import Boost
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Reason
from slo_autoscaler.signals.record import DERIVED, INPUTS, SIGNALS, Unit

NOTHING: Final = "\N{EN DASH}"
"""Text for an unknown number."""

TARGET_DIGITS: Final = 4

LEAST_SHARE: Final = 1e-5
"""Smallest share with its own text; below it the text is ``<0.001%``."""

AS_PREDICTED: Final = 1.1
"""Largest correction of a capacity, in either direction, that texts leave out."""

SECONDS_OF_A_DAY: Final = 86_400


def seconds(value: float | None) -> str:
    """Return a duration: ``142 ms``, ``87 ms``, ``3.4 ms``, ``1.25 s``."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if abs(value) >= 0.9995:
        return f"{_digits(value, 3)} s"
    return f"{_digits(value * 1000, 2 if abs(value) < 0.0995 else 3)} ms"


def share(value: float | None) -> str:
    """Return a share for a sentence: ``99.4%``, ``0.085%``; ``100%`` only for exactly 1."""
    if value is not None and abs(value) < 0.5:
        if 0.0 < abs(value) < LEAST_SHARE:
            return f"<{100 * LEAST_SHARE:g}%"
        return f"{_digits(value * 100, 2)}%".replace("-", "\N{MINUS SIGN}")
    text = attained(value).replace("-", "\N{MINUS SIGN}")
    return f"{text[:-1].rstrip('0').rstrip('.')}%" if "." in text else text


def attained(value: float | None) -> str:
    """Return a share for a column: ``99.40%``; ``100%`` only for exactly 1."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value * 100:.2f}"
    if text == "100.00":
        text = "100" if value >= 1.0 else "99.99"
    return f"{text}%"


def budget(value: float | None) -> str:
    """Return the rest of an error budget in whole per cent, below zero if overspent."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{round(value * 100):,d}%".replace("-", "\N{MINUS SIGN}")


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


def numbered(value: int, noun: str) -> str:
    """Return a number of things: ``1 replica``, ``1,204 replicas``."""
    return f"{value:,d} {noun}{'' if value == 1 else 's'}"


def clock_time(value: float | None) -> str:
    """Return the time of day, in UTC, of a Unix time: ``12:03:05``."""
    if value is None or not math.isfinite(value):
        return NOTHING
    hours, seconds_ = divmod(int(value) % SECONDS_OF_A_DAY, 3600)
    return f"{hours:02d}:{seconds_ // 60:02d}:{seconds_ % 60:02d}"


def target(latency: float | None, objective: float | None) -> str:
    """Return an SLO in short: ``99% ≤ 200 ms``."""
    if latency is None or objective is None:
        return NOTHING
    return f"{objective * 100:.{TARGET_DIGITS}g}% ≤ {seconds(latency)}"


def _digits(value: float, digits: int) -> str:
    """Return ``value`` with ``digits`` significant digits, all digits before the point, and no exponent."""
    if value == 0.0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


STATES: Final[Mapping[str, str]] = {
    "missed": "missed",
    "no_data": "no data",
    "insufficient_data": "insufficient data",
    "no_slo": "no SLO",
    "no_traffic": "no traffic",
    "met": "met",
}
"""State of an SLO -> its label, in descending order of urgency."""

DEFAULT_SORT: Final = "state"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table; ``key`` is that of its cell in ``display``."""

    key: str
    title: str
    hint: str
    numeric: bool = True
    minor: bool = False
    """Whether narrow tables leave it out."""


COLUMNS: Final = (
    Column("function", "Function", "name.namespace", numeric=False),
    Column("state", "SLO", "whether the SLO is met in the autoscaler's window", numeric=False),
    Column(
        "target", "Target", "share of all requests that must be within a latency", numeric=False, minor=True
    ),
    Column("attainment", "Attained", "share of all requests within the target, in the window", minor=True),
    Column("budget_remaining", "Budget", "unspent share of the error budget of 30 days"),
    Column(
        "burn_rate", "Burn", "rate at which the error budget is spent: 1 spends it in 30 days", minor=True
    ),
    Column("p95", "p95", "latency of successes, of streams to the first piece", minor=True),
    Column(
        "p99", "p99", "latency of successes, of streams to the first piece; sorted by its share of the target"
    ),
    Column("predicted", "Late", "share of requests predicted to end late / allowed to, now", minor=True),
    Column("replicas", "Replicas", "serving / target / maximum"),
    Column("mode", "Mode", "active, recommend, shadow, off or standby", numeric=False, minor=True),
    Column("last", "Last decision", "the newest decision and its reason", numeric=False),
)

PREDICTION: Final = tuple(
    Column(name, signal.title, signal.meaning) for name, signal in INPUTS.items() if signal.title
)
"""Numbers of the prediction on a function's page; unknown ones are left out."""

SORTS: Final = tuple(column.key for column in COLUMNS)
"""Sort keys of rows; a leading - reverses the order."""

FACTS: Final = tuple(signal.clause for signal in {**SIGNALS, **DERIVED}.values() if signal.clause)
"""Clauses after every reason; a clause with an unknown number is left out."""

_NAME: Final = re.compile(r"\{(\w+)\}")


def number(name: str, value: float | None) -> str:
    """Return an input of a decision with its unit; an unknown name gives the plain number."""
    signal = INPUTS.get(name)
    if value is None:
        return NOTHING
    return _FORMS[signal.unit](value) if signal is not None else _digits(value, 6)


def clauses(reason: str) -> tuple[str, ...]:
    """Return the clauses of a reason; for one that this version does not know, its name."""
    return Reason(reason).clauses if reason in set(Reason) else (reason,)


def sentence(decision: Mapping[str, Any], *, with_date: bool = False) -> str:
    """Return time, result and reason of a decision, one object of the decision log, as a sentence."""
    at = _moment(decision["time"], with_date=with_date)
    repeats = decision.get("repeats") or 0
    if repeats and decision.get("until"):
        at += f" to {_moment(decision['until'], with_date=with_date)}"
    times = f", {repeats + 1} times over" if repeats else ""
    return f"{at} {_deed(decision)}{times}: {_why(decision)}"


def change(decision: Mapping[str, Any]) -> str:
    """Return result and reason of a decision that was just made, as a line of the log."""
    return f"{_deed(decision)}: {_why(decision)}"


def _why(decision: Mapping[str, Any]) -> str:
    numbers = _counts(decision["to"]) | _numbers(decision.get("inputs") or {})
    first, *others = clauses(decision["reason"])
    told = _told(others, numbers)
    if decision["reason"] == "NoData":
        told.append(decision.get("cause") or _no_data(decision.get("inputs") or {}))
    detail, shortage = (filter(None, [decision.get(key)]) for key in ("detail", "shortage"))
    failed = ["a new version does not start"] if decision.get("rollout_failed") else []
    parts = [first, *detail, *told, *_told(FACTS, numbers), *shortage, *failed]
    return "; ".join(parts)


def score(function_name: str, numbers: Mapping[str, float]) -> str:
    """Return the scores of a shadow and the incumbent as a sentence."""
    requests = numbers["requests"]
    if not numbers["seconds"]:
        return f"{function_name}: no interval was scored yet"

    def world(who: str) -> str:
        share = f"{100 * numbers[f'attained_{who}'] / requests:.2f}% within the SLO for " if requests else ""
        return f"{share}{numbers[f'replica_seconds_{who}']:,.0f} replica-seconds"

    return (
        f"{function_name}, over {numbers['seconds']:,.0f} s and {requests:,.0f} requests:"
        f" incumbent {world('incumbent')}; shadow, as predicted, {world('shadow')}"
    )


def boosted(boost: Boost, start_up: float) -> str:
    """Return a boost as a sentence; ``start_up`` is the seconds until requested replicas serve at most."""
    counts = f"{numbered(boost.needed, 'replica')} needed, {boost.serving} serve, {boost.starting} start"
    if boost.factor <= 1.0:
        return f"nominal CPU: {counts}"
    alone = f"for {seconds(TUNING.boost_alone)}, or as long as more are needed"
    end = f"for at most {seconds(start_up)}" if boost.starting else alone
    return f"boosted to {factor(boost.factor)} x CPU {end}: {counts}"


def boosting(starts: int, refusal: str) -> str:
    """Return the replicas that start boosted, and why a boost was refused; empty: nothing to say."""
    start = f"boosted start of {numbered(starts, 'replica')}" if starts else ""
    refused = f"a boost was refused: {refusal}" if refusal else ""
    return "; ".join(filter(None, (start, refused)))


def _no_data(inputs: Mapping[str, Any]) -> str:
    """Return which of the numbers that a decision needs is missing; the sample's age alone is no cause."""
    if inputs.get("sample_age") is None:
        return "Prometheus has no sample with its function_name: check the scrape job and the labels"
    if inputs.get("arrival_rate") is None:
        return "the rate of requests is not known yet"
    if not inputs.get("up_replicas"):
        return "Prometheus reaches none of its replicas"
    return "that is older than prometheus.max_age"


def _deed(decision: Mapping[str, Any]) -> str:
    """Return what was decided; whether the platform follows is not known then."""
    name, before, after = decision["function_name"], decision["from"], decision["to"]
    mode = decision.get("mode", "active")
    held, changed = f"held {name} at {before}", f"{numbered(after, 'replica')} of {name}, now {before}"
    if mode == "shadow":
        there = f" (really {decision['incumbent']})" if "incumbent" in decision else ""
        return f"the shadow {held if before == after else f'has {changed}'}{there}"
    if before == after:
        return f"{'on standby, ' if mode == 'standby' else ''}{held}"
    did = {"standby": "on standby, would have requested", "recommend": "recommended"}.get(mode, "requested")
    return f"{did} {changed}"


def _told(clauses: Iterable[str], numbers: Mapping[str, str]) -> list[str]:
    return [
        clause.format_map(numbers)
        for clause in clauses
        if all(name in numbers for name in _NAME.findall(clause))
    ]


def _numbers(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return the inputs as text, without unknown and unremarkable ones."""
    known = {key: value for key, value in inputs.items() if isinstance(value, int | float)}
    if "desired" in known and "ready" in known:
        known.setdefault("pending", max(0, known["desired"] - known["ready"]))
    if not known.get("pending"):
        known.pop("pending", None)
    for count_ in ("stuck", "unschedulable"):
        if not known.get(count_):
            known.pop(count_, None)
    if known.get("boost") == 1.0:
        known.pop("boost")
    if 1.0 / AS_PREDICTED <= known.get("correction", 1.0) <= AS_PREDICTED:
        known.pop("correction", None)
    p99_of = "first piece p99" if "slo_interval" in known else "p99"
    return {key: number(key, value) for key, value in known.items()} | {"p99_of": p99_of}


def _counts(replicas: int) -> dict[str, str]:
    """Return the decided count and its neighbors, for clauses that compare them."""
    counts = {
        "count": numbered(replicas, "replica"),
        "count_more": count(replicas + 1),
    }
    # With none, all are late.
    return counts | ({"count_fewer": count(replicas - 1)} if replicas > 1 else {})


def _moment(text: str, *, with_date: bool) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S" if with_date else "%H:%M:%S")


_FORMS: Final[Mapping[Unit, Callable[[float], str]]] = {
    Unit.SECONDS: seconds,
    Unit.RATE: per_second,
    Unit.COUNT: count,
    Unit.SHARE: share,
    Unit.FACTOR: factor,
    Unit.TIME: clock_time,
}
