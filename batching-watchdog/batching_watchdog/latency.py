"""What a batch costs: the learnt service time l(b). [P]

Owns the samples and the curve through them. The policy asks it how many requests fit into the time that is
left; ``metrics`` exports its capacity for the autoscaler. Next step of a request: ``policy``.

The law (Clipper, NSDI'17, section 4.3, and Clockwork, OSDI'20, keep the same two facts per batch size): an
upper quantile decides whether a deadline can be met, the mean decides what throughput a size gives. Both are
kept per power of two, since l(b) is smooth, and interpolated between; beyond what was seen the curve is
continued as a line, because l(b) of one-shot models is close to affine.
"""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from typing import Final

QUANTILE: Final = 0.95
"""Of the service times of one size: what the deadline test uses."""
WINDOW: Final = 64
"""Samples kept per size: old ones are forgotten, so a slowly changing model is followed."""
TRUSTED: Final = 8
"""With fewer samples of a size than this, one slow warm-up run must not condemn it: see ``_points``."""
FORGET_EVERY: Final = 64
"""After this many batches the sizes not in use lose their oldest sample, so that they are tried again."""
TIE: Final = 0.03
"""Sizes whose throughput is within this share of the best are as good; the smallest adds least latency."""


@dataclass(slots=True)
class _Samples:
    """Recent batches whose sizes share one power of two."""

    sizes: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW))
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def upper(self) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(QUANTILE * len(ordered)))]


class LatencyModel:
    """Online estimate of l(b) for 1 <= b <= ``max_batch_size``, from (size, seconds) of finished batches."""

    def __init__(self, max_batch_size: int) -> None:
        self._max = max_batch_size
        self._samples: dict[int, _Samples] = {}
        self._observed = 0
        self._stale = 0
        self._upper: list[float] = [0.0] * max_batch_size
        self._mean: list[float] = [0.0] * max_batch_size
        self._largest = 0
        self._best = max_batch_size

    @property
    def learnt(self) -> bool:
        """Whether any batch has been observed."""
        return self._observed > 0

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a batch of ``size`` requests that took a worker ``seconds``."""
        samples = self._samples.setdefault((size - 1).bit_length(), _Samples())
        samples.sizes.append(size)
        samples.seconds.append(seconds)
        self._observed += 1
        self._largest = max(self._largest, size)
        if self._observed % FORGET_EVERY == 0:
            for other in self._samples.values():
                if other is not samples and len(other.sizes) > 1:
                    other.sizes.popleft()
                    other.seconds.popleft()
        # Refitting after every batch would cost more than it teaches once there are many.
        self._stale += 1
        if self._observed <= WINDOW or self._stale >= TRUSTED:
            self._refit()

    def predict(self, size: int) -> float:
        """Upper quantile of the service time of ``size`` requests, in seconds; 0 while nothing is learnt."""
        return self._upper[min(size, self._max) - 1]

    def predict_mean(self, size: int) -> float:
        """Mean service time of ``size`` requests, in seconds; 0 while nothing is learnt."""
        return self._mean[min(size, self._max) - 1]

    def largest_within(self, seconds: float) -> int:
        """The largest batch whose upper quantile is at most ``seconds``; 0 if not even one request fits."""
        return bisect_right(self._upper, seconds)

    @property
    def best_size(self) -> int:
        """The size with the best throughput, never beyond twice the largest seen: growth is step by step."""
        return max(1, min(self._best, 2 * self._largest, self._max))

    def capacity(self, workers: int, slo_latency: float) -> float | None:
        """Requests per second that ``workers`` sustain within ``slo_latency`` (design.md section 4).

        A request waits at most for the batch ahead of it, shared between the workers, and then for its own:
        (1 + 1/workers) x l_q(b) <= slo_latency. None while nothing is learnt; 0 if no size qualifies.
        """
        if not self.learnt:
            return None
        fits = self.largest_within(slo_latency / (1 + 1 / workers))
        rates = [size / self._mean[size - 1] for size in range(1, fits + 1) if self._mean[size - 1] > 0]
        return workers * max(rates, default=0.0)

    def sizes_learnt(self) -> list[int]:
        """The powers of two for which there are samples, ascending."""
        return sorted(min(2**exponent, self._max) for exponent in self._samples)

    def _points(self) -> list[tuple[float, float, float]]:
        """(mean size, upper quantile, mean seconds) per power of two, ascending and non-decreasing.

        A size with few samples is bounded by what the next smaller one costs in proportion (a batch is
        seldom dearer than its requests one by one); so an unlucky first run is corrected by trying again.
        """
        points: list[tuple[float, float, float]] = []
        for _, samples in sorted(self._samples.items()):
            size = sum(samples.sizes) / len(samples.sizes)
            upper, mean = samples.upper(), sum(samples.seconds) / len(samples.seconds)
            if points:
                below = points[-1]
                if len(samples.seconds) < TRUSTED:
                    upper = min(upper, below[1] * size / below[0])
                    mean = min(mean, below[2] * size / below[0])
                upper, mean = max(upper, below[1]), max(mean, below[2])
            points.append((size, upper, max(mean, 1e-9)))
        return points

    def _refit(self) -> None:
        self._stale = 0
        points = self._points()
        slope = _slope([(size, mean) for size, _, mean in points])
        self._upper = _curve([(size, upper) for size, upper, _ in points], slope, self._max)
        self._mean = _curve([(size, mean) for size, _, mean in points], slope, self._max)
        rates = [(index + 1) / mean for index, mean in enumerate(self._mean)]
        enough = max(rates) * (1 - TIE)
        self._best = next(index + 1 for index, rate in enumerate(rates) if rate >= enough)


def _slope(points: list[tuple[float, float]]) -> float:
    """Seconds per further request: least squares through ``points``; proportional if there is only one."""
    if len(points) == 1:
        return points[0][1] / points[0][0]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return max(0.0, sum((x - mean_x) * (y - mean_y) for x, y in points) / spread)


def _curve(points: list[tuple[float, float]], slope: float, length: int) -> list[float]:
    """Values at 1..``length``: flat before the first point, linear between, ``slope`` beyond the last."""
    values: list[float] = []
    index = 0
    for size in range(1, length + 1):
        while index < len(points) and points[index][0] < size:
            index += 1
        if index == 0:
            values.append(points[0][1])
        elif index == len(points):
            last_x, last_y = points[-1]
            values.append(last_y + slope * (size - last_x))
        else:
            (x0, y0), (x1, y1) = points[index - 1], points[index]
            values.append(y0 + (y1 - y0) * (size - x0) / (x1 - x0))
    return values
