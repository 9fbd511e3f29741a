"""Logs what fails in the workers: requests, batches, and workers that die under them."""

import logging

from batching_watchdog.function.messages import Batch, Crash, DispatchReason, Failure
from batching_watchdog.observe.logs import FailureLog
from batching_watchdog.pool.connection import Connection
from batching_watchdog.process.machine import oom_kills

log = logging.getLogger(__name__)


class Failures:
    """The failures of the workers, logged at a bounded rate."""

    def __init__(self) -> None:
        self._log = FailureLog(log)
        self._oom_kills = oom_kills()

    def crashed(self, batch: Batch, crash: Crash) -> None:
        """Log a batch that failed as a whole."""
        if batch.reason is not DispatchReason.RETRY:  # parts fail alike, and one request has its own line
            size = len(batch.requests)
            self._log.error(Failure(f"handler error: a batch of {size} requests failed", crash.error))

    def raised(self, failure: Failure) -> None:
        """Log the function's exception, of which the client gets only the status; or a client's error."""
        if failure.client_error:
            log.info("%s", failure)
        else:
            self._log.error(failure)

    def out_of_memory(self) -> bool:
        """Return whether the kernel has ended a process here for lack of memory since the last call."""
        before, self._oom_kills = self._oom_kills, oom_kills()
        return self._oom_kills > before

    def died(self, connection: Connection, batch: Batch | None, *, out_of_memory: bool) -> None:
        """Log a worker that died under requests."""
        if batch is not None:
            log.error(
                "a worker died under batch %d, of %d requests%s",
                batch.number,
                len(batch.requests),
                "; the kernel ended a process of this container for lack of memory" if out_of_memory else "",
            )
        elif connection.streams:
            log.error("a worker died under %d streams", len(connection.streams))
