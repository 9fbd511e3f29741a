"""``bench drift``: the model becomes twice as slow in the middle of a run; how soon is the SLO met again?"""

import argparse
import json
import sys
import tempfile
import threading
from dataclasses import asdict, replace
from pathlib import Path

from tailbound_lab.bench.rig.server import Server, example
from tailbound_lab.bench.rig.systems import parse_entry
from tailbound_lab.bench.workloads import FOLDER, WORKLOADS
from tailbound_lab.load.generator import build
from tailbound_lab.load.records import recovery_seconds

SLOWED = FOLDER / "slowed"
OBJECTIVE = 0.99


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The options of ``bench drift``."""
    made.add_argument("--workload", choices=tuple(WORKLOADS), default="accelerator")
    made.add_argument("--system", default="slo", help="policy of the watchdog [slo]")
    made.add_argument(
        "--rate", type=float, default=300.0, help="requests/s that the slow model can serve [300]"
    )
    made.add_argument(
        "--seconds", type=float, default=30.0, help="the change comes after a third of them [30]"
    )
    made.add_argument("--workers", type=int, default=2)


def main(options: argparse.Namespace, output: Path) -> int:
    """Run; 0 if attainment is back at 99% within 10 s of the change and stays there."""
    entry = parse_entry(options.system)
    workload = WORKLOADS[options.workload]
    changed = int(options.seconds / 3)
    generator = build(output)
    with tempfile.TemporaryDirectory(prefix="bench-drift-") as folder:
        flag = Path(folder) / "slow"
        extra = {"BENCH_SLOWED_FOLDER": str(workload.folder), "BENCH_SLOW_FILE": str(flag)}
        slowed = replace(workload, folder=SLOWED)
        body = example(workload)
        venvs = output / "venvs"
        with Server(entry.system, entry.settings, slowed, options.workers, body, venvs, extra) as server:
            timer = threading.Timer(changed, flag.touch)
            timer.start()
            try:
                run = generator.run(
                    server.endpoint, rate=options.rate, seconds=options.seconds, slo=workload.slo
                )
            finally:
                timer.cancel()
                timer.join()
    recovered = recovery_seconds(run.per_second, changed, OBJECTIVE)
    result = {
        "workload": workload.name,
        "system": entry.label,
        "rate": options.rate,
        "slow_from_s": changed,
        "recovered_after_s": recovered,
        "attainment": run.attainment,
        "per_second": [asdict(second) for second in run.per_second],
    }
    (output / "drift.json").write_text(json.dumps(result, indent=1) + "\n")
    for second in run.per_second:
        mark = "  <- twice as slow from here" if second.second == changed else ""
        sys.stdout.write(f"{second.second:4d} s  {second.attainment:8.2%} of {second.offered}{mark}\n")
    sys.stdout.write(f"recovered after {recovered if recovered is not None else 'never'} s\n")
    return 0 if recovered is not None and recovered <= 10 else 1
