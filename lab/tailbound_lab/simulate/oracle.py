"""The oracle: a scaler that knows the trace, and requests replicas one start-up time ahead.

It shows which traces are feasible with this start-up time, and their cost. It does not know random routing:
requests still go to replicas at random.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tailbound_lab.simulate.baselines import TICK, Bounds
from tailbound_lab.simulate.function import Function, View
from tailbound_lab.simulate.traces import Trace

SMOOTHING = 3
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
