"""Holds the state of each function between reconciles, and decides on it by the law.

Times are the caller's ``now``, in seconds of a monotonic clock. Acts on nothing: ``actor`` applies the
outcomes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import inf
from typing import Final

from slo_autoscaler.errors import ApiError, PlatformError
from slo_autoscaler.law.allocate import allocate
from slo_autoscaler.law.boost import Boost, boost, needless
from slo_autoscaler.law.decide import Assessment, agreed, assess, claim, concluded, raised
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.platform import stuck
from slo_autoscaler.law.replica import nominal
from slo_autoscaler.law.shadow import Shadow, imagined
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.step import changed
from slo_autoscaler.law.zero import rested
from slo_autoscaler.loop.conflict import ScalerConflict
from slo_autoscaler.model import Decision, Scale
from slo_autoscaler.settings.spec import Spec
from slo_autoscaler.signals.record import Observation
from slo_autoscaler.signals.source import Load

KNOWN_FOR: Final = 300.0
"""Seconds for which the last observation may justify more replicas; then only what the pages tell may. A
capacity changes only with the model or the machine, and a Prometheus that restarts is back by then."""

MAX_BACKOFF: Final = 8
"""Maximum backoff of a function that keeps failing, in reconciles."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Failures of one function in a row, and its backoff."""

    problem: str = ""
    """Why it cannot be read or scaled; empty: it can."""
    failures: int = 0
    unreadable: bool = False
    """Whether the last failure was an unreadable answer of the platform."""
    skip: int = 0
    """Remaining backoff, in reconciles."""

    def after(self, stage: str, error: PlatformError, name: str) -> "Trouble":
        """Return the trouble of function ``name`` after one more failure.

        ``stage`` is "read", "decide" or "act".
        """
        begin = f"cannot {'scale' if stage == 'act' else stage} it"
        if stage == "act" and isinstance(error, ApiError):
            begin = "refused by the platform"
        problem = f"{begin}: {str(error).removeprefix(f'{name}: ')}"
        # The first failure skips none: a conflict with another writer's status is over within milliseconds.
        return Trouble(problem, self.failures + 1, stage == "read", min(2**self.failures - 1, MAX_BACKOFF))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision on one function, and how to apply it."""

    decision: Decision
    scale: Scale
    """The counts that the decision was made on, virtual ones in shadow mode."""
    real: Scale
    """The counts that the platform returned."""
    memory: Memory
    """The function's memory once the platform has agreed."""
    acts: bool
    """Whether to request ``decision.replicas``."""
    refused: str = ""
    """Why signals of the observation are no data."""


