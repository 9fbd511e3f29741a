"""What a new autoscaler learns from the history of the one before it. [P]

A controller that starts in mid-peak knows the current count, which ``TargetState.initial`` keeps for one
stabilization window, and nothing else: its forecast would be flat and its corrections gone, so that a dip
would follow later. ``promql.history_queries`` asks for what is needed, ``warm`` puts it into the state.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from slo_autoscaler.law.headroom import CREDIT, LONGEST, Headroom
from slo_autoscaler.law.memory import CORRECTION_FLOOR, TargetState
from slo_autoscaler.law.window import Entry

LONGEST_START_UP: Final = 600.0
"""Seconds: what took longer to become ready was broken, and says nothing of a start."""


@dataclass(frozen=True, slots=True)
class Past:
    """What the source remembers of one function: (seconds ago, value), in any order; empty is not known."""

    rate: tuple[Entry, ...] = ()
    """Arrivals per second."""
    pending: tuple[Entry, ...] = ()
    """Replicas that were asked for and did not serve yet, as the autoscaler before this one saw it."""
    correction: tuple[Entry, ...] = ()
    """Factor on the learned capacity, likewise."""
    overspent: tuple[Entry, ...] = ()
    """Budget seconds, likewise; so is ``regret``."""
    regret: tuple[Entry, ...] = ()
    peak: tuple[Entry, ...] = ()
    """Highest arrival rate of an hour, likewise."""


def warm(state: TargetState, past: Past, now: float) -> TargetState:
    """Return ``state``, fresh from ``TargetState.initial``, with what the past says.

    The rates become the forecast's history, the last correction and the accounts of the error budget are
    taken over, and each spell of pending replicas that began and ended within the past was a start-up; one
    that lasts began when it began.
    """
    rates = replace(state.rates, entries=())
    for when, rate in _in_order(past.rate, now):
        rates = rates.push(when, rate)
    # A past that reaches beyond now, by another clock, must not hide what is seen from now on.
    corrections = [value for _, value in _in_order(past.correction, now) if 0.0 < value <= 1.0]
    start_up_time, pending_since = _start_ups(_in_order(past.pending, now))
    return replace(
        state,
        rates=rates,
        correction=max(CORRECTION_FLOOR, corrections[-1]) if corrections else state.correction,
        start_up_time=start_up_time if start_up_time is not None else state.start_up_time,
        pending_since=pending_since if pending_since is not None else state.pending_since,
        headroom=_accounts(state.headroom, past, now),
    )


def smoothed(known: float | None, took: float) -> float:
    """Return the learned start-up time after one more start-up took ``took`` seconds."""
    took = min(max(0.0, took), LONGEST_START_UP)
    return took if known is None else (known + took) / 2


def _accounts(known: Headroom, past: Past, now: float) -> Headroom:
    """Return the last balances; the peak is as old as the last look at it. A rhythm is learned anew."""
    overspent, regret, peak = (_in_order(of, now)[-1:] for of in (past.overspent, past.regret, past.peak))
    peaks = known.peaks
    for when, load in peak:
        peaks = peaks.push(when, load)
    return replace(
        known,
        overspent=min(max(overspent[0][1], -CREDIT), LONGEST) if overspent else known.overspent,
        regret=min(max(regret[0][1], 0.0), LONGEST) if regret else known.regret,
        peaks=peaks,
    )


def _in_order(entries: Iterable[Entry], now: float) -> list[Entry]:
    """Return (when, value), oldest first, of what lies in the past."""
    return sorted((now - age, value) for age, value in entries if age >= 0.0)


def _start_ups(pending: list[Entry]) -> tuple[float | None, float | None]:
    """Return the learned start-up time and since when replicas are pending now."""
    learned: float | None = None
    since: float | None = None
    # A spell that the history begins with has begun earlier; nobody knows when.
    for (_, before), (when, count) in pairwise(pending):
        if count > 0.0 and before <= 0.0:
            since = when
        elif count <= 0.0 and since is not None:
            learned, since = smoothed(learned, when - since), None
    return learned, since
