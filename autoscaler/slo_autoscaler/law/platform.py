"""Stage 1, ``platform``: what stands there. [P]

Takes what the platform told, and the requested counts in memory. Own writes are laid over stale reads, a
refusal is believed after several reads, and replicas that began to serve teach the start-up time.

Next stage: ``replica``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from slo_autoscaler.law.memory import Asked, Refusal, Requests
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Scale
from slo_autoscaler.settings.spec import Spec


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands at the platform, and how long a replica takes to come."""

    scale: Scale
    """Its counts, with own writes over stale reads."""
    start_up: float
    """Seconds from the request for a replica until it serves."""
    horizon: float
    """The same and one interval: what is decided at the next reconcile comes later."""
    stabilization: float
    """Seconds for which fewer must have been enough before a scale-down."""
    stuck: int
    """Replicas that should serve by now and do not."""
    refusal: Refusal | None
    new_node_start_up: float | None


def standing(at: Situation) -> tuple[Standing, Requests]:
    """Return what stands there, and the memory of requests after this read."""
    requests, scale = noticed(at.memory.platform, at.spec, at.scale, at.now)
    requests = told(requests, at.seen.process_start_up)
    seconds = start_up(requests, at.spec)
    stands = Standing(
        scale,
        seconds,
        seconds + at.spec.timing.interval,
        max(seconds, at.spec.scale_down.stabilization_window),
        stuck(requests, at.spec, at.now),
        requests.refusal,
        requests.new_node_start_up,
    )
    return stands, requests


def start_up(requests: Requests, spec: Spec) -> float:
    """Return the start-up time in seconds, at least the configured one and what the replicas report.

    Platforms may call a replica available too early. Before a first scale-up nothing is learned. While a
    replica waits for a node, that of such replicas counts.
    """
    new_node = (requests.new_node_start_up or 0.0) if requests.without_node else 0.0
    return max(spec.start_up_time, requests.reported, requests.start_up_time or 0.0, new_node)


def stuck(requests: Requests, spec: Spec, now: float) -> int:
    """Return the number of replicas that should serve by now and do not."""
    if not requests.pending:
        return 0
    longest = TUNING.ready_by * start_up(requests, spec)
    return sum(now - since > longest for since, _ in requests.pending)


def told(requests: Requests, start_up_time: float | None) -> Requests:
    """Return the same with the start-up time that the replicas report; None changes nothing."""
    reported = requests.reported if start_up_time is None else min(start_up_time, TUNING.longest_start_up)
    return requests if reported == requests.reported else replace(requests, reported=reported)


def noticed(requests: Requests, spec: Spec, scale: Scale, now: float) -> tuple[Requests, Scale]:
    """Return the requests after a read of the platform, and the scale with own writes over stale reads."""
    awaited = requests.asked or requests.refusal or requests.pending or requests.without_node or scale.pending
    if not awaited and not scale.unschedulable and scale.available == requests.available:
        return requests, scale
    asked, refusal, scale = _agreed(requests, spec, scale, now)
    order, started = _started(requests, stuck(requests, spec, now), scale, now)
    pending = tuple(sorted(order[started:])[: scale.pending])
    without_node = max(requests.without_node, scale.unschedulable or 0)
    # Replicas with a node serve first.
    warm = min(started, max(0, len(order) - without_node))
    after = Requests(
        asked=asked,
        refusal=refusal,
        pending=pending,
        start_up_time=_smoothed(requests.start_up_time, _took(order[:warm], now)),
        new_node_start_up=_smoothed(requests.new_node_start_up, _took(order[warm:started], now)),
        without_node=min(without_node, len(pending)),
        reported=requests.reported,
        available=scale.available,
    )
    return requests if after == requests else after, scale


def _agreed(
    requests: Requests, spec: Spec, scale: Scale, now: float
) -> tuple[Asked | None, Refusal | None, Scale]:
    """Return what is still requested, what is refused, and the scale as it is believed."""
    asked, refusal = requests.asked, requests.refusal
    if refusal is not None and (now >= refusal.until or scale.desired > refusal.granted):
        refusal = None
    if asked is None or not _awaited(asked, scale.desired):
        return None, refusal, scale
    if asked.reads + 1 < TUNING.refused_after_reads:
        return replace(asked, reads=asked.reads + 1), refusal, replace(scale, desired=asked.replicas)
    if scale.desired < asked.replicas:
        refusal = Refusal(asked.replicas, scale.desired, now + spec.timing.cap_retry)
    return None, refusal, scale


def _started(
    requests: Requests, hopeless: int, scale: Scale, now: float
) -> tuple[tuple[tuple[float, bool], ...], int]:
    """Return the replicas that were awaited, in the order in which they serve, and how many serve now."""
    pending, available = requests.pending, requests.available
    gone = len(pending) - scale.pending
    if gone < 0:
        # A replica that stopped serving says nothing of a start-up.
        fallen = min(-gone, max(0, available - scale.available))
        return (*pending, *[(now, False)] * fallen, *[(now, True)] * (-gone - fallen)), 0
    # The oldest serve first, stuck ones last. A scale-down removes the youngest.
    return (*pending[hopeless:], *pending[:hopeless]), min(gone, max(0, scale.available - available))


def _took(started: Iterable[tuple[float, bool]], now: float) -> set[float]:
    """Return the start-up times in seconds of those that were requested at a known time."""
    return {max(0.0, now - since) for since, asked in started if asked}


def _awaited(asked: Asked, desired: int) -> bool:
    """Return whether ``desired`` lies between the count before and the requested one."""
    low, high = sorted((asked.before, asked.replicas))
    return desired != asked.replicas and low <= desired <= high


def _smoothed(learned: float | None, took: Iterable[float]) -> float | None:
    """Return the learned start-up time after more start-ups, in seconds; too long ones do not count."""
    for seconds in took:
        if seconds <= TUNING.longest_start_up:
            learned = seconds if learned is None else (learned + seconds) / 2.0
    return learned
