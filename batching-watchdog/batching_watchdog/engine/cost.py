"""What a batch costs: which requests may share one, and how long the workers take for it. [P]

Requests of one method and path, ``X-Batch-Key`` and length of body (by powers of two) form a cost class.
Classes that cost alike share batches: a ``Pool`` is a set of them, with one service time l(b) (``latency``).
All classes of a batch key begin in one pool. Now and then a batch is made of one class alone; a class whose
batches cost other than its pool's leaves it, for a pool that it agrees with or for one of its own, and pools
that agree become one again. So a model whose batches are padded to the longest body gets batches of like
lengths, and a model that does not care about lengths or paths gets full batches: from data, with nothing set.

Requests of different batch keys never share a batch, nor do those of different paths where the handler says
so (``mix_paths``). Clients choose classes and batch keys, so the number of both is bounded: of those that are
not known yet, and of those that are, the one that has not run for longest is forgotten.

One more curve is learned from all batches; it stands in for pools that have hardly run, and is the only one
while there is a single class.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import islice
from math import inf
from statistics import median
from typing import Final, Protocol

from batching_watchdog.engine.latency import LEAST, OBJECTIVE, TRIES, LatencyModel
from batching_watchdog.messages import CostClass, Request

KNOWN: Final = 2 * TRIES
"""Batches after which a pool is believed rather than the average of all."""
MAX_CLASSES: Final = 64
"""Classes and batch keys that are kept."""
MAX_POOLS: Final = 8
"""Pools of one batch key: each needs a batch of its own within the SLO."""
ALONE_EVERY: Final = 8
"""Of so many batches of a pool one is of a single class, while one of its classes is not known."""
ALONE_EVERY_LATE: Final = 2
"""As often where the requests are late already."""
AGAIN: Final = 16
"""As often less once all are known, since a class may come to cost more."""
SHARE: Final = 8
"""A class is tried alone if at least one in so many requests of a batch is of it: a batch of fewer would cost
throughput and tell little."""
SMALL: Final = 4
"""A batch of one class counts if the pool's are no more than so many times as large."""
APART: Final = 1.5
"""A class leaves a pool whose batches take so many times what its own take, or the reverse."""
ALIKE: Final = 1.25
"""Pools whose curves differ by less become one."""


class ServiceTimes(Protocol):
    """l(b) of one pool: what the policies ask of it."""

    @property
    def best_size(self) -> int:
        """The size with the best throughput, or one that is worth a try; a batch of it is allowed."""

    def predict(self, size: int) -> float:
        """Upper quantile of the seconds for ``size`` requests."""

    def predict_mean(self, size: int) -> float:
        """Mean of the seconds for ``size`` requests."""

    def largest_within(self, seconds: float) -> int:
        """The largest size whose upper quantile is at most ``seconds``; 0 if there is none."""


class Shared(Protocol):
    """A pool as the engine sees it: told apart from others, and nothing is called of it."""

    @property
    def times(self) -> ServiceTimes:
        """What its batches take."""


class Cost(Protocol):
    """What the engine asks of all pools together."""

    @property
    def overall(self) -> ServiceTimes:
        """Of any batch."""

    def pool(self, cost_class: CostClass) -> Shared:
        """Where a request of this class waits, and with whom it may share a batch."""

    def alone(
        self, pool: Shared, waiting: Iterable[Request], size: int, *, late: bool = False
    ) -> CostClass | None:
        """The class of which a batch is to be made instead of the first ``size``, to learn what it costs.

        ``late``: they are late already, so that nothing is lost by it.
        """

    def learn(self, requests: Sequence[Request], seconds: float) -> None:
        """A batch of these took a worker ``seconds``."""

    def learn_any(self, size: int, seconds: float) -> None:
        """A batch of ``size`` requests that stand for any took a worker ``seconds``."""


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
    """Where a class belongs, and its last batches alone: size, seconds, and those over the pool's."""

    __slots__ = ("pool", "runs", "seen")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.runs: deque[tuple[int, float, float]] = deque(maxlen=KNOWN)
        self.seen = 0

    def wants(self, size: int) -> bool:
        """Whether a batch of ``size`` alone would tell something new."""
        return len(self.runs) < TRIES or 2 * max(run[0] for run in self.runs) <= size


