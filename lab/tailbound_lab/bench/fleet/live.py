"""``bench live``: one bursty trace for real, under our autoscaler and under OpenFaaS CE's law in its place.

Each run has a platform, a Prometheus and the machine to itself; the function, its batching and the arrivals
are the same, only who scales differs. Results go to build/bench/live.json, with all that the simulator needs
to replay the run; with ``--kill-prometheus`` one run of ours alone goes to live-prometheus-killed.json.
"""

import argparse
import asyncio
import contextlib
import json
import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, Final

import aiohttp
import uvloop

from slo_autoscaler.config import Config
from slo_autoscaler.errors import ConfigError
from tailbound_lab.bench import live_report
from tailbound_lab.bench.page import PAGE
from tailbound_lab.bench.workloads import ROOT
from tailbound_lab.live import machine
from tailbound_lab.live.session import ready, without_full_collections
from tailbound_lab.live.twins import CommunityScaler
from tailbound_lab.live.watch import Decision, NoAnswerError, by_function, decisions, get_json
from tailbound_lab.load import records
from tailbound_lab.load.arrivals import Trace, bursty
from tailbound_lab.load.openloop import GIVE_UP_AFTER, Lag, Stream, Target, parse_duration
from tailbound_lab.load.records import (
    BenchError,
    Change,
    DemoError,
    Ledger,
    Point,
    Summary,
    recent,
    summarize,
)
from tailbound_lab.load.sender import Sender, sending
from tailbound_lab.local.errors import PlatformError
from tailbound_lab.local.functions import Function
from tailbound_lab.local.platform import Platform, Settings, open_platform
from tailbound_lab.local.services import AUTOSCALER_CONFIG

FUNCTION: Final = "accelerator"
ENVIRONMENT: Final = {"max_batch_size": "2", "device_slowdown": "1"}
"""Batches of two make one replica small enough that this machine can offer what several of them serve, which
are to be quick, since bursts are short."""
OURS, COMMUNITY = "ours", "openfaas_ce"
FULL_SECONDS, QUICK_SECONDS, SHORTEST_SECONDS = 180.0, 40.0, 2.0
FEWER: Final = 2.3
"""So many times fewer violations are asked for where OpenFaaS CE's law misses the objective."""
_BODIES: Final = (b"{}",)
_SEEN_LIMIT: Final = 30.0
_END_LIMIT: Final = 10.0
_ASK_LIMIT: Final = 2.0
_BACK_LIMIT: Final = 30.0
_ROOM_AFTER_KILL: Final = 5.0
_STOP_GRACE: Final = 2.0
_LINES_INTERVAL: Final = 5.0
_WINDOW: Final = 5.0
_PREDICTED: Final = 'quantile by (size) (0.5, watchdog_service_seconds_predicted{function_name="$NAME"})'
_CAPACITY: Final = 'quantile(0.5, watchdog_capacity_requests_per_second{function_name="$NAME"} >= 0)'
_MEAN: Final = (
    'sum(increase($METRIC_sum{function_name="$NAME"}[$W]))'
    ' / sum(increase($METRIC_count{function_name="$NAME"}[$W]))'
)


@dataclass(frozen=True, slots=True)
class Absence:
    """From when to when Prometheus was away, seconds from the beginning."""

    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the trace: what was answered, how many replicas there were, and who wanted what."""

    environment: Mapping[str, str]
    """The function's, its SLO among it."""
    total: Summary
    per_second: tuple[tuple[int, int], ...]
    """Requests that were due in each second, and how many of them were good."""
    points: tuple[Point, ...]
    changes: tuple[Change, ...]
    """From the provider's log."""
    decisions: tuple[Decision, ...]
    """From the autoscaler's, holds too; none under OpenFaaS CE."""
    lag: Lag
    service: Mapping[str, float]
    """Seconds by batch size, as the watchdogs have learned it: an upper quantile."""
    means: Mapping[str, float | None]
    """Measured over the run: batch size, service time of a batch, and the learned capacity."""
    absence: Absence | None


