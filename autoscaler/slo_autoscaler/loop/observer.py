"""Observes: the source's observations and history, the platform's functions and their counts.

Owns the answers to a source or a platform that fails: a function without observation holds, and if functions
cannot be listed, those that are known are read one by one.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Final

from slo_autoscaler.config import Config
from slo_autoscaler.errors import PlatformError, SourceError, UnreadableError
from slo_autoscaler.http.calls import Calls, DeferredError
from slo_autoscaler.law.foresight.history import KEPT, SLOT
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.restart import warm
from slo_autoscaler.logs import Changes
from slo_autoscaler.loop.targets import Fleet, Target
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms import Platform
from slo_autoscaler.platforms.keys import WrongKeyError
from slo_autoscaler.settings.spec import Spec
from slo_autoscaler.show.journal import named
from slo_autoscaler.show.metrics import Metrics
from slo_autoscaler.signals.record import Observation, Recorded
from slo_autoscaler.signals.source import DirectLoad, Source

logger = logging.getLogger(__name__)

AGES: Final = (24 * 3600.0, 7 * 24 * 3600.0)
"""Ages in seconds (a day and a week ago) of rates that may repeat."""

EARLIER_RATES_SECONDS: Final = 600.0
"""Seconds between two queries for rates of earlier days."""

MOST_LOGGED: Final = 20
"""Maximum functions for which one event is logged separately."""

Scales = Mapping[str, Scale | PlatformError]


@dataclass(slots=True)
class _Restored:
    """What was recorded before this start, until each function's memory has it."""

    functions: dict[str, Recorded]
    queried_at: float


@dataclass(slots=True)
class _Earlier:
    """Rates of earlier days, until each function's memory has them."""

    due: float = 0.0
    rates: dict[str, list[tuple[tuple[float, float], ...]]] = field(default_factory=dict)
    """(when it would be today, rate)."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The observations of one reconcile."""

    began: float
    """Time at which the source was asked."""
    seen: Mapping[str, Observation] | None
    """None: the source has failed,"""
    blind: str = ""
    """for this reason."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The functions to decide on, as the platform reports them."""

    scales: Scales
    errors: int = 0
    gone: Sequence[str] = ()
    """Functions that the platform lists no more."""
    begun: bool = True
    """Whether the request for the list has begun; otherwise other requests hold every thread."""

    @property
    def empty(self) -> bool:
        """Whether the platform names no function that can be read, which a restart would not change."""
        return self.begun and not any(isinstance(scale, Scale) for scale in self.scales.values())


