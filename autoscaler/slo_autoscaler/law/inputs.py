"""Tells the numbers of a decision by name. [P]

``signals.INPUTS`` has a record for each: journal, gauges, words, page and reference follow from it.
"""

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Final

from slo_autoscaler.law.limits import Limits
from slo_autoscaler.law.platform import Standing
from slo_autoscaler.law.replica import late_share
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Forecast, Hold, Need
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


def numbers(
    at: Situation,
    stands: Standing,
    need: Need | Hold,
    own: Limits | None,
    share: int | None,
    count: int | None,
) -> dict[str, float | None]:
    """Return the numbers of a decision on ``count`` (None: hold); None: unknown."""
    seen, scale, memory = at.seen, at.scale, at.memory
    inputs = _UNKNOWN.copy()
    inputs.update(zip(SIGNALS, _signals(seen), strict=True))
    inputs |= {
        "desired": scale.desired,
        "ready": scale.available,
        "pending": scale.pending,
        "arrival_rate": seen.arrival_rate,
        "start_up": stands.start_up,
        "new_node_start_up": stands.new_node_start_up,
        "boost": at.boost,
        "stuck": stands.stuck,
        "unschedulable": scale.unschedulable,
        "waiting": scale.waiting,
        "period": memory.traffic.history.period * memory.traffic.history.slot or None,
        "correction": memory.replica.calibration.factor,
        "burn_rate": seen.burn_rate,
        "late": late_share(seen),
    }
    if need.forecast is not None:
        inputs |= _forecast(need.forecast, at, scale.desired if own is None or count is None else count)
    if own is not None:
        refusal = stands.refusal
        inputs |= {
            "min": own.lowest,
            "max": own.highest,
            "recommended": need.count if isinstance(need, Need) else scale.desired,
            "share": share,
            "requested": None if refusal is None else refusal.asked,
            "granted": None if refusal is None else refusal.granted,
        }
    return inputs


_UNKNOWN: Final[dict[str, float | None]] = dict.fromkeys(INPUTS)
_signals: Final = attrgetter(*SIGNALS)


def _forecast(forecast: Forecast, at: Situation, replicas: int) -> dict[str, float | None]:
    """Return the numbers of the prediction, for so many replicas, one fewer and one more."""
    budget = at.memory.need.budget
    return {
        "predicted": forecast.late(replicas),
        "predicted_fewer": forecast.late(replicas - 1),
        "predicted_more": forecast.late(replicas + 1),
        "expected": forecast.rate,
        "allowed": forecast.allowed,
        "worth": forecast.worth,
        "unbridged": forecast.unbridged() if forecast.unbridged else None,
        "unspent": budget.remaining(at.spec.budget_period) if budget.served else None,
    }