@dataclass(slots=True)
class _Collected:
    """What comes in while a run goes on."""

    ledger: Ledger
    points: list[Point] = field(default_factory=list)
    absence: Absence | None = None


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The options of ``bench live``."""
    made.add_argument("--seconds", type=float, help=f"of the trace [{FULL_SECONDS:.0f}]")
    made.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS:.0f} s: does it work at all?")
    made.add_argument("--seed", type=int, default=1, help="of the trace and its arrivals [1]")
    made.add_argument(
        "--config",
        type=Path,
        default=AUTOSCALER_CONFIG,
        metavar="FILE",
        help="the autoscaler's configuration [lab/autoscaler.yaml]",
    )
    made.add_argument("--no-baseline", action="store_true", help="ours alone")
    made.add_argument(
        "--kill-prometheus",
        type=float,
        metavar="SECONDS",
        help="ours alone, without Prometheus for so long from the peak on: no scale-down may come of it",
    )
    made.add_argument("--last", action="store_true", help="no run: show the last results again")
    made.add_argument("--publish", action="store_true", help="put the results into docs/benchmarks.md")


def main(options: argparse.Namespace, output: Path) -> int:
    """Run; 0 if every claim that the results are judged by holds, 1 if one does not."""
    killing = options.kill_prometheus is not None
    file = output / ("live-prometheus-killed.json" if killing else "live.json")
    if options.last:
        document = live_report.read(file)
    else:
        trace = bursty(_seconds(options), options.seed)
        planned = _planned_start_up(options.config)
        killed = _absence(trace, options.kill_prometheus) if killing else None
        names = [OURS] if killing or options.no_baseline else [OURS, COMMUNITY]
        try:
            runs = {name: _run(name, trace, options.config, killed, output / "live") for name in names}
        except (DemoError, PlatformError) as error:
            raise BenchError(f"live: {error}") from error
        document = described(trace, runs, options.config.read_text(), planned)
        file.write_text(json.dumps(document, allow_nan=False) + "\n")
    sys.stdout.write(live_report.text(document))
    # A plot belongs to the results that it was drawn from, so each of the two files has its own.
    sys.stdout.write(f"\n{file}\n{live_report.draw(document, file.with_suffix('.svg'))}\n")
    if options.publish:
        live_report.publish(output, PAGE)
    return 0 if all(claim["holds"] for claim in document["claims"]) else 1


def described(trace: Trace, runs: Mapping[str, Run], config: str, planned: float) -> dict[str, Any]:
    """Everything as it stands in the file; durations are in seconds where the name does not say otherwise.

    ``config`` is the autoscaler's, as text, and ``planned`` the start-up time in it.
    """
    ours = runs[OURS]
    environment = ours.environment
    took = records.start_ups(ours.points)
    # A flip is judged by the longer one: that of the law, or the longest that was seen.
    judged = max([planned, *took])
    results = {name: _result(run, trace.duration, judged) for name, run in runs.items()}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "function": FUNCTION,
        "environment": dict(environment),
        "seconds": trace.duration,
        "seed": trace.seed,
        "slo_latency": parse_duration(environment["slo_latency"]),
        "slo_objective": float(environment["slo_objective"]),
        "workers": int(environment["workers"]),
        "max_batch_size": int(environment["max_batch_size"]),
        "routing": "least-loaded",
        "service": ours.service,
        "start_up": round(median(took), 3) if took else planned,
        "start_ups": [round(seconds, 3) for seconds in took],
        "start_up_for_flips": judged,
        "offered": [trace.profile.rate(second + 0.5) for second in range(int(trace.duration))],
        "arrivals": [round(at, 6) for at in trace.arrivals()],
        "config": config,
        **results,
        "claims": claims(
            results,
            start_up=judged,
            objective=float(environment["slo_objective"]),
            full=trace.duration >= FULL_SECONDS,
        ),
    }


def claims(
    results: Mapping[str, Mapping[str, Any]], *, start_up: float, objective: float, full: bool
) -> list[dict[str, Any]]:
    """What the results are judged by, each in words, and whether it holds.

    Violations and cost are judged on a full trace only: on a short one OpenFaaS CE has hardly begun to scale.
    """
    ours, theirs = results[OURS], results.get(COMMUNITY)
    absent = ours["prometheus_away"]
    found = [(f"no change of direction within {start_up:.1f} s, one start-up time", ours["flips"] == 0)]
    if absent is not None:
        down = absent["scale_downs_decided"] + absent["scale_downs_done"]
        away = absent["end"] - absent["begin"]
        found.append((f"no scale-down in the {away:.0f} s without Prometheus", down == 0))
    if theirs is not None and full:
        if theirs["attainment"] >= objective:
            found.append(("the objective met, as OpenFaaS CE's law does", ours["attainment"] >= objective))
        else:
            fewer = theirs["violations"] >= FEWER * ours["violations"]
            found.append((f"at least {FEWER:g} times fewer violations than under OpenFaaS CE's law", fewer))
        found.append(("at no more replica-seconds", ours["replica_seconds"] <= theirs["replica_seconds"]))
    return [{"claim": words, "holds": holds} for words, holds in found]


def _seconds(options: argparse.Namespace) -> float:
    seconds: float = QUICK_SECONDS if options.quick else FULL_SECONDS
    if options.seconds is not None:
        seconds = options.seconds
    if not SHORTEST_SECONDS <= seconds < math.inf:
        raise BenchError(f"--seconds {seconds:g}: must be at least {SHORTEST_SECONDS:g}")
    return seconds


def _absence(trace: Trace, seconds: float) -> Absence:
    begin = trace.middle_of_peak(seconds + _ROOM_AFTER_KILL) if seconds > 0 else None
    if begin is None:
        raise BenchError(
            f"--kill-prometheus {seconds:g}: no burst of a trace of {trace.duration:g} s leaves room for that"
        )
    return Absence(begin, begin + seconds)


def _run(name: str, trace: Trace, config: Path, killed: Absence | None, folder: Path) -> Run:
    # Logs are appended to: what an earlier run left would be read as this one's.
    shutil.rmtree(folder / name, ignore_errors=True)
    return uvloop.run(_measure(name, trace, config, killed, folder / name))


async def _measure(name: str, trace: Trace, config: Path, killed: Absence | None, folder: Path) -> Run:
    settings = Settings(
        port=0,
        prometheus_port=0,
        baseline_rules=name == COMMUNITY,
        with_autoscaler=name == OURS,
        autoscaler_config=config,
        any_autoscaler_port=True,
        run_dir=folder,
        stop_grace=_STOP_GRACE,
    )
    timeout = aiohttp.ClientTimeout(total=_ASK_LIMIT)
    async with open_platform(settings) as platform, aiohttp.ClientSession(timeout=timeout) as session:
        (function,) = platform.deploy_stack(ROOT / "stack.yml", ENVIRONMENT, only=[FUNCTION])
        await ready(platform)
        await _seen(session, platform, function)
        with without_full_collections():
            return await _offer(name, trace, killed, platform, function, session)


async def _seen(session: aiohttp.ClientSession, platform: Platform, function: Function) -> None:
    """Return when Prometheus knows the function: until then no scaler could act on anything."""
    address = platform.prometheus_url or ""
    deadline = time.monotonic() + _SEEN_LIMIT
    while time.monotonic() < deadline:
        with contextlib.suppress(NoAnswerError):
            if function.spec.full_name in await by_function(session, address, "slo_latency_seconds"):
                return
        await asyncio.sleep(0.2)
    raise BenchError(f"live: Prometheus has not scraped {function.spec.full_name} after {_SEEN_LIMIT:g} s")


async def _offer(
    name: str,
    trace: Trace,
    killed: Absence | None,
    platform: Platform,
    function: Function,
    session: aiohttp.ClientSession,
) -> Run:
    full_name, environment = function.spec.full_name, function.spec.env_vars
    address = platform.prometheus_url or ""
    collected = _Collected(Ledger(parse_duration(environment["slo_latency"])))
    target = Target(
        f"{platform.gateway_url}/function/{full_name}", _BODIES, (("Content-Type", "application/json"),)
    )
    async with sending([Stream(target, trace.profile, trace.seed)]) as sender:
        begun = await sender.begun()

        def elapsed() -> float:
            return time.monotonic() - begun

        companions: list[Coroutine[Any, Any, None]] = [
            _follow(function, elapsed, collected),
            _show(name, trace, elapsed, collected),
        ]
        if name == COMMUNITY:
            labels = {full_name: function.spec.labels}
            companions.append(CommunityScaler(session, platform.gateway_url, address, labels).run())
        if killed is not None:
            companions.append(_kill(platform, killed, elapsed, collected))
        async with _beside(*companions) as failed:
            lag = await _read(sender, collected.ledger, failed, trace.duration + GIVE_UP_AFTER + _END_LIMIT)
    # The logs tell the time of day; the run counts on the monotonic clock.
    wall = datetime.now(UTC) - timedelta(seconds=elapsed())
    service, means = await _learned(session, address, full_name, trace.duration)
    log = platform.log_dir / full_name / f"{function.spec.name}.log"
    return Run(
        environment=environment,
        total=summarize(collected.ledger.records, collected.ledger.slo),
        per_second=_per_second(collected.ledger, int(trace.duration)),
        points=tuple(collected.points),
        changes=tuple(records.changes(_lines(log), wall, trace.duration)),
        decisions=decisions(_lines(platform.log_dir / "autoscaler.log"), wall, trace.duration, holds=True),
        lag=lag,
        service=service,
        means=means,
        absence=collected.absence,
    )


async def _read(sender: Sender, ledger: Ledger, failed: asyncio.Future[Any], limit: float) -> Lag:
    """Return when the traffic has ended; raise what ended a companion before it, or that it took too long."""
    reading = asyncio.create_task(sender.read([ledger]))
    waited: set[asyncio.Future[Any]] = {reading, failed}
    try:
        ended, _ = await asyncio.wait(waited, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if failed in ended:
            failed.result()
        if not ended:
            raise BenchError(f"live: the load generator has not ended after {limit:.0f} s")
        return await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _per_second(ledger: Ledger, seconds: int) -> tuple[tuple[int, int], ...]:
    due: Counter[int] = Counter()
    good: Counter[int] = Counter()
    for record in ledger.records:
        second = min(int(record.scheduled), seconds - 1)
        due[second] += 1
        good[second] += 200 <= record.status < 300 and record.latency <= ledger.slo
    return tuple((due[second], good[second]) for second in range(seconds))


@contextlib.asynccontextmanager
async def _beside(*companions: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Future[Any]]:
    """Run endless coroutines for the length of the block; the future fails when one of them does."""
    together = asyncio.gather(*companions)
    try:
        yield together
    finally:
        together.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await together


async def _follow(function: Function, elapsed: Callable[[], float], collected: _Collected) -> None:
    while True:
        collected.points.append(Point(elapsed(), function.desired, function.available))
        await function.changed()


async def _kill(
    platform: Platform, killed: Absence, elapsed: Callable[[], float], collected: _Collected
) -> None:
    prometheus = platform.prometheus
    if prometheus is None:
        raise BenchError("live: there is no Prometheus to kill")
    await asyncio.sleep(killed.begin - elapsed())
    begin = elapsed()
    # No grace: it has no time to say goodbye.
    await prometheus.stop(0.0)
    await asyncio.sleep(killed.end - elapsed())
    end = elapsed()
    collected.absence = Absence(begin, end)
    await prometheus.start(_BACK_LIMIT)
    await asyncio.Event().wait()


async def _show(name: str, trace: Trace, elapsed: Callable[[], float], collected: _Collected) -> None:
    """Say how far it is on standard error: in place on a terminal, as lines elsewhere."""
    terminal = sys.stderr.isatty()
    try:
        while True:
            now = max(0.0, elapsed())
            lately = summarize(recent(collected.ledger.records, now - _WINDOW), collected.ledger.slo)
            share = "-" if lately.attainment is None else f"{lately.attainment:.1%}"
            count = collected.points[-1].wanted if collected.points else 0
            line = (
                f"{name}: {min(now, trace.duration):3.0f} of {trace.duration:.0f} s, "
                f"{trace.profile.rate(now):4.0f} requests/s, {count} replicas, {share} in time lately"
            )
            sys.stderr.write(f"\r{line:<79}" if terminal else f"{line}\n")
            sys.stderr.flush()
            await asyncio.sleep(1.0 if terminal else _LINES_INTERVAL)
    finally:
        sys.stderr.write("\n" if terminal else "")


async def _learned(
    session: aiohttp.ClientSession, address: str, name: str, seconds: float
) -> tuple[dict[str, float], dict[str, float | None]]:
    """What the watchdogs have learned, by batch size; and means over the run, None where there are none."""
    mean = _MEAN.replace("$NAME", name).replace("$W", f"{max(5, round(seconds))}s")
    sizes = await _vector(session, address, _PREDICTED.replace("$NAME", name), "size")
    largest = int(ENVIRONMENT["max_batch_size"])
    ascending = sorted(sizes.items(), key=lambda item: int(item[0]))
    service = {size: took for size, took in ascending if int(size) <= largest}
    if not service:
        raise BenchError("live: no watchdog has said how long its batches take; there is nothing to replay")
    means = {
        "batch_size": await _vector(session, address, mean.replace("$METRIC", "watchdog_batch_size"), ""),
        "service": await _vector(session, address, mean.replace("$METRIC", "watchdog_service_seconds"), ""),
        "capacity": await _vector(session, address, _CAPACITY.replace("$NAME", name), ""),
    }
    return service, {what: next(iter(values.values()), None) for what, values in means.items()}


async def _vector(session: aiohttp.ClientSession, address: str, query: str, label: str) -> dict[str, float]:
    """An instant vector by one label; values that are no number are left out."""
    try:
        document = await get_json(session, f"{address}/api/v1/query", {"query": query})
        found = {
            str(series["metric"].get(label, "")): float(series["value"][1])
            for series in document["data"]["result"]
        }
    except (NoAnswerError, KeyError, TypeError, ValueError) as error:
        raise BenchError(f"live: Prometheus has no answer to {query}: {error}") from error
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _result(run: Run, duration: float, start_up: float) -> dict[str, Any]:
    total = run.total
    decided = [item for item in run.decisions if item.before != item.after]
    return {
        "attainment": total.attainment or 0.0,
        "requests": total.sent,
        "violations": total.sent - total.good,
        **{name: getattr(total, name) for name in ("good", "slow", "refused", "failed", "lost")},
        **{f"{name}_ms": _milliseconds(getattr(total, name)) for name in ("p50", "p95", "p99")},
        "replica_seconds": round(_cost(run.points, duration), 2),
        "replicas_max": max((point.wanted for point in run.points), default=0),
        "replicas": _steps(run.points, duration, lambda point: point.wanted),
        "ready": _steps(run.points, duration, lambda point: point.ready),
        "changes": [[round(item.seconds, 3), item.before, item.after] for item in run.changes],
        "flips": records.reversals(run.changes, start_up),
        "decisions": [[round(i.seconds, 3), i.before, i.after, i.reason] for i in decided],
        "per_second": [list(counts) for counts in run.per_second],
        "mean_batch_size": run.means["batch_size"],
        "mean_service": run.means["service"],
        "capacity": run.means["capacity"],
        "generator_lag_p999_ms": _milliseconds(run.lag.p999),
        "prometheus_away": _away(run),
    }


def _cost(points: Sequence[Point], duration: float) -> float:
    return records.replica_seconds([(point.seconds, point.wanted) for point in points], duration) or 0.0


def _away(run: Run) -> dict[str, Any] | None:
    absence = run.absence
    if absence is None:
        return None
    decided = [Change(item.seconds, item.before, item.after) for item in run.decisions]
    inside = [item for item in run.decisions if absence.begin <= item.seconds <= absence.end]
    return {
        "begin": round(absence.begin, 2),
        "end": round(absence.end, 2),
        "scale_downs_decided": records.scale_downs(decided, absence.begin, absence.end),
        "scale_downs_done": records.scale_downs(run.changes, absence.begin, absence.end),
        "reasons": dict(Counter(item.reason for item in inside)),
    }


def _steps(points: Sequence[Point], duration: float, count: Callable[[Point], int]) -> list[list[float]]:
    """[seconds, count] wherever the count changed, from 0 on."""
    steps: list[list[float]] = []
    for point in points:
        at, value = round(max(0.0, point.seconds), 3), count(point)
        if steps and steps[-1][0] == at:
            steps[-1][1] = value
        elif at <= duration and (not steps or steps[-1][1] != value):
            steps.append([at if steps else 0.0, value])
    return steps


def _planned_start_up(config: Path) -> float:
    """The start-up time that the autoscaler's configuration plans with, seconds."""
    try:
        return Config.parse(config.read_text(), str(config)).target(f"{FUNCTION}.openfaas-fn").start_up_time
    except (OSError, ConfigError) as error:
        raise BenchError(f"--config: {error}") from error


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else round(seconds * 1e3, 2)


def _lines(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()
    except OSError:
        return []