@dataclass(slots=True)
class Target:
    """The state of one function."""

    spec: Spec
    memory: Memory | None = None
    scale: Scale | None = None
    """The last counts that the platform returned."""
    counted: int | None = None
    """Its replicas while only these can be read."""
    decided: Scale | None = None
    """The counts that the last decision was made on."""
    read_at: float = -1.0
    observed: tuple[float, Observation] | None = None
    """The last usable observation, with its time."""
    shadow: Shadow | None = None
    """The virtual replicas, in shadow mode."""
    conflict: ScalerConflict = field(default_factory=ScalerConflict)
    """Changes of its replicas that this autoscaler did not request."""
    trouble: Trouble = field(default_factory=Trouble)
    boost: float = 1.0
    """CPU factor in force."""
    boosted: float = 1.0
    """The highest since the last reconcile."""
    bridge: float = 1.0
    """Highest CPU factor with which a boost may bridge jumps; 1: it cannot."""

    def backs_off(self) -> bool:
        """Return whether to leave it out of this reconcile, which shortens its backoff."""
        waits = self.trouble.skip > 0
        if waits:
            self.trouble = replace(self.trouble, skip=self.trouble.skip - 1)
        return waits

    def document(self) -> dict[str, object]:
        """Return its problem and its shadow's score, where there are any; from any thread."""
        problem, shadow = self.trouble.problem, self.shadow
        document: dict[str, object] = {"problem": problem} if problem else {}
        return document if shadow is None else {**document, "score": shadow.score.document()}

    def lately(self, load: Load | None, now: float) -> Observation | None:
        """Return the last observation, or what the pages tell if that is too old; None: unknown."""
        if self.observed is not None and now - self.observed[0] <= KNOWN_FOR:
            return self.observed[1]
        return None if load is None else load.told

    def held(self) -> int:
        """Return its replicas that count against a budget, requested ones included.

        One that could never be read holds its count, or at least its minimum.
        """
        if (self.spec.mode if self.scale is None else self.scale.mode) == "shadow":
            return 0
        last = self.spec.min_replicas if self.scale is None else self.scale.desired
        asked = None if self.memory is None else self.memory.platform.asked
        return max(last if self.counted is None else self.counted, 0 if asked is None else asked.replicas)

    def assess(
        self,
        seen: Observation | None,
        scale: Scale,
        now: float,
        wall: datetime,
        learn: Callable[[Spec, Memory], Memory],
    ) -> Assessment:
        """Return the recommendation for this reconcile; ``seen`` None: no observation.

        ``learn`` returns the memory with what the source recorded earlier.
        """
        spec = self.spec
        self._adapt(scale, now)
        if scale.mode == "shadow":
            shadow = self.shadow or Shadow.beside(scale, now)
            self.shadow = shadow = shadow.passed(seen, scale, spec, now)
            real, scale = scale, shadow.scale(scale, now)
            seen = (
                None
                if seen is None
                else imagined(seen, real, scale, shadow.attained(seen, spec.timing.window))
            )
            self.memory = shadow.taught(self.memory or Memory.initial(scale, now))
        self.memory = memory = learn(spec, self.memory or Memory.initial(scale, now))
        boosted, self.boosted = self.boosted, 1.0
        known = seen or Observation()
        known = known if scale.waiting is None else self._rested(known)
        assessment = assess(self._situation(known, scale, memory, now, wall, boosted))
        self.memory = assessment.at.memory
        if seen is not None and assessment.limits is not None and scale.waiting is None:
            self.observed = now, seen
        return assessment

    def decide(self, assessment: Assessment, share: int | None, *, acts: bool) -> Outcome:
        """Return the decision on a recommendation; ``acts``: it may change the replicas."""
        decision = concluded(assessment, share)
        memory = agreed(assessment, decision)
        if self.shadow is not None and decision.replicas is not None:
            self.memory = memory
            self.shadow = self.shadow.wanted(decision.replicas, assessment.at.spec, assessment.at.now)
        real = self.scale or assessment.at.scale
        acts, refused = acts and decision.replicas is not None, "; ".join(assessment.at.seen.refused)
        return Outcome(decision, assessment.at.scale, real, memory, acts, refused)

    def raised(
        self,
        load: Load,
        scale: Scale,
        now: float,
        wall: Callable[[], datetime],
        free: Callable[[str | None], float],
    ) -> Outcome | None:
        """Return a scale-up for the load that was read directly, or for requests that wait; else None.

        None too for numbers without sense. ``free`` returns the replicas that a group's budget has left.
        """
        memory, seen = self.memory, self._rested(Observation()) if scale.waiting else self.lately(load, now)
        if memory is None or seen is None or self.trouble.skip:
            return None
        # Most functions end here, before any object is made for them.
        if load.rate <= (seen.capacity or inf) * scale.desired and not scale.waiting:
            return None
        seen = replace(seen, direct_rate=load.rate)
        at = self._situation(seen, scale, memory, now, wall(), self.boost)
        try:
            result = raised(at, free(self.spec.group))
        except (ArithmeticError, ValueError):
            # The reconcile names such a problem; here it must not stop the other functions.
            return None
        return None if result is None else Outcome(result[0], scale, scale, result[1], acts=True)

    def boosts(self, factor: float, most: float, *, acts: bool) -> None:
        """Take ``factor``, of at most ``most``, for the boost in force; ``acts``: its pods get it."""
        self.boost = factor
        if acts:
            self.boosted = max(self.boosted, factor)
        # A shadow is as if it acted. A client that acts on recommendations boosts nothing.
        self.bridge = most if acts or self.shadow is not None else 1.0

    def boost_up_to(self, most: float, scale: Scale, load: Load | None, now: float) -> Boost | None:
        """Return the boost, at most by ``most``; None: nominal, also if it was not observed lately."""
        memory, seen = self.memory, self.lately(load, now)
        if memory is None or seen is None:
            return None
        if self.shadow is not None:
            scale = self.shadow.scale(scale, now)
        rate, inside = (0.0, seen.in_flight or 0.0) if load is None else (load.rate, load.in_flight)
        if self.boost == 1.0 and needless(seen, scale, memory, rate, inside):
            return None
        spec = replace(self.spec, boost=replace(self.spec.boost, max_factor=most))
        if load is not None:
            seen = replace(seen, direct_rate=load.rate, direct_in_flight=load.in_flight)
        at = Situation(spec, seen, scale, memory, now, boost=self.boost)
        return boost(nominal(at, stuck(memory.platform, spec, now)), self.boost)

    def _rested(self, seen: Observation) -> Observation:
        """Return what is known of it while it has no replicas."""
        return rested(Observation() if self.observed is None else self.observed[1], seen)

    def _situation(
        self,
        seen: Observation,
        scale: Scale,
        memory: Memory,
        now: float,
        wall: datetime,
        factor: float,
    ) -> Situation:
        by_hand = self.conflict.set_by_hand(now, self.spec.manual_hold)
        return Situation(
            self.spec, seen, scale, memory, now, wall, boost=factor, bridge=self.bridge, by_hand=by_hand
        )

    def _adapt(self, scale: Scale, now: float) -> None:
        """Adapt the memory to a change of the mode, or of the count by an unknown writer."""
        before, self.decided = self.decided, scale
        if before is None or self.memory is None:
            return
        if before.mode != scale.mode:
            self.shadow, self.observed = None, None
            self.memory = self.memory.elsewhere(scale, now)
        elif scale.mode == "recommend" and before.desired != scale.desired:
            # Whether this follows a recommendation is unknown, and does not matter.
            steps = changed(self.memory.step, before.desired, scale.desired, now)
            self.memory = replace(self.memory, step=steps)


