"""What the scaling law remembers of a function between reconciles. [P]

Values, and how they move with time: what a look at the platform says of what was asked for, and of replicas
that start. What is learned of the traffic is in ``scenarios``, ``periodicity`` and ``budget``. Times are
``decide``'s ``now``, in seconds.

Next step: ``recommend`` and ``decide`` read and renew it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from slo_autoscaler.law.budget import Budget
from slo_autoscaler.law.periodicity import Periodicity
from slo_autoscaler.law.scenarios import Moments
from slo_autoscaler.model import Scale
from slo_autoscaler.spec import Spec

READY_BY: Final = 2.0
"""Start-ups after which a replica that does not serve yet is no supply."""
REFUSED_AFTER_READS: Final = 3
"""Reads after which a count below what was asked for is the platform's word, and no stale read."""
LONGEST_START_UP: Final = 600.0
"""Seconds: what took longer to become ready was broken, and says nothing of a start."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A count that was asked for, until it is seen what became of it."""

    before: int
    replicas: int
    reads: int = 0
    """Reads since then that did not say so yet."""

    def awaited(self, desired: int) -> bool:
        """Tell whether a read of ``desired`` lies between the count before and the one asked for."""
        low, high = sorted((self.before, self.replicas))
        return desired != self.replicas and low <= desired <= high


