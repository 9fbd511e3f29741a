"""Defines requests, replies, batches and failures of the function. [P]

Every request creates a ``Request`` and a ``Reply``. Neither is a frozen dataclass, which takes three times as
long to create.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from sys import float_info
from typing import Any, Final, NamedTuple


class DispatchReason(StrEnum):
    """Why a batch left the queue when it did, and with that size. A closed list."""

    IDLE = "idle"
    """A worker was idle, and the batch holds every waiting request."""
    FULL = "full"
    """max_batch_size was reached."""
    BEST_SIZE = "best_size"
    """The size with the best throughput was reached; more would only add latency."""
    DEADLINE = "deadline"
    """One more request would have missed the tightest deadline."""
    BEST_EFFORT = "best_effort"
    """Requests of best effort, on a worker that no other request needed."""
    LATE = "late"
    """Requests past their deadline, on a worker that no on-time request needed."""
    JOIN = "join"
    """Requests that joined the running streams of a worker."""
    RETRY = "retry"
    """A part of a batch that failed whole, to find the request at fault."""
    PROFILE = "profile"
    """Bodies of example(), to measure l(b) before there is traffic."""


CostClass = tuple[bytes, bytes, int]
"""Cost class of a request: batch key, method and path, and the bits of its body's length."""
PROBE: Final[CostClass] = (b"\0probe", b"", 0)
"""Cost class of a probe: its time is not learned, and it replaces no client's request."""


DEFAULT_CLASS: Final = "default"
"""SLO class of requests without a class: the function's own slo_latency and slo_objective."""


class Target(NamedTuple):
    """A latency target in seconds, and the share of requests that must meet it."""

    latency: float
    """Of an answer, or of the first piece of a stream."""
    objective: float
    interval: float = inf
    """Of each further piece of a stream: piece k is due at ``latency`` + k * ``interval``."""


BEST_EFFORT: Final = Target(inf, 0.0, float_info.max)
"""Of requests without a deadline. Its interval is finite: 0 times infinity is no number."""


@dataclass(slots=True, eq=False)
class Request:
    """One admitted HTTP request. Times are seconds on the caller's monotonic clock.

    ``header_block`` is the request line and headers as ``wire.request_header_block`` makes them: the front
    end never looks into it again, and the worker parses it only when the handler asks.
    """

    id: int
    header_block: bytes
    body: bytes
    arrived: float
    deadline: float
    """End of its class's budget: a later answer misses the SLO but is still sent. Infinite: best effort."""
    expires: float
    """Time at which it is answered with 504."""
    cost_class: CostClass = (b"", b"", 0)
    client: Any = None
    """Receiver of the answer: the front end's object, which no other module reads."""
    slo_class: str = DEFAULT_CLASS
    """Its SLO class: the name of a declared class, or ``DEFAULT_CLASS``."""
    wanted_by: float = inf
    """When its client wants the answer, if that is before ``deadline``: it orders requests of one class, and
    no others. An earlier ``deadline`` would be a priority that the operator has not declared."""
    place: int = 0
    """Where the engine has it, in which lane, and how many batches it has been in: the engine's own."""
    lane: Any = None
    attempts: int = 0
    trace: Any = None
    """``spans.RequestTrace`` if it is recorded: the front end's and the shell's, as ``client``."""

    @property
    def best_effort(self) -> bool:
        """Whether it has no deadline: it uses workers that no other request needs, and no batch has both."""
        return self.deadline == inf


class Reply(NamedTuple):
    """A worker's answer to one request. ``header_block`` holds complete header lines, ready to be sent."""

    status: int
    header_block: bytes
    body: bytes
    failed: bool = False
    """True if the handler raised: counts as an error of the SLO with any status."""
    client_error: bool = False
    """True if the handler blames the client (``BadRequest``): the SLO does not count it."""


@dataclass(frozen=True, slots=True)
class Response:
    """A handler's result with a status, from 200 to 599, and headers."""

    body: Any = None
    """As any other result."""
    status: int = 200
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    """A mapping, or pairs to repeat a name."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """A piece of a stream that sets more of its server-sent event than data (WHATWG HTML, section 9.2)."""

    data: Any = None
    """As any other piece."""
    event: str = ""
    """Its type; empty: clients take it for ``message``."""
    id: str = ""
    """What a browser sends as Last-Event-ID when it connects again; empty: that of the event before."""


@dataclass(frozen=True, slots=True)
class Crash:
    """A batch of several requests that failed as a whole: which of them is at fault is not known."""

    error: str
    """Its traceback, or the violated rule: as ``Failure.trace``."""
    reply: Reply
    """Answer of a request that is not tried again."""
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in the function's own code, only for the log: one record in every format."""

    text: str
    """The failed step, in one line."""
    trace: str
    """The traceback as Python prints it, from the function's first frame on; or the violated rule."""
    call_id: str = ""
    """X-Call-Id of the request; empty: it has none, or no request was served."""
    trace_id: str = ""
    """Id of the request's trace (``traceparent``); empty without one."""
    client_error: bool = False
    """Whether the client is at fault, not the function: there is no trace."""

    def __str__(self) -> str:
        return f"{self.text}\n{self.trace}" if self.trace else self.text


class Output(NamedTuple):
    """What became of one stream in an iteration of its worker."""

    stream: int
    """Id of its request."""
    reply: Reply | None
    """Its piece; None: nothing to send yet, or no more. A failed one ends the stream."""
    done: bool
    out_of_memory: bool = False
    """Whether memory did not suffice for it beside the other streams of its worker."""


class Iteration(NamedTuple):
    """One iteration of a worker's streams: starts of those that joined, then one step of all."""

    outputs: Sequence[Output]
    started: int
    """Streams that started; 0 if not together."""
    start_seconds: float
    stepped: int
    """Streams of the step; 0 if they made it in parts."""
    step_seconds: float
    cpu_seconds: float
    """CPU time since the iteration before."""
    waited: float = 0.0
    """Seconds of the step in which the worker could run and had no core."""
    start_overflow: int = 0
    """Fewest streams whose start ran out of memory although each of its halves did not; 0: none."""
    step_overflow: int = 0
    """Likewise of the step."""


DROPPED: Final = Reply(0, b"", b"")
"""Reply for a request that was cancelled before the worker began its batch."""


@dataclass(slots=True, eq=False)
class Batch:
    """Requests that go to one worker as one frame."""

    requests: tuple[Request, ...]
    reason: DispatchReason
    dispatched: float
    """Time at which its worker can begin it: when it is sent, or at the end of the previous batch."""
    seconds: float = inf
    """Predicted seconds; infinite if unknown."""
    trace: Any = None
    """``spans.BatchTrace`` if one of its requests is recorded: the shell's."""

    @property
    def number(self) -> int:
        """Its number in the log: the id of its first request, which only a retry of that request shares."""
        return self.requests[0].id