class CostModel:
    """The pools of all classes, learned; ``objective`` is the SLO's."""

    def __init__(self, max_batch_size: int, objective: float = OBJECTIVE) -> None:
        self.max_batch_size = max_batch_size
        self._objective = objective
        self.overall = self._new_model()
        self._apart = True
        """Whether requests of different methods and paths are kept apart."""
        self._keys: OrderedDict[tuple[bytes, bytes], list[Pool]] = OrderedDict()
        """The pools of what may share batches at all; the first is that of unknown classes."""
        self._new: OrderedDict[CostClass, _Class] = OrderedDict()
        self._known: OrderedDict[CostClass, _Class] = OrderedDict()
        self._learned = 0

    def mix_paths(self) -> None:
        """From now on requests of different methods and paths may share a batch: the handler allows it."""
        if self._apart:
            self._apart = False
            self._keys.clear()
            self._new.clear()
            self._known.clear()

    def pool(self, cost_class: CostClass) -> Pool:
        """Where a request of this class waits."""
        found = self._known.get(cost_class) or self._new.get(cost_class) or self._add(cost_class)
        return found.pool

    def alone(
        self, pool: Shared, waiting: Iterable[Request], size: int, *, late: bool = False
    ) -> CostClass | None:
        """The class of which a batch is to be made instead of the first ``size``, if it is to be."""
        assert isinstance(pool, Pool)  # noqa: S101 - ours
        if len(pool.classes) < 2:
            return None
        pool.turns += 1
        if pool.turns % (ALONE_EVERY_LATE if late else ALONE_EVERY):
            return None
        counts = Counter([request.cost_class for request in islice(waiting, size)])
        least = max(2, size // SHARE)
        found = [(self._of(each), each, count) for each, count in counts.items() if least <= count < size]
        wanting = [each for each in found if each[0].wants(each[2])]
        if not wanting and pool.turns % (AGAIN * ALONE_EVERY):
            return None
        return min(wanting or found, key=lambda each: each[0].seen, default=(None, None))[1]

    def learn_any(self, size: int, seconds: float) -> None:
        """A batch of ``size`` requests that stand for any took a worker ``seconds``."""
        self.overall.observe(size, seconds)

    def learn(self, requests: Sequence[Request], seconds: float) -> None:
        """A batch of these took a worker ``seconds``."""
        size = len(requests)
        self.overall.observe(size, seconds)
        kinds = {request.cost_class for request in requests}
        classes = [self._of(kind) for kind in kinds]
        kind, pool = next(iter(kinds)), classes[0].pool
        if any(each.pool is not pool for each in classes):
            return  # they were taken together before they were told apart
        pools = self._pools(kind)
        if len(self._keys) == len(pools) == len(pool.classes) == 1:
            return  # all that there is so far: what was learned of any is its own
        if len(kinds) == 1:
            self._judge(kind, classes[0], size, seconds)
        pool.model.observe(size, seconds)
        pool.usual += (size - pool.usual) / KNOWN
        pool.batches += 1
        if pool.batches == KNOWN:
            pool.times = pool.model
        if pool.batches % KNOWN == 0:
            self._join(pools, pool)

    def _new_model(self) -> LatencyModel:
        return LatencyModel(self.max_batch_size, self._objective)

    def _pools(self, cost_class: CostClass) -> list[Pool]:
        """The pools among which this class may be, with one to begin in."""
        key = (cost_class[0], cost_class[1] if self._apart else b"")
        pools = self._keys.get(key)
        if pools is None:
            pools = self._keys[key] = [Pool(self._new_model(), self.overall)]
            if len(self._keys) > MAX_CLASSES:
                _, gone = self._keys.popitem(last=False)
                for each in set[CostClass]().union(*(pool.classes for pool in gone)):
                    self._known.pop(each, None)
                    self._new.pop(each, None)
        self._keys.move_to_end(key)
        return pools

    def _of(self, cost_class: CostClass) -> _Class:
        """The class, as the one that has run last."""
        for kept in (self._known, self._new):
            if cost_class in kept:
                kept.move_to_end(cost_class)
                return kept[cost_class]
        return self._add(cost_class)

    def _add(self, cost_class: CostClass) -> _Class:
        pools = self._pools(cost_class)
        # What is known of the next longer or shorter bodies of the same path is the best guess.
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
        """Learn from a batch of one class, and let the class go where it belongs."""
        self._learned += 1
        each.seen = self._learned
        times = each.pool.times
        # Batches that are small beside the others of the pool say little of what those cost.
        if len(each.pool.classes) < 2 or not times.knows(size) or SMALL * size < each.pool.usual:
            return
        if size >= 2 * max([run[0] for run in each.runs], default=size):
            each.runs.clear()
        each.runs.append((size, seconds, seconds / max(LEAST, times.predict_mean(size))))
        if len(each.runs) < TRIES:
            return
        if self._new.pop(kind, None):
            self._known[kind] = each
            if len(self._known) > MAX_CLASSES:
                self._forget(self._known)
        if not 1 / APART <= median(run[2] for run in each.runs) <= APART:
            self._move(kind, each)

    def _move(self, kind: CostClass, each: _Class) -> None:
        pools = self._pools(kind)
        off = {pool: _off(each.runs, pool.times) for pool in pools if pool is not each.pool}
        best = min(off, key=lambda pool: off[pool], default=None)
        if best is None or off[best] > ALIKE:
            if len(pools) == MAX_POOLS:
                return
            model = self._new_model()
            for size, seconds, _ in each.runs:
                model.observe(size, seconds)
            best = Pool(model, model)
            best.batches = KNOWN
            pools.append(best)
        each.pool.classes.discard(kind)
        best.classes.add(kind)
        each.pool = best
        each.runs.clear()
        self._drop_empty(pools)

    def _join(self, pools: list[Pool], pool: Pool) -> None:
        """Make ``pool`` one with another that costs alike."""
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


def _off(runs: Iterable[tuple[int, float, float]], times: LatencyModel) -> float:
    """By what factor ``runs`` take more or less than ``times`` says; infinite where it knows too little."""
    known = [(seconds, times.predict_mean(size)) for size, seconds, _ in runs if times.knows(size)]
    ratio = median([seconds / max(LEAST, usual) for seconds, usual in known]) if known else inf
    return max(ratio, 1 / ratio)


def _alike(one: LatencyModel, other: LatencyModel) -> bool:
    """Whether two curves agree at the largest size that both know, and at the largest that either does."""
    sizes, others = one.sizes_learned(), other.sizes_learned()
    common = set(sizes) & set(others)
    if not common:
        return False
    for size in (max(common), max(sizes + others)):
        low, high = sorted((one.predict_mean(size), other.predict_mean(size)))
        if high > ALIKE * low:
            return False
    return True
