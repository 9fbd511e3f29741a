"""``slo-autoscaler explain FUNCTION``: the last decisions as sentences.

Owns the words. Decisions come from the autoscaler that runs (its /decisions), or from a decision log. A
reason without a sentence of its own is still told, by its name and numbers.

Exit statuses: 0 told; 1 nothing is known of the function, or the autoscaler does not answer; 2 the command
line, the configuration or the log cannot be used.
"""

import argparse
import json
import os
import re
import shutil
import sys
import textwrap
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from slo_autoscaler.config import OVERRIDES, Config
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.journal import DEFAULT_LAST, named, of_log

TIMEOUT: Final = 10.0
"""Seconds that the autoscaler may take to answer."""

NARROWEST: Final = 40
"""Columns of a terminal for which lines are broken."""

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


def of_lines(lines: Iterable[str], wanted: str, last: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the last decisions of a log for ``wanted``, and names spelled alike when there are none."""
    found: dict[str, deque[dict[str, Any]]] = {}
    for line in lines:
        decision = of_log(line)
        if decision is not None:
            found.setdefault(decision["function_name"], deque(maxlen=last)).append(decision)
    names, near = named(wanted, sorted(found))
    return [decision for name in names for decision in found[name]], near


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    flags = _parser().parse_args(arguments)
    try:
        if flags.log is not None:
            return _tell(*_from_log(flags.log, flags.function, flags.last), flags.function)
        found = _asked(flags.url or _own_url(flags.config), flags.function, flags.last)
    except ConfigError as error:
        for line in error.lines:
            _complain(line)
        return 2
    if isinstance(found, str):
        _complain(found)
        return 1
    decisions = [decision for answer in found for decision in answer["decisions"]]
    status = _tell(decisions, [], flags.function)
    for answer in found:
        if "score" in answer:
            _say(score(answer["function_name"], answer["score"]))
    return status


def _tell(decisions: Sequence[Mapping[str, Any]], near: Sequence[str], function: str) -> int:
    if not decisions:
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        _complain(f"no decisions for {function!r}{hint}")
        return 1
    several_days = len({str(decision["time"])[:10] for decision in decisions}) > 1
    for decision in decisions:
        _say(sentence(decision, with_date=several_days))
    return 0


def _from_log(path: str, function: str, last: int) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        if path == "-":
            return of_lines(sys.stdin, function, last)
        with Path(path).open(encoding="utf-8", errors="replace") as lines:
            return of_lines(lines, function, last)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            [f"--log: {path}: cannot be read: {getattr(error, 'strerror', 'not text')}"]
        ) from None


def _own_url(config: str | None) -> str:
    """Return where the autoscaler of this machine serves, by its configuration or the default."""
    key, variable = OVERRIDES["web_port"]
    port = os.environ.get(variable)
    # Only its web section is wanted here; the two URLs that must be set may come from elsewhere.
    overrides: dict[str, object] = {"platform.gateway_url": "http://-", "prometheus.url": "http://-"}
    if port:
        overrides[key] = port
    try:
        text = "" if config is None else Path(config).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{config}: cannot be read: {getattr(error, 'strerror', 'not text')}"]) from None
    web = Config.parse(text, config or "environment", overrides).web
    if web.port == 0:
        raise ConfigError([f"{config}: web.port: 0 is any port: give the one of the log with --url"])
    host = "127.0.0.1" if web.host in ("0.0.0.0", "") else web.host  # noqa: S104  (a comparison)
    return f"http://{f'[{host}]' if ':' in host else host}:{web.port}"


def _asked(url: str, function: str, last: int) -> list[dict[str, Any]] | str:
    """Return what the running autoscaler says, or what is to be complained of."""
    if not url.startswith(("http://", "https://")):
        raise ConfigError([f"--url: {url!r} must be an http:// or https:// URL"])
    address = f"{url.rstrip('/')}/decisions?{urlencode({'function': function, 'last': last})}"
    try:
        document = _fetched(address)
    except URLError as error:
        return f"{url}: the autoscaler does not answer: {error.reason}"
    except (HTTPException, OSError, ValueError) as error:
        return f"{url}: no answer that makes sense, is this its web port? {error}"
    if isinstance(document, dict) and isinstance(document.get("found"), list):
        return list(document["found"])
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        return str(document["error"])
    return f"{url}: no answer that makes sense, is this its web port? {str(document)[:80]}"


def _fetched(address: str) -> object:
    """Return the JSON of an answer, whatever its status."""
    try:
        answer = urlopen(address, timeout=TIMEOUT)  # noqa: S310  (only http and https come here)
    except HTTPError as error:
        answer = error
    with answer:
        return json.load(answer)


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
    return {key: _shown(key, value) for key, value in known.items()}


def _shown(key: str, value: float) -> str:
    if key in _SECONDS:
        return f"{value * 1000:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    if key in _SHARES:
        return f"{value * 100:.4g} %"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _moment(text: str, *, with_date: bool) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S" if with_date else "%H:%M:%S")


def _say(text: str) -> None:
    """Write a line; a terminal gets it broken between words, a pipe whole."""
    if sys.stdout.isatty():
        width = max(shutil.get_terminal_size().columns, NARROWEST)
        text = textwrap.fill(text, width, subsequent_indent="    ", break_on_hyphens=False)
    sys.stdout.write(text + "\n")


def _complain(line: str) -> None:
    sys.stderr.write(f"slo-autoscaler: {line}\n")


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slo-autoscaler explain",
        description="Says in sentences what was decided for a function, and why. Times are UTC.",
    )
    parser.add_argument("function", metavar="FUNCTION", help="name.namespace, or the name alone")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--url", help="of the running autoscaler's web port [http://127.0.0.1:8082]")
    source.add_argument("--config", metavar="FILE", help="its configuration, for the port")
    source.add_argument("--log", metavar="FILE", help="a decision log instead; - is the standard input")
    parser.add_argument(
        "--last", type=_whole, default=DEFAULT_LAST, metavar="N", help=f"how many [{DEFAULT_LAST}]"
    )
    return parser
