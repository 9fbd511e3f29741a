"""Other scalers' published laws, re-implemented, and an oracle, as baselines. [P]

Each is a function from settings, what was measured and a small state to a count, so that its steps can be
checked by hand, and a class that feeds it in a simulation. All are given the bounds that ours is given:
OpenFaaS CE's ceiling of five replicas, for one, is its license, not its law.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tailbound_lab.simulate.function import Function, View
from tailbound_lab.simulate.traces import Trace

TICK: Final = 1.0
"""Seconds: the simulation's resolution; policies that poll more often poll this often."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The fewest and the most replicas."""

    lowest: int
    highest: int

    def clamp(self, replicas: int) -> int:
        """Return the nearest count that is allowed."""
        return min(max(replicas, self.lowest), self.highest)


# OpenFaaS CE: an alert on the rate of successes, Alertmanager's grouping, one step up for each notification.


@dataclass(frozen=True, slots=True)
class OpenFaasRule:
    """The chart's alert rule, its Alertmanager and the gateway's answer (faas 8d803bf, faas-netes)."""

    threshold: float = 5.0
    """Successes per second of the whole function, over 10 s."""
    factor: int = 20
    """Per cent of the maximum that one notification adds; the label com.openfaas.scale.factor."""
    window: float = 10.0
    hold: float = 5.0
    """How long the condition must hold before the alert fires."""
    evaluation: float = 15.0
    group_wait: float = 5.0
    group_interval: float = 10.0
    repeat: float = 30.0


@dataclass(frozen=True, slots=True)
class AlertGroup:
    """Alertmanager's one group: its alerts, when to read it next (None: it is empty), what was told."""

    alerts: frozenset[str] = frozenset()
    flush_at: float | None = None
    told: frozenset[str] = frozenset()
    told_at: float = -math.inf


@dataclass(frozen=True, slots=True)
class Notification:
    """One post to the gateway: the functions whose alert fires, and those whose alert has been resolved."""

    firing: frozenset[str]
    resolved: frozenset[str]


def notify(
    rule: OpenFaasRule, group: AlertGroup, firing: frozenset[str], now: float
) -> tuple[AlertGroup, Notification | None]:
    """Return the group after a read of the firing alerts, and the notification that goes out now, if any.

    All functions' alerts share the group, so one function's news is every firing function's step.

    1. New alerts join the group; a group's first alert starts the group wait.
    2. Nothing goes out before the group's next flush.
    3. At a flush a notification goes out if an alert fires that was not in the last one, if one of the last
       one's no longer fires, or if the last one is a repeat interval old and alerts still fire.
    4. Alerts that no longer fire leave the group; an empty group has no next flush.
    """
    alerts = group.alerts | firing
    if not alerts:
        return group, None
    due = now + rule.group_wait if group.flush_at is None else group.flush_at
    if now < due:
        return replace(group, alerts=alerts, flush_at=due), None
    resolved = alerts - firing
    news = bool(firing - group.told) or bool(resolved & group.told)
    repeat = bool(firing) and now - group.told_at >= rule.repeat
    following = now + rule.group_interval if firing else None
    if not (news or repeat):
        return AlertGroup(firing, following, group.told & firing, group.told_at), None
    return AlertGroup(firing, following, firing, now), Notification(firing, resolved)


