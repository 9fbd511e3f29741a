"""Predicts a function in shadow mode: its replicas if the decisions were applied. [P]

Owns the virtual replicas, the observation that they would have given, and both scores: the incumbent, which
really scales the function, is measured; the shadow is predicted. ``controller`` calls ``decide`` in between.
Only the replicas differ between the two worlds, so:

- Arrivals, the capacity of a replica and the SLO are the same in both worlds.
- With the same number of serving replicas, everything is the same.
- Otherwise, with a learned capacity, the share on time is capacity over arrivals, at most 1, times the share
  without errors: the attainment measured while the incumbent has headroom.
- Latency and requests in flight follow the load of a replica (the HPA's formula, as in ``decide``). Numbers
  from the incumbent's past misses (burn rates, error budget) do not apply to the shadow and are no data.
- Replicas of the shadow take the configured start-up time. Requests that it would have left waiting are not
  carried into the next interval. So a shadow that is too small for long gets too good a score.
- A shadow at zero wakes to one replica when a request arrives, as the platform does.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from slo_autoscaler.model import Scale
from slo_autoscaler.signals import SIGNALS, InShadow, Observation


@dataclass(frozen=True, slots=True)
class Score:
    """The results of both worlds since the start, over the intervals in which both are known."""

    seconds: float = 0.0
    requests: float = 0.0
    attained_incumbent: float = 0.0
    """Requests within the SLO, as measured."""
    attained_shadow: float = 0.0
    """Requests within the SLO, as predicted."""
    replica_seconds_incumbent: float = 0.0
    """A replica counts from its request on."""
    replica_seconds_shadow: float = 0.0

    def document(self) -> dict[str, float]:
        """Return the numbers by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Shadow:
    """The virtual replicas of one function; times are ``decide``'s ``now``."""

    desired: int
    starting: tuple[tuple[float, int], ...]
    """(time from which they serve, number), the next first."""
    seen_at: float
    score: Score = Score()

    @classmethod
    def beside(cls, real: Scale, now: float) -> "Shadow":
        """Begin with the incumbent's count, all of it serving."""
        return cls(real.desired, (), now)

    def scale(self, real: Scale, now: float) -> Scale:
        """Return the virtual replicas as a platform would report them, with the function's own bounds."""
        pending = sum(count for at, count in self.starting if at > now)
        return replace(real, desired=self.desired, available=max(0, self.desired - pending))

    def wanted(self, replicas: int, start_up: float, now: float) -> "Shadow":
        """Return the shadow after a request for ``replicas``; the last started are removed first."""
        starting = [(at, count) for at, count in self.starting if at > now]
        if replicas > self.desired:
            starting.append((now + start_up, replicas - self.desired))
        surplus = self.desired - replicas
        while surplus > 0 and starting:
            at, count = starting.pop()
            if count > surplus:
                starting.append((at, count - surplus))
            surplus -= count
        return replace(self, desired=replicas, starting=tuple(starting))

    def passed(
        self, seen: Observation | None, real: Scale, start_up: float, longest: float, now: float
    ) -> "Shadow":
        """Return the shadow at ``now``: score the interval since the last call; wake on a request.

        An interval without data, or one longer than ``longest`` seconds, is not scored.
        """
        virtual = self.scale(real, now)
        seconds = now - self.seen_at
        score = self.score
        rate = None if seen is None else seen.arrival_rate
        if seen is not None and rate is not None and 0.0 < seconds <= longest:
            score = _scored(score, seen, rate, real, virtual, seconds)
        after = replace(self, seen_at=max(now, self.seen_at), score=score)
        return after.wanted(1, start_up, now) if rate and self.desired == 0 else after


def imagined(seen: Observation, real: Scale, virtual: Scale) -> Observation:
    """Return the observation that the virtual replicas would have given."""
    if virtual.available == real.available or seen.arrival_rate is None:
        return seen
    share = max(1, real.available) / max(1, virtual.available)

    def shadowed(value: float, how: InShadow) -> float:
        if how is InShadow.BY_LOAD:
            return value * share
        # As many replicas are missing from the source in both worlds.
        return max(1.0, virtual.available - max(0.0, real.available - value))

    changed: dict[str, Any] = {
        name: None
        if (value := getattr(seen, name)) is None or signal.in_shadow is InShadow.UNKNOWN
        else shadowed(value, signal.in_shadow)
        for name, signal in SIGNALS.items()
        if signal.in_shadow is not InShadow.SAME
    }
    return replace(
        seen,
        rate=seen.arrival_rate,
        gateway_rate=None,
        in_flight_growth=None,
        attainment=_attained(seen, seen.arrival_rate, real, virtual),
        **changed,
    )


def _attained(seen: Observation, rate: float, real: Scale, virtual: Scale) -> float | None:
    """Return the predicted share of requests within the SLO, or None if it is unknown."""
    if rate <= 0.0 or virtual.available == real.available:
        return seen.attainment
    if seen.capacity is None or seen.attainment is None:
        # Without a capacity only this is certain: more replicas would not have been worse.
        return seen.attainment if virtual.available > real.available else None
    by_room = min(1.0, virtual.available * seen.capacity / rate)
    for_other_reasons = seen.attainment if rate <= real.available * seen.capacity else 1.0
    return by_room * for_other_reasons


def _scored(
    score: Score, seen: Observation, rate: float, real: Scale, virtual: Scale, seconds: float
) -> Score:
    predicted = _attained(seen, rate, real, virtual)
    requests = rate * seconds
    if requests > 0.0 and (predicted is None or seen.attainment is None):
        return score
    return Score(
        seconds=score.seconds + seconds,
        requests=score.requests + requests,
        attained_incumbent=score.attained_incumbent + requests * (seen.attainment or 0.0),
        attained_shadow=score.attained_shadow + requests * (predicted or 0.0),
        replica_seconds_incumbent=score.replica_seconds_incumbent + real.desired * seconds,
        replica_seconds_shadow=score.replica_seconds_shadow + virtual.desired * seconds,
    )
