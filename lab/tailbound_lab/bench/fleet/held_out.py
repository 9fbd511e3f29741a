"""``bench held-out``: our scaling on traces that its constants were not set on, tuned for none of them.

Beside it the oracle, which knows the trace, and the HPA on CPU as people set it up: 70%, the default window.
Simulated, as ``scaling`` is, with its routings.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from tailbound_lab.bench import page
from tailbound_lab.bench.fleet.scaling import BOUNDS, ENCODER, SECONDS, Workload, ours, played
from tailbound_lab.simulate import traces
from tailbound_lab.simulate.baselines import HpaSettings, hpa_cpu
from tailbound_lab.simulate.oracle import Oracle

SECTION: Final = "held-out"

SEED: Final = 2
"""Of the arrivals; ``scaling`` has 1."""
UTILIZATION: Final = 0.8
"""The oracle's."""
SLOW_START: Final = 40.0
"""Seconds, for some of the traces."""


def workloads(seconds: int) -> Iterator[Workload]:
    """Yield the traces: other seeds, heights, distances, rates and start-ups than those of ``scaling``."""
    day = np.tile(traces.diurnal(200.0, seconds // 6), 6)
    ramp = traces.ramp(60.0, seconds)
    for name, levels, cv2 in (
        ("spike x4 of 5 s every 600 s, other seed", traces.spike(150.0, seconds), 1.0),
        ("spike x3 of 5 s every 300 s", traces.spike(150.0, seconds, 3.0, 5, 300), 1.0),
        ("spike x6 of 8 s every 900 s", traces.spike(80.0, seconds, 6.0, 8, 900), 1.0),
        ("on 300 s, off 180 s, other seed", traces.on_off(150.0, seconds), 1.0),
        ("on 600 s, off 300 s", traces.on_off(200.0, seconds, 600, 300), 1.0),
        ("on 100 s, off 100 s", traces.on_off(100.0, seconds, 100, 100), 1.0),
        ("step x3, other seed", traces.step(150.0, seconds), 1.0),
        ("step x4 from 100/s", traces.step(100.0, seconds, 4.0), 1.0),
        ("ramp x5", ramp, 1.0),
        ("a day in 10 minutes, six of them", day, 1.0),
        ("Poisson, 40/s", traces.steady(40.0, seconds), 1.0),
        ("Poisson, 400/s", traces.steady(400.0, seconds), 1.0),
        ("Gamma, CV^2 = 4, 150/s", traces.steady(150.0, seconds), 4.0),
    ):
        yield Workload(traces.from_rates(name, levels, cv2=cv2, seed=SEED), ENCODER)
    slow = replace(ENCODER, start_up=SLOW_START)
    for name, levels in (("ramp x5", ramp), ("a day in 10 minutes, six of them", day)):
        yield Workload(traces.from_rates(f"{name}; start-up 40 s", levels, seed=SEED), slow)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench held-out``."""
    parser.add_argument("--processes", type=int, default=2, help="simulations at a time [2]")
    page.add_publish(parser)


def main(options: argparse.Namespace, _output: Path) -> int:
    """Simulate and print; 0 if ours meets the objective wherever the oracle does."""
    rows, missed = [], 0
    with ProcessPoolExecutor(options.processes) as pool:
        for name, found in pool.map(_outcomes, workloads(SECONDS)):
            page.say(f"{name}: done")
            shown = [(f"{o['attainment']:.2%}", f"{o['replica_seconds']:,.0f}") for o in found]
            rows.append((name, *(cell for cells in shown for cell in cells)))
            missed += found[0]["attainment"] < ENCODER.slo_objective <= found[1]["attainment"]
    scalers = ("`slo`", "oracle", "HPA on CPU, 70%")
    columns = [column for scaler in scalers for column in (scaler, "its replica-seconds")]
    page.show(options, SECTION, page.markdown(("trace", *columns), rows))
    return 1 if missed else 0


def _outcomes(workload: Workload) -> tuple[str, list[dict[str, Any]]]:
    """Return the trace's name and what becomes of it: under ours, the oracle and the HPA."""
    return workload.name, [
        played(workload, ours("slo")),
        played(workload, lambda at: Oracle(at.trace, at.function, UTILIZATION, BOUNDS)),
        played(workload, lambda _: hpa_cpu(BOUNDS, HpaSettings(0.7))),
    ]
