"""The oracle: a scaler that knows the trace, and asks for what the load needs one start-up time ahead.

Tells which traces can be met at all with replicas that take so long to start, and what that costs. It
does not know more about chance than the others: requests still go to replicas at random.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tailbound_lab.simulate.baselines import TICK, Bounds
from tailbound_lab.simulate.function import Function, View
from tailbound_lab.simulate.traces import Trace

SMOOTHING = 3
"""Seconds over which arrivals are averaged: what is shorter is chance."""


def plan(trace: Trace, function: Function, utilization: float, bounds: Bounds) -> NDArray[np.int64]:
    """Return the count to ask for in each second of the trace.

    Needed in a second is the load over capacity x ``utilization``, rounded up. Asked for is the most that
    is needed between now and one start-up time ahead: so everything is there in time, and nothing is
    given up that would be needed again before it could come back.
    """
    counts = trace.counts().astype(np.float64)
    smooth = (
        np.convolve(counts, np.ones(SMOOTHING) / SMOOTHING, mode="same")
        if len(counts) > SMOOTHING
        else counts
    )
    one = function.capacity * utilization
    need = np.clip(np.ceil(smooth / one - 1e-9), bounds.lowest, bounds.highest).astype(np.int64)
    # One second on either side of what the mean says, since a step inside a second is smoothed.
    ahead = math.ceil(function.start_up) + 2
    padded = np.concatenate((need[:1], need, np.full(ahead, need[-1])))
    windows = np.lib.stride_tricks.sliding_window_view(padded, ahead + 2)
    most: NDArray[np.int64] = windows.max(axis=1)[: len(need)]
    return most


def blind_plan(trace: Trace, function: Function, utilization: float, bounds: Bounds) -> NDArray[np.int64]:
    """Return ``plan`` without foresight of new peaks: at no time more than had been needed until then.

    What this plan misses, no law can avoid that prepares for nothing but what it has seen.
    """
    until_now = np.maximum.accumulate(plan(trace, replace(function, start_up=0.0), utilization, bounds))
    return np.minimum(plan(trace, function, utilization, bounds), until_now)


class Oracle:
    """Follows its plan; if ``blind``, the one without foresight of new peaks."""

    def __init__(
        self,
        trace: Trace,
        function: Function,
        utilization: float,
        bounds: Bounds,
        name: str = "oracle",
        *,
        blind: bool = False,
    ) -> None:
        self.name, self.interval, self.phase = name, TICK, 0.0
        self._plan = (blind_plan if blind else plan)(trace, function, utilization, bounds)

    def scale(self, view: View, now: float) -> int | None:
        """Return the plan's count."""
        return int(self._plan[min(int(now), len(self._plan) - 1)])
