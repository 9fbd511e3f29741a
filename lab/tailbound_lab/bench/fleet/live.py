"""``bench live``: one real bursty trace, under our autoscaler and under OpenFaaS CE's scaling.

Each run has its own platform and Prometheus, and the machine for itself. Function, batching and arrivals are
the same; only the scaler differs. Results go to build/bench/live.json, with all inputs of ``validate``; with
``--kill-prometheus`` a single run of ours goes to live-prometheus-killed.json.
"""

import argparse
import asyncio
import contextlib
import json
import math
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import aiohttp
import uvloop

from slo_autoscaler.config import Config
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.fields import parse_duration
from tailbound_lab.bench import page
from tailbound_lab.bench.fleet.plays import code
from tailbound_lab.bench.workloads import ROOT
from tailbound_lab.live.session import Companion, offered, ready, without_full_collections
from tailbound_lab.live.twins import CommunityScaler
from tailbound_lab.live.watch import Decision, NoAnswerError, by_function, decisions, get_json
from tailbound_lab.load import records
from tailbound_lab.load.arrivals import Profile, bursty
from tailbound_lab.load.openloop import Lag, Stream, Target
from tailbound_lab.load.records import BenchError, Change, Ledger, Point, RunError
from tailbound_lab.load.sender import sending
from tailbound_lab.local.errors import PlatformError
from tailbound_lab.local.functions import Function
from tailbound_lab.local.platform import Platform, Settings, open_platform
from tailbound_lab.local.services import AUTOSCALER_CONFIG

SECTION: Final = "live"
FUNCTION: Final = "accelerator"
ENVIRONMENT: Final = {"max_batch_size": "2", "device_slowdown": "1"}
"""Batches of two limit one replica, so that this machine can offer the load of several replicas; these are
quick, since bursts are short."""
OURS, COMMUNITY = "ours", "openfaas_ce"
NAMES: Final = {OURS: "Tailbound", COMMUNITY: "OpenFaaS CE"}
FULL_SECONDS, QUICK_SECONDS, SHORTEST_SECONDS = 180.0, 40.0, 2.0
FEWER: Final = 2.3
"""Required factor of fewer violations if OpenFaaS CE's scaling misses the objective."""
_COLORS: Final = {OURS: "#1769aa", COMMUNITY: "#d9822b"}
_COLUMNS: Final = (
    *("scaled by", "within SLO", "violations", "p50, ms", "p99, ms"),
    *("replica-seconds", "max replicas", "changes", "reversals"),
)
_SEEN_LIMIT, _ASK_LIMIT, _BACK_LIMIT, _STOP_GRACE = 30.0, 2.0, 30.0, 2.0
_ROOM_AFTER_KILL: Final = 5.0
_PREDICTED: Final = 'quantile by (size) (0.5, watchdog_service_seconds_predicted{function_name="$NAME"})'
_CAPACITY: Final = 'quantile(0.5, watchdog_capacity_requests_per_second{function_name="$NAME"} >= 0)'
_MEAN: Final = (
    'sum(increase($METRIC_sum{function_name="$NAME"}[$W]))'
    ' / sum(increase($METRIC_count{function_name="$NAME"}[$W]))'
)


class Absence(NamedTuple):
    """Begin and end of Prometheus' outage, in seconds from the beginning."""

    begin: float
    end: float


@dataclass(slots=True)
class Run:
    """One run of the trace: answers, replicas, and decisions."""

    environment: Mapping[str, str]
    """The function's environment, including its SLO."""
    ledger: Ledger
    points: list[Point] = field(default_factory=list)
    absence: Absence | None = None
    changes: Sequence[Change] = ()
    """Changes of the count, from the provider's log."""
    decisions: Sequence[Decision] = ()
    """Decisions from the autoscaler's log, including holds; none under OpenFaaS CE."""
    lag: Lag = field(default_factory=Lag)
    service: Mapping[str, float] = field(default_factory=dict)
    """Learned upper quantile of seconds by batch size."""
    means: Mapping[str, float | None] = field(default_factory=dict)
    """Over the run: ``mean_batch_size``, ``mean_service`` of a batch, and the learned ``capacity``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench live``."""
    add = parser.add_argument
    add("--seconds", type=float, help=f"length of the trace [{FULL_SECONDS:.0f}]")
    add("--quick", action="store_true", help=f"{QUICK_SECONDS:.0f} s, to check that it works")
    add("--seed", type=int, default=1, help="seed of the trace and its arrivals [1]")
    add(
        "--config",
        type=Path,
        default=AUTOSCALER_CONFIG,
        metavar="FILE",
        help="the autoscaler's configuration [lab/autoscaler.yaml]",
    )
    add("--no-baseline", action="store_true", help="run Tailbound alone")
    add(
        "--kill-prometheus",
        type=float,
        metavar="SECONDS",
        help="run Tailbound alone, without Prometheus from the peak on; a scale-down fails the run",
    )
    add("--last", action="store_true", help="show the last results again, without a run")
    page.add_publish(parser)


