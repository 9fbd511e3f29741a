"""Joins the further metrics of a function (``also``) with its policy's recommendation. [P]

Each needs ceil(value / target) replicas, and the highest need counts, as in the Kubernetes HPA with several
metrics. A metric without data never lets a count fall. Next step: ``decide`` bounds the result.
"""

import math
from dataclasses import replace
from itertools import zip_longest
from typing import Final

from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Reason, Recommendation

ROUNDING: Final = 1e-9
"""Replicas by which a need may exceed a whole number: 0.3 / 0.1 is a little more than 3."""


def joined(at: Situation, recommendation: Recommendation) -> tuple[Recommendation, Memory]:
    """Return the recommendation that satisfies the further metrics too, and the memory of that need."""
    metrics = at.spec.also
    if not metrics:
        return recommendation, at.memory
    values = dict(zip_longest(metrics, at.seen.further[: len(metrics)]))
    needs = {metric: math.ceil(value / metric.target - ROUNDING) for metric, value in values.items() if value}
    first = max(needs, key=lambda metric: needs[metric], default=None)
    if first is not None and needs[first] > recommendation.replicas:
        detail = f"{first.name} is {values[first]:g}, {first.target:g} for each replica"
        # Without a prediction: what is late says nothing of this need.
        recommendation = Recommendation(needs[first], Reason.FURTHER_METRIC, detail=detail)
    unknown = [metric.name for metric, value in values.items() if value is None]
    if unknown and recommendation.replicas < at.scale.desired:
        why, detail = Reason.FURTHER_METRIC_UNKNOWN, ", ".join(unknown)
        recommendation = replace(recommendation, replicas=at.scale.desired, reason=why, detail=detail)
    return recommendation, at.memory.with_need(at.spec, recommendation.replicas)
