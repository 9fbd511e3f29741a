"""Restores the memory of a function from the history in Prometheus. [P]

A controller that starts in mid-peak knows only the current count, which ``Memory.initial`` keeps for one
start-up. ``signals.queries`` has the rates of two hours, and the numbers that an autoscaler exported last.
"""

from collections.abc import Iterable
from dataclasses import replace

from slo_autoscaler.law.base.budget import Budget
from slo_autoscaler.law.base.calibration import FACTORS, Calibration
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.platform import start_up as seconds_to_start
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.settings.spec import Spec
from slo_autoscaler.signals.record import Entry, Recorded


def warm(spec: Spec, memory: Memory, past: Recorded, now: float) -> Memory:
    """Return ``memory``, which has seen no data since ``Memory.initial``, with the history."""
    start_up, new_node = _start_up(past.start_up), _start_up(past.new_node_start_up)
    # If both are alike a replica was waiting for a node: how long others take is unknown.
    start_up = None if start_up == new_node else start_up
    platform = replace(memory.platform, start_up_time=start_up, new_node_start_up=new_node)
    horizon = seconds_to_start(platform, spec) + spec.timing.interval
    history = memory.traffic.history.every(spec.timing.interval).after(_in_order(past.rate, now), horizon)
    calibration, budget = Calibration(), Budget()
    if (correction := _newest(past.correction)) is not None and correction > 0.0:
        factor = min(max(correction, FACTORS[0]), FACTORS[-1])
        calibration = Calibration(factor, believed=factor)
    if (remaining := _newest(past.unspent)) is not None:
        served = history.mean * spec.budget_period
        spent = (1.0 - remaining) * served
        budget = replace(budget, seconds=spec.budget_period, served=served, spent=spent)
    return replace(
        memory,
        platform=platform,
        replica=replace(memory.replica, calibration=calibration),
        traffic=replace(memory.traffic, history=history),
        need=replace(memory.need, budget=budget),
    )


def _start_up(entries: Iterable[Entry]) -> float | None:
    seconds = _newest(entries)
    return None if seconds is None else min(max(0.0, seconds), TUNING.longest_start_up)


def _newest(entries: Iterable[Entry]) -> float | None:
    """Return the value with the lowest age, None without one; none from after now counts."""
    ordered = _in_order(entries, 0.0)
    return ordered[-1][1] if ordered else None


def _in_order(entries: Iterable[Entry], now: float) -> list[Entry]:
    """Return (time, value), oldest first; those after now, by another clock, would hide new observations."""
    return sorted((now - age, value) for age, value in entries if age >= 0.0)
