"""Chooses the window of a function's rates, and takes them over it. [P]

The queries have one window for all functions, four scrapes. A slow function completes a few requests in it:
chance then moves the rate by its own size, and the count of replicas with it. Its rates are the mean of the
last observations instead.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import inf
from typing import Any, Final

from slo_autoscaler.signals.record import Observation

ENOUGH_REQUESTS: Final = 100.0
"""Requests in a window: chance moves their rate by a tenth. With 20 the count changed once a minute."""
LONGEST_WINDOW: Final = 300.0
"""Most seconds to wait for so many requests."""
SIGMAS: Final = 3.0
"""Standard deviations beyond which a rate is no chance."""

Past = tuple[tuple[float, Observation], ...]
"""(time, observation) of one function, as queried, oldest first."""


def rate_window(shortest: float, slo_latency: float, rate: float) -> float:
    """Return the seconds over which a function's rates are taken.

    ``shortest`` is four scrapes; ``rate`` is requests per second. No shorter than the SLO, in which a request
    may still be answered, and than the time of ``ENOUGH_REQUESTS``, at most ``LONGEST_WINDOW``.
    """
    enough = ENOUGH_REQUESTS / rate if rate > 0.0 else inf
    return max(shortest, slo_latency, min(enough, LONGEST_WINDOW))


def widened(past: Past, seen: Observation, shortest: float, now: float) -> tuple[Observation, Past]:
    """Return the observation with rates over the function's window, and the past for the next one.

    ``now`` is seconds on any monotonic clock. The mean rate chooses the window, or the newest beyond chance,
    so a load that rises shortens it at once. The rate of the newest observation is then the newest one: two
    scrapes of a slow function are chance.
    """
    rate = seen.arrival_rate or 0.0
    if past:
        rates = [observation.arrival_rate or 0.0 for _, observation in past]
        rate = believed_rate(sum(rates) / len(rates), rate, shortest)
    window = rate_window(shortest, seen.slo_latency or 0.0, rate)
    if window <= shortest:
        return seen, ()
    # Each observation covers the shortest window itself.
    past = tuple(observation for observation in past if 0.0 < now - observation[0] <= window - shortest)
    if seen.rate is None:
        return seen, past
    past = (*past, (now, seen))
    every = [observation for _, observation in past]
    if not any(observation.arrival_rate for observation in every):
        return seen, ()
    means: dict[str, Any] = {name: _mean(every, name) for name in _RATES if getattr(seen, name) is not None}
    newest = {"rate_now": seen.arrival_rate, "gateway_rate_now": None}
    burn_short = _burn(every)
    return replace(seen, **means | newest, burn_short=burn_short, rate_window=window), past


def believed_rate(rate: float, newest: float | None, lag: float) -> float:
    """Return the current rate: that of the newest interval if it is higher than chance explains."""
    mean, sigmas = rate * max(lag, 1.0), SIGMAS
    # A Poisson count of the mean exceeds it by the square root of it; of a small one by more.
    chance = (sigmas * mean**0.5 + sigmas * sigmas / 2.0) / max(lag, 1.0)
    return newest if newest is not None and newest > rate + chance else rate


_RATES: Final = ("rate", "gateway_rate", "in_flight_growth")


def _mean(every: Iterable[Observation], name: str) -> float:
    values: list[float] = [
        value for observation in every if (value := getattr(observation, name)) is not None
    ]
    return sum(values) / len(values)


def _burn(every: Iterable[Observation]) -> float | None:
    """Return the mean burn rate, weighted by requests; None without any."""
    rates = [
        (observation.rate, observation.burn_short)
        for observation in every
        if observation.rate and observation.burn_short is not None
    ]
    total = sum(rate for rate, _ in rates)
    return sum(rate * burn for rate, burn in rates) / total if total else None
