"""What the watchdog's side of a worker connection hears from the worker."""

import asyncio

from batching_watchdog.function import wire
from batching_watchdog.function.messages import (
    Batch,
    Crash,
    DispatchReason,
    Failure,
    Iteration,
    Reply,
    Request,
)
from batching_watchdog.pool.connection import Connection


class Heard:
    """Keeps all that a connection tells, until the test asks for it."""

    def __init__(self) -> None:
        self.handshake: asyncio.Future[wire.Handshake] = asyncio.get_running_loop().create_future()
        self.answers: asyncio.Queue[tuple[list[Reply], wire.Spent]] = asyncio.Queue()
        """Replies, and what they took; none for a batch that failed as a whole."""
        self.iterations: asyncio.Queue[Iteration] = asyncio.Queue()
        self.crashes: list[Crash] = []
        self.failures: list[Failure] = []
        self.lost: list[Batch | None] = []

    def loaded(self, connection: Connection, handshake: wire.Handshake) -> None:
        self.handshake.set_result(handshake)

    def replied(self, connection: Connection, batch: Batch, replies: list[Reply], spent: wire.Spent) -> None:
        self.answers.put_nowait((replies, spent))

    def crashed(self, connection: Connection, batch: Batch, crash: Crash) -> None:
        self.crashes.append(crash)
        self.answers.put_nowait(([], wire.Spent()))

    def stepped(self, connection: Connection, iteration: Iteration) -> None:
        self.iterations.put_nowait(iteration)

    def suspected(self, connection: Connection) -> None:
        raise AssertionError

    def raised(self, connection: Connection, failure: Failure) -> None:
        self.failures.append(failure)

    def closed(self, connection: Connection, batch: Batch | None) -> None:
        self.lost.append(batch)


def batch(*bodies: bytes, path: bytes = b"/") -> Batch:
    requests = tuple(Request(n, b"POST %b\r\n" % path, body, 0.0, 0.0, 0.0) for n, body in enumerate(bodies))
    return Batch(requests, DispatchReason.IDLE, 0.0)
