"""The program that answers a what-if: ``python -m slo_autoscaler.web.simulation``.

One JSON object on the standard input, one on the standard output: ``runs`` and ``times``, or ``error``. A
process of its own, so that it can be killed, and so that what the simulator needs is never in the
autoscaler's. ``whatif`` says what comes in.
"""

import json
import math
import os
import sys
from dataclasses import replace
from typing import Any, Final

import numpy as np

from slo_autoscaler.model import RateLimit, TargetSpec
from tailbound_lab.simulate import catalog, world
from tailbound_lab.simulate.baselines import Bounds
from tailbound_lab.simulate.errors import SimulationError
from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.scalers import Scaler, View
from tailbound_lab.simulate.traces import Trace, from_rates

NICENESS: Final = 10

BINS: Final = 240
"""Of the series that are given back."""


def main() -> int:
    """Answer the question on the standard input; return the exit status."""
    os.nice(NICENESS)
    job = json.load(sys.stdin)
    try:
        answer = answered(job)
    except SimulationError as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout, allow_nan=False)
    return 0


def answered(job: dict[str, Any]) -> dict[str, Any]:
    """Play the same arrivals once for each of ``job["runs"]``."""
    trace = from_rates(job["name"], job["rates"])
    width = max(1, math.ceil(trace.duration / BINS))
    return {
        "bin": width,
        "times": [index * width for index in range(math.ceil(trace.duration / width))],
        "runs": [_played(job, trace, run, width) for run in job["runs"]],
    }


def _played(job: dict[str, Any], trace: Trace, run: dict[str, Any], width: int) -> dict[str, Any]:
    lowest, highest = min(job["lowest"], run["max_replicas"]), run["max_replicas"]
    function = Function(
        service=Service(tuple(job["service"])),
        workers=job["workers"],
        slo_latency=run["slo_latency"],
        slo_objective=job["slo_objective"],
        start_up=job["start_up"],
        timeout=max(30.0, run["slo_latency"]),
    )
    raw = job["spec"]
    spec = TargetSpec(**{**raw, "up": RateLimit(**raw["up"]), "down": RateLimit(**raw["down"])})
    situation = catalog.Situation(
        trace=trace,
        function=function,
        bounds=Bounds(lowest, highest),
        spec=replace(spec, min_replicas=lowest, max_replicas=highest),
        interval=job["interval"],
        # Half a scrape interval after a scrape: neither lucky nor unlucky.
        phase=job["scrape_interval"] / 2,
    )
    replicas = None if job["replicas"] is None else min(max(job["replicas"], lowest), highest)
    settings = world.Settings(
        lowest=lowest,
        highest=highest,
        replicas=replicas,
        scrape_interval=job["scrape_interval"],
        window=job["window"],
        rate_window=job["rate_window"],
    )
    scaler = _Watched(catalog.make(run["policy"], situation))
    outcome = world.run(trace, function, scaler, settings)
    seen = outcome.series
    arrivals, good = _sums(seen.arrivals, width), _sums(seen.good, width)
    return {
        **run,
        "attainment": outcome.attainment,
        **{
            name: value if math.isfinite(value) else None
            for name, value in (("p50", outcome.p50), ("p95", outcome.p95), ("p99", outcome.p99))
        },
        "replica_seconds": outcome.replica_seconds,
        "most": outcome.most,
        "changes": outcome.changes,
        "desired": [int(max(part)) for part in _parts(seen.desired, width)],
        "p99_seen": scaler.worst(len(arrivals), width),
        "offered": [float(f"{each / width:.5g}") for each in arrivals],
        "attained": [
            float(f"{min(1.0, inside / came):.5g}") if came else None
            for inside, came in zip(good, arrivals, strict=True)
        ],
    }


class _Watched:
    """A scaler, and the p99 that Prometheus would have shown each time that it looked."""

    def __init__(self, scaler: Scaler) -> None:
        self.name, self.interval, self.phase = scaler.name, scaler.interval, scaler.phase
        self._scaler = scaler
        self._seen: list[tuple[float, float]] = []

    def scale(self, view: View, now: float) -> int | None:
        """Let it decide."""
        seen = view.observe()
        if seen is not None and seen.p99 is not None and math.isfinite(seen.p99):
            self._seen.append((now, seen.p99))
        return self._scaler.scale(view, now)

    def worst(self, bins: int, width: int) -> list[float | None]:
        """Return the highest of each bin; one without a look is like the one before it."""
        found: list[float | None] = [None] * bins
        for when, seconds in self._seen:
            index = min(bins - 1, int(when / width))
            found[index] = max(found[index] or 0.0, float(f"{seconds:.5g}"))
        for index in range(1, bins):
            found[index] = found[index - 1] if found[index] is None else found[index]
        return found


def _parts(values: Any, width: int) -> list[Any]:
    return np.split(values, range(width, len(values), width))


def _sums(values: Any, width: int) -> list[float]:
    return [float(np.sum(part)) for part in _parts(values, width)]


if __name__ == "__main__":
    sys.exit(main())
