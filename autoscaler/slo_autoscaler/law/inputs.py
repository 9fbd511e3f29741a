"""Tells the numbers of a decision by name. [P]

``signals.INPUTS`` has a record for each: journal, gauges, words, page and reference follow from it.
"""

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Final

from slo_autoscaler.law.recommend import late_share
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Recommendation
from slo_autoscaler.signals.record import INPUTS, SIGNALS


class Inputs(Mapping[str, float | None]):
    """The numbers of a decision, made when the first of them is read.

    Most decisions repeat the last one: only a scrape, or a reader of decisions, asks for their numbers.
    """

    __slots__ = ("_make", "_numbers")

    def __init__(self, make: Callable[[], dict[str, float | None]]) -> None:
        self._make = make
        self._numbers: dict[str, float | None] | None = None

    def __getitem__(self, name: str) -> float | None:
        """Return one number; None: unknown."""
        return self._made()[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names, in the order of ``INPUTS``."""
        return iter(self._made())

    def __len__(self) -> int:
        """Return how many numbers there are."""
        return len(self._made())

    def _made(self) -> dict[str, float | None]:
        if self._numbers is None:
            self._numbers = self._make()
        return self._numbers


def numbers(at: Situation, recommendation: Recommendation) -> dict[str, float | None]:
    """Return the numbers of a decision; None: unknown."""
    seen, scale, memory = at.seen, at.scale, at.memory
    inputs = _UNKNOWN.copy()
    inputs.update(zip(SIGNALS, _signals(seen), strict=True))
    inputs |= {
        "desired": scale.desired,
        "ready": scale.available,
        "pending": scale.pending,
        "arrival_rate": seen.arrival_rate,
        "start_up": memory.start_up(at.spec),
        "new_node_start_up": memory.new_node_start_up,
        "boost": at.boost,
        "stuck": memory.stuck(at.spec, at.now),
        "unschedulable": scale.unschedulable,
        "waiting": scale.waiting,
        "period": memory.history.period * memory.history.slot or None,
        "correction": memory.calibration.factor,
        "burn_rate": seen.burn_rate,
        "late": late_share(seen),
    }
    if recommendation.late is not None:
        inputs |= {
            **predicted(recommendation, scale.desired),
            "expected": recommendation.rate,
            "allowed": recommendation.allowed,
            "worth": recommendation.worth,
            "unbridged": recommendation.unbridged() if recommendation.unbridged else None,
            "unspent": memory.budget.remaining(at.spec.budget_period) if memory.budget.served else None,
        }
    return inputs


_UNKNOWN: Final[dict[str, float | None]] = dict.fromkeys(INPUTS)
_signals: Final = attrgetter(*SIGNALS)


def predicted(recommendation: Recommendation, replicas: int) -> dict[str, float | None]:
    """Return the late shares predicted with so many replicas, one fewer and one more; {} without any."""
    if recommendation.late is None:
        return {}
    return {
        "predicted": recommendation.late(replicas),
        "predicted_fewer": recommendation.late(replicas - 1),
        "predicted_more": recommendation.late(replicas + 1),
    }
