"""Minutes of scaling in virtual time: a fluid model of a function under ``decide``.

Each replica serves ``CAPACITY`` requests a second and takes ``START`` seconds to come up; what cannot be
served waits; what waited longer than the SLO is a miss. Rates are seen over a window, as Prometheus gives
them.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from autoscaler.values import a_spec
from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.memory import TargetState
from slo_autoscaler.law.restart import Past, warm
from slo_autoscaler.model import Scale
from slo_autoscaler.signals import Observation
from slo_autoscaler.spec import Spec

CAPACITY, START, WINDOW, SLO, TICK = 100.0, 8.0, 8.0, 0.2, 1.0
SPEC = a_spec(max_replicas=20, rate_lag=WINDOW / 2, settle_time=WINDOW + 2, start_up_time=START)


@dataclass
class World:
    """One function, one second at a time."""

    replicas: int = 1
    learned: float | None = CAPACITY
    """What the batcher says of its capacity."""
    coming: list[float] = field(default_factory=list)
    """When replicas that are starting will serve."""
    waiting: float = 0.0
    seconds: list[tuple[float, float, float]] = field(default_factory=list)
    """(completed, good, in flight) of each second."""
    counts: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    state: TargetState | None = None
    spec: Spec = SPEC

    def second(self, now: float, rate: float, *, data: bool = True) -> None:
        available = self.replicas - sum(at > now for at in self.coming)
        served = min(self.waiting + rate, available * CAPACITY)
        late = self.waiting > available * CAPACITY * SLO
        self.waiting += rate - served
        self.seconds.append((served, 0.0 if late else served, self.waiting + (available if served else 0)))
        scale = Scale(self.replicas, available)
        state = self.state or TargetState.initial(self.spec, scale, now)
        decision, self.state = decide(self.spec, self.observe(available) if data else None, scale, state, now)
        self.reasons.append(decision.reason)
        if decision.replicas is not None:
            self.coming = [at for at in self.coming if at > now]
            self.coming += [now + START] * (decision.replicas - self.replicas)
            self.coming = self.coming[: decision.replicas]
            self.replicas = decision.replicas
        self.counts.append(self.replicas)

    def observe(self, available: int) -> Observation:
        recent = self.seconds[-int(WINDOW) :]
        served = sum(second[0] for second in recent)
        good = sum(second[1] for second in recent)
        growth = (recent[-1][2] - recent[0][2]) / max(1, len(recent) - 1)
        latency = self.waiting / (available * CAPACITY) + SLO / 2 if available else None
        return Observation(
            rate=served / len(recent),
            in_flight=recent[-1][2],
            in_flight_growth=growth,
            capacity=self.learned,
            p95=latency if served else None,
            p99=latency if served else None,
            attainment=good / served if served else None,
            burn_short=burn_rate(recent[-int(WINDOW / 2) :]),
            samples=served,
            slo_latency=SLO,
            slo_objective=0.99,
            up_replicas=float(available),
            sample_age=TICK,
        )

    def play(self, rates: list[float]) -> "World":
        begin = len(self.seconds)
        for index, rate in enumerate(rates):
            self.second(float(begin + index), rate)
        return self

    def attainment(self, begin: int = 0) -> float:
        seconds = self.seconds[begin:]
        return sum(good for _, good, _ in seconds) / sum(served for served, _, _ in seconds)

    def turns(self) -> int:
        """Count the changes of direction."""
        moves = [b - a for a, b in pairwise(self.counts) if b != a]
        return sum((a > 0) != (b > 0) for a, b in pairwise(moves))


def burn_rate(seconds: list[tuple[float, float, float]]) -> float | None:
    served = sum(second[0] for second in seconds)
    return 100.0 * (1.0 - sum(second[1] for second in seconds) / served) if served else None


def ramp(low: float, high: float, seconds: int) -> list[float]:
    return [low + (high - low) * second / seconds for second in range(seconds)]


PEAK = [50.0] * 60 + ramp(50, 800, 120) + [800.0] * 60 + ramp(800, 50, 30) + [50.0] * 180


def test_a_ramp_is_followed_closely_and_replicas_fall_after_it():
    world = World().play(PEAK)
    assert world.attainment() > 0.98
    assert max(world.counts) >= 10
    assert world.counts[-1] == 1
    assert world.turns() == 1, "up, then down, and nothing between"


def test_a_step_beyond_all_capacity_is_answered_once_and_its_backlog_is_cleared():
    world = World().play([50.0] * 30 + [600.0] * 120)
    assert world.turns() <= 1, "what cleared the backlog may go, and nothing else"
    assert world.waiting == 0.0
    assert max(world.counts) <= 20
    assert world.attainment(begin=90) > 0.999


@pytest.mark.parametrize("remembered", [True, False])
def test_a_restart_in_mid_peak_makes_no_dip(remembered):
    world = World().play(PEAK[:210])
    peak = world.replicas
    assert peak >= 10
    world.state = None
    if remembered:
        past = tuple((float(210 - second), PEAK[second]) for second in range(180, 210))
        fresh = TargetState.initial(SPEC, Scale(peak, peak), 210.0)
        world.state = warm(fresh, Past(rate=past, correction=((1.0, 0.95),)), 210.0)
        assert world.state.correction == 0.95
    world.play(PEAK[210:240])
    assert min(world.counts[210:]) == peak
    assert world.attainment(begin=210) == 1.0


def test_a_gap_in_the_data_at_the_peak_lowers_nothing():
    world = World().play(PEAK[:210])
    peak = world.replicas
    for second in range(210, 300):
        world.second(float(second), 800.0, data=False)
    assert set(world.counts[210:]) == {peak}
    assert set(world.reasons[210:]) == {"NoData"}
    world.play([800.0] * 30)
    assert min(world.counts[210:]) >= peak


@pytest.mark.parametrize("period", [10, 20, 40])
def test_on_and_off_faster_than_the_stabilization_window_never_loses_what_on_needs(period):
    world = World(replicas=6).play(([400.0] * period + [40.0] * period) * (400 // period))
    assert min(world.counts) >= 400.0 / CAPACITY
    assert world.attainment() == 1.0
