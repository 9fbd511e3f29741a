"""``bench validate``: the last run of ``bench live`` again in the simulator, and how far apart the two are.

The simulator is given what the live run had: the arrivals, the configuration, how long a replica took to
start, the capacity that the batchers had learned, and how long batches took in the mean. It is not given
what is compared.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from slo_autoscaler.config import Config
from tailbound_lab.bench import live_report
from tailbound_lab.bench.page import PAGE, marks, rewrite
from tailbound_lab.load.records import BenchError
from tailbound_lab.simulate import traces
from tailbound_lab.simulate.baselines import Bounds, OpenFaas, OpenFaasRule
from tailbound_lab.simulate.function import Function, Routing, Service
from tailbound_lab.simulate.scalers import Ours, Scaler
from tailbound_lab.simulate.world import Outcome, Settings, run

SECTION: Final = "validation"
BEGIN, END = marks(SECTION)

POINTS: Final = 0.02
"""Attainment may differ by so much."""

SHARE: Final = 0.10
"""Replica-seconds may differ by so much."""

BOUNDS: Final = Bounds(1, 5)
"""The local platform's, as OpenFaaS CE's."""

EVALUATION: Final = 1.0
"""Seconds between two looks at OpenFaaS CE's alert: as in lab/prometheus/prometheus.yml."""

_COLUMNS: Final = (
    "scaled by",
    "in time, live",
    "simulated",
    "points apart",
    "replica-seconds, live",
    "simulated",
    "apart",
    "changes, live",
    "simulated",
)


def add_arguments(made: argparse.ArgumentParser) -> None:
    """The options of ``bench validate``."""
    made.add_argument("--publish", action="store_true", help="rewrite the section of docs/benchmarks.md")


def main(options: argparse.Namespace, output: Path) -> int:
    """Replay, compare, print; 0 if the two agree."""
    document = live_report.read(output / "live.json")
    compared = replay(document)
    lines = ["  ".join(cells) for cells in (_COLUMNS, *rows(compared))]
    sys.stdout.write("\n".join([_headline(document), "", *lines, ""]))
    if options.publish:
        rewrite(PAGE, SECTION, lambda: section(document, compared))
    return 0 if all(agree(lived, simulated) for lived, simulated in compared.values()) else 1


def replay(document: Mapping[str, Any]) -> dict[str, tuple[Mapping[str, Any], Outcome]]:
    """Return for each scaler that ran what it did live, and what it does in the simulator."""
    config = Config.parse(str(document["config"]), "live.json")
    spec = config.target(f"{document['function']}.openfaas-fn")
    scalers: dict[str, Callable[[], Scaler]] = {
        "ours": lambda: Ours(spec, config.interval, 0.0),
        "openfaas_ce": lambda: OpenFaas(BOUNDS, OpenFaasRule(evaluation=EVALUATION)),
    }
    trace = traces.Trace("live", np.array(document["arrivals"]), float(document["seconds"]))
    prometheus = config.prometheus
    settings = Settings(
        lowest=BOUNDS.lowest,
        highest=BOUNDS.highest,
        replicas=int(document["ours"]["replicas"][0][1]),
        scrape_interval=prometheus.scrape_interval,
        window=prometheus.window,
        rate_window=prometheus.rate_window,
        # The rule is about 30 days, and says nothing in a run's first minutes.
        budget=False,
    )
    return {
        key: (document[key], run(trace, function_of(document, document[key]), make(), settings))
        for key, make in scalers.items()
        if key in document
    }


def function_of(document: Mapping[str, Any], lived: Mapping[str, Any]) -> Function:
    """Return the function as one live run found it.

    The watchdogs tell an upper quantile for each size and the mean over all batches; so the quantiles are
    brought down to that mean. Raises ``BenchError`` if the run measured no mean.
    """
    quantiles = [
        float(seconds) for _, seconds in sorted(document["service"].items(), key=lambda i: int(i[0]))
    ]
    mean_size, mean_service = lived["mean_batch_size"], lived["mean_service"]
    if not mean_size or not mean_service:
        raise BenchError("live.json: no batch was measured; there is nothing to simulate with")
    below = min(int(mean_size), len(quantiles))
    above = min(below + 1, len(quantiles))
    expected = quantiles[below - 1] + (mean_size - below) * (quantiles[above - 1] - quantiles[below - 1])
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
    """Tell whether the simulation is near enough."""
    points = abs(simulated.attainment - lived["attainment"])
    share = abs(simulated.replica_seconds / lived["replica_seconds"] - 1.0)
    return bool(points <= POINTS and share <= SHARE)


def rows(compared: Mapping[str, tuple[Mapping[str, Any], Outcome]]) -> list[tuple[str, ...]]:
    """Return the cells of the table, one row for each scaler."""
    return [
        (
            live_report.NAMES[key],
            f"{lived['attainment']:.2%}",
            f"{simulated.attainment:.2%}",
            f"{100 * (simulated.attainment - lived['attainment']):+.2f}",
            f"{lived['replica_seconds']:,.0f}",
            f"{simulated.replica_seconds:,.0f}",
            f"{simulated.replica_seconds / lived['replica_seconds'] - 1:+.1%}",
            f"{len(lived['changes'])}",
            f"{simulated.changes}",
        )
        for key, (lived, simulated) in compared.items()
    ]


def section(document: Mapping[str, Any], compared: Mapping[str, tuple[Mapping[str, Any], Outcome]]) -> str:
    """Return the comparison as Markdown."""
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *rows(compared)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    verdicts = [
        f"- {live_report.NAMES[key]}: {'near enough' if agree(*found) else '**too far apart**'}"
        for key, found in compared.items()
    ]
    return "\n\n".join([_headline(document), table, "\n".join(verdicts)])


def _headline(document: Mapping[str, Any]) -> str:
    return (
        f"The live run of {document['date']} with seed {document['seed']}, {document['seconds']:g} s;"
        f" {100 * POINTS:g} points and {SHARE:.0%} may lie between the two."
    )
