"""Holds the state of one function between reconciles: one record, with a part for each stage. [P]

Each stage returns its own new part beside its value. ``decide`` joins the parts, and nothing else writes one.
Times are ``decide``'s ``now``, in seconds.
"""

from dataclasses import dataclass, field, replace
from math import inf

from slo_autoscaler.law.base.budget import Budget
from slo_autoscaler.law.base.calibration import Calibration
from slo_autoscaler.law.base.needs import Needs
from slo_autoscaler.law.foresight.history import History
from slo_autoscaler.model import Scale
from slo_autoscaler.signals.record import Of, signals_of


@dataclass(frozen=True, slots=True)
class Asked:
    """A requested count, until the platform reports it or refuses it."""

    before: int
    replicas: int
    reads: int = 0
    """Reads since then that did not report it."""


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


@dataclass(frozen=True, slots=True)
class Steps:
    """Part of ``step``: the needs of the last start-up, and the last changes of the count."""

    needs: Needs = field(default_factory=Needs)
    scaled_at: float | None = None
    scaled_up_at: float | None = None
    too_few: TooFew | None = None


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
