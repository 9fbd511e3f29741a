"""``bench validate``: replays the last run of ``bench live`` in the simulator, and compares the two.

The simulator gets the live run's arrivals, configuration, start-up time, learned capacity and mean time of
batches. The compared numbers are not inputs.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from slo_autoscaler.config import Config
from tailbound_lab.bench import page
from tailbound_lab.bench.fleet.live import COMMUNITY, NAMES, OURS
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate import traces
from tailbound_lab.simulate.baselines import Bounds, OpenFaas, OpenFaasRule
from tailbound_lab.simulate.function import Function, Routing, Scaler, Service
from tailbound_lab.simulate.scalers import DecideScaler
from tailbound_lab.simulate.world import Outcome, Settings, run

SECTION: Final = "validation"

POINTS: Final = 0.02
"""Allowed difference of attainment."""
SHARE: Final = 0.10
"""Allowed relative difference of replica-seconds."""
BOUNDS: Final = Bounds(1, 5)
"""The local platform's, as OpenFaaS CE's."""
EVALUATION: Final = 1.0
"""Seconds between two evaluations of OpenFaaS CE's alert: as in deploy/prometheus/prometheus-local.yml."""

_COLUMNS: Final = (
    *("scaled by", "within SLO, live", "simulated", "points apart"),
    *("replica-seconds, live", "simulated", "apart", "changes, live", "simulated", "near enough"),
)


add_arguments = page.add_publish


def main(options: argparse.Namespace, output: Path) -> int:
    """Replay, compare, print; 0 if the two agree."""
    document = page.read(output / "live.json")
    compared = replay(document)
    page.show(options, SECTION, _shown(document, compared))
    return 0 if all(agree(lived, simulated) for lived, simulated in compared.values()) else 1


def replay(document: Mapping[str, Any]) -> dict[str, tuple[Mapping[str, Any], Outcome]]:
    """Return for each scaler its live outcome and its simulated one."""
    config = Config.parse(str(document["config"]), "live.json")
    spec = config.target(f"{document['function']}.openfaas-fn")
    scalers: dict[str, Callable[[], Scaler]] = {
        OURS: lambda: DecideScaler(spec, config.interval, 0.0),
        COMMUNITY: lambda: OpenFaas(BOUNDS, OpenFaasRule(evaluation=EVALUATION)),
    }
    trace = traces.Trace("live", np.array(document["arrivals"]), float(document["seconds"]))
    prometheus = config.prometheus
    settings = Settings(
        lowest=BOUNDS.lowest,
        highest=BOUNDS.highest,
        replicas=int(document[OURS]["replicas"][0][1]),
        scrape_interval=prometheus.scrape_interval,
        window=prometheus.window,
        rate_window=prometheus.rate_window,
    )
    return {
        key: (document[key], run(trace, function_of(document, document[key]), make(), settings))
        for key, make in scalers.items()
        if key in document
    }


def function_of(document: Mapping[str, Any], lived: Mapping[str, Any]) -> Function:
    """Return the function with the measurements of one live run.

    The watchdogs export an upper quantile per size, and the mean over all batches, to which the quantiles are
    scaled. Raises ``BenchError`` if the run measured no mean.
    """
    quantiles = [float(took) for _, took in sorted(document["service"].items(), key=lambda i: int(i[0]))]
    mean_size, mean_service = lived["mean_batch_size"], lived["mean_service"]
    if not mean_size or not mean_service:
        raise BenchError("live.json: no batch was measured; there is nothing to simulate with")
    expected = float(np.interp(mean_size, range(1, len(quantiles) + 1), quantiles))
    return Function(
        Service(tuple(seconds * mean_service / expected for seconds in quantiles)),
        workers=document["workers"],
        slo_latency=document["slo_latency"],
        slo_objective=document["slo_objective"],
        start_up=document["start_up"],
        learned_capacity=lived["capacity"],
        routing=Routing(document["routing"]),
    )


def agree(lived: Mapping[str, Any], simulated: Outcome) -> bool:
    """Return whether the simulation is within the allowed differences."""
    points = abs(simulated.attainment - lived["attainment"])
    share = abs(simulated.replica_seconds / lived["replica_seconds"] - 1.0)
    return bool(points <= POINTS and share <= SHARE)


def _shown(document: Mapping[str, Any], compared: Mapping[str, tuple[Mapping[str, Any], Outcome]]) -> str:
    """Return the comparison as Markdown."""
    rows = [
        (
            NAMES[key],
            f"{lived['attainment']:.2%}",
            f"{simulated.attainment:.2%}",
            f"{100 * (simulated.attainment - lived['attainment']):+.2f}",
            f"{lived['replica_seconds']:,.0f}",
            f"{simulated.replica_seconds:,.0f}",
            f"{simulated.replica_seconds / lived['replica_seconds'] - 1:+.1%}",
            f"{len(lived['changes'])}",
            f"{simulated.changes}",
            "yes" if agree(lived, simulated) else "**no**",
        )
        for key, (lived, simulated) in compared.items()
    ]
    head = (
        f"The live run of {document['date']} with seed {document['seed']}, {document['seconds']:g} s;"
        f" {100 * POINTS:g} points and {SHARE:.0%} may lie between the two."
    )
    return f"{head}\n\n{page.markdown(_COLUMNS, rows)}"