@dataclass(eq=False, slots=True)
class Observer:
    """Observes all functions of ``fleet``, and adds new ones to it."""

    config: Config
    source: Source
    platform: Platform
    calls: Calls
    fleet: Fleet
    metrics: Metrics
    direct: DirectLoad | None
    now: Callable[[], float]
    _restored: _Restored | None = None
    _earlier: _Earlier = field(default_factory=_Earlier)
    _said: Changes = field(default_factory=lambda: Changes(logger))
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="observe")
    )
    _observing: Future[Observed] | None = None
    stopped: bool = False
    """Set at the end: failures count no more, since the source or the platform may be closed."""

    def close(self) -> None:
        """Stop the thread without waiting for the source."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def poll(self, seconds: float) -> Observed | None:
        """Observe in a thread and wait at most ``seconds``; None: a later call returns it.

        So a source that hangs until its timeout delays nothing else.
        """
        if self._observing is None:
            self._observing = self._thread.submit(self.observe)
        observing = self._observing
        wait([observing], seconds)
        if not observing.done():
            return None
        self._observing = None
        return observing.result()

    def observe(self) -> Observed:
        """Return the observations, or why there are none, within the source's timeouts."""
        began = self.now()
        try:
            seen = self.source.observe()
        except SourceError as error:
            self._failed("observe", f"cannot observe; every function holds: {error}")
            return Observed(began, None, str(error))
        self._recovered("observe")
        if self._restored is None:
            self._restored = self._restore()
        self._query_earlier()
        return Observed(began, seen)

    def learned(self, name: str, spec: Spec, memory: Memory) -> Memory:
        """Return the memory with what the source recorded earlier and no memory has."""
        past = None if self._restored is None else self._restored.functions.pop(name, None)
        if self._restored is not None and past is not None:
            memory = warm(spec, memory, past, self._restored.queried_at)
        rates = self._earlier.rates.pop(name, None)
        if rates is None:
            return memory
        history = memory.traffic.history.with_past(rates)
        return replace(memory, traffic=replace(memory.traffic, history=history))

    def listing(self, *, blind: bool) -> Listing:
        """Return the scales of all functions that do not back off; of the known ones if listing fails.

        Without observations (``blind``) every function holds, so the last known counts are enough.
        """
        listed = self.calls.result("list", self.calls.submit(self.platform.scales))
        denied = self.platform.denied()
        self.metrics.denies(denied)
        targets = self.fleet.targets
        self.fleet.listed = not isinstance(listed, PlatformError)
        if isinstance(listed, PlatformError):
            return self._unlisted(listed, blind=blind)
        self._recovered("discover")
        listed = {name: self._with_last(name, scale) for name, scale in listed.items()}
        _log_each(sorted(listed.keys() - targets.keys()), "found")
        gone = sorted(targets.keys() - listed.keys())
        _log_each(gone, "removed: the platform does not list it any more")
        for name, scale in listed.items():
            target = targets.get(name)
            if target is None:
                targets[name] = Target(self.config.target(name))
            elif target.trouble.unreadable and isinstance(scale, Scale):
                target.trouble = replace(target.trouble, unreadable=False, skip=0)
        self._log_unknown(listed)
        if self.direct is not None:
            self.direct.watch(frozenset(listed))
        if denied:
            self.metrics.failed("discover")
        return Listing({name: listed[name] for name in self._due(listed)}, int(bool(denied)), gone)

    def read(self, names: Sequence[str]) -> dict[str, Scale | PlatformError]:
        """Read functions one by one until ``timeout``; those left out come first the next time.

        If none of the first few is answered, the platform is down, and the others are not tried.
        """
        few = self.config.platform.concurrency
        scales: dict[str, Scale | PlatformError] = {}
        for some in (names[:few], names[few:]):
            reading = {name: self.calls.submit(self.platform.scale, name) for name in some}
            for name, scale in self.calls.results(reading):
                if not isinstance(scale, DeferredError):
                    scales[name] = self._with_last(name, scale)
                    self.fleet.targets[name].read_at = self.now()
            # An unreadable answer is the function's fault, not the platform's.
            if all(
                isinstance(scale, PlatformError) and not isinstance(scale, UnreadableError)
                for scale in scales.values()
            ):
                break
        return scales

    def _with_last(self, name: str, scale: Scale | PlatformError) -> Scale | PlatformError:
        """Return the last good values in place of wrong ones; the error if there never were any."""
        target = self.fleet.targets.get(name)
        last = None if target is None else target.scale
        return scale.with_last(last) if last is not None and isinstance(scale, WrongKeyError) else scale

    def _unlisted(self, error: PlatformError, *, blind: bool) -> Listing:
        targets = self.fleet.targets
        self._failed(
            "discover", f"cannot list functions; going on with those known ({len(targets)}): {error}"
        )
        due = self._due(sorted(targets, key=lambda name: targets[name].read_at))
        begun = not isinstance(error, DeferredError)
        if not blind:
            return Listing(self.read(due), 1, begun=begun)
        last = {name: targets[name].scale for name in due}
        return Listing({name: scale for name, scale in last.items() if scale is not None}, 1, begun=begun)

    def _due(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not self.fleet.targets[name].backs_off()]

    def _restore(self) -> _Restored:
        """Query once for the time before this start; without an answer everything is learned anew."""
        now = self.now()
        try:
            return _Restored(dict(self.source.history(KEPT * SLOT)), now)
        except SourceError as error:
            logger.warning("cannot read the history before the start; running without it: %s", error)
            return _Restored({}, now)

    def _query_earlier(self) -> None:
        """Query from time to time for the rates of earlier days, by which daily periods are known."""
        now = self.now()
        if now < self._earlier.due:
            return
        self._earlier.due = now + EARLIER_RATES_SECONDS
        try:
            earlier = self.source.earlier(AGES, KEPT * SLOT)
        except SourceError as error:
            self._failed("history", f"cannot read the rates of earlier days; running without them: {error}")
            return
        self._recovered("history")
        self._earlier.rates = {
            name: [tuple((now + after, rate) for after, rate in rates) for rates in ages.values()]
            for name, ages in earlier.items()
        }

    def _log_unknown(self, listed: Mapping[str, object]) -> None:
        """Log settings of functions that do not exist, or no more: the name may be mistyped."""
        unknown = {*self.config.functions} - listed.keys()
        for name in sorted(unknown):
            key = "functions", name
            if key not in self._said:
                _, near = named(name, sorted(listed))
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                self._said.say(
                    key, f"functions.{name}: the platform has no such function{hint}", level=logging.INFO
                )
        for name in self.config.functions.keys() - unknown:
            self._said.over(("functions", name))

    def _failed(self, stage: str, message: str) -> None:
        if not self.stopped:
            self.metrics.failed(stage)
            self._said.say(stage, message)

    def _recovered(self, stage: str) -> None:
        if not self.stopped:
            self._said.over(stage, f"{stage}: recovered")


def _log_each(names: Sequence[str], event: str) -> None:
    """Log an event of each function, or of their number if they are many."""
    if len(names) > MOST_LOGGED:
        logger.info("%d functions %s", len(names), event)
        return
    for name in names:
        logger.info("%s: %s", name, event)
