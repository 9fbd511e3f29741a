"""Groups requests into pools of similar cost, and learns the service time of each pool. [P]

Requests of one method and path, ``X-Batch-Key`` and length of body (by powers of two) form a cost class; a
handler's ``weight(event)`` takes the place of the length. Classes of one batch key begin in one ``Pool``,
whose requests share batches and one l(b) (``latency``). Batches of one class, which one in ``KNOWN`` is made
to be, teach l(b) of that class. If mixed batches take ``apart`` times as long as the
shares of their classes, the dearest class leaves for a pool that matches, or a new one. So a model that pads
to the longest body gets batches of similar lengths, and a model whose costs add, or depend on neither length
nor path, gets full ones, without settings.

Requests of different batch keys never share a batch, nor do those of different paths if the handler forbids
it (``mix_paths``). Clients choose classes and keys, so their number is bounded: those that have shown no cost
are dropped first. One more curve learns from all batches, and predicts for pools with few of their own.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence
from math import inf
from statistics import median
from typing import Final, Protocol

from batching_watchdog.engine.latency import LEAST, LatencyModel
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.function.messages import CostClass, Request

KNOWN: Final = 2 * TUNING.tries
"""Batches after which a pool's own curve replaces that of all; one in as many has a single class."""
RECENT: Final = 512
"""Requests after which all counts are halved: shares follow the traffic of the last thousand or so."""


class ServiceTimes(Protocol):
    """l(b) of one pool, as the policy uses it."""

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

    limit: float
    """Largest batch after some that failed whole: ``retries``."""


class Cost(Protocol):
    """All pools together, as the engine uses them."""

    max_batch_size: int
    """Of any pool."""

    @property
    def overall(self) -> ServiceTimes:
        """Of any batch."""

    def pool(self, cost_class: CostClass, *, counts: bool = True) -> Shared:
        """Return the pool of a class, whose requests may share a batch; ``counts``: of one more request."""

    def one_class(self, pool: Shared) -> bool:
        """Count a batch of ``pool``; return whether it has only requests of its first one's class."""

    def learn(self, requests: Sequence[Request], seconds: float, cpu_seconds: float, waited: float) -> None:
        """Learn from a batch of these; the seconds are those of ``LatencyModel.observe``."""

    def mix_paths(self) -> None:
        """Allow requests of different methods and paths in one batch."""


class Pool:
    """Classes that share batches, and the service times of those."""

    __slots__ = ("answer_bytes", "batches", "before", "classes", "excess", "limit", "model", "times", "turns")

    def __init__(self, model: LatencyModel, times: LatencyModel) -> None:
        self.model = model
        self.times = times
        """``model``, once that has run often enough."""
        self.before = times
        """Those of the batches that its classes shared before."""
        self.limit = inf
        self.answer_bytes = 0.0
        self.classes: set[CostClass] = set()
        self.batches = 0
        self.turns = 0
        """Batches that left: one in ``KNOWN`` has one class."""
        self.excess: deque[float] = deque(maxlen=TUNING.tries)
        """Times of the last mixed batches as multiples of the shares of their classes."""

    @property
    def shown(self) -> LatencyModel:
        """``times``, or those of ``before`` while a few runs would be extrapolated."""
        return self.times if self.times.runs >= KNOWN else self.before


