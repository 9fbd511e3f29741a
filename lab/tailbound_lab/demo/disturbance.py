"""Says what disturbed a run: on a machine without CPU to spare every scaler misses its SLO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tailbound_lab.load.machine import Usage
from tailbound_lab.load.openloop import Lag

LEAST_IDLE: Final = 0.1
"""Share of a second's CPU below which requests wait for a core."""

MOST_OTHERS: Final = 0.25
"""Share of a second's CPU that other programs may use: half a core of two."""

MOST_STOLEN: Final = 0.05
"""Share of a second's CPU that the host may take: it stops a core for as long."""

MOST_LAG: Final = 0.05
"""Share of the tightest SLO by which the generator may be late at p99.9."""


def disturbance(seconds: Sequence[Usage], lag: Lag, slo: float) -> str:
    """Return what disturbed a run, as sentences; empty: nothing did.

    ``seconds`` has the usage of each second of the run, ``slo`` is the tightest one, in seconds.
    """
    sentences = []
    short = [second for second in seconds if _is_short(second)]
    if short:
        own, others, stolen = (
            sum(values) / len(short)
            for values in zip(*((each.own, each.others, each.stolen) for each in short), strict=True)
        )
        sentences.append(
            f"CPU was short in {len(short)} of {len(seconds)} s. Other programs used {others:.0%} of it, "
            f"the host of this machine took {stolen:.0%}, the demo used {own:.0%}."
        )
    if lag.p999 > MOST_LAG * slo:
        sentences.append(f"The load generator was {lag.p999 * 1e3:.0f} ms late at p99.9.")
    return " ".join(sentences)


def _is_short(second: Usage) -> bool:
    return second.idle < LEAST_IDLE or second.others > MOST_OTHERS or second.stolen > MOST_STOLEN
