"""``bench reconcile``: a reconcile of 100, 1,000 and 10,000 functions that share budgets; how does it grow?

A real Prometheus holds the series of all functions, made by promtool from OpenMetrics text. The gateway is a
stand-in in a process of its own with the statuses of all functions. The controller is the production one with
its production source and platform; what is counted is the CPU time of its process, all threads together, so
neither Prometheus' time nor the gateway's.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final, TextIO

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from batching_watchdog.process.launch import die_with_parent
from slo_autoscaler.app import collect_seldom
from slo_autoscaler.config import Config
from slo_autoscaler.loop.controller import Clocks, Controller
from slo_autoscaler.model import Reason
from slo_autoscaler.platforms import build
from slo_autoscaler.platforms.leader import Alone
from slo_autoscaler.show.journal import Journal
from slo_autoscaler.show.metrics import Metrics
from slo_autoscaler.signals.prometheus import PrometheusSource
from slo_autoscaler.signals.queries import WATCHDOG
from tailbound_lab.bench.rig.processes import cpu_of
from tailbound_lab.bench.rig.record import Record, Row, Run, listed, say
from tailbound_lab.load.records import BenchError, NotAvailable
from tailbound_lab.local.ports import free_ports
from tailbound_lab.simulate.scrape import edges

SIZES: Final = (100, 1_000, 10_000)
TARGET: Final = 2.0
"""CPU seconds that a reconcile of the most functions may take."""

SCRAPE: Final = 5
SPAN: Final = 60
"""Seconds between two samples, and from the first to the last: the longest window and some more."""

NAMESPACE: Final = "openfaas-fn"
SLO: Final = 0.2

COLUMNS: Final = {
    "functions": "{functions:,}",
    "series": "{series:,}",
    "CPU of a reconcile, s": "{reconcile_cpu_s:.3f}",
    "of the first, s": "{first_cpu_s:.3f}",
    "wall, s": "{reconcile_wall_s:.2f}",
    "Prometheus' CPU, s": "{prometheus_cpu_s:.2f}",
    "a scrape of the autoscaler, s": "{scrape_cpu_s:.3f}",
    "memory, MB": "{memory_mb:.0f}",
}

GROUPED: Final = 7
"""One function in so many is in a group; each group and the others share a budget of replicas."""
ROOM: Final = 1.01
"""Replicas of a budget for each function: enough for half of those that need another."""


def add_arguments(made: argparse.ArgumentParser) -> None:
    """Add the options of ``bench reconcile``."""
    made.add_argument(
        "--functions",
        type=int,
        nargs="+",
        default=list(SIZES),
        metavar="N",
        help="numbers of functions [100 1000 10000]",
    )
    made.add_argument("--reconciles", type=int, default=5, metavar="N", help="reconciles after the first [5]")
    made.add_argument("--quick", action="store_true", help="100 functions, one reconcile after the first")


def main(options: argparse.Namespace, run: Run) -> int:
    """Measure each size; 1 if a reconcile of the most functions takes more CPU than it may."""
    collect_seldom()
    sizes, reconciles = sorted(options.functions), options.reconciles
    if options.quick:
        sizes, reconciles = [SIZES[0]], 1
    rows: list[Row] = []
    for count in sizes:
        rows.append(measured(count, reconciles))
        run.keep(rows)
    return int(rows[-1]["reconcile_cpu_s"] > TARGET)


def table(record: Record) -> str:
    """Return a row for each number of functions."""
    return listed(record.rows, COLUMNS)


def measured(functions: int, reconciles: int) -> Row:
    """Return what the first and the later reconciles of so many functions take."""
    # In the middle of a block of two hours, so that one block holds it all.
    now = int(time.time()) // 7200 * 7200 - 3600
    with tempfile.TemporaryDirectory(prefix="bench-reconcile-") as name:
        folder = Path(name)
        say(f"{functions:,} functions: writing their series")
        series = _write(folder / "series", functions, now)
        say(f"{functions:,} functions: {series:,} series into a block")
        _block(folder)
        with _prometheus(folder) as (prometheus, prometheus_url), _gateway(functions) as gateway_url:
            config = _config(functions, gateway_url, prometheus_url)
            lines: list[str] = []
            metrics = Metrics(CollectorRegistry())
            source = PrometheusSource(config.prometheus, at=lambda: float(now))
            platform = build(config.platform, Alone())
            clocks = Clocks(time.monotonic, lambda: datetime.now(UTC))
            controller = Controller(
                config,
                source,
                platform,
                metrics=metrics,
                journal=Journal(),
                leader=Alone(),
                emit=lines.append,
                clocks=clocks,
            )
            try:
                costs = []
                for number in range(1 + reconciles):
                    costs.append(_cost(controller, prometheus))
                    say(f"{functions:,} functions: reconcile {number}: {costs[-1]['cpu']:.3f} s of CPU")
                scrape = _cpu_of_scrape(metrics)
                # Before the bench itself reads the decision log.
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            finally:
                controller.close()
                source.close()
                platform.close()
            told = [json.loads(line) for line in lines]
            full = sum(line["reason"] == Reason.FLEET_FULL for line in told)
            if len(told) < functions or not full or any(line["reason"] == "NoData" for line in told):
                raise BenchError(
                    f"{functions} functions: not all of them were decided on with data and budget"
                )
    later = costs[1:]
    return {
        "functions": functions,
        "series": series,
        "first_cpu_s": costs[0]["cpu"],
        "reconcile_cpu_s": median(cost["cpu"] for cost in later),
        "reconcile_wall_s": median(cost["wall"] for cost in later),
        "prometheus_cpu_s": median(cost["prometheus"] for cost in later),
        "scrape_cpu_s": scrape,
        "memory_mb": memory,
        "scaled": sum(line["action"] != "hold" for line in told),
        "fleet_full": full,
    }


def _config(functions: int, gateway_url: str, prometheus_url: str) -> Config:
    grouped = [_name(number) for number in range(0, functions, GROUPED)]
    document = {
        "platform": {"gateway_url": gateway_url, "timeout": "30s"},
        "prometheus": {"url": prometheus_url, "scrape_interval": "5s", "window": "30s", "timeout": "60s"},
        "fleet": {
            "replicas": round(ROOM * (functions - len(grouped))),
            "groups": {"gpu": round(ROOM * len(grouped))},
        },
        "functions": {name: {"group": "gpu"} for name in grouped},
    }
    return Config.parse(json.dumps(document), "bench")


def _cost(controller: Controller, prometheus: subprocess.Popen[bytes]) -> dict[str, float]:
    stat = Path("/proc") / str(prometheus.pid) / "stat"
    theirs, cpu, wall = cpu_of(stat.read_text()), time.process_time(), time.perf_counter()
    if not controller.reconcile():
        raise BenchError("a reconcile failed, see the log above")
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "prometheus": cpu_of(stat.read_text()) - theirs,
    }


def _cpu_of_scrape(metrics: Metrics) -> float:
    began = time.process_time()
    generate_latest(metrics.registry)
    return time.process_time() - began


def _write(path: Path, functions: int, now: int) -> int:
    """Write the samples of all functions up to ``now`` as OpenMetrics text; return how many series."""
    asked = " ".join(WATCHDOG.values())
    with path.open("w") as out:
        series = sum(_write_one(out, _name(number), _rate(number), now, asked) for number in range(functions))
        out.write("# EOF\n")
    return series


def _write_one(out: TextIO, name: str, rate: float, now: int, asked: str) -> int:
    """Write one function's series, as far as a query asks for their metric."""
    name_label = f'function_name="{name}"'
    replica = f'{name_label},job="functions",instance="10.0.0.1:8081"'
    slo_class = f'{replica},slo_class="default"'
    # (metric, labels, value at the start, change per second)
    series: list[tuple[str, str, float, float]] = [
        ("up", replica, 1, 0),
        ("slo_latency_seconds", slo_class, SLO, 0),
        ("slo_objective_ratio", slo_class, 0.99, 0),
        ("http_requests_in_flight", replica, 2, 0),
        ("watchdog_queue_length", replica, 0, 0),
        ("watchdog_capacity_requests_per_second", replica, 100, 0),
        ("watchdog_service_seconds_predicted", f'{replica},size="1"', 0.02, 0),
        ("watchdog_service_seconds_sum", replica, 0, rate * 0.02),
        ("watchdog_service_seconds_count", replica, 0, rate),
        ("watchdog_queue_seconds_sum", replica, 0, rate * 0.001),
        ("watchdog_queue_seconds_count", replica, 0, rate),
        ("slo:error_budget_remaining:ratio", name_label, 0.8, 0),
        ("gateway_function_invocation_started", f'{name_label},job="gateway"', 0, rate),
    ]
    for outcome, share in (("good", 0.999), ("slow", 0.001), ("error", 0), ("shed", 0), ("expired", 0)):
        series.append(("slo_requests_total", f'{slo_class},outcome="{outcome}"', 0, rate * share))
    for index, edge in enumerate((*edges(SLO).tolist(), "+Inf")):
        share = min(1.0, (index + 1) / 8)
        labels = f'{replica},code="200",le="{edge}"'
        series.append(("http_request_duration_seconds_bucket", labels, 0, rate * share))
    written = [row for row in series if row[0] in asked]
    for metric, labels, value, change in written:
        start = f"{metric}{{{labels}}} "
        out.writelines(
            f"{start}{value + change * (second + SPAN):.6g} {now + second}\n"
            for second in range(-SPAN, 1, SCRAPE)
        )
    return len(written)


