"""Which requests go together, and when: the batching policies. [P]

A policy looks at the head of the queue, the time and the learned l(b), and answers ``Take`` (so many, for
this reason), ``Wait`` (until then), or ``Late`` (the head can no longer be on time). It never touches the
queue: ``scheduler`` carries the answer out. To add one, see docs/extending.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.messages import DispatchReason

BACK_OFF: Final = 0.9
"""What is left of the batch size of policy ``aimd`` after a batch that took too long (Clipper: 10 % less)."""


RESERVE: Final = 0.025
"""Of a request's budget: what ``slo`` leaves unused under overload, for an answer's way to the client."""


@dataclass(frozen=True, slots=True)
class QueueHead:
    """What a policy may know of the requests that wait and are not late. ``length`` is at least 1."""

    length: int
    arrived: float
    deadline: float
    late: bool = False
    """Whether late requests wait beside them."""


@dataclass(frozen=True, slots=True)
class Take:
    """Send the first ``size`` requests now."""

    size: int
    reason: DispatchReason


@dataclass(frozen=True, slots=True)
class Wait:
    """Send nothing before ``until``, unless more requests come."""

    until: float


@dataclass(frozen=True, slots=True)
class Late:
    """The first request can no longer meet its deadline: it leaves the on-time lane."""


class BatchingPolicy(Protocol):
    """How a batch is cut when a worker is free."""

    @property
    def deadline_order(self) -> bool:
        """Whether the queue is ordered by deadline; otherwise by arrival."""

    def decide(self, head: QueueHead, now: float, model: LatencyModel) -> Take | Wait | Late:
        """Answer for a queue of ``head.length`` requests at ``now``."""

    def observe(self, size: int, seconds: float) -> None:
        """A batch of ``size`` took a worker ``seconds``: for a policy that keeps a state of its own."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What the policies are made from; each takes what it needs."""

    max_batch_size: int
    max_batch_delay: float
    slo_latency: float


@dataclass(frozen=True, slots=True)
class Unbatched:
    """One request at a time, in order of arrival: what a plain Flask worker does. A baseline."""

    deadline_order: bool = False

    def decide(self, head: QueueHead, now: float, model: LatencyModel) -> Take | Wait | Late:
        """Take one."""
        return Take(1, DispatchReason.IDLE)

    def observe(self, size: int, seconds: float) -> None:
        """Nothing to learn."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Size or delay, in order of arrival: Triton's, TorchServe's and mosec's law. A baseline.

    Leaves when ``max_batch_size`` requests wait, or when the first has waited ``max_batch_delay``.
    """

    max_batch_size: int
    max_batch_delay: float
    deadline_order: bool = False

    def decide(self, head: QueueHead, now: float, model: LatencyModel) -> Take | Wait | Late:
        """Take a full batch, or what there is once the delay has passed."""
        if head.length >= self.max_batch_size:
            return Take(self.max_batch_size, DispatchReason.FULL)
        leaves = head.arrived + self.max_batch_delay
        if now >= leaves:
            return Take(
                head.length, DispatchReason.DELAY if self.max_batch_delay > 0 else DispatchReason.IDLE
            )
        return Wait(leaves)

    def observe(self, size: int, seconds: float) -> None:
        """Nothing to learn."""


