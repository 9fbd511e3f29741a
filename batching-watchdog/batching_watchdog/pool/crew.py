"""The workers that have loaded: which of them serve, how old each is, and how many there should be. [P]

Decides which worker leaves; ``supervisor`` closes its connection.
"""

from collections.abc import Hashable
from enum import Enum, auto
from math import inf
from typing import Final, Generic, TypeVar

WorkerT = TypeVar("WorkerT", bound=Hashable)

JITTER: Final = 0.1
"""Random extra share of max_requests that a worker serves, so that workers are not replaced together."""


class Fate(Enum):
    """What becomes of a worker after a batch or an iteration."""

    STAYS = auto()
    AGED = auto()
    """It leaves once it is idle, as it has served ``max_requests``."""
    SURPLUS = auto()
    """It leaves once it is idle, as fewer workers are wanted."""


class Crew(Generic[WorkerT]):
    """The workers that have loaded. One that leaves is removed before its connection has closed."""

    def __init__(self, wanted: int, max_requests: int) -> None:
        self.wanted = wanted
        """Workers that there should be."""
        self._max_requests = max_requests
        self._left: dict[WorkerT, float | None] = {}
        """Requests left for each before it is replaced; None while it does not serve yet."""

    @property
    def members(self) -> tuple[WorkerT, ...]:
        """Those too that do not serve yet."""
        return tuple(self._left)

    @property
    def serving(self) -> list[WorkerT]:
        """The workers that get requests."""
        return [worker for worker, left in self._left.items() if left is not None]

    @property
    def surplus(self) -> bool:
        """Whether more workers serve than there should be."""
        return len(self.serving) > self.wanted

    def add(self, worker: WorkerT) -> None:
        """Take a worker in that has loaded, and does not serve yet."""
        self._left[worker] = None

    def admit(self, worker: WorkerT, draw: float) -> bool:
        """Let a member serve; return False, and remove it, if it is surplus.

        ``draw``: a random number in [0, 1), by which workers age apart.
        """
        self._left[worker] = round(self._max_requests * (1.0 + JITTER * draw)) if self._max_requests else inf
        if self.surplus:  # the number has been lowered while it loaded
            self.remove(worker)
            return False
        return True

    def remove(self, worker: WorkerT) -> bool:
        """Remove a worker, if it is a member; return whether it served."""
        return self._left.pop(worker, None) is not None

    def served(self, worker: WorkerT, count: int, *, ages: bool) -> Fate:
        """Count ``count`` requests of a worker; return what becomes of it. ``ages``: old ones are replaced.

        An old one stays for up to twice as long while another is being replaced, so that they go one by one.
        """
        left, aged = self._left.get(worker), False
        if ages and left is not None:
            left = self._left[worker] = left - count
            alone = len(self.serving) < self.wanted
            aged = left <= (-self._max_requests if alone else 0)
        if self.surplus:
            return Fate.SURPLUS
        return Fate.AGED if aged else Fate.STAYS