def _name(number: int) -> str:
    return f"function-{number:05d}.{NAMESPACE}"


def _rate(number: int) -> float:
    """Most need the one replica that they have; one in fifty needs another."""
    return 150.0 if number % 50 == 0 else 20.0 + number % 50


def _block(folder: Path) -> None:
    command = [_program("promtool"), "tsdb", "create-blocks-from", "openmetrics"]
    command += [str(folder / "series"), str(folder / "data")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise BenchError(f"promtool cannot make a block: {(made.stderr or made.stdout).strip()[-300:]}")
    (folder / "series").unlink()


@contextmanager
def _prometheus(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    (port,) = free_ports(1)
    (folder / "prometheus.yml").write_text("global: {}\n")
    command = [
        *(_program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", "--log.level=error"),
        *(f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"),
        "--storage.tsdb.retention.time=10y",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _until_ready(process, url + "/-/ready")
            yield process, url
        finally:
            process.kill()


@contextmanager
def _gateway(functions: int) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(functions, listener, os.getpid())
    )
    process.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        process.kill()
        listener.close()


def _until_ready(process: subprocess.Popen[bytes], url: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise BenchError(f"Prometheus is not ready within {seconds:g} s: {url}")


def _program(name: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise NotAvailable(f"{name} must be installed: make install does so")
    return program


def _status(number: int) -> dict[str, Any]:
    name = _name(number).rpartition(".")[0]
    return {
        "name": name,
        "image": f"registry.example.com/{name}:1.0",
        "namespace": NAMESPACE,
        "envProcess": "batching-watchdog",
        "labels": {"com.openfaas.scale.min": "1", "com.openfaas.scale.max": "5", "faas_function": name},
        "annotations": {"prometheus.io.scrape": "false"},
        "replicas": 1,
        "availableReplicas": 1,
        "invocationCount": 1234,
        "createdAt": "2026-01-02T12:00:00Z",
    }


def _serve(functions: int, listener: socket.socket, parent: int) -> None:
    """Serve the stand-in for the gateway for as long as the bench lives."""
    die_with_parent(signal.SIGKILL, parent)
    statuses = {_name(number): _status(number) for number in range(functions)}

    async def listed(_: web.Request) -> web.Response:
        return web.json_response(list(statuses.values()))

    async def one(request: web.Request) -> web.Response:
        return web.json_response(statuses[f"{request.match_info['name']}.{NAMESPACE}"])

    async def scaled(request: web.Request) -> web.Response:
        replicas = (await request.json())["replicas"]
        name = f"{request.match_info['name']}.{NAMESPACE}"
        statuses[name] |= {"replicas": replicas, "availableReplicas": replicas}
        return web.Response(status=202)

    application = web.Application()
    application.add_routes(
        [
            web.get("/system/functions", listed),
            web.get("/system/function/{name}", one),
            web.post("/system/scale-function/{name}", scaled),
        ]
    )
    web.run_app(application, sock=listener, print=None)