class Fleet:
    """All functions, with the budgets of replicas that they share."""

    def __init__(self, budgets: Mapping[str | None, int]) -> None:
        self._budgets = budgets
        self.targets: dict[str, Target] = {}
        self.listed = True
        """Whether the platform listed them at the last reconcile."""

    def shares(self, assessments: Mapping[str, Assessment]) -> dict[str, int]:
        """Return the replicas of each function that shares a budget."""
        shares: dict[str, int] = {}
        for group, budget in self._budgets.items():
            members = {
                name: assessment
                for name, assessment in assessments.items()
                if self.targets[name].spec.group == group and assessment.at.scale.mode != "shadow"
            }
            taken = sum(
                assessment.at.scale.desired for assessment in members.values() if assessment.limits is None
            )
            # Those that back off or were not read keep their replicas.
            taken += sum(target.held() for name, target in self._of(group) if name not in assessments)
            claims = {
                name: claim(assessment)
                for name, assessment in members.items()
                if assessment.limits is not None
            }
            shares |= allocate(claims, budget - taken)
        return shares

    def free(self, group: str | None, granted: int = 0) -> float:
        """Return the replicas of a budget that no function has requested, less ``granted``."""
        budget = self._budgets.get(group)
        return (
            inf if budget is None else budget - granted - sum(target.held() for _, target in self._of(group))
        )

    def _of(self, group: str | None) -> Iterator[tuple[str, Target]]:
        return ((name, target) for name, target in self.targets.items() if target.spec.group == group)
