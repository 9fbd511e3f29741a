"""Holds the state of one function between reconciles. [P]

Owns requested counts and start-ups, and how reads of the platform change them. ``base`` and ``foresight``
hold the state of the traffic. Times are ``decide``'s ``now``, in seconds.

Next step: ``recommend`` and ``decide`` read and renew it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import ceil, inf, sqrt
from typing import Any

from slo_autoscaler.law.base.budget import Budget
from slo_autoscaler.law.base.calibration import Calibration
from slo_autoscaler.law.base.needs import Needs
from slo_autoscaler.law.foresight.history import History
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Scale
from slo_autoscaler.settings.spec import Spec


@dataclass(frozen=True, slots=True)
class Asked:
    """A requested count, until the platform reports it or refuses it."""

    before: int
    replicas: int
    reads: int = 0
    """Reads since then that did not report it."""

    def awaited(self, desired: int) -> bool:
        """Return whether ``desired`` lies between the count before and the requested one."""
        low, high = sorted((self.before, self.replicas))
        return desired != self.replicas and low <= desired <= high


@dataclass(frozen=True, slots=True)
class Refusal:
    """The platform gave fewer replicas than requested."""

    asked: int
    granted: int
    until: float


@dataclass(frozen=True, slots=True)
class TooFew:
    """A count that turned out to be too low. One more was enough, and is kept for a time."""

    enough: float
    """Requests per second of a replica that were not too many."""
    until: float
    avoided_for: float
    """Seconds."""

    @classmethod
    def again(cls, before: "TooFew | None", enough: float, now: float) -> "TooFew":
        """Return the record of a count that was too low, ``before`` that of the last one."""
        avoided_for = TUNING.avoided_for
        if before is not None and now < before.until + before.avoided_for:
            avoided_for = min(2.0 * before.avoided_for, TUNING.avoided_most)
        return cls(enough, now + avoided_for, avoided_for)


@dataclass(frozen=True, slots=True)
class Memory:
    """State of one function from one reconcile to the next."""

    seen_at: float
    """Time of the last usable data."""
    asked: Asked | None = None
    refusal: Refusal | None = None
    pending: tuple[tuple[float, bool], ...] = ()
    """(time since which a replica is awaited, whether that is when it was requested), in order."""
    start_up_time: float | None = None
    """Learned, in seconds, of replicas that found a node; None until one has started."""
    new_node_start_up: float | None = None
    """Likewise of replicas that waited for a node; None too where the platform does not report them."""
    without_node: int = 0
    """Awaited replicas, the last ones, that waited for a node at some read."""
    reported: float = 0.0
    """Start-up time that the replicas report, in seconds: their own part of it."""
    scaled_at: float | None = None
    scaled_up_at: float | None = None
    idle_since: float | None = None
    """Time since which the data, without a gap, show no request."""
    available: int = 0
    """Replicas that served at the last read."""
    needs: Needs = field(default_factory=Needs)
    loads: tuple[tuple[float, float], ...] = ()
    """(time, load of a replica as a multiple of its goodput) in the window of rates."""
    overloaded_at: float = -inf
    """Time of the last load beyond the goodput."""
    late_since: float | None = None
    """Time since which more requests are late than allowed, or will be, because they waited."""
    too_few: TooFew | None = None
    stalled: float = 0.0
    """Requests that hung at the last observation: each counts as late once."""
    boosts: tuple[tuple[float, float], ...] = ()
    """(time, CPU of serving replicas as a multiple of the nominal one), each larger than all after it, until
    samples of that time have left the windows."""
    boosted_since: float | None = None
    """Time since which there are ``boosts``."""
    nominal: tuple[float | None, float | None, float | None] = (None, None, None)
    """Capacity, concurrency and service time of one request, observed before that."""
    alone_since: float | None = None
    """Time since which boosts bridge no start-up, until they have left the windows."""
    history: History = field(default_factory=History)
    calibration: Calibration = field(default_factory=Calibration)
    budget: Budget = field(default_factory=Budget)

    @classmethod
    def initial(cls, scale: Scale, now: float) -> "Memory":
        """Return the state at the start.

        The current count is needed, so a restart at a peak keeps it. A backlog may be under way. Replicas
        that are starting then were requested at an unknown time, and teach no start-up time.
        """
        return cls(
            seen_at=now,
            pending=((now, False),) * scale.pending,
            available=scale.available,
            needs=Needs(counts=((0.0, scale.desired),)),
            overloaded_at=now,
        )

    def start_up(self, spec: Spec) -> float:
        """Return the start-up time in seconds, at least the configured one and what the replicas report.

        Platforms may call a replica available too early. Before a first scale-up nothing is learned. While a
        replica waits for a node, that of such replicas counts.
        """
        learned = max(
            self.start_up_time or 0.0, (self.new_node_start_up or 0.0) if self.without_node else 0.0
        )
        return max(spec.start_up_time, self.reported, learned)

    def bridge(self, spec: Spec, most: float | None) -> float:
        """Return the capacity with which a boost bridges jumps, as a multiple of the nominal; 1: it cannot.

        ``most`` is its highest factor; None: that of the settings. Not all of it counts: a boost follows a
        jump by seconds, and may be less than asked for. None does while more have been late than allowed:
        no node has idle CPU, or the model gains nothing.
        """
        brief = self.start_up(spec) <= TUNING.boost_bridges
        suffices = self.budget.remaining(spec.budget_period) >= 0.0
        return sqrt(spec.boost.max_factor if most is None else most) if brief and suffices else 1.0

    def stabilization(self, spec: Spec) -> float:
        """Return the seconds for which fewer must have been enough before a scale-down."""
        return max(self.start_up(spec), spec.scale_down.stabilization_window)

    def stuck(self, spec: Spec, now: float) -> int:
        """Return the number of replicas that should serve by now and do not."""
        if not self.pending:
            return 0
        return sum(now - since > TUNING.ready_by * self.start_up(spec) for since, _ in self.pending)

    def margin(self, spec: Spec, now: float) -> float:
        """Return the gain over loss for which a replica may leave for another function, less 1.

        It is the start-up over the expected stay: a start-up, and as long again as the count has stayed.
        """
        if self.scaled_at is None:
            return 0.0
        start_up = max(self.start_up(spec), spec.timing.interval)
        return start_up / (start_up + max(0.0, now - self.scaled_at))

    def told(self, start_up_time: float | None) -> "Memory":
        """Return the same with the start-up time that the replicas report; None changes nothing."""
        reported = self.reported if start_up_time is None else min(start_up_time, TUNING.longest_start_up)
        return self if reported == self.reported else replace(self, reported=reported)

    def idle(self, since: float | None) -> "Memory":
        """Return the same with another ``idle_since``."""
        return self if since == self.idle_since else replace(self, idle_since=since)

    def with_data(self, spec: Spec, now: float, replicas: int, **learned: Any) -> "Memory":
        """Return the memory after usable data: a need for ``replicas``, and the fields that it taught."""
        passed, interval = max(0.0, now - self.seen_at), spec.timing.interval
        # After a gap one observation counts as one interval.
        passed = passed if passed <= 2.0 * interval else interval
        needs = self.needs.after(passed, replicas, self.stabilization(spec))
        return replace(self, seen_at=now, needs=needs, **learned)

    def with_need(self, spec: Spec, replicas: int) -> "Memory":
        """Return the same with one more need, at the time of the last one."""
        return replace(self, needs=self.needs.after(0.0, replicas, self.stabilization(spec)))

    def noticed(self, spec: Spec, scale: Scale, now: float) -> tuple["Memory", Scale]:
        """Return the memory after a read of the platform, and the scale with own writes over stale reads."""
        asked, refusal = self.asked, self.refusal
        awaited = asked or refusal or self.pending or self.without_node or scale.pending
        if not awaited and not scale.unschedulable and scale.available == self.available:
            return self, scale
        if refusal is not None and (now >= refusal.until or scale.desired > refusal.granted):
            refusal = None
        if asked is not None and asked.awaited(scale.desired):
            if asked.reads + 1 < TUNING.refused_after_reads:
                asked = replace(asked, reads=asked.reads + 1)
                scale = replace(scale, desired=asked.replicas)
            else:
                if scale.desired < asked.replicas:
                    refusal = Refusal(asked.replicas, scale.desired, now + spec.timing.cap_retry)
                asked = None
        else:
            asked = None
        order, started = _started(self.pending, self.stuck(spec, now), scale, self.available, now)
        pending = tuple(sorted(order[started:])[: scale.pending])
        without_node = max(self.without_node, scale.unschedulable or 0)
        # Replicas with a node serve first.
        warm = min(started, max(0, len(order) - without_node))
        without_node = min(without_node, len(pending))
        before = self.asked, self.refusal, self.pending, self.without_node, self.available
        if (asked, refusal, pending, without_node, scale.available) == before and not started:
            return self, scale
        noticed = replace(
            self,
            asked=asked,
            refusal=refusal,
            pending=pending,
            start_up_time=smoothed(self.start_up_time, _took(order[:warm], now)),
            new_node_start_up=smoothed(self.new_node_start_up, _took(order[warm:started], now)),
            without_node=without_node,
            available=scale.available,
        )
        return noticed, scale

    def scaled(
        self, scale: Scale, replicas: int, now: float, *, rate: float = 0.0, late: bool = False
    ) -> "Memory":
        """Return the memory after a request for ``replicas``.

        ``rate`` requests per second are expected; ``late``: because too many have been late for some time.
        """
        too_few = self.too_few
        if replicas > scale.desired and rate > 0.0 and (late or self._scaled_down_lately(now)):
            too_few = TooFew.again(too_few, rate / (scale.desired + 1), now)
        asked = Asked(scale.desired, replicas)
        return replace(self.changed(scale.desired, replicas, now), asked=asked, too_few=too_few)

    def changed(self, before: int, replicas: int, now: float) -> "Memory":
        """Return the memory after a change of the count by any writer."""
        up = replicas > before
        return replace(self, scaled_at=now, scaled_up_at=now if up else self.scaled_up_at)

    def _scaled_down_lately(self, now: float) -> bool:
        if self.scaled_at is None or self.scaled_at == self.scaled_up_at:
            return False
        return now - self.scaled_at <= TUNING.undone_within

    def kept(self, rate: float, now: float) -> int:
        """Return the replicas that ``rate`` requests per second need, because fewer were too few lately."""
        if self.too_few is None or now >= self.too_few.until:
            return 0
        return ceil(rate / self.too_few.enough - 1e-9)

    def elsewhere(self, scale: Scale, now: float) -> "Memory":
        """Return the memory for other replicas, as when a shadow's decisions begin to be real.

        Keeps what was learned of traffic, start-ups, capacity and budget; drops requested counts and observed
        replicas.
        """
        return replace(
            Memory.initial(scale, now),
            start_up_time=self.start_up_time,
            new_node_start_up=self.new_node_start_up,
            reported=self.reported,
            history=self.history,
            calibration=self.calibration,
            budget=self.budget,
        )


def smoothed(learned: float | None, took: Iterable[float]) -> float | None:
    """Return the learned start-up time after more start-ups, in seconds; too long ones do not count."""
    for seconds in took:
        if seconds <= TUNING.longest_start_up:
            learned = seconds if learned is None else (learned + seconds) / 2.0
    return learned


def _started(
    pending: tuple[tuple[float, bool], ...], stuck: int, scale: Scale, available: int, now: float
) -> tuple[tuple[tuple[float, bool], ...], int]:
    """Return the replicas that were awaited, in the order in which they serve, and how many serve now."""
    gone = len(pending) - scale.pending
    if gone < 0:
        # A replica that stopped serving says nothing of a start-up.
        fallen = min(-gone, max(0, available - scale.available))
        return (*pending, *[(now, False)] * fallen, *[(now, True)] * (-gone - fallen)), 0
    # The oldest serve first, stuck ones last. A scale-down removes the youngest.
    return (*pending[stuck:], *pending[:stuck]), min(gone, max(0, scale.available - available))


def _took(started: Iterable[tuple[float, bool]], now: float) -> set[float]:
    """Return the start-up times in seconds of those that were requested at a known time."""
    return {max(0.0, now - since) for since, asked in started if asked}
