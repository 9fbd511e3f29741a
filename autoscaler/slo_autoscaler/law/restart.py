"""Restores the memory of a function from the history in Prometheus. [P]

A controller that starts in mid-peak knows only the current count, which ``Memory.initial`` keeps for one
start-up. ``promql.history_queries`` fetches the history, and ``warm`` replays the rates of two hours into the
memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from slo_autoscaler.law.budget import DOUBT, Budget
from slo_autoscaler.law.memory import Memory, smoothed
from slo_autoscaler.spec import Spec

Entry = tuple[float, float]
"""(seconds, value)"""


@dataclass(frozen=True, slots=True)
class Past:
    """History of one function: (seconds ago, value), in any order; empty: unknown."""

    rate: tuple[Entry, ...] = ()
    """Arrivals per second."""
    pending: tuple[Entry, ...] = ()
    """Replicas requested that did not serve yet, as the earlier autoscaler exported them."""
    correction: tuple[Entry, ...] = ()
    """Factor on predicted late shares, likewise."""
    budget: tuple[Entry, ...] = ()
    """Unspent share of the error budget, likewise."""


def warm(spec: Spec, memory: Memory, past: Past, now: float) -> Memory:
    """Return ``memory``, fresh from ``Memory.initial``, with the history.

    Each period of pending replicas that began and ended within the history was a start-up.
    """
    learned = _start_ups(_in_order(past.pending, now))
    memory = replace(memory, start_up_time=learned if learned is not None else memory.start_up_time)
    moments, periodicity = memory.moments, memory.periodicity
    horizon = memory.start_up(spec) + spec.timing.interval
    rates = _in_order(past.rate, now)
    for (before, _), (when, rate) in pairwise(rates):
        passed = min(when - before, spec.timing.longest_gap)
        earlier = moments.recent[0][1] if moments.recent else rate
        moments = moments.after(when, passed, rate, rate, horizon)
        periodicity = periodicity.after(when, rate, earlier, 2.0 * horizon)
    # Entries after now, by another clock, would hide new observations.
    corrections = [value for _, value in _in_order(past.correction, now) if value > 0.0]
    budget = Budget(measured=DOUBT * corrections[-1]) if corrections else memory.budget
    for _, remaining in _in_order(past.budget, now)[-1:]:
        served = moments.mean * spec.budget_period
        budget = replace(budget, served=served, spent=(1.0 - remaining) * served)
    return replace(memory, moments=moments, periodicity=periodicity, budget=budget)


def _in_order(entries: Iterable[Entry], now: float) -> list[Entry]:
    """Return (time, value), oldest first, of the entries before now."""
    return sorted((now - age, value) for age, value in entries if age >= 0.0)


def _start_ups(pending: list[Entry]) -> float | None:
    """Return the learned start-up time."""
    learned: float | None = None
    since: float | None = None
    # A period at the begin of the history has begun at an unknown time before.
    for (_, before), (when, count) in pairwise(pending):
        if count > 0.0 and before <= 0.0:
            since = when
        elif count <= 0.0 and since is not None:
            learned, since = smoothed(learned, (when - since,)), None
    return learned
