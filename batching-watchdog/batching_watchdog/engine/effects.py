"""What the engine wants done. [P]

Values only: ``Engine`` returns them in the order in which they are to be carried out, the shell carries them
out. Named tuples, since there is an ``Answer`` for every request.
"""

from typing import NamedTuple, Protocol

from batching_watchdog.errors import WatchdogError
from batching_watchdog.messages import Batch, Reply, Request


class Worker(Protocol):
    """Whoever runs batches. The engine tells workers apart, and calls nothing of them."""

    def send(self, batch: Batch) -> None:
        """Start ``batch``; ``Engine.batch_done`` or ``Engine.worker_lost`` must follow."""


class Dispatch(NamedTuple):
    """Send ``batch`` to ``worker``, which was idle."""

    worker: Worker
    batch: Batch


class Answer(NamedTuple):
    """Give ``request`` its answer: a worker's reply, or one of our errors."""

    request: Request
    outcome: Reply | WatchdogError
    batch: Batch | None = None
    """The last one that it was in; None if no worker has seen it."""


class WakeAt(NamedTuple):
    """Call ``tick`` at ``at``, unless it is called before."""

    at: float


Effect = Dispatch | Answer | WakeAt
