"""The loop: observe, decide, act, record.

Owns each function's state between reconciles, the backoff of failing functions, and the time limit of a
reconcile. One function's failure never stops the others; if the source fails, all functions hold. ``decide``
has the rules, ``shadow`` the virtual replicas; ``app`` passes the clocks in.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import inf, isinf
from typing import Any, Final, TypeVar

from slo_autoscaler import words
from slo_autoscaler.config import Config
from slo_autoscaler.conflict import FEW, WITHIN, ScalerConflict
from slo_autoscaler.errors import (
    FunctionGoneError,
    PlatformError,
    ScaleChangedError,
    SourceError,
    UnreadableError,
)
from slo_autoscaler.fields import Mode
from slo_autoscaler.journal import Entry, Journal, named
from slo_autoscaler.law.allocate import allocate
from slo_autoscaler.law.boost import boost, nominal
from slo_autoscaler.law.decide import Wish, agreed, claim, decided, raised, recommended
from slo_autoscaler.law.history import KEPT, SLOT
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.restart import Recorded, warm
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.leader import Leader
from slo_autoscaler.metrics import Metrics
from slo_autoscaler.model import Decision, Reason, Scale
from slo_autoscaler.platforms import Booster, CpuBoost, Platform, Range
from slo_autoscaler.shadow import Shadow, imagined
from slo_autoscaler.signals import Observation
from slo_autoscaler.sources import DirectLoad, Load, Source
from slo_autoscaler.spec import Spec

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

AGES: Final = (24 * 3600.0, 7 * 24 * 3600.0)
"""Ages in seconds (a day and a week ago) of rates that may repeat."""

EARLIER_RATES_SECONDS: Final = 600.0
"""Seconds between two queries for rates of earlier days."""

SIGNAL_SECONDS: Final = 0.5
"""Maximum seconds until a signal takes effect."""

DIRECT_CHECK_SECONDS: Final = 0.5
"""Seconds between two checks of the load that is read directly."""

KNOWN_FOR: Final = 300.0
"""Seconds for which the last observation may justify more replicas; then only what the pages tell may. A
capacity changes only with the model or the machine, and a Prometheus that restarts is back by then."""

MAX_BACKOFF: Final = 8
"""Maximum backoff of a function that keeps failing, in reconciles."""

MOST_LOGGED: Final = 20
"""Maximum functions for which one event is logged separately."""

ANNOUNCED: Final = frozenset(
    {
        *(Reason.HELD, Reason.SET_BY_HAND, Reason.NO_DATA, Reason.NOT_MANAGED),
        *(Reason.PLATFORM_CAP, Reason.UNSCHEDULABLE),
    }
)
"""Reasons of which the function's object tells by an event."""

ALIVE_INTERVALS: Final = 3
"""The loop counts as dead if it finished no reconcile for this many intervals plus its timeouts."""


