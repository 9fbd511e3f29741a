"""Measure one function behind the watchdog, with no gateway: open loop, latency from when a request was due.

``make bench`` offers `tabular` 5,000 requests/s for 20 s and fails below its objective. Peers, more
workloads and the search for the maximum rate are :mod:`tailbound_lab.bench.replica.compare`'s.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import uvloop

from tailbound_lab.bench.workloads import ROOT
from tailbound_lab.live.machine import describe
from tailbound_lab.load.arrivals import steps
from tailbound_lab.load.openloop import Stream, Target, offer, parse_duration
from tailbound_lab.load.records import summarize

START_SECONDS = 120.0
WARM_UP_SECONDS = 3.0


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The options; ``make bench BENCH_ARGS='--rate 8000'`` passes them on."""
    made.add_argument("--function", default="tabular", help="a folder under functions/ [tabular]")
    made.add_argument("--rate", type=float, default=5000.0, help="requests per second [5000]")
    made.add_argument("--seconds", type=float, default=20.0, help="how long [20]")
    made.add_argument("--slo", default="100ms", help="slo_latency [100ms]")
    made.add_argument("--workers", default="2", help="workers of the watchdog [2]")
    made.add_argument("--policy", default="slo", help="batch_policy [slo]")
    made.add_argument("--objective", type=float, default=0.99, help="fail below this attainment [0.99]")
    made.add_argument("--json", action="store_true", help="print one JSON line instead of text")


def main(options: argparse.Namespace, _output: Path) -> int:
    """Run; 0 if the objective was met, 1 if it was missed, 2 if it could not be measured."""
    folder = ROOT / "functions" / options.function
    if not (folder / "handler.py").is_file():
        sys.stderr.write(f"bench: --function {options.function}: there is no {folder / 'handler.py'}\n")
        return 2
    port, metrics_port = _free_port(), _free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        environment = os.environ | {
            "TMPDIR": temporary,
            "function_path": str(folder),
            "port": str(port),
            "metrics_port": str(metrics_port),
            "slo_latency": options.slo,
            "workers": options.workers,
            "batch_policy": options.policy,
            "healthcheck_interval": "0s",
        }
        watchdog = subprocess.Popen([sys.executable, "-m", "batching_watchdog"], env=environment)
        try:
            _wait_ready(watchdog, port)
            result = uvloop.run(measure(options, f"http://127.0.0.1:{port}/", _example(folder)))
        except RuntimeError as error:
            sys.stderr.write(f"bench: {error}\n")
            return 2
        finally:
            watchdog.terminate()
            watchdog.wait(timeout=30)
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        sys.stdout.writelines(f"{name:<16} {value}\n" for name, value in result.items())
    return 0 if result["attainment"] >= options.objective else 1


async def measure(options: argparse.Namespace, url: str, body: bytes) -> dict[str, object]:
    """Warm up at a third of the rate, then offer the rate; what came of it."""
    target = Target(url, (body,), (("Content-Type", "application/json"),))
    warm = Stream(target, steps(f"{options.rate / 3:g}:{WARM_UP_SECONDS:g}"), 1)
    await offer([warm], give_up_after=10.0)
    sys.stderr.write(f"offering {options.rate:g} requests/s for {options.seconds:g} s\n")
    await asyncio.sleep(0.5)
    stream = Stream(target, steps(f"{options.rate:g}:{options.seconds:g}"), 2)
    records, lag = await offer([stream], give_up_after=10.0)
    summary = summarize(records[0], parse_duration(options.slo))
    return {
        "function": options.function,
        "policy": options.policy,
        "offered_per_s": round(summary.sent / options.seconds, 1),
        "attainment": round(summary.attainment or 0.0, 5),
        "slo": options.slo,
        "p50_ms": _ms(summary.p50),
        "p99_ms": _ms(summary.p99),
        "lost": summary.lost,
        "refused": summary.refused,
        "generator_lag_p99_ms": _ms(lag.p99),
        "machine": describe(),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 2)


def _example(folder: Path) -> bytes:
    """A typical body, from the function's own example()."""
    code = "import sys, handler; sys.stdout.buffer.write(handler.example())"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True).stdout


def _wait_ready(watchdog: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if watchdog.poll() is not None:
            raise RuntimeError(f"the watchdog ended with status {watchdog.returncode}, see above")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_/ready", timeout=1)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the watchdog was not ready within {START_SECONDS:g} s")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
