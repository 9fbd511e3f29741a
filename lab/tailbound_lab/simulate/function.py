"""Defines the simulated function, and the interface between it and a scaler. [P]

Owns l(b) and the batcher's knowledge of it; the numbers are arguments of the simulation. A ``Scaler`` gets a
``View`` with the metrics that platforms' scalers can read, and returns a replica count. Next step:
``replica`` serves with it.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple, Protocol, runtime_checkable

from batching_watchdog.engine.capacity import sustained
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.streams import Steady, steady
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.function.messages import Target
from slo_autoscaler.model import Scale
from slo_autoscaler.signals.record import Observation
from tailbound_lab.simulate import SimulationError

LEARNING_SECONDS: Final = 10.0
"""Seconds until a replica exports a changed speed. Its watchdog believes a change after eight runs in a row
(``recent`` of the engine's tuning): 10 s for a worker with a batch each 1.2 s, less for a busier one."""


@dataclass(frozen=True, slots=True)
class Steps:
    """A number that changes at times."""

    first: float
    later: tuple[tuple[float, float], ...] = ()
    """(seconds of the simulation, the number from then on), ascending."""

    def at(self, now: float) -> float:
        """Return the number at a time."""
        return next((value for begin, value in reversed(self.later) if begin <= now), self.first)


NOMINAL: Final = Steps(1.0)


class Routing(StrEnum):
    """Routing of requests to replicas."""

    RANDOM = "random"
    """Uniformly at random: OpenFaaS. Each replica gets a thinned stream."""
    LEAST_LOADED = "least-loaded"
    """To the replica with the fewest requests inside: Knative's activator."""


@dataclass(frozen=True, slots=True)
class Service:
    """Seconds that one worker needs for a batch of 1, 2, ... requests; never falling."""

    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        for size, (before, seconds) in enumerate(pairwise((0.0, *self.seconds)), 1):
            if not before <= seconds < float("inf") or seconds <= 0.0:
                raise SimulationError(
                    f"service times: {seconds:g} s for a batch of {size} must be positive and no less than"
                    f" the {before:g} s before it"
                )

    @classmethod
    def affine(cls, constant: float, per_request: float, max_batch: int) -> "Service":
        """Return l(b) = constant + per_request x b for 1 <= b <= ``max_batch``."""
        if max_batch < 1:
            raise SimulationError(f"max_batch: {max_batch} must be at least 1")
        return cls(tuple(constant + per_request * size for size in range(1, max_batch + 1)))

    @property
    def best_size(self) -> int:
        """The smallest power of two (or the largest size) with, but for a tie, the best throughput."""
        largest = len(self.seconds)
        sizes = [1 << power for power in range(largest.bit_length()) if 1 << power <= largest]
        sizes += [largest] if largest not in sizes else []
        rates = {size: size / self.seconds[size - 1] for size in sizes}
        enough = max(rates.values()) * (1.0 - TUNING.tie)
        return min(size for size, rate in rates.items() if rate >= enough)

    def largest_within(self, seconds: float) -> int:
        """Return the largest batch that takes at most ``seconds``; 0 if not even one request fits."""
        return bisect_right(self.seconds, seconds)

    def at(self, speed: float) -> "Service":
        """Return the service times at a multiple of the nominal speed."""
        return self if speed == 1.0 else Service(tuple(seconds / speed for seconds in self.seconds))


@dataclass(frozen=True, slots=True)
class Streaming:
    """The streams of a function whose service time is that of one step. Durations are seconds."""

    start: float
    """Seconds to start one stream; k at a time take k times as long, and no step runs meanwhile."""
    interval: float
    """Target of each piece after the first; the SLO's latency is that of the first."""
    fewest: int
    """Pieces of the shortest stream."""
    most: int
    """Pieces of the longest stream; the logarithm of the number is uniform between both."""
    in_order: bool = False
    """Whether requests join in the order of arrival whatever their deadlines, as in vLLM."""

    def __post_init__(self) -> None:
        rules = {
            "start": (self.start > 0.0, "positive"),
            "interval": (self.interval > 0.0, "positive"),
            "pieces": (1 <= self.fewest <= self.most, "at least 1, and ascending"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise SimulationError(f"streams: {name} must be {rule}")

    @property
    def mean(self) -> float:
        """Mean number of pieces."""
        ratio = self.most / self.fewest
        return self.fewest if ratio == 1.0 else (self.most - self.fewest) / math.log(ratio)

    def length(self, arrived: float) -> int:
        """Return the pieces of the stream that arrives then: the same for every scaler.

        Arrivals are random, so the fraction of their milliseconds is uniform.
        """
        share = 1000.0 * arrived % 1.0
        return round(self.fewest * math.exp(share * math.log(self.most / self.fewest)))


@dataclass(frozen=True, slots=True)
class Function:
    """One simulated function. Durations are seconds."""

    service: Service
    workers: int = 1
    """Of one replica."""
    slo_latency: float = 0.2
    slo_objective: float = 0.99
    start_up: float = 10.0
    """Seconds from the request for a replica to its first answer."""
    timeout: float = 30.0
    """Seconds after which a waiting request times out."""
    max_inflight: int = 4096
    """Maximum requests that one replica admits."""
    overhead: float = 0.0
    """Seconds that each request spends outside queue and model: gateway, network, parsing."""
    routing: Routing = Routing.RANDOM
    speed: Steps = NOMINAL
    """Speed of the model as a multiple of the nominal one: a new model or a neighbor changes it."""
    learned_capacity: float | None = None
    """Capacity that the watchdog exports at nominal speed; None: the value for a known l(b)."""
    errors: float = 0.0
    """Share of answers that are errors."""
    streaming: Streaming | None = None
    """None: it answers whole, and ``service`` is that of a batch."""

    def __post_init__(self) -> None:
        rules = {
            "workers": (self.workers >= 1, "at least 1"),
            "slo_latency": (self.slo_latency > 0.0, "positive"),
            "slo_objective": (0.0 < self.slo_objective < 1.0, "between 0 and 1"),
            "start_up": (self.start_up >= 0.0, "0 or more"),
            "timeout": (self.timeout >= self.slo_latency, "at least slo_latency"),
            "max_inflight": (self.max_inflight >= 1, "at least 1"),
            "overhead": (self.overhead >= 0.0, "0 or more"),
            "errors": (0.0 <= self.errors < 1.0, "0 or more, and below 1"),
            "speed": (
                all(speed > 0.0 for speed in (self.speed.first, *dict(self.speed.later).values())),
                "positive",
            ),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise SimulationError(f"{name}: {getattr(self, name)} must be {rule}")

    @property
    def slots(self) -> int:
        """Requests that one replica runs at the same time: a full batch per worker."""
        return self.workers * len(self.service.seconds)

    @property
    def capacity(self) -> float:
        """Requests per second of one replica within the objective, as its watchdog exports it; 0: none."""
        return self.capacity_at(1.0)

    def capacity_at(self, speed: float) -> float:
        """Return the same once its watchdog has learned another speed."""
        if self.learned_capacity is None:
            return self._sustained(speed)
        nominal = self._sustained(1.0)
        return self.learned_capacity * (self._sustained(speed) / nominal if nominal else 1.0)

    def _sustained(self, speed: float) -> float:
        if self.streaming is not None:
            return _steady(self, self.streaming, speed).rate
        return _capacity(self.service.at(speed), self.workers, self.slo_latency, self.slo_objective)


class Exports(NamedTuple):
    """What a replica's watchdog exports of its model."""

    steady: Steady
    """Capacity and concurrency."""
    service_time: float
    """Seconds of one request alone; NaN: it streams."""


@dataclass(frozen=True, slots=True)
class _Known:
    """l(b) for a watchdog that has learned it completely."""

    service: Service
    deviations: tuple[float, ...] = (1.0,)

    @property
    def best_size(self) -> int:
        return self.service.best_size

    def predict(self, size: int) -> float:
        return self.service.seconds[max(1, size) - 1]

    predict_mean = predict

    def predict_cpu(self, size: int) -> float:
        return 0.0


@lru_cache(maxsize=1024)
def _capacity(service: Service, workers: int, slo_latency: float, slo_objective: float) -> float:
    return sustained([(1.0, _Known(service))], workers, slo_latency, slo_objective).rate


def show(
    function: Function, streaming: Streaming, start: LatencyModel, step: LatencyModel, speed: float
) -> None:
    """Teach both models what ``example()`` measures at a speed: starts and steps of powers of two."""
    largest = len(function.service.seconds)
    for size in sorted({1 << power for power in range(largest.bit_length())} | {largest}):
        for _ in range(TUNING.tries):
            start.observe(size, size * streaming.start / speed)
            step.observe(size, function.service.seconds[size - 1] / speed)


@lru_cache(maxsize=256)
def _steady(function: Function, streaming: Streaming, speed: float) -> Steady:
    largest = len(function.service.seconds)
    start, step = LatencyModel(largest), LatencyModel(largest)
    show(function, streaming, start, step, speed)
    target = Target(function.slo_latency, function.slo_objective, streaming.interval)
    return steady(start, step, lengths=(streaming.mean,), target=target, workers=function.workers)


class Answered(NamedTuple):
    """Requests that a worker has answered together. Times are seconds of the simulation."""

    begin: float
    end: float
    """May be after the time until which the replica has run."""
    judged: float
    """The time that counts for the SLO."""
    arrived: Sequence[float]


@dataclass(slots=True)
class Served:
    """What a replica has made of its requests."""

    answered: list[Answered] = field(default_factory=list)
    """In the order of service."""
    lost: list[float] = field(default_factory=list)
    """Times at which requests timed out or were refused."""
    busy: float = 0.0
    """Seconds of all workers together."""
    firsts: list[tuple[float, float]] = field(default_factory=list)
    """When each first piece came, and its latency: none where answers are whole."""
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """When each stream ended, and its mean interval of pieces."""


class View(Protocol):
    """The metrics at one moment. Spans are seconds."""

    @property
    def scale(self) -> Scale:
        """The scale by the platform."""

    def observe(self) -> Observation | None:
        """Return Prometheus' latest observation, with its delay."""

    def direct_rate(self) -> float:
        """Return the requests per second that surely arrive, as the autoscaler reads it from counters."""

    def direct_in_flight(self) -> float:
        """Return the requests inside the replicas now, as the autoscaler reads them."""

    def concurrency(self, span: float) -> float:
        """Return the mean number of requests inside the replicas over the last ``span``."""

    def successes(self, span: float) -> float:
        """Return the answered requests per second over the last ``span``."""

    def utilization(self, span: float) -> float | None:
        """Return the mean busy share of ready replicas' workers; None if no replica was ready."""

    def pieces(self, span: float) -> tuple[Sequence[float], Sequence[float]]:
        """Return latencies of the first pieces, and mean intervals of streams that ended, in ``span``."""

    def peaks(self, span: float) -> Sequence[tuple[float, float]]:
        """Return each scraped replica's longest queue and largest number of running requests."""


@runtime_checkable
class Booster(Protocol):
    """A scaler that also gives serving replicas CPU."""

    @property
    def factor(self) -> float:
        """Multiple of the nominal CPU that they should have now."""


class Scaler(Protocol):
    """One scaling algorithm with its state; created for each run."""

    @property
    def name(self) -> str:
        """Its name in tables."""

    @property
    def interval(self) -> float:
        """Seconds between two calls."""

    @property
    def phase(self) -> float:
        """Seconds of the first call."""

    def scale(self, view: View, now: float) -> int | None:
        """Return the desired count, or None for no change."""