class _Class:
    """The pool of a class, its recent requests, and the service times of its batches alone."""

    __slots__ = ("pool", "requests", "times")

    def __init__(self, pool: Pool, times: LatencyModel) -> None:
        self.pool = pool
        self.requests = 0.0
        self.times = times


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
        """Share of the recent requests and own times of each pool."""
        counts = defaultdict[Pool, float](float)
        for of in self._classes.values():
            counts[of.pool] += of.requests
        total = sum(counts.values())
        if not total:
            return [(1.0, self.overall.own)]
        return [(count / total, pool.shown.own) for pool, count in counts.items()]

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

    def pool(self, cost_class: CostClass, *, counts: bool = True) -> Pool:
        """Return the pool of this class; ``counts``: one more request of it is in the mix."""
        of = self._classes.get(cost_class) or self._add(cost_class)
        if not counts:
            return of.pool
        of.requests += 1
        self._counted += 1
        if self._counted >= RECENT:
            self._counted = 0
            for each in self._classes.values():
                each.requests /= 2
        return of.pool

    def one_class(self, pool: Shared) -> bool:
        """Count a batch of ``pool``; return whether it has only requests of its first one's class."""
        assert isinstance(pool, Pool)  # noqa: S101 - ours
        pool.turns += 1
        return len(pool.classes) > 1 and pool.turns % KNOWN == 0

    def learn_any(self, size: int, seconds: float, cpu_seconds: float = 0.0, waited: float = 0.0) -> None:
        """Learn what a batch of ``size`` representative requests took, as ``learn`` does."""
        self.overall.observe(size, seconds, cpu_seconds, waited)

    def learn(
        self, requests: Sequence[Request], seconds: float, cpu_seconds: float = 0.0, waited: float = 0.0
    ) -> None:
        """Learn from a batch of these; the seconds are those of ``LatencyModel.observe``."""
        size = len(requests)
        self.overall.observe(size, seconds, cpu_seconds, waited)
        kinds = {request.cost_class for request in requests}
        classes = [self._of(kind) for kind in kinds]
        pool = classes[0].pool
        pools = self._pools(next(iter(kinds)))
        if any(of.pool is not pool for of in classes):
            return  # the batch was cut before its classes were separated
        if len(self._keys) == len(pools) == len(pool.classes) == 1:
            return  # the only class so far: the overall curve is its own
        if len(kinds) == 1:
            classes[0].times.observe(size, seconds, cpu_seconds, waited)
        elif all(of.times.learned for of in classes):
            shares = sum(self._of(request.cost_class).times.predict_mean(size) for request in requests) / size
            pool.excess.append(seconds / max(LEAST, shares))
        pool.model.observe(size, seconds, cpu_seconds, waited)
        pool.batches += 1
        if pool.batches == KNOWN:
            pool.model.ceiling = pool.times.ceiling
            pool.times = pool.model
        if len(pool.excess) == TUNING.tries and median(pool.excess) > TUNING.apart:
            self._separate(pool, pools, size)

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
        self._classes[cost_class] = added = _Class(pool, LatencyModel(self.max_batch_size))
        pool.classes.add(cost_class)
        if len(self._classes) > TUNING.max_classes:
            unknown = (kind for kind, of in self._classes.items() if not of.times.learned and of is not added)
            gone = next(unknown, next(iter(self._classes)))
            self._classes.pop(gone).pool.classes.discard(gone)
        return added

    def _separate(self, pool: Pool, pools: list[Pool], size: int) -> None:
        """Move the class with the dearest batches of ``size`` to a pool that matches, or to a new one."""
        pools[1:] = [kept for kept in pools[1:] if kept.classes]
        before = pool.shown
        classes = {kind: self._classes[kind] for kind in pool.classes}
        kind = max(classes, key=lambda kind: classes[kind].times.predict_mean(size))
        of = classes[kind]
        off = {other: _off(of.times, other.times, size) for other in pools if other is not pool}
        best = min(off, key=lambda other: off[other], default=None)
        if best is None or off[best] > TUNING.apart:
            if len(pools) == TUNING.max_lanes:
                return
            best = Pool(of.times, of.times)
            of.times.ceiling = pool.times.ceiling
            best.batches, best.before = KNOWN, before
            pools.append(best)
        pool.classes.discard(kind)
        # The runs so far include the class: those that stay are as dear as the dearest until learned anew.
        stay = max(
            (classes[other].times for other in pool.classes), key=lambda times: times.predict_mean(size)
        )
        stay.ceiling = pool.times.ceiling
        pool.before, pool.times = before, stay
        pool.model, pool.batches = LatencyModel(self.max_batch_size), 0
        pool.excess.clear()
        best.classes.add(kind)
        of.pool, of.times = best, LatencyModel(self.max_batch_size)


def _off(one: LatencyModel, other: LatencyModel, size: int) -> float:
    """Return the factor between two curves at ``size``, at least 1."""
    low, high = sorted((one.predict_mean(size), other.predict_mean(size)))
    return high / max(LEAST, low)
