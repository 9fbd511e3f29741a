"""Holds the state of one function between reconciles: one record, with a part for each stage. [P]

Each stage returns its own new part beside its value. ``decide`` joins the parts, and nothing else writes one.
Times are ``decide``'s ``now``, in seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import ceil, inf

from slo_autoscaler.law.base.budget import Budget
from slo_autoscaler.law.base.calibration import Calibration
from slo_autoscaler.law.base.needs import Needs
from slo_autoscaler.law.foresight.history import History
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Scale
from slo_autoscaler.settings.spec import Spec
from slo_autoscaler.signals.record import Of, signals_of


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
class Requests:
    """Part of ``platform``: requested counts, and replicas that start."""

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
    available: int = 0
    """Replicas that served at the last read."""

    @classmethod
    def initial(cls, scale: Scale, now: float) -> "Requests":
        """Return the state at the start.

        Replicas that are starting then were requested at an unknown time, and teach no start-up time.
        """
        return cls(pending=((now, False),) * scale.pending, available=scale.available)

    def start_up(self, spec: Spec) -> float:
        """Return the start-up time in seconds, at least the configured one and what the replicas report.

        Platforms may call a replica available too early. Before a first scale-up nothing is learned. While a
        replica waits for a node, that of such replicas counts.
        """
        learned = max(
            self.start_up_time or 0.0, (self.new_node_start_up or 0.0) if self.without_node else 0.0
        )
        return max(spec.start_up_time, self.reported, learned)

    def stuck(self, spec: Spec, now: float) -> int:
        """Return the number of replicas that should serve by now and do not."""
        if not self.pending:
            return 0
        return sum(now - since > TUNING.ready_by * self.start_up(spec) for since, _ in self.pending)


@dataclass(frozen=True, slots=True)
class Measured:
    """Part of ``replica``: loads and lateness of a replica, and what a boost distorts."""

    loads: tuple[tuple[float, float], ...] = ()
    """(time, load of a replica as a multiple of its goodput) in the window of rates."""
    overloaded_at: float = -inf
    """Time of the last load beyond the goodput."""
    calibration: Calibration = field(default_factory=Calibration)
    boosts: tuple[tuple[float, float], ...] = ()
    """(time, CPU of serving replicas as a multiple of the nominal one), each larger than all after it, until
    samples of that time have left the windows."""
    boosted_since: float | None = None
    """Time since which there are ``boosts``."""
    nominal: tuple[float | None, ...] = (None,) * len(signals_of(Of.REPLICA))
    """The signals of a replica, observed before that."""
    alone_since: float | None = None
    """Time since which boosts bridge no start-up, until they have left the windows."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Part of ``traffic``: the rates."""

    history: History = field(default_factory=History)
    idle_since: float | None = None
    """Time since which the data, without a gap, show no request."""


@dataclass(frozen=True, slots=True)
class Account:
    """Part of ``need``: the spending window, and lateness that lasts."""

    budget: Budget = field(default_factory=Budget)
    late_since: float | None = None
    """Time since which more requests are late than allowed, or will be, because they waited."""
    stalled: float = 0.0
    """Requests that hung at the last observation: each counts as late once."""


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
class Steps:
    """Part of ``step``: the needs of the last start-up, and the last changes of the count."""

    needs: Needs = field(default_factory=Needs)
    scaled_at: float | None = None
    scaled_up_at: float | None = None
    too_few: TooFew | None = None

    def changed(self, before: int, replicas: int, now: float) -> "Steps":
        """Return the part after a change of the count by any writer."""
        return replace(self, scaled_at=now, scaled_up_at=now if replicas > before else self.scaled_up_at)

    def kept(self, rate: float, now: float) -> int:
        """Return the replicas that ``rate`` requests per second need, because fewer were too few lately."""
        if self.too_few is None or now >= self.too_few.until:
            return 0
        return ceil(rate / self.too_few.enough - 1e-9)

    def scaled_down_lately(self, now: float) -> bool:
        """Return whether the last change was a scale-down that a scale-up would undo."""
        if self.scaled_at is None or self.scaled_at == self.scaled_up_at:
            return False
        return now - self.scaled_at <= TUNING.undone_within


@dataclass(frozen=True, slots=True)
class Memory:
    """State of one function from one reconcile to the next."""

    seen_at: float
    """Time of the last usable data."""
    platform: Requests = field(default_factory=Requests)
    replica: Measured = field(default_factory=Measured)
    traffic: Arrivals = field(default_factory=Arrivals)
    need: Account = field(default_factory=Account)
    step: Steps = field(default_factory=Steps)

    @classmethod
    def initial(cls, scale: Scale, now: float) -> "Memory":
        """Return the state at the start.

        The current count is needed, so a restart at a peak keeps it. A backlog may be under way.
        """
        return cls(
            seen_at=now,
            platform=Requests.initial(scale, now),
            replica=Measured(overloaded_at=now),
            step=Steps(Needs(counts=((0.0, scale.desired),))),
        )

    def elsewhere(self, scale: Scale, now: float) -> "Memory":
        """Return the memory for other replicas, as when a shadow's decisions begin to be real.

        Keeps what was learned of traffic, start-ups, capacity and budget; drops requested counts and observed
        replicas.
        """
        new, learned = Memory.initial(scale, now), self.platform
        return replace(
            new,
            platform=replace(
                new.platform,
                start_up_time=learned.start_up_time,
                new_node_start_up=learned.new_node_start_up,
                reported=learned.reported,
            ),
            replica=replace(new.replica, calibration=self.replica.calibration),
            traffic=Arrivals(self.traffic.history),
            need=Account(self.need.budget),
        )

    def changed(self, before: int, replicas: int, now: float) -> "Memory":
        """Return the memory after a change of the count by any writer."""
        return replace(self, step=self.step.changed(before, replicas, now))

    def scaled(
        self, scale: Scale, replicas: int, now: float, *, rate: float = 0.0, late: bool = False
    ) -> "Memory":
        """Return the memory after the platform has agreed to a request for ``replicas``.

        ``rate`` requests per second are expected; ``late``: because too many have been late for some time.
        """
        step = self.step.changed(scale.desired, replicas, now)
        if replicas > scale.desired and rate > 0.0 and (late or self.step.scaled_down_lately(now)):
            step = replace(step, too_few=TooFew.again(step.too_few, rate / (scale.desired + 1), now))
        asked = Asked(scale.desired, replicas)
        return replace(self, platform=replace(self.platform, asked=asked), step=step)


def smoothed(learned: float | None, took: Iterable[float]) -> float | None:
    """Return the learned start-up time after more start-ups, in seconds; too long ones do not count."""
    for seconds in took:
        if seconds <= TUNING.longest_start_up:
            learned = seconds if learned is None else (learned + seconds) / 2.0
    return learned
