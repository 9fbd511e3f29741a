"""Says what disturbed a run from outside: other programs and the host, not CPU that the demo filled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tailbound_lab.load.machine import Usage
from tailbound_lab.load.openloop import Lag

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
    short = [usage for usage in seconds if usage.others > MOST_OTHERS or usage.stolen > MOST_STOLEN]
    if short:
        others, stolen = (
            sum(getattr(usage, by) for usage in short) / len(short) for by in ("others", "stolen")
        )
        sentences.append(
            f"In {len(short)} of {len(seconds)} s other programs used {others:.0%} of the CPU, "
            f"and the host of this machine took {stolen:.0%}."
        )
    if lag.p999 > MOST_LAG * slo:
        sentences.append(f"The load generator was {lag.p999 * 1e3:.0f} ms late at p99.9.")
    return " ".join(sentences)
