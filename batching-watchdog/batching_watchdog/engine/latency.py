"""Learns the service time l(b) of a batch. [P]

Keeps the last runs for each power of two of the size. Their means, joined by lines, are l(b); an upper
quantile of all deviations from it decides whether a deadline can be met (as in Clipper, NSDI'17, section 4.3,
and Clockwork, OSDI'20). Beyond the largest size the curve goes on as a line.

Sizes are found by doubling: twice the best known size is tried until it has run ``tries`` times, then ever
more seldom. A model that has changed its speed shows it in all of its last runs: older runs of every size are
then scaled by the change.

A batch also takes the time in which its worker could run and got no core, because of a CPU quota or a
neighbor. Deadlines need that time; how fast the model is does not show in it. ``own`` is l(b) without it.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Sequence
from copy import deepcopy
from itertools import chain
from statistics import median
from typing import Final, NamedTuple

from batching_watchdog.engine.tuning import TUNING

LEAST: Final = 1e-9
"""Minimum seconds of a batch, for clocks that measure 0."""
CPU_FIRST: Final = 256
"""First batches whose CPU time is all learned, including those of ``example()``."""
CPU_EVERY: Final = 8
"""Afterwards one in this many batches is learned: CPU time varies little, and learning costs time."""

NOTICED: Final = 0.02
"""Share of a batch's time for which its worker waited for a core, from which ``own`` is learned apart."""


class Run(NamedTuple):
    """One batch that ran."""

    size: int
    seconds: float
    number: int
    """Of all runs, from 1."""


class _Fit(NamedTuple):
    """What the kept runs of one power of two show."""

    size: float
    """Their mean size."""
    mean: float
    """Seconds."""
    deviations: list[float]
    """Their times as multiples of the mean, ascending."""


