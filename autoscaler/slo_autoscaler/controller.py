"""The loop: observe, decide, act, record.

Owns each function's state between reconciles, the back-off of those that fail, and the decision log. One
function's failure never stops the others; a source that fails makes all of them hold. The rules are
``decide``'s; clocks come in from ``app``.
"""

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from slo_autoscaler.config import Config
from slo_autoscaler.decide import decide, unapplied
from slo_autoscaler.errors import FunctionGoneError, PlatformError, SourceError
from slo_autoscaler.metrics import Metrics
from slo_autoscaler.model import Decision, Observation, Reason, Scale, TargetState
from slo_autoscaler.platforms import Platform
from slo_autoscaler.sources import Source

logger = logging.getLogger(__name__)

MAX_BACKOFF: Final = 8
"""Reconciles that a function which keeps failing sits out at most."""

ALIVE_INTERVALS: Final = 3
"""A loop that has finished no reconcile for so many intervals, and all its timeouts, counts as dead."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds that never run backwards, for deciding; and the time of day, for the log."""

    monotonic: Callable[[], float]
    wall: Callable[[], datetime]


@dataclass(slots=True)
class _Target:
    """What is kept of one function."""

    state: TargetState | None = None
    before: TargetState | None = None
    """``state`` as it was before the decision that is being carried out."""
    told: tuple[int, int, Reason] | None = None
    """From, to and reason of the last decision that was logged."""
    failures: int = 0
    skip: int = 0
    """Reconciles to sit out."""


