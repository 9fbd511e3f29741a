"""A function as a fluid: the late share of each step is what the curve of its replicas says. In steps of 5 s.

No engine plays its replicas: hours of traffic take milliseconds. tests/lab compares curve and engine.

What a scrape shows is a mean: of one step, or of the window of rates, which is four steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from slo_autoscaler.law.base.curve import curve
from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Decision, Scale
from slo_autoscaler.settings.spec import Spec
from slo_autoscaler.signals.record import Observation
from support.builders import seen

STEP = 5.0
WINDOW = 4


@dataclass
class Function:
    """One function with its replicas, under the law."""

    spec: Spec
    replicas: int = 1
    capacity: float = 100.0
    start_up: float = 10.0
    objective: float = 0.99
    broken: int = 0
    """Of its replicas, so many never serve."""
    now: float = 0.0
    most: int = 0
    """Highest count that was requested."""
    memory: Memory = field(init=False)
    pending: list[float] = field(default_factory=list)
    """When each replica that starts will serve."""
    steps: list[tuple[float, float]] = field(default_factory=list)
    """(arrivals, late ones) per second."""

    def __post_init__(self) -> None:
        self.memory = Memory.initial(self.scale, self.now)

    @property
    def scale(self) -> Scale:
        return Scale(self.replicas, max(0, self.replicas - len(self.pending) - self.broken))

    def observed(self) -> Observation:
        """Return what is seen of the last steps."""
        last = self.steps[-WINDOW:]
        rate, late = (sum(each) / len(last) for each in zip(*last, strict=True))
        return seen(
            rate=rate,
            rate_now=self.steps[-1][0],
            burn_short=late / rate / (1.0 - self.objective) if rate else None,
            capacity=self.capacity,
            slo_objective=self.objective,
            up_replicas=float(self.scale.available),
        )

    def step(
        self, rate: float, change: Callable[[Observation], Observation | None] = lambda o: o
    ) -> Decision:
        """Pass one step at ``rate``, decide on what ``change`` makes of what is seen, and do it."""
        self.now += STEP
        self.pending = [when for when in self.pending if when > self.now]
        one = curve(self.capacity, 0.1, self.objective, 0.025)
        self.steps.append((rate, rate * one.late(rate / max(1, self.scale.available))))
        seen = change(self.observed()) or Observation()
        decision, self.memory = decide(Situation(self.spec, seen, self.scale, self.memory, self.now))
        if decision.replicas is not None:
            self.set(decision.replicas)
        return decision

    def set(self, replicas: int) -> None:
        """Make it have so many replicas: what is new starts, and what starts is the first to go."""
        more = replicas - self.replicas
        kept = self.pending[: len(self.pending) + min(0, more)] if -more < len(self.pending) else []
        self.pending = [*kept, *[self.now + self.start_up] * more]
        self.replicas, self.most = replicas, max(self.most, replicas)

    def play(self, rates: Callable[[float], float], seconds: float) -> Iterator[Decision]:
        """Yield the decisions of so many seconds at ``rates(now)``."""
        until = self.now + seconds
        while self.now < until:
            yield self.step(rates(self.now))

    def late(self, since: float = 0.0) -> float:
        """Return the share that was late, of what came since then."""
        steps = self.steps[int(since / STEP) :]
        return sum(late for _, late in steps) / sum(rate for rate, _ in steps)
