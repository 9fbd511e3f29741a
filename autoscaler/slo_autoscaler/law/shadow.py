"""Predicts a function in shadow mode: its replicas if the decisions were applied. [P]

Owns the virtual replicas, the observation that they would have given, and both scores: the incumbent, which
really scales the function, is measured; the shadow is predicted. ``controller`` calls ``decide`` in between.
Only the replicas differ between the two worlds, so:

- Arrivals, the capacity of a replica and the SLO are the same in both worlds.
- With the same number of serving replicas, everything is the same. Otherwise, with a learned capacity, the
  late requests differ by as many as ``law.base.curve`` predicts for both counts.
- The incumbent's misses are those that the counters add in an interval, whenever their requests arrived. So
  neither score depends on the load while they are still in a window.
- Latency and requests in flight follow the load of a replica (the HPA's formula, as in ``decide``). Numbers
  from the incumbent's past misses (burn rates, error budget) do not apply to the shadow and are no data.
- Replicas of the shadow take the start-up time that the incumbent's show, at least the configured one.
- Requests that the shadow would have left waiting are not carried into the next interval. So a shadow that is
  too small for long gets too good a score.
- A shadow at zero wakes to one replica when a request arrives, as the platform does.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from slo_autoscaler.law.base.curve import observed
from slo_autoscaler.law.memory import Memory, Requests
from slo_autoscaler.law.platform import noticed, start_up, told
from slo_autoscaler.model import Scale
from slo_autoscaler.settings.spec import Spec
from slo_autoscaler.signals.record import SIGNALS, InShadow, Observation


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
class Interval:
    """What is known of the requests of one interval."""

    end: float
    seconds: float
    requests: float
    more_late: float | None
    """Those that the shadow answers late and the incumbent does not; None: unknown."""
    waiting: float
    """Requests beyond those that the incumbent's replicas answer within the SLO, at its end."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """The virtual replicas of one function; times are ``decide``'s ``now``."""

    desired: int
    starting: tuple[tuple[float, int], ...]
    """(time from which they serve, number), the next first."""
    real: Scale
    """The incumbent's counts at the last call of ``passed``,"""
    seen_at: float
    """which was then."""
    incumbent: Requests
    """What the incumbent's replicas have shown: their start-up time."""
    score: Score = Score()
    window: tuple[Interval, ...] = ()
    """The intervals of the query window."""
    missed: tuple[float, float] = (0.0, 0.0)
    """Misses of incumbent and shadow for which no interval so far had enough requests."""

    @classmethod
    def beside(cls, real: Scale, now: float) -> "Shadow":
        """Begin with the incumbent's count, all of it serving."""
        return cls(real.desired, (), real, now, Requests.initial(real, now))

    def scale(self, real: Scale, now: float) -> Scale:
        """Return the virtual replicas as a platform would report them, with the function's own bounds."""
        pending = sum(count for at, count in self.starting if at > now)
        return replace(real, desired=self.desired, available=max(0, self.desired - pending))

    def wanted(self, replicas: int, spec: Spec, now: float) -> "Shadow":
        """Return the shadow after a request for ``replicas``; the last started are removed first."""
        starting = [(at, count) for at, count in self.starting if at > now]
        if replicas > self.desired:
            starting.append((now + start_up(self.incumbent, spec), replicas - self.desired))
        surplus = self.desired - replicas
        while surplus > 0 and starting:
            at, count = starting.pop()
            if count > surplus:
                starting.append((at, count - surplus))
            surplus -= count
        return replace(self, desired=replicas, starting=tuple(starting))

    def taught(self, memory: Memory) -> Memory:
        """Return the shadow's memory with the start-up times of real replicas: its own teach nothing."""
        real = self.incumbent
        platform = replace(
            memory.platform, start_up_time=real.start_up_time, new_node_start_up=real.new_node_start_up
        )
        return replace(memory, platform=platform)

    def passed(self, seen: Observation | None, real: Scale, spec: Spec, now: float) -> "Shadow":
        """Return the shadow at ``now``: score the interval since the last call; wake on a request.

        An interval without data, or one that is longer than a gap may be, is not scored.
        """
        after = self
        if seen is not None and 0.0 < now - self.seen_at <= spec.timing.longest_gap:
            after = self._scored(seen, now - self.seen_at, spec.timing.window)
        incumbent = told(self.incumbent, None if seen is None else seen.process_start_up)
        # What was requested before has started first: a memory knows one change between two reads.
        for scale in (replace(real, desired=self.real.desired), real):
            incumbent, _ = noticed(incumbent, spec, scale, now)
        after = replace(after, real=real, seen_at=max(now, self.seen_at), incumbent=incumbent)
        return after.wanted(1, spec, now) if seen and seen.arrival_rate and self.desired == 0 else after

    def attained(self, seen: Observation, window: float) -> float | None:
        """Return the predicted share of requests within the SLO in ``window`` seconds; None: unknown."""
        requests, missed = sum(each.requests for each in self.window), _missed(seen)
        if requests <= 0.0:
            return seen.attainment
        more = [each.more_late for each in self.window]
        if missed is None or None in more:
            return None
        # Those of the seconds that the intervals cover. Requests that wait count as soon as they wait.
        missed *= min(1.0, sum(each.seconds for each in self.window) / window)
        missed += self.window[-1].waiting - self.window[0].waiting + sum(filter(None, more))
        return 1.0 - min(max(0.0, missed / requests), 1.0)

    def _scored(self, seen: Observation, seconds: float, window: float) -> "Shadow":
        """Return the shadow with the score of an interval, by the replicas at its begin."""
        rate = seen.arrival_rate if seen.arrival_rate_now is None else seen.arrival_rate_now
        if rate is None:
            return self
        now, requests, virtual = self.seen_at + seconds, rate * seconds, self.scale(self.real, self.seen_at)
        more = _more_late(seen, rate, self.real, virtual)
        waiting = (
            max(0.0, seen.in_flight - self.real.available * seen.held)
            if seen.held and seen.in_flight
            else 0.0
        )
        interval = Interval(now, seconds, requests, None if more is None else more * requests, waiting)
        after = replace(self, window=(*(each for each in self.window if now - each.end < window), interval))
        inside = sum(each.requests for each in after.window)
        measured, attained = _missed(seen), after.attained(seen, window)
        if not inside:
            measured, attained = measured or 0.0, 1.0
        if measured is None or attained is None:
            return after
        # Each request is in the window for its whole length, and so counts once in all.
        part = seconds / window
        missed = self.missed[0] + measured * part, self.missed[1] + inside * (1.0 - attained) * part
        counted = min(missed[0], requests), min(missed[1], requests)
        score = Score(
            seconds=self.score.seconds + seconds,
            requests=self.score.requests + requests,
            attained_incumbent=self.score.attained_incumbent + (requests - counted[0]),
            attained_shadow=self.score.attained_shadow + (requests - counted[1]),
            replica_seconds_incumbent=self.score.replica_seconds_incumbent + self.real.desired * seconds,
            replica_seconds_shadow=self.score.replica_seconds_shadow + virtual.desired * seconds,
        )
        return replace(after, score=score, missed=(missed[0] - counted[0], missed[1] - counted[1]))


def imagined(seen: Observation, real: Scale, virtual: Scale, attained: float | None) -> Observation:
    """Return the observation that the virtual replicas would have given; ``attained``: their share."""
    if virtual.available == real.available or seen.arrival_rate is None:
        return replace(seen, attainment=attained)
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
        attainment=attained,
        **changed,
    )


def _missed(seen: Observation) -> float | None:
    """Return the requests of the window that missed the SLO, or None if that is unknown."""
    if not seen.samples:
        return seen.samples
    return None if seen.attainment is None else seen.samples * (1.0 - seen.attainment)


def _more_late(seen: Observation, rate: float, real: Scale, virtual: Scale) -> float | None:
    """Return by how much more of the requests the virtual replicas would answer late; None: unknown."""
    if rate <= 0.0 or virtual.available == real.available:
        return 0.0
    if seen.capacity is None or seen.slo_latency is None or seen.slo_objective is None:
        # Without a capacity only this is certain: more replicas would not have been worse.
        return 0.0 if virtual.available > real.available else None
    replica = observed(seen)
    late = [replica.late(rate / count) if count else 1.0 for count in (virtual.available, real.available)]
    return late[0] - late[1]