class Controller:
    """Reconciles all functions; ``run`` does so until it is told to stop."""

    def __init__(
        self,
        config: Config,
        source: Source,
        platform: Platform,
        metrics: Metrics,
        emit: Callable[[str], object],
        clocks: Clocks,
        *,
        dry_run: bool,
    ) -> None:
        """``emit`` takes the decision log, one line of JSON at a time."""
        self._config = config
        self._source = source
        self._platform = platform
        self._metrics = metrics
        self._emit = emit
        self._clocks = clocks
        self._dry_run = dry_run
        self._targets: dict[str, _Target] = {}
        self._complaints: dict[str, str] = {}
        self._finished_at = clocks.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Reconcile every interval until ``stop``; a reconcile that has begun is finished."""
        due = self._clocks.monotonic()
        while not stop.is_set():
            try:
                self.reconcile()
            except Exception:
                # The loop outlives its own bugs: the next reconcile starts from what is there.
                logger.exception("reconcile failed")
                self._metrics.failed("reconcile")
            now = self._clocks.monotonic()
            # A reconcile that took longer than the interval does not make the next ones hurry.
            due = max(due + self._config.interval, now)
            stop.wait(due - now)

    def alive(self) -> bool:
        """Tell whether the loop still turns."""
        config = self._config
        patience = ALIVE_INTERVALS * (config.interval + config.platform.timeout + config.prometheus.timeout)
        return self._clocks.monotonic() - self._finished_at <= patience

    def reconcile(self) -> bool:
        """Observe, decide and act once for all functions; False if anything could not be reached."""
        began = self._clocks.monotonic()
        errors = 0
        with ThreadPoolExecutor(self._config.platform.concurrency, thread_name_prefix="platform") as pool:
            errors += self._discover()
            due = [name for name, target in self._targets.items() if not _sits_out(target)]
            reading = {name: pool.submit(self._platform.scale, name) for name in due}
            seen, missing = self._observe()
            errors += missing
            acting = {}
            for name, read in reading.items():
                try:
                    scale = read.result()
                except PlatformError as error:
                    errors += self._failed(name, "read", error)
                    continue
                decision = self._decide(name, seen.get(name), scale)
                if decision.replicas is not None and not self._dry_run:
                    acting[name] = pool.submit(self._platform.set_scale, name, decision.replicas)
                else:
                    self._succeeded(name, applied=False)
            for name, act in acting.items():
                try:
                    act.result()
                except PlatformError as error:
                    errors += self._failed(name, "act", error)
                else:
                    self._succeeded(name, applied=True)
        self._finished_at = self._clocks.monotonic()
        self._metrics.reconciled(self._finished_at - began)
        return errors == 0

    def _discover(self) -> int:
        """Learn which functions there are; if that fails, go on with those that are known."""
        try:
            found = self._platform.functions()
        except PlatformError as error:
            known = len(self._targets)
            self._complain("discover", f"cannot list functions, going on with {known} known: {error}")
            return 1
        self._complain("discover", None)
        for name in self._targets.keys() - set(found):
            self._forget(name)
        for name in found:
            self._targets.setdefault(name, _Target())
        return 0

    def _observe(self) -> tuple[dict[str, Observation], int]:
        try:
            seen = self._source.observe()
        except SourceError as error:
            self._complain("observe", f"no observations, every function holds: {error}")
            return {}, 1
        self._complain("observe", None)
        return seen, 0

    def _decide(self, name: str, seen: Observation | None, scale: Scale) -> Decision:
        now = self._clocks.monotonic()
        spec = self._config.target(name)
        target = self._targets[name]
        target.before = target.state or TargetState.initial(spec, scale, now)
        decision, target.state = decide(spec, seen, scale, target.before, now)
        self._record(name, target, scale, decision)
        return decision

    def _record(self, name: str, target: _Target, scale: Scale, decision: Decision) -> None:
        replicas = scale.desired if decision.replicas is None else decision.replicas
        action = "up" if replicas > scale.desired else "down" if replicas < scale.desired else "hold"
        self._metrics.decided(name, scale, decision, action)
        news = (scale.desired, replicas, decision.reason)
        if news == target.told and (action == "hold" or self._dry_run):
            return
        target.told = news
        line = {
            "time": self._clocks.wall().isoformat(timespec="milliseconds"),
            "function_name": name,
            "from": scale.desired,
            "to": replicas,
            "action": action,
            "reason": decision.reason.value,
            "dry_run": self._dry_run,
            "inputs": {key: _rounded(value) for key, value in decision.inputs.items()},
        }
        self._emit(json.dumps(line))

    def _complain(self, where: str, message: str | None) -> None:
        """Count a failure, and log it when it begins or changes; None is its end."""
        before = self._complaints.pop(where, None)
        if message is None:
            if before is not None:
                logger.info("%s: works again", where)
            return
        self._metrics.failed(where)
        self._complaints[where] = message
        if message != before:
            logger.warning("%s", message)

    def _failed(self, name: str, where: str, error: PlatformError) -> int:
        self._metrics.failed(where)
        if isinstance(error, FunctionGoneError):
            logger.info("%s is gone: %s", name, error)
            self._forget(name)
            return 0
        target = self._targets[name]
        if where == "act":
            self._take_back(target)
        if "discover" in self._complaints:
            # The whole platform is unwell; when it is back, no function is to wait for longer.
            return 1
        target.failures += 1
        target.skip = min(2 ** (target.failures - 1), MAX_BACKOFF)
        logger.warning("%s: cannot %s, sitting out %d reconciles: %s", name, where, target.skip, error)
        return 1

    def _succeeded(self, name: str, *, applied: bool) -> None:
        target = self._targets[name]
        target.failures = 0
        if not applied:
            self._take_back(target)

    @staticmethod
    def _take_back(target: _Target) -> None:
        if target.before is not None and target.state is not None and target.state.asked is not None:
            target.state = unapplied(target.before, target.state)

    def _forget(self, name: str) -> None:
        self._targets.pop(name, None)
        self._metrics.forget(name)


def _sits_out(target: _Target) -> bool:
    if target.skip == 0:
        return False
    target.skip -= 1
    return True


def _rounded(value: float | None) -> float | None:
    """Six significant digits are more than any of the numbers is worth."""
    return value if value is None or isinstance(value, int) else float(f"{value:.6g}")
