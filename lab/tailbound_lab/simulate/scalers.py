"""Who decides how many replicas there are: the seam of the simulation, and our own law behind it. [P]

A ``Scaler`` looks at a ``View``, which gives what the platforms' scalers can read, and answers with a
count or None: leave it. Ours is the ``decide`` of the controller, called as the controller calls it.
Other scalers' laws are in ``baselines``.
"""

from typing import Protocol

from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.memory import TargetState
from slo_autoscaler.model import Decision, Observation, Scale
from slo_autoscaler.spec import Spec


class View(Protocol):
    """What may be known at one moment. Spans are seconds."""

    @property
    def scale(self) -> Scale:
        """What the platform says."""

    def observe(self) -> Observation | None:
        """Return what Prometheus says, as old as it is."""

    def concurrency(self, span: float) -> float:
        """Return how many requests were inside the replicas on average over the last ``span``."""

    def successes(self, span: float) -> float:
        """Return the requests per second that were answered over the last ``span``."""

    def utilization(self, span: float) -> float | None:
        """Return the mean share of their workers' time that ready replicas worked; None: none was ready."""


class Scaler(Protocol):
    """One law, with what it remembers; made anew for each run."""

    @property
    def name(self) -> str:
        """How it is called in tables."""

    @property
    def interval(self) -> float:
        """Seconds between two looks."""

    @property
    def phase(self) -> float:
        """Seconds of the first look."""

    def scale(self, view: View, now: float) -> int | None:
        """Return the wanted count, or None to leave it."""


class Ours:
    """The controller's loop around ``decide``, for one function."""

    def __init__(self, spec: Spec, interval: float, phase: float, name: str | None = None) -> None:
        """``phase``: reconciles come so long after scrapes, so that samples have a usual age."""
        self.name = name or spec.policy
        self.interval = interval
        self.phase = phase
        self.decisions: list[tuple[float, Decision]] = []
        """Those that changed something, with their times."""
        self._spec = spec
        self._state: TargetState | None = None

    def scale(self, view: View, now: float) -> int | None:
        """Decide as the controller does."""
        scale = view.scale
        state = self._state or TargetState.initial(self._spec, scale, now)
        decision, self._state = decide(self._spec, view.observe(), scale, state, now)
        if decision.replicas is not None:
            self.decisions.append((now, decision))
        return decision.replicas


class Fixed:
    """Always the same count."""

    def __init__(self, replicas: int) -> None:
        self.name = f"fixed {replicas}"
        self.interval = 60.0
        self.phase = 0.0
        self._replicas = replicas

    def scale(self, view: View, now: float) -> int | None:
        """Return the count."""
        return self._replicas