UNABLE: Final = Range(None, 1.0)
"""Of a function without pods that may be boosted."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """A monotonic clock in seconds, for decisions, and the time of day, for the log."""

    monotonic: Callable[[], float]
    wall: Callable[[], datetime]


@dataclass(slots=True)
class _Target:
    """The state of one function between reconciles."""

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
    by_hand: str = ""
    """The last of them, while ``manual_hold`` respects it."""
    failures: int = 0
    unknown: str = ""
    """Its labels and annotations that mean nothing, as logged."""
    problem: str = ""
    """Why it cannot be read or scaled; empty: it can."""
    unreadable: bool = False
    """Whether its last failure was an unreadable answer of the platform."""
    skip: int = 0
    """Remaining backoff, in reconciles."""
    boost: float = 1.0
    """CPU factor in force."""
    boosted: float = 1.0
    """The highest since the last reconcile."""


@dataclass(frozen=True, slots=True)
class _Change:
    """A decision to apply."""

    replicas: int
    decision: Decision
    scale: Scale
    """The counts that the platform returned."""
    memory: Memory
    """The function's memory once the platform has agreed."""


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
        self._source = source
        self._platform = platform
        self._metrics = metrics
        self._journal = journal
        self._leader = leader
        self._emit = emit
        self._clocks = clocks
        self._direct = direct
        self._booster = booster
        self._leading = False
        self._targets: dict[str, _Target] = {}
        self._blind = ""
        """Why the source gave no observation; empty: it did."""
        self._past: dict[str, Recorded] | None = None
        self._recalled_at = 0.0
        self._earlier: dict[str, list[tuple[tuple[float, float], ...]]] = {}
        """Rates of earlier days that are not yet in a function's memory: (when it would be today, rate)."""
        self._earlier_due = 0.0
        self._logged: dict[str, str] = {}
        self._unknown: set[str] = set()
        """Functions with settings that the platform does not have."""
        self._conflicts: set[str] = set()
        """Functions that another autoscaler changes too."""
        self._warned = False
        """Whether another scaler was logged: one warning is enough."""
        self._writing = threading.Condition()
        self._under_way = 0
        """Changes that the platform has not answered yet."""
        self._stopped = False
        self._finished_at = clocks.monotonic()
        self._pool = ThreadPoolExecutor(config.platform.concurrency, thread_name_prefix="platform")

    def run(self, stop: threading.Event) -> None:
        """Reconcile every interval until ``stop``.

        Then wait for changes under way, so that the next leader's changes do not cross them; do not wait for
        reads.
        """
        threading.Thread(target=self._reconcile_until, args=(stop,), name="reconcile", daemon=True).start()
        # A signal that comes just before this thread blocks in a lock does not interrupt it.
        while not stop.wait(SIGNAL_SECONDS):
            pass
        with self._writing:
            self._stopped = True
            self._writing.wait_for(lambda: self._under_way == 0, self._config.platform.timeout)

    def _reconcile_until(self, stop: threading.Event) -> None:
        due = self._clocks.monotonic()
        while not stop.is_set():
            try:
                if self._clocks.monotonic() >= due:
                    self.reconcile()
                    # A reconcile that took longer than the interval does not make the next ones hurry.
                    due = max(due + self._config.interval, self._clocks.monotonic())
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
                due = max(due + self._config.interval, self._clocks.monotonic())
            wait = due - self._clocks.monotonic()
            stop.wait(wait if self._direct is None else min(wait, DIRECT_CHECK_SECONDS))

    def close(self) -> None:
        """Stop the threads without waiting for requests to the platform."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def alive(self) -> bool:
        """Return whether the loop has finished a reconcile lately enough."""
        config = self._config
        patience = ALIVE_INTERVALS * (config.interval + config.platform.timeout + config.prometheus.timeout)
        return self._clocks.monotonic() - self._finished_at <= patience

    def functions(self) -> list[str]:
        """Return the functions with recorded decisions or a problem; from any thread."""
        troubled = [name for name, target in list(self._targets.items()) if target.problem]
        return sorted({*self._journal.functions(), *troubled})

    def removed(self) -> list[str]:
        """Return functions that are gone, and whose decisions are still known; from any thread."""
        return self._journal.functions(removed=True)

    def denied(self) -> Mapping[str, str]:
        """Return {namespace or kind: error} that the autoscaler may not read; from any thread."""
        return self._platform.denied()

    def decisions(self, function_name: str, last: int) -> dict[str, Any] | None:
        """Return the last decisions of one function and its problem as JSON; from any thread.

        None if there are neither.
        """
        found = self._journal.decisions(function_name, last)
        target = self._targets.get(function_name)
        problem = {"problem": target.problem} if target is not None and target.problem else {}
        if found is None and not problem:
            return None
        removed = {} if target is not None else {"removed": True}
        shadow = None if target is None else target.shadow
        score = {} if shadow is None else {"score": shadow.score.document()}
        return {"function_name": function_name, "decisions": found or [], **problem, **removed, **score}

    def reconcile(self) -> bool:
        """Observe, decide and act once for all functions; return False if any request failed.

        Takes no longer than the timeouts of the source and of the platform's steps (list, read twice, act)
        together, for any number of functions and failures.
        """
        began = self._clocks.monotonic()
        self._leading = self._leader.leads()
        self._metrics.leads(self._leading)
        listing = self._pool.submit(self._platform.scales)
        seen, errors = self._observe()
        scales, missing = self._scales(listing, blind=seen is None)
        errors += missing
        if self._stopped:
            return False  # decisions would not be applied
        wishes: dict[str, Wish] = {}
        for name, scale in scales.items():
            target = self._targets[name]
            if isinstance(scale, PlatformError):
                target.counted = scale.replicas if isinstance(scale, UnreadableError) else target.counted
                errors += self._failed(name, "read", scale)
                continue
            target.scale, target.counted = scale, None
            self._detect_conflict(name, target)
            self._log_unknown_keys(name, target, scale)
            try:
                wishes[name] = self._recommend(name, target, None if seen is None else seen.get(name), scale)
            except Exception as error:
                # A bug that one function's numbers trigger must not stop the others.
                logger.exception("%s: cannot decide", name)
                errors += self._failed(name, "decide", PlatformError(f"{type(error).__name__}: {error}"))
        shares = self._shares(wishes)
        changes: dict[str, _Change] = {}
        desired: dict[str, int] = {}
        for name, wish in wishes.items():
            target, scale = self._targets[name], wish.at.scale
            decision = self._decide(name, target, wish, shares.get(name))
            if self._leading and scale.mode in {"active", "recommend"} and wish.bounds is not None:
                desired[name] = scale.desired if decision.replicas is None else decision.replicas
            if decision.replicas is not None and self._acts(scale.mode):
                after = agreed(wish, decision)
                changes[name] = _Change(decision.replicas, decision, target.scale or scale, after)
                continue
            self._recovered(name, target)
        # Replaces all earlier ones: another autoscaler may act on them.
        self._metrics.desires(desired)
        errors += self._act(changes)
        self._metrics.conflicting_scaler(there=bool(self._conflicts))
        self._finished_at = self._clocks.monotonic()
        self._metrics.reconciled(self._finished_at - began)
        return errors == 0

    def scale_up_between(self) -> None:
        """Add replicas between two reconciles where the arrivals exceed the requested capacity.

        Uses the load that is read directly and the last observation; without one of late, what the pages tell
        of their replicas. So it also works while Prometheus is down. Queries the platform only for functions
        that get more replicas.
        """
        if self._direct is None or self._stopped:
            return
        raises = {
            name: load
            for name, load in self._direct.loads().items()
            if (target := self._targets.get(name)) is not None
            and target.scale is not None
            and self._raised(target, load, target.scale) is not None
        }
        changes: dict[str, _Change] = {}
        for name, scale in self._read(list(raises)).items():
            target = self._targets[name]
            if isinstance(scale, PlatformError):
                continue  # the next reconcile reports it
            target.scale = scale
            change = self._raised(target, raises[name], scale)
            if change is not None:
                self._record(name, target, scale, scale, change.decision)
                changes[name] = change
        if changes:
            self._act(changes)

    def boost(self) -> None:
        """Decide every function's CPU factor, export it, and apply it in mode active.

        Uses the last observation and the load that is read directly. Never waits: the thread that reads the
        load calls this after each round, also while a reconcile waits for Prometheus or the platform.
        """
        loads = {} if self._direct is None else self._direct.loads()
        ranges = {} if self._booster is None else self._booster.ranges()
        decided: dict[str, tuple[float, float]] = {}
        boosts: dict[str, CpuBoost] = {}
        for name, target in list(self._targets.items()):
            limits, scale = target.spec.boost, target.scale
            acts = scale is not None and self._acts(scale.mode)
            able = ranges.get(name, UNABLE if acts else Range(None, inf))
            most = min(able.label or limits.max_factor, able.most)
            factor = 1.0
            if scale is not None and most > 1.0:
                spec = replace(_with_labels(target.spec, scale), boost=replace(limits, max_factor=most))
                factor = self._boosted(name, target, spec, scale, loads.get(name))
                decided[name] = factor, most
            target.boost = factor
            if acts:
                target.boosted = max(target.boosted, factor)
            if name in ranges:
                boosts[name] = CpuBoost(factor if acts else 1.0, limits.max_cpu, limits.requests)
        self._metrics.boosts(decided)
        if self._booster is not None and self._leading:
            self._booster.boost(boosts)

    def _boosted(self, name: str, target: _Target, spec: Spec, scale: Scale, load: Load | None) -> float:
        """Return the CPU factor of a function; 1 unless it was observed lately."""
        now, seen = self._clocks.monotonic(), self._lately(target, load)
        if target.memory is None or seen is None:
            return 1.0
        if target.shadow is not None:
            scale = target.shadow.scale(scale, now)
        if load is not None:
            seen = replace(seen, direct_rate=load.rate, direct_in_flight=load.in_flight)
        try:
            decided = boost(nominal(Situation(spec, seen, scale, target.memory, now)), target.boost)
        except Exception:
            # A bug that one function's numbers trigger must not stop the others.
            logger.exception("%s: cannot decide its boost", name)
            return 1.0
        if (decided.factor > 1.0) != (target.boost > 1.0):
            logger.info("%s: %s", name, words.boosted(decided, target.memory.start_up(spec)))
        return decided.factor

    def _lately(self, target: _Target, load: Load | None) -> Observation | None:
        """Return the last observation, or what the pages tell if that is too old; None: unknown."""
        if target.observed is not None and self._clocks.monotonic() - target.observed[0] <= KNOWN_FOR:
            return target.observed[1]
        return None if load is None else load.told

    def _raised(self, target: _Target, load: Load, scale: Scale) -> _Change | None:
        """Return the result of ``raised`` for a function, if it may be scaled and was observed lately."""
        now, memory, seen = self._clocks.monotonic(), target.memory, self._lately(target, load)
        if memory is None or seen is None or target.skip or not self._acts(scale.mode):
            return None
        # Most functions end here, before any object is made for them.
        if load.rate <= (seen.capacity or inf) * scale.desired:
            return None
        spec, seen = _with_labels(target.spec, scale), replace(seen, direct_rate=load.rate)
        wall, by_hand = self._clocks.wall(), target.by_hand
        at = Situation(spec, seen, scale, memory, now, wall, boost=target.boost, by_hand=by_hand)
        found = raised(at, self._free(target.spec.group))
        if found is None or found[0].replicas is None:
            return None
        decision, after = found
        return _Change(found[0].replicas, decision, scale, after)

    def _free(self, group: str | None) -> float:
        """Return the replicas of a budget that no function has requested."""
        budget = self._config.fleet.budgets.get(group)
        if budget is None:
            return inf
        return budget - sum(_held(target) for target in self._targets.values() if target.spec.group == group)

    def _observe(self) -> tuple[Mapping[str, Observation] | None, int]:
        """Return the observations and 0, or None and 1 for a failure."""
        try:
            seen = self._source.observe()
        except SourceError as error:
            self._blind = str(error)
            self._log_once("observe", f"cannot observe; every function holds: {error}")
            return None, 1
        self._blind = ""
        self._log_once("observe", None)
        if self._past is None:
            self._recall()
        self._query_earlier()
        return seen, 0

    def _recall(self) -> None:
        """Query once for the time before this start; without an answer everything is learned anew."""
        self._recalled_at = self._clocks.monotonic()
        try:
            self._past = self._source.history(KEPT * SLOT)
        except SourceError as error:
            logger.warning("cannot read the history before the start; running without it: %s", error)
            self._past = {}

    def _query_earlier(self) -> None:
        """Query from time to time for the rates of earlier days, by which daily periods are known."""
        now = self._clocks.monotonic()
        if now < self._earlier_due:
            return
        self._earlier_due = now + EARLIER_RATES_SECONDS
        try:
            found = self._source.earlier(AGES, KEPT * SLOT)
        except SourceError as error:
            self._log_once("history", f"cannot read the rates of earlier days; running without them: {error}")
            return
        self._log_once("history", None)
        self._earlier = {
            name: [tuple((now + after, rate) for after, rate in rates) for rates in ages.values()]
            for name, ages in found.items()
        }

    def _detect_conflict(self, name: str, target: _Target) -> None:
        """Notice changes of a function's replicas that were not requested, in mode active."""
        if target.scale is None or not self._acts(target.scale.mode):
            target.conflict, target.by_hand = ScalerConflict(), ""
            self._conflicts.discard(name)
            return
        now = self._clocks.monotonic()
        target.conflict = target.conflict.read(target.scale, now)
        target.by_hand = target.conflict.set_by_hand(now, target.spec.manual_hold)
        if not target.conflict.detected(now):
            self._conflicts.discard(name)
            return
        if not self._warned:
            logger.warning(
                "%s: replicas changed %d times within %.0f s without a request of this autoscaler: another"
                " autoscaler scales it, such as OpenFaaS' own or a HorizontalPodAutoscaler; two autoscalers"
                " cannot share a function (docs/howto/runbook.md, ConflictingScaler)",
                *(name, FEW, WITHIN),
            )
            self._warned = True
        if name not in self._conflicts:
            self._platform.announce(name, "ConflictingScaler", "another autoscaler changes the replicas too")
        self._conflicts.add(name)

    def _log_unknown_keys(self, name: str, target: _Target, scale: Scale) -> None:
        """Log labels and annotations that mean nothing, when they change."""
        if scale.unknown and scale.unknown != target.unknown:
            logger.warning("%s: %s", name, scale.unknown)
            self._platform.announce(name, "UnknownKey", scale.unknown)
        target.unknown = scale.unknown

    def _scales(
        self, listing: Future[dict[str, Scale | PlatformError]], *, blind: bool
    ) -> tuple[Mapping[str, Scale | PlatformError], int]:
        """Return the scales of all functions that do not back off; of the known ones if listing fails.

        Without observations (``blind``) every function holds, so the last known counts are enough.
        """
        listed = self._result("list", listing)
        if not isinstance(listed, PlatformError):
            self._log_once("discover", None)
            _log_each(sorted(listed.keys() - self._targets.keys()), "found")
            gone = sorted(self._targets.keys() - listed.keys())
            _log_each(gone, "removed: the platform does not list it any more")
            for name in gone:
                self._forget(name)
            for name, scale in listed.items():
                if name not in self._targets:
                    self._targets[name] = _Target(self._config.target(name))
                elif self._targets[name].unreadable and isinstance(scale, Scale):
                    self._targets[name].unreadable, self._targets[name].skip = False, 0
            self._log_unknown(listed)
            if self._direct is not None:
                self._direct.watch(frozenset(listed))
            denied = bool(self._platform.denied())
            if denied:
                self._metrics.failed("discover")
            return {name: listed[name] for name in self._due(listed)}, int(denied)
        known = len(self._targets)
        self._log_once("discover", f"cannot list functions; going on with those known ({known}): {listed}")
        due = self._due(sorted(self._targets, key=lambda name: self._targets[name].read_at))
        if blind:
            last = {name: self._targets[name].scale for name in due}
            return {name: scale for name, scale in last.items() if scale is not None}, 1
        return self._read(due), 1

    def _log_unknown(self, listed: Mapping[str, object]) -> None:
        """Log settings of functions that do not exist, or no more: the name may be mistyped."""
        unknown = {*self._config.functions} - listed.keys()
        for name in sorted(unknown - self._unknown):
            _, near = named(name, sorted(listed))
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            logger.info("functions.%s: the platform has no such function%s", name, hint)
        self._unknown = unknown

    def _read(self, names: Sequence[str]) -> dict[str, Scale | PlatformError]:
        """Read functions one by one until ``timeout``; those left out come first the next time.

        If none of the first few can be read, the platform is down, and the others are not tried.
        """
        few = self._config.platform.concurrency
        found: dict[str, Scale | PlatformError] = {}
        for some in (names[:few], names[few:]):
            reading = {name: self._pool.submit(self._platform.scale, name) for name in some}
            for name, scale in self._results(reading):
                if not isinstance(scale, _DeferredError):
                    found[name] = scale
                    self._targets[name].read_at = self._clocks.monotonic()
            if all(isinstance(scale, PlatformError) for scale in found.values()):
                break
        return found

    def _due(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not _backs_off(self._targets[name])]

    def _recommend(self, name: str, target: _Target, seen: Observation | None, scale: Scale) -> Wish:
        now = self._clocks.monotonic()
        spec = _with_labels(target.spec, scale)
        before, target.decided = target.decided, scale
        if before is not None and target.memory is not None:
            if before.mode != scale.mode:
                target.shadow, target.observed = None, None
                target.memory = target.memory.elsewhere(scale, now)
            elif scale.mode == "recommend" and before.desired != scale.desired:
                # Whether this follows a recommendation is unknown, and does not matter.
                target.memory = target.memory.changed(before.desired, scale.desired, now)
        if scale.mode == "shadow":
            shadow = target.shadow or Shadow.beside(scale, now)
            shadow = shadow.passed(seen, scale, _start_up(target), spec.timing.longest_gap, now)
            real, scale = scale, shadow.scale(scale, now)
            seen = None if seen is None else imagined(seen, real, scale)
            target.shadow = shadow
        if target.memory is None:
            target.memory = Memory.initial(scale, now)
        past = self._past.pop(name, None) if self._past else None
        if past is not None:
            target.memory = warm(spec, target.memory, past, self._recalled_at)
        earlier = self._earlier.pop(name, None)
        if earlier is not None:
            history = target.memory.history.with_past(earlier)
            target.memory = replace(target.memory, history=history)
        wall, by_hand = self._clocks.wall(), target.by_hand
        boosted, target.boosted = target.boosted, 1.0
        seen_now = seen or Observation()
        wish = recommended(
            Situation(spec, seen_now, scale, target.memory, now, wall, boost=boosted, by_hand=by_hand)
        )
        target.memory = wish.at.memory
        if seen is not None and wish.bounds is not None:
            target.observed = now, seen
        return wish

    def _shares(self, wishes: Mapping[str, Wish]) -> dict[str, int]:
        """Return the replicas of each function that shares a budget."""
        shares: dict[str, int] = {}
        budgets = self._config.fleet.budgets
        members: dict[str | None, list[str]] = {group: [] for group in budgets}
        for name, wish in wishes.items():
            group = self._targets[name].spec.group
            if group in members and wish.at.scale.mode != "shadow":
                members[group].append(name)
        # Those that back off or were not read keep their replicas.
        left_out = [target for name, target in self._targets.items() if name not in wishes] if members else []
        for group, names in members.items():
            held = sum(wishes[name].at.scale.desired for name in names if wishes[name].bounds is None)
            held += sum(_held(target) for target in left_out if target.spec.group == group)
            claims = {name: claim(wishes[name]) for name in names if wishes[name].bounds is not None}
            shares |= allocate(claims, budgets[group] - held)
        return shares

    def _decide(self, name: str, target: _Target, wish: Wish, share: int | None) -> Decision:
        decision = decided(wish, share)
        if target.shadow is not None and decision.replicas is not None:
            target.memory = agreed(wish, decision)
            target.shadow = target.shadow.wanted(decision.replicas, _start_up(target), wish.at.now)
        self._record(name, target, target.scale or wish.at.scale, wish.at.scale, decision)
        return decision

    def _record(self, name: str, target: _Target, real: Scale, scale: Scale, decision: Decision) -> None:
        leads = self._leading or scale.mode in {"shadow", "off"}
        entry = Entry(
            at=self._clocks.wall(),
            function_name=name,
            before=scale.desired,
            after=scale.desired if decision.replicas is None else decision.replicas,
            reason=decision.reason.value,
            mode=scale.mode if leads else "standby",
            inputs=decision.inputs,
            incumbent=real.desired if target.shadow is not None else None,
            detail=decision.detail,
            shortage=real.shortage,
            cause=self._blind if decision.reason is Reason.NO_DATA else "",
        )
        shadow = None if target.shadow is None else (target.shadow.desired, target.shadow.score)
        self._metrics.decided(name, real, decision, entry.action, shadow)
        if self._journal.record(entry):
            self._emit(json.dumps(entry.document()))
            if decision.reason in ANNOUNCED:
                parts = [decision.reason.clauses[0], entry.detail, entry.shortage, entry.cause]
                self._platform.announce(name, entry.reason, "; ".join(filter(None, parts)))

    def _acts(self, mode: Mode) -> bool:
        return self._leading and mode == "active"

    def _act(self, changes: Mapping[str, _Change]) -> int:
        """Request all changes until ``timeout``; return the number of failures."""
        conflicts = {name: self._targets[name].conflict for name in changes}
        for name, change in changes.items():
            self._targets[name].conflict = conflicts[name].requested(change.replicas)
        # Scale-ups go first: a missing replica costs misses now, a spare one only money.
        ups_first = sorted(changes, key=lambda name: changes[name].replicas < changes[name].scale.desired)
        asking = {
            name: self._pool.submit(self._set_scale, name, changes[name].replicas, changes[name].scale)
            for name in ups_first
        }
        errors = deferred = 0
        for name, result in self._results(asking):
            if isinstance(result, _DeferredError):
                deferred += 1
            elif isinstance(result, ScaleChangedError):
                self._left_out(name, changes[name], result)
                self._targets[name].conflict = conflicts[name]
            elif isinstance(result, PlatformError):
                errors += self._failed(name, "act", result)
            else:
                self._targets[name].memory = changes[name].memory
                self._recovered(name, self._targets[name])
        if deferred:
            self._metrics.failed("act")
            logger.warning("%d of %d changes deferred: the platform is slow", deferred, len(changes))
        return errors + deferred

    def _left_out(self, name: str, change: _Change, why: ScaleChangedError) -> None:
        """Record that a decision was not applied, because its count had changed meanwhile."""
        logger.info("%s: not scaled to %s: %s", name, change.replicas, why)
        target = self._targets[name]
        self._recovered(name, target)
        held = Decision(None, Reason.SCALE_CHANGED, change.decision.inputs)
        self._record(name, target, change.scale, change.scale, held)

    def _set_scale(self, name: str, replicas: int, seen: Scale) -> None:
        with self._writing:
            if self._stopped or not self._leader.leads():
                raise _DeferredError("no longer the leader")
            self._under_way += 1
        try:
            self._platform.set_scale(name, replicas, seen)
        finally:
            with self._writing:
                self._under_way -= 1
                self._writing.notify_all()

    def _results(self, asked: Mapping[str, Future[_T]]) -> Iterator[tuple[str, _T | PlatformError]]:
        """Yield the result of each request to the platform; wait for all together at most ``timeout``.

        A request that has not begun by then is deferred. One under way may still take effect, which the next
        reconcile sees.
        """
        wait(asked.values(), self._config.platform.timeout)
        for name, future in asked.items():
            result = self._result(name, future, 0.0)
            yield name, result

    def _result(self, name: str, future: Future[_T], patience: float | None = None) -> _T | PlatformError:
        """Return the result of one request to the platform, within ``patience`` (``timeout``) seconds."""
        timeout = self._config.platform.timeout
        wait([future], timeout if patience is None else patience)
        if future.cancel():
            return _DeferredError(f"not sent within {timeout:g} s")
        if not future.done():
            return PlatformError(f"no answer within {timeout:g} s")
        try:
            return future.result()
        except PlatformError as error:
            return error
        except Exception as error:
            logger.exception("%s: unexpected error of the platform", name)
            return PlatformError(f"{type(error).__name__}: {error}")

    def _log_once(self, stage: str, message: str | None) -> None:
        """Count a failure, and log its begin, change and end (None); after ``stop`` do neither."""
        if self._stopped:
            return
        before = self._logged.pop(stage, None)
        if message is None:
            if before is not None:
                logger.info("%s: recovered", stage)
            return
        self._metrics.failed(stage)
        self._logged[stage] = message
        if message != before:
            logger.warning("%s", message)

    def _failed(self, name: str, stage: str, error: PlatformError) -> int:
        self._metrics.failed(stage)
        if isinstance(error, FunctionGoneError):
            logger.info("%s: removed: %s", name, error)
            self._forget(name)
            return 0
        target = self._targets[name]
        if "discover" in self._logged:
            # The whole platform fails: when it recovers, no function should have to wait longer.
            return 1
        target.failures += 1
        target.unreadable = stage == "read"
        # The first failure skips none: a conflict with another writer's status is over within milliseconds.
        target.skip = min(2 ** (target.failures - 1) - 1, MAX_BACKOFF)
        before, text = target.problem, str(error).removeprefix(f"{name}: ")
        target.problem = f"cannot {'scale' if stage == 'act' else stage} it: {text}"
        if target.problem != before:
            logger.warning("%s: %s; it stays at its count, and is tried again", name, target.problem)
            self._platform.announce(name, "ScalingFailed", target.problem)
        return 1

    @staticmethod
    def _recovered(name: str, target: _Target) -> None:
        """Record that a function was decided on and, if due, scaled."""
        if target.failures:
            logger.info("%s: recovered", name)
            target.failures, target.problem = 0, ""

    def _forget(self, name: str) -> None:
        self._targets.pop(name, None)
        self._conflicts.discard(name)
        self._metrics.forget(name)
        self._journal.forget(name)


