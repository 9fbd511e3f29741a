"""Which replicas of a function to start and which to stop. [P]

Owns the rollout law: a new generation comes up one replica ahead of the count, and an old replica goes only
when enough others are ready (Kubernetes' RollingUpdate with maxSurge 1 and maxUnavailable 0, which faas-netes
sets). ``function`` carries the plan out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SURGE: Final = 1


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """What the plan needs to know of a replica that is not already on its way out."""

    name: str
    generation: int
    ready: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How many replicas of the newest generation to start, and the names of those to stop."""

    start: int = 0
    stop: tuple[str, ...] = ()


def plan(replicas: Sequence[ReplicaView], *, generation: int, desired: int) -> Plan:
    """The next step towards ``desired`` replicas of ``generation``; 0 stops them all.

    ``replicas`` is in the order of their start. Nothing ready is stopped while that would leave fewer than
    ``desired`` ready replicas, unless there are more of the newest generation than wanted. Applied again
    after every change it ends with exactly ``desired`` replicas of ``generation``.
    """
    current = [replica for replica in replicas if replica.generation == generation]
    old = [replica for replica in replicas if replica.generation != generation]
    # The youngest goes first: it has learned least. What is not ready goes before what is.
    current.sort(key=lambda replica: not replica.ready)
    surplus = current[desired:]
    ready = sum(replica.ready for replica in replicas) - sum(replica.ready for replica in surplus)
    spare = max(0, ready - desired)
    stop = surplus + [replica for replica in old if not replica.ready]
    stop += [replica for replica in old if replica.ready][:spare]
    left = len(replicas) - len(stop)
    room = desired + (SURGE if len(old) > 0 else 0) - left
    start = max(0, min(desired - len(current), room))
    return Plan(start, tuple(replica.name for replica in stop))


def choose_index(taken: Sequence[int]) -> int:
    """The lowest free replica number, from 1: names stay short and series few."""
    used = set(taken)
    return next(number for number in range(1, len(used) + 2) if number not in used)
