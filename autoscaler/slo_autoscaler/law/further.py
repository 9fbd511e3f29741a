"""Joins the further metrics of a function (``also``) with its policy's need. [P]

Each needs ceil(value / target) replicas, and the highest need counts, as in the Kubernetes HPA with several
metrics. A metric without data never lets a count fall.
"""

import math
from itertools import zip_longest
from typing import Final

from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Hold, Need, Reason

ROUNDING: Final = 1e-9
"""Replicas by which a need may exceed a whole number: 0.3 / 0.1 is a little more than 3."""


def joined(at: Situation, need: Need | Hold) -> Need | Hold:
    """Return the need that satisfies the further metrics too."""
    metrics, current = at.spec.also, at.scale.desired
    if not metrics:
        return need
    values = dict(zip_longest(metrics, at.seen.further[: len(metrics)]))
    needs = {metric: math.ceil(value / metric.target - ROUNDING) for metric, value in values.items() if value}
    first = max(needs, key=lambda metric: needs[metric], default=None)
    if first is not None and needs[first] > (need.count if isinstance(need, Need) else current):
        detail = f"{first.name} is {values[first]:g}, {first.target:g} for each replica"
        # Without a forecast: what is late says nothing of this need.
        if needs[first] == current:
            need = Hold(Reason.FURTHER_METRIC, detail)
        else:
            need = Need(needs[first], Reason.FURTHER_METRIC, detail)
    unknown = [metric.name for metric, value in values.items() if value is None]
    if unknown and isinstance(need, Need) and need.count < current:
        return Hold(Reason.FURTHER_METRIC_UNKNOWN, ", ".join(unknown), need.forecast)
    return need
