"""What the engine wants done. [P]

Values only: ``Engine`` returns them in the order in which they are to be carried out, the shell carries them
out. Named tuples, since there is an ``Answer`` for every request.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from batching_watchdog.errors import WatchdogError
from batching_watchdog.messages import Batch, Reply, Request


class Worker(Protocol):
    """Whoever runs batches. The engine tells workers apart, and calls nothing of them."""

    def send(self, batch: Batch) -> None:
        """Run ``batch``, or do so next; ``Engine.batch_done`` or ``Engine.worker_lost`` must follow."""

    def cancel(self, indexes: Sequence[int]) -> None:
        """Do not run these requests of the batch sent last, unless that has begun."""


class Dispatch(NamedTuple):
    """Send ``batch`` to ``worker``, which is idle or about to be."""

    worker: Worker
    batch: Batch


class Cancel(NamedTuple):
    """Tell ``worker`` not to run these requests of the batch that was sent to it while it was busy.

    Its replies line up with all requests of the batch, with ``DROPPED`` for those that it has not run.
    """

    worker: Worker
    indexes: Sequence[int]


class Answer(NamedTuple):
    """Give ``request`` its answer: a worker's reply, or one of our errors."""

    request: Request
    outcome: Reply | WatchdogError
    batch: Batch | None = None
    """The last one that it was in; None if no worker has seen it."""


class WakeAt(NamedTuple):
    """Call ``tick`` at ``at``, unless it is called before."""

    at: float


Effect = Dispatch | Cancel | Answer | WakeAt