def main(options: argparse.Namespace, output: Path) -> int:
    """Run; return 0 if every claim holds, 1 if one does not."""
    killing = options.kill_prometheus is not None
    file = output / ("live-prometheus-killed.json" if killing else "live.json")
    if options.last:
        document = page.read(file)
    else:
        seconds = options.seconds or (QUICK_SECONDS if options.quick else FULL_SECONDS)
        if not SHORTEST_SECONDS <= seconds < math.inf:
            raise BenchError(f"--seconds {seconds:g}: must be at least {SHORTEST_SECONDS:g}")
        profile = bursty(seconds, random.Random(options.seed).random)
        planned = _planned_start_up(options.config)
        killed = _absence(profile, options.kill_prometheus) if killing else None
        names = [OURS] if killing or options.no_baseline else [OURS, COMMUNITY]
        runs = {}
        for name in names:
            page.say(f"{NAMES[name]}: {seconds:g} s of traffic")
            folder = output / "live" / name
            # Logs are appended to: what an earlier run left would be read as this one's.
            shutil.rmtree(folder, ignore_errors=True)
            measuring = _measure(name, profile, options.seed, options.config, killed, folder)
            try:
                runs[name] = uvloop.run(measuring)
            except (RunError, PlatformError) as error:
                raise BenchError(f"live: {error}") from error
        document = described(profile, options.seed, runs, options.config.read_text(), planned)
        file.write_text(json.dumps(document, allow_nan=False) + "\n")
    _draw(document, file.with_suffix(".svg"))
    sys.stdout.write(f"{_shown(document)}\n")
    if options.publish:
        files = [output / f"{name}.json" for name in ("live", "live-prometheus-killed")]
        same = {name: document.get(name) for name in ("machine", "code")}
        found = []
        for each in filter(Path.exists, files):
            if run := page.earlier(each, **same):
                found.append((each, run))
            else:
                page.say(f"{each}: of other code or another machine; it is not published")
        page.rewrite(SECTION, lambda folder: _decisive(found, folder))
    return 0 if all(claim["holds"] for claim in document["claims"]) else 1


def described(
    profile: Profile, seed: int, runs: Mapping[str, Run], config: str, planned: float
) -> dict[str, Any]:
    """Return the document of the file; durations are seconds unless the name says otherwise.

    ``config`` is the autoscaler's, as text, and ``planned`` the start-up time in it.
    """
    ours = runs[OURS]
    environment, seconds = ours.environment, profile.duration
    took = records.start_ups(ours.points)
    # A reversal is judged by the longer one: that of the configuration, or the longest that was seen.
    judged = max([planned, *took])
    objective = float(environment["slo_objective"])
    results = {name: _result(run, seconds, judged) for name, run in runs.items()}
    return {
        **page.origin(),
        "code": code(ours=True),
        "function": FUNCTION,
        "environment": dict(environment),
        "seconds": seconds,
        "seed": seed,
        "slo_latency": ours.ledger.slo,
        "slo_objective": objective,
        "workers": int(environment["workers"]),
        "max_batch_size": int(environment["max_batch_size"]),
        "routing": "least-loaded",
        "service": ours.service,
        "start_up": round(median(took), 3) if took else planned,
        "start_ups": [round(each, 3) for each in took],
        "offered": [profile.rate(second + 0.5) for second in range(int(seconds))],
        "arrivals": [round(at, 6) for at in Stream(Target("http://none"), profile, seed).times()],
        "config": config,
        **results,
        "claims": claims(results, start_up=judged, objective=objective, full=seconds >= FULL_SECONDS),
    }