@dataclass(frozen=True, slots=True)
class Refusal:
    """The platform gave less than was asked for."""

    asked: int
    granted: int
    until: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What ``decide`` remembers of one function from one reconcile to the next."""

    seen_at: float
    """When usable data were last seen."""
    observed: float = 0.0
    """Seconds with usable data: the clock of ``needs``, so that a gap is no time in which less was enough."""
    asked: Asked | None = None
    refusal: Refusal | None = None
    pending: tuple[tuple[float, bool], ...] = ()
    """(since when a replica is awaited, whether it was asked for then and never served), in order."""
    start_up_time: float | None = None
    """Learned; None until a replica was seen to start."""
    scaled_at: float | None = None
    scaled_up_at: float | None = None
    idle_since: float | None = None
    """Since when, without a gap, the data say that there is no request at all."""
    available: int = 0
    """Replicas that served at the last look."""
    needs: tuple[tuple[float, int], ...] = ()
    """(``observed``, replicas that were needed then), each larger than all after it."""
    late_shares: tuple[tuple[float, float], ...] = ()
    """(when, late share that the curve gave for the load), of the last minute."""
    stalled: float = 0.0
    """Requests that were hanging at the last look: each is late once."""
    moments: Moments = field(default_factory=Moments)
    periodicity: Periodicity = field(default_factory=Periodicity)
    budget: Budget = field(default_factory=Budget)

    @classmethod
    def initial(cls, scale: Scale, now: float) -> "Memory":
        """Start from what is there: the current count was needed, so a restart makes no dip at a peak."""
        return cls(seen_at=now, needs=((0.0, scale.desired),), available=scale.available)

    def start_up(self, spec: Spec) -> float:
        """Seconds; a platform may call a replica available early, so what is configured is the least."""
        return max(spec.start_up_time, self.start_up_time or 0.0)

    def held(self, spec: Spec) -> float:
        """Return for how many seconds fewer must have been enough before a replica is given away."""
        return self.start_up(spec) + spec.scale_down.stabilization_window

    def stuck(self, spec: Spec, now: float) -> int:
        """Return how many replicas should serve by now and do not: no supply."""
        if not self.pending:
            return 0
        return sum(now - since > READY_BY * self.start_up(spec) for since, _ in self.pending)

    def idle(self, since: float | None) -> "Memory":
        """Return the same with another ``idle_since``."""
        return self if since == self.idle_since else replace(self, idle_since=since)

    def with_data(self, spec: Spec, now: float, **learned: Any) -> "Memory":
        """Return the memory after a look at usable data, with the fields that were ``learned`` by it."""
        passed, interval = max(0.0, now - self.seen_at), spec.timing.interval
        # After a gap one look is one look, however long it was.
        observed = self.observed + (passed if passed <= 2.0 * interval else interval)
        return replace(self, seen_at=now, observed=observed, **learned)

    def needed(self, span: float) -> int:
        """Return the most that was needed in the last ``span`` observed seconds."""
        return next((count for when, count in self.needs if self.observed - when <= span), 0)

    def with_need(self, replicas: int, longest: float) -> "Memory":
        """Return the same with one more need, without those older than ``longest`` observed seconds."""
        kept = [
            (when, count)
            for when, count in self.needs
            if count > replicas and self.observed - when <= longest
        ]
        return replace(self, needs=(*kept, (self.observed, replicas)))

    def noticed(self, spec: Spec, scale: Scale, now: float) -> tuple["Memory", Scale]:
        """Return the memory after a look at the platform, and the scale with own writes over stale reads."""
        asked, refusal = self.asked, self.refusal
        if refusal is not None and (now >= refusal.until or scale.desired > refusal.granted):
            refusal = None
        if asked is not None and asked.awaited(scale.desired):
            if asked.reads + 1 < REFUSED_AFTER_READS:
                asked = replace(asked, reads=asked.reads + 1)
                scale = replace(scale, desired=asked.replicas)
            else:
                if scale.desired < asked.replicas:
                    refusal = Refusal(asked.replicas, scale.desired, now + spec.timing.cap_retry)
                asked = None
        else:
            asked = None
        pending, took = _started(self.pending, self.stuck(spec, now), scale, self.available, now)
        if (asked, refusal, pending, scale.available) == (
            self.asked,
            self.refusal,
            self.pending,
            self.available,
        ) and not took:
            return self, scale
        noticed = replace(
            self,
            asked=asked,
            refusal=refusal,
            pending=pending,
            start_up_time=smoothed(self.start_up_time, took),
            available=scale.available,
        )
        return noticed, scale

    def scaled(self, scale: Scale, replicas: int, now: float) -> "Memory":
        """Return the memory after ``replicas`` were asked for."""
        return replace(self.changed(scale.desired, replicas, now), asked=Asked(scale.desired, replicas))

    def changed(self, before: int, replicas: int, now: float) -> "Memory":
        """Return the memory after the count has become another one, whoever asked for it."""
        up = replicas > before
        return replace(self, scaled_at=now, scaled_up_at=now if up else self.scaled_up_at)

    def elsewhere(self, scale: Scale, now: float) -> "Memory":
        """Return the memory for other replicas than before, as when a shadow's decisions begin to be real.

        What was learned of traffic, starts and budget stays; what was asked for and seen of replicas goes.
        """
        return replace(
            Memory.initial(scale, now),
            start_up_time=self.start_up_time,
            moments=self.moments,
            periodicity=self.periodicity,
            budget=self.budget,
        )

    def unapplied(self, before: "Memory") -> "Memory":
        """Return the memory if what was decided after ``before`` was not done; what was learned stays."""
        return replace(self, asked=None, scaled_at=before.scaled_at, scaled_up_at=before.scaled_up_at)


def smoothed(known: float | None, took: Iterable[float]) -> float | None:
    """Return the learned start-up time after more replicas took so many seconds each."""
    for seconds in took:
        if seconds <= LONGEST_START_UP:
            known = seconds if known is None else (known + seconds) / 2.0
    return known


def _started(
    pending: tuple[tuple[float, bool], ...], stuck: int, scale: Scale, available: int, now: float
) -> tuple[tuple[tuple[float, bool], ...], set[float]]:
    """Return the replicas that are still awaited, and how many seconds those took that are not any more."""
    gone = len(pending) - scale.pending
    if gone <= 0:
        # One that served before and does not any more tells nothing of a start.
        fallen = min(-gone, max(0, available - scale.available))
        return (*pending, *[(now, False)] * fallen, *[(now, True)] * (-gone - fallen)), set()
    # The oldest served first, those that are stuck last; those that were called back were the youngest.
    order = (*pending[stuck:], *pending[:stuck])
    started = min(gone, max(0, scale.available - available))
    took = {max(0.0, now - since) for since, asked in order[:started] if asked}
    return tuple(sorted(order[started:])[: scale.pending]), took
