"""Laws of the batch size as they were measured: seconds by size, through items per second."""

from collections.abc import Callable
from itertools import pairwise

Law = Callable[[int], float]


def through(rates: dict[int, float]) -> Law:
    """The law that gives these items per second at these sizes, as a line between them."""
    sizes = sorted(rates)

    def law(size: int) -> float:
        for low, high in pairwise(sizes):
            if size <= high:
                at_low, at_high = low / rates[low], high / rates[high]
                return at_low + (at_high - at_low) * (size - low) / (high - low)
        return size / rates[sizes[-1]]

    return law


VISION = through({1: 168, 4: 286, 8: 181, 16: 196, 32: 175})
VISION_TUNED = through({1: 164, 4: 276, 8: 308, 16: 264, 32: 232, 64: 232})
TEXT = through({1: 4258, 4: 10341, 8: 13558, 16: 16131, 32: 17614, 64: 12152, 128: 11824})
TABULAR = through({1: 1602, 4: 2332, 8: 3779, 16: 5196, 32: 6606, 64: 7759, 128: 8100})
