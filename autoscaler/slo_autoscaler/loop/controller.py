"""The loop: observe, decide, act.

``observer`` reads, ``targets`` holds each function's state and decides by ``law``, ``actor`` records and
writes. One function's failure never stops the others; if the source fails, all functions hold.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import inf
from typing import Any, Final

from slo_autoscaler.config import Config
from slo_autoscaler.errors import PlatformError, UnreadableError
from slo_autoscaler.http.calls import Calls
from slo_autoscaler.law.decide import Assessment
from slo_autoscaler.law.platform import start_up
from slo_autoscaler.loop.actor import Actor
from slo_autoscaler.loop.observer import Observed, Observer
from slo_autoscaler.loop.targets import Fleet, Outcome, Target
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms import Booster, CpuBoost, Platform, Range
from slo_autoscaler.platforms.leader import Leader
from slo_autoscaler.show import words
from slo_autoscaler.show.journal import Journal
from slo_autoscaler.show.metrics import Metrics
from slo_autoscaler.signals.source import DirectLoad, Load, Source

logger = logging.getLogger(__name__)

SIGNAL_SECONDS: Final = 0.5
"""Maximum seconds until a signal takes effect."""

DIRECT_CHECK_SECONDS: Final = 0.5
"""Seconds between two checks of the load that is read directly."""

WAKE_SECONDS: Final = 0.1
"""Seconds between two checks for requests that wait for a function without replicas."""

ALIVE_INTERVALS: Final = 3
"""The loop counts as dead if it decided no function for this many intervals plus its timeouts."""

UNABLE: Final = Range(None, 1.0)
"""Of a function without pods that may be boosted."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """A monotonic clock in seconds, for decisions, and the time of day, for the log."""

    monotonic: Callable[[], float]
    wall: Callable[[], datetime]


class Controller:
    """Reconciles all functions; ``run`` repeats this until it is told to stop."""

    def __init__(
        self,
        config: Config,
        source: Source,
        platform: Platform,
        *,
        metrics: Metrics,
        journal: Journal,
        leader: Leader,
        emit: Callable[[str], object],
        clocks: Clocks,
        direct: DirectLoad | None = None,
        booster: Booster | None = None,
    ) -> None:
        """``emit`` receives each line of the decision log; ``direct`` None: no load is read directly.

        ``booster`` None: boosts are decided and not applied.
        """
        self._config = config
        self._platform = platform
        self._metrics = metrics
        self._journal = journal
        self._leader = leader
        self._now, self._wall = clocks.monotonic, clocks.wall
        self._direct = direct
        self._booster = booster
        self._fleet = Fleet(config.fleet.budgets)
        self._calls = Calls(config.platform.concurrency, config.platform.timeout)
        shared = (platform, self._calls, self._fleet)
        self._observer = Observer(config, source, *shared, metrics=metrics, direct=direct, now=self._now)
        self._actor = Actor(*shared, leader, metrics=metrics, journal=journal, emit=emit, wall=self._wall)
        self._decided_at, self._checked_at = clocks.monotonic(), -inf

    def run(self, stop: threading.Event) -> None:
        """Reconcile every interval until ``stop``.

        Then wait for changes under way, not for reads.
        """
        threading.Thread(target=self._reconcile_until, args=(stop,), name="reconcile", daemon=True).start()
        # A signal that comes just before this thread blocks in a lock does not interrupt it.
        while not stop.wait(SIGNAL_SECONDS):
            pass
        self._observer.stopped = True
        self._actor.stop(self._config.platform.timeout)

    def _reconcile_until(self, stop: threading.Event) -> None:
        due = self._now()
        while not stop.is_set():
            try:
                observed = self._observer.poll(WAKE_SECONDS) if self._now() >= due else None
                if observed is not None:
                    self._conclude(observed)
                    # A reconcile that took longer than the interval does not make the next ones hurry.
                    due = max(due + self._config.interval, self._now())
                    if self._direct is None:
                        self.boost()
                self.scale_up_between()
            except Exception:
                if stop.is_set():
                    return  # the source or the platform was closed meanwhile
                # The loop outlives its own bugs: the next reconcile starts from what is there.
                logger.exception("reconcile failed")
                self._metrics.failed("reconcile")
                self._metrics.desires({})
                due = max(due + self._config.interval, self._now())
            pause = inf if self._direct is None else DIRECT_CHECK_SECONDS
            pause = WAKE_SECONDS if self._platform.waiting() else pause
            stop.wait(min(max(0.0, due - self._now()), pause))

    def close(self) -> None:
        """Stop the threads without waiting for requests to the source or the platform."""
        self._observer.close()
        self._calls.close()

    def alive(self) -> bool:
        """Return whether functions were decided lately enough, or could not be for lack of the platform."""
        config = self._config
        patience = ALIVE_INTERVALS * (config.interval + config.platform.timeout + config.prometheus.timeout)
        return self._now() - self._decided_at <= patience

    def functions(self) -> list[str]:
        """Return the functions with recorded decisions or a problem; from any thread."""
        targets = list(self._fleet.targets.items())
        troubled = [name for name, target in targets if target.trouble.problem]
        return sorted({*self._journal.functions(), *troubled})

    def removed(self) -> list[str]:
        """Return functions that are gone, and whose decisions are still known; from any thread."""
        return self._journal.functions(removed=True)

    def denied(self) -> Mapping[str, str]:
        """Return {namespace or kind: error} that the autoscaler may not read; from any thread."""
        return self._platform.denied()

    def decisions(self, function_name: str, last: int) -> dict[str, Any] | None:
        """Return a function's last decisions and state as JSON, or None without either; from any thread."""
        decisions = self._journal.decisions(function_name, last)
        target = self._fleet.targets.get(function_name)
        state = {"removed": True} if target is None else target.document()
        if decisions is None and "problem" not in state:
            return None
        pods = None if self._booster is None else self._booster.boosting().get(function_name)
        boost = {} if pods is None else {"boost": words.boosting(pods.starts, pods.refusal)}
        return {"function_name": function_name, "decisions": decisions or [], **state, **boost}

    def reconcile(self) -> bool:
        """Observe, decide and act once for all functions; return False if any request failed."""
        return self._conclude(self._observer.observe())

    def _conclude(self, observed: Observed) -> bool:
        """Decide and act on what was observed, within the platform's timeouts for list, two reads and act."""
        seen = observed.seen
        leading = self._leader.leads()
        self._metrics.leads(leading)
        listing = self._observer.listing(blind=seen is None)
        for name in listing.gone:
            self._actor.forget(name)
        if self._observer.stopped:
            return False  # decisions would not be applied
        errors = listing.errors + (seen is None)
        targets = self._fleet.targets
        assessments: dict[str, Assessment] = {}
        for name, scale in listing.scales.items():
            target = targets[name]
            if isinstance(scale, PlatformError):
                target.counted = scale.replicas if isinstance(scale, UnreadableError) else target.counted
                errors += self._actor.failed(name, "read", scale)
                continue
            target.scale, target.counted = scale, None
            now = self._now()
            self._actor.notice(name, scale, now, acts=leading and scale.mode == "active")
            learn = partial(self._observer.learned, name)
            try:
                assessments[name] = target.assess((seen or {}).get(name), scale, now, self._wall(), learn)
            except Exception as error:
                # A bug that one function's numbers trigger must not stop the others.
                logger.exception("%s: cannot decide", name)
                why = PlatformError(f"{type(error).__name__}: {error}")
                errors += self._actor.failed(name, "decide", why)
        shares = self._fleet.shares(assessments)
        outcomes: dict[str, Outcome] = {}
        desired: dict[str, int] = {}
        for name, assessment in assessments.items():
            mode = assessment.at.scale.mode
            acts = leading and mode == "active"
            outcomes[name] = outcome = targets[name].decide(assessment, shares.get(name), acts=acts)
            if (
                leading
                and assessment.at.scale.mode in {"active", "recommend"}
                and assessment.limits is not None
            ):
                count = outcome.decision.replicas
                desired[name] = assessment.at.scale.desired if count is None else count
        # Replaces all earlier ones: another autoscaler may act on them.
        self._metrics.desires(desired)
        errors += self._actor.apply(outcomes, leading=leading, blind=observed.blind)
        now = self._now()
        there = any(target.conflict.detected(now) for target in targets.values())
        self._metrics.conflicting_scaler(there=there)
        self._decided_at = now if assessments or listing.empty else self._decided_at
        self._metrics.reconciled(now - observed.began)
        return errors == 0

    def scale_up_between(self) -> None:
        """Add replicas between two reconciles where the arrivals exceed the requested capacity, or wait.

        Uses the load that is read directly and the last observation; without one of late, what the pages tell
        of their replicas: also while Prometheus is down. Queries the platform only for those that get more.
        """
        targets, now = self._fleet.targets, self._now()
        waiting = {name for name, count in self._platform.waiting().items() if count}
        loads = {name: Load(0.0, 0.0) for name in waiting.intersection(targets)}
        direct: Mapping[str, Load] = {}
        if self._direct is not None and now - self._checked_at >= DIRECT_CHECK_SECONDS:
            self._checked_at, direct = now, self._direct.loads()
        if not (loads or direct) or self._observer.stopped or not self._leader.leads():
            return
        loads |= {
            name: load
            for name, load in direct.items()
            if (target := targets.get(name)) and self._raised(target, load, target.scale)
        }
        outcomes: dict[str, Outcome] = {}
        granted: Counter[str | None] = Counter()  # by budget
        for name, scale in self._observer.read(list(loads)).items():
            if isinstance(scale, PlatformError):
                continue  # the next reconcile reports it
            target = targets[name]
            target.scale = scale
            outcome = self._raised(target, loads[name], scale, granted[target.spec.group])
            if outcome is not None:
                outcomes[name] = outcome
                granted[target.spec.group] += max(0, (outcome.decision.replicas or 0) - target.held())
        if outcomes:
            self._actor.apply(outcomes, leading=True)

    def boost(self) -> None:
        """Decide every function's CPU factor, export it, and apply it in mode active.

        Uses the last observation and the load that is read directly. Never waits: the thread that reads the
        load calls this after each round, also while a reconcile waits for the platform.
        """
        leading = self._leader.leads()
        loads = {} if self._direct is None else self._direct.loads()
        ranges = {} if self._booster is None else self._booster.ranges()
        decided: dict[str, tuple[float, float]] = {}
        boosts: dict[str, CpuBoost] = {}
        for name, target in list(self._fleet.targets.items()):
            limits, scale = target.spec.boost, target.scale
            acts = leading and scale is not None and scale.mode == "active"
            able = ranges.get(name, UNABLE if acts else Range(None, inf))
            most = min(able.label or limits.max_factor, able.most)
            factor = 1.0
            if scale is not None and most > 1.0:
                factor = self._boosted(name, target, most, scale, loads.get(name))
                decided[name] = factor, most
            target.boosts(factor, most, acts=acts)
            if name in ranges:
                caps, start_up = (limits.max_cpu, limits.requests), limits.start_up_factor
                boosts[name] = CpuBoost(factor, *caps, start_up) if acts else CpuBoost(1.0, *caps)
        self._metrics.boosts(decided, {} if self._booster is None else self._booster.boosting())
        if self._booster is not None and leading:
            self._booster.boost(boosts)

    def _boosted(self, name: str, target: Target, most: float, scale: Scale, load: Load | None) -> float:
        """Return the CPU factor of a function; 1 unless it was observed lately."""
        try:
            decided = target.boost_up_to(most, scale, load, self._now())
        except Exception:
            # A bug that one function's numbers trigger must not stop the others.
            logger.exception("%s: cannot decide its boost", name)
            return 1.0
        if decided is None or target.memory is None:
            return 1.0
        if (decided.factor > 1.0) != (target.boost > 1.0):
            logger.info("%s: %s", name, words.boosted(decided, start_up(target.memory.platform, target.spec)))
        return decided.factor

    def _raised(self, target: Target, load: Load, scale: Scale | None, granted: int = 0) -> Outcome | None:
        """Return a scale-up or None; ``granted`` is what this pass has taken from the function's budget."""
        if scale is None or scale.mode != "active":
            return None
        free = partial(self._fleet.free, granted=granted)
        return target.raised(load, scale, self._now(), self._wall, free)