def claims(
    results: Mapping[str, Mapping[str, Any]], *, start_up: float, objective: float, full: bool
) -> list[dict[str, Any]]:
    """Return each claim as text, and whether it holds.

    Violations and cost count only on a full trace: on a short one OpenFaaS CE has hardly begun to scale.
    """
    ours, theirs = results[OURS], results.get(COMMUNITY)
    absent = ours["prometheus_away"]
    found = [(f"no change of direction within {start_up:.1f} s, one start-up time", ours["reversals"] == 0)]
    if absent is not None:
        down = absent["scale_downs_decided"] + absent["scale_downs_done"]
        away = absent["end"] - absent["begin"]
        found.append((f"no scale-down in the {away:.0f} s without Prometheus", down == 0))
    if theirs is not None and full:
        if theirs["attainment"] >= objective:
            found.append(("the objective met, as OpenFaaS CE does", ours["attainment"] >= objective))
        else:
            fewer = theirs["violations"] >= FEWER * ours["violations"]
            found.append((f"at least {FEWER:g} times fewer violations than under OpenFaaS CE", fewer))
        found.append(("at no more replica-seconds", ours["replica_seconds"] <= theirs["replica_seconds"]))
    return [{"claim": words, "holds": holds} for words, holds in found]


def _absence(profile: Profile, seconds: float) -> Absence:
    """Return an outage of ``seconds`` from the highest rate on that leaves room for it."""
    fitting = [
        (rate, -at) for at, rate in profile.points if at + seconds + _ROOM_AFTER_KILL <= profile.duration
    ]
    highest, begin = max(fitting, default=(0.0, 0.0))
    if not (seconds > 0 and highest > profile.points[0][1]):
        raise BenchError(
            f"--kill-prometheus {seconds:g}: no burst in {profile.duration:g} s leaves room for that"
        )
    return Absence(-begin, -begin + seconds)


async def _measure(
    name: str, profile: Profile, seed: int, config: Path, killed: Absence | None, folder: Path
) -> Run:
    settings = Settings(
        port=0,
        prometheus_port=0,
        baseline_rules=name == COMMUNITY,
        with_autoscaler=name == OURS,
        autoscaler_config=config,
        run_dir=folder,
        stop_grace=_STOP_GRACE,
    )
    timeout = aiohttp.ClientTimeout(total=_ASK_LIMIT)
    async with open_platform(settings) as platform, aiohttp.ClientSession(timeout=timeout) as session:
        (function,) = platform.deploy_stack(ROOT / "stack.yml", ENVIRONMENT, only=[FUNCTION])
        await ready(platform)
        await _seen(session, platform, function)
        target = Target(
            f"{platform.gateway_url}/function/{function.spec.full_name}",
            (b"{}",),
            (("Content-Type", "application/json"),),
        )
        with without_full_collections():
            return await _offer(name, Stream(target, profile, seed), killed, platform, function, session)


async def _seen(session: aiohttp.ClientSession, platform: Platform, function: Function) -> None:
    """Return once Prometheus has scraped the function: before, no scaler could act."""
    name, deadline = function.spec.full_name, time.monotonic() + _SEEN_LIMIT
    while time.monotonic() < deadline:
        with contextlib.suppress(NoAnswerError):
            if name in await by_function(session, platform.prometheus_url or "", "slo_latency_seconds"):
                return
        await asyncio.sleep(0.2)
    raise BenchError(f"live: Prometheus has not scraped {name} after {_SEEN_LIMIT:g} s")


async def _offer(
    name: str,
    stream: Stream,
    killed: Absence | None,
    platform: Platform,
    function: Function,
    session: aiohttp.ClientSession,
) -> Run:
    """Offer the traffic while the scaler works; raise an error of a companion."""
    full_name, environment = function.spec.full_name, function.spec.env_vars
    duration, address = stream.profile.duration, platform.prometheus_url or ""
    run = Run(environment, Ledger(parse_duration(environment["slo_latency"])))
    async with sending([stream]) as sender:
        begun = await sender.begun()

        def elapsed() -> float:
            return time.monotonic() - begun

        companions: list[Companion] = [_follow(function, elapsed, run)]
        if name == COMMUNITY:
            companions.append(CommunityScaler(session, address, platform.registry, [function]).run())
        if killed is not None:
            companions.append(_kill(platform, killed, elapsed, run))
        run.lag = await offered(sender, [run.ledger], duration, companions)
    # The logs tell the time of day; the run counts on the monotonic clock.
    wall = datetime.now(UTC) - timedelta(seconds=elapsed())
    run.service, run.means = await _learned(session, address, full_name, duration)
    log = platform.log_dir / full_name / f"{function.spec.name}.log"
    run.changes = records.changes(_lines(log), wall, duration)
    run.decisions = decisions(_lines(platform.log_dir / "autoscaler.log"), wall, duration, holds=True)
    return run


def _lines(log: Path) -> list[str]:
    """Return a log's lines; none without a log."""
    return log.read_text(errors="replace").splitlines() if log.exists() else []


async def _follow(function: Function, elapsed: Callable[[], float], run: Run) -> None:
    while True:
        run.points.append(Point(elapsed(), function.desired, function.available))
        await function.changed()