class BatchLimit:
    """The batch size that keeps within ``budget`` seconds: additive increase, multiplicative decrease.

    A batch of the whole limit that stayed within the budget raises the limit by one; a batch that exceeded it
    lowers the limit by a tenth. Smaller batches raise nothing: they say nothing of the limit (as in TCP,
    RFC 7661, where an unused window does not grow).
    """

    __slots__ = ("_budget", "_max", "_size")

    def __init__(self, max_batch_size: int, budget: float) -> None:
        self._max = max_batch_size
        self._budget = budget
        self._size = 1.0

    @property
    def size(self) -> int:
        """The limit now: at least 1, at most ``max_batch_size``."""
        return int(self._size)

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a batch of ``size`` requests that took a worker ``seconds``."""
        if seconds > self._budget:
            self._size = max(1.0, self._size * BACK_OFF)
        elif size >= self.size:
            self._size = min(float(self._max), self._size + 1.0)


@dataclass(frozen=True, slots=True)
class Aimd:
    """Clipper's adaptive batching, in order of arrival and without a delay. A baseline.

    D. Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System", NSDI'17, section 4.3: the
    batch size grows by a fixed amount until a batch takes longer than the latency objective, then backs off
    by 10 %. What waits is taken at once, up to that size. It does not look at deadlines.
    """

    limit: BatchLimit
    deadline_order: bool = False

    def decide(self, head: QueueHead, now: float, model: LatencyModel) -> Take | Wait | Late:
        """Take what there is, up to the limit."""
        size = min(head.length, self.limit.size)
        return Take(size, DispatchReason.IDLE if size == head.length else DispatchReason.FULL)

    def observe(self, size: int, seconds: float) -> None:
        """Move the limit."""
        self.limit.observe(size, seconds)


@dataclass(frozen=True, slots=True)
class Slo:
    """Earliest deadline first, work-conserving, as large as the tightest deadline allows.

    The size is the smallest of: what waits; ``max_batch_size``; the size with the best throughput; and the
    largest b with now + l_q(b) <= the head's deadline (Clipper's and AlpaServe's rule). The queue is in
    order of deadline, so the head's is the tightest.

    When more requests wait than a full batch takes, a head that could only have a smaller one goes late:
    shrinking the batch for it would cost throughput just when there is none to spare, and the next heads
    would go the same way (Nexus, SOSP'19, "early drop": heads are judged against the full batch). Full is
    what can be kept up: the largest b with 2 x l_q(b) <= budget, since under load a request first waits
    for the batch ahead of it. Judged against a larger one, every head would be late.

    Such a queue, served in order of deadline, has all that it serves in time end just before its deadline,
    and a millisecond on the way to the client makes most of that late. So once heads go late, those that
    follow are judged with ``RESERVE`` of the budget to spare: as many are served, and they stay in time.
    """

    max_batch_size: int
    deadline_order: bool = True

    def decide(self, head: QueueHead, now: float, model: LatencyModel) -> Take | Wait | Late:
        """Take the largest batch that is worth while and on time; the head is late if there is none."""
        best = min(model.best_size, self.max_batch_size)
        wanted = min(head.length, best)
        budget = head.deadline - head.arrived
        full = min(best, model.largest_within(budget / 2))
        crowded = 0 < full < head.length
        reserve = RESERVE * budget if crowded and head.late else 0.0
        fits = model.largest_within(head.deadline - now - reserve)
        if fits >= wanted:
            return Take(wanted, self._reason(wanted, head.length))
        if fits < (full if crowded else 1):
            return Late()
        return Take(fits, DispatchReason.DEADLINE)

    def observe(self, size: int, seconds: float) -> None:
        """Nothing of its own: all that it needs is in the latency model."""

    def _reason(self, taken: int, waiting: int) -> DispatchReason:
        if taken == self.max_batch_size:
            return DispatchReason.FULL
        return DispatchReason.IDLE if taken == waiting else DispatchReason.BEST_SIZE


POLICIES: Final[Mapping[str, Callable[[PolicySettings], BatchingPolicy]]] = MappingProxyType(
    {
        "aimd": lambda settings: Aimd(BatchLimit(settings.max_batch_size, settings.slo_latency)),
        "fixed": lambda settings: Fixed(settings.max_batch_size, settings.max_batch_delay),
        "slo": lambda settings: Slo(settings.max_batch_size),
        "unbatched": lambda settings: Unbatched(),
    }
)
"""The closed registry of ``batch_policy``: adding a policy is one line here and one class above."""
