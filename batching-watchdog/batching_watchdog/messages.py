"""What travels through the watchdog: requests, replies, batches. [P]

``Request`` and ``Reply`` are made for every request, so they are named tuples: a frozen dataclass takes three
times as long to make.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class DispatchReason(StrEnum):
    """Why a batch left the queue when it did, and with that size. A closed list."""

    IDLE = "idle"
    """A worker was free and the batch is all that was waiting."""
    FULL = "full"
    """max_batch_size was reached, or the largest size that policy ``aimd`` allows now."""
    BEST_SIZE = "best_size"
    """The size with the best throughput was reached; more would only add latency."""
    DEADLINE = "deadline"
    """One more request would have made the tightest deadline be missed."""
    DELAY = "delay"
    """max_batch_delay had passed (policy ``fixed``)."""
    LATE = "late"
    """Requests past their deadline, served because no request on time wanted the worker."""
    RETRY = "retry"
    """One request alone, since the worker died under its first batch."""
    PROFILE = "profile"
    """A batch of example() bodies, to learn l(b) before there is traffic."""


class Request(NamedTuple):
    """One admitted HTTP request. Times are seconds on the caller's monotonic clock.

    ``header_block`` is the request line and headers as ``wire.request_header_block`` makes them: the front
    end never looks into it again, and the worker parses it only when the handler asks.
    """

    id: int
    header_block: bytes
    body: bytes
    arrived: float
    deadline: float
    """When its latency budget ends; a later answer misses the SLO but is still an answer."""
    expires: float
    """When it is given up and answered 504."""
    group: bytes = b""
    """Only requests of one group share a batch."""


class Reply(NamedTuple):
    """A worker's answer to one request. ``header_block`` holds complete header lines, ready to be sent."""

    status: int
    header_block: bytes
    body: bytes
    failed: bool = False
    """True if the handler raised: counted as an error of the SLO whatever the status."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that go to one worker as one frame."""

    requests: tuple[Request, ...]
    reason: DispatchReason
    dispatched: float

    @property
    def number(self) -> int:
        """What the log calls it: the id of its first request, which only a retry of that request shares."""
        return self.requests[0].id
