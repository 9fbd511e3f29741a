"""Learns the service time l(b) of a batch. [P]

Owns the samples and the curve through them. The policy uses it to compute how many requests fit into the
remaining time; ``metrics`` exports its capacity for the autoscaler. Next step of a request: ``policy``.

Three estimates are kept. An upper quantile decides whether a deadline can be met (as in Clipper, NSDI'17,
section 4.3, and Clockwork, OSDI'20), the mean gives the throughput of a size, and a cautious mean, above the
mean by what so few runs leave uncertain, gives the capacity. All are kept per group of sizes, since l(b) is
smooth, and interpolated between. Beyond the largest size the curve continues as a line, because l(b) of
one-shot models is nearly affine.

A single size has too few runs to show a quantile. So each size has its own mean and spread, and all sizes
together give the distance of the quantile from the mean in spreads. A stall counts only when there is a
second one.

Sizes are found by doubling: twice the best known size is tried until it has run ``TRIES`` times, then again
after ``AGAIN_EVERY`` batches, and ever more seldom. If sizes contradict each other (a smaller one seems
slower), the one that ran last counts. So a slow first run or a slow period is forgotten as soon as the sizes
run again.

A model that has become slower or faster is noticed at once. If the last ``RECENT`` runs of a size contradict
the earlier ones, or none is slow any more, older samples of every size are dropped. A size that has not run
since keeps its samples until it runs again, so that temporarily busy cores leave no trace. For the capacity
it follows the size that showed the change, and counts as slower by the present factor of that size. It counts
as faster only if its samples are from a slow start or a stall: otherwise often only the cost of a call falls.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import ceil, sqrt
from operator import itemgetter, mul
from typing import Final, NamedTuple

QUANTILE: Final = 0.8
"""Quantile of service times in the deadline test, for every objective. A higher one cuts smaller batches, so
all requests lose throughput for the deadline of the first. Among 0.7 to 0.999 it gave the highest rates where
few requests fit into the SLO, and was within 10% of the highest elsewhere."""
CAUTION: Final = 2.0
"""Errors by which the cautious mean exceeds the mean: an error is the spread by the root of the runs."""
STALL: Final = 3.0
"""Successive runs that took this many times the median are a stall or a warm-up. The sizes of a group
explain a factor of 1.4."""
WINDOW: Final = 64
"""Samples kept per size: older ones are dropped, to follow a slowly changing model."""
TRIES: Final = 4
"""Minimum samples of a known size; twice the best size is tried this often."""
RECENT: Final = 8
"""Last runs of a size that show a change: all but one lie beyond seven eighths of the earlier ones. By chance
that happens less than once in ten thousand tries, for any distribution: a fast function makes 50 a second."""
SURE: Final = 7.0
"""See ``slow_until``: a chance of one in a thousand."""
DRIFT: Final = 1.15
"""Minimum factor between their medians: the sample window follows smaller changes by itself. With 1.25, sizes
that seldom run kept their old times after a change by a fifth."""
AGAIN_EVERY: Final = 64
"""Batches after which twice the best size is tried again if it has run ``TRIES`` times, and in proportion if
more often. Where larger batches are slower, tries make requests late: without the proportion, ``vision`` met
its objective up to a rate 4% lower on average, and ``text`` 1%."""
REFIT_EVERY: Final = 16
"""Batches per refit once there are many samples: a refit after each batch costs more than it improves."""
TIE: Final = 0.03
"""Throughputs within this share of the best count as equal; the smallest size adds least latency."""
LEAST: Final = 1e-9
"""Minimum seconds of a batch, for clocks that measure 0."""


class _Samples:
    """Recent batches of one group of sizes, as (size, seconds, number of the batch)."""

    __slots__ = ("_follows", "_usual", "factor", "kept")

    def __init__(self) -> None:
        self.kept: deque[tuple[int, float, int]] = deque(maxlen=WINDOW)
        self._follows: _Follows | None = None
        self.factor = 1.0
        """Of its runs by now, if it follows another size."""
        self._usual: _Usual | None = None

    @property
    def follows(self) -> bool:
        """Whether it has not run since a change of speed."""
        return self._follows is not None

    @property
    def last(self) -> int:
        """Number of the last batch, to compare which of two sizes ran later."""
        return self.kept[-1][2]

    def add(self, size: int, seconds: float, number: int) -> None:
        """Add a run: the size is in use, and follows no other."""
        if self._follows is not None:
            self._follows, self.factor = None, 1.0
            self.kept.clear()
        self.kept.append((size, seconds, number))
        self._usual = None

    def usual(self, expected: Callable[[int], float]) -> "_Usual":
        """Return the runs without a single stall.

        A stall affects as many batches as there are workers: slow runs within ``RECENT`` batches are one.
        ``expected`` gives the time of a size; only its shape matters.
        """
        if self._usual is None:
            ordered = sorted(self.kept, key=itemgetter(1))
            limit = STALL * ordered[(len(ordered) - 1) // 2][1]
            if ordered[-1][1] > limit:
                slow = [number for _, seconds, number in ordered if seconds > limit]
                if max(slow) - min(slow) < RECENT:
                    del ordered[-len(slow) :]
            self._usual = _Usual.of(ordered, expected)
        return self._usual

    def changed_after(self, expected: Callable[[int], float]) -> int:
        """Return the number of the batch before the first run after a change, 0 without one.

        The last runs show a change if all but one contradict the earlier ones: are slower, or faster.
        ``expected`` gives the time of a size; only its shape matters, to compare runs of different sizes.
        """
        if len(self.kept) < 3 * RECENT:
            return 0
        relative = _relative(self.kept, expected)
        # Tried once for so many batches: those between may be from after the change too.
        before, recent = sorted(relative[: -2 * RECENT]), sorted(relative[-RECENT:])
        usual, now = before[len(before) // 2], recent[RECENT // 2]
        slower = now > DRIFT * usual and recent[1] > before[len(before) * 7 // 8]
        faster = now * DRIFT < usual and recent[-2] < before[len(before) // 8]
        if not (slower or faster):
            return 0
        # The change may be older than the runs that show it, and other sizes may have run since.
        between = sqrt(usual * now)
        first = len(relative) - RECENT
        while first > 1 and (relative[first - 1] > between) is slower:
            first -= 1
        return self.kept[first][2] - 1

    def slow_until(self) -> int:
        """Return the number of the last slow run if a slow start or a stall has ended with it, else 0.

        Slow runs take more than ``STALL`` times the slowest of the last ``RECENT``. If they still came as
        often as before, so many others in a row would have a probability of exp(-``SURE``).
        """
        seconds = [run[1] for run in self.kept]
        limit = STALL * max(seconds[-RECENT:])
        if max(seconds) <= limit:
            return 0
        slow = [index for index, each in enumerate(seconds) if each > limit]
        if (len(seconds) - 1 - slow[-1]) * len(slow) < SURE * (slow[-1] + 1):
            return 0
        return self.kept[slow[-1]][2]

    def restart(self, since: int, changed: "_Samples", before: tuple[int, float]) -> None:
        """Drop runs up to batch ``since``; if none would be left, keep all, which follow ``changed``.

        ``before`` is the usual run of ``changed`` before its change.
        """
        if self.last > since:
            self._usual = None
            while self.kept[0][2] <= since:
                self.kept.popleft()
        elif self._follows is None:
            self._follows = _Follows(changed, before, _middle(self.kept))

    def follow(self, slope: float) -> None:
        """Set the factor of an unused size to the present one of the size that it follows."""
        if self._follows is None:
            return
        changed, (size, seconds), (own_size, measured) = self._follows
        now_size, now_seconds = _middle(changed.kept)
        ratio = now_seconds / max(LEAST, seconds + slope * (now_size - size))
        # Faster only if the kept runs were slow themselves: as long as their requests took before the change.
        if STALL * ratio > 1.0 or measured < seconds * min(1.0, own_size / size):
            ratio = max(1.0, ratio)
        self.factor = ratio


class _Usual(NamedTuple):
    """The usual runs of one group of sizes."""

    size: float
    """Mean; likewise ``seconds``."""
    seconds: float
    deviations: list[float]
    """Each run as a multiple of the mean of its size; ascending."""
    spread: float
    """Their mean distance from 1."""

    @classmethod
    def of(cls, runs: Sequence[tuple[int, float, int]], expected: Callable[[int], float]) -> "_Usual":
        """Return the statistics of ``runs``; ``expected`` is correct up to a factor."""
        count = len(runs)
        ratios = _relative(runs, expected)
        mean = sum(ratios) / count
        deviations = sorted([ratio / mean for ratio in ratios])
        spread = sum([abs(deviation - 1.0) for deviation in deviations]) / count or LEAST
        return cls(
            sum([run[0] for run in runs]) / count, sum([run[1] for run in runs]) / count, deviations, spread
        )


class _Follows(NamedTuple):
    """The size that showed a change, its usual run before, and that of the follower."""

    changed: _Samples
    before: tuple[int, float]
    own: tuple[int, float]


class _Curve(NamedTuple):
    """Seconds by batch size: flat before the first size, linear between, ``slope`` beyond the last."""

    sizes: Sequence[float]
    seconds: Sequence[float]
    slope: float

    def at(self, size: float) -> float:
        """Return the value for ``size``."""
        sizes, seconds, slope = self
        index = bisect_left(sizes, size)
        if index == 0:
            return seconds[0]
        before, low = sizes[index - 1], seconds[index - 1]
        if index == len(sizes):
            return low + slope * (size - before)
        return low + (seconds[index] - low) * ((size - before) / (sizes[index] - before))

    def largest_within(self, limit: float, longest: int) -> int:
        """Return the largest size up to ``longest`` with a value of at most ``limit``; 0 if there is none."""
        return bisect_right(range(1, longest + 1), limit, key=self.at)


class LatencyModel:
    """Online estimate of l(b) for 1 <= b <= ``max_batch_size``, from (size, seconds) of finished batches."""

    def __init__(self, max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self._samples: dict[int, _Samples] = {}
        self._observed = 0
        self._stale = 0
        self._upper = self._mean = self._cautious = _Curve((1.0,), (0.0,), 0.0)
        # Up to the next try only: max_batch_size may be far beyond the sizes in use.
        self._longest = 1
        self._largest = 0
        self._best = 1

    @property
    def learned(self) -> bool:
        """Whether any batch has been observed."""
        return self._observed > 0

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a batch of ``size`` requests that took a worker ``seconds``."""
        samples = self._samples.setdefault(_group(size), _Samples())
        self._observed += 1
        rare = not samples.kept or self._observed - samples.last >= AGAIN_EVERY
        samples.add(size, max(LEAST, seconds), self._observed)
        self._largest = max(self._largest, size)
        if self._observed % RECENT == 0:
            since = samples.slow_until() or samples.changed_after(self.predict_mean)
            if since:
                self._restart(samples, since)
                self._refit()
                return
        self._stale += 1
        if rare or self._observed <= WINDOW or self._stale >= REFIT_EVERY or len(samples.kept) <= TRIES:
            self._refit()

    def predict(self, size: int) -> float:
        """Return the upper quantile of the seconds for ``size`` requests; 0 before the first sample."""
        return self._upper.at(min(size, self.max_batch_size))

    def predict_mean(self, size: float) -> float:
        """Return the mean seconds for ``size`` requests; 0 before the first sample."""
        return self._mean.at(min(size, self.max_batch_size))

    def predict_cautious(self, size: float) -> float:
        """Return mean seconds that are probably not too low; 0 before the first sample."""
        return self._cautious.at(min(size, self.max_batch_size))

    def largest_within(self, seconds: float) -> int:
        """Return the largest batch whose upper quantile is at most ``seconds``; 0 if no request fits.

        Never more than twice the largest known size, which is the next try.
        """
        return self._upper.largest_within(seconds, self._longest)

    def knows(self, size: int) -> bool:
        """Return whether batches of at most this size have run; below them ``predict_mean`` extrapolates."""
        return self.learned and size >= self._mean.sizes[0]

    def untried(self, size: int) -> bool:
        """Return whether the time of ``size`` is a guess: few batches but of one other size have run.

        With two sizes known, or several that have run once, the line through them shows whether ``size`` can
        be on time.
        """
        samples = self._samples.get(_group(size))
        if samples is not None and len(samples.kept) >= TRIES:
            return False
        return sum(min(TRIES, len(each.kept)) for each in self._samples.values()) < 2 * TRIES

    @property
    def runs(self) -> int:
        """Batches that were observed."""
        return self._observed

    @property
    def best_size(self) -> int:
        """The power of two with the best throughput, or twice that while the double is unknown.

        At most ``max_batch_size`` and twice the largest known size; 1 before the first sample.
        """
        return self._best

    @property
    def deviations(self) -> Sequence[float]:
        """Times of the usual runs as multiples of the mean of their size, ascending; at least one."""
        usual = [samples.usual(self._mean.at) for samples in self._samples.values()]
        return sorted([deviation for each in usual for deviation in each.deviations]) or [1.0]

    def sizes_learned(self) -> list[int]:
        """The powers of two for which there are samples, ascending."""
        return sorted({min(_power(group), self.max_batch_size) for group in self._samples})

    def _restart(self, samples: _Samples, since: int) -> None:
        """Drop the runs up to batch ``since``, after which ``samples`` show another speed."""
        before = _middle(run for run in samples.kept if run[2] <= since)
        for each in self._samples.values():
            each.restart(since, samples, before)

    def _refit(self) -> None:
        self._stale = 0
        known = [samples for _, samples in sorted(self._samples.items())]
        for samples in known:
            samples.follow(self._mean.slope)
        usual = [samples.usual(self._mean.at) for samples in known]
        sizes = [each.size for each in usual]
        spreads, above = _spreads(usual)
        self._longest = min(self.max_batch_size, 2 * self._largest)
        self._mean = _curve(sizes, [each.seconds for each in usual], known)
        upper = [mean * (1.0 + above * of) for mean, of in zip(self._mean.seconds, spreads, strict=True)]
        self._upper = _Curve(sizes, _agree(sizes, upper, known), self._mean.slope)
        errors = [of / sqrt(len(each.deviations)) for of, each in zip(spreads, usual, strict=True)]
        cautious = [
            each.seconds * samples.factor * (1.0 + CAUTION * of)
            for each, samples, of in zip(usual, known, errors, strict=True)
        ]
        self._cautious = _curve(sizes, cautious, known, hopeful=False)
        self._best = self._find_best()

    def _find_best(self) -> int:
        # Powers of two only: among all sizes, ties would let the best size creep down.
        # The runs of a power may all be of smaller sizes: what these reached counts too.
        rates: dict[int, float] = {}
        groups = sorted(self._samples)
        for group, size, seconds in zip(groups, self._mean.sizes, self._mean.seconds, strict=True):
            power = min(_power(group), self.max_batch_size)
            rates[power] = max(rates.get(power, power / self.predict_mean(power)), size / seconds)
        enough = max(rates.values()) * (1 - TIE)
        best = min(size for size, rate in rates.items() if rate >= enough)
        doubles = [of for group, of in self._samples.items() if best < _power(group) <= 2 * best]
        runs = sum(len(of.kept) for of in doubles if not of.follows)
        if runs < TRIES or self._observed - max(of.last for of in doubles) >= _again_after(runs):
            return min(2 * best, 2 * self._largest, self.max_batch_size)
        return best


