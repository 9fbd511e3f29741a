"""``bench single``: one of the project's functions behind the watchdog, at one rate, with no gateway.

``make bench`` offers ``tabular`` 5,000 requests/s for 20 s and fails below its objective. Peers, more
workloads and the search for the maximum rate are ``compare``'s.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from slo_autoscaler.fields import parse_duration
from tailbound_lab.bench.rig.server import Server, example
from tailbound_lab.bench.rig.systems import parse_entry
from tailbound_lab.bench.workloads import ROOT, Workload
from tailbound_lab.live.machine import describe
from tailbound_lab.load.generator import build
from tailbound_lab.load.records import BenchError, Lagged

WARM_UP_SECONDS = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench single``; ``make bench BENCH_ARGS='--rate 8000'`` passes them on."""
    add = parser.add_argument
    add("--function", default="tabular", help="a folder under functions/ [tabular]")
    add("--rate", type=float, default=5000.0, help="requests per second [5000]")
    add("--seconds", type=float, default=20.0, help="length of the run [20]")
    add("--slo", default="100ms", help="slo_latency [100ms]")
    add("--workers", type=int, default=2, help="workers of the watchdog [2]")
    add("--policy", default="slo", help="batch_policy [slo]")
    add("--objective", type=float, default=0.99, help="fail below this attainment [0.99]")
    add("--json", action="store_true", help="print one JSON line instead of text")


def main(options: argparse.Namespace, output: Path) -> int:
    """Warm up at a third of the rate, then offer it; 0 if the objective was met, 1 if it was missed."""
    folder = ROOT / "functions" / options.function
    if not (folder / "handler.py").is_file():
        raise BenchError(f"--function {options.function}: there is no {folder / 'handler.py'}")
    try:
        slo = parse_duration(options.slo)
    except ValueError as error:
        raise BenchError(f"--slo: {error}") from None
    entry = parse_entry(options.policy)
    generator, workload = build(output), Workload(options.function, folder, slo, (), 1.0)
    with Server(entry, workload, options.workers, example(workload)) as server:
        with contextlib.suppress(Lagged):
            generator.run(server.endpoint, rate=options.rate / 3, seconds=WARM_UP_SECONDS, slo=slo)
        sys.stderr.write(f"offering {options.rate:g} requests/s for {options.seconds:g} s\n")
        run = generator.run(server.endpoint, rate=options.rate, seconds=options.seconds, slo=slo, seed=2)
    result = {
        "function": options.function,
        "policy": options.policy,
        "offered_per_s": round(run.sent / options.seconds, 1),
        "attainment": round(run.attainment, 5),
        "slo": options.slo,
        "p50_ms": run.latency_ms["p50"],
        "p99_ms": run.latency_ms["p99"],
        "statuses": dict(run.statuses),
        "generator_lag_p99_ms": run.lag_ms["p99"],
        "machine": describe(),
    }
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        sys.stdout.writelines(f"{name:<20} {value}\n" for name, value in result.items())
    return 0 if run.attainment >= options.objective else 1
