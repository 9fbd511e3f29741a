"""Defines the effects that the engine requests. [P]

``Engine`` returns them in the order of execution, and the shell executes them. They are named tuples, because
every request has an ``Answer``.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from batching_watchdog.errors import WatchdogError
from batching_watchdog.function.messages import Batch, Reply, Request


class Worker(Protocol):
    """A process that runs batches. The engine only compares workers, and calls no method of them."""

    def send(self, batch: Batch) -> None:
        """Run ``batch`` now or next; ``Engine.batch_done`` or ``Engine.worker_lost`` must follow."""

    def cancel(self, indexes: Sequence[int]) -> None:
        """Skip these requests of the last batch, unless it has begun."""

    def check(self) -> None:
        """Find out whether it can still serve; ``Engine.worker_ready`` or ``worker_gone`` must follow."""


class Dispatch(NamedTuple):
    """Send ``batch`` to ``worker``, which is idle or will be soon."""

    worker: Worker
    batch: Batch


class Cancel(NamedTuple):
    """Tell ``worker`` to skip these requests of the batch that it received while busy.

    Its replies match all requests of the batch, with ``DROPPED`` for skipped ones.
    """

    worker: Worker
    indexes: Sequence[int]


class Check(NamedTuple):
    """Find out whether ``worker`` can still serve: its last batches failed whole.

    It gets no batch until ``Engine.worker_ready`` is called for it again.
    """

    worker: Worker


class Lowered(NamedTuple):
    """A batch of ``size`` ran out of memory, so those of its cost class have at most ``ceiling`` requests."""

    size: int
    ceiling: int


class Streamer(Protocol):
    """A process that runs streams step by step. The engine only compares workers, and calls no method."""

    def join(self, batch: Batch) -> None:
        """Start these before the next step; ``Streams.stepped`` or ``Streams.worker_lost`` must follow."""

    def leave(self, streams: Sequence[int]) -> None:
        """Drop the streams of these requests before the next step."""


class Join(NamedTuple):
    """Start the streams of ``batch`` on ``worker`` before its next step."""

    worker: Streamer
    batch: Batch


class Leave(NamedTuple):
    """Drop the streams with these request ids before the next step of ``worker``."""

    worker: Streamer
    streams: Sequence[int]


class Piece(NamedTuple):
    """Send ``request`` its next piece. The last one ends it, so no ``Answer`` follows."""

    request: Request
    reply: Reply | None
    """None: the stream ends without a further piece."""
    last: bool
    batch: Batch
    """The batch in which it joined its worker."""


class Answer(NamedTuple):
    """Give ``request`` its answer: a worker's reply, or one of our errors."""

    request: Request
    outcome: Reply | WatchdogError
    batch: Batch | None = None
    """The last batch that held it; None if it was in none."""


class WakeAt(NamedTuple):
    """Call ``tick`` at ``at``, unless it is called before."""

    at: float


Effect = Dispatch | Cancel | Check | Lowered | Answer | Piece | Join | Leave | WakeAt
