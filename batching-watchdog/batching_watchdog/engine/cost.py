"""Groups requests into pools of similar cost, and learns the service time of each pool. [P]

Requests of one method and path, ``X-Batch-Key`` and length of body (by powers of two) form a cost class; a
handler's ``weight(event)`` takes the place of the length. Classes of one batch key begin in one ``Pool``,
whose requests share batches and one l(b) (``latency``). One in ``alone_every`` batches has a single class
while one is unknown. A class whose batches alone cost other than its pool's leaves for a pool that matches,
or a new one, and pools that have become alike merge. So a model that pads to the longest body gets batches of
similar lengths, and a model that depends on neither length nor path gets full ones, without settings.

Requests of different batch keys never share a batch, nor do those of different paths if the handler forbids
it (``mix_paths``). Clients choose classes and keys, so their number is bounded: those that have shown no cost
are dropped first. One more curve learns from all batches, and predicts for pools with few of their own.
"""

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Sequence
from itertools import islice
from math import inf
from statistics import median
from typing import Final, Protocol

from batching_watchdog.engine.latency import LEAST, LatencyModel
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.messages import CostClass, Request

KNOWN: Final = 2 * TUNING.tries
"""Batches after which a pool's own curve replaces that of all, and between two looks at its classes."""
RECENT: Final = 512
"""Requests after which all counts are halved: shares follow the traffic of the last thousand or so."""
AGAIN: Final = 16
"""Factor by which batches of one class become rarer once all are known."""


class ServiceTimes(Protocol):
    """l(b) of one pool, as the policies use it."""

    @property
    def best_size(self) -> int:
        """The allowed size with the best throughput, or the next one to try."""

    @property
    def ceiling(self) -> int:
        """Largest allowed batch: smaller after batches that ran out of memory."""

    def untried(self, size: int) -> bool:
        """Return whether the time of ``size`` is a guess: few batches but of one other size have run."""

    def predict(self, size: int) -> float:
        """Return the upper quantile of the seconds for ``size`` requests."""

    def predict_mean(self, size: int) -> float:
        """Return the mean seconds for ``size`` requests."""

    def largest_within(self, seconds: float) -> int:
        """Return the largest size whose upper quantile is at most ``seconds``; 0 if there is none."""

    def out_of_memory(self, size: int) -> int:
        """Lower the ceiling, since a batch of ``size`` did not fit into memory; return it."""


class Shared(Protocol):
    """A pool as the engine uses it: compared with others only."""

    answer_bytes: float
    """Expected bytes of an answer, which the engine learns."""

    @property
    def times(self) -> ServiceTimes:
        """Service times of its batches."""

    @property
    def overdue_at(self) -> dict[str, float]:
        """Time from which an SLO class goes first: a request of it is late, and none left on time since."""


class Cost(Protocol):
    """All pools together, as the engine uses them."""

    @property
    def overall(self) -> ServiceTimes:
        """Of any batch."""

    def pool(self, cost_class: CostClass) -> Shared:
        """Return the pool of one more request's class: requests of a pool may share a batch."""

    def alone(self, pool: Shared, waiting: Iterable[Request], size: int) -> CostClass | None:
        """Return the class to batch alone instead of the first ``size`` requests, or None."""

    def learn(self, requests: Sequence[Request], seconds: float, cpu_seconds: float) -> None:
        """Learn that a batch of these took a worker ``seconds`` and ``cpu_seconds`` of CPU; 0: unknown."""


class Pool:
    """Classes that share batches, and the service times of those."""

    __slots__ = ("answer_bytes", "batches", "classes", "model", "overdue_at", "times", "turns")

    def __init__(self, model: LatencyModel, times: LatencyModel) -> None:
        self.model = model
        self.times = times
        """``model``, once that has run often enough."""
        self.overdue_at: dict[str, float] = {}
        self.answer_bytes = 0.0
        self.classes: set[CostClass] = set()
        self.batches = 0
        self.turns = 0
        """Batches that left, for whose turn it is to be of one class."""