async def _kill(platform: Platform, killed: Absence, elapsed: Callable[[], float], run: Run) -> None:
    prometheus = platform.prometheus
    if prometheus is None:
        raise BenchError("live: there is no Prometheus to kill")
    await asyncio.sleep(killed.begin - elapsed())
    begin = elapsed()
    await prometheus.stop(0.0)  # at once: a crash gives no grace
    await asyncio.sleep(killed.end - elapsed())
    run.absence = Absence(begin, elapsed())
    await prometheus.start(_BACK_LIMIT)
    await asyncio.Event().wait()


async def _learned(
    session: aiohttp.ClientSession, address: str, name: str, seconds: float
) -> tuple[dict[str, float], dict[str, float | None]]:
    """Return the learned service times by batch size, and means over the run (None if missing)."""

    async def values(query: str, label: str = "") -> dict[str, float]:
        query = query.replace("$NAME", name).replace("$W", f"{max(5, round(seconds))}s")
        try:
            document = await get_json(session, f"{address}/api/v1/query", {"query": query})
            found = {
                str(series["metric"].get(label, "")): float(series["value"][1])
                for series in document["data"]["result"]
            }
        except (NoAnswerError, KeyError, TypeError, ValueError) as error:
            raise BenchError(f"live: Prometheus has no answer to {query}: {error}") from error
        return {key: value for key, value in found.items() if math.isfinite(value)}

    sizes = await values(_PREDICTED, "size")
    largest = int(ENVIRONMENT["max_batch_size"])
    service = {size: sizes[size] for size in sorted(sizes, key=int) if int(size) <= largest}
    if not service:
        raise BenchError("live: no watchdog has said how long its batches take; there is nothing to replay")
    means = {
        "mean_batch_size": await values(_MEAN.replace("$METRIC", "watchdog_batch_size")),
        "mean_service": await values(_MEAN.replace("$METRIC", "watchdog_service_seconds")),
        "capacity": await values(_CAPACITY),
    }
    return service, {what: next(iter(found.values()), None) for what, found in means.items()}


def _result(run: Run, duration: float, start_up: float) -> dict[str, Any]:
    total = records.summarize(run.ledger.records, run.ledger.slo)
    seconds = records.per_second(run.ledger.records, run.ledger.slo, duration)
    wanted = [(point.seconds, point.wanted) for point in run.points]
    return {
        "attainment": total.attainment or 0.0,
        "requests": total.sent,
        "violations": total.sent - total.good,
        **{name: getattr(total, name) for name in ("good", "slow", "refused", "failed", "lost")},
        **{f"{name}_ms": records.milliseconds(getattr(total, name)) for name in ("p50", "p95", "p99")},
        "replica_seconds": round(records.replica_seconds(wanted, duration) or 0.0, 2),
        "max_replicas": max((count for _, count in wanted), default=0),
        "replicas": _steps(wanted, duration),
        "ready": _steps([(point.seconds, point.ready) for point in run.points], duration),
        "changes": [[round(item.seconds, 3), item.before, item.after] for item in run.changes],
        "reversals": records.reversals(run.changes, start_up),
        "per_second": [[second.sent, second.good] for second in seconds],
        **run.means,
        "generator_lag_p999_ms": records.milliseconds(run.lag.p999),
        "prometheus_away": _away(run),
    }


def _away(run: Run) -> dict[str, Any] | None:
    absence = run.absence
    if absence is None:
        return None
    decided = [Change(item.seconds, item.before, item.after) for item in run.decisions]
    inside = [item for item in run.decisions if absence.begin <= item.seconds <= absence.end]
    return {
        "begin": round(absence.begin, 2),
        "end": round(absence.end, 2),
        "scale_downs_decided": records.scale_downs(decided, *absence),
        "scale_downs_done": records.scale_downs(run.changes, *absence),
        "reasons": dict(Counter(item.reason for item in inside)),
    }


def _steps(counts: Sequence[tuple[float, int]], duration: float) -> list[list[float]]:
    """Return [seconds, count] wherever the count changed, from 0 on."""
    steps: list[list[float]] = []
    for seconds, count in counts:
        at = round(max(0.0, seconds), 3)
        if steps and steps[-1][0] == at:
            steps[-1][1] = count
        elif at <= duration and (not steps or steps[-1][1] != count):
            steps.append([at if steps else 0.0, count])
    return steps


