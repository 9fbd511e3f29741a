"""Groups requests into pools of similar cost, and learns the service time of each pool. [P]

Requests of one method and path, ``X-Batch-Key`` and length of body (by powers of two) form a cost class.
Classes of similar cost share batches: a ``Pool`` is a set of them, with one service time l(b) (``latency``).
All classes of a batch key begin in one pool. Occasionally a batch has requests of one class only. A class
whose batches differ in cost from its pool's leaves it, for a matching pool or a new one, and matching pools
merge. Both are checked after every few batches of a pool, since its own times change. So a model that pads
batches to the longest body gets batches of similar lengths. A model that depends on neither lengths nor paths
gets full batches. Both follow from data, without settings.

Requests of different batch keys never share a batch, nor do those of different paths if the handler forbids
it (``mix_paths``). Clients choose classes and batch keys, so their number is limited: among the unknown, and
among the known ones, the least recently used is dropped.

One more curve is learned from all batches. It replaces those of pools that have hardly run, and is the only
one while there is a single class.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import islice
from math import inf
from statistics import median
from typing import Final, Protocol

from batching_watchdog.engine.latency import LEAST, TRIES, LatencyModel
from batching_watchdog.messages import CostClass, Request

KNOWN: Final = 2 * TRIES
"""Batches after which a pool's own curve replaces the average of all."""
MAX_CLASSES: Final = 64
"""Maximum number of kept classes and batch keys."""
MAX_POOLS: Final = 8
"""Maximum pools of one batch key: each needs its own batch within the SLO."""
ALONE_EVERY: Final = 8
"""One in this many batches of a pool is of a single class, while one of its classes is unknown."""
JUDGED: Final = 2
"""Batches of a single class after which it may leave its pool."""
AGAIN: Final = 16
"""Factor by which this becomes rarer once all are known; a class may still become more expensive."""
SHARE: Final = 8
"""A class is tried alone if at least one in this many requests of a batch belongs to it: a batch of fewer
would cost throughput and show little."""
SMALL: Final = 4
"""A batch of one class counts if the pool's batches are at most this many times as large."""
APART: Final = 1.5
"""A class leaves its pool if its batches take this many times as long as the pool's, or the reverse."""
ALIKE: Final = 1.25
"""Pools whose curves differ by less than this factor merge."""


class ServiceTimes(Protocol):
    """l(b) of one pool, as the policies use it."""

    @property
    def best_size(self) -> int:
        """The allowed size with the best throughput, or the next one to try."""

    def untried(self, size: int) -> bool:
        """Return whether the time of ``size`` is a guess: few batches but of one other size have run."""

    def predict(self, size: int) -> float:
        """Return the upper quantile of the seconds for ``size`` requests."""

    def predict_mean(self, size: int) -> float:
        """Return the mean seconds for ``size`` requests."""

    def largest_within(self, seconds: float) -> int:
        """Return the largest size whose upper quantile is at most ``seconds``; 0 if there is none."""


class Shared(Protocol):
    """A pool as the engine uses it: compared with others only."""

    @property
    def times(self) -> ServiceTimes:
        """Service times of its batches."""


class Cost(Protocol):
    """All pools together, as the engine uses them."""

    @property
    def overall(self) -> ServiceTimes:
        """Of any batch."""

    def pool(self, cost_class: CostClass) -> Shared:
        """Return the pool of a class, whose requests may share a batch."""

    def alone(self, pool: Shared, waiting: Iterable[Request], size: int) -> CostClass | None:
        """Return the class to batch alone instead of the first ``size`` requests, or None.

        Its batches alone show its cost.
        """

    def learn(self, requests: Sequence[Request], seconds: float) -> None:
        """Learn that a batch of these took a worker ``seconds``."""

    def learn_any(self, size: int, seconds: float) -> None:
        """Learn that a batch of ``size`` representative requests took a worker ``seconds``."""


class Pool:
    """Classes that share batches, and the service times of those."""

    __slots__ = ("batches", "classes", "model", "times", "turns", "usual")

    def __init__(self, model: LatencyModel, times: LatencyModel) -> None:
        self.model = model
        self.times = times
        """``model``, once that has run often enough."""
        self.classes: set[CostClass] = set()
        self.batches = 0
        self.usual = 0.0
        """The size of its batches, averaged."""
        self.turns = 0
        """Batches that left, for whose turn it is to be alone."""