class _Class:
    """The pool of a class, its recent requests, and its last batches alone."""

    __slots__ = ("pool", "requests", "runs")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.requests = 0.0
        self.runs: deque[tuple[int, float, float]] = deque(maxlen=KNOWN)
        """Size, seconds and CPU seconds."""

    def wants(self, size: int) -> bool:
        """Return whether a batch of ``size`` alone would show more."""
        return len(self.runs) < TUNING.tries or size >= 2 * max(run[0] for run in self.runs)


class CostModel:
    """The pools of all classes, learned."""

    def __init__(self, max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self.overall = LatencyModel(max_batch_size)
        self._apart = True
        """Whether requests of different methods and paths are kept separate."""
        self._keys: OrderedDict[tuple[bytes, bytes], list[Pool]] = OrderedDict()
        """Pools by compatible requests; the first pool is for unknown classes."""
        self._classes: OrderedDict[CostClass, _Class] = OrderedDict()
        self._counted = 0
        """Requests since their counts were halved."""

    @property
    def mix(self) -> list[tuple[float, LatencyModel]]:
        """Share of the recent requests and service times of each pool; of a single one, ``overall``."""
        counts = defaultdict[Pool, float](float)
        for of in self._classes.values():
            counts[of.pool] += of.requests
        total = sum(counts.values())
        if not total or len(counts) == 1:
            return [(1.0, self.overall)]
        return [(count / total, pool.times) for pool, count in counts.items()]

    @property
    def ceiling(self) -> int:
        """The largest batch allowed in every pool: fewer requests after batches that ran out of memory."""
        pools = (pool.times.ceiling for pools in self._keys.values() for pool in pools)
        return min(self.overall.ceiling, *pools, self.max_batch_size)

    def mix_paths(self) -> None:
        """Allow requests of different methods and paths in one batch, as the handler does."""
        if self._apart:
            self._apart = False
            self._keys.clear()
            self._classes.clear()

    def pool(self, cost_class: CostClass) -> Pool:
        """Return the pool of this class, and count one more request of it."""
        of = self._classes.get(cost_class) or self._add(cost_class)
        of.requests += 1
        self._counted += 1
        if self._counted >= RECENT:
            self._counted = 0
            for each in self._classes.values():
                each.requests /= 2
        return of.pool

    def alone(self, pool: Shared, waiting: Iterable[Request], size: int) -> CostClass | None:
        """Return the class to batch alone instead of the first ``size`` requests, or None."""
        assert isinstance(pool, Pool)  # noqa: S101 - ours
        pool.turns += 1
        if len(pool.classes) < 2 or pool.turns % TUNING.alone_every:
            return None
        counts = Counter([request.cost_class for request in islice(waiting, size)])
        # A batch of fewer would cost throughput and show little.
        many = {kind: count for kind, count in counts.items() if max(2, size // 8) <= count < size}
        wanting = [kind for kind, count in many.items() if self._of(kind).wants(count)]
        if not wanting and pool.turns % (AGAIN * TUNING.alone_every):
            return None
        return min(wanting or many, key=lambda kind: len(self._of(kind).runs), default=None)

    def learn_any(self, size: int, seconds: float, cpu_seconds: float = 0.0) -> None:
        """Learn what a batch of ``size`` representative requests took, as ``learn`` does."""
        self.overall.observe(size, seconds, cpu_seconds)

    def learn(self, requests: Sequence[Request], seconds: float, cpu_seconds: float = 0.0) -> None:
        """Learn that a batch of these took a worker ``seconds`` and ``cpu_seconds`` of CPU; 0: unknown."""
        size = len(requests)
        self.overall.observe(size, seconds, cpu_seconds)
        kinds = {request.cost_class for request in requests}
        classes = [self._of(kind) for kind in kinds]
        pool = classes[0].pool
        pools = self._pools(next(iter(kinds)))
        if any(of.pool is not pool for of in classes):
            return  # the batch was cut before its classes were separated
        if len(self._keys) == len(pools) == len(pool.classes) == 1:
            return  # the only class so far: the overall curve is its own
        if len(kinds) == 1 and pool.times.knows(size):
            classes[0].runs.append((size, seconds, cpu_seconds))
        pool.model.observe(size, seconds, cpu_seconds)
        pool.batches += 1
        if pool.batches == KNOWN:
            pool.model.ceiling = pool.times.ceiling
            pool.times = pool.model
        if pool.batches % KNOWN == 0:
            for kind in list(pool.classes):
                self._leave(kind, pools)
            self._join(pool, pools)

    def _of(self, cost_class: CostClass) -> _Class:
        """Return the class, marked as the most recently used."""
        of = self._classes.get(cost_class) or self._add(cost_class)
        self._classes.move_to_end(cost_class)
        return of

    def _pools(self, cost_class: CostClass) -> list[Pool]:
        """Return the pools that this class may join, at least one."""
        key = (cost_class[0], cost_class[1] if self._apart else b"")
        pools = self._keys.get(key)
        if pools is None:
            pools = self._keys[key] = [Pool(LatencyModel(self.max_batch_size), self.overall)]
            if len(self._keys) > TUNING.max_classes:
                _, gone = self._keys.popitem(last=False)
                for kind in set[CostClass]().union(*(pool.classes for pool in gone)):
                    self._classes.pop(kind, None)
        self._keys.move_to_end(key)
        return pools

    def _add(self, cost_class: CostClass) -> _Class:
        pools = self._pools(cost_class)
        # The next longer or shorter bodies of the same path give the best estimate.
        near = [kind for pool in pools for kind in pool.classes if kind[:2] == cost_class[:2]]
        nearest = min(near, key=lambda kind: abs(kind[2] - cost_class[2]), default=None)
        pool = self._classes[nearest].pool if nearest is not None else pools[0]
        self._classes[cost_class] = added = _Class(pool)
        pool.classes.add(cost_class)
        if len(self._classes) > TUNING.max_classes:
            unknown = (kind for kind, of in self._classes.items() if not of.runs and of is not added)
            gone = next(unknown, next(iter(self._classes)))
            self._classes.pop(gone).pool.classes.discard(gone)
        return added

    def _leave(self, kind: CostClass, pools: list[Pool]) -> None:
        """Move a class whose batches alone differ from its pool's to a pool that matches, or a new one."""
        of = self._classes[kind]
        old = of.pool
        if len(old.classes) == 1 or len(of.runs) < 2 or not TUNING.apart < _off(of.runs, old.times) < inf:
            return
        off = {pool: _off(of.runs, pool.times) for pool in pools if pool is not old}
        best = min(off, key=lambda pool: off[pool], default=None)
        if best is None or off[best] > TUNING.alike:
            if len(pools) == TUNING.max_lanes:
                return
            model = LatencyModel(self.max_batch_size)
            for run in of.runs:
                model.observe(*run)
            model.ceiling = old.times.ceiling
            best = Pool(model, model)
            best.batches = KNOWN
            pools.append(best)
        # Those that stay are learned anew, since the runs so far include the class. Until then they predict.
        old.classes.discard(kind)
        old.model, old.batches = LatencyModel(self.max_batch_size), 0
        best.classes.add(kind)
        of.pool = best
        of.runs.clear()

    def _join(self, pool: Pool, pools: list[Pool]) -> None:
        """Merge ``pool`` with another of similar cost; drop empty ones."""
        for other in pools:
            if other is not pool and other.times is other.model and _alike(pool.times, other.times):
                stays, goes = (pool, other) if pool is pools[0] else (other, pool)
                for kind in goes.classes:
                    self._classes[kind].pool = stays
                    self._classes[kind].runs.clear()
                stays.classes |= goes.classes
                goes.classes.clear()
                break
        pools[1:] = [kept for kept in pools[1:] if kept.classes]


def _off(runs: Iterable[tuple[int, float, float]], times: LatencyModel) -> float:
    """Return the factor between ``runs`` and ``times``, at least 1; infinite if ``times`` lacks the sizes."""
    ratios = [
        seconds / max(LEAST, times.predict_mean(size)) for size, seconds, _ in runs if times.knows(size)
    ]
    ratio = median(ratios) if ratios else inf
    return max(ratio, 1 / ratio)


def _alike(one: LatencyModel, other: LatencyModel) -> bool:
    """Return whether two curves share a size, and agree at the largest one of either."""
    sizes, others = set(one.sizes_learned()), set(other.sizes_learned())
    largest = max(sizes | others, default=1)
    low, high = sorted((one.predict_mean(largest), other.predict_mean(largest)))
    return not sizes.isdisjoint(others) and high <= TUNING.alike * low
