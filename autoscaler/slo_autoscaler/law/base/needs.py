"""Holds the replicas that were needed lately: a scale-down goes no lower. [P]

Owns the highest need of a span. Time is that with usable data: a gap is no time in which fewer were enough.

Next step: ``memory`` adds the need of each reconcile, ``decide`` asks for the highest.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Needs:
    """Counts of replicas, each with its time."""

    seconds: float = 0.0
    """Seconds with usable data."""
    counts: tuple[tuple[float, int], ...] = ()
    """(``seconds``, replicas needed then), each count larger than all after it."""

    def after(self, passed: float, replicas: int, longest: float) -> "Needs":
        """Return the needs ``passed`` seconds later, with this one and none older than ``longest``."""
        seconds = self.seconds + passed
        kept = [need for need in self.counts if need[1] > replicas and seconds - need[0] <= longest]
        return Needs(seconds, (*kept, (seconds, replicas)))

    def highest(self, span: float) -> int:
        """Return the highest need of the last ``span`` seconds."""
        return next((count for when, count in self.counts if self.seconds - when <= span), 0)
