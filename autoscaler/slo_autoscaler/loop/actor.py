"""Applies decisions: records and announces them, requests the new counts, and remembers failures.

Owns the fence: after ``stop``, or once this autoscaler leads no more, no request begins.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from slo_autoscaler.errors import FunctionGoneError, PlatformError, ScaleChangedError
from slo_autoscaler.http.calls import Calls, DeferredError
from slo_autoscaler.logs import Changes
from slo_autoscaler.loop.conflict import FEW, WITHIN, ScalerConflict
from slo_autoscaler.loop.targets import Fleet, Outcome, Trouble
from slo_autoscaler.model import Decision, Hold, Reason, Scale
from slo_autoscaler.platforms import Platform
from slo_autoscaler.platforms.leader import Leader
from slo_autoscaler.show import words
from slo_autoscaler.show.journal import Entry, Journal
from slo_autoscaler.show.metrics import Metrics

logger = logging.getLogger(__name__)

ANNOUNCED: Final = frozenset(
    {
        *(Reason.HELD, Reason.SET_BY_HAND, Reason.NO_DATA, Reason.NOT_MANAGED),
        *(Reason.PLATFORM_CAP, Reason.UNSCHEDULABLE),
    }
)
"""Reasons of which the log and an event on the function's object tell."""


@dataclass(eq=False, slots=True)
class Actor:
    """Acts on the functions of ``fleet``."""

    platform: Platform
    calls: Calls
    fleet: Fleet
    leader: Leader
    metrics: Metrics
    journal: Journal
    emit: Callable[[str], object]
    """Receives each line of the decision log, JSON."""
    wall: Callable[[], datetime]
    _said: Changes = field(default_factory=lambda: Changes(logger))
    _writing: threading.Condition = field(default_factory=threading.Condition)
    _under_way: int = 0
    """Requests that the platform has not answered yet."""
    _stopped: bool = False

    def stop(self, seconds: float) -> None:
        """Begin no more requests; wait at most ``seconds`` for those under way.

        So the next leader's requests do not cross them.
        """
        with self._writing:
            self._stopped = True
            self._writing.wait_for(lambda: self._under_way == 0, seconds)

    def apply(self, outcomes: Mapping[str, Outcome], *, leading: bool, blind: str = "") -> int:
        """Record all decisions, and request those that act until ``timeout``; return the number of failures.

        ``blind``: why there are no observations.
        """
        for name, outcome in outcomes.items():
            cause = blind or outcome.refused
            self._record(name, outcome.real, outcome.scale, outcome.decision, leading=leading, cause=cause)
            if not outcome.acts:
                self._recovered(name)
        return self._act({name: outcome for name, outcome in outcomes.items() if outcome.acts})

    def notice(self, name: str, scale: Scale, now: float, *, acts: bool) -> None:
        """Tell of another autoscaler, if this one ``acts``, and of keys that are unknown or wrong."""
        target = self.fleet.targets[name]
        before = target.conflict if acts else ScalerConflict()
        target.conflict = before.read(scale, now) if acts else before
        if target.conflict.detected(now) and not before.detected(now):
            self._said.say(
                "conflict",
                f"{name}: replicas changed {FEW} times within {WITHIN:.0f} s without a request of this"
                " autoscaler: another autoscaler scales it, such as OpenFaaS' own or a"
                " HorizontalPodAutoscaler; two autoscalers cannot share a function"
                " (docs/howto/runbook.md, ConflictingScaler)",
                state="there",
            )
            self.platform.announce(name, "ConflictingScaler", "another autoscaler changes the replicas too")
        kept = scale.wrong and f"{scale.wrong}; the last good value stays in force"
        for reason, text in (("UnknownKey", scale.unknown), ("WrongKey", kept)):
            if not text:
                self._said.over((reason, name))
            elif self._said.say((reason, name), f"{name}: {text}"):
                self.platform.announce(name, reason, text)

    def failed(self, name: str, stage: str, error: PlatformError) -> int:
        """Record one function's failure; return how many count for the reconcile."""
        self.metrics.failed(stage)
        # Who lists no functions may answer 404 to everything, such as an ingress whose gateway is away.
        if isinstance(error, FunctionGoneError) and self.fleet.listed:
            logger.info("%s: removed: %s", name, error)
            self.forget(name)
            return 0
        if not self.fleet.listed:
            # The whole platform fails: when it recovers, no function should have to wait longer.
            return 1
        target = self.fleet.targets[name]
        target.trouble = target.trouble.after(stage, error, name)
        self.metrics.troubled(name, stage)
        problem = target.trouble.problem
        count = "it stays at its count"
        if stage == "act" and target.scale is not None:
            count = f"now {target.scale.desired}"
        text = f"{name}: {problem}; {count}, and is tried again"
        if self._said.say(name, text):
            self.platform.announce(name, "ScalingFailed", problem)
        return 1

    def forget(self, name: str) -> None:
        """Drop the state of a function that is gone."""
        self.fleet.targets.pop(name, None)
        self.metrics.forget(name)
        self.journal.forget(name)
        for key in (name, *((topic, name) for topic in ("change", "UnknownKey", "WrongKey"))):
            self._said.over(key)

    def _recovered(self, name: str) -> None:
        """Record that a function was decided on and, if due, scaled."""
        self._said.over(("change", name))
        target = self.fleet.targets[name]
        if target.trouble.failures:
            target.trouble = Trouble()
            self.metrics.recovered(name)
            self._said.over(name, f"{name}: recovered")

    def _record(
        self, name: str, real: Scale, scale: Scale, decision: Decision, *, leading: bool, cause: str = ""
    ) -> None:
        shadow = self.fleet.targets[name].shadow
        entry = Entry(
            at=self.wall(),
            function_name=name,
            before=scale.desired,
            after=scale.desired if decision.replicas is None else decision.replicas,
            reason=decision.reason.value,
            mode=scale.mode if leading or scale.mode in {"shadow", "off"} else "standby",
            inputs=decision.inputs,
            incumbent=None if shadow is None else real.desired,
            detail=decision.detail,
            shortage=real.shortage,
            rollout_failed=real.rollout_failed,
            cause=cause if decision.reason is Reason.NO_DATA else "",
        )
        score = None if shadow is None else (shadow.desired, shadow.score)
        self.metrics.decided(name, real, decision, entry.action, score)
        if self.journal.record(entry):
            document = entry.document()
            self.emit(json.dumps(document))
            if entry.action != "hold" or decision.reason in ANNOUNCED:
                # Of a change that the platform refuses, only the first request is a line.
                change = f"{entry.before} {entry.after}"
                self._said.say(("change", name), words.change(document), state=change, level=logging.INFO)
            if decision.reason in ANNOUNCED:
                parts = [decision.reason.clauses[0], entry.detail, entry.shortage, entry.cause]
                self.platform.announce(name, entry.reason, "; ".join(filter(None, parts)))

    def _act(self, outcomes: Mapping[str, Outcome]) -> int:
        targets = self.fleet.targets
        conflicts = {name: targets[name].conflict for name in outcomes}
        counts = {name: outcome.decision.replicas or 0 for name, outcome in outcomes.items()}
        for name, replicas in counts.items():
            targets[name].conflict = conflicts[name].requested(replicas)
        # Scale-ups go first: a missing replica costs misses now, a spare one only money.
        ups_first = sorted(counts, key=lambda name: counts[name] < outcomes[name].real.desired)
        asking = {
            name: self.calls.submit(self._set_scale, name, counts[name], outcomes[name].real)
            for name in ups_first
        }
        errors = deferred = 0
        for name, result in self.calls.results(asking):
            if isinstance(result, DeferredError):
                deferred += 1
            elif isinstance(result, ScaleChangedError):
                logger.info("%s: not scaled to %s: %s", name, counts[name], result)
                self._recovered(name)
                targets[name].conflict = conflicts[name]
                real = outcomes[name].real
                kept = Decision(Hold(Reason.SCALE_CHANGED), outcomes[name].decision.inputs)
                self._record(name, real, real, kept, leading=True)
            elif isinstance(result, PlatformError):
                errors += self.failed(name, "act", result)
            else:
                targets[name].memory = outcomes[name].memory
                self._recovered(name)
        if deferred:
            self.metrics.failed("act")
            logger.warning("%d of %d changes deferred: the platform is slow", deferred, len(outcomes))
        return errors + deferred

    def _set_scale(self, name: str, replicas: int, seen: Scale) -> None:
        with self._writing:
            if self._stopped or not self.leader.leads():
                raise DeferredError("no longer the leader")
            self._under_way += 1
        try:
            self.platform.set_scale(name, replicas, seen)
        finally:
            with self._writing:
                self._under_way -= 1
                self._writing.notify_all()
