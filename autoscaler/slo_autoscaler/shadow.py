"""A function in shadow mode: what would be there if its decisions were carried out. [P]

Owns the virtual replicas, the observation that they would have given, and the score of both: the incumbent,
who really scales the function, by what is measured; the shadow by prediction. ``controller`` asks ``decide``
in between. How the two worlds differ is known of the replicas alone, so:

- What comes in, what one replica can do, and the SLO are the same in both worlds.
- With the same replicas serving, everything is the same.
- Else, with a learned capacity, the share that is served in time is what the replicas can do of what comes
  in, times what is missed for other reasons (errors): attainment as measured while the incumbent has room.
- Latency and what is in flight go with the load of a replica (the HPA's law, as in ``decide``); what is made
  of the past misses of the incumbent (burn rates, budget) says nothing of the shadow, and is no data.
- Replicas of the shadow take the configured start-up time. Requests that it would have left waiting are not
  carried over into the next interval, so a shadow that is too small for long is judged kindly.
- A shadow at zero wakes to one replica when something comes in, as the platform does.
"""

from dataclasses import dataclass, fields, replace

from slo_autoscaler.model import Scale
from slo_autoscaler.signals import SIGNALS, InShadow, Observation


@dataclass(frozen=True, slots=True)
class Score:
    """What both worlds have done since the start, over the intervals in which both can be told."""

    seconds: float = 0.0
    requests: float = 0.0
    attained_incumbent: float = 0.0
    """Requests within the SLO, as measured."""
    attained_shadow: float = 0.0
    """Requests within the SLO, as predicted."""
    replica_seconds_incumbent: float = 0.0
    """A replica counts from being asked for."""
    replica_seconds_shadow: float = 0.0

    def document(self) -> dict[str, float]:
        """Return the numbers by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Shadow:
    """The virtual replicas of one function; times are ``decide``'s ``now``."""

    desired: int
    starting: tuple[tuple[float, int], ...]
    """(when they serve, how many), the next first."""
    seen_at: float
    score: Score = Score()

    @classmethod
    def beside(cls, real: Scale, now: float) -> "Shadow":
        """Begin with the incumbent's count, all of it serving."""
        return cls(real.desired, (), now)

    def scale(self, real: Scale, now: float) -> Scale:
        """Return what a platform would say of the virtual replicas; bounds are the function's own."""
        pending = sum(count for at, count in self.starting if at > now)
        return replace(real, desired=self.desired, available=max(0, self.desired - pending))

    def wanted(self, replicas: int, start_up: float, now: float) -> "Shadow":
        """Return what becomes of it when ``replicas`` are asked for; the last to start go first."""
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
        """Return it at ``now``: the interval since it was seen last is scored, and a request wakes it.

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
        # Replicas that the source does not see are as many short in both worlds.
        return max(1.0, virtual.available - max(0.0, real.available - value))

    changed: dict[str, float | None] = {
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
    """Return the predicted share of requests within the SLO, or None if nothing can be said."""
    if rate <= 0.0 or virtual.available == real.available:
        return seen.attainment
    if seen.capacity is None or seen.attainment is None:
        # Without a capacity it is only known that more replicas would not have been worse.
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