def _spreads(usual: Sequence[_Usual]) -> tuple[list[float], float]:
    """Return the spread of each size, and the distance of the upper quantile above a mean in spreads.

    The k-th of n runs shows the quantile k / (n + 1); with too few runs it is the slowest.
    """
    several = [each for each in usual if len(each.deviations) > 1]
    distances = sorted([(times - 1.0) / each.spread for each in several for times in each.deviations])
    runs = len(distances)
    mean = sum(len(each.deviations) * each.spread for each in several) / max(1, runs)
    spreads = [each.spread if len(each.deviations) >= TRIES else max(each.spread, mean) for each in usual]
    return spreads, max(0.0, distances[min(ceil(QUANTILE * (runs + 1)), runs) - 1]) if runs else 0.0


def _curve(
    sizes: Sequence[float], seconds: Sequence[float], known: Sequence[_Samples], *, hopeful: bool = True
) -> _Curve:
    """Return the curve through ``seconds``, with the contradictions of ``known`` resolved (``_agree``)."""
    agreed = _agree(sizes, seconds, known, hopeful=hopeful)
    return _Curve(sizes, agreed, _slope(sizes, agreed, [len(samples.kept) for samples in known]))


def _relative(runs: Iterable[tuple[int, float, int]], expected: Callable[[int], float]) -> list[float]:
    """Return the seconds of ``runs`` as multiples of the expected time of their sizes."""
    # A few sizes, many runs of each.
    usually: dict[int, float] = {}
    for size, _, _ in runs:
        if size not in usually:
            usually[size] = max(LEAST, expected(size))
    return [seconds / usually[size] for size, seconds, _ in runs]


