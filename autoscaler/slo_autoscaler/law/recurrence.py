"""When the next peak may come: known if peaks begin at equal distances. [P]

Much of serverless traffic is started by timers, or by people who come back every hour. A platform that knows
the distances can have replicas ready before, and none between (the pre-warming window of the hybrid
histogram policy: Shahrad et al., USENIX ATC'20). Here the begins of the last peaks are kept; as long as the
distances between them are alike, the next peak is expected after as many seconds again, and otherwise at any
time.

Next step: ``headroom`` keeps what the recent peak needs ready only while a peak may come.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

BURST: Final = 120.0
"""Seconds: what is younger belongs to the burst that is going on, and is no earlier peak."""

SUDDEN: Final = 2.0
"""A peak begins when the load is so many times what it just was,"""

HIGH: Final = 0.5
"""and so much of the highest recent one: peaks are seen through windows."""

LOW: Final = 0.4
"""Below this share of it a peak is over."""

FEWEST: Final = 3
"""Distances that make a rhythm, all alike: two are so by chance too often. One that is not ends it."""

ALIKE: Final = 0.1
"""Of the shortest distance: the longest is no longer than that beyond it."""

SLACK: Final = 10.0
"""Seconds: the begin of a peak is seen up to this much later or earlier than the distance says."""


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The begins of the last peaks."""

    begins: tuple[float, ...] = ()
    """Seconds, oldest first."""
    high: bool = True
    """The load is that of a peak, or nothing has been seen yet."""

    def after(self, now: float, load: float, lowest: float, known: float, earlier: float) -> "Recurrence":
        """Return what is known after one more look at the ``load``, all in requests per second.

        ``lowest`` is that of the last ``BURST`` seconds, ``known`` the highest of the last hour, ``earlier``
        the highest before the burst that is going on.
        """
        if load <= 0.0 or load < HIGH * known:
            return replace(self, high=self.high and load >= LOW * known > 0.0)
        # Higher than ever is a peak too, though the load was that of one by what was known.
        fresh = not self.begins or now - self.begins[-1] >= BURST
        rises = not self.high or (fresh and load >= SUDDEN * earlier)
        if not rises or load < SUDDEN * lowest:
            return replace(self, high=True)
        return Recurrence((*self.begins[-FEWEST:], now), high=True)

    @property
    def distances(self) -> tuple[float, float] | None:
        """The shortest and the longest, in seconds, if they are alike; None without a rhythm."""
        gaps = [later - earlier for earlier, later in pairwise(self.begins)]
        if len(gaps) < FEWEST:
            return None
        shortest, longest = min(gaps), max(gaps)
        return (shortest, longest) if longest - shortest <= max(SLACK, ALIKE * shortest) else None

    @property
    def every(self) -> float | None:
        """The usual distance, in seconds; None without a rhythm."""
        return None if self.distances is None else sum(self.distances) / 2.0

    def repeated(self, now: float, span: float) -> bool:
        """Tell whether a peak began in the last ``span`` seconds that was not the first one known."""
        return len(self.begins) > 1 and now - self.begins[-1] < span

    def due(self, now: float, ahead: float) -> bool:
        """Tell whether a peak may begin within ``ahead`` seconds; so it may at any time without a rhythm."""
        distances = self.distances
        if distances is None:
            return True
        # Overdue: the rhythm is over, or this peak is left out. Nobody knows.
        return now - self.begins[-1] + ahead >= distances[0] - SLACK

    def moved(self, seconds: float) -> "Recurrence":
        """Return the same, as if everything had happened ``seconds`` later."""
        return replace(self, begins=tuple(when + seconds for when in self.begins))