def openfaas_step(rule: OpenFaasRule, bounds: Bounds, current: int, *, firing: bool) -> int:
    """Return the count that the gateway sets: one step up while the alert fires, the minimum afterwards.

    A count above the highest is lowered to it.
    """
    if not firing:
        return bounds.lowest
    # Integers, not floats: 5 * 20 / 100 must be 1, whatever the rounding.
    return min(current - (-bounds.highest * rule.factor // 100), bounds.highest)


# Knative's KPA.


@dataclass(frozen=True, slots=True)
class KpaSettings:
    """config-autoscaler's keys (knative/serving 98e5ef9)."""

    target: float = 70.0
    """Requests inside one pod: container-concurrency-target-default 100 x target-percentage 70%."""
    stable_window: float = 60.0
    panic_window: float = 6.0
    panic_threshold: float = 2.0
    up_rate: float = 1000.0
    down_rate: float = 2.0


@dataclass(frozen=True, slots=True)
class KpaState:
    """Since when there is panic (None: there is none), and the most that was wanted in it."""

    panic_since: float | None = None
    most: int = 0


def kpa(
    settings: KpaSettings, state: KpaState, now: float, *, ready: int, stable: float, panic: float
) -> tuple[int, KpaState]:
    """Return the wanted count for the concurrency averaged over both windows, before bounds.

    Both counts are held between ready / ``down_rate`` and ready x ``up_rate``. Panic begins when the short
    window wants ``panic_threshold`` times what is ready, and ends a stable window after it last did; in panic
    the count never falls (pkg/autoscaler/scaling/autoscaler.go).
    """
    ready = max(1, ready)
    most, least = math.ceil(settings.up_rate * ready), math.floor(ready / settings.down_rate)
    wanted_panic = math.ceil(panic / settings.target)
    by_stable = min(max(math.ceil(stable / settings.target), least), most)
    by_panic = min(max(wanted_panic, least), most)
    if wanted_panic / ready >= settings.panic_threshold:
        state = replace(state, panic_since=now)
    elif state.panic_since is not None and now - state.panic_since > settings.stable_window:
        state = KpaState()
    if state.panic_since is None:
        return by_stable, state
    wanted = max(by_stable, by_panic, state.most)
    return wanted, replace(state, most=wanted)


# Kubernetes' HPA, on CPU and (through KEDA) on an external value.

HPA_TOLERANCE: Final = 0.1


@dataclass(frozen=True, slots=True)
class HpaSettings:
    """The controller's defaults (kubernetes.io, Horizontal Pod Autoscaling)."""

    target: float = 0.8
    """Of the metric: the share of the requested CPU, or the external value."""
    down_window: float = 300.0
    """Stabilization: down only to the highest recommendation of so many seconds."""
    sync: float = 15.0


def hpa_on_pods(usage: float, target: float, current: int, ready: int) -> int:
    """Return the wanted count for a metric of pods; ``usage`` is its mean over the ready ones.

    ceil(ready x usage / target), nothing within 10%. Upwards, pods that are not ready count as using
    nothing, and when that turns the direction nothing is done.
    """
    if ready == 0:
        return current
    ratio = usage / target
    if abs(ratio - 1.0) <= HPA_TOLERANCE:
        return current
    if ratio > 1.0 and current > ready:
        diluted = usage * ready / (current * target)
        if diluted < 1.0 or abs(diluted - 1.0) <= HPA_TOLERANCE:
            return current
        return max(current, math.ceil(diluted * current - 1e-9))
    return math.ceil(ratio * ready - 1e-9)


def hpa_on_value(value: float, threshold: float, current: int, ready: int) -> int:
    """Return the wanted count for an external metric of type ``Value``: ceil(ready x value / threshold)."""
    ratio = value / threshold
    if abs(ratio - 1.0) <= HPA_TOLERANCE:
        return current
    return math.ceil(ratio * ready - 1e-9)


def hpa_limit(wanted: int, current: int, highest_recommended: int, bounds: Bounds) -> int:
    """Return what one sync may do by default: up to twice or 4 more, down to the highest recommendation."""
    wanted = min(wanted, max(2 * current, current + 4))
    if wanted < current:
        wanted = min(current, max(wanted, highest_recommended))
    return bounds.clamp(wanted)


# llm-d's workload-variant-autoscaler.

LLMD_PEAKS: Final = 60.0
"""Seconds over which each replica's peaks are taken (max_over_time)."""

LLMD_REPLICAS_TO_SCALE_DOWN: Final = 2
"""Replicas that are not saturated: with fewer there is no scale-down."""


@dataclass(frozen=True, slots=True)
class LlmdSettings:
    """The keys of its saturation-scaling-config and of its HPA (repository at b08b1c7)."""

    queue_threshold: float = 5.0
    """Waiting requests with which a replica is saturated."""
    queue_trigger: float = 3.0
    """One replica more when on average fewer may still be queued."""
    usage_threshold: float = 0.8
    usage_trigger: float = 0.1
    """The same of the KV cache; here the share of the batch's slots that are taken."""
    interval: float = 60.0
    """Seconds between two analyses (GLOBAL_OPT_INTERVAL)."""
    window: float = 240.0
    """Stabilization of its HPA, seconds, in both directions."""


def llmd(settings: LlmdSettings, peaks: Sequence[tuple[float, float]], current: int, asked: int) -> int:
    """Return the wanted count for (share of slots, queue) of each replica that reports, peaks of a minute.

    Nothing is decided before all that was ``asked`` for (0: nothing yet) is there and reports. One more where
    those that are not saturated have on average less to spare than a trigger, or none is left; one less where
    they would still have that much with one of them gone.
    """
    if not peaks or len(peaks) != current or asked not in (0, current):
        return asked or current
    free = [
        (usage, queue)
        for usage, queue in peaks
        if usage < settings.usage_threshold and queue < settings.queue_threshold
    ]
    if not free:
        return current + 1
    loads = [math.fsum(column) for column in zip(*free, strict=True)]
    limits = (
        settings.usage_threshold - settings.usage_trigger,
        settings.queue_threshold - settings.queue_trigger,
    )

    def fits(replicas: int) -> bool:
        return all(load / replicas <= limit for load, limit in zip(loads, limits, strict=True))

    if not fits(len(free)):
        return current + 1
    if current > 1 and len(free) >= LLMD_REPLICAS_TO_SCALE_DOWN and fits(len(free) - 1):
        return current - 1
    return current


# llm-d's loop for latency targets of streams: a KEDA formula and the HPA that it drives.

LLMD_QUANTILE: Final = 0.9


@dataclass(frozen=True, slots=True)
class LlmdSloSettings:
    """The recording rules, the formula and the HPA's behavior (llm-d/llm-d d38c9f0, README.slo-aware.md)."""

    up: float = 0.55
    """Saturation above which the count rises."""
    down: float = 0.40
    """Saturation below which it falls."""
    cap: float = 2.0
    """Largest saturation of a sample."""
    smooth: int = 3
    """Samples of which the mean counts: 45 s."""
    span: float = 60.0
    """Seconds over which quantiles are taken."""
    sync: float = 15.0
    up_window: float = 30.0
    """Stabilization: up only to the lowest recommendation of so many seconds, and down to the highest."""
    down_window: float = 180.0
    up_period: float = 60.0
    """Seconds in which the count may double, or rise by ``up_pods``."""
    up_pods: int = 4
    down_period: float = 120.0
    """Seconds in which it may fall by one."""


def llmd_slo(settings: LlmdSloSettings, saturation: float, current: int, ready: int) -> int:
    """Return the wanted count, before bounds. Only a rise takes the replicas on their way into account."""
    if saturation > settings.up:
        credit = ready / current if 0 < ready < current else 1.0
        return current + math.ceil(current * (saturation * credit / settings.up - 1.0))
    if saturation < settings.down:
        return current - math.floor(current * (1.0 - saturation / settings.down))
    return current


# The same laws, fed by a simulation.


class _Recent:
    """The values of the last ``span`` seconds; an entry is one of them for less than ``span``."""

    def __init__(self, span: float) -> None:
        self._span = span
        self._entries: deque[tuple[float, int]] = deque()

    def push(self, now: float, value: int) -> None:
        """Add a value."""
        while self._entries and now - self._entries[0][0] >= self._span:
            self._entries.popleft()
        self._entries.append((now, value))

    @property
    def highest(self) -> int:
        """The largest, after at least one value."""
        return max(value for _, value in self._entries)

    @property
    def lowest(self) -> int:
        """The smallest, after at least one value."""
        return min(value for _, value in self._entries)


class OpenFaas:
    """OpenFaaS CE."""

    def __init__(self, bounds: Bounds, rule: OpenFaasRule, name: str = "openfaas-ce") -> None:
        self.name, self.interval, self.phase = name, TICK, 0.0
        self._bounds, self._rule = bounds, rule
        self._group = AlertGroup()
        self._pending_since: float | None = None
        self._firing, self._evaluate_at = False, 0.0

    def scale(self, view: View, now: float) -> int | None:
        """Evaluate the alert when it is time, and obey a notification."""
        rule, current = self._rule, view.scale.desired
        if now >= self._evaluate_at:
            self._evaluate_at = now + rule.evaluation
            since = now if self._pending_since is None else self._pending_since
            self._pending_since = since if view.successes(rule.window) > rule.threshold else None
            self._firing = self._pending_since is not None and now - since >= rule.hold
        firing = frozenset({"alert"} if self._firing else ())
        self._group, notification = notify(rule, self._group, firing, now)
        if notification is None:
            return current
        return openfaas_step(rule, self._bounds, current, firing=bool(notification.firing))


class Kpa:
    """Knative's default autoscaler on concurrency."""

    def __init__(self, bounds: Bounds, settings: KpaSettings, name: str = "kpa") -> None:
        self.name, self.interval, self.phase = name, 2.0, 0.0
        self._bounds, self._settings = bounds, settings
        self._state: KpaState | None = None

    def scale(self, view: View, now: float) -> int | None:
        """Average, want, bound."""
        settings, ready = self._settings, view.scale.available
        if self._state is None:
            # A new autoscaler that finds more than one pod begins in panic.
            self._state = KpaState(now, ready) if ready > 1 else KpaState()
        wanted, self._state = kpa(
            settings,
            self._state,
            now,
            ready=ready,
            stable=view.concurrency(settings.stable_window),
            panic=view.concurrency(settings.panic_window),
        )
        return self._bounds.clamp(wanted)


class _Hpa:
    """The sync loop and the behavior that both uses of the HPA share: what they want is a function."""

    def __init__(
        self, bounds: Bounds, settings: HpaSettings, recommend: Callable[[View], int | None], name: str
    ) -> None:
        self.name, self.interval, self.phase = name, settings.sync, 0.0
        self._bounds, self._recommend = bounds, recommend
        self._recommended = _Recent(settings.down_window)
        self._began = False

    def scale(self, view: View, now: float) -> int | None:
        """Want, stabilize, limit."""
        current = view.scale.desired
        if not self._began:
            # The count that the controller finds at its start is its first recommendation.
            self._recommended.push(now, current)
            self._began = True
        wanted = self._recommend(view)
        if wanted is None:
            return None
        self._recommended.push(now, wanted)
        return hpa_limit(wanted, current, self._recommended.highest, self._bounds)


def hpa_cpu(bounds: Bounds, settings: HpaSettings, name: str = "hpa-cpu") -> _Hpa:
    """Return the HPA on CPU. A worker that works is taken to use all of the CPU that it requested."""

    def recommend(view: View) -> int | None:
        usage, scale = view.utilization(settings.sync), view.scale
        if usage is None:
            return None
        return hpa_on_pods(usage, settings.target, scale.desired, scale.available)

    return _Hpa(bounds, settings, recommend, name)


def keda_value(bounds: Bounds, settings: HpaSettings, name: str = "keda-value") -> _Hpa:
    """Return KEDA's Prometheus scaler with metricType Value on p99 latency; ``target`` is seconds.

    A query without a result counts as 0 (ignoreNullValues, the default).
    """

    def recommend(view: View) -> int | None:
        seen, scale = view.observe(), view.scale
        value = 0.0 if seen is None or seen.p99 is None else seen.p99
        return hpa_on_value(value, settings.target, scale.desired, scale.available)

    return _Hpa(bounds, settings, recommend, name)


class Llmd:
    """llm-d's variant autoscaler and the HPA that carries its count out.

    The HPA's tolerance is left out: 10% would swallow each step of one beyond 11 replicas.
    """

    def __init__(self, bounds: Bounds, settings: LlmdSettings, slots: int, name: str = "llm-d") -> None:
        """``slots``: requests that one replica runs at the same time."""
        self.name, self.interval, self.phase = name, HpaSettings().sync, 0.0
        self._bounds, self._settings, self._slots = bounds, settings, slots
        self._recommended = _Recent(settings.window)
        self._analyze_at, self._asked = 0.0, 0

    def scale(self, view: View, now: float) -> int | None:
        """Analyze when it is time, stabilize, bound."""
        current = view.scale.desired
        if not self._asked:
            self._recommended.push(now, current)
        if now >= self._analyze_at:
            self._analyze_at = now + self._settings.interval
            peaks = [(ran / self._slots, waited) for waited, ran in view.peaks(LLMD_PEAKS)]
            self._asked = self._bounds.clamp(llmd(self._settings, peaks, current, self._asked))
        self._recommended.push(now, self._asked)
        return min(max(current, self._recommended.lowest), self._recommended.highest)


class LlmdSlo:
    """llm-d's loop on the measured 90th percentiles of first piece and mean interval over their targets."""

    def __init__(
        self, bounds: Bounds, settings: LlmdSloSettings, function: Function, name: str = "llm-d-slo"
    ) -> None:
        self.name, self.interval, self.phase = name, settings.sync, 0.0
        self._bounds, self._settings, self._function = bounds, settings, function
        self._samples: deque[float] = deque(maxlen=settings.smooth)
        self._lately_up = _Recent(settings.up_window)
        self._lately_down = _Recent(settings.down_window)
        self._changes: list[tuple[float, int]] = []

    def scale(self, view: View, now: float) -> int | None:
        """Sample, smooth, want, stabilize, limit."""
        settings, current = self._settings, view.scale.desired
        if not self._samples:
            self._lately_up.push(now, current)
            self._lately_down.push(now, current)
        self._samples.append(min(self._saturation(view), settings.cap))
        smoothed = math.fsum(self._samples) / len(self._samples)
        wanted = self._bounds.clamp(llmd_slo(settings, smoothed, current, view.scale.available))
        self._lately_up.push(now, wanted)
        self._lately_down.push(now, wanted)
        wanted = min(max(current, self._lately_up.lowest), self._lately_down.highest)
        before_up = current - self._changed(now - settings.up_period, 1)
        before_down = current - self._changed(now - settings.down_period, -1)
        wanted = min(wanted, max(2 * before_up, before_up + settings.up_pods))
        wanted = max(wanted, min(current, before_down - 1))
        self._changes.append((now, wanted - current))
        return wanted

    def _saturation(self, view: View) -> float:
        firsts, gaps = view.pieces(self._settings.span)
        streaming = self._function.streaming
        interval = math.inf if streaming is None else streaming.interval
        return max(_quantile(firsts) / self._function.slo_latency, _quantile(gaps) / interval)

    def _changed(self, since: float, sign: int) -> int:
        """Return by how much the count has changed in this direction."""
        return sum(change for at, change in self._changes if at > since and change * sign > 0)


def _quantile(values: Sequence[float]) -> float:
    """Return the 90th percentile by the nearest rank; 0 without values."""
    return sorted(values)[math.ceil(LLMD_QUANTILE * len(values)) - 1] if values else 0.0


# An oracle knows the trace, and requests replicas one start-up time ahead. It shows which traces are feasible
# with this start-up time, and their cost. It does not know random routing: requests go to replicas at random.

SMOOTHING: Final = 3
"""Seconds over which arrivals are averaged; shorter variations are random."""


def plan(trace: Trace, function: Function, utilization: float, bounds: Bounds) -> NDArray[np.int64]:
    """Return the count to request in each second of the trace.

    A second needs the load over capacity x ``utilization``, rounded up, at the speed of that second. The
    request is the maximum between now and one start-up time ahead. So all replicas are ready in time, and
    none is removed that would be needed before it could start again.
    """
    counts = trace.counts().astype(np.float64)
    smooth = (
        np.convolve(counts, np.ones(SMOOTHING) / SMOOTHING, mode="same")
        if len(counts) > SMOOTHING
        else counts
    )
    speeds = map(function.speed.at, range(len(counts)))
    one = np.array([function.capacity_at(speed) for speed in speeds]) * utilization
    need = np.clip(np.ceil(smooth / one - 1e-9), bounds.lowest, bounds.highest).astype(np.int64)
    # Extended by one second on either side, since the mean smooths a step within a second.
    ahead = math.ceil(function.start_up) + 2
    padded = np.concatenate((need[:1], need, np.full(ahead, need[-1])))
    windows = np.lib.stride_tricks.sliding_window_view(padded, ahead + 2)
    most: NDArray[np.int64] = windows.max(axis=1)[: len(need)]
    return most


class Oracle:
    """Follows its plan."""

    def __init__(
        self,
        trace: Trace,
        function: Function,
        utilization: float,
        bounds: Bounds,
        name: str = "oracle",
    ) -> None:
        self.name, self.interval, self.phase = name, TICK, 0.0
        self._plan = plan(trace, function, utilization, bounds)

    def scale(self, view: View, now: float) -> int | None:
        """Return the plan's count."""
        return int(self._plan[min(int(now), len(self._plan) - 1)])