class _DeferredError(PlatformError):
    """A request was not sent in this reconcile; the function is not at fault."""


def _log_each(names: Sequence[str], event: str) -> None:
    """Log an event of each function, or of their number if they are many."""
    if len(names) > MOST_LOGGED:
        logger.info("%d functions %s", len(names), event)
        return
    for name in names:
        logger.info("%s: %s", name, event)


def _with_labels(spec: Spec, scale: Scale) -> Spec:
    """Return the settings with the function's own labels applied."""
    if scale.zero_after is None:
        return spec
    return replace(spec, scale_to_zero_after=None if isinf(scale.zero_after) else scale.zero_after)


def _held(target: _Target) -> int:
    """Return the replicas of a function that count against a budget, requested ones included.

    One that could never be read holds its count, or at least its minimum.
    """
    if (target.spec.mode if target.scale is None else target.scale.mode) == "shadow":
        return 0
    last = target.spec.min_replicas if target.scale is None else target.scale.desired
    asked = None if target.memory is None else target.memory.asked
    return max(last if target.counted is None else target.counted, 0 if asked is None else asked.replicas)


def _start_up(target: _Target) -> float:
    """Return the seconds until a shadow's replica serves. Its own start-ups teach nothing."""
    return max(target.spec.start_up_time, 0.0 if target.memory is None else target.memory.reported)


def _backs_off(target: _Target) -> bool:
    if target.skip == 0:
        return False
    target.skip -= 1
    return True