def _middle(runs: Iterable[tuple[int, float, int]]) -> tuple[int, float]:
    """Return size and seconds of the run with the median time, which shows a change completely."""
    ordered = sorted(runs, key=itemgetter(1))
    return ordered[len(ordered) // 2][:2]


def _again_after(runs: int) -> int:
    """Return the batches without it after which a size that has run so often is tried again."""
    return AGAIN_EVERY * max(TRIES, runs) // TRIES


def _group(size: int) -> int:
    """Return the group of a size: two for each power of two, up to three quarters of it and up to all of it.

    With one group, batches of three would hide what was known of four.
    """
    power = (size - 1).bit_length()
    return 2 * power - (4 * size <= 3 << power)


def _power(group: int) -> int:
    """Return the smallest power of two that is at least the sizes of a group."""
    return 1 << ((group + 1) // 2)


def _agree(
    sizes: Sequence[float], seconds: Sequence[float], known: Sequence[_Samples], *, hopeful: bool = True
) -> list[float]:
    """Return ``seconds`` made non-decreasing; of two contradicting sizes the one that ran later counts.

    A size with a single run costs at most as much as its requests at the next smaller size: a batch is seldom
    slower than its parts, and first runs are often slow. ``hopeful``: likewise one without a run for long,
    since a size that seems too slow for any deadline would not run again; the more runs, the longer.
    """
    # Compares with all larger sizes: the next one may have run before both.
    ran = [samples.last for samples in known]
    agreed = [
        min([seconds[n] for n in range(index, len(known)) if ran[n] >= last])
        for index, last in enumerate(ran)
    ]
    for index in range(1, len(agreed)):
        runs = len(known[index].kept)
        if runs == 1 or (hopeful and ran[index] + _again_after(runs) < ran[index - 1]):
            agreed[index] = min(agreed[index], agreed[index - 1] * sizes[index] / sizes[index - 1])
        agreed[index] = max(agreed[index], agreed[index - 1])
    return agreed


def _slope(sizes: Sequence[float], seconds: Sequence[float], runs: Sequence[int]) -> float:
    """Return the seconds per further request, by least squares; proportional with only one point.

    The weight of a size is its square times its ``runs``: the end of the curve is extrapolated, and a single
    run of the largest size must not turn it.
    """
    if len(sizes) == 1:
        return seconds[0] / sizes[0]
    weights: list[float] = [size * size * number for size, number in zip(sizes, runs, strict=True)]
    total: float = sum(weights)
    mean_x = sum(map(mul, weights, sizes)) / total
    mean_y = sum(map(mul, weights, seconds)) / total
    spread = sum(weight * (x - mean_x) ** 2 for weight, x in zip(weights, sizes, strict=True))
    rise = sum(
        weight * (x - mean_x) * (y - mean_y) for weight, x, y in zip(weights, sizes, seconds, strict=True)
    )
    return max(0.0, float(rise / spread))
