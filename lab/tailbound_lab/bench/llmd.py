"""``bench llmd``: streams under our scaling, beside llm-d's published loop for latency targets.

llm-d's guide (github.com/llm-d/llm-d d38c9f0, guides/workload-autoscaling/README.slo-aware.md) scales a model
of 32 billion parameters on two H100s a replica: 4,000 tokens in, 1,000 out, the first within 3 s, 100 ms for
each further one, 3 to 8 replicas, 100 s to start one. Its load, ``RAMP``, is played here, and the pool drains
to the floor. Requests go to the replica with the fewest.

The simulated replica is set by the guide's figures of its own loop alone: 1.4 to 1.5 requests/s for each, a
saturation that holds 8 replicas from 6 to 10 requests/s, a static pool of 8 without a miss, ``PUBLISHED``. A
piece stands for ``TOKENS`` tokens. llm-d's replicas start requests in order of arrival, ours by deadline.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from tailbound_lab.bench.rig.ours import ours
from tailbound_lab.bench.rig.pool import play_all
from tailbound_lab.bench.rig.record import Record, Row, Run, markdown
from tailbound_lab.simulate import traces
from tailbound_lab.simulate.baselines import Bounds, LlmdSlo, LlmdSloSettings
from tailbound_lab.simulate.function import Function, Routing, Scaler, Service, Streaming, View
from tailbound_lab.simulate.world import Settings, run

RAMP: Final = ((2, 330), (4, 360), (6, 360), (8, 360), (10, 360), (4, 360), (1, 300))
"""Requests per second, and for how many seconds."""
DRAIN: Final = 1800
"""Most seconds after the load."""
BOUNDS: Final = Bounds(3, 8)
TOKENS: Final = 5
"""Of one piece: each costs as much as one of a token, and simulations take a fifth of the time."""
STEP: Final = (0.024, 0.00012)
"""Seconds of one token of n streams: the first, and the second for each of them."""
PREFILL: Final = 0.3
"""Seconds that a request's prompt takes of its replica."""
MEMORY: Final = 96
"""Streams whose key-value cache fits on a replica."""
DRAWS: Final = (1, 2, 3)
"""Seeds of arrivals and routing."""
OURS: Final = "Tailbound"
LLMD: Final = "llm-d"
STATIC: Final = "8 replicas"
PUBLISHED: Final[Mapping[str, tuple[float, float]]] = {STATIC: (1.0, 8.0), LLMD: (0.958, 5.93)}
"""Share of requests within both targets, and mean replicas, by the guide."""
NEAR: Final = (0.02, 0.3)
"""How far a figure may be from the published one."""


def function(*, in_order: bool) -> Function:
    """Return the replica; ``in_order``: as vLLM serves."""
    base, per = (TOKENS * seconds for seconds in STEP)
    return Function(
        Service.affine(base, per, MEMORY),
        slo_latency=3.0,
        start_up=100.0,
        timeout=900.0,
        routing=Routing.LEAST_LOADED,
        streaming=Streaming(PREFILL, 0.1 * TOKENS, 900 // TOKENS, 1100 // TOKENS, in_order=in_order),
    )


@dataclass(frozen=True, slots=True)
class Static:
    """A count that stays."""

    replicas: int
    name: str = STATIC
    interval: float = 60.0
    phase: float = 0.0

    def scale(self, view: View, now: float) -> int | None:
        """Return the count."""
        return self.replicas


SYSTEMS: Final[Mapping[str, tuple[bool, Callable[[], Scaler]]]] = {
    STATIC: (True, lambda: Static(8)),
    LLMD: (True, lambda: LlmdSlo(BOUNDS, LlmdSloSettings(), function(in_order=True))),
    f"{LLMD}, requests by deadline": (
        False,
        lambda: LlmdSlo(BOUNDS, LlmdSloSettings(), function(in_order=False)),
    ),
    OURS: (False, lambda: ours(OURS, min_replicas=BOUNDS.lowest, max_replicas=BOUNDS.highest)),
}
"""Whether requests are served in order, and the scaler."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench llmd``."""
    add = parser.add_argument
    add("--only", metavar="NAME;...", help=f"of {'; '.join(SYSTEMS)} [all]")
    add("--processes", type=int, default=os.cpu_count(), help="simulations at a time [one for each core]")


def main(options: argparse.Namespace, run: Run) -> int:
    """Play; 1 if llm-d's loop or the static pool differs from its published figures."""
    chosen = options.only.split(";") if options.only else list(SYSTEMS)
    plays = [partial(play, system, seed) for system in chosen for seed in DRAWS]
    return int(not all(near(row) for row in means(run.keep(play_all(plays, options.processes)).rows)))


def play(system: str, seed: int) -> Row:
    """Return what became of one draw."""
    in_order, scaler = SYSTEMS[system]
    levels = np.concatenate([*(np.full(seconds, float(rate)) for rate, seconds in RAMP), np.zeros(DRAIN)])
    trace = traces.from_rates("ramp", levels, seed=seed)
    settings = Settings(BOUNDS.lowest, BOUNDS.highest, BOUNDS.lowest, seed=seed)
    if system == STATIC:
        settings = replace(settings, lowest=8, replicas=8)
    outcome = run(trace, function(in_order=in_order), scaler(), settings)
    desired, loaded = outcome.series.desired, sum(seconds for _, seconds in RAMP)
    drained = np.flatnonzero(desired[loaded:] == settings.lowest)
    end = loaded + int(drained[0]) if len(drained) else len(desired)
    return {
        "system": system,
        "seed": seed,
        "attainment": outcome.attainment,
        "replicas": float(desired[:end].mean()),
        "changes": outcome.changes,
    }


def means(rows: Sequence[Row]) -> list[Row]:
    """Return one row for each system, the mean over its draws."""
    return [
        {
            "system": system,
            **{
                key: sum(row[key] for row in rows if row["system"] == system)
                / sum(row["system"] == system for row in rows)
                for key in ("attainment", "replicas", "changes")
            },
        }
        for system in dict.fromkeys(row["system"] for row in rows)
    ]


def near(row: Row) -> bool:
    """Return whether a system's figures are close to the published ones, if there are any."""
    published = PUBLISHED.get(row["system"])
    if published is None:
        return True
    played = row["attainment"], row["replicas"]
    return all(abs(a - b) <= most for a, b, most in zip(played, published, NEAR, strict=True))


def table(record: Record) -> str:
    """Return each system as published and as played."""
    lines = []
    for row in means(record.rows):
        share, replicas = PUBLISHED.get(row["system"], (None, None))
        lines.append(
            (
                row["system"],
                "-" if share is None else f"{share:.1%}",
                f"{row['attainment']:.1%}",
                "-" if replicas is None else f"{replicas:.2f}",
                f"{row['replicas']:.2f}",
                f"{row['changes']:.0f}",
            )
        )
    columns = (
        "system",
        "within both targets, published",
        "simulated",
        "mean replicas, published",
        "simulated",
        "changes of the count",
    )
    return markdown(columns, lines)
