"""What a watchdog has learned of its model: seconds and throughput by batch size, and which size it uses. [P]

Owns the words in which the choice is explained. The rule is the watchdog's: a request waits at most for the
batch ahead of it, shared between the workers, and then for its own, so a size fits if
(1 + 1/workers) x l(size) <= slo_latency; of those that fit the one with the best throughput counts, and of
nearly equal ones the smallest. Seconds are upper quantiles as exported, so throughputs are on the safe side.
"""

from collections.abc import Mapping
from typing import Any, Final

from slo_autoscaler import words as shown

TIE: Final = 0.03
"""Throughputs this close are as good; the smaller batch adds less latency."""

APART: Final = 0.05
"""From here on the exported capacity differs from the throughput of upper quantiles, and why is said."""


def profile(
    predicted: Mapping[int, float], workers: int | None, slo_latency: float | None, capacity: float | None
) -> dict[str, Any]:
    """Return the profile as JSON; ``predicted``: batch size -> seconds, of one worker.

    ``chosen`` is None while nothing is learned or nothing fits; ``why`` says so.
    """
    crew = max(1, workers or 1)
    sizes = [
        {
            "size": size,
            "seconds": seconds,
            "with_wait": (1 + 1 / crew) * seconds,
            "throughput": crew * size / seconds if seconds > 0 else None,
            "fits": None if slo_latency is None else (1 + 1 / crew) * seconds <= slo_latency,
        }
        for size, seconds in sorted(predicted.items())
    ]
    chosen = _chosen(sizes)
    return {
        "workers": workers,
        "capacity": capacity,
        "sizes": [{**each, "chosen": each is chosen} for each in sizes],
        "chosen": None if chosen is None else chosen["size"],
        "why": _why(sizes, chosen, crew, slo_latency, capacity),
    }


def curve(predicted: Mapping[int, float]) -> list[float]:
    """Return l(1), l(2), ... up to the largest size that was learned; empty if nothing is.

    Lines between what is known, never falling.
    """
    known = sorted(predicted.items())
    seconds: list[float] = []
    highest = 0.0
    below, lowest = 0, known[0][1] if known else 0.0
    for size, value in known:
        for step in range(below + 1, size + 1):
            highest = max(highest, lowest + (value - lowest) * (step - below) / (size - below))
            seconds.append(highest)
        below, lowest = size, value
    return seconds


def _chosen(sizes: list[dict[str, Any]]) -> dict[str, Any] | None:
    fits = [each for each in sizes if each["fits"] and each["throughput"]]
    if not fits:
        return None
    enough = max(each["throughput"] for each in fits) * (1 - TIE)
    return next(each for each in fits if each["throughput"] >= enough)


def _why(
    sizes: list[dict[str, Any]],
    chosen: dict[str, Any] | None,
    workers: int,
    slo_latency: float | None,
    capacity: float | None,
) -> str:
    if not sizes:
        return "Nothing is learned yet: no replica has served a batch, or none is scraped."
    limit = shown.seconds(slo_latency)
    if slo_latency is None:
        return "There is no SLO to choose a size by."
    if chosen is None:
        alone = sizes[0]
        return (
            f"No size fits: a batch of {alone['size']} takes {shown.seconds(alone['seconds'])}, and with the"
            f" wait for the one before it {shown.seconds(alone['with_wait'])} of {limit}."
            " More replicas will not help; a faster model or a longer SLO will."
        )
    text = (
        f"Batches of up to {chosen['size']}: one takes {shown.seconds(chosen['seconds'])}, and"
        f" {shown.seconds(chosen['with_wait'])} with the wait for the one before it, of {limit};"
        f" that is {shown.per_second(chosen['throughput'])} from {_workers(workers)}"
    )
    larger = [each for each in sizes if each["size"] > chosen["size"]]
    if larger and not larger[0]["fits"]:
        text += (
            f". {larger[0]['size']} at a time would take {shown.seconds(larger[0]['with_wait'])} with the"
            " wait, which is too long"
        )
    elif larger:
        text += f". Larger ones fit too, but do no more than {shown.per_second(larger[0]['throughput'])}"
    if capacity is not None:
        text += f". The autoscaler counts on {shown.per_second(capacity)} of a replica"
        if capacity > (1 + APART) * chosen["throughput"]:
            text += ": capacity goes by mean times, and by larger batches where they are predicted to fit"
        elif capacity < (1 - APART) * chosen["throughput"]:
            text += ": its cores and front end do no more, by the CPU time that a request costs"
    return text + "."


def _workers(count: int) -> str:
    return "one worker" if count == 1 else f"{count} workers"