class LatencyModel:
    """Online estimate of l(b) for 1 <= b <= ``max_batch_size``."""

    def __init__(self, max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self.runs = 0
        """Batches that were observed."""
        self.ceiling = max_batch_size
        """Largest allowed batch: smaller after batches that ran out of memory."""
        self.deviations: Sequence[float] = (1.0,)
        """Times of the kept runs as multiples of the mean of their size, ascending."""
        self._kept: dict[int, deque[Run]] = {}
        self._fits: dict[int, _Fit] = {}
        self._stale: set[int] = set()
        """Powers with runs since their fit."""
        self._recent: deque[float] = deque(maxlen=TUNING.recent)
        self._best = 1
        self._trying = False
        """Whether ``_best`` is twice the best known size: one run at a time shows enough of it."""
        self._largest = 0
        self._full = 0.0
        """Batches as large as the ceiling since it was set."""
        self._raised = False
        """Whether the ceiling was raised and has not lasted yet."""
        self._probe_after = TUNING.probe_after
        self._sizes: list[float] = [1.0]
        self._means: list[float] = [0.0]
        self._slope = 0.0
        self._above = 1.0
        """The upper quantile as a multiple of the mean."""
        self._cpu: LatencyModel | None = None
        """CPU seconds of a batch by its size. Not a share of its time: a quota stops some batches."""
        self._own: LatencyModel | None = None
        """The same without the waits; None while they are not worth noticing."""

    @property
    def learned(self) -> bool:
        """Whether any batch has been observed."""
        return self.runs > 0

    @property
    def best_size(self) -> int:
        """The power of two with the best throughput, or twice that while the double is unknown."""
        return min(self._best, self.ceiling)

    @property
    def own(self) -> "LatencyModel":
        """l(b) without the time in which a worker could have run, and other processes or a quota kept it."""
        return self._own or self

    def out_of_memory(self, size: int) -> int:
        """Lower the ceiling, since a batch of ``size`` did not fit into memory; return it.

        It is doubled after ``probe_after`` full batches. Each time that fails doubles that number, until
        a raised ceiling has lasted for ``probe_after`` full batches.
        """
        if self._raised:
            self._probe_after *= 2
        self.ceiling, self._full, self._raised = max(1, min(self.ceiling, size // 2)), 0.0, False
        return self.ceiling

    def observe(
        self, size: int, seconds: float, cpu_seconds: float = 0.0, waited: float = 0.0, *, share: float = 1.0
    ) -> None:
        """Learn from a batch of ``size`` requests that took a worker ``seconds``.

        ``cpu_seconds``: its CPU time; 0: unknown. ``waited``: those in which it had no core.
        ``share``: of its requests that ended.
        """
        if self._own is None and waited > NOTICED * seconds:
            self._own = deepcopy(self)
        if self._own is not None:
            self._own.ceiling = self.ceiling
            self._own.observe(size, seconds - waited, cpu_seconds, share=share)
            cpu_seconds = 0.0  # learned there
        self._full += share * (size >= self.ceiling)
        if self._raised and self._full >= TUNING.probe_after:
            self._probe_after, self._raised = TUNING.probe_after, False
        if self._full >= self._probe_after and self.ceiling < self.max_batch_size:
            self.ceiling, self._full = min(2 * self.ceiling, self.max_batch_size), 0.0
            self._raised = True
        seconds = max(LEAST, seconds)
        self._recent.append(seconds / max(LEAST, self.predict_mean(size)) if self.knows(size) else 1.0)
        changing = _all_differ(list(self._recent)[-2:])
        if len(self._recent) == TUNING.recent and _all_differ(self._recent):
            self._follow(median(self._recent))
        self.runs += 1
        self._largest = max(self._largest, size)
        power = _power(size)
        kept = self._kept.setdefault(power, deque(maxlen=TUNING.window))
        kept.append(Run(size, seconds, self.runs))
        self._stale.add(power)
        trying = self._trying and 2 * size > self._best
        few = trying or self.runs <= TUNING.again or len(kept) <= TUNING.tries
        # While the speed changes, the factor is measured against the curve before.
        if few or (self.runs % TUNING.refit_every == 0 and not changing):
            self._refit()
        if cpu_seconds and (self.runs <= CPU_FIRST or self.runs % CPU_EVERY == 0):
            self._cpu = self._cpu or LatencyModel(self.max_batch_size)
            self._cpu.observe(size, cpu_seconds)

    def predict(self, size: int) -> float:
        """Return the upper quantile of the seconds for ``size`` requests; 0 before the first run."""
        return self._above * self.predict_mean(size)

    @property
    def alone(self) -> float:
        """Least seconds of the last batches of one request; 0 before the first ``tries`` ran."""
        kept = self._kept.get(_power(1), ())
        return min(run.seconds for run in kept) if len(kept) >= TUNING.tries else 0.0

    def predict_mean(self, size: float) -> float:
        """Return the mean seconds for ``size`` requests; 0 before the first run."""
        size = min(size, self.max_batch_size)
        sizes, means = self._sizes, self._means
        index = bisect_left(sizes, size)
        if index == 0:
            return means[0]
        before, low = sizes[index - 1], means[index - 1]
        if index == len(sizes):
            return low + self._slope * (size - before)
        return low + (means[index] - low) * ((size - before) / (sizes[index] - before))

    def predict_cpu(self, size: float) -> float:
        """Return the mean CPU seconds for ``size`` requests; 0 while unknown."""
        cpu = self.own._cpu  # noqa: SLF001 - of the same class
        return cpu.predict_mean(size) if cpu else 0.0

    def largest_within(self, seconds: float) -> int:
        """Return the largest size whose upper quantile is at most ``seconds``; 0 if no request fits.

        Never more than twice the largest known size, which is the next try.
        """
        longest = min(self.ceiling, 2 * max(1, self._largest))
        return bisect_right(range(1, longest + 1), seconds, key=self.predict)

    def knows(self, size: int) -> bool:
        """Return whether batches of at most this size have run; below them the curve is flat."""
        return self.learned and size >= self._sizes[0]

    def untried(self, size: int) -> bool:
        """Return whether the time of ``size`` is a guess: few batches but of one other size have run."""
        if len(self._kept.get(_power(size), ())) >= TUNING.tries:
            return False
        return sum(min(TUNING.tries, len(kept)) for kept in self._kept.values()) < 2 * TUNING.tries

    def sizes_learned(self) -> list[int]:
        """The powers of two for which there are runs, ascending."""
        return sorted({min(power, self.max_batch_size) for power in self._kept})

    def predictions(self) -> dict[int, float]:
        """Return ``predict`` of each of ``sizes_learned``."""
        return {size: self.predict(size) for size in self.sizes_learned()}

    def _follow(self, factor: float) -> None:
        """Scale the runs before the last ones: the model has changed its speed by ``factor``."""
        since = self.runs - TUNING.recent + 1
        for kept in self._kept.values():
            scaled = [
                run if run.number > since else run._replace(seconds=run.seconds * factor) for run in kept
            ]
            kept.clear()
            kept.extend(scaled)
        self._stale.update(self._kept)
        self._recent.clear()
        if self._kept:
            self._refit()

    def _refit(self) -> None:
        self._fits |= {power: _fit(self._kept[power]) for power in self._stale}
        self._stale.clear()
        fits = [self._fits[power] for power in sorted(self._fits)]
        self._sizes = [fit.size for fit in fits]
        means = [fit.mean for fit in fits]
        for index in range(len(means) - 2, -1, -1):  # a smaller size is not slower than a larger one
            means[index] = min(means[index], means[index + 1])
        self._means = means
        if len(means) == 1:
            self._slope = means[0] / self._sizes[0]
        else:
            self._slope = (means[-1] - means[-2]) / (self._sizes[-1] - self._sizes[-2])
        self.deviations = deviations = sorted(chain.from_iterable(fit.deviations for fit in fits))
        self._above = max(1.0, deviations[min(len(deviations) - 1, int(TUNING.quantile * len(deviations)))])
        self._best = self._find_best()

    def _find_best(self) -> int:
        rates = {
            power: max(size / mean, power / max(LEAST, self.predict_mean(power)))
            for power, size, mean in zip(self.sizes_learned(), self._sizes, self._means, strict=True)
        }
        enough = (1.0 - TUNING.tie) * max(rates.values())
        best = min(size for size, rate in rates.items() if rate >= enough)
        double = list(self._kept.get(2 * best, ()))
        patience = TUNING.again * max(1, len(double) // TUNING.tries)
        due = len(double) < TUNING.tries or self.runs - double[-1].number > patience
        self._trying = due and best < self.ceiling
        if self._trying:
            return min(2 * best, 2 * self._largest, self.max_batch_size)
        return best


def _all_differ(ratios: Sequence[float] | deque[float]) -> bool:
    return min(ratios) > TUNING.drift or max(ratios) < 1 / TUNING.drift


def _fit(kept: Collection[Run]) -> _Fit:
    """Return the fit of one or more runs. The mean leaves out the slowest of several, a stall perhaps.

    Within a power of two l(b) is taken to grow with the root of the size: between flat and linear.
    """
    size = sum([run.size for run in kept]) / len(kept)
    seconds = sorted([run.seconds for run in kept])
    usual = seconds[: max(1, len(seconds) - 1)]
    mean = sum(usual) / len(usual)
    by_size = max(LEAST, mean) / size**0.5
    return _Fit(size, mean, sorted([run.seconds / (by_size * run.size**0.5) for run in kept]))


def _power(size: int) -> int:
    """Return the smallest power of two that is at least ``size``."""
    return 1 << (size - 1).bit_length()