def _planned_start_up(config: Path) -> float:
    """Return the start-up time that the autoscaler's configuration plans with, seconds."""
    try:
        return Config.parse(config.read_text(), str(config)).target(f"{FUNCTION}.openfaas-fn").start_up_time
    except (OSError, ConfigError) as error:
        raise BenchError(f"--config: {error}") from error


def _decisive(found: Sequence[tuple[Path, dict[str, Any]]], folder: Path) -> str:
    """Return all runs as Markdown, with one table and with plots in ``folder``."""
    told = "\n".join(f"- {_head(document)} {_claims(document)}" for _, document in found)
    rows = [row for _, document in found for row in _rows(document)]
    plots = [_draw(document, folder / file.with_suffix(".svg").name) for file, document in found]
    return f"{told}\n\n{page.markdown(_COLUMNS, rows)}\n\n{page.images(plots)}"


def _shown(document: dict[str, Any]) -> str:
    """Return results as Markdown: what ran, the table, and what the results are judged by."""
    return f"{_head(document)}\n\n{page.markdown(_COLUMNS, _rows(document))}\n\n{_claims(document)}"


def _head(document: dict[str, Any]) -> str:
    slo, ours = document["slo_latency"], document[OURS]
    text = (
        f"{document['function']}, {document['slo_objective']:.0%} within {slo * 1e3:g} ms;"
        f" {document['seconds']:g} s, {ours['requests']:,} requests,"
        f" at most {max(document['offered']):.0f}/s;"
        f" seed {document['seed']}; a replica starts in {document['start_up']:.1f} s."
        f" {document['machine']}, {document['date']}."
    )
    if away := ours["prometheus_away"]:
        said = ", ".join(f"{reason} ({count})" for reason, count in sorted(away["reasons"].items()))
        text += (
            f" Prometheus was killed at {away['begin']:.0f} s and started again at {away['end']:.0f} s."
            f" Meanwhile the autoscaler decided {away['scale_downs_decided']} scale-downs and the provider"
            f" carried out {away['scale_downs_done']}; in the decision log: {said or 'nothing new'}."
        )
    return text


def _claims(document: Mapping[str, Any]) -> str:
    told = (f"{each['claim']}: {'yes' if each['holds'] else '**no**'}" for each in document["claims"])
    return f"Claims: {'; '.join(told)}."


def _rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [_row(name, document[key]) for key, name in NAMES.items() if key in document]


def _row(name: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    name += ", Prometheus killed" if result["prometheus_away"] else ""
    p50, p99 = ("missed" if (q := result[key]) is None else f"{q:,.1f}" for key in ("p50_ms", "p99_ms"))
    return (
        *(name, records.percent(result["attainment"]), f"{result['violations']:,}", p50, p99),
        *(f"{result['replica_seconds']:,.0f}", f"{result['max_replicas']}"),
        *(f"{len(result['changes'])}", f"{result['reversals']}"),
    )


def _draw(document: dict[str, Any], file: Path) -> Path:
    """Plot offered and good requests, and the replicas, over the run."""
    figure, (load, replicas) = page.figure(2, figsize=(9, 5.5), sharex=True, height_ratios=[2, 1])
    sent, end = [due for due, _ in document[OURS]["per_second"]], document["seconds"]
    load.fill_between(range(len(sent)), sent, step="post", color="#c9d1d9", lw=0, label="offered")
    for key, name in NAMES.items():
        if key not in document:
            continue
        result, color = document[key], _COLORS[key]
        good = [within for _, within in result["per_second"]]
        load.step(range(len(good)), good, where="post", color=color, lw=1.2, label=f"{name}, within SLO")
        for counts, label, style in (("replicas", f"{name}, requested", "-"), ("ready", "ready", ":")):
            steps = [*result[counts], [end, result[counts][-1][1]]]
            replicas.step(*zip(*steps, strict=True), style, where="post", color=color, label=label)
    if away := document[OURS]["prometheus_away"]:
        for axes, label in ((load, "no Prometheus"), (replicas, "_")):  # no entry begins with an underscore
            axes.axvspan(away["begin"], away["end"], color="#b3261e", alpha=0.12, lw=0, label=label)
    load.set(ylabel="requests/s", ylim=(0, None))
    highest = max(count for key in NAMES if key in document for _, count in document[key]["replicas"])
    replicas.set(ylabel="replicas", xlabel="seconds", ylim=(0, 1.4 * highest), xlim=(0, end))
    load.legend(loc="upper right", fontsize=8)  # a trace ends quietly, so nothing is hidden there
    replicas.legend(loc="upper center", fontsize=8, ncols=4)
    for axes in (load, replicas):
        axes.grid(alpha=0.3)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    return file