class _Class:
    """The pool of a class, and its last batches alone: size and seconds."""

    __slots__ = ("pool", "runs", "seen")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.runs: deque[tuple[int, float]] = deque(maxlen=KNOWN)
        self.seen = 0

    def wants(self, size: int) -> bool:
        """Return whether a batch of ``size`` alone would add information."""
        return len(self.runs) < TRIES or 2 * max(run[0] for run in self.runs) <= size


class CostModel:
    """The pools of all classes, learned."""

    def __init__(self, max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self.overall = LatencyModel(max_batch_size)
        self._apart = True
        """Whether requests of different methods and paths are kept separate."""
        self._keys: OrderedDict[tuple[bytes, bytes], list[Pool]] = OrderedDict()
        """Pools by compatible requests; the first pool is for unknown classes."""
        self._new: OrderedDict[CostClass, _Class] = OrderedDict()
        self._known: OrderedDict[CostClass, _Class] = OrderedDict()
        self._learned = 0

    def mix_paths(self) -> None:
        """Allow requests of different methods and paths in one batch, as the handler does."""
        if self._apart:
            self._apart = False
            self._keys.clear()
            self._new.clear()
            self._known.clear()

    def pool(self, cost_class: CostClass) -> Pool:
        """Return the pool of this class."""
        found = self._known.get(cost_class) or self._new.get(cost_class) or self._add(cost_class)
        return found.pool

    def alone(self, pool: Shared, waiting: Iterable[Request], size: int) -> CostClass | None:
        """Return the class to batch alone instead of the first ``size`` requests, or None."""
        assert isinstance(pool, Pool)  # noqa: S101 - ours
        if len(pool.classes) < 2:
            return None
        pool.turns += 1
        if pool.turns % ALONE_EVERY:
            return None
        counts = Counter([request.cost_class for request in islice(waiting, size)])
        least = max(2, size // SHARE)
        found = [(self._of(each), each, count) for each, count in counts.items() if least <= count < size]
        wanting = [each for each in found if each[0].wants(each[2])]
        if not wanting and pool.turns % (AGAIN * ALONE_EVERY):
            return None
        return min(wanting or found, key=lambda each: each[0].seen, default=(None, None))[1]

    def learn_any(self, size: int, seconds: float) -> None:
        """Learn that a batch of ``size`` representative requests took a worker ``seconds``."""
        self.overall.observe(size, seconds)

    def learn(self, requests: Sequence[Request], seconds: float) -> None:
        """Learn that a batch of these took a worker ``seconds``."""
        size = len(requests)
        self.overall.observe(size, seconds)
        kinds = {request.cost_class for request in requests}
        classes = [self._of(kind) for kind in kinds]
        kind, pool = next(iter(kinds)), classes[0].pool
        if any(each.pool is not pool for each in classes):
            return  # the batch was cut before its classes were separated
        pools = self._pools(kind)
        if len(self._keys) == len(pools) == len(pool.classes) == 1:
            return  # the only class so far: the overall curve is its own
        if len(kinds) == 1:
            self._judge(kind, classes[0], size, seconds)
        pool.model.observe(size, seconds)
        pool.usual += (size - pool.usual) / KNOWN
        pool.batches += 1
        if pool.batches == KNOWN:
            pool.times = pool.model
        if pool.batches % KNOWN == 0:
            for each_kind in list(pool.classes):
                self._leave(each_kind, self._known.get(each_kind) or self._new[each_kind])
            self._join(pools, pool)

    def _pools(self, cost_class: CostClass) -> list[Pool]:
        """Return the pools that this class may join, at least one."""
        key = (cost_class[0], cost_class[1] if self._apart else b"")
        pools = self._keys.get(key)
        if pools is None:
            pools = self._keys[key] = [Pool(LatencyModel(self.max_batch_size), self.overall)]
            if len(self._keys) > MAX_CLASSES:
                _, gone = self._keys.popitem(last=False)
                for each in set[CostClass]().union(*(pool.classes for pool in gone)):
                    self._known.pop(each, None)
                    self._new.pop(each, None)
        self._keys.move_to_end(key)
        return pools

    def _of(self, cost_class: CostClass) -> _Class:
        """Return the class, marked as the most recently used."""
        for kept in (self._known, self._new):
            if cost_class in kept:
                kept.move_to_end(cost_class)
                return kept[cost_class]
        return self._add(cost_class)

    def _add(self, cost_class: CostClass) -> _Class:
        pools = self._pools(cost_class)
        # The next longer or shorter bodies of the same path give the best estimate.
        near = [each for pool in pools for each in pool.classes if each[:2] == cost_class[:2]]
        nearest = min(near, key=lambda each: abs(each[2] - cost_class[2]), default=None)
        pool = next((each for each in pools if nearest in each.classes), pools[0])
        self._new[cost_class] = added = _Class(pool)
        pool.classes.add(cost_class)
        if len(self._new) > MAX_CLASSES:
            self._forget(self._new)
        return added

    def _forget(self, kept: OrderedDict[CostClass, _Class]) -> None:
        gone, was = kept.popitem(last=False)
        was.pool.classes.discard(gone)
        self._drop_empty(self._pools(gone))

    def _drop_empty(self, pools: list[Pool]) -> None:
        pools[1:] = [pool for pool in pools[1:] if pool.classes]

    def _judge(self, kind: CostClass, each: _Class, size: int, seconds: float) -> None:
        """Learn from a batch of one class, and move the class to the matching pool."""
        self._learned += 1
        each.seen = self._learned
        times = each.pool.times
        # Batches much smaller than the pool's others show little about their cost.
        if len(each.pool.classes) < 2 or not times.knows(size) or SMALL * size < each.pool.usual:
            return
        if size >= 2 * max([run[0] for run in each.runs], default=size):
            each.runs.clear()
        each.runs.append((size, seconds))
        if len(each.runs) < JUDGED:
            return
        if self._new.pop(kind, None):
            self._known[kind] = each
            if len(self._known) > MAX_CLASSES:
                self._forget(self._known)
        self._leave(kind, each)

    def _move(self, kind: CostClass, each: _Class) -> None:
        pools = self._pools(kind)
        off = {pool: _off(each.runs, pool.times) for pool in pools if pool is not each.pool}
        best = min(off, key=lambda pool: off[pool], default=None)
        if best is None or off[best] > ALIKE:
            if len(pools) == MAX_POOLS:
                return
            model = LatencyModel(self.max_batch_size)
            for size, seconds in each.runs:
                model.observe(size, seconds)
            best = Pool(model, model)
            best.batches = KNOWN
            pools.append(best)
        # Those that stay are learned anew, since the runs so far include the class. Until then they predict.
        each.pool.classes.discard(kind)
        each.pool.model, each.pool.batches = LatencyModel(self.max_batch_size), 0
        best.classes.add(kind)
        each.pool = best
        each.runs.clear()
        self._drop_empty(pools)

    def _leave(self, kind: CostClass, each: _Class) -> None:
        """Move the class to the matching pool, or a new one, if its batches alone differ from its pool's."""
        alone = len(each.pool.classes) == 1
        if not alone and len(each.runs) >= JUDGED and APART < _off(each.runs, each.pool.times) < inf:
            self._move(kind, each)

    def _join(self, pools: list[Pool], pool: Pool) -> None:
        """Merge ``pool`` with another of similar cost."""
        for other in pools:
            if other is not pool and other.times is other.model and _alike(pool.times, other.times):
                stays, goes = (pool, other) if pool is pools[0] else (other, pool)
                for kind in goes.classes:
                    each = self._of(kind)
                    each.pool = stays
                    each.runs.clear()
                stays.classes |= goes.classes
                pools.remove(goes)
                return


def _off(runs: Iterable[tuple[int, float]], times: LatencyModel) -> float:
    """Return the factor between ``runs`` and ``times``, at least 1; infinite if ``times`` lacks the sizes."""
    known = [(seconds, times.predict_mean(size)) for size, seconds in runs if times.knows(size)]
    ratio = median([seconds / max(LEAST, usual) for seconds, usual in known]) if known else inf
    return max(ratio, 1 / ratio)


def _alike(one: LatencyModel, other: LatencyModel) -> bool:
    """Return whether two curves agree at the largest size that both know, and that either knows."""
    sizes, others = one.sizes_learned(), other.sizes_learned()
    common = set(sizes) & set(others)
    if not common:
        return False
    for size in (max(common), max(sizes + others)):
        low, high = sorted((one.predict_mean(size), other.predict_mean(size)))
        if high > ALIKE * low:
            return False
    return True
